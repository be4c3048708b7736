"""Differential evolution."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Loss, Search


class EvolutionSearch(Search):
    """Differential evolution, current-to-pbest/1/bin, with factors that adapt themselves member by member.

    All basins are moved by the same random numbers, so that a basin does not depend on its neighbours. It takes no
    gradient, and is an independent check of the searches that do. Sources: Zhang and Sanderson (2009, IEEE
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

    def __init__(self, objective: Loss, points: Tensor, n_steps: int, seed: int):
        super().__init__(objective, points, n_steps, patience=-(-n_steps // 2))
        self.random = torch.Generator().manual_seed(seed)
        self.factor = points.new_full(points.shape[1:], 0.5)
        self.crossover = points.new_full(points.shape[1:], 0.9)

    @property
    def evaluations_per_step(self) -> int:
        return self.best.shape[2]

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, dtype=self.best.dtype)

    def _integers(self, least: int, most: int, size: int) -> Tensor:
        return torch.randint(least, most, (1, size), generator=self.random).expand(self.best.shape[1], size)

    @torch.no_grad()
    def step(self) -> None:
        if self.done == 0:
            self.best_loss = self.objective(self.best)
            return self._count(self.n_steps)
        n_parameters, _, size = self.best.shape
        factor = torch.where(self._uniform(size) < 0.1, 0.1 + 0.9 * self._uniform(size), self.factor)
        crossover = torch.where(self._uniform(size) < 0.1, self._uniform(size), self.crossover)

        def members(index: Tensor) -> Tensor:
            return self.best.gather(2, index.expand(n_parameters, -1, -1))

        leaders = self.best_loss.argsort(1)[:, : max(2, round(self.GREEDY * size))]
        leader = leaders.gather(1, self._integers(0, leaders.shape[1], size))
        first = self._integers(1, size, size)  # distances round the ring, never 0: a member is moved by others
        second = self._integers(1, size - 1, size)
        second = second + (second >= first)
        here = torch.arange(size)
        trial = self.best + factor * (
            members(leader) - self.best + members((here + first) % size) - members((here + second) % size)
        )
        trial = torch.where(trial < 0, self.best / 2, torch.where(trial > 1, (1 + self.best) / 2, trial))
        crossed = self._uniform(n_parameters, 1, size) < crossover
        crossed |= torch.arange(n_parameters)[:, None, None] == self._integers(0, n_parameters, size)
        trial = torch.where(crossed, trial, self.best)

        loss = self.objective(trial)
        better = loss <= self.best_loss
        self._keep(trial, loss, better)
        self.factor = torch.where(better, factor, self.factor)
        self.crossover = torch.where(better, crossover, self.crossover)
        self._count(self.n_steps)

    _KEPT = (*Search._KEPT, "factor", "crossover")

    def state_dict(self) -> dict:
        return super().state_dict() | dict(random=self.random.get_state())

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.random.set_state(state["random"])
