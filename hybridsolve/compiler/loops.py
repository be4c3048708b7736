"""The loops of a step as statements of C++: all cells of a pack pass until the last has made its passes.

The adjoint makes the passes again and holds what each starts from; then it goes through them from the last to the
first. A cell that has made its passes keeps what it has, and gets and gives no cotangent in those of others.
"""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph, needed
from .program import Loop
from .statements import Body


def write(body: Body, i: int) -> list[str]:
    """The statements of a "repeat"; the names of its results."""
    loop, n, values, captured = _begin(body, i, body.graph.nodes[i].value)
    done = body.unused("done")
    lines = _pass(body, loop, values, captured)
    body.lines += [
        f"for (int {done} = 0; {done} < {loop.most}; ++{done}) {{",
        *(f"  {line}" for line in (*_goes_on(n, done), *lines)),
        "}",
    ]
    # More passes than there may be, or a number that is none, make no number. In a loop those alone count that go on.
    within = body.unused("within")
    counts = f"{within} | no(going)" if body.variables else within
    body.lines += [
        f"const auto {within} = {n} <= splat<V>(T({loop.most}));",
        *(f"{x} = select({within}, {x}, splat<V>(T(0) / T(0)));" for x in values),
        f"if (in.beyond) *in.beyond = select({counts}, *in.beyond, splat<V>(T(1)));",
    ]
    return values


def write_adjoint(body: Body, i: int) -> list[str]:
    """The statements of an "adj_repeat"; the names of the cotangents of what the loop starts from and captures."""
    adjoint, size = body.graph.nodes[i].value, len(body.graph.nodes[i].value.loop.names)
    loop, n, values, captured = _begin(body, i, adjoint.loop)
    done, starts = body.unused("done"), body.unused("starts")
    body.lines += [f"V {starts}[{loop.most}][{size}];", f"int {done} = 0;"]
    put = [f"{starts}[{done}][{k}] = {x};" for k, x in enumerate(values)]
    lines = [*_goes_on(n, done), *put, *_pass(body, loop, values, captured)]
    body.lines += [f"for (; {done} < {loop.most}; ++{done}) {{", *(f"  {line}" for line in lines), "}"]

    d_values = [body.unused(f"d_{x}") for x in values]
    body.lines += [f"V {d} = {body.vector(a)};" for d, a in zip(d_values, body.graph.args(i)[-size:], strict=True)]
    d_captured = [body.unused(f"d_{name}") for name in _names(loop)]
    body.lines += [f"V {d}{{}};" for d in d_captured]
    before = [body.unused(name) for name in loop.names]
    d_after = [body.unused(f"{d}_after") for d in d_values]
    variables = {("c", k): x for k, x in enumerate(before)} | {("x", j): x for j, x in enumerate(captured)}
    variables |= {("d_c", k): d for k, d in enumerate(d_after)} | {("d_x", j): d for j, d in enumerate(d_captured)}
    inner = body.within(adjoint.reversal.program.graph, variables)
    inner.backward(adjoint.reversal.d_leaves)
    lines = _goes_on(n, done)[:1]
    lines += [f"const V {x} = {starts}[{done}][{k}];" for k, x in enumerate(before)]
    lines += [f"const V {after} = select(going, {d}, V{{}});" for after, d in zip(d_after, d_values, strict=True)]
    lines += inner.lines
    lines += [f"{d} = select(going, {x}, {d});" for d, x in zip(d_values, inner.carried, strict=True)]
    body.lines += [f"while ({done}-- > 0) {{", *(f"  {line}" for line in lines), "}"]
    return d_values + d_captured


def _begin(body: Body, i: int, loop: Loop) -> tuple[Loop, str, list[str], list[str]]:
    """The number of passes by name, and what is carried and captured."""
    n, *operands = body.graph.args(i)[: 1 + len(loop.names) + loop.captured]
    count = body.unused("passes")
    body.lines.append(f"const V {count} = {body.vector(n)};")
    values = [body.unused(name) for name in loop.names]
    body.lines += [f"V {name} = {body.vector(a)};" for name, a in zip(values, operands, strict=False)]
    return loop, count, values, [body.vector(a, 3) for a in operands[len(values) :]]


def _goes_on(n: str, done: str) -> list[str]:
    return [f"const auto going = {n} >= splat<V>(T({done} + 1));", "if (!any(going)) break;"]


def _pass(body: Body, loop: Loop, values: Sequence[str], captured: Sequence[str]) -> list[str]:
    """One pass, after which the cells that are going have other values."""
    graph, roots = loop.program.graph, loop.program.roots["c"]
    inner = body.within(
        graph, {("c", k): x for k, x in enumerate(values)} | {("x", j): x for j, x in enumerate(captured)}
    )
    inner.choose(roots, (), ())
    for j in sorted(needed(graph, roots)):
        inner.write(j, known=False)
    after = [inner.unused(f"{x}_after") for x in values]
    lines = inner.lines + [f"const V {x} = {inner.value(j)};" for x, j in zip(after, roots, strict=True)]
    return lines + [f"{x} = select(going, {y}, {x});" for x, y in zip(values, after, strict=True)]


def _names(loop: Loop) -> list[str]:
    """What a loop captures is called, in its order."""
    graph: Graph = loop.program.graph
    leaves = {graph.nodes[i].value: i for i in range(len(graph.nodes)) if graph.op(i) == "leaf"}
    found = [leaves.get(("x", j)) for j in range(loop.captured)]
    return [graph.names.get(i, "x") if i is not None else "x" for i in found]
