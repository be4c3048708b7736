"""The ordinates of unit hydrographs: plain torch functions of their parameters, which torch differentiates.

`ordinates` takes what a model's table says (`hybridsolve.spec.Hydrograph`): a kind of density, where in its step an
ordinate is taken, how long the hydrograph is, where it is cut, and whether the ordinates sum to 1.

A column's bits, gradients among them, do not depend on the columns beside it nor on threads: nothing here sums over
ordinates by torch.sum, softmax or a broadcast, whose order of summation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..spec import DAY, Hydrograph


def nash(t: Tensor, n: Tensor, k: Tensor) -> Tensor:
    """Log of the density at t (days) of n linear reservoirs in series, each of k days (Nash 1957), but for a factor."""
    return (n - 1) * t.log() - t / k


def nash_factor(n: Tensor, k: Tensor) -> Tensor:
    """Log of the factor that makes the integral of `nash` 1."""
    return -torch.lgamma(n) - n * k.log()


def published(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The n and k of Nash that Feng et al. (2022, doi 10.1029/2022WR032404) make of their a and b."""
    zero = torch.zeros_like(a)  # not relu or clamp: at 0 the gradient passes
    return torch.where(a < 0, zero, a) + 0.1, torch.where(b < 0, zero, b) + 0.5


def lag(t: Tensor, days: Tensor) -> Tensor:
    """Log of the shares of a pure delay, spread over the two ordinates around it."""
    step = t[1] - t[0] if len(t) > 1 else torch.ones_like(t[0])
    share = 1 - (t - t[0] - days).abs() / step
    return torch.where(share > 0, share, 0.0).log()


# Of each kind the log of its shape, and of the factor that makes it a density.
KINDS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "gamma": (lambda t, a, b: nash(t, *published(a, b)), lambda a, b: nash_factor(*published(a, b))),
    "nash": (nash, nash_factor),
    "lag": (lag, torch.zeros_like),
}


def n_ordinates(hydrograph: Hydrograph, step: int = DAY) -> int:
    """How many ordinates a hydrograph has at a step of this many seconds."""
    return max(1, math.ceil(hydrograph.days * DAY / step))


def ordinates(hydrograph: Hydrograph, parameters: Mapping[str, Tensor], step: int = DAY) -> Tensor:
    """The ordinates of the hydrographs of N columns.

    Parameters
    ----------
    hydrograph : Hydrograph
    parameters : mapping of str to Tensor ``[N]``
        Those of its table.
    step : int
        s.

    Returns
    -------
    Tensor ``[L, N]``
        L of `n_ordinates`; the k-th is the share of the runoff of a step that arrives k steps later.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    rows = _parameter_rows(hydrograph, parameters, step)
    share = _shares(hydrograph, rows, step)
    if hydrograph.normalised:
        share = share / _total(share)
    return share.to(parameters[hydrograph.parameters[0].name].dtype)


def ordinates_and_derivatives(
    hydrograph: Hydrograph, parameters: Mapping[str, Tensor], step: int = DAY
) -> tuple[Tensor, list[Tensor]]:
    """The ordinates of `ordinates`, and their derivatives along each parameter of the table, ``[L, N]`` like them.

    Before they are divided by their sum ordinates depend each on its own row of parameters, so that one pass backwards
    has the derivatives of all of them along all parameters.
    """
    with torch.enable_grad():
        rows = [x.detach().requires_grad_() for x in _parameter_rows(hydrograph, parameters, step)]
        share = _shares(hydrograph, rows, step)
        along = torch.autograd.grad(share, rows, torch.ones_like(share))
    share = share.detach()
    if hydrograph.normalised:
        total = _total(share)
        share, along = share / total, tuple((d - share / total * _total(d)) / total for d in along)
    dtype = parameters[hydrograph.parameters[0].name].dtype
    return share.to(dtype), [d.to(dtype) for d in along]


def _parameter_rows(hydrograph: Hydrograph, parameters: Mapping[str, Tensor], step: int) -> list[Tensor]:
    """Each parameter of the table ``[L, N]``, one row for each ordinate."""
    if hydrograph.kind not in KINDS:
        raise ValueError(f"unknown hydrograph '{hydrograph.kind}'; expected one of {', '.join(KINDS)}: correct it.")
    n = n_ordinates(hydrograph, step)
    return [_rows(parameters[v.name].double(), n) for v in hydrograph.parameters]


def _shares(hydrograph: Hydrograph, rows: Sequence[Tensor], step: int) -> Tensor:
    """The ordinates; of a hydrograph that is normalised some multiple of them."""
    shape, factor = KINDS[hydrograph.kind]
    days = step / DAY
    k = torch.arange(len(rows[0]), dtype=torch.float64, device=rows[0].device)[:, None]
    density = shape((k + (0.5 if hydrograph.at == "midpoint" else 1.0)) * days, *rows)
    if hydrograph.cut is not None:
        tail = (density + factor(*rows) < hydrograph.cut) & (k > 0)
        density = torch.where(tail, -math.inf, density)
    if hydrograph.normalised:
        return (density - density.detach().amax(0)).exp()
    return (density + factor(*rows)).exp() * (1.0 if hydrograph.kind == "lag" else days)


def _total(x: Tensor) -> Tensor:
    """The sum of a column's rows, in every row."""
    return _rows(x.cumsum(0)[-1], len(x))


def _rows(x: Tensor, n: int) -> Tensor:
    """n times the same row; its gradient is the sum of theirs, one after another."""
    return torch.stack([x] * n)
