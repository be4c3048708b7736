"""The ordinates of unit hydrographs: plain torch functions of their parameters, which torch differentiates.

`ordinates` takes what a model's table says (`hybridsolve.spec.Hydrograph`): a kind of density, where in its step an
ordinate is taken, how long the hydrograph is, where it is cut, and whether the ordinates sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..spec import DAY, Hydrograph


def gamma(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Log of a gamma density at t (days), of shape ``max(a, 0) + 0.1`` and scale ``max(b, 0) + 0.5`` days.

    Nash (1957) for the form, Feng et al. (2022, doi 10.1029/2022WR032404) for the offsets.
    """
    zero = torch.zeros_like(a)  # not relu or clamp: at 0 the gradient passes
    return nash(t, torch.where(a < 0, zero, a) + 0.1, torch.where(b < 0, zero, b) + 0.5)


def nash(t: Tensor, n: Tensor, k: Tensor) -> Tensor:
    """Log of the density at t (days) of n linear reservoirs behind one another, each of k days (Nash 1957)."""
    return (n - 1) * (t / k).log() - t / k - k.log() - torch.lgamma(n)


def lag(t: Tensor, days: Tensor) -> Tensor:
    """Log of the shares of a pure delay, spread over the two ordinates around it; t as for the other kinds."""
    step = t[1] - t[0] if len(t) > 1 else t[0]
    return (1 - (t - t[0] - days).abs() / step).clamp(min=0).log()


KINDS = {"gamma": gamma, "nash": nash, "lag": lag}


def n_ordinates(hydrograph: Hydrograph, step: int) -> int:
    """How many ordinates a hydrograph has at a step of this many seconds."""
    return max(1, math.ceil(hydrograph.days * DAY / step))


def ordinates(hydrograph: Hydrograph, parameters: Mapping[str, Tensor], step: int = DAY) -> Tensor:
    """The ordinates of the hydrographs of ``[N]`` columns.

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
        L from `n_ordinates`; the k-th is the share that arrives k steps after its own.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if hydrograph.kind not in KINDS:
        raise ValueError(f"unknown hydrograph '{hydrograph.kind}'; expected one of {', '.join(KINDS)}: correct it.")
    values = [parameters[v.name] for v in hydrograph.parameters]
    k = torch.arange(n_ordinates(hydrograph, step), dtype=values[0].dtype, device=values[0].device)
    days = step / DAY
    t = (k + (0.5 if hydrograph.at == "midpoint" else 1.0)) * days
    density = KINDS[hydrograph.kind](t[:, None], *values)
    if hydrograph.cut is not None:
        tail = (density < hydrograph.cut) & (k[:, None] > 0)
        density = density.masked_fill(tail, -math.inf)
    if hydrograph.normalised:
        return torch.softmax(density, dim=0)
    return density.exp() * (1.0 if hydrograph.kind == "lag" else days)
