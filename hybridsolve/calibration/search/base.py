"""Searches for the best parameters in the unit cube, every basin and start a problem of its own, all in lock-step.

An objective maps a point ``[P, B, S]`` (parameters x basins x starts, each in 0..1) to a loss ``[B, S]``. A search
advances by `step()` until `done` is `n_steps`, remembers the best point each start has met, and can be saved after any
step and restored to go on to the same bits: `state_dict()`, `load_state_dict()`.

A basin has converged when its best loss has not fallen by `LEAST_IMPROVEMENT` of itself for `patience` steps. From then
on its points are kept as they are, whatever its neighbours do. A search ends when every basin has converged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

Loss = Callable[[Tensor], Tensor]  # an objective
LEAST_IMPROVEMENT = 1e-3  # share of a basin's best loss by which it must fall to count as improved


def starting_points(
    n_parameters: int, n_basins: int, n_starts: int, seed: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Scrambled Sobol points ``[P, B, S]``, the same for every basin: its result does not depend on its neighbours."""
    points = SobolEngine(n_parameters, scramble=True, seed=seed).draw(n_starts, dtype=torch.float64)
    return points.clamp(0.02, 0.98).to(dtype).T[:, None, :].repeat(1, n_basins, 1)


class Squares(Protocol):
    """An objective that has normal equations."""

    is_least_squares: bool

    def __call__(self, points: Tensor) -> Tensor: ...

    def cost(self, points: Tensor) -> Tensor: ...

    def normal_equations(self, points: Tensor, cells: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]: ...


class Search(ABC):
    """What the searches share: the best points, and for how many steps each basin has not improved."""

    def __init__(self, objective: Loss, points: Tensor, n_steps: int, patience: int):
        self.objective, self.n_steps, self.done, self.patience = objective, n_steps, 0, patience
        self.steps_taken = 0  # `done` jumps to the last step at an early end
        self.best = points.clone()
        self.best_loss = points.new_full(points.shape[1:], torch.inf)
        # A basin's best loss when it last improved, and the steps since then.
        self.improved_to = points.new_full(points.shape[1:2], torch.inf)
        self.stalled = torch.zeros(points.shape[1], dtype=torch.long)

    @property
    def converged(self) -> Tensor:
        """Which basins ``[B]`` have stopped improving."""
        return self.stalled >= self.patience

    @property
    @abstractmethod
    def evaluations_per_step(self) -> int:
        """Runs of every basin."""

    @abstractmethod
    def step(self) -> None:
        """Advance by one step."""

    def _keep(self, points: Tensor, loss: Tensor, better: Tensor) -> None:
        """Take over the better points of the basins that have not converged."""
        better = better & ~self.converged[:, None]
        self.best = torch.where(better, points, self.best)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def _count(self, last: int) -> None:
        """End a step; if every basin has converged, all steps up to `last`."""
        loss = self.best_loss.amin(1)
        improved = loss < (1 - LEAST_IMPROVEMENT) * self.improved_to
        self.improved_to = torch.where(improved, loss, self.improved_to)
        self.stalled = torch.where(improved, 0, self.stalled + 1)
        self.steps_taken += 1
        self.done = last if self.converged.all() else self.done + 1

    _KEPT: tuple[str, ...] = ("done", "steps_taken", "best", "best_loss", "improved_to", "stalled")

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state: dict) -> None:
        for name in self._KEPT:
            setattr(self, name, state[name])
