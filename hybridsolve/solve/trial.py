"""A trial of a model's table: every function of it is called once, before a search or a training of hours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..compiler.tracing import networks_of
from ..spec import DAY, ModelSpec, Variable
from .check import start_of
from .faults import passes_unlimited
from .simulate import simulate

PLACES = ("lower ends", "middles", "upper ends")  # of the parameters' ranges


@passes_unlimited()  # weather in the middle of its bounds is a flood beyond what a loop is for
def try_model(model: ModelSpec) -> None:
    """Run one step of the model in plain torch, from the dry and from the wet start, and sum its stores; the weights of
    networks inside are zero.

    Raises
    ------
    ValueError
        If a function of the table reads a name that is not there, returns what it must not, or starts a state out of
        its bounds, with all parameters at the ends or in the middle of their ranges.
    """
    unit = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    parameters = model.parameters_from_unit({v.name: unit for v in model.parameters})
    forcing = {v.name: torch.full((1, 1), _inside(v), dtype=torch.float64) for v in model.forcings}
    inputs = {v.name: torch.full((1,), _inside(v), dtype=torch.float64) for v in model.inputs}
    networks = {n.name: torch.zeros(n.weights, dtype=torch.float64) for n in networks_of(model.key)}
    for wet in (False, True):
        state = _start(model, parameters, unit, wet)
        run = simulate(
            model,
            forcing,
            parameters,
            inputs=inputs,
            networks=networks,
            step=DAY if model.steps is None else model.steps[0],
            initial_state=state,
            fluxes=model.output_names,
            components="each",
            backend="reference",
        )
    if model.balance is not None and model.balance.storage is not None:
        k = {name: x[:, None] for name, x in inputs.items()}
        stored = model.called("the storage of the balance", model.balance.storage, run.final_state, k, parameters)
        if not isinstance(stored, Tensor) or stored.shape != unit.shape:
            found = f"shape {list(stored.shape)}" if isinstance(stored, Tensor) else type(stored).__name__
            raise ValueError(
                f"the storage of the balance of model {model.name} must be a tensor [B, C], here {list(unit.shape)}; "
                f"found {found}: make it of the state."
            )


@passes_unlimited()
def left_by_balance(model: ModelSpec, days: int = 20) -> float | None:
    """The water, as a share of what is gained, that neither leaves nor is stored in a run over random weather.

    None of a model without a balance. The weights of networks inside are small and random.
    """
    if model.balance is None:
        return None
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=draw)

    def weather(v: Variable) -> Tensor:
        x = {"mm d-1": 12 * random(days, 1), "degC": 30 * random(days, 1) - 12}.get(v.unit)
        return x.clamp(v.lower, v.upper) if x is not None else v.lower + (v.upper - v.lower) * random(days, 1)

    forcing = {v.name: weather(v) for v in model.forcings}
    inputs = {v.name: torch.full((1,), _inside(v), dtype=torch.float64) for v in model.inputs}
    unit = torch.tensor([[0.25, 0.5, 0.75]], dtype=torch.float64)
    parameters = model.parameters_from_unit({v.name: unit for v in model.parameters})
    state = _start(model, parameters, unit, wet=True)
    terms = [*model.balance.gains, *model.balance.losses]
    run = simulate(
        model,
        forcing,
        parameters,
        inputs=inputs,
        networks={n.name: random(n.weights) - 0.5 for n in networks_of(model.key)},
        step=DAY if model.steps is None else max(s for s in model.steps if s <= DAY),
        initial_state=state,
        fluxes=[name for name in dict.fromkeys((model.outflow, *terms)) if name in model.output_names],
        components="each",
        backend="reference",
    )
    series = {name: x[..., None] for name, x in forcing.items()} | run.fluxes
    gained, lost = (sum(series[n].sum(0) for n in names) for names in (model.balance.gains, model.balance.losses))
    k = {name: x[:, None] for name, x in inputs.items()}
    empty = {v.name: torch.zeros(v.slots - 1, *unit.shape, dtype=torch.float64) for v in model.lines}
    before, after = (stored(model, s, k, parameters) for s in (state | empty, run.final_state))
    return float(((gained - lost - (after - before)) / gained).abs().max())


def stored(model: ModelSpec, state: Mapping, inputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """The water in a model's stores, mm ``[B, C]``."""
    if model.balance is not None and model.balance.storage is not None:
        return model.called("the storage of the balance", model.balance.storage, state, inputs, parameters)
    lines = {v.name for v in model.lines}
    depths = {v.name for v in model.states if v.unit == "mm"} | {v.name for v in model.lines if v.unit == "mm"}
    return sum(x.sum(0) if name in lines else x for name, x in state.items() if name in depths)


def _start(model: ModelSpec, parameters: dict[str, Tensor], like: Tensor, wet: bool) -> dict[str, Tensor]:
    """Where the states start ``[1, C]``, within their bounds."""
    found = {}
    for name, x in model.initial_state(parameters, wet).items():
        found[name] = start_of(model, name, x, like, like.shape)
        row = next(v for v in model.states if v.name == name)
        bad = ~((found[name] >= row.lower) & (found[name] <= row.upper))
        if bad.any():
            at = int(bad.nonzero()[0, 1])
            raise ValueError(
                f"the {'wet end' if wet else 'start'} of state '{name}' of model {model.name} must lie in "
                f"[{row.lower:g}, {row.upper:g}] {row.unit}; found {found[name][0, at]:g} with the parameters at the "
                f"{PLACES[at]} of their ranges: correct its function."
            )
    return found


def _inside(v: Variable) -> float:
    """Nothing, or what is nearest to it within the bounds; the middle of two finite ones."""
    if abs(v.lower) < 1e6 and abs(v.upper) < 1e6:
        return (v.lower + v.upper) / 2
    return min(max(0.0, v.lower), v.upper)
