"""The checks of a model's table, where it is made: what is wrong is said before anything runs."""

from __future__ import annotations

import inspect
import keyword
import math
import re
from numbers import Real
from typing import TYPE_CHECKING, Any

from .rows import DAY, Balance, DelayLine, Forcing, Hydrograph, Input, Parameter, Signature, State, Variable

if TYPE_CHECKING:
    from .spec import ModelSpec

HYDROGRAPHS = {"gamma": 2, "nash": 2, "lag": 1}  # kind: how many parameters the function of that name takes


def check(m: ModelSpec) -> None:
    """Raise what is wrong with a model: types first, then names and words, then numbers."""
    if not isinstance(m.name, str) or not m.name or re.search(r"[\s,:/\\]", m.name):
        raise ValueError(
            f"a model's name must be text without space, comma, colon or slash; found {m.name!r}: rename it."
        )
    _check_types(m)
    every = [v.name for table in m._tables for v in table]
    for name in every:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"model {m.name} has a variable {name!r}, which is no identifier: rename it.")
        if every.count(name) > 1:
            raise ValueError(f"model {m.name} has two variables '{name}'; expected one: rename one of them.")
    signatures = [s.name for s in m.signatures]
    for name in signatures:
        if signatures.count(name) > 1:
            raise ValueError(f"model {m.name} has two signatures '{name}'; expected one: rename one of them.")
    if "dt" in every:
        raise ValueError(f"model {m.name} has a variable 'dt', which is the length of the step: rename it.")
    if m.outflow not in m.flux_names:
        raise ValueError(
            f"the outflow of model {m.name} must be one of its fluxes, {', '.join(m.flux_names)}; found "
            f"'{m.outflow}': correct it."
        )
    for what, found, expected in _words(m):
        if found not in expected:
            raise ValueError(
                f"{what} of model {m.name} must be one of {', '.join(expected)}; found '{found}': correct it."
            )
    for table in (m.forcings, m.inputs, m.states):
        for v in table:
            _check_bounds(m, v)
    fluxes = {v.name for v in m.fluxes}
    for row in m.inputs:
        if isinstance(row, Input) and row.annual is not None and row.annual not in fluxes:
            raise ValueError(
                f"annual of the input '{row.name}' of model {m.name} must be a flux of it; found {row.annual!r}: "
                f"name one of {', '.join(sorted(fluxes))}."
            )
    for p in m.every_parameter:
        _check_parameter(m, p)
    for s in m.states:
        for what, x in (("start", s.initial), ("have its wet end", s.wet)):
            if not callable(x) and not (_is_number(x) and s.lower <= x <= s.upper):
                name = "initial value" if what == "start" else "wet end"
                raise ValueError(
                    f"state '{s.name}' of model {m.name} must {what} in [{s.lower:g}, {s.upper:g}] {s.unit}; found "
                    f"{_shown(x)}: correct its {name}."
                )
    for line in m.lines:
        if not _is_integer(line.slots) or line.slots < 2:
            raise ValueError(
                f"delay line '{line.name}' of model {m.name} must have a whole number of slots, 2 or more; found "
                f"{line.slots!r}: correct it."
            )
    steps = m.steps if isinstance(m.steps, tuple) else ()
    right = [s for s in steps if _is_integer(s) and s > 0 and (DAY % s == 0 or s % DAY == 0)]
    if m.steps is not None and not (right and len(right) == len(steps)):
        raise ValueError(
            f"the steps of model {m.name} must be a tuple of whole seconds that divide a day, of whole days, or None; "
            f"found {m.steps!r}: correct them."
        )
    if m.routing is not None:
        _check_hydrograph(m, m.routing)
    if m.rates:
        _check_rates(m)


def _check_rates(m: ModelSpec) -> None:
    if m.lines:
        raise ValueError(
            f"model {m.name} is given as rates, which have no delay lines; found '{m.lines[0].name}': make stores of "
            "it, or give the model as a step."
        )
    for p in (*m.parameters, *m.optional_parameters):
        if p.step != "none":
            raise ValueError(
                f"model {m.name} is given as rates, which are per day at any step, so that the step of parameter "
                f"'{p.name}' must be 'none'; found '{p.step}': leave it out."
            )


