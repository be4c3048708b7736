"""A trial of a model's table: every function of it is called once, before a search or a training of hours."""

from __future__ import annotations

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
