"""Models that are given as rates, and the schemes that make a step of them.

A rate model gives, of the weather of a day and of its stores, how fast these change (mm/d); the name of a run says how
a step is made of that: ``"exphydro@rk4x8"`` is EXP-HYDRO by eight sub-steps of the classical Runge-Kutta method in
every step, ``"hbv_implicit@backward_euler"`` HBV by one implicit step. Everything else is as of any model.

    euler             s <- s + h r(s)
    heun              the mean of the slopes at both ends of the step (Heun 1900)
    rk4               the classical method of four stages (Kutta 1901)
    backward_euler    s <- s + h r(x), x the root of x - s - h r(x), by `hybridsolve.models.primitives.implicit`

with h the length of a step or of each of its equal sub-steps. The weather is the same in all sub-steps. The fluxes are
the means over stages and sub-steps by the weights that the stores are moved with, so that each balance closes to
rounding; so does that of backward Euler, whose new stores are s + h r(x), which differs from x by what the iterations
leave, at most 1e-10 mm (float64).

Rates are written for days, at any length of step: the forcing of a step in mm is made one in mm/d, and the fluxes in
mm/d are made mm of the step. So no parameter is converted (`Parameter.step` is "none").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..spec import ModelSpec
from .primitives import implicit, repeat

DEPTH = "mm d-1"  # of forcings and fluxes that are amounts of a step
# Stages by the weights of the slopes before them, and the weights of all slopes.
EXPLICIT: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": (((),), (1.0,)),
    "heun": (((), (1.0,)), (0.5, 0.5)),
    "rk4": (((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
SCHEMES = (*EXPLICIT, "backward_euler")


def scheme(model: ModelSpec, name: str, substeps: int = 1) -> ModelSpec:
    """A model of steps by a scheme, of a model that is given as rates.

    Parameters
    ----------
    model : ModelSpec
        With ``rates=True``.
    name : {"euler", "heun", "rk4", "backward_euler"}
    substeps : int
        Of equal length, in every step.

    Returns
    -------
    ModelSpec
        Named ``model@scheme``, or ``model@schemexN`` of N sub-steps.

    Raises
    ------
    ValueError
        If the model is given as a step, there is no such scheme, or sub-steps are no whole number from 1 on.
    """
    if not model.rates:
        raise ValueError(
            f"scheme '{name}' makes a step of a model that is given as rates; found '{model.name}', which is a step "
            "already: run it as it is, or define it with rates=True."
        )
    if name not in SCHEMES:
        raise ValueError(f"unknown scheme '{name}'; expected one of {', '.join(SCHEMES)}.")
    if not isinstance(substeps, int) or isinstance(substeps, bool) or substeps < 1:
        raise ValueError(
            f"the sub-steps of '{model.name}@{name}' must be a whole number, 1 or more; found {substeps!r}."
        )
    times = f"x{substeps}" if substeps > 1 else ""
    made = _implicit(model, substeps) if name == "backward_euler" else _explicit(model, *EXPLICIT[name], substeps)
    said = name.replace("_", " ") + (f", {substeps} sub-steps" if times else "")
    made.__doc__, made.__module__ = f"One step by {said}.", model.reference_step.__module__
    return replace(
        model, name=f"{model.name}@{name}{times}", title=f"{model.title}, {said}", reference_step=made, rates=False
    )


def named(model: ModelSpec, how: str) -> ModelSpec:
    """The model by a scheme and sub-steps in one word, such as "rk4x8"."""
    parts = re.fullmatch(r"(.+?)x(-?\d+)", how)
    return scheme(model, parts[1], int(parts[2])) if parts else scheme(model, how)


def _per_day(model: ModelSpec) -> Callable:
    """The rates, and the fluxes per day, of the forcing of a step."""
    rates, depths = model.reference_step, tuple(v.name for v in model.forcings if v.unit == DEPTH)

    def of(f: Mapping, k: Mapping, p: Mapping, s: Mapping) -> tuple[Mapping, Mapping]:
        return rates({**f, **{name: f[name] / k["dt"] for name in depths}}, k, p, s)

    return of


def _shares(model: ModelSpec, dt: Any, substeps: int) -> dict[str, Any]:
    """What each flux of a sub-step counts in that of the step."""
    return {v.name: dt / substeps if v.unit == DEPTH else 1 / substeps for v in model.fluxes}


def _explicit(model: ModelSpec, stages: Sequence[Sequence[float]], weights: Sequence[float], substeps: int) -> Callable:
    of = _per_day(model)

    def step(f, k, p, s):
        shares = _shares(model, k["dt"], substeps)

        def part(now):
            slopes: list[Mapping] = []
            fluxes: list[Mapping] = []
            for row in stages:
                ahead = {name: now[name] for name in s}
                if row:
                    ahead = {n: x + k["dt"] / substeps * _mean(row, slopes, n) for n, x in ahead.items()}
                slope, flux = of(f, k, p, ahead)
                slopes.append(slope)
                fluxes.append(flux)
            after = {n: now[n] + k["dt"] / substeps * _mean(weights, slopes, n) for n in s}
            means = {n: share * _mean(weights, fluxes, n) for n, share in shares.items()}
            return after | {n: now[n] + x if substeps > 1 else x for n, x in means.items()}

        end = part(s) if substeps == 1 else repeat(substeps, substeps, part, {**s, **dict.fromkeys(shares, 0.0)})
        return {n: end[n] for n in s}, {n: end[n] for n in shares}

    return step


def _mean(weights: Sequence[float], rows: Sequence[Mapping], name: str) -> Any:
    total: Any = None
    for weight, row in zip(weights, rows, strict=True):
        if weight:
            part = row[name] if weight == 1 else weight * row[name]
            total = part if total is None else total + part
    return total


def _implicit(model: ModelSpec, substeps: int) -> Callable:
    of = _per_day(model)

    def step(f, k, p, s):
        shares = _shares(model, k["dt"], substeps)
        now = dict(s)
        total: dict[str, Any] = {}
        for _ in range(substeps):

            def equations(x, before=now):
                slopes, fluxes = of(f, k, p, x)
                gained = {n: k["dt"] / substeps * slopes[n] for n in before}
                residuals = {n: x[n] - before[n] - gained[n] for n in before}
                return residuals, {f"gained {n}": v for n, v in gained.items()} | dict(fluxes)

            found = implicit(equations, now)
            now = {n: x + found[f"gained {n}"] for n, x in now.items()}
            total = {n: share * found[n] + total.get(n, 0.0) for n, share in shares.items()}
        return now, total

    return step