def _check_types(m: ModelSpec) -> None:
    """Raise unless the tables are tuples of their rows, and the functions take what they will be given."""
    rows: dict[str, type] = dict(forcings=Forcing, parameters=Parameter, optional_parameters=Parameter, states=State)
    rows |= dict(fluxes=Variable, inputs=Variable, lines=DelayLine, signatures=Signature)
    tables = {name: (getattr(m, name), row) for name, row in rows.items()}
    for name, kind in (("routing", Hydrograph), ("balance", Balance)):
        if getattr(m, name) is not None and not isinstance(getattr(m, name), kind):
            raise TypeError(
                f"{name} of model {m.name} must be a {kind.__name__} or None; found {type(getattr(m, name)).__name__}: "
                "make one of it."
            )
    if m.routing is not None:
        tables["routing.parameters"] = m.routing.parameters, Parameter
    if m.balance is not None:
        tables |= {f"balance.{name}": (getattr(m.balance, name), str) for name in ("gains", "losses")}
    for name, (table, kind) in tables.items():
        rest = [v for v in table if not isinstance(v, kind)] if isinstance(table, tuple) else [table]
        if rest:
            raise TypeError(
                f"{name} of model {m.name} must be a tuple of {kind.__name__}; found {type(rest[0]).__name__}: write "
                f"({kind.__name__}(...), ...), with a comma after a single one."
            )
    texts = [(f"{name} of", getattr(m, name)) for name in ("title", "source")]
    rows_of_all = [*(v for table in m._tables for v in table), *m.signatures]
    texts += [(f"the {what} of {v.name!r} of", getattr(v, what)) for v in rows_of_all for what in ("unit", "meaning")]
    for what, text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} model {m.name} must be text; found {text!r}: correct it.")
    for name in ("forcings", "states"):
        if not getattr(m, name):
            raise ValueError(f"{name} of model {m.name} must have one row at least; found none: add one.")
    if not isinstance(m.triton, str | None):
        raise TypeError(f"triton of model {m.name} must be a module's name or None; found {m.triton!r}: correct it.")
    takes: list[tuple[str, Any, str]] = [("reference_step", m.reference_step, "forcing, inputs, parameters, state")]
    takes += [("prepare", m.prepare, "inputs, parameters")] if m.prepare is not None else []
    takes += [(f"the ordinates of delay line '{v.name}'", v.ordinates, "inputs, parameters") for v in m.lines]
    for s in m.states:
        ends = (("the start", s.initial), ("the wet end", s.wet))
        takes += [(f"{what} of state '{s.name}'", x, "parameters") for what, x in ends if callable(x)]
    if m.balance is not None and m.balance.storage is not None:
        takes.append(("balance.storage", m.balance.storage, "state, inputs, parameters"))
    for what, function, names in takes:
        try:
            inspect.signature(function).bind(*names.split(","))
        except (TypeError, ValueError):  # no function; one that takes another number of arguments
            found = f"takes {inspect.signature(function)}" if inspect.isfunction(function) else f"is {function!r}"
            raise TypeError(
                f"{what} of model {m.name} must be a function of ({names}); found one that {found}: correct it."
            ) from None


