"""Losses that are one number for a batch of basins, with which networks are trained; see `hybridsolve.score.losses`."""

from __future__ import annotations

import numpy as np
import torch

from .observed import Observed, UnusableObservations, refuse


def _root(x):
    """Square root whose gradient at zero is zero; NaN stays NaN."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


class _BatchLoss(Observed):
    """A scalar over all valid steps of a batch; a basin without any is allowed, a batch is not."""

    per_series = False

    def __init__(self, obs, *, dtype=None):
        super().__init__(obs, dtype=dtype)
        if not bool(self.mask.any()):
            raise UnusableObservations(
                "obs must be present on at least one step of the batch, found none: draw another batch or window.",
                list(range(self.mask.shape[1])),
            )
        self._count = int(self.n.sum())
        del self._obs64

    def _mean(self, x, sim):
        return x.sum() / (self._count * (sim.shape[2] if sim.ndim == 3 else 1))

    def _pair(self, sim):
        """mask, sim and obs with equal dimensions; sim is 0 on missing steps: a NaN there has no gradient."""
        self._check(sim)
        mask = self._aligned(self.mask, sim)
        return mask, torch.where(mask, sim, 0.0), self._aligned(self.obs, sim)


class RmseComb(_BatchLoss):
    """``(1 - alpha) RMSE + alpha RMSE of L``, ``L(x) = log10(sqrt(x + 1e-6) + 0.1)``, over all valid steps at
    once.

    The loss of the published differentiable HBV 1.0 and 2.0 (dMG, RmseComb), but with missing observations
    masked. Flows below -1e-6 mm per step give NaN. A term that is exactly zero has zero gradient.

    Parameters
    ----------
    obs : torch.Tensor, [T, B]
        mm per step, NaN where missing.
    alpha : float
        Weight of the log term, in [0, 1].
    dtype : torch.dtype, optional
        That of the simulations; default that of `obs`.

    Raises
    ------
    UnusableObservations, TypeError, ValueError
        No observation in the batch; wrong type, shape, dtype or value.
    """

    def __init__(self, obs, alpha=0.25, *, dtype=None):
        super().__init__(obs, dtype=dtype)
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], found {alpha}: it is the weight of the log term.")
        refuse(
            (self.mask & (self.obs < -1e-6)).any(0),
            "at least -1e-6 (L takes its root)",
            "remove negative flows",
        )
        self.alpha = float(alpha)

    def __call__(self, sim):
        """Scalar loss of sim [T, B] or [T, B, C], mm per step."""
        mask, sim, obs = self._pair(sim)
        linear = self._mean((sim - obs).square(), sim)
        log_s, log_o = (torch.log10(torch.sqrt(x + 1e-6) + 0.1) for x in (sim, obs))
        # Missing steps are zero in both, hence differ by nothing; the gradient at L(0) is finite.
        return (1.0 - self.alpha) * _root(linear) + self.alpha * _root(self._mean((log_s - log_o).square(), sim))


class NSEBatch(_BatchLoss):
    """``mean((sim - obs)^2 / (sigma + eps)^2)`` over all valid steps of a batch.

    The loss of the published differentiable HBV 1.1p (dMG, NseBatch), after Kratzert et al. 2019 (HESS
    23:5089).

    Parameters
    ----------
    obs : torch.Tensor, [T, B]
        mm per step, NaN where missing.
    sigma : torch.Tensor, [B]
        Standard deviation of the basin's observations over the whole training period, mm per step.
    eps : float
        mm per step, keeps basins of little variance from ruling the batch.
    dtype : torch.dtype, optional
        That of the simulations; default that of `obs`.

    Raises
    ------
    UnusableObservations, TypeError, ValueError
        No observation in the batch; wrong type, shape, dtype or value.
    """

    def __init__(self, obs, sigma, eps=0.1, *, dtype=None):
        super().__init__(obs, dtype=dtype)
        if isinstance(sigma, np.ma.MaskedArray):
            sigma = np.ma.filled(sigma.astype(np.float64), np.nan)
        sigma = torch.as_tensor(sigma, device=self.device).to(torch.float64)
        if sigma.shape != self.n.shape:
            raise ValueError(
                f"sigma must be [B] with B = {len(self.n)} as in obs, found shape {tuple(sigma.shape)}: one "
                "standard deviation per basin of the batch."
            )
        bad = (self.n > 0) & ~(torch.isfinite(sigma) & (sigma >= 0) & (sigma + eps > 0))
        if bool(bad.any()):
            b = int(bad.nonzero()[0, 0])
            raise ValueError(
                f"sigma must be finite, not negative, and sigma + eps above zero, found {sigma[b].item()} "
                f"with eps = {eps} in basin {b}: take it from the whole training period."
            )
        self._weight = torch.where(self.n > 0, 1.0 / (sigma + eps), 0.0).to(self.dtype)

    def __call__(self, sim):
        """Scalar loss of sim [T, B] or [T, B, C], mm per step."""
        _, sim, obs = self._pair(sim)
        return self._mean(((sim - obs) * self._aligned(self._weight, sim)).square(), sim)
