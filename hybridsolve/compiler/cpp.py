"""A model as one C++ header on the contract of csrc/core/model.h, to be read beside its step in Python.

What the step calls a thing is its name in the header, its cotangent is ``d_`` and that name, and a comment holds the
line that the statements below it come from. A name that C++ or the contract has already gets an underscore.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..spec import ModelSpec
from . import jacobian, stages
from . import loops as of_loops
from . import networks as of_networks
from . import roots as of_roots
from .graph import Graph, Node, needed, rewrite
from .identity import identity
from .program import Program, loops_of, roots_of
from .reversal import Adjoint, reverse
from .simplify import fuse, made_once, replaced, share_reciprocals
from .statements import WIDTH, Body
from .tracing import networks_of, trace

_TAKEN = set("F K P D S Q W M V T B N C LINES SLOTS OUTFLOW PARAMETER LINEAR SLOPES SLOPE_OF PAIRED".split())
_TAKEN |= set("EOF NULL NAN INFINITY HUGE_VAL TRUE FALSE".split())


class _Body(Body):
    """With what writes the operations that have several results."""

    WRITE = dict(
        repeat=of_loops.write,
        adj_repeat=of_loops.write_adjoint,
        mlp=of_networks.write,
        adj_mlp=of_networks.write_adjoint,
        root=of_roots.write,
    )


def header(*models: ModelSpec, outputs: Collection[str] | None = None) -> str:
    """The header with the kernels of models, one for every choice of a model's optional parameters.

    Parameters
    ----------
    models : ModelSpec
    outputs : collection of str, optional
        What alone of fluxes and states has cotangents in the adjoints; all.

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
        structs += [(model.kernel_name(choice), *_struct(model, choice, outputs)) for choice in model.choices]
    files = dict.fromkeys(Path(model.reference_step.__code__.co_filename).name for model in models)
    titles = "\n// ".join(" ".join(f"{model.title}. {model.source}".split()) for model in models)
    body = "\n".join(text for _, _, text in structs)
    parts = ["mlp"] * ("Mlp<" in body) + ["root"] * ("Plain<V>" in body) or ["model"]
    included = "\n".join(f'#include "core/{part}.h"' for part in parts)
    kernels = " \\\n".join(f"  KERNEL({kernel}, {struct})" for kernel, struct, _ in structs)
    return f"""\
// {titles}
//
// Generated from {", ".join(files)} by hybridsolve.compiler: change that, not this. A comment with a number is the
// line of the Python step that the statements below it come from.
#pragma once

{included}

namespace hs {{
namespace HS_ISA {{

{body}
}}  // namespace HS_ISA
}}  // namespace hs

#define HS_MODELS(KERNEL) \\
{kernels}
"""


def compiled(
    model: ModelSpec,
    optional: Sequence[str] = (),
    outputs: Collection[str] | None = None,
    networks_unrolled: bool = False,
) -> tuple[Adjoint, Adjoint, Adjoint]:
    """The adjoints of a step, of what it is given that is made once, and of the ordinates of its delay lines.

    Where `outputs` are given, that of the step is of their cotangents and those of the states. Networks may be
    unrolled: then their weights are parameters behind the others.
    """
    step, ordinates = trace(model, optional)
    networks = networks_of(model.key, tuple(optional))
    P = len(model.present_parameters(optional))
    if networks_unrolled and networks:
        step = of_networks.unrolled(step, P)
        P += sum(network.weights for network in networks)
        networks = ()
    step = _simplified(step)
    once = made_once(step.graph, step.every_root)
    prepare = Program(step.graph, {"d": once})
    step = step.with_graph(*replaced(step.graph, step.every_root, once))
    for n, i in enumerate(once):
        if i in prepare.graph.names:
            step.graph.names[step.graph.leaf("d", n)] = prepare.graph.names[i]
    lines = len(model.lines)
    counts = {"s": len(model.states) + lines, "f": len(model.forcings), "p": P, "d": len(once), "w": lines}
    counts["n"] = len(networks)
    silent = [("q", n) for n, name in enumerate(model.flux_names) if outputs is not None and name not in outputs]
    return reverse(step, counts, silent), reverse(prepare, {"p": P}), reverse(_simplified(ordinates), {"p": P})


def _simplified(program: Program) -> Program:
    def within(new: Graph, node: Node, i: int) -> int | None:
        if node.op not in ("repeat", "root"):
            return None
        return new.node(node.op, *node.args, value=replace(node.value, program=_simplified(node.value.program)))

    graph, roots, _ = rewrite(program.graph, program.every_root, within)
    graph, roots = share_reciprocals(graph, roots)
    graph, roots, _ = fuse(graph, roots)
    return program.with_graph(graph, roots)


