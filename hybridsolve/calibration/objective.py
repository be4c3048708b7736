"""What a search minimises: the loss of flow over a window, its normal equations, and what these say at the optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..score import losses
from ..solve import sensitivity
from ..solve.faults import passes_unlimited
from ..solve.sensitivity import NormalEquations
from . import forward
from .identifiability import linearised
from .space import SearchSpace
from .windows import Window

_SUMS = ("matrix", "gradient", "cost")


class Objective:
    """Loss ``[B, S]`` of points ``[P, B, S]`` of the unit cube over one window.

    Parameters
    ----------
    space : SearchSpace
    period : Window
    loss : str
        One number per series, or a weighted sum of such; see `hybridsolve.score.losses`.
    """

    SLICE = 16  # starts run at a time where no gradient is asked for: bounds the memory of a large population

    def __init__(self, space: SearchSpace, period: Window, loss: str):
        self.space, self.period = space, period
        self.loss: Any = losses.get(loss)(period.obs)
        # A loss that is no sum of squares is approximated by one that is; each term of it is a run of its own.
        squares = losses.squares(loss)
        self.is_least_squares = squares == losses.written(loss)
        self.squares = [(weight, kind(period.obs)) for weight, kind in losses.parts(squares)]
        self._squares = [(weight, part.least_squares()) for weight, part in self.squares]

    def __call__(self, points: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            loss: Tensor = self.loss(self.flow(points))
            return loss
        return torch.cat([self.loss(self.flow(part)) for part in points.split(self.SLICE, dim=2)], dim=1)

    def flow(self, points: Tensor) -> Tensor:
        """Flow at the gauge ``[T, B, S]``, mm per step."""
        return self.period.flow(self.space.model, self.space.values(points))

    def cost(self, points: Tensor) -> Tensor:
        """The sum of squares ``[B, S]`` alone, for a small part of what its normal equations take."""
        flows = (self.flow(part) for part in points.split(self.SLICE, dim=2))
        return torch.cat([torch.stack([w * loss(q) for w, loss in self.squares]).sum(0) for q in flows], dim=1)

    @passes_unlimited()
    def normal_equations(self, points: Tensor, cells: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """J'J ``[B, S, P, P]``, J'r ``[B, S, P]`` and r'r ``[B, S]`` by points of the unit cube.

        With `cells`, a mask ``[B, S]``, those of its n cells alone, in their order: ``[n, P, P]``, ``[n, P]``, ``[n]``.
        """
        basins = None
        if cells is not None and self.period.units is None:  # each is a basin of its own, with the forcing of its
            basins, starts = cells.nonzero(as_tuple=True)
            points = points[:, basins, starts][:, :, None]
        period = self.period if basins is None else self.period.basins(basins.numpy())
        found: list[Tensor] = []
        for weight, squares in self._squares:
            if basins is not None:
                squares = {n: x[..., basins] if isinstance(x, Tensor) else x for n, x in squares.items()}
            sums = [weight * x for x in self._normal_equations(points, squares, period)]
            found = [a + b for a, b in zip(found, sums, strict=True)] if found else sums
        if cells is not None:
            found = [x.squeeze(1) if basins is not None else x[cells] for x in found]
        matrix, gradient, cost = found
        return matrix, gradient, cost

    def _normal_equations(
        self, points: Tensor, squares: dict[str, Any], period: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        space = self.space
        model, forcing, values = space.model, period.forcing, space.values(points)
        if period.units is not None:  # a start at a time, since a Jacobian over all steps is large
            each = [
                forward.of_jacobian(*self.jacobian(part), names=space.names, **squares) for part in points.split(1, 2)
            ]
            matrix, gradient, cost = (torch.cat([getattr(x, name) for x in each], 1) for name in _SUMS)
            found = NormalEquations(matrix, gradient, cost, space.names)
        elif period.backend == "reference":
            found = forward.normal_equations(model, forcing, values, names=space.names, **squares, **period.options)
        else:
            found = sensitivity.normal_equations(model, forcing, values, names=space.names, **squares, **period.options)
        slopes = space.slopes(points).permute(1, 2, 0)
        matrix, gradient = found.matrix, found.gradient
        return matrix * slopes[..., None] * slopes[..., None, :], gradient * slopes, found.cost

    @passes_unlimited()
    def jacobian(self, points: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow at the gauge ``[T, B, S]`` and its derivatives by name, with respect to parameters in their units."""
        space, period = self.space, self.period
        jacobian = forward.jacobian if period.backend == "reference" else sensitivity.jacobian
        # All units of a gauge have its hydrograph, so that the sum of routed flows is the routed sum.
        values = period.of_units(space.model, space.values(points), routing=True)
        q, columns = jacobian(space.model, period.forcing, values, names=space.names, **period.options)
        if (units := period.units) is None:
            return q, columns
        return units.summed(q), {name: units.summed(x) for name, x in columns.items()}

    def by_month(self, points: Tensor, month: np.ndarray) -> np.ndarray:
        """Mean sensitivity of flow ``[P, 12, B]`` over the steps of each month, whose numbers the last steps have.

        The sensitivity is |dQ/dp| times dp/du of the parameter's place u in its range: on a linear scale times the
        range.
        """
        columns = self.jacobian(points)[1]
        j = torch.stack([columns[name][-len(month) :, :, 0] for name in self.space.names]).abs()
        means = torch.stack([j[:, month == m].mean(1) for m in range(1, 13)], 1)
        return (means * self.space.slopes(points)[:, None, :, 0]).numpy()

    def curvature(self, points: Tensor, month: np.ndarray) -> tuple[xr.Dataset, np.ndarray]:
        """The linearised errors at points ``[P, B, 1]``; and ``[B, P]``, where flow does not respond to a parameter.

        Of a loss that is no sum of squares those of the nearest that is.
        """
        matrix, _, cost = self.normal_equations(points)
        without_response = (matrix[:, 0].diagonal(dim1=1, dim2=2) == 0).numpy()
        slopes = self.space.slopes(points)[..., 0]
        found = linearised(self.space.names, matrix[:, 0], cost[:, 0], points[..., 0], self.squares[0][1].n, slopes)
        found["sensitivity"] = (("parameter", "month", "basin"), self.by_month(points, month))
        return found, without_response
