"""From weather to the flow at the gauge: a run, and its outflow through the hydrograph that the model's table names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..solve.check import dense, mapping, output_names
from ..solve.faults import refuse_values_outside
from ..solve.ordinates import ordinates
from ..solve.simulate import Run, simulate
from ..spec import DAY, Hydrograph, ModelSpec
from .convolve import convolve
from .units import Units


@dataclass(frozen=True)
class GaugeRun(Run):
    """A `Run` whose outflow is routed.

    Attributes
    ----------
    memory : Tensor or None
        The runoff that has not all passed yet, from which the next window continues; None where nothing was routed.
    """

    memory: Tensor | None = None


def simulate_to_gauge(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    fluxes: Sequence[str] | None = None,
    components: str = "mean",
    raw: bool = False,
    memory: Tensor | None = None,
    units: Units | None = None,
    **options: Any,
) -> GaugeRun:
    """Run a model, and route its outflow as its table says.

    Parameters
    ----------
    model, forcing, components, raw, options
        As for `simulate`.
    parameters : mapping of str to Tensor
        Those of `simulate`, and the routing's: ``[B]`` or ``[B, 1]`` for the mean of the components, ``[B, C]`` for
        each its own. Without any of the routing's the outflow is not routed, unless the table has a default of each.
    fluxes : sequence of str, optional
        The model's outflow if left out; the others are not routed.
    memory : Tensor, optional
        Of the run that this one continues.
    units : Units, optional
        Which basins are units of which gauges: their outflow is summed by area before the hydrograph, whose parameters
        are then of the G gauges, in place of B.

    Returns
    -------
    GaugeRun
        Series as those of `simulate`; with units the outflow is ``[T, G]``, mm per step over the gauge's area.

    Raises
    ------
    ValueError
        As `simulate`; or if some of the routing's parameters are missing or do not fit.
    """
    model = models.get(model)
    names = output_names(model, fluxes)
    if components not in ("mean", "each"):
        raise ValueError(f"components must be 'mean' or 'each'; found {components!r}: choose one.")
    if units is not None and not isinstance(units, Units):
        raise ValueError(f"units must be Units or None; found {type(units).__name__}: make them by Units.of.")
    given = mapping(parameters, "parameters")
    routing = _routing_parameters(model, given, raw)
    physics = {name: x for name, x in given.items() if name not in model.routing_parameter_names}
    if not routing and memory is not None:
        raise ValueError(
            f"a memory of the hydrograph needs its parameters, {', '.join(model.routing_parameter_names) or 'none'}; "
            "found none of them: add them, or leave the memory out."
        )
    if memory is not None and model.outflow not in names:
        raise ValueError(
            f"a memory of the hydrograph continues the outflow '{model.outflow}'; found fluxes {', '.join(names)}: add "
            "it to them, or leave the memory out."
        )
    each = max((x.shape[1] for x in routing.values()), default=1) > 1 or components == "each"
    if each and components == "mean" and options.get("weights") is not None:
        raise ValueError(
            "weights sum the components before their one hydrograph; found a hydrograph for each component: give its "
            "parameters as [B, 1], or leave weights out."
        )
    if not routing or model.routing is None or model.outflow not in names:
        run = simulate(model, forcing, physics, fluxes=names, components=components, raw=raw, **options)
        return GaugeRun(_summed(run.fluxes, model.outflow, units), run.final_state)
    run = simulate(model, forcing, physics, fluxes=names, components="each" if each else "mean", raw=raw, **options)
    series = _summed(run.fluxes, model.outflow, units)
    step = options.get("step", DAY)
    series[model.outflow], memory = _routed(series[model.outflow], model.routing, routing, step, memory)
    if each and components == "mean":
        series = {name: q.mean(-1) for name, q in series.items()}
    return GaugeRun(series, run.final_state, memory)


def _summed(series: Mapping[str, Tensor], outflow: str, units: Units | None) -> dict[str, Tensor]:
    """The series, the outflow at the gauges where there are units."""
    if units is None or outflow not in series:
        return dict(series)
    return dict(series) | {outflow: units.summed(series[outflow])}


def _routing_parameters(model: ModelSpec, given: Mapping[str, Tensor], raw: bool) -> dict[str, Tensor]:
    """Those of the hydrograph in their units, ``[B, 1]`` or ``[B, C]``; none where none is given."""
    found = {name: dense(given[name], f"parameter '{name}'") for name in model.routing_parameter_names if name in given}
    missing = [v for v in model.routing_parameters if v.name not in found]
    if not model.routing or (not found and any(v.default is None for v in missing)):
        return {}
    for v in missing:
        if v.default is None:
            raise ValueError(
                f"parameters must have all of {', '.join(model.routing_parameter_names)} or none; found no '{v.name}': "
                "add it."
            )
    for name, x in found.items():
        if x.dim() not in (1, 2):
            raise ValueError(
                f"{name} must be [B] or [B, C]; found {list(x.shape)}: reshape it; a hydrograph does not change "
                "in time."
            )
    found = {name: x[:, None] if x.dim() == 1 else x for name, x in found.items()}
    if raw:
        found = model.parameters_from_unit({name: torch.sigmoid(x) for name, x in found.items()})
    for v in model.routing_parameters:
        if v.name in found:
            refuse_values_outside(f"parameter '{v.name}'", found[v.name], v)
    like = next(iter((found or given).values()))
    return {v.name: found.get(v.name, like.new_full((1, 1), v.default or 0.0)) for v in model.routing_parameters}


def _routed(
    outflow: Tensor, hydrograph: Hydrograph, parameters: Mapping[str, Tensor], step: int, memory: Tensor | None
) -> tuple[Tensor, Tensor]:
    """An outflow ``[T, B]`` or ``[T, B, C]`` through the hydrographs of its columns, and the memory after it."""
    q = outflow[:, None] if outflow.dim() == 2 else outflow.transpose(1, 2)  # [T, C, B], as the solver lays it
    n_components = q.shape[1] if q.shape[1] > 1 else max(x.shape[1] for x in parameters.values())
    shape = (n_components, q.shape[2])
    for name, x in parameters.items():
        if x.dtype != outflow.dtype or x.device != outflow.device:
            raise ValueError(
                f"parameter '{name}' must be {outflow.dtype} on {outflow.device} as the outflow is; found {x.dtype} on "
                f"{x.device}: convert it with .to()."
            )
        if any(size not in (1, full) for size, full in zip(x.T.shape, shape, strict=True)):
            raise ValueError(
                f"{name} must be [{shape[1]}, {n_components}] as the other parameters, or 1 on an axis; found "
                f"{list(x.shape)}: reshape it."
            )
    w = ordinates(hydrograph, {name: x.T.expand(shape).flatten() for name, x in parameters.items()}, step)
    routed, memory = convolve(q.expand(len(q), *shape).flatten(1), w, memory, return_memory=True)
    routed = routed.view(len(q), *shape)
    return (routed[:, 0] if outflow.dim() == 2 else routed.transpose(1, 2)), memory
