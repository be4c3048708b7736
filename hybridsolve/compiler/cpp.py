"""A model as one C++ header on the contract of csrc/core/model.h, to be read beside its step in Python.

What the step calls a thing is its name in the header, its cotangent is ``d_`` and that name, and a comment holds the
line that the statements below it come from. A name that C++ or the contract has already gets an underscore.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..spec import ModelSpec
from .graph import Graph, Node, needed, rewrite
from .identity import identity
from .reversal import Adjoint, reverse
from .simplify import fuse, made_once, replaced, share_reciprocals
from .statements import Body
from .tracing import Program, loops_of, trace

WIDTH = 120
LONG = 300  # operations of an adjoint from which on two packs side by side do not fit the registers
_TAKEN = set("F K P D S Q W M V T B N C LINES SLOTS OUTFLOW PAIRED EOF NULL NAN INFINITY HUGE_VAL TRUE FALSE".split())


def header(*models: ModelSpec) -> str:
    """The header with the kernels of models, one for every choice of a model's optional parameters.

    Parameters
    ----------
    models : ModelSpec

    Returns
    -------
    str

    Raises
    ------
    StepError
        If the step does what no kernel can; the message names the line.
    """
    structs = []
    for model in models:
        structs += [(model.kernel_name(choice), *_struct(model, choice)) for choice in model.choices]
    files = dict.fromkeys(Path(model.reference_step.__code__.co_filename).name for model in models)
    titles = "\n// ".join(" ".join(f"{model.title}. {model.source}".split()) for model in models)
    kernels = " \\\n".join(f"  KERNEL({kernel}, {struct})" for kernel, struct, _ in structs)
    return f"""\
// {titles}
//
// Generated from {", ".join(files)} by hybridsolve.compiler: change that, not this. A comment with a number is the
// line of the Python step that the statements below it come from.
#pragma once

#include "core/model.h"

namespace hs {{
namespace HS_ISA {{

{chr(10).join(text for _, _, text in structs)}
}}  // namespace HS_ISA
}}  // namespace hs

