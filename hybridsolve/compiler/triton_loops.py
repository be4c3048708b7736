"""The loops of a step as statements of Triton: all lanes of a program pass until the last has made its passes.

A lane that has made its passes keeps what it has, and gets and gives no cotangent in those of others. The adjoint goes
through the passes from the last to the first. Having no array of its own, it makes the passes before each again, from
the start of the loop: of n passes n (n - 1) / 2 more, where a sub-step has few.
"""

from __future__ import annotations

from collections.abc import Sequence

from .loops import _names
from .program import Loop
from .triton_statements import Function


def write(body: Function, i: int) -> list[str]:
    """The statements of a "repeat"; the names of its results."""
    loop = body.graph.nodes[i].value
    n, limit, values, captured = _begin(body, i, loop)
    body.lines += _passes(body, loop, n, limit, values, captured)
    # More passes than there may be, or a number that is none, make no number. In a loop those alone count that go on.
    within = body.unused("within")
    body.lines.append(f"{within} = {n} <= {float(loop.most)}")
    body.lines += [f'{x} = tl.where({within}, {x}, float("nan"))' for x in values]
    if body.beyond:
        counts = f"{within} | ~{body.going}" if body.going else within
        body.lines.append(f"{body.beyond} = tl.where({counts}, {body.beyond}, 1.0)")
    return values


def write_adjoint(body: Function, i: int) -> list[str]:
    """The statements of an "adj_repeat"; the names of the cotangents of what the loop starts from and captures."""
    adjoint = body.graph.nodes[i].value
    loop, size = adjoint.loop, len(adjoint.loop.names)
    n, limit, starts, captured = _begin(body, i, loop)
    d_values = [body.unused(f"d_{x}") for x in starts]
    body.lines += [f"{d} = {body.vector(a)}" for d, a in zip(d_values, body.graph.args(i)[-size:], strict=True)]
    d_captured = [body.unused(f"d_{name}") for name in _names(loop)]
    body.lines += [f"{d} = {body.lanes('zero')}" for d in d_captured]

    back, done, goes_on = (body.unused(name) for name in ("back", "done", "goes_on"))
    before = [body.unused(f"{x}_before") for x in loop.names]
    lines = [f"{done} = {limit} - 1 - {back}", *(f"{x} = {start}" for x, start in zip(before, starts, strict=True))]
    lines += _passes(body, loop, n, done, before, captured)
    d_after = [body.unused(f"{d}_after") for d in d_values]
    lines += [f"{goes_on} = {n} >= {done} + 1"]
    lines += [f"{after} = tl.where({goes_on}, {d}, 0.0)" for after, d in zip(d_after, d_values, strict=True)]
    variables = {("c", k): x for k, x in enumerate(before)} | {("x", j): x for j, x in enumerate(captured)}
    variables |= {("d_c", k): d for k, d in enumerate(d_after)} | {("d_x", j): d for j, d in enumerate(d_captured)}
    d_leaves = adjoint.reversal.d_leaves
    inner = body.within(adjoint.reversal.program.graph, variables)
    carried = [i for (kind, _), i in d_leaves.items() if kind == "c"]
    inner.compute(list(d_leaves.values()), carried)
    found = {key: inner.result("d", i) for key, i in d_leaves.items()}
    lines += inner.lines
    lines += [f"{d} = tl.where({goes_on}, {found['c', k]}, {d})" for k, d in enumerate(d_values)]
    lines += [f"{d} = {found['x', j]}" for j, d in enumerate(d_captured) if found["x", j] != d]
    body.lines += [f"for {back} in range({limit}):", *(f"    {line}" for line in lines)]
    return d_values + d_captured


def _begin(body: Function, i: int, loop: Loop) -> tuple[str, str, list[str], list[str]]:
    """The number of passes by name, that of all lanes together, and what is carried and captured."""
    n, *operands = body.graph.args(i)[: 1 + len(loop.names) + loop.captured]
    count, limit = body.unused("passes"), body.unused("most_passes")
    body.lines.append(f"{count} = {body.vector(n)}")
    body.lines.append(f"{limit} = {body.function('most_of')}({count}, {float(loop.most)})")
    values = [body.unused(name) for name in loop.names]
    body.lines += [f"{name} = {body.vector(a)}" for name, a in zip(values, operands, strict=False)]
    return count, limit, values, [body.vector(a, 3) for a in operands[len(values) :]]


def _passes(
    body: Function, loop: Loop, n: str, limit: str, values: Sequence[str], captured: Sequence[str]
) -> list[str]:
    """So many passes, after each of which the lanes that go on have other values."""
    done, goes_on = body.unused("done"), body.unused("goes_on")
    variables = {("c", k): x for k, x in enumerate(values)} | {("x", j): x for j, x in enumerate(captured)}
    roots = loop.program.roots["c"]
    inner = body.within(loop.program.graph, variables)
    inner.going = goes_on
    inner.compute(roots, roots)
    after = [inner.unused(f"{x}_after") for x in loop.names]
    lines = [f"{goes_on} = {n} >= {done} + 1", *inner.lines]
    lines += [f"{x} = {inner.value(j)}" for x, j in zip(after, roots, strict=True)]
    lines += [f"{x} = tl.where({goes_on}, {y}, {x})" for x, y in zip(values, after, strict=True)]
    return [f"for {done} in range({limit}):", *(f"    {line}" for line in lines)]
