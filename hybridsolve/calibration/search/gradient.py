"""Gradient descent from many starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Loss, Search


class GradientSearch(Search):
    """Adam on logits, so that the bounds hold by themselves, with a rate that falls to zero along a cosine.

    Parameters
    ----------
    objective : callable
        Differentiable.
    points : Tensor ``[P, B, S]``
        Where the starts begin.
    n_steps : int
    rate : float
        Learning rate at the start, in logits a step.
    """

    def __init__(self, objective: Loss, points: Tensor, n_steps: int, rate: float = 0.15):
        super().__init__(objective, points, n_steps, patience=-(-n_steps // 2))  # losses fall again as the rate does
        self.logits = points.logit().requires_grad_()
        self.optimizer = torch.optim.Adam([self.logits], lr=rate, betas=(0.9, 0.99))
        cosine = lambda i: 0.5 * (1 + math.cos(math.pi * i / n_steps))  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, cosine)

    @property
    def evaluations_per_step(self) -> int:
        return self.logits.shape[2]

    def step(self) -> None:
        points = self.logits.sigmoid()
        loss = self.objective(points)
        self.optimizer.zero_grad()
        loss.sum().backward()
        self._keep(points.detach(), loss.detach(), loss.detach() < self.best_loss)
        self.optimizer.step()
        self.schedule.step()
        self._count(self.n_steps)

    def state_dict(self) -> dict:
        return super().state_dict() | dict(
            logits=self.logits.detach(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
        )

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