#define HS_MODELS(KERNEL) \\
{kernels}
"""


def compiled(model: ModelSpec, optional: Sequence[str] = ()) -> tuple[Adjoint, Adjoint, Adjoint]:
    """The adjoints of a step, of what it is given that is made once, and of the ordinates of its delay lines."""
    step, ordinates = trace(model, optional)
    step = _simplified(step)
    once = made_once(step.graph, step.every_root)
    prepare = Program(step.graph, {"d": once})
    step = step.with_graph(*replaced(step.graph, step.every_root, once))
    for n, i in enumerate(once):
        if i in prepare.graph.names:
            step.graph.names[step.graph.leaf("d", n)] = prepare.graph.names[i]
    P = len(model.present_parameters(optional))
    lines = len(model.lines)
    counts = {"s": len(model.states) + lines, "f": len(model.forcings), "p": P, "d": len(once), "w": lines}
    return reverse(step, counts), reverse(prepare, {"p": P}), reverse(_simplified(ordinates), {"p": P})


def _simplified(program: Program) -> Program:
    def within(new: Graph, node: Node, i: int) -> int | None:
        if node.op != "repeat":
            return None
        return new.node("repeat", *node.args, value=replace(node.value, program=_simplified(node.value.program)))

    graph, roots, _ = rewrite(program.graph, program.every_root, within)
    graph, roots = share_reciprocals(graph, roots)
    graph, roots, _ = fuse(graph, roots)
    return program.with_graph(graph, roots)


def _struct(model: ModelSpec, optional: Sequence[str]) -> tuple[str, str]:
    """Name and text of the struct of one kernel."""
    name = "".join(part.capitalize() for part in model.kernel_name(optional).split("_"))
    step, prepare, ordinates = compiled(model, optional)
    once = _names_of(prepare)
    rows = {
        "f": ("Forcing", model.forcing_names),
        "k": ("Input", model.input_names),
        "p": ("Parameter", tuple(v.name for v in model.present_parameters(optional))),
        "d": ("Once", once),
        "s": ("State", model.state_names + model.line_names),
        "q": ("Flux", model.flux_names),
        "w": ("", model.line_names),
    }
    known: set[str] = set(_TAKEN)
    enums: dict[str, list[str]] = {}
    for kind, (_, names) in rows.items():
        if kind == "w":  # a line is a state too
            enums[kind] = [str(n) for n in range(len(names))]
            continue
        enums[kind] = []
        for n in names:
            upper = n.upper()
            while upper in known:
                upper += "_"
            known.add(upper)
            enums[kind].append(upper)

    counts = dict(F="f", P="p", S=None, Q="q", K="k", D="d")
    numbers = {n: len(model.states) if kind is None else len(rows[kind][1]) for n, kind in counts.items()}
    shown = [f"{n} = {x}" for n, x in numbers.items() if x or n in "FPSQ"]
    lines = [f"struct {name} : Defaults {{"]
    if model.lines:
        shown.append(f"LINES = {len(model.lines)}")
        slots = ", ".join(str(line.slots) for line in model.lines)
    lines.append(f"  static constexpr int {', '.join(shown)};")
    if model.lines:
        lines.append(f"  static constexpr int SLOTS[] = {{{slots}}};")
    for what, names in (
        ("forcing", rows["f"][1]),
        ("input", rows["k"][1]),
        ("parameter", rows["p"][1]),
        ("state", model.state_names),
        ("line", model.line_names),
        ("flux", rows["q"][1]),
    ):
        if names or what not in ("input", "line"):
            lines += _filled(f'  static constexpr const char* {what}_names = "{" ".join(names)}";')
    lines += [
        row
        for kind, (what, names) in rows.items()
        if names and what
        for row in _filled(f"  enum {what} {{ {', '.join(enums[kind])} }};")
    ]
    lines.append(f'  static constexpr const char* identity = "{identity(model)}";')
    lines.append(f"  static constexpr int OUTFLOW = {enums['q'][model.flux_names.index(model.outflow)]};")
    repeats = bool(loops_of(step.program, prepare.program, ordinates.program))
    if repeats:
        lines.append("  static constexpr bool LOOPS = true;")
    if repeats or len(needed(step.program.graph, step.d_leaves.values())) > LONG:
        lines.append("  static constexpr bool PAIRED = false;")
    lines.append("")

    forward = Body(step.program.graph, enums, step.kept)
    lines += ["  template <class V> struct Kept {", *(f"    {row}" for row in forward.kept_fields()), "  };"]
    lines += _function(
        "template <bool KNOWN = false, class V> static HS_FN void step(const Given<V>& in, V* s, V* q, Kept<V>& kept)",
        forward.forward({"q": step.program.roots["q"], "s": step.program.roots["s"]}),
    )
    lines += _function(
        "template <class V> static HS_FN void step_adj(const Given<V>& in, const V* s, Kept<V> kept, const V* d_q, "
        "V* d_s, const Cotangents<V>& d)",
        Body(step.program.graph, enums, step.kept).backward(step.d_leaves),
    )
    if once:
        given = {i: f"in.d[{enums['d'][n]}]" for n, i in enumerate(prepare.program.roots["d"])}
        lines += _function(
            "template <class V> static HS_APART void prepare(const Given<V>& in, V* d)",
            Body(prepare.program.graph, enums).forward(prepare.program.roots),
        )
        lines += _function(
            "template <class V> static HS_APART void prepare_adj(const Given<V>& in, const Cotangents<V>& d)",
            Body(prepare.program.graph, enums, given=given).backward(prepare.d_leaves),
        )
    if model.lines:
        lines += _function(
            "template <class V> static HS_APART void ordinates(const Given<V>& in, V* w)",
            Body(ordinates.program.graph, enums).forward(ordinates.program.roots),
        )
        lines += _function(
            "template <class V> static HS_APART void ordinates_adj(const Given<V>& in, const V* d_w, "
            "const Cotangents<V>& d)",
            Body(ordinates.program.graph, enums).backward(ordinates.d_leaves),
        )
    return name, "\n".join([*lines, "};", ""])


def _names_of(prepare: Adjoint) -> tuple[str, ...]:
    """Names for what is made once: the step's own, or one that says what it is made of."""
    graph, found = prepare.program.graph, []
    for n, i in enumerate(prepare.program.roots["d"]):
        name = graph.names.get(i) or f"once_{n}"
        while name in found:
            name += "_"
        found.append(name)
    return tuple(found)


def _function(signature: str, body: Iterable[str]) -> list[str]:
    """A function, indented and filled to the width."""
    rows = ["", *_filled(f"  {signature} {{")]
    text = list(body)
    if any(re.search(r"\bT\b", row) for row in text if not row.startswith("//")):
        rows.append("    using T = typename Lane<V>::scalar;")
    used = [kind for kind in "fp" if any(re.search(rf"(?<![\w.]){kind}\[", x) for x in text if not x.startswith("//"))]
    if used:
        rows.append("    const V " + ", ".join(f"*{kind} = in.{kind}" for kind in used) + ";")
    for row in text:
        rows += [f"    {row}"[:WIDTH]] if row.startswith("//") else _filled(f"    {row}")
    return [*rows, "  }"]


def _filled(row: str) -> list[str]:
    """A statement on as many lines as it needs."""
    if len(row) <= WIDTH:
        return [row.rstrip()]
    indent = len(row) - len(row.lstrip())
    if '"' in row:  # names: a string in two
        head, tail = row[: row.index('"')], row[row.index('"') + 1 : row.rindex('"')]
        parts = textwrap.wrap(tail, WIDTH - indent - 8)
        spaced = [f'"{x} "' for x in parts[:-1]] + [f'"{parts[-1]}"']
        return [head.rstrip(), *(f"{' ' * (indent + 4)}{x}" for x in spaced[:-1]), f"{' ' * (indent + 4)}{spaced[-1]};"]
    return textwrap.wrap(
        row, WIDTH, subsequent_indent=" " * (indent + 4), break_long_words=False, break_on_hyphens=False
    )