def _struct(model: ModelSpec, optional: Sequence[str], outputs: Collection[str] | None) -> tuple[str, str]:
    """Name and text of the struct of one kernel."""
    name = "".join(part.capitalize() for part in model.kernel_name(optional).split("_"))
    step, prepare, ordinates = compiled(model, optional, outputs)
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
    networks = networks_of(model.key, tuple(optional))
    begins = [str(sum(network.weights for network in networks[:n])) for n in range(len(networks))]
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

    enums["n"] = begins
    counts = dict(F="f", P="p", S=None, Q="q", K="k", D="d")
    numbers = {n: len(model.states) if kind is None else len(rows[kind][1]) for n, kind in counts.items()}
    shown = [f"{n} = {x}" for n, x in numbers.items() if x or n in "FPSQ"]
    lines = [f"struct {name} : Defaults {{"]
    if model.lines:
        shown.append(f"LINES = {len(model.lines)}")
        slots = ", ".join(str(line.slots) for line in model.lines)
    if networks:
        shown.append(f"NETWORKS = {len(networks)}, WEIGHTS = {sum(network.weights for network in networks)}")
    lines.append(f"  static constexpr int {', '.join(shown)};")
    if model.lines:
        lines.append(f"  static constexpr int SLOTS[] = {{{slots}}};")
    if networks:
        weights = ", ".join(str(network.weights) for network in networks)
        lines.append(f"  static constexpr int NETWORK_WEIGHTS[] = {{{weights}}};")
    for what, names in (
        ("forcing", rows["f"][1]),
        ("input", rows["k"][1]),
        ("parameter", rows["p"][1]),
        ("state", model.state_names),
        ("line", model.line_names),
        ("flux", rows["q"][1]),
        ("network", tuple(network.name for network in networks)),
    ):
        if names or what not in ("input", "line", "network"):
            lines += _filled(f'  static constexpr const char* {what}_names = "{" ".join(names)}";')
    lines += [
        row
        for kind, (what, names) in rows.items()
        if names and what
        for row in _filled(f"  enum {what} {{ {', '.join(enums[kind])} }};")
    ]
    lines.append(f'  static constexpr const char* identity = "{identity(model)}";')
    lines.append(f"  static constexpr int OUTFLOW = {enums['q'][model.flux_names.index(model.outflow)]};")
    if loops_of(step.program, prepare.program, ordinates.program) or roots_of(step.program):
        lines.append("  static constexpr bool LOOPS = true;")
    step = stages.apart(step)
    kept, of_stages = _step(step, enums)
    lines += of_stages
    lines += _linear(model, step.program, kept, enums, jacobian.depends(prepare.program, ordinates.program))
    if once:
        given = {i: f"in.d[{enums['d'][n]}]" for n, i in enumerate(prepare.program.roots["d"])}
        lines += _function(
            "template <class V> static HS_APART void prepare(const Given<V>& in, V* d)",
            _forward(prepare, enums),
        )
        lines += _function(
            "template <class V> static HS_APART void prepare_adj(const Given<V>& in, const Cotangents<V>& d)",
            _Body(prepare.program.graph, enums, given=given).backward(prepare.d_leaves),
        )
    if model.lines:
        lines += _function(
            "template <class V> static HS_APART void ordinates(const Given<V>& in, V* w)",
            _forward(ordinates, enums),
        )
        lines += _function(
            "template <class V> static HS_APART void ordinates_adj(const Given<V>& in, const V* d_w, "
            "const Cotangents<V>& d)",
            _Body(ordinates.program.graph, enums).backward(ordinates.d_leaves),
        )
    return name, "\n".join([*lines, "};", ""])


def _forward(adjoint: Adjoint, enums: dict[str, list[str]]) -> list[str]:
    """The body of a function that makes all results of a program."""
    body = _Body(adjoint.program.graph, enums)
    return body.forward(body.places(adjoint.program.every_result), ())


