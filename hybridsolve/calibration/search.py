"""Searches for the best parameters in the unit cube, every basin and start a problem of its own, all in lock-step.

An objective maps a point ``[P, B, S]`` (parameters x basins x starts, each in 0..1) to a loss ``[B, S]``. A search
advances by `step()` until `done` is `n_steps`, remembers the best point each start has met, and can be saved after any
step and restored to go on to the same bits: `state_dict()`, `load_state_dict()`.

A basin is settled when its best loss has not fallen by `WON` of itself for `patience` steps. From then on its points
are kept as they are, whatever its neighbours do, and a search whose every basin is settled ends.
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


WON = 1e-3  # of a basin's best loss, by which it must fall to count as won


class _Search:
    """What the searches share: the best points, and how long each basin has not won."""

    def __init__(self, objective, points: Tensor, n_steps: int, patience: int):
        self.objective, self.n_steps, self.done, self.patience = objective, n_steps, 0, patience
        self.taken = 0  # steps, of which `done` counts those saved by an early end too
        self.best = points.clone()
        self.best_loss = points.new_full(points.shape[1:], torch.inf)
        self.mark = points.new_full(points.shape[1:2], torch.inf)  # a basin's best loss when it last won
        self.waited = torch.zeros(points.shape[1], dtype=torch.long)  # steps since then

    @property
    def settled(self) -> Tensor:
        """Which basins ``[B]`` have stopped winning."""
        return self.waited >= self.patience

    def _keep(self, points: Tensor, loss: Tensor, better: Tensor) -> None:
        """Take over the better points of the basins that are not settled."""
        better = better & ~self.settled[:, None]
        self.best = torch.where(better, points, self.best)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def _count(self, last: int) -> None:
        """End a step; if every basin is settled, all steps up to `last`."""
        loss = self.best_loss.amin(1)
        won = loss < (1 - WON) * self.mark
        self.mark = torch.where(won, loss, self.mark)
        self.waited = torch.where(won, 0, self.waited + 1)
        self.taken += 1
        self.done = last if self.settled.all() else self.done + 1

    _KEPT: tuple[str, ...] = ("done", "taken", "best", "best_loss", "mark", "waited")

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state: dict) -> None:
        for name in self._KEPT:
            setattr(self, name, state[name])


class GradientSearch(_Search):
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
        super().__init__(objective, points, n_steps, patience=-(-n_steps // 2))  # as the rate falls, losses do again
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


class LeastSquaresSearch(_Search):
    """Levenberg and Marquardt's method, within the bounds by projection, every start with a damping of its own.

    The damping falls where the linear model foretold the loss well and grows where it did not (Marquardt 1963, J. SIAM
    11:431). A parameter at a bound that the gradient pushes outward rests for the step. Where a start gets on no more,
    or at its pace would not reach the basin's best before the end, its best point is kept and its lane goes on from a
    new one; a basin is settled when all lanes have had time for that without winning. A loss that is no sum of squares
    is approached by NSE, and the last third of the steps descends on the loss itself by `GradientSearch`.

    Parameters
    ----------
    objective : callable
        With `normal_equations(points)`, and `is_least_squares`.
    points : Tensor ``[P, B, S]``
    n_steps : int
    seed : int
        Of the points that lanes go on from.
    """

    REACH = 0.3  # of a parameter's range, the longest step
    FLOOR = 1e-3  # of the largest curvature, below which a parameter's damping does not fall
    PACE = 4  # steps over which a start's pace is taken
    TOLERANCE = 3e-4  # of the loss won a step, below which a start no longer gets on
    PATIENCE = 25  # steps: a start mostly takes half of them, so that every lane has begun anew meanwhile

    def __init__(self, objective, points: Tensor, n_steps: int, seed: int):
        super().__init__(objective, points, n_steps, self.PATIENCE)
        self.seed = seed
        self.first_steps = n_steps if objective.is_least_squares else max(1, 2 * n_steps // 3)
        self.points = points.clone()
        self.matrix = self.gradient = self.loss = None  # at `points`; the matrix is J'J
        self.damping = points.new_full(points.shape[1:], 0.1)
        self.past = points.new_full((self.PACE, *points.shape[1:]), torch.inf)  # losses of the last steps
        self.begun = torch.ones(points.shape[1:], dtype=torch.long)  # how often each lane
        self.polish: GradientSearch | None = None

    @property
    def evaluations_per_step(self) -> int:
        return self.points.shape[2]

    @torch.no_grad()
    def step(self) -> None:
        if self.done >= self.first_steps:
            return self._descend()
        trial = self.points if self.done == 0 else self._trial()
        matrix, gradient, loss = self.objective.normal_equations(trial)
        if self.done == 0:
            self.matrix, self.gradient, self.loss = matrix, gradient, loss
        else:
            self._accept(trial, matrix, gradient, loss)
        self._keep(self.points, self.loss, self.loss < self.best_loss)
        self._count(self.first_steps)
        pace = (self.past[0] - self.loss) / self.PACE  # infinite for a start that has just begun
        self.past = torch.cat([self.past[1:], self.loss[None]])
        remaining = self.first_steps - self.done
        behind = self.loss - self.best_loss.amin(1, keepdim=True)
        if remaining > 2 * self.PACE:
            self._begin_anew((pace < self.TOLERANCE * self.loss) | (behind > pace * remaining))

    def _trial(self) -> Tensor:
        x, gradient = self.points.permute(1, 2, 0), self.gradient
        rests = ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))
        # Float64, and a damping that is never far below the largest: near rank deficiency the step stays short.
        a = self.matrix.double().masked_fill(rests.unsqueeze(-1) | rests.unsqueeze(-2), 0.0)
        curvature = self.matrix.double().diagonal(dim1=-2, dim2=-1)
        scale = torch.maximum(curvature, self.FLOOR * curvature.amax(-1, keepdim=True)).clamp(min=1e-30)
        a = a + torch.diag_embed(self.damping.double().unsqueeze(-1) * scale)
        step = -torch.linalg.solve_ex(a, gradient.double().masked_fill(rests, 0.0))[0].clamp(-self.REACH, self.REACH)
        step = torch.where(step.isfinite(), step, 0.0)  # one basin in trouble must not stop the others
        return (x + step.to(x.dtype)).clamp(0, 1).permute(2, 0, 1).contiguous()

    def _accept(self, trial, matrix, gradient, loss) -> None:
        step = (trial - self.points).permute(1, 2, 0).double()
        linear = 2 * (self.gradient * step).sum(-1) + torch.einsum("bsi,bsij,bsj->bs", step, self.matrix.double(), step)
        won = self.loss - loss
        as_foretold = won / (-linear).clamp(min=1e-30)
        better = won > 0  # false where the loss is no number
        factor = torch.where(as_foretold > 0.75, 0.3, torch.where(as_foretold < 0.25, 2.0, 1.0))
        self.damping = (self.damping * torch.where(better, factor, 4.0)).clamp(1e-6, 1e6).to(self.damping.dtype)
        self.points = torch.where(better, trial, self.points)
        self.loss = torch.where(better, loss, self.loss)
        self.gradient = torch.where(better.unsqueeze(-1), gradient, self.gradient)
        self.matrix = torch.where(better[..., None, None], matrix, self.matrix)

    def _begin_anew(self, over: Tensor) -> None:
        if not over.any():
            return
        n_parameters, n_basins, n_starts = self.points.shape
        # A lane's points follow from how often it has begun: what a basin meets does not depend on its neighbours.
        at = self.begun * n_starts + torch.arange(n_starts)
        new = starting_points(n_parameters, 1, int(at.max()) + 1, self.seed, self.points.dtype)[:, 0, at]
        self.begun = self.begun + over
        self.points = torch.where(over, new, self.points)
        self.loss = torch.where(over, torch.inf, self.loss)  # whatever comes is accepted
        self.gradient = torch.where(over.unsqueeze(-1), 0.0, self.gradient)
        identity = torch.eye(n_parameters, dtype=self.matrix.dtype)
        self.matrix = torch.where(over[..., None, None], identity, self.matrix)
        self.damping = torch.where(over, 0.1, self.damping)
        self.past = torch.where(over, torch.inf, self.past)

    def _descend(self) -> None:
        if self.polish is None:
            self.polish = GradientSearch(
                self.objective, self.best.clamp(1e-3, 1 - 1e-3), self.n_steps - self.first_steps, rate=0.05
            )
        with torch.enable_grad():
            self.polish.step()
        self.best, self.best_loss = self.polish.best, self.polish.best_loss
        self.taken += 1
        self.done = self.first_steps + self.polish.done

    _KEPT = (*_Search._KEPT, "points", "matrix", "gradient", "loss", "damping", "past", "begun")

    def state_dict(self) -> dict:
        return super().state_dict() | dict(polish=self.polish and self.polish.state_dict())

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        if state["polish"]:
            self.polish = GradientSearch(self.objective, self.best, self.n_steps - self.first_steps, rate=0.05)
            self.polish.load_state_dict(state["polish"])


class EvolutionSearch(_Search):
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
        super().__init__(objective, points, n_steps, patience=-(-n_steps // 2))
        self.random = torch.Generator().manual_seed(seed)
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
            return self._count(self.n_steps)
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
        self._keep(trial, loss, better)
        self.factor = torch.where(better, factor, self.factor)
        self.crossover = torch.where(better, crossover, self.crossover)
        self._count(self.n_steps)

    _KEPT = (*_Search._KEPT, "factor", "crossover")

    def state_dict(self) -> dict:
        return super().state_dict() | dict(random=self.random.get_state())

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.random.set_state(state["random"])
