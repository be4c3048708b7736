"""Models made of models: what turns precipitation into water, before what turns water into flow, in one step.

`join` puts a front before a body: the front's outflow is the body's precipitation. `layered` makes of a front one over
layers of elevation. Both are found by name too: "cemaneige+gr4j", "cemaneige-3+gr6j".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..rows import Balance, Forcing
from ..spec import ModelSpec, Variable
from .primitives import exp, minimum, select

WATER = "prcp"  # what a body takes from what stands before it
ELEVATION = Variable("elev_mean", "m", "mean elevation of the basin, which its forcing is of", -500.0, 9000.0)
GRADIENT = 0.00041  # 1/m, growth of the log of precipitation with elevation (Valéry 2010)
LEVEL = 4000.0  # m, above which precipitation grows no more


def join(front: ModelSpec, body: ModelSpec) -> ModelSpec:
    """A front, such as a snow routine, and behind it a body, such as a runoff model, as one model.

    Parameters
    ----------
    front : ModelSpec
        Its outflow becomes the body's precipitation; it has no hydrograph.
    body : ModelSpec
        Has a forcing `prcp`.

    Returns
    -------
    ModelSpec
        Named ``front+body``: forcings, inputs, parameters, states and fluxes of both, the front's first; outflow,
        hydrograph and signatures of the body. A forcing or an input that both have is one.

    Raises
    ------
    ValueError
        If the body has no `prcp`; if both have a parameter, state or flux of one name, or run at no step in common.
    """
    name = f"{front.name}+{body.name}"
    if WATER not in body.forcing_names or front.routing is not None:
        reason = (
            f"'{body.name}' has no forcing '{WATER}'"
            if WATER not in body.forcing_names
            else f"the outflow of '{front.name}' passes a hydrograph"
        )
        raise ValueError(
            f"'{name}' must be a front whose outflow is the precipitation of a body; found that {reason}: join others."
        )
    for what in ("every_parameter", "states", "lines", "fluxes"):
        twice = {v.name for v in getattr(front, what)} & {v.name for v in getattr(body, what)}
        if twice:
            kind = dict(every_parameter="parameter", states="state", lines="delay line", fluxes="flux")[what]
            raise ValueError(
                f"'{name}' must be of two models without a name in common; found the {kind} '{min(twice)}' in both: "
                "join others, or rename it in one of them."
            )
    balance = None
    if front.balance and body.balance:
        balance = Balance(
            gains=front.balance.gains + tuple(n for n in body.balance.gains if n != WATER),
            losses=tuple(n for n in front.balance.losses if n != front.outflow) + body.balance.losses,
            storage=_storage_of_both(front, body),
        )
    return ModelSpec(
        name=name,
        title=f"{front.title}, then {body.title}",
        source=f"{front.source}; {body.source}",
        forcings=_merged(name, front.forcings, tuple(v for v in body.forcings if v.name != WATER)),
        inputs=_merged(name, front.inputs, body.inputs),
        parameters=front.parameters + body.parameters,
        optional_parameters=front.optional_parameters + body.optional_parameters,
        states=front.states + body.states,
        lines=front.lines + body.lines,
        fluxes=front.fluxes + body.fluxes,
        reference_step=_one_after_the_other(front, body),
        prepare=_prepare_of_both(front, body),
        outflow=body.outflow,
        routing=body.routing,
        balance=balance,
        signatures=body.signatures,
        steps=_steps_in_common(name, front, body),
    )


def layered(front: ModelSpec, n: int, scaled: bool = True) -> ModelSpec:
    """A front over layers of elevation, each of the same area.

    In a layer at z of a basin whose forcing is of z0, precipitation is ``exp(0.00041 (min(z, 4000) - z0))`` times as
    large, scaled so that its mean over the layers is that of the basin; every temperature is lower by its lapse rate, a
    forcing (degC/km), times z - z0. All layers have the front's parameters; its fluxes are means over the layers.

    Parameters
    ----------
    front : ModelSpec
        With a forcing `prcp`, and at least one in degC.
    n : int
        Layers.
    scaled : bool
        Keep the basin's precipitation. If not, the flux `lapsed` is what the layers have more of it.

    Returns
    -------
    ModelSpec
        Named ``front-n``; of its states there is one a layer, ``name_1``; inputs are `elev_mean`, z0, and
        `elev_layer_1` and so on, z.

    Raises
    ------
    ValueError
        If n is no whole number above 0, or the front has no precipitation or temperature, or has delay lines.
    """
    name = f"{front.name}-{n}" if scaled else f"{front.name}-{n}_unscaled"
    degrees = tuple(v.name for v in front.forcings if v.unit == "degC")
    if not isinstance(n, int) or n < 1 or WATER not in front.forcing_names or not degrees or front.lines:
        raise ValueError(
            f"'{name}' must be one layer or more of a front with precipitation and temperature and without delay "
            f"lines; found {n!r} of '{front.name}', which has {', '.join(front.forcing_names + front.line_names)}: "
            "take another front."
        )
    layers = range(1, n + 1)
    z = [f"elev_layer_{i}" for i in layers]
    gains = tuple(front.balance.gains) if front.balance else ()

    def step(f, k, p, s):
        """The front's step in each layer."""
        height = [minimum(k[name], LEVEL) - k[ELEVATION.name] for name in z]
        above = [(k[name] >= LEVEL) & (k[ELEVATION.name] >= LEVEL) for name in z]
        share = [exp(GRADIENT * select(both, 0 * h, h)) for both, h in zip(above, height, strict=True)]
        mean = _sum(share) / n
        if scaled:
            share = [x / mean for x in share]
        state: dict[str, Any] = {}
        every = []
        for i, x in zip(layers, share, strict=True):
            elevation = k[z[i - 1]]
            higher = (elevation - k[ELEVATION.name]) / 1000
            of_layer = dict(f) | {d: f[d] - higher * f[_lapse(d)] for d in degrees} | {WATER: f[WATER] * x}
            new, fluxes = front.reference_step(
                of_layer, {**k, ELEVATION.name: elevation}, p, {v.name: s[f"{v.name}_{i}"] for v in front.states}
            )
            state |= {f"{name}_{i}": value for name, value in new.items()}
            every.append(fluxes)
        means = {name: _sum([fluxes[name] for fluxes in every]) / n for name in every[0]}
        return state, means if scaled else means | {"lapsed": f[WATER] * (mean - 1)}

    def stored(state, inputs, parameters):
        """Mean over the layers."""
        return _sum([_storage(front, {v.name: state[f"{v.name}_{i}"] for v in front.states}, inputs, parameters)
                     for i in layers]) / n  # fmt: skip

    lapses = tuple(Forcing(_lapse(d), "degC km-1", f"decrease of {d} with elevation", -50.0, 50.0) for d in degrees)
    elevations = tuple(Variable(name, "m", f"elevation of layer {i}", -500.0, 9000.0) for i, name in enumerate(z, 1))
    inputs = tuple(v for v in front.inputs if v.name != ELEVATION.name)
    more = () if scaled else (Variable("lapsed", "mm d-1", "precipitation of the layers beyond that of the basin"),)
    return replace(
        front,
        name=name,
        title=f"{front.title}, {n} layers",
        forcings=front.forcings + lapses,
        inputs=inputs + (ELEVATION, *elevations),
        states=tuple(
            replace(v, name=f"{v.name}_{i}", meaning=f"{v.meaning}, layer {i}") for i in layers for v in front.states
        ),
        fluxes=front.fluxes + more,
        reference_step=step,
        balance=front.balance and replace(front.balance, gains=gains + tuple(v.name for v in more), storage=stored),
        triton=None,
    )


