"""A page in Markdown for each model, made of its table and of what its file says: docs/models of the package's own."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import models
from .compiler.cache import sources
from .compiler.latex import equations
from .data.files import refuse_file, write_text_atomic
from .listing import remarks, routed, runs_at
from .spec import DelayLine, ModelSpec, Parameter, Variable

MARK = "<!-- Written by `hybridsolve models --pages`: change the model's file, and write it anew. -->\n"


def write_pages(wanted: Iterable[ModelSpec], folder: str | Path) -> list[Path]:
    """Write a page for each of these models, and README.md that lists them.

    Raises
    ------
    ValueError
        If a page would take the place of a file that was not written so.
    """
    folder = Path(folder)
    refuse_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages(wanted)
    for name in texts:
        there = folder / name
        if there.exists() and not there.read_text(encoding="utf-8").startswith(MARK):
            raise ValueError(
                f"{there} must be a page that this command has written, found another file; name another folder."
            )
    return [write_text_atomic(folder / name, text) for name, text in texts.items()]


def pages(wanted: Iterable[ModelSpec]) -> dict[str, str]:
    """The pages by the name of their file, and the list of them."""
    wanted = list(wanted)
    lines = [MARK, "# Models", ""]
    rows = [
        (f"[{m.name}]({m.name}.md)", m.title, len(m.free_parameters), ", ".join(m.forcing_names), runs_at(m), m.source)
        for m in wanted
    ]
    lines += _table(("name", "model", "calibrated parameters", "forcing", "steps", "source"), rows)
    lines += [
        "",
        "A front, such as a snow routine, goes before another model by its name: `cemaneige+gr4j`, in layers ",
    ]
    lines[-1] += "`cemaneige-3+gr4j` ([how to add a model](../adding-a-model.md))."
    return {f"{m.name}.md": page(m) for m in wanted} | {"README.md": "\n".join(lines) + "\n"}


def page(model: ModelSpec) -> str:
    """What there is to know of a model: paper, equations and what differs between programs, and its table."""
    module = sys.modules.get(model.reference_step.__module__)
    about = inspect.cleandoc(module.__doc__ or "") if module is not None else ""
    lines = [MARK, f"# {model.title}: `{model.name}`", "", f"Source: {model.source}.", "", about, ""]
    lines += ["## Equations as computed", ""]
    lines += [
        "Made from the step itself, a line a value in the order of the step, under the names that it has in Python. "
    ]
    lines[-1] += "A name that is set again has a prime more; an arrow sets what the next step begins with"
    lines[-1] += "; ω is the first ordinate of a delay line, which shifts by itself." if model.lines else "."
    lines += ["", "```math", r"\begin{aligned}", equations(model), r"\end{aligned}", "```", ""]
    lines += ["## Forcing and inputs", ""]
    lines += _rows("forcing", model.forcings) + _rows("input of a basin", model.inputs, head=False)
    lines += ["", "## Parameters", ""]
    parameters = [(p, "") for p in model.parameters] + [(p, "optional") for p in model.optional_parameters]
    parameters += [(p, "of the hydrograph") for p in model.routing_parameters]
    cells = [
        (f"`{p.name}`", p.unit, f"{p.lower:g} to {p.upper:g}", "; ".join(filter(None, [kind, *remarks(p)])), p.meaning)
        + (p.source,)
        for p, kind in parameters
    ]
    lines += _table(("name", "unit", "range of search", "how", "meaning", "source of the range"), cells)
    fixed = [f"`{p.name}` at {p.default:g}" for p in model.every_parameter if not p.free]
    lines += ["", f"Not calibrated unless asked: {', '.join(fixed)}." if fixed else "All are calibrated by default."]
    lines += ["", "## States", "", *_rows("state", model.states), *_rows("delay line", model.lines, head=False)]
    lines += ["", "## Outputs", "", *_rows("flux", model.fluxes), ""]
    lines += [f"`{model.outflow}` is the outflow; its routing: {routed(model)}.", ""]
    if model.balance is not None:
        gains, losses = (", ".join(f"`{n}`" for n in names) for names in (model.balance.gains, model.balance.losses))
        lines += [f"Water balance: gains {gains}; losses {losses}.", ""]
    lines += ["## Kernels", "", f"{kernels(model)} Steps: {runs_at(model)}."]
    return "\n".join(lines) + "\n"


def kernels(model: ModelSpec) -> str:
    """Where the CPU's kernels of a model come from."""
    by_hand = {
        name: file.name
        for file in sorted((sources() / "models").glob("*.h"))
        for name in re.findall(r"KERNEL\((\w+)", file.read_text(encoding="utf-8"))
    }
    file = by_hand.get(model.kernel_name(()))
    if file is not None:
        return f"By hand in `csrc/models/{file}`, compiled with the package."
    when = "with the package" if model.name in models.SHIPPED else "at first use, in a wheel with the package"
    return f"Generated from the step, compiled {when}."


def _rows(kind: str, variables: Sequence[Variable | DelayLine], head: bool = True) -> list[str]:
    cells = [(f"`{v.name}`", kind, v.unit, _bounds(v), "; ".join(remarks(v)), v.meaning) for v in variables]
    return _table(("name", "kind", "unit", "bounds", "how", "meaning"), cells, head)


def _bounds(v: Variable | DelayLine) -> str:
    if isinstance(v, DelayLine | Parameter) or (v.lower, v.upper) == (-float("inf"), float("inf")):
        return ""
    lower, upper = (f"{x:g}" if abs(x) < 1e30 else "" for x in (v.lower, v.upper))
    return f"{lower} to {upper}" if lower and upper else f"from {lower}" if lower else f"to {upper}" if upper else ""


def _table(head: Sequence[str], cells: Iterable[Sequence[object]], with_head: bool = True) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)] if with_head else []
    return lines + [f"| {' | '.join(str(x).replace('|', chr(92) + '|') for x in row)} |" for row in cells]
