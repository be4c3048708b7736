"""A model's table as text, for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from .spec import DelayLine, Forcing, ModelSpec, Parameter, State, Variable


def listed(model: ModelSpec) -> str:
    """The variables of a model, one a line: kind, name, unit, bounds, meaning, and what is not as usual."""
    lines = [
        f"Model {model.name}: {model.title} ({model.source})",
        f"  outflow {model.outflow}; routing of it: {routed(model)}; steps: {runs_at(model)}",
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
            said = f" ({', '.join(remarks(v))})" if remarks(v) else ""
            lines.append(f"  {kind:10} {v.name:13} {v.unit:18} {bounds:16} {v.meaning}{said}")
    return "\n".join(lines)


def overview(model: ModelSpec) -> str:
    """A model in a line: name, title, how many parameters are calibrated, forcing and steps."""
    free, forcing = len(model.free_parameters), ", ".join(model.forcing_names)
    return f"{model.name:30} {model.title:52} {free:2} parameters; {forcing}; steps: {runs_at(model)}"


def runs_at(model: ModelSpec) -> str:
    """The lengths of a step that it may run at."""
    return "any that divides a day" if model.steps is None else ", ".join(f"{s} s" for s in model.steps)


def routed(model: ModelSpec) -> str:
    """How the outflow is delayed."""
    routing = model.routing
    return f"{routing.kind} hydrograph of {routing.days:g} days, at the {routing.at}" if routing else "none"


def remarks(v: Variable | DelayLine) -> list[str]:
    """What of a row is not as usual."""
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