def _step(step: Adjoint, enums: dict[str, list[str]]) -> tuple[list[int], list[str]]:
    """What the step keeps, and the text of it and its adjoint in stages."""
    whole, graph = step.program.graph, step.program.graph.plain()
    # What derivatives alone are made of is no part of the step where nothing carries them forward.
    moves = needed(whole, step.program.every_root) - needed(graph, step.program.every_root)
    step = replace(step, program=replace(step.program, graph=graph))
    cut = stages.of_step(step)
    # What crosses a cut is stored anyhow: where the adjoint wants it, for good.
    wanted = needed(graph, step.d_leaves.values(), step.kept)
    taped = [i for i in cut.crossing if i in wanted and graph.op(i) != "logarithm"]
    kept = [*step.kept, *taped]
    between = _Body(graph, enums, [i for i in cut.crossing if i not in taped])
    parts, done = [], set()
    for made, results in zip(cut.made, cut.stored, strict=True):
        body = _Body(graph, enums, kept, {i: f"m.{name}" for i, name in between.fields.items() if i in done})
        crossing = [(f"m.{name}", i) for i, name in between.fields.items() if i in made]
        parts.append(body.forward(crossing + body.places(results), made))
        done.update(made)

    sums = _Body(graph, enums, kept).chains(step.d_leaves)
    once = [i for i in moves if graph.op(i) not in (*stages.FREE, "same")]
    cut = stages.of_adjoint(step, kept, sums, once)
    between_adjoint = _Body(graph, enums, cut.crossing)
    parts_adjoint, done = [], set()
    for made, results in zip(cut.made, cut.stored, strict=True):
        places = sums | {i: f"m.{name}" for i, name in between_adjoint.fields.items()}
        body = _Body(graph, enums, kept, {i: place for i, place in places.items() if i in done})
        body.chains(step.d_leaves)
        body.sums = {i: place for i, place in sums.items() if i in made}
        crossing = [(f"m.{name}", i) for i, name in between_adjoint.fields.items() if i in made]
        states = {leaf: i for leaf, i in results.items() if leaf[0] == "d_s"}
        calls = [i for i in made if graph.op(i) == "adj_mlp"]  # which add to the weights' cotangents
        body.cotangents(crossing + body.places(states), [*body.sums, *calls])
        parts_adjoint.append(body.lines)
        done.update(made)

    lines = [f"  static constexpr int STAGES = {len(parts)}, ADJOINT_STAGES = {len(parts_adjoint)};", ""]
    structs = dict(Kept=_Body(graph, enums, kept), Between=between, BetweenAdjoint=between_adjoint)
    for name, members in structs.items():
        lines += [f"  template <class V> struct {name} {{", *(f"    {row}" for row in members.declared()), "  };"]
    lines += _function(
        "template <int STAGE, bool KNOWN = false, class V, class Fluxes> static HS_FN void stage(const Given<V>& in, "
        "V* s, Fluxes& q, Kept<V>& kept, Between<V>& m)",
        _in_parts("STAGE", range(len(parts)), parts),
    )
    in_stages = ["Between<V> m;", *(f"stage<{n}, KNOWN>(in, s, q, kept, m);" for n in range(len(parts)))]
    if moves:
        body = _Body(whole, enums, kept)
        body.forward(body.places(step.program.every_result), kept)
        in_one = [f"  {row}" if row else "" for row in body.lines]
        lines.insert(1, "  static constexpr bool DUAL_STAGES = false;")
        in_stages = ["if constexpr (is_dual<V>) {", *in_one, "} else {", *(f"  {row}" for row in in_stages), "}"]
    lines += _function(
        "template <bool KNOWN = false, class V> static HS_FN void step(const Given<V>& in, V* s, V* q, Kept<V>& kept)",
        in_stages,
    )
    lines += _function(
        "template <int STAGE, class V> static HS_FN void stage_adj(const Given<V>& in, const V* s, "
        "const Kept<V>& kept, const V* d_q, V* d_s, const Cotangents<V>& d, BetweenAdjoint<V>& m)",
        _in_parts("STAGE", range(len(parts_adjoint)), parts_adjoint),
    )
    lines += _function(
        "template <class V> static HS_FN void step_adj(const Given<V>& in, const V* s, const Kept<V>& kept, "
        "const V* d_q, V* d_s, const Cotangents<V>& d)",
        [
            "BetweenAdjoint<V> m;",
            *(f"stage_adj<{n}>(in, s, kept, d_q, d_s, d, m);" for n in range(len(parts_adjoint))),
        ],
    )
    return kept, lines


