"""What the curvature at the optimum tells: linearised, and no better than the linear model is there."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

RANK = 1e-6  # of the largest curvature, below which single precision cannot tell a direction from none


def linearised(names, matrix: torch.Tensor, cost: torch.Tensor, points: torch.Tensor, n_days: torch.Tensor, spans):
    """Standard errors, correlations and curvatures of each basin's best point.

    With the residuals taken as independent, of one variance and normal, and the flow as linear in the parameters, their
    covariance is s^2 (J'J)^-1 (for example Seber and Wild 1989, Nonlinear Regression). Daily flow's residuals are not
    independent: the errors are too small, their relative size is what to look at.

    Parameters
    ----------
    names : sequence of str
        P parameters.
    matrix : Tensor ``[B, P, P]``
        J'J with respect to points of the unit cube, of residuals whose squares sum up to `cost`.
    cost : Tensor ``[B]``
    points : Tensor ``[P, B]``
        Parameters at a bound are left out: NaN.
    n_days : Tensor ``[B]``
        Observations.
    spans : array_like ``[P]``
        Ranges of the parameters.

    Returns
    -------
    xarray.Dataset
        `standard_error` ``[parameter, basin]`` in the parameters' units, `correlation` ``[parameter, other, basin]``,
        `curvature` ``[direction, basin]``: the eigenvalues, least first, NaN for parameters at a bound.
    """
    matrix, points = matrix.double().numpy(), points.double().numpy()
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
        # A direction that the data say nothing of has no error that could be told: so has every parameter in it.
        told = value > RANK * value[-1]
        covariance = (direction[:, told] / value[told]) @ direction[:, told].T
        covariance *= float(cost[b]) / max(1, int(n_days[b]) - len(free))
        blind = (direction[:, ~told] ** 2).sum(1) > 0.01
        deviation = np.where(blind, np.nan, np.sqrt(np.diag(covariance)))
        error[free, b] = np.where(blind, np.inf, deviation) * np.asarray(spans)[free]
        correlation[np.ix_(free, free, [b])] = (covariance / np.outer(deviation, deviation))[..., None]
    note = "linearised at the best point"
    errors = dict(long_name=f"standard error, {note}; inf where the data say nothing")
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
