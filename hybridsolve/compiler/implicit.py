"""Equations that a step solves (`primitives.implicit`): their Jacobian, their blocks, and what a graph has of them.

The Jacobian is made from the traced equations, entry by entry, so that what is 0 of it costs nothing. Unknowns that do
not lead to each other are apart: each block of the others is a "root" of its own, solved after those it depends on. The
linear system of a block is eliminated in the order of the unknowns, without a search for pivots, which would differ
from cell to cell.

Around the root x* everything is linear: with the Jacobian J of the residuals r there, a value v(x, p) moves with

    v(x*, p) + dv/dx m,  J m = -r(x*, p)

where x*, J and dv/dx are frozen. As m has no size but only derivatives, these lines give the derivative of the root,
forward and backward, and no iteration is ever reversed. "moved" and "frozen" say so in the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import fault
from .graph import FUNCTIONS, MASKS, Graph, Place, needed
from .program import Program, Root

Row = dict[int, int]  # of derivatives those that are not 0: along what, and the node
LN2 = 0.69314718055994530942


def derivatives(graph: Graph, roots: Sequence[int], along: Sequence[int]) -> list[Row]:
    """Of nodes the derivatives along leaves, by the rules at kinks that the adjoint has."""
    found: dict[int, Row] = {i: {i: graph.const(1)} for i in along}
    for i in sorted(needed(graph, roots)):
        before = len(graph.nodes)
        if i not in found:
            found[i] = _row(graph, i, [found.get(a, {}) for a in graph.args(i)])
        for j in range(before, len(graph.nodes)):
            if i in graph.places:
                graph.places.setdefault(j, graph.places[i])
    return [found[i] for i in roots]


def _row(g: Graph, i: int, d: list[Row]) -> Row:
    op, a, value = g.nodes[i]
    keys = list(dict.fromkeys(k for row in d for k in row))
    if not keys or op in MASKS or op in ("floor", "power", "power01", "log2_of"):
        return d[0] if op in ("power", "power01") else {}  # of a power that of its base
    zero = g.const(0)
    if op in ("add", "sub"):
        first, second = d
        return {
            k: getattr(g, op)(first[k], second[k]) if k in first and k in second
            else first[k] if k in first else second[k] if op == "add" else g.neg(second[k])
            for k in keys
        }  # fmt: skip
    if op == "neg":
        return {k: g.neg(x) for k, x in d[0].items()}
    if op == "mul":
        parts = [{k: g.mul(x, a[1 - n]) for k, x in d[n].items()} for n in (0, 1)]
        return {k: g.add(*x) if len(x) == 2 else x[0] for k in keys for x in [[p[k] for p in parts if k in p]]}
    if op == "div":
        above = {k: g.neg(g.mul(i, x)) for k, x in d[1].items()}
        whole = {k: g.add(d[0][k], above[k]) if k in d[0] and k in above else d[0].get(k, above.get(k)) for k in keys}
        return {k: g.div(x, a[1]) for k, x in whole.items() if x is not None}
    if op in ("at_least", "at_most"):
        bound = g.const(value)
        mask = g.ge(a[0], bound) if op == "at_least" else g.ge(bound, a[0])
        return {k: g.select(mask, x, zero) for k, x in d[0].items()}
    if op in ("min", "max", "select"):
        mask = a[0] if op == "select" else g.ge(a[1], a[0]) if op == "min" else g.ge(a[0], a[1])
        return {k: g.select(mask, d[-2].get(k, zero), d[-1].get(k, zero)) for k in keys}
    if op == "value_of":
        base, exponent = g.args(a[0])
        slope = g.node("over_positive", g.mul(i, exponent), base)
        if g.op(a[0]) == "power01":  # where x^y is above 1 nothing passes
            slope = g.select(g.ge(zero, g.node("log2_of", a[0])), slope, zero)
        return {k: g.mul(slope, x) for k, x in d[0].items()}
    if op in FUNCTIONS:
        return {k: g.node(f"adj_{op}", a[0], i, x) for k, x in d[0].items()}
    raise fault("equations take no loop, no network and no equations of their own: solve these outside.")


def eliminated(g: Graph, matrix: Sequence[Row], right: Sequence[int]) -> list[int | None]:
    """The solution of a linear system on nodes, in the order of its rows; None of what is 0."""
    rows, n = [dict(row) for row in matrix], len(matrix)
    b: list[int | None] = list(right)
    pivots = []
    for c in range(n):
        if c not in rows[c]:
            raise fault("each residual of equations must depend on the unknown of its name: correct the order of them.")
        pivots.append(g.div(g.const(1), rows[c][c]))
        for r in range(c + 1, n):
            if c in rows[r]:
                share = g.mul(rows[r].pop(c), pivots[c])
                for k in rows[c]:
                    if k > c:
                        rows[r][k] = _less(g, rows[r].get(k), share, rows[c][k])
                b[r] = _less(g, b[r], share, b[c])
    solution: list[int | None] = [None] * n
    for c in reversed(range(n)):
        x = b[c]
        for k, entry in rows[c].items():
            if k > c:
                x = _less(g, x, entry, solution[k])
        solution[c] = None if x is None else g.mul(x, pivots[c])
    return solution


def _less(g: Graph, x: int | None, a: int, b: int | None) -> Any:
    """x - a b."""
    if b is None:
        return x
    return g.neg(g.mul(a, b)) if x is None else g.sub(x, g.mul(a, b))


def blocks_of(matrix: Sequence[Row]) -> list[list[int]]:
    """The unknowns in blocks, each after those whose unknowns its equations have; as few in each as can be."""
    n = len(matrix)
    leads = [{r} for r in range(n)]  # what the equation of r needs, by way of others too
    for _ in range(n):
        leads = [set().union(*({k, *leads[k]} for k in matrix[r] if k != r), leads[r]) for r in range(n)]
    blocks: list[list[int]] = []
    for r in range(n):
        if not any(r in block for block in blocks):
            blocks.append([k for k in range(n) if k in leads[r] and r in leads[k]])
    return sorted(blocks, key=lambda block: len(leads[block[0]]))


class Copies:
    """Nodes of the equations elsewhere: what is made of captured values alone in the graph around, once; all else in
    whatever graph it is asked for, of the unknowns that stand there."""

    def __init__(self, inside: Graph, unknowns: Sequence[int]) -> None:
        assert inside.around is not None
        self.inside, self.around, moving = inside, inside.around, set(unknowns)
        for i in range(len(inside.nodes)):
            if any(a in moving for a in inside.args(i)):
                moving.add(i)
        no_number = (*MASKS, "power", "power01", "const")  # these are captured by their operands, or are as they are
        self.fixed = {i for i in range(len(inside.nodes)) if i not in moving and inside.op(i) not in no_number}
        self.moving, self.lifted = moving, {leaf: i for i, leaf in inside.captured.items()}

    def lift(self, i: int) -> int:
        """The node in the graph around of one that is not made of unknowns."""
        for j in sorted(needed(self.inside, [i], stop=self.lifted)):
            if j not in self.lifted:
                self.lifted[j] = self.built(self.around, j, self.lifted)
        return self.lifted[i]

    def put(self, graph: Graph, roots: Iterable[int], at: Mapping[int, int]) -> dict[int, int]:
        """Nodes in a graph, where that stands in place of each unknown: by their numbers the new ones."""
        made = dict(at)
        for i in sorted(needed(self.inside, roots, stop=[*at, *self.fixed])):
            if i in made:
                continue
            if i in self.fixed:
                made[i] = self.lift(i) if graph is self.around else graph.capture(self.lift(i))
            else:
                made[i] = self.built(graph, i, made)
        return made

    def built(self, graph: Graph, i: int, at: Mapping[int, int]) -> int:
        inside = self.inside
        node = inside.nodes[i]
        made = graph.build(node._replace(args=tuple(at[a] for a in node.args)))
        if i in inside.names:
            graph.names.setdefault(made, inside.names[i])
        if i in inside.places:
            graph.places.setdefault(made, inside.places[i])
        if i in inside.positive:
            graph.positive.add(made)
        return made


def solved(
    inside: Graph, unknowns: Sequence[int], names: Sequence[str], start: Sequence[int], residuals: Sequence[int],
    values: Sequence[int], most: int, place: Place,
) -> list[int]:  # fmt: skip
    """The nodes, in the graph around, of values at the root of residuals.

    Parameters
    ----------
    inside : Graph
        Of the equations.
    unknowns, residuals, values : sequence of int
        Nodes there.
    names : sequence of str
        Of the unknowns.
    start : sequence of int
        Nodes around.
    most : int
    place : (file, line)
    """
    around = inside.around
    assert around is not None
    number = {i: n for n, i in enumerate(unknowns)}
    rows = derivatives(inside, [*residuals, *values], unknowns)
    rows = [{number[i]: x for i, x in row.items()} for row in rows]
    matrix, slopes = rows[: len(unknowns)], rows[len(unknowns) :]
    copies, blocks = Copies(inside, unknowns), blocks_of(matrix)

    at: dict[int, int] = {}  # of the unknowns that are known by now the nodes around
    for block in blocks:
        own = Graph()
        own.around = around
        leaves = {unknowns[n]: own.leaf("c", of) for of, n in enumerate(block)}
        own.names.update((leaves[unknowns[n]], names[n]) for n in block)
        entries = [x for n in block for k, x in matrix[n].items() if k in block]
        known = {i: own.capture(x) for i, x in at.items()} | leaves
        made = copies.put(own, [*(residuals[n] for n in block), *entries], known)
        r = [made[residuals[n]] for n in block]
        jacobian = [{block.index(k): made[x] for k, x in matrix[n].items() if k in block} for n in block]
        steps = [own.const(0) if i is None else i for i in eliminated(own, jacobian, [own.neg(i) for i in r])]
        for i in range(len(own.nodes)):
            own.places.setdefault(i, place)
        program = Program(own, {"r": r, "c": steps, "j": [x for row in jacobian for x in row.values()]})
        places = tuple((i, k) for i, row in enumerate(jacobian) for k in row)
        root = Root(most, tuple(names[n] for n in block), program, places, len(own.captured))
        node = around.node("root", *(start[n] for n in block), *own.captured, value=root)
        around.places[node] = place
        for of, n in enumerate(block):
            at[unknowns[n]] = i = around.node("item", node, value=of)
            around.names[i], around.places[i] = names[n], place

    made = copies.put(around, [*residuals, *values, *(x for row in rows for x in row.values())], at)
    before, order = len(around.nodes), [n for block in blocks for n in block]
    frozen = {x: around.frozen(made[x]) for row in rows for x in row.values()}
    system = [{order.index(k): frozen[x] for k, x in matrix[n].items()} for n in order]
    moves = eliminated(around, system, [around.neg(made[residuals[n]]) for n in order])
    found = []
    for v, row in zip(values, slopes, strict=True):
        change: int | None = None
        for k, x in row.items():
            move = moves[order.index(k)]
            if move is not None:
                more = around.mul(frozen[x], move)
                change = more if change is None else around.add(change, more)
        found.append(made[v] if change is None else around.node("moved", made[v], change))
    for i in range(before, len(around.nodes)):
        around.places.setdefault(i, place)
    return found