def _lapse(temperature: str) -> str:
    return f"{temperature}_lapse"


def _sum(values: Sequence[Any]) -> Any:
    total = values[0]
    for x in values[1:]:
        total = total + x
    return total


def _merged(name: str, first: tuple, second: tuple) -> tuple:
    """Rows of both; one that both have must have one unit, and gets the narrower bounds."""
    rows = {v.name: v for v in first}
    for v in second:
        other = rows.get(v.name, v)
        if other.unit != v.unit:
            raise ValueError(
                f"'{name}' must be of two models that agree on '{v.name}'; found it in {other.unit} and in {v.unit}: "
                "rename it in one of them."
            )
        rows[v.name] = replace(other, lower=max(other.lower, v.lower), upper=min(other.upper, v.upper))
    return tuple(rows.values())


def _one_after_the_other(front: ModelSpec, body: ModelSpec) -> Callable:
    def step(f, k, p, s):
        """The front's step, and with its outflow the body's."""
        before, water = front.reference_step(f, k, p, s)
        after, fluxes = body.reference_step({**f, WATER: water[front.outflow]}, k, p, s)
        return {**before, **after}, {**water, **fluxes}

    return step


def _prepare_of_both(front: ModelSpec, body: ModelSpec) -> Callable | None:
    first, second = front.prepare, body.prepare
    if first is None or second is None:
        return first or second
    return lambda k, p: {**first(k, p), **second(k, p)}


def _storage(model: ModelSpec, state: Mapping, inputs: Mapping, parameters: Mapping) -> Any:
    if model.balance is not None and model.balance.storage is not None:
        return model.balance.storage(state, inputs, parameters)
    return _sum([state[v.name] for v in model.states if v.unit == "mm"])


def _storage_of_both(front: ModelSpec, body: ModelSpec) -> Callable:
    return lambda state, inputs, parameters: (
        _storage(front, state, inputs, parameters) + _storage(body, state, inputs, parameters)
    )


def _steps_in_common(name: str, front: ModelSpec, body: ModelSpec) -> tuple[int, ...] | None:
    if front.steps is None or body.steps is None:
        return body.steps if front.steps is None else front.steps
    common = tuple(step for step in front.steps if step in body.steps)
    if not common:
        raise ValueError(
            f"'{name}' must be of two models that run at one step; found {front.steps} s and {body.steps} s: join "
            "others."
        )
    return common
