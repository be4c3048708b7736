"""Searches for the best parameters in the unit cube, every basin and start a problem of its own, all in lock-step.

An objective maps a point ``[P, B, S]`` (parameters x basins x starts, each in 0..1) to a loss ``[B, S]``. A search
advances by `step()`, remembers the best point each start has met, and can be saved after any step and restored to go on
to the same bits: `state_dict()`, `load_state_dict()`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine


def starting_points(n_parameters: int, n_basins: int, n_starts: int, seed: int, dtype=torch.float32) -> Tensor:
    """Scrambled Sobol points ``[P, B, S]``, the same for every basin: its result does not depend on its neighbours."""
    points = SobolEngine(n_parameters, scramble=True, seed=seed).draw(n_starts, dtype=torch.float64)
    return points.clamp(0.02, 0.98).to(dtype).T[:, None, :].repeat(1, n_basins, 1)


class GradientSearch:
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

    def __init__(self, objective, points: Tensor, n_steps: int, rate: float = 0.15):
        self.objective, self.n_steps, self.done = objective, n_steps, 0
        self.logits = points.logit().requires_grad_()
        self.optimizer = torch.optim.Adam([self.logits], lr=rate, betas=(0.9, 0.99))
        cosine = lambda i: 0.5 * (1 + math.cos(math.pi * i / n_steps))  # noqa: E731
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, cosine)
        self.best = points.clone()
        self.best_loss = points.new_full(points.shape[1:], torch.inf)

    @property
    def evaluations_per_step(self) -> int:
        return self.logits.shape[2]

    def step(self) -> None:
        points = self.logits.sigmoid()
        loss = self.objective(points)
        self.optimizer.zero_grad()
        loss.sum().backward()
        better = loss.detach() < self.best_loss
        self.best = torch.where(better, points.detach(), self.best)
        self.best_loss = torch.where(better, loss.detach(), self.best_loss)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1

    def state_dict(self) -> dict:
        return dict(
            done=self.done,
            logits=self.logits.detach(),
            best=self.best,
            best_loss=self.best_loss,
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
        )

    def load_state_dict(self, state: dict) -> None:
        self.done, self.best, self.best_loss = state["done"], state["best"], state["best_loss"]
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


class EvolutionSearch:
    """Differential evolution, current-to-pbest/1/bin, with factors that adapt themselves member by member.

    No gradient is asked for: an independent check of the gradient search. Sources: Zhang and Sanderson (2009, IEEE
    Trans. Evol. Comput. 13:945) for the mutation, Brest et al. (2006, same journal 10:646) for the adaptation.

    Parameters
    ----------
    objective : callable
    points : Tensor ``[P, B, S]``
        The first population, S members for each basin.
    n_steps : int
        Generations.
    seed : int
    """

    GREEDY = 0.1  # share of the population from which a leader is drawn

    def __init__(self, objective, points: Tensor, n_steps: int, seed: int):
        self.objective, self.n_steps, self.done = objective, n_steps, 0
        self.random = torch.Generator().manual_seed(seed)
        self.best = points.clone()
        self.best_loss = points.new_full(points.shape[1:], torch.inf)
        self.factor = points.new_full(points.shape[1:], 0.5)
        self.crossover = points.new_full(points.shape[1:], 0.9)

    @property
    def evaluations_per_step(self) -> int:
        return self.best.shape[2]

    def _uniform(self, shape) -> Tensor:
        return torch.rand(shape, generator=self.random, dtype=self.best.dtype)

    @torch.no_grad()
    def step(self) -> None:
        if self.done == 0:
            self.best_loss = self.objective(self.best)
            self.done += 1
            return
        n_parameters, n_basins, size = self.best.shape
        shape = (n_basins, size)
        factor = torch.where(self._uniform(shape) < 0.1, 0.1 + 0.9 * self._uniform(shape), self.factor)
        crossover = torch.where(self._uniform(shape) < 0.1, self._uniform(shape), self.crossover)

        def members(index):
            return self.best.gather(2, index.expand(n_parameters, -1, -1))

        leaders = self.best_loss.argsort(1)[:, : max(2, round(self.GREEDY * size))]
        leader = leaders.gather(1, torch.randint(leaders.shape[1], shape, generator=self.random))
        first = torch.randint(1, size, shape, generator=self.random)  # distances round the ring: never oneself
        second = torch.randint(1, size - 1, shape, generator=self.random)
        second = second + (second >= first)
        here = torch.arange(size).expand(shape)
        trial = self.best + factor * (
            members(leader) - self.best + members((here + first) % size) - members((here + second) % size)
        )
        trial = torch.where(trial < 0, self.best / 2, torch.where(trial > 1, (1 + self.best) / 2, trial))
        crossed = self._uniform((n_parameters, *shape)) < crossover
        crossed |= torch.arange(n_parameters)[:, None, None] == torch.randint(
            n_parameters, shape, generator=self.random
        )
        trial = torch.where(crossed, trial, self.best)

        loss = self.objective(trial)
        better = loss <= self.best_loss
        self.best = torch.where(better, trial, self.best)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.factor = torch.where(better, factor, self.factor)
        self.crossover = torch.where(better, crossover, self.crossover)
        self.done += 1

    def state_dict(self) -> dict:
        return dict(
            done=self.done,
            best=self.best,
            best_loss=self.best_loss,
            factor=self.factor,
            crossover=self.crossover,
            random=self.random.get_state(),
        )

    def load_state_dict(self, state: dict) -> None:
        for name in ("done", "best", "best_loss", "factor", "crossover"):
            setattr(self, name, state[name])
        self.random.set_state(state["random"])
