"""A model's table as text, for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from .spec import DelayLine, Forcing, ModelSpec, Parameter, State, Variable


def listed(model: ModelSpec) -> str:
    """The variables of a model, one a line: kind, name, unit, bounds, meaning, and what is not as usual."""
    steps = "any that divides a day" if model.steps is None else ", ".join(f"{s} s" for s in model.steps)
    routing = model.routing
    routed = f"{routing.kind} hydrograph of {routing.days:g} days, at the {routing.at}" if routing else "none"
    lines = [
        f"Model {model.name}: {model.title} ({model.source})",
        f"  outflow {model.outflow}; routing of it: {routed}; steps: {steps}",
    ]
    tables: dict[str, Sequence[Variable | DelayLine]] = {
        "forcing": model.forcings,
        "input": model.inputs,
        "parameter": model.parameters,
        "optional": model.optional_parameters,
        "routing": model.routing_parameters,
        "state": model.states,
        "line": model.lines,
        "flux": model.fluxes,
    }
    bounded = ("input", "parameter", "optional", "routing")
    for kind, rows in tables.items():
        for v in rows:
            bounds = f"[{v.lower:g}, {v.upper:g}]" if kind in bounded and isinstance(v, Variable) else ""
            remarks = _remarks(v)
            said = f" ({', '.join(remarks)})" if remarks else ""
            lines.append(f"  {kind:10} {v.name:13} {v.unit:18} {bounds:16} {v.meaning}{said}")
    return "\n".join(lines)


def _remarks(v: Variable | DelayLine) -> list[str]:
    said = []
    if isinstance(v, Parameter):
        said += [f"default {v.default:g}"] if v.default is not None else []
        said += [] if v.free else ["fixed"]
        said += ["log scale"] if v.scale == "log" else []
        said += [f"a {v.step}"] if v.step != "none" else []
        said += [f"runs take [{v.allowed[0]:g}, {v.allowed[1]:g}]"] if v.allowed else []
    if isinstance(v, State):
        said += ["starts at a function of parameters" if callable(v.initial) else f"starts at {v.initial:g}"]
    if isinstance(v, Forcing) and v.transform != "none":
        said += [f"{v.transform} in training"]
    if isinstance(v, DelayLine):
        said += [f"{v.slots} slots"]
    return said
