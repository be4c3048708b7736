"""Losses of simulated against observed flow, on torch tensors, with missing steps masked everywhere.

Two families:

* Per series (`nse`, `kge`, `nse_sqrt`, `nse_log`): one minus the efficiency of `hybridsolve.score.metrics`,
  one number per basin ``[B]`` or per basin and start ``[B, C]``, so that a calibration of many basins from
  many starts is many independent problems in one tensor.
* Scalar (`rmse_comb`, `nse_batch`): what networks are trained with.

Each is a class that takes the observations once (mask, denominators and offsets, computed in float64) and is
then called with simulations, many times::

    loss = losses.get("nse")(obs)        # obs [T, B], NaN where missing
    loss(sim).sum().backward()           # sim [T, B] or [T, B, C]

The observations are constants: no gradient flows to them. A missing step takes no part, in value or gradient,
even if the simulation is NaN there; a NaN on any other step makes the loss NaN. Only first derivatives exist.

Speed: a calibration evaluates these on tensors of 100 MB some hundred times, at the cost of the traffic to
memory. The per-series losses therefore walk through time in slices that stay in the cache, and write the
gradient in the same walk as the value: one read of the simulation, one write of the gradient. Value and
gradient of 5.8 million float32 flows take 11 ms (NSE) and 23 ms (KGE) of one core, against 34 and 99 ms in
plain torch. Backward has nothing to do if the incoming gradient is one, as it is after ``.sum()``; any other
weights cost one more pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

# Elements in a slice of time on the CPU: 1 MB in float32, so that slice and scratch fit in a second-level
# cache.
_SLICE = 1 << 18


class UnusableObservations(ValueError):
    """Basins whose observations cannot be scored.

    Attributes
    ----------
    basins : list of int
        Their indices on the basin axis.
    """

    def __init__(self, message, basins):
        super().__init__(message)
        self.basins = basins


def _refuse(bad, what, remedy):
    """Raise for the basins of `bad` [B] (bool), by index; the caller knows their names."""
    if bool(bad.any()):
        basins = bad.nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, basins[:10])) + (", ..." if len(basins) > 10 else "")
        which = f"basin {shown}" if len(basins) == 1 else f"{len(basins)} basins ({shown})"
        raise UnusableObservations(f"obs must be {what}, which does not hold for {which}: {remedy}.", basins)


def _empty(like):
    """An uninitialised contiguous tensor of the shape of `like`."""
    if like.device.type == "cpu":
        # numpy asks the kernel for huge pages; malloc of 70 MB costs 40 ms in page faults, more than the loss
        # itself.
        dtype = np.float32 if like.dtype == torch.float32 else np.float64
        return torch.from_numpy(np.empty(tuple(like.shape), dtype))
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


class _UnitGradient(torch.autograd.Function):
    """Loss per series whose gradient is written in the forward pass."""

    @staticmethod
    def forward(ctx, sim, loss):
        value, gradient = loss._evaluate(sim, True)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, d_value):
        (gradient,) = ctx.saved_tensors
        # On a GPU the comparison would wait for the device, which costs more than the multiplication.
        if d_value.device.type == "cpu" and bool((d_value == 1).all()):
            return gradient, None
        return torch.mul(gradient, d_value, out=_empty(gradient)), None


def _refuse_no_tensor(name, x):
    if isinstance(x, np.ma.MaskedArray):
        # torch.as_tensor would drop the mask.
        raise TypeError(
            f"{name} must be a torch tensor, found a masked array: write torch.as_tensor(np.ma.filled(x, np.nan))."
        )
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor, found {type(x).__name__}: wrap it in torch.as_tensor.")


class _Loss:
    """Observations, mask and the checks common to all losses."""

    #: Whether the result is one number per series ([B] or [B, C]) and not a scalar.
    per_series: bool

    def __init__(self, obs, *, dtype=None):
        _refuse_no_tensor("obs", obs)
        if obs.ndim != 2 or obs.shape[0] == 0 or obs.shape[1] == 0:
            raise ValueError(
                f"obs must be [T, B] (steps x basins), none empty, found shape {tuple(obs.shape)}: starts "
                "are an axis of sim only, and one basin is [T, 1]."
            )
        dtype = obs.dtype if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, found {dtype}: give the dtype of sim.")
        if obs.requires_grad:
            raise ValueError("obs must be constant, found requires_grad=True: give obs.detach().")
        if bool(torch.isinf(obs).any()):
            t, b = torch.isinf(obs).nonzero()[0].tolist()
            raise ValueError(
                f"obs must be finite or NaN (missing), found {obs[t, b].item()} on step {t} in basin {b}: "
                "mark missing steps with NaN."
            )
        self.dtype, self.device = dtype, obs.device
        self.mask = ~torch.isnan(obs)
        self.n = self.mask.sum(0)
        self.obs = torch.where(self.mask, obs, 0).to(dtype)
        self._obs64 = torch.where(self.mask, obs, 0).double()

    def _check(self, sim):
        _refuse_no_tensor("sim", sim)
        if sim.ndim not in (2, 3) or sim.shape[:2] != self.mask.shape or sim.shape[-1] == 0:
            t, b = self.mask.shape
            raise ValueError(
                f"sim must be [T, B] or [T, B, C] with T = {t} and B = {b} as in obs, found shape "
                f"{tuple(sim.shape)}: cut the warm-up off both."
            )
        if sim.dtype != self.dtype or sim.device != self.device:
            raise TypeError(
                f"sim must be {self.dtype} on {self.device} like the loss, found {sim.dtype} on "
                f"{sim.device}: build the loss from obs on that device with dtype=sim.dtype."
            )
        return sim

    def _aligned(self, x, sim):
        """`x` [T, B] or [B] with a starts axis if `sim` has one."""
        return x.unsqueeze(-1) if sim.ndim == 3 else x


class _SeriesLoss(_Loss, ABC):
    """One number per series."""

    per_series = True

    @abstractmethod
    def _prepare(self):
        """Make of the observations what `_evaluate` needs."""

    @abstractmethod
    def _evaluate(self, sim, want_gradient):
        """The value, and the gradient or None."""

    def __init__(self, obs, *, dtype=None):
        super().__init__(obs, dtype=dtype)
        _refuse(
            self.n == 0,
            "present on at least one step of the window",
            "leave the basin out or widen the window",
        )
        high = torch.where(self.mask, self._obs64, -torch.inf).amax(0)
        low = torch.where(self.mask, self._obs64, torch.inf).amin(0)
        # By the extremes: rounding leaves a tiny variance to a constant series.
        _refuse(
            high == low, "of some variance in the window (an efficiency is undefined without)",
            "leave the basin out or widen the window",
        )  # fmt: skip
        self._slices = {}
        self._prepare()
        del self._obs64

    def __call__(self, sim):
        """The loss of each series.

        Parameters
        ----------
        sim : torch.Tensor, [T, B] or [T, B, C]
            Simulated flow, mm per step, of the dtype and device of the loss.

        Returns
        -------
        torch.Tensor, [B] or [B, C]
            At least 0; NaN where the series is NaN at a step with an observation.

        Raises
        ------
        TypeError, ValueError
            If type, shape, dtype or device differ.
        """
        self._check(sim)
        if sim.requires_grad and torch.is_grad_enabled():
            return _UnitGradient.apply(sim, self)
        return self._evaluate(sim, False)[0]

    def _walk(self, columns):
        """Slices of time as (start, stop, missing steps [n, 1, B] or None)."""
        steps, basins = self.mask.shape
        length = max(1, _SLICE // (basins * columns)) if self.device.type == "cpu" else steps
        if length not in self._slices:
            missing = [(~self.mask[i : i + length]).unsqueeze(1) for i in range(0, steps, length)]
            self._slices[length] = [
                (i * length, min(steps, (i + 1) * length), m if bool(m.any()) else None) for i, m in enumerate(missing)
            ]
        return self._slices[length]

    @staticmethod
    def _fill(x, missing, value):
        """Set the missing steps of a slice [n, C, B]: a fill, since NaN * 0 would still be NaN."""
        if missing is not None:
            x.masked_fill_(missing, value)

    def _start(self, sim, want_gradient):
        """sim as [T, C, B], as the solver lays it; gradient to be written (or None), scratch maker, slices."""
        sim = sim.detach()
        cube = sim.transpose(1, 2) if sim.ndim == 3 else sim.unsqueeze(1)
        gradient = _empty(cube) if want_gradient else None
        walk = self._walk(cube.shape[1])
        longest = max(stop - start for start, stop, _ in walk)

        def scratch():
            return torch.empty((longest, *cube.shape[1:]), dtype=cube.dtype, device=cube.device)

        return cube, gradient, scratch, walk

    def _finish(self, sim, value, gradient):
        """Value [B, C] and gradient [T, B, C], or without the last axis as `sim`."""
        value = value.to(self.dtype)
        if sim.ndim == 2:
            return value.squeeze(0), None if gradient is None else gradient.squeeze(1)
        return value.T, None if gradient is None else gradient.transpose(1, 2)


class NSE(_SeriesLoss):
    """``1 - NSE``: ``sum (sim - obs)^2 / sum (obs - mean(obs))^2`` over the steps with observations.

    Parameters
    ----------
    obs : torch.Tensor, [T, B]
        Observed flow, mm per step, NaN where missing.
    dtype : torch.dtype, optional
        float32 or float64, that of the simulations; default that of `obs`.

    Raises
    ------
    UnusableObservations
        A ValueError with the attribute `basins`: no observation or no variance in the window.
    TypeError, ValueError
        Wrong type, shape or dtype, infinite values.

    Notes
    -----
    Nash and Sutcliffe 1970, J. Hydrol. 10:282.
    """

    def _prepare(self):
        target = self._obs64
        if self._transform is not None:
            offset = target.sum(0) / self.n / 100.0
            shifted = torch.where(self.mask, target + offset, 1.0)
            _refuse(
                (shifted <= 0).any(0), "above -mean(obs)/100 (its root or logarithm is needed)",
                "remove negative flows or leave the basin out",
            )  # fmt: skip
            self._offset = offset.to(self.dtype)
            target = torch.where(self.mask, self._transform(shifted, torch.empty_like(shifted))[0], 0.0)
        self._target = target.to(self.dtype).unsqueeze(1)
        total = torch.where(self.mask, target - target.sum(0) / self.n, 0.0).square().sum(0)
        self._inverse = 1.0 / total
        self._scale = (self._factor / total).to(self.dtype)

    def least_squares(self):
        """What `solve.sensitivity.normal_equations` takes besides the run, so that its cost is this loss."""
        weight = torch.where(self.mask, self._inverse.sqrt(), 0.0).to(self.dtype)
        shift = None if self._transform is None else self._offset
        return dict(target=self._target.squeeze(1), weight=weight, transform=self._transform_name, shift=shift)

    # `_transform(x, scratch)` turns the shifted flow into (transformed flow, what its error is divided by in
    # the gradient), in place where it can; `_factor` is the constant left in the gradient.
    _transform: Callable | None = None
    _transform_name = "identity"
    _factor = 2.0

    def _evaluate(self, sim, want_gradient):
        cube, gradient, scratch, walk = self._start(sim, want_gradient)
        error = gradient if want_gradient else scratch()
        square = scratch()
        shifted = square if self._transform is None else scratch()
        sums = torch.zeros(cube.shape[1:], dtype=torch.float64, device=cube.device)
        for start, stop, missing in walk:
            n = stop - start
            # The error is written to the gradient's memory, and scaled there while still in the cache.
            e = gradient[start:stop] if want_gradient else error[:n]
            flow = cube[start:stop]
            if self._transform is not None:
                flow = torch.add(flow, self._offset, out=shifted[:n])
                # The simulation may be NaN on a missing step; 1 keeps all that follows finite.
                self._fill(flow, missing, 1.0)
                flow, divisor = self._transform(flow, square[:n])
            torch.sub(flow, self._target[start:stop], out=e)
            self._fill(e, missing, 0.0)
            sums += torch.mul(e, e, out=square[:n]).sum(0)
            if want_gradient:
                if self._transform is not None:
                    e.div_(divisor)
                e.mul_(self._scale)
        return self._finish(sim, sums * self._inverse, gradient)


class NSESqrt(NSE):
    """``1 - NSE`` of ``sqrt(flow + mean(obs)/100)``; a flow below ``-mean(obs)/100`` gives NaN. See `NSE`."""

    _transform_name = "root"
    _factor = 1.0

    @staticmethod
    def _transform(x, scratch):
        return x.sqrt_(), x


class NSELog(NSE):
    """``1 - NSE`` of ``ln(flow + mean(obs)/100)``; a flow of ``-mean(obs)/100`` or less gives NaN. See `NSE`.

    Pushpalatha et al. 2012, J. Hydrol. 420:171.
    """

    _transform_name = "logarithm"

    @staticmethod
    def _transform(x, scratch):
        # log(0) is -inf, on which no search can descend; the metric is NaN too.
        torch.log(x, out=scratch)
        return scratch.masked_fill_(x <= 0, torch.nan), x


class KGE(_SeriesLoss):
    """``1 - KGE`` of 2009: ``sqrt((r-1)^2 + (alpha-1)^2 + (beta-1)^2)``. Parameters and errors as `NSE`.

    Rules where the definition or its derivative ends:

    * A constant simulation has ``r = 0`` and ``alpha = 0`` (Knoben et al. 2019), and only beta has a gradient
      there. Constant means a standard deviation that the arithmetic cannot tell from zero: a variance below
      64 rounding units (float32: 7.6e-6) of the mean squared distance from the observed mean.
    * At a perfect simulation (loss 0, the tip of a cone) the gradient is zero.

    Observations whose mean is zero are refused, since beta is a ratio to it.

    Notes
    -----
    Gupta et al. 2009, J. Hydrol. 377:80.
    """

    def _prepare(self):
        mean = self._obs64.sum(0) / self.n
        _refuse(mean == 0, "of a mean other than zero (beta is a ratio to it)", "leave the basin out")
        anomaly = torch.where(self.mask, self._obs64 - mean, 0.0)
        self._mean = mean
        self._sd = (anomaly.square().sum(0) / self.n).sqrt()
        self._anomaly = anomaly.to(self.dtype).unsqueeze(1)

    def _evaluate(self, sim, want_gradient):
        cube, gradient, scratch, walk = self._start(sim, want_gradient)
        distance, product = scratch(), scratch()
        # Distances from the observed mean: the plain second moment would lose the variance of a large base
        # flow.
        centre = self._mean.to(self.dtype)
        first, second, cross = torch.zeros((3, *cube.shape[1:]), dtype=torch.float64, device=cube.device)
        for start, stop, missing in walk:
            n = stop - start
            d = torch.sub(cube[start:stop], centre, out=distance[:n])
            self._fill(d, missing, 0.0)
            first += d.sum(0)
            cross += torch.mul(d, self._anomaly[start:stop], out=product[:n]).sum(0)
            second += torch.mul(d, d, out=product[:n]).sum(0)

        n = self.n.double()
        shift, power = first / n, second / n
        variance = power - shift * shift
        # The comparison is false for NaN, so a failed simulation stays NaN.
        constant = variance <= 64 * torch.finfo(self.dtype).eps * power
        sd = torch.where(constant, 1.0, variance).sqrt()
        r = torch.where(constant, 0.0, cross / (n * sd * self._sd))
        alpha = torch.where(constant, 0.0, sd / self._sd)
        # The shift is measured from the centre, the mean rounded to the working precision.
        beta = (centre.double() + shift) / self._mean
        value = torch.sqrt((r - 1) ** 2 + (alpha - 1) ** 2 + (beta - 1) ** 2)
        if not want_gradient:
            return self._finish(sim, value, None)

        # The gradient is a + b * (sim - centre) + c * (obs - mean), with three numbers per series.
        steepness = torch.where(value == 0, 0.0, 1.0 / torch.where(value == 0, 1.0, value))
        c = torch.where(constant, 0.0, (r - 1) / (n * sd * self._sd)) * steepness
        b = torch.where(constant, 0.0, (alpha - 1) / (n * sd * self._sd) - (r - 1) * r / (n * sd * sd)) * steepness
        a = (beta - 1) / (n * self._mean) * steepness - b * shift
        a, b, c = a.to(self.dtype), b.to(self.dtype), c.to(self.dtype)
        for start, stop, missing in walk:
            g = torch.sub(cube[start:stop], centre, out=gradient[start:stop])
            g.mul_(b).add_(a).add_(torch.mul(self._anomaly[start:stop], c, out=product[: stop - start]))
            self._fill(g, missing, 0.0)
        return self._finish(sim, value, gradient)


def _root(x):
    """Square root whose gradient at zero is zero; NaN stays NaN."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


class _BatchLoss(_Loss):
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
        _refuse(
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


_LOSSES: dict[str, type[_Loss]] = {
    "nse": NSE,
    "kge": KGE,
    "nse_sqrt": NSESqrt,
    "nse_log": NSELog,
    "rmse_comb": RmseComb,
    "nse_batch": NSEBatch,
}


def names(per_series: bool | None = None) -> list[str]:
    """Names that `get` knows; `per_series` True or False gives only that family."""
    return [name for name, loss in _LOSSES.items() if per_series is None or loss.per_series == per_series]


def get(name: str) -> Any:
    """The class of a loss by its name: ``get("nse")(obs)(sim)``.

    Raises
    ------
    ValueError
        If there is no such loss.
    """
    if name not in _LOSSES:
        raise ValueError(f"name must be one of {', '.join(_LOSSES)}, found {name!r}: see losses.names().")
    return _LOSSES[name]
