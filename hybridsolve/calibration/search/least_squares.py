"""Levenberg and Marquardt's method from many starts."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Search, Squares, starting_points
from .gradient import GradientSearch


class LeastSquaresSearch(Search):
    """Levenberg and Marquardt's method, within the bounds by projection, every start with a damping of its own.

    The damping falls where the linear model predicts the loss well and grows where it does not (Marquardt 1963, J. SIAM
    11:431). A trial is run without derivatives first, and with them where it is better. A parameter at a bound that the
    gradient pushes outward is held for the step. A start that no longer improves, or that at its rate would not reach
    the basin's best before the end, restarts from a new point; its best point is kept. A basin has converged when all
    its starts have had time for that without improvement. A loss that is no sum of squares is approximated by one that
    is, and the last third of the steps descends on the loss itself by `GradientSearch`.

    Parameters
    ----------
    objective : callable
        With `cost(points)`, `normal_equations(points, cells)`, and `is_least_squares`.
    points : Tensor ``[P, B, S]``
    n_steps : int
    seed : int
        Of the points from which starts restart.
    """

    objective: Squares
    LONGEST_STEP = 0.3  # share of a parameter's range
    FLOOR = 1e-3  # share of the largest curvature below which a parameter's damping does not fall
    WINDOW = 4  # steps over which a start's rate of improvement is taken
    TOLERANCE = 3e-4  # share of the loss gained in a step, below which a start no longer improves
    PATIENCE = 25  # steps: most starts take half of them, so that each has restarted meanwhile

    def __init__(self, objective: Squares, points: Tensor, n_steps: int, seed: int):
        super().__init__(objective, points, n_steps, self.PATIENCE)
        self.seed = seed
        self.first_steps = n_steps if objective.is_least_squares else max(1, 2 * n_steps // 3)
        self.points = points.clone()
        self.matrix = self.gradient = self.loss = points.new_empty(0)  # at `points`, once met; the matrix is J'J
        self.damping = points.new_full(points.shape[1:], 0.1)
        self.recent = points.new_full((self.WINDOW, *points.shape[1:]), torch.inf)  # losses of the last steps
        self.visits = torch.ones(points.shape[1:], dtype=torch.long)  # points from which each start has run
        self.polish: GradientSearch | None = None

    @property
    def evaluations_per_step(self) -> int:
        return self.points.shape[2]

    @torch.no_grad()
    def step(self) -> None:
        if self.done >= self.first_steps:
            return self._descend()
        if self.done == 0:
            self.matrix, self.gradient, _ = self.objective.normal_equations(self.points)
            self.loss = self.objective.cost(self.points)
        else:
            trial = self._trial()
            self._accept(trial, self.objective.cost(trial))
        self._keep(self.points, self.loss, self.loss < self.best_loss)
        self._count(self.first_steps)
        rate = (self.recent[0] - self.loss) / self.WINDOW  # infinite for a start that has just restarted
        self.recent = torch.cat([self.recent[1:], self.loss[None]])
        remaining = self.first_steps - self.done
        behind = self.loss - self.best_loss.amin(1, keepdim=True)
        if remaining > 2 * self.WINDOW:
            self._restart((rate < self.TOLERANCE * self.loss) | (behind > rate * remaining))

    def _trial(self) -> Tensor:
        x, gradient = self.points.permute(1, 2, 0), self.gradient
        held = ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))
        # Float64, and a damping that is never far below the largest: near rank deficiency the step stays short.
        a = self.matrix.double().masked_fill(held.unsqueeze(-1) | held.unsqueeze(-2), 0.0)
        curvature = self.matrix.double().diagonal(dim1=-2, dim2=-1)
        scale = torch.maximum(curvature, self.FLOOR * curvature.amax(-1, keepdim=True)).clamp(min=1e-30)
        a = a + torch.diag_embed(self.damping.double().unsqueeze(-1) * scale)
        step = -torch.linalg.solve_ex(a, gradient.double().masked_fill(held, 0.0))[0].clamp(
            -self.LONGEST_STEP, self.LONGEST_STEP
        )
        step = torch.where(step.isfinite(), step, 0.0)  # one singular basin must not stop the others
        return (x + step.to(x.dtype)).clamp(0, 1).permute(2, 0, 1).contiguous()

    def _accept(self, trial: Tensor, loss: Tensor) -> None:
        step = (trial - self.points).permute(1, 2, 0).double()
        linear = 2 * (self.gradient * step).sum(-1) + torch.einsum("bsi,bsij,bsj->bs", step, self.matrix.double(), step)
        gain = self.loss - loss
        agreement = gain / (-linear).clamp(min=1e-30)
        better = gain > 0  # false where the loss is no number
        factor = torch.where(agreement > 0.75, 0.3, torch.where(agreement < 0.25, 2.0, 1.0))
        self.damping = (self.damping * torch.where(better, factor, 4.0)).clamp(1e-6, 1e6).to(self.damping.dtype)
        self.points = torch.where(better, trial, self.points)
        self.loss = torch.where(better, loss, self.loss)
        if better.any():
            self.matrix[better], self.gradient[better], _ = self.objective.normal_equations(trial, better)

    def _restart(self, over: Tensor) -> None:
        if not over.any():
            return
        n_parameters, n_basins, n_starts = self.points.shape
        # A start's points follow from how often it has restarted, so that a basin does not depend on its neighbours.
        at = self.visits * n_starts + torch.arange(n_starts)
        new = starting_points(n_parameters, 1, int(at.max()) + 1, self.seed, self.points.dtype)[:, 0, at]
        self.visits = self.visits + over
        self.points = torch.where(over, new, self.points)
        self.loss = torch.where(over, torch.inf, self.loss)  # the next loss is accepted, whatever it is
        self.gradient = torch.where(over.unsqueeze(-1), 0.0, self.gradient)
        identity = torch.eye(n_parameters, dtype=self.matrix.dtype)
        self.matrix = torch.where(over[..., None, None], identity, self.matrix)
        self.damping = torch.where(over, 0.1, self.damping)
        self.recent = torch.where(over, torch.inf, self.recent)

    def _descend(self) -> None:
        if self.polish is None:
            self.polish = GradientSearch(
                self.objective, self.best.clamp(1e-3, 1 - 1e-3), self.n_steps - self.first_steps, rate=0.05
            )
        with torch.enable_grad():
            self.polish.step()
        self.best, self.best_loss = self.polish.best, self.polish.best_loss
        self.steps_taken += 1
        self.done = self.first_steps + self.polish.done

    _KEPT = (*Search._KEPT, "points", "matrix", "gradient", "loss", "damping", "recent", "visits")

    def state_dict(self) -> dict:
        return super().state_dict() | dict(polish=self.polish and self.polish.state_dict())

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        if state["polish"]:
            self.polish = GradientSearch(self.objective, self.best, self.n_steps - self.first_steps, rate=0.05)
            self.polish.load_state_dict(state["polish"])
