"""Weights by which the simulations of several models are averaged.

Of the methods that Diks and Vrugt (2010, Stoch. Environ. Res. Risk Assess. 24:809) and Arsenault et al. (2015, J.
Hydrol. 529:754) compare on streamflow, least squares of each catchment for itself (Granger and Ramanathan 1984, J.
Forecast. 3:197) serve as well as any. Here they are bound to non-negative weights that sum to one, the optimum of Bates
and Granger (1969, Oper. Res. Q. 20:451) with all covariances of the errors: the mean then lies between its members and
adds no water of its own.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls


def simplex_weights(sim: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """For each basin the weights, non-negative and of sum one, of least squared error of the weighted mean.

    Parameters
    ----------
    sim : ndarray ``[M, T, B]``
        Of M models, mm per step.
    obs : ndarray ``[T, B]``
        NaN where missing, which steps are left out.

    Returns
    -------
    ndarray ``[M, B]``, float64
        0 for a model whose simulation is not finite on a step that counts; equal weights where there is no step to
        count; NaN where no model is finite.
    """
    seen = ~np.isnan(obs)
    n_models = len(sim)
    errors = np.where(seen, sim.astype(np.float64) - np.where(seen, obs, 0.0), 0.0)
    finite = np.asarray(np.isfinite(errors).all(1))
    matrix = np.einsum("itb,jtb->bij", *2 * (np.where(finite[:, None], errors, 0.0),))
    weights = np.where(finite, 1.0, 0.0)
    for b in np.flatnonzero(seen.any(0)):
        at = np.flatnonzero(finite[:, b])
        if len(at) > 1:
            weights[at, b] = _least(matrix[b][np.ix_(at, at)])
    with np.errstate(invalid="ignore"):  # 0/0, where no model is finite
        return np.asarray(weights / weights.sum(0)).reshape(n_models, -1)


def _least(matrix: np.ndarray) -> np.ndarray:
    """The w >= 0 that makes w' matrix w / (sum w)^2 least, up to a factor.

    With matrix = R' R it is the x >= 0 of least |R x|^2 + (sum x - 1)^2: of x = s w with sum w = 1 the best s is
    1 / (1 + q), q = w' matrix w, which leaves q / (1 + q), and that grows with q.
    """
    scale = np.trace(matrix) / len(matrix)
    if scale == 0:  # no model errs
        return np.ones(len(matrix))
    values, vectors = np.linalg.eigh(matrix / scale)
    root = (vectors * np.sqrt(values.clip(0))).T
    x, _ = nnls(np.vstack([root, np.ones(len(matrix))]), np.append(np.zeros(len(matrix)), 1.0))
    return np.asarray(x)
