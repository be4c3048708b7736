"""Standard errors, correlations and curvatures at the optimum, by the linear model there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import Tensor

RANK = 1e-6  # share of the largest curvature below which a direction is lost in single precision


def linearised(
    names: Sequence[str], matrix: Tensor, cost: Tensor, points: Tensor, n_observed: Tensor, slopes: Tensor
) -> xr.Dataset:
    """Standard errors, correlations and curvatures of each basin's best point.

    With the residuals taken as independent, of one variance and normal, and the flow as linear in the parameters, their
    covariance is s^2 (J'J)^-1 (for example Seber and Wild 1989, Nonlinear Regression). The residuals of flow are not
    independent, so the errors are too small; they can be compared with each other.

    Parameters
    ----------
    names : sequence of str
        P parameters.
    matrix : Tensor ``[B, P, P]``
        J'J with respect to points of the unit cube, of residuals whose squares sum up to `cost`.
    cost : Tensor ``[B]``
    points : Tensor ``[P, B]``
        Parameters at a bound are left out: NaN.
    n_observed : Tensor ``[B]``
        Observations.
    slopes : Tensor ``[P, B]``
        Derivatives of the parameters with respect to the points' coordinates: on a linear scale their ranges.

    Returns
    -------
    xarray.Dataset
        `standard_error` ``[parameter, basin]`` in the parameters' units, `correlation` ``[parameter, other, basin]``,
        `curvature` ``[direction, basin]``: the eigenvalues, least first, NaN for parameters at a bound.
    """
    matrix, points, slopes = (x.double().numpy() for x in (matrix, points, slopes))
    n, n_basins = points.shape
    error = np.full((n, n_basins), np.nan)
    correlation = np.full((n, n, n_basins), np.nan)
    curvature = np.full((n, n_basins), np.nan)
    for b in range(n_basins):
        free = np.flatnonzero((points[:, b] > 0) & (points[:, b] < 1))
        if not len(free) or not np.isfinite(matrix[b]).all():
            continue
        value, direction = np.linalg.eigh(matrix[b][np.ix_(free, free)])
        curvature[n - len(free) :, b] = value
        # The data do not identify a direction without curvature, nor any parameter with a part in it.
        identified = value > RANK * value[-1]
        covariance = (direction[:, identified] / value[identified]) @ direction[:, identified].T
        covariance *= float(cost[b]) / max(1, int(n_observed[b]) - len(free))
        unidentified = (direction[:, ~identified] ** 2).sum(1) > 0.01
        deviation = np.where(unidentified, np.nan, np.sqrt(np.diag(covariance)))
        error[free, b] = np.where(unidentified, np.inf, deviation) * slopes[free, b]
        correlation[free[:, None], free, b] = covariance / np.outer(deviation, deviation)
    note = "linearised at the best point"
    errors = dict(long_name=f"standard error, {note}; inf where the data do not identify it")
    correlations = dict(units="1", long_name=f"correlation of the errors, {note}")
    curvatures = dict(units="1", long_name=f"eigenvalues of J'J of the loss in the unit cube, {note}")
    return xr.Dataset(
        dict(
            standard_error=(("parameter", "basin"), error, errors),
            correlation=(("parameter", "other", "basin"), correlation, correlations),
            curvature=(("direction", "basin"), curvature, curvatures),
        ),
        coords=dict(parameter=list(names), other=list(names)),
    )