def _words(m: ModelSpec) -> list[tuple[str, str, tuple[str, ...]]]:
    """The words of the tables, each with what it is and what it may be."""
    found: list[tuple[str, str, tuple[str, ...]]]
    found = [(f"the transform of forcing '{v.name}'", v.transform, ("none", "log")) for v in m.forcings]
    found += [(f"how of signature '{s.name}'", s.how, ("mean", "max")) for s in m.signatures]
    series = m.forcing_names + m.output_names
    found += [(f"of of signature '{s.name}'", s.of, series) for s in m.signatures]
    found += [(f"over of signature '{s.name}'", s.over, series) for s in m.signatures if s.over is not None]
    if m.balance:
        found += [("the balance", name, series) for name in (*m.balance.gains, *m.balance.losses)]
    for p in m.every_parameter:
        found.append((f"the scale of parameter '{p.name}'", p.scale, ("linear", "log")))
        found.append((f"the step of parameter '{p.name}'", p.step, ("none", "rate", "fraction")))
    if m.routing:
        found.append(("the kind of hydrograph", m.routing.kind, tuple(HYDROGRAPHS)))
        found.append(("where the hydrograph has its ordinates, at,", m.routing.at, ("midpoint", "end")))
    return found


def _check_bounds(m: ModelSpec, v: Variable) -> None:
    if not (_is_number(v.lower) and _is_number(v.upper) and v.lower <= v.upper):
        raise ValueError(
            f"the bounds of '{v.name}' of model {m.name} must be numbers, the lower first; found {v.lower!r} and "
            f"{v.upper!r}: correct them."
        )


def _check_parameter(m: ModelSpec, p: Parameter) -> None:
    what = f"parameter '{p.name}' of model {m.name}"
    _check_bounds(m, p)
    if not (math.isfinite(p.lower) and math.isfinite(p.upper) and p.lower < p.upper):
        raise ValueError(
            f"{what} must have finite bounds with a range between, which is searched; found [{p.lower:g}, "
            f"{p.upper:g}]: give it both."
        )
    if p.default is not None and not (_is_number(p.default) and p.lower <= p.default <= p.upper):
        raise ValueError(
            f"the default of {what} must lie in [{p.lower:g}, {p.upper:g}]; found {_shown(p.default)}: correct it."
        )
    if not isinstance(p.free, bool):
        raise ValueError(f"free of {what} must be True or False; found {p.free!r}: correct it.")
    if not p.free and p.default is None:
        raise ValueError(f"{what} is not free and has no default: give it one.")
    if p.allowed is not None and not (
        isinstance(p.allowed, tuple)
        and len(p.allowed) == 2
        and all(_is_number(x) and math.isfinite(x) for x in p.allowed)
        and p.allowed[0] <= p.lower
        and p.upper <= p.allowed[1]
    ):
        raise ValueError(
            f"allowed of {what} must be two numbers around its bounds [{p.lower:g}, {p.upper:g}], or None; found "
            f"{p.allowed!r}: correct it."
        )
    if p.scale == "log" and not p.lower > 0:
        raise ValueError(
            f"{what} has a log scale, which needs a lower bound above 0; found {p.lower:g}: raise it, or take 'linear'."
        )
    lower, upper = p.taken
    if p.step == "fraction" and not 0 <= lower < upper <= 1:
        raise ValueError(
            f"{what} is a fraction that leaves in a day, which needs bounds in [0, 1]; found [{lower:g}, {upper:g}]: "
            "correct them, or its step."
        )


def _check_hydrograph(m: ModelSpec, h: Hydrograph) -> None:
    what = f"the hydrograph of model {m.name}"
    if len(h.parameters) != HYDROGRAPHS[h.kind]:
        raise ValueError(
            f"{what} must have {HYDROGRAPHS[h.kind]} parameters, which '{h.kind}' takes; found "
            f"{', '.join(v.name for v in h.parameters) or 'none'}: add or remove some."
        )
    if not _is_number(h.days) or not 0 < h.days < math.inf:
        raise ValueError(f"{what} must have a length above 0 days; found {h.days!r}: correct it.")
    if h.cut is not None and (not _is_number(h.cut) or math.isnan(h.cut)):
        raise ValueError(f"the cut of {what} must be a number or None; found {h.cut!r}: correct it.")
    if not isinstance(h.normalised, bool):
        raise ValueError(f"normalised of {what} must be True or False; found {h.normalised!r}: correct it.")


def _is_number(x: object) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def _is_integer(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _shown(x: object) -> str:
    return f"{x:g}" if isinstance(x, Real) and not isinstance(x, bool) else repr(x)