def _linear(
    model: ModelSpec, step: Program, kept: Sequence[int], enums: dict[str, list[str]], depends: Sequence[set[int]]
) -> list[str]:
    """How a step moves with its parameters; `depends` says on which what is made once and every ordinate depend."""
    S, D = len(model.states), len(enums["d"])
    begins = [D + sum(line.slots for line in model.lines[:n]) for n in range(len(model.lines))]
    moved = {
        S + n: set[int]().union(*depends[begin : begin + line.slots])
        for n, (begin, line) in enumerate(zip(begins, model.lines, strict=True))
    }
    places = [*((("d", n), n) for n in range(D)), *((("w", n), begin) for n, begin in enumerate(begins))]
    slopes = [(leaf, place, p) for leaf, place in places for p in sorted(depends[place])]
    outflow = ("q", model.flux_names.index(model.outflow))
    results = [outflow, *(("s", n) for n in range(len(enums["s"])))]
    before = len(step.graph.nodes)
    linear = jacobian.linearise(step, results, [(leaf, p) for leaf, _, p in slopes], moved)
    if linear is None:
        return []
    g = linear.graph

    def called(v: jacobian.Vertex) -> str:
        kind, n = v if isinstance(v, tuple) else g.nodes[v].value if g.op(v) == "leaf" else ("", v)
        return enums[kind][n].lower() if kind else g.names.get(n, "x")

    for v, along in linear.edges.items():
        for a, c in along.items():
            if c >= before:
                g.names.setdefault(c, f"{called(v)}_{called(a)}")
    made = {c for along in linear.edges.values() for c in along.values() if g.number(c) is None}
    members = _Body(g, enums, sorted(made))
    lines = ["", "  static constexpr bool LINEAR = true;"]
    if slopes:
        of = ", ".join(f"{{{place}, {p}}}" for _, place, p in slopes)
        lines += _filled(f"  static constexpr int SLOPES = {len(slopes)}, SLOPE_OF[][2] = {{{of}}};")
    lines += ["  template <class V> struct Linear {"]
    lines += [row for text in members.declared() for row in _filled(f"    {text}")] + ["  };"]
    variables = {("slope", n): f"slope[{n}]" for n in range(len(slopes))}
    lines += _function(
        "template <class V> static HS_FN void linear(const Given<V>& in, const V* slope, const V* s, "
        "const Kept<V>& kept, Linear<V>& m)",
        _Body(g, enums, kept, variables=variables).forward(
            [(f"m.{name}", i) for i, name in members.fields.items()], ()
        ),
    )
    tangents: list[list[str]] = []
    for p in range(len(enums["p"])):
        stores, body = _along(linear, p, results, members, enums)
        tangents.append([row for row in body.forward(stores, ()) if row] if stores else [])
    lines += _function(
        "template <int PARAMETER, class V> static HS_FN void tangent(const Linear<V>& m, V* s, V& q)",
        _in_parts("PARAMETER", enums["p"], tangents),
    )
    return lines


def _along(
    linear: jacobian.Linear, p: int, results: Sequence[tuple[str, int]], members: Body, enums: dict[str, list[str]]
) -> tuple[list[tuple[str, int]], Body]:
    """Along a parameter, the tangents of results to be stored, and the body that makes them."""
    g, to = linear.graph, Graph()
    variables = {("m", i): f"m.{name}" for i, name in members.fields.items()}
    tangents: dict[jacobian.Vertex, int] = {}
    for v, along in linear.edges.items():
        total = None
        for a, c in along.items():
            if p not in linear.moved[a]:
                continue
            number = g.number(c)
            coefficient = to.leaf("m", c) if number is None else to.const(number)
            if isinstance(a, int) and g.op(a) == "leaf" and g.nodes[a].value[0] in "sp":
                kind, n = g.nodes[a].value
                tangent = to.const(1) if kind == "p" else to.leaf("s", n)
            else:
                tangent = tangents[a]
            if total is None:
                total = to.mul(coefficient, tangent)
            elif to.number(coefficient) in (None, 1) and to.number(tangent) is None:
                total = to.fma(coefficient, tangent, total)
            else:
                total = to.add(total, to.mul(coefficient, tangent))
        if total is not None:
            tangents[v] = total
            if isinstance(v, int) and v in g.names and to.op(total) not in ("leaf", "const", "neg"):
                to.names.setdefault(total, f"d_{g.names[v]}")
    stores = [("q", tangents[v]) for v in results if v in tangents and v[0] == "q"]
    for v in results:
        if v[0] == "s" and (v in tangents or any(p in linear.moved.get(a, ()) for a in [g.leaf(*v)])):
            stores.append((f"s[{enums['s'][v[1]]}]", tangents.get(v, to.const(0))))
    return stores, _Body(to, enums, variables=variables)


def _in_parts(what: str, names: Iterable[object], parts: Iterable[Sequence[str]]) -> list[str]:
    """The statements of each part under a condition that the compiler decides."""
    lines: list[str] = []
    for name, part in zip(names, parts, strict=True):
        lines.append(f"{'} else ' if lines else ''}if constexpr ({what} == {name}) {{")
        lines += [f"  {row}" if row else "" for row in part]
    return [*lines, "}"]


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
    if any(re.search(r"\bT\b", row) for row in text if not _is_remark(row)):
        rows.append("    using T = typename Lane<V>::scalar;")
    used = [kind for kind in "fp" if any(re.search(rf"(?<![\w.]){kind}\[", x) for x in text if not _is_remark(x))]
    if used:
        rows.append("    const V " + ", ".join(f"*{kind} = in.{kind}" for kind in used) + ";")
    for row in text:
        rows += [f"    {row}"[:WIDTH]] if _is_remark(row) else _filled(f"    {row}")
    return [*rows, "  }"]


def _is_remark(row: str) -> bool:
    return row.lstrip().startswith("//")


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
