"""The roots of a step's equations as statements of C++ and of Triton, and on plain floats: Newton's iterations.

A lane goes on until its residuals are small, or its step is, which is where equations are so steep that one spacing of
an unknown is more than the residual may be. Where a step does not lessen the largest residual it is halved until it
does: a kink may lie between. All lanes iterate until the last is done; those that are done keep what they have. One
that is not after `most` iterations has no number, and the run ends with an error that has the residual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .graph import needed

if TYPE_CHECKING:
    from .implicit import Root
    from .statements import Body
    from .triton import _Function

HOPELESS = 1e30  # mm, a residual at the start that is no number in effect


def write(body: Body, i: int) -> list[str]:
    """The statements of a "root"; the names of its results."""
    root: Root = body.graph.nodes[i].value
    n, operands = len(root.names), body.graph.args(i)
    kept = {body.graph.nodes[j].value: f"kept.{name}" for j, name in body.fields.items() if body.graph.args(j) == (i,)}
    results = [body.unused(name) for name in root.names]
    body.lines += [f"V {x}{{}};" for x in results]
    x = [body.unused(f"{name}_tried") for name in root.names]
    best = [body.unused(f"{name}_best") for name in root.names]
    step = [body.unused(f"{name}_step") for name in root.names]
    captured = [body.unused("given") for _ in range(root.captured)]
    pass_, least, found, off, better, taken = (
        body.unused(name) for name in ("pass", "least", "found", "off", "better", "taken")
    )
    variables = {("c", k): name for k, name in enumerate(x)} | {("x", j): name for j, name in enumerate(captured)}
    inner = body.within(root.program.graph, variables)
    inner.TYPE = "U"
    residuals, steps = root.program.roots["r"], root.program.roots["c"]
    inner.choose([*residuals, *steps], (), ())

    def computed(nodes: Sequence[int], names: Sequence[str]) -> list[str]:
        inner.lines = []
        for j in sorted(needed(inner.graph, nodes)):
            inner.write(j, known=False)
        return inner.lines + [f"const U {name} = {inner.value(j)};" for name, j in zip(names, nodes, strict=True)]

    r, newton = ([body.unused(f"{name}_{what}") for name in root.names] for what in ("residual", "newton"))
    lines = ["using U = typename Plain<V>::type;"]
    lines += [f"const U {name} = plain({body.vector(a)});" for name, a in zip(captured, operands[n:], strict=True)]
    lines += [f"U {name} = plain({body.vector(a)}), {b} = {name}, {d}{{}};" for name, a, b, d in zip(x, operands, best, step, strict=False)]  # fmt: skip
    lines += [
        f"const U hopeless = splat<U>(T({HOPELESS:g}));",
        f"U {least} = hopeless;",
        f"auto going = {x[0]} == {x[0]}, {found} = no(going) & going;",
        f"for (int {pass_} = 0; {pass_} < {root.most}; ++{pass_}) {{",
    ]
    largest = f"size_of({r[0]})"
    for name in r[1:]:
        largest = f"above({largest}, size_of({name}))"
    small = " & ".join(f"(size_of({a}) <= residual_allowed({b}))" for a, b in zip(r, x, strict=True))
    short = " & ".join(f"(size_of({a}) <= step_allowed({b}))" for a, b in zip(newton, x, strict=True))
    loop = [
        *computed(residuals, r),
        f"const U {off} = {largest};",
        f"const decltype(going) {better} = {off} < {least}, {taken} = {better} & going;",
        *(f"{b} = select({taken}, {a}, {b});" for a, b in zip(x, best, strict=True)),
        f"{least} = select({taken}, {off}, {least});",
        f"{found} = {found} | ({taken} & {small});",
        f"going = going & ({least} < hopeless) & no({found});",
        "if (!any(going)) break;",
        *computed(steps, newton),
        f"{found} = {found} | ({taken} & {short});",
        f"going = going & no({found});",
    ]
    for a, b, d, s in zip(x, best, step, newton, strict=True):
        loop += [f"{d} = select({better}, {s}, {d} * T(0.5));", f"{a} = {b} + {d};"]
    lines += [*(f"  {line}" for line in loop), "}"]
    nothing = "splat<U>(T(0) / T(0))"
    lines += [f"{y} = constant<V>(select({found}, {b}, {nothing}));" for y, b in zip(results, best, strict=True)]
    lines.append(f"if (in.beyond) *in.beyond = select({found}, *in.beyond, constant<V>({least}));")
    if len(kept) == n:  # a step on duals has the values
        there = " ".join(f"{y} = {kept[k]};" for k, y in enumerate(results))
        body.lines += [f"if constexpr (KNOWN) {{ {there} }} else {{"]
    body.lines += ["{"] * (len(kept) < n) + [*(f"  {line}" for line in lines), "}"]
    return results


def write_in_triton(body: _Function, i: int) -> list[str]:
    """The statements of a "root" in Triton; the names of its results."""
    root: Root = body.graph.nodes[i].value
    n, operands = len(root.names), body.graph.args(i)
    x = [body.unused(f"{name}_tried") for name in root.names]
    best = [body.unused(name) for name in root.names]
    step = [body.unused(f"{name}_step") for name in root.names]
    going, found, least, done, off, better, taken = (
        body.unused(name) for name in ("going", "found", "least", "done", "off", "better", "taken")
    )
    for a, name, b, d in zip(operands, x, best, step, strict=False):
        body.lines += [f"{name} = {body.vector(a)}", f"{b} = {name}", f"{d} = {body.lanes('zero')}"]
    captured = [body.vector(a, 3) for a in operands[n:]]
    variables = {("c", k): name for k, name in enumerate(x)} | {("x", j): name for j, name in enumerate(captured)}
    inner = body.within(root.program.graph, variables)
    nodes = [*root.program.roots["r"], *root.program.roots["c"]]
    inner.compute(nodes, root.program.roots["r"])
    r, newton = ([body.unused(f"{name}_{what}") for name in root.names] for what in ("residual", "newton"))
    loop = inner.lines + [f"{name} = {inner.value(j)}" for name, j in zip([*r, *newton], nodes, strict=True)]
    largest = f"tl.abs({r[0]})"
    for name in r[1:]:
        largest = f"{body.function('maximum')}({largest}, tl.abs({name}))"
    allowed, spacing = body.function("residual_allowed"), body.function("step_allowed")
    small = " & ".join(f"(tl.abs({a}) <= {allowed}({b}))" for a, b in zip(r, x, strict=True))
    short = " & ".join(f"(tl.abs({a}) <= {spacing}({b}))" for a, b in zip(newton, x, strict=True))
    loop += [
        f"{off} = {largest}",
        f"{better} = {off} < {least}",
        f"{taken} = {better} & {going}",
        *(f"{b} = tl.where({taken}, {a}, {b})" for a, b in zip(x, best, strict=True)),
        f"{least} = tl.where({taken}, {off}, {least})",
        f"{found} = {found} | ({taken} & (({small}) | ({short})))",
        f"{going} = {going} & ({least} < {HOPELESS:g}) & ~{found}",
    ]
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


def iterated(root: Root, operands: Sequence[float]) -> list[float]:
    """The unknowns at the root, of plain floats."""
    from .evaluate import evaluate

    n, graph = len(root.names), root.program.graph
    given = {("x", j): v for j, v in enumerate(operands[n:])}
    best, step, least, x = list(operands[:n]), [0.0] * n, HOPELESS, list(operands[:n])
    for _ in range(root.most):
        at = given | {("c", k): v for k, v in enumerate(x)}
        found = evaluate(graph, [*root.program.roots["r"], *root.program.roots["c"]], at)
        off = max(map(abs, found[:n]))
        if off < least:
            best, least, step = x, off, found[n:]
            if off <= 1e-10 or all(abs(s) <= 2.0**-52 * max(abs(v), 1.0) for s, v in zip(step, x, strict=True)):
                return best
        elif least == HOPELESS:
            break
        else:
            step = [s / 2 for s in step]
        x = [b + s for b, s in zip(best, step, strict=True)]
    return [math.nan] * n
