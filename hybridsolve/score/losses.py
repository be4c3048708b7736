"""Losses of simulated against observed flow, on torch tensors, with missing steps masked everywhere.

Two families:

* Per series (`nse`, `kge`, `nse_sqrt`, `nse_log`): one minus the efficiency of `hybridsolve.score.metrics`,
  one number per basin ``[B]`` or per basin and start ``[B, C]``, so that a calibration of many basins from
  many starts is many independent problems in one tensor.
* Scalar (`rmse_comb`, `nse_batch`): what networks are trained with; see `hybridsolve.score.batch_losses`.

Weighted sums of them are losses too, and those of the first family are of transformed flow as well, by a text:
``0.5*kge(q)+0.5*kge(sqrt q)`` (see `hybridsolve.score.formula`).

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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from . import formula
from .batch_losses import NSEBatch, RmseComb
from .formula import Term
from .observed import Observed, UnusableObservations, refuse

__all__ = [
    "KGE",
    "NSE",
    "NSEBatch",
    "NSELog",
    "NSESqrt",
    "RmseComb",
    "Transformed",
    "UnusableObservations",
    "WeightedSum",
    "get",
    "names",
]
# Elements in a slice of time on the CPU: 1 MB in float32, so that slice and scratch fit in a second-level
# cache.
_SLICE = 1 << 18


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


class _SeriesLoss(Observed, ABC):
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
        refuse(
            self.n == 0,
            "present on at least one step of the window",
            "leave the basin out or widen the window",
        )
        high = torch.where(self.mask, self._obs64, -torch.inf).amax(0)
        low = torch.where(self.mask, self._obs64, torch.inf).amin(0)
        # By the extremes: rounding leaves a tiny variance to a constant series.
        refuse(
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
            refuse(
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
        refuse(mean == 0, "of a mean other than zero (beta is a ratio to it)", "leave the basin out")
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


def _inverse(x):
    return torch.where(x > 0, 1.0 / x, torch.nan)


# By what a loss is of: g(x) of x = q + e, its derivative by x and g(x), and what `normal_equations` calls g.
_FLOWS: dict[str, tuple[Callable, Callable, dict[str, Any]]] = {
    "sqrt q": (torch.sqrt, lambda x, g: 0.5 / g, dict(transform="root")),
    "log q": (lambda x: torch.where(x > 0, x.log(), torch.nan), lambda x, g: 1.0 / x, dict(transform="logarithm")),
    "1/q": (_inverse, lambda x, g: -g * g, dict(transform="box_cox", exponent=-1.0)),
}


class Transformed(_SeriesLoss):
    """A loss of g(flow + mean(obs)/100): ``sqrt q``, ``log q`` or ``1/q``.

    A flow of which g does not exist (``-mean(obs)/100`` or less, for the root below that) gives NaN. KGE of ``log q``
    depends on the unit of the flow (Santos et al. 2018, HESS 22:4583).

    Parameters
    ----------
    kind : type
        `NSE` or `KGE`.
    flow : str
    obs, dtype
        As for `NSE`, whose errors it raises too.
    """

    def __init__(self, kind, flow, obs, *, dtype=None):
        self._kind, self._flow = kind, flow
        super().__init__(obs, dtype=dtype)

    def _prepare(self):
        offset = self._obs64.sum(0) / self.n / 100.0
        shifted = torch.where(self.mask, self._obs64 + offset, torch.nan)
        refuse(
            (shifted <= 0).any(0), f"above -mean(obs)/100 ({self._flow} of it is needed)",
            "remove negative flows or leave the basin out",
        )  # fmt: skip
        self._offset = offset.to(self.dtype)
        self._of = self._kind(_FLOWS[self._flow][0](shifted), dtype=self.dtype)

    def least_squares(self):
        """As `NSE.least_squares`; of NSE alone."""
        found, of = self._of.least_squares(), _FLOWS[self._flow][2]
        target = 1.0 - found["target"] if of["transform"] == "box_cox" else found["target"]  # (x^-1 - 1) / -1
        return found | of | dict(target=target, shift=self._offset)

    def _evaluate(self, sim, want_gradient):
        mask, offset = self._aligned(self.mask, sim), self._aligned(self._offset, sim)
        transform, slope, _ = _FLOWS[self._flow]
        x = torch.where(mask, sim.detach() + offset, 1.0)
        y = transform(x)
        value, gradient = self._of._evaluate(y, want_gradient)
        return value, gradient.mul_(slope(x, y)) if want_gradient else None


@dataclass(frozen=True)
class _OfFlow:
    """The class of a loss of transformed flow."""

    kind: type[_SeriesLoss]
    flow: str
    per_series = True

    def __call__(self, obs, *, dtype=None):
        return Transformed(self.kind, self.flow, obs, dtype=dtype)


@dataclass(frozen=True)
class _Sum:
    """The class of a weighted sum of losses."""

    parts: tuple[tuple[float, Any], ...]

    @property
    def per_series(self) -> bool:
        return all(kind.per_series for _, kind in self.parts)

    def __call__(self, obs, sigma=None, *, dtype=None):
        return WeightedSum([(weight, build(kind, obs, sigma, dtype=dtype)) for weight, kind in self.parts])


class WeightedSum:
    """A weighted sum of losses, called as each of them is.

    Attributes
    ----------
    parts : list of (float, loss)
    n : torch.Tensor, [B]
        Steps with observations.
    """

    def __init__(self, parts):
        self.parts, self.n = parts, parts[0][1].n

    def __call__(self, sim):
        return sum(weight * loss(sim) for weight, loss in self.parts)


def build(kind: Any, obs: torch.Tensor, sigma: torch.Tensor | None = None, *, dtype: torch.dtype | None = None) -> Any:
    """A loss of a class that `get` gives; `sigma` goes to `NSEBatch`."""
    return kind(obs, sigma, dtype=dtype) if kind is NSEBatch or isinstance(kind, _Sum) else kind(obs, dtype=dtype)


_LOSSES: dict[str, type[Observed]] = {
    "nse": NSE,
    "kge": KGE,
    "nse_sqrt": NSESqrt,
    "nse_log": NSELog,
    "rmse_comb": RmseComb,
    "nse_batch": NSEBatch,
}
_OF_FLOW = ("nse", "kge")


def names(per_series: bool | None = None) -> list[str]:
    """Names that `get` knows; `per_series` True or False gives only that family."""
    return [name for name, loss in _LOSSES.items() if per_series is None or loss.per_series == per_series]


def terms(text: str) -> tuple[Term, ...]:
    """The terms of a loss that `get` knows; errors as there."""
    return formula.terms(text, names(), _OF_FLOW)


def parts(text: str) -> tuple[tuple[float, Any], ...]:
    """The weights of a loss's terms, and their classes."""

    def kind(term: Term) -> Any:
        found = _LOSSES[term.name]
        return found if term.flow == "q" else _OfFlow(found, term.flow)  # type: ignore[arg-type]

    return tuple((term.weight, kind(term)) for term in terms(text))


def get(name: str) -> Any:
    """The class of a loss: ``get("nse")(obs)(sim)``.

    Parameters
    ----------
    name : str
        One of `names`, or a weighted sum of some, of transformed flow too: ``"0.5*kge(q)+0.5*kge(sqrt q)"``; see
        `hybridsolve.score.formula`. Of a sum of losses by series and by batch the first are to be averaged by whoever
        calls it.

    Raises
    ------
    ValueError
        If there is no such loss.
    """
    found = parts(name)
    return found[0][1] if len(found) == 1 and found[0][0] == 1 else _Sum(found)


def written(text: str) -> str:
    """A loss as it is written in results: the same for the same loss."""
    return "+".join(map(str, terms(text)))


def squares(text: str) -> str:
    """The sum of squares nearest to a loss by series: NSE in place of KGE, terms of one flow taken together."""
    weights: dict[tuple[str, str], float] = {}
    for term in terms(text):
        at = ("nse", term.flow) if term.name == "kge" else (term.name, term.flow)
        weights[at] = weights.get(at, 0.0) + term.weight
    return written("+".join(f"{weight!r}*{name}({flow})" for (name, flow), weight in weights.items()))
