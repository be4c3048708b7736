"""The ordinates of unit hydrographs: plain torch functions of their parameters, which torch differentiates.

`ordinates` takes what a model's table says (`hybridsolve.spec.Hydrograph`): a kind of density, where in its step an
ordinate is taken, how long the hydrograph is, where it is cut, and whether the ordinates sum to 1.

A column's bits, gradients among them, do not depend on the columns beside it nor on threads: nothing here sums over
ordinates by torch.sum, softmax or a broadcast, whose order of summation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

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
    if hydrograph.kind not in KINDS:
        raise ValueError(f"unknown hydrograph '{hydrograph.kind}'; expected one of {', '.join(KINDS)}: correct it.")
    shape, factor = KINDS[hydrograph.kind]
    given = [parameters[v.name] for v in hydrograph.parameters]
    n, days = n_ordinates(hydrograph, step), step / DAY
    values = [_rows(x.double(), n) for x in given]
    k = torch.arange(n, dtype=torch.float64, device=given[0].device)[:, None]
    density = shape((k + (0.5 if hydrograph.at == "midpoint" else 1.0)) * days, *values)
    if hydrograph.cut is not None:
        tail = (density + factor(*values) < hydrograph.cut) & (k > 0)
        density = torch.where(tail, -math.inf, density)
    if hydrograph.normalised:
        share = (density - density.detach().amax(0)).exp()
        share = share / _rows(share.cumsum(0)[-1], n)
    else:
        share = (density + factor(*values)).exp() * (1.0 if hydrograph.kind == "lag" else days)
    return share.to(given[0].dtype)


def _rows(x: Tensor, n: int) -> Tensor:
    """n times the same row; its gradient is the sum of theirs, one after another."""
    return torch.stack([x] * n)
