"""The roots of a step's equations as statements of C++ and of Triton, and on plain floats: Newton's iterations.

A lane goes on until each residual is small (`residual_allowed`). Where a step does not lessen the sum of those that are
not, it is halved until it does: a kink may lie between. (The sum is the norm in which stores that drain into each other
come nearer to their root, where one takes in what another has lost; the largest is not. In the first iterations a step
that leaves it as it is counts too: where a power is infinitely steep at an empty store, steps are at first too small to
show.) All lanes iterate until the last is done; those that are done keep what they have. Equations may be so steep that
a spacing of an unknown makes more of a residual than is allowed: from the `STEEP`-th iteration on it may be what
`step_allowed` of the unknowns makes of it. A lane that is not done after `most` iterations has no number, and the run
ends with an error that has the residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from .graph import needed
from .program import Root
from .statements import Body
from .triton_statements import Function

HOPELESS = 1e30  # mm, a residual at the start that is no number in effect
STEEP = 8


def write(body: Body, i: int) -> list[str]:
    """The statements of a "root"; the names of its results."""
    root: Root = body.graph.nodes[i].value
    n, operands = len(root.names), body.graph.args(i)
    kept = {body.graph.nodes[j].value: f"kept.{name}" for j, name in body.fields.items() if body.graph.args(j) == (i,)}
    results = [body.unused(name) for name in root.names]
    body.lines += [f"V {x}{{}};" for x in results]
    x, best, step, wide, r, newton = (
        [body.unused(f"{name}_{what}") for name in root.names]
        for what in ("tried", "best", "step", "allowed", "residual", "newton")
    )
    captured = [body.unused("given") for _ in range(root.captured)]
    slopes = [body.unused("slope") for _ in root.entries]
    done, least, found, off, better, taken = (
        body.unused(name) for name in ("done", "least", "found", "off", "better", "taken")
    )
    variables = {("c", k): name for k, name in enumerate(x)} | {("x", j): name for j, name in enumerate(captured)}
    inner = body.within(root.program.graph, variables)
    inner.TYPE = "U"
    residuals, steps, entries = (root.program.roots[kind] for kind in "rcj")
    inner.choose([*residuals, *steps, *entries], (), ())

    def computed(nodes: Sequence[int], names: Sequence[str]) -> list[str]:
        inner.lines = []
        for j in sorted(needed(inner.graph, nodes)):
            inner.write(j, known=False)
        return inner.lines + [f"const U {name} = {inner.value(j)};" for name, j in zip(names, nodes, strict=True)]

    lines = ["using U = typename Plain<V>::type;"]
    lines += [f"const U {name} = plain({body.vector(a)});" for name, a in zip(captured, operands[n:], strict=True)]
    for a, b, c, d, w in zip(operands, x, best, step, wide, strict=False):
        lines.append(f"U {b} = plain({body.vector(a)}), {c} = {b}, {d}{{}}, {w}{{}};")
    lines += [
        f"const U hopeless = splat<U>(T({HOPELESS:g}));",
        f"U {least} = hopeless;",
        f"auto going = {x[0]} == {x[0]};",
        f"decltype(going) {found} = no(going) & going;",
        f"for (int {done} = 0; {done} < {root.most}; ++{done}) {{",
    ]
    total = "U{}"
    for a, b, w in zip(r, x, wide, strict=True):
        part = f"beyond_allowed({a}, {b}, {w})"
        total = part if total == "U{}" else f"{total} + {part}"
    loop = [
        *computed(residuals, r),
        f"const U {off} = {total};",
        f"const decltype(going) {better} = {done} < {STEEP} ? {off} <= {least} : {off} < {least};",
        f"const decltype(going) {taken} = {better} & going;",
        *(f"{b} = select({taken}, {a}, {b});" for a, b in zip(x, best, strict=True)),
        f"{least} = select({taken}, {off}, {least});",
        f"{found} = {found} | ({taken} & ({off} <= U{{}}));",
        f"going = going & ({least} < hopeless) & no({found});",
        "if (!any(going)) break;",
        *computed([*steps, *entries], [*newton, *slopes]),
        f"if ({done} >= {STEEP}) {{",
        *(f"  {w} = {_noise(root, row, slopes, x, 'size_of({})')};" for row, w in enumerate(wide)),
        "}",
    ]
    for a, b, d, s in zip(x, best, step, newton, strict=True):
        loop += [f"{d} = select({better}, {s}, {d} * T(0.5));", f"{a} = {b} + {d};"]
    lines += [*(f"  {line}" for line in loop), "}"]
    nothing = "splat<U>(T(0) / T(0))"
    lines += [f"{y} = constant<V>(select({found}, {b}, {nothing}));" for y, b in zip(results, best, strict=True)]
    lines.append(f"if (in.beyond) note_residual(*in.beyond, {found}, {least});")
    if len(kept) == n:  # a step on duals has the values
        there = " ".join(f"{y} = {kept[k]};" for k, y in enumerate(results))
        body.lines += [f"if constexpr (KNOWN) {{ {there} }} else {{"]
    body.lines += ["{"] * (len(kept) < n) + [*(f"  {line}" for line in lines), "}"]
    return results


def _noise(root: Root, row: int, slopes: Sequence[str], x: Sequence[str], size: str) -> str:
    """What the rounding of unknowns makes of a residual."""
    parts = [
        f"{size.format(slope)} * step_allowed({x[k]})"
        for (i, k), slope in zip(root.entries, slopes, strict=True)
        if i == row
    ]
    return " + ".join(parts)


def write_in_triton(body: Function, i: int) -> list[str]:
    """The statements of a "root" in Triton; the names of its results."""
    root: Root = body.graph.nodes[i].value
    n, operands = len(root.names), body.graph.args(i)
    best = [body.unused(name) for name in root.names]
    x, step, wide, r, newton = (
        [body.unused(f"{name}_{what}") for name in root.names]
        for what in ("tried", "step", "allowed", "residual", "newton")
    )
    slopes = [body.unused("slope") for _ in root.entries]
    going, found, least, done, off, better, taken = (
        body.unused(name) for name in ("going", "found", "least", "done", "off", "better", "taken")
    )
    zero = body.lanes("zero")
    for a, name, b, d, w in zip(operands, x, best, step, wide, strict=False):
        body.lines += [f"{name} = {body.vector(a)}", f"{b} = {name}", f"{d} = {zero}", f"{w} = {zero}"]
    captured = [body.vector(a, 3) for a in operands[n:]]
    variables = {("c", k): name for k, name in enumerate(x)} | {("x", j): name for j, name in enumerate(captured)}
    inner = body.within(root.program.graph, variables)
    nodes = [j for kind in "rcj" for j in root.program.roots[kind]]
    inner.compute(nodes, root.program.roots["r"])
    loop = inner.lines + [f"{name} = {inner.value(j)}" for name, j in zip([*r, *newton, *slopes], nodes, strict=True)]
    total, beyond = "", body.function("beyond_allowed")
    for a, b, w in zip(r, x, wide, strict=True):
        part = f"{beyond}({a}, {b}, {w})"
        total = f"{total} + {part}" if total else part
    body.function("step_allowed")
    loop += [
        f"{off} = {total}",
        f"{better} = ({off} < {least}) | (({off} == {least}) & ({done} < {STEEP}))",
        f"{taken} = {better} & {going}",
        *(f"{b} = tl.where({taken}, {a}, {b})" for a, b in zip(x, best, strict=True)),
        f"{least} = tl.where({taken}, {off}, {least})",
        f"{found} = {found} | ({taken} & ({off} <= 0.0))",
        f"{going} = {going} & ({least} < {HOPELESS:g}) & ~{found}",
    ]
    for row, w in enumerate(wide):
        loop.append(f"{w} = tl.where({done} >= {STEEP}, {_noise(root, row, slopes, x, 'tl.abs({})')}, {w})")
    for a, b, d, s in zip(x, best, step, newton, strict=True):
        loop += [f"{d} = tl.where({better}, {s}, {d} * 0.5)", f"{a} = {b} + {d}"]
    body.lines += [
        f"{least} = {body.function('number')}({body.like()}, {HOPELESS:g})",
        f"{going} = {x[0]} == {x[0]}",
        f"{found} = ~{going} & {going}",
        f"{done} = 0",
        f"while ({done} < {root.most}) & (tl.max({going}.to(tl.int32), axis=0) > 0):",
        *(f"    {line}" for line in [*loop, f"{done} += 1"]),
        *(f'{b} = tl.where({found}, {b}, float("nan"))' for b in best),
    ]
    if body.beyond:
        body.lines.append(f"{body.beyond} = tl.where({found}, {body.beyond}, 1.0)")
    return best
