"""A graph on plain floats, node by node: what the kernels compute in double, without a compiler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import floats, networks
from .floats import TINY, power, sigmoid
from .graph import FUNCTIONS, Graph, Leaf, needed
from .program import Loop, Root
from .roots import HOPELESS, STEEP

_SLOPES = {
    "exp": lambda x, r: r,
    "log": lambda x, r: 1 / max(x, TINY),
    "sqrt": lambda x, r: 0.5 / r,
    "tanh": lambda x, r: 1 - r * r,
    "sigmoid": lambda x, r: r * (1 - r),
    "softplus": lambda x, r: sigmoid(x),
    "sin": lambda x, r: math.cos(x),
    "cos": lambda x, r: -math.sin(x),
}
_OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "div": lambda a, b: a / b,
    "reciprocal": lambda a: 1 / a,
    "quotient": lambda a, b, per_b: a / b,
    "fma": lambda a, b, c: a * b + c,
    "min": lambda a, b: a if a <= b else b,
    "max": lambda a, b: a if a >= b else b,
    "ge": lambda a, b: a >= b,
    "no": lambda m: not m,
    "and": lambda m, n: m and n,
    "or": lambda m, n: m or n,
    "select": lambda m, a, b: a if m else b,
    "power": lambda x, y: (math.log2(max(x, TINY)), power(x, y)),
    "power01": lambda x, y: (math.log2(max(x, TINY)), min(power(x, y), 1.0)),
    "log2_of": lambda r: r[0],
    "value_of": lambda r: r[1],
    "over_positive": lambda a, b: a / max(b, TINY),
    "moved": lambda a, b: a,
    "frozen": lambda a: a,
    "same": lambda a: a,
    **{name: getattr(floats, name) for name in FUNCTIONS},
    **{f"adj_{name}": lambda x, r, d, slope=slope: d * slope(x, r) for name, slope in _SLOPES.items()},
}


def evaluate(graph: Graph, roots: Sequence[int], leaves: Mapping[Leaf, Any]) -> list[Any]:
    """The values of these nodes.

    Parameters
    ----------
    graph : Graph
    roots : sequence of int
    leaves : mapping of (kind, index) to float
        Of a network's weights, and of their cotangent, a list.
    """
    values: dict = {}
    for i in sorted(needed(graph, roots)):
        op, args, value = graph.nodes[i]
        operands = [values[a] for a in args]
        if op == "leaf":
            values[i] = leaves[value]  # type: ignore[index]
        elif op == "const":
            values[i] = value
        elif op == "item":
            values[i] = operands[0][value]
        elif op == "repeat":
            values[i] = passes(value, operands)[-1]
        elif op == "adj_repeat":
            values[i] = adj_passes(value, operands)
        elif op == "root":
            values[i] = iterated(value, operands)
        elif op == "mlp":
            w, *x = operands
            kept, y = networks.forward(value, w, x)
            values[i] = [*y, (w, kept)]
        elif op == "adj_mlp":
            n = value.sizes[0]
            *_, (w, kept) = operands[n]
            d_x, d_w = networks.adjoint(value, w, operands[:n], kept, operands[n + 1 :])
            values[i] = [*d_x, d_w]
        elif op == "sums":
            values[i] = [sum(parts) for parts in zip(operands[0], *(made[-1] for made in operands[1:]), strict=True)]
        elif op == "at_least":
            values[i] = operands[0] if operands[0] >= value else value  # type: ignore[operator]
        elif op == "at_most":
            values[i] = operands[0] if operands[0] <= value else value  # type: ignore[operator]
        else:
            values[i] = _OPERATIONS[op](*operands)
    return [values[r] for r in roots]


def passes(loop: Loop, operands: Sequence[float]) -> list[list[float]]:
    """What a loop carries, before its passes and after each."""
    n, size = operands[0], len(loop.names)
    carried = [list(operands[1 : 1 + size])]
    if not n <= loop.most:
        return [[math.nan] * size]
    given = {("x", j): x for j, x in enumerate(operands[1 + size :])}
    while n >= len(carried):
        given |= {("c", k): x for k, x in enumerate(carried[-1])}
        carried.append(evaluate(loop.program.graph, loop.program.roots["c"], given))
    return carried


def adj_passes(adjoint: Any, operands: Sequence[float]) -> list[float]:
    """The cotangents of what a loop starts from and of what it captures."""
    size = len(adjoint.loop.names)
    operands, d_after = operands[:-size], list(operands[-size:])
    captured = list(operands[1 + size :])
    d_captured = [0.0] * len(captured)
    for before in reversed(passes(adjoint.loop, operands)[:-1]):
        given = {("x", j): x for j, x in enumerate(captured)} | {("c", k): x for k, x in enumerate(before)}
        given |= {("d_c", k): d for k, d in enumerate(d_after)} | {("d_x", j): d for j, d in enumerate(d_captured)}
        d_leaves = adjoint.reversal.d_leaves
        found = dict(
            zip(d_leaves, evaluate(adjoint.reversal.program.graph, list(d_leaves.values()), given), strict=True)
        )
        d_after = [found[("c", k)] for k in range(size)]
        d_captured = [found[("x", j)] for j in range(len(captured))]
    return d_after + d_captured


def iterated(root: Root, operands: Sequence[float]) -> list[float]:
    """The unknowns at the root, of plain floats."""
    n, graph = len(root.names), root.program.graph
    given = {("x", j): v for j, v in enumerate(operands[n:])}
    best, step, least, x = list(operands[:n]), [0.0] * n, HOPELESS, list(operands[:n])
    wide = [0.0] * n
    for done in range(root.most):
        at = given | {("c", k): v for k, v in enumerate(x)}
        found = evaluate(graph, [j for kind in "rcj" for j in root.program.roots[kind]], at)
        spacings = [2.0**-49 * max(abs(v), 1.0) for v in x]  # 8
        bounds = map(max, spacings, wide)
        off = sum(abs(r) if not abs(r) <= bound else 0.0 for r, bound in zip(found[:n], bounds, strict=True))
        if off < least or (off == least and done < STEEP):
            best, least, step = x, off, found[n : 2 * n]
            if off == 0:
                return best
        elif least == HOPELESS:
            break
        else:
            step = [s / 2 for s in step]
        if done >= STEEP:
            wide = [0.0] * n
            for (row, k), slope in zip(root.entries, found[2 * n :], strict=True):
                wide[row] += abs(slope) * spacings[k] / 2
        x = [b + s for b, s in zip(best, step, strict=True)]
    return [math.nan] * n
