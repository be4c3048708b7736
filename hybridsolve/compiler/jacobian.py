"""How a step moves with its parameters, in two parts: coefficients made once a step, and what each parameter adds to
with them.

Every operation has partial derivatives along its operands, those that the adjoint multiplies cotangents by. They are
the coefficients on the edges of the linearised step, the same for all directions that it is asked for. A vertex goes
when each coefficient that leads to it has been multiplied by each that leads away (A. Griewank and A. Walther,
Evaluating Derivatives, 2nd ed., 2008, chapters 9 and 10). It goes if that is less work in all: the products are made
once, and an edge that is left costs one operation for each parameter that moves what it comes from. A parameter of snow
moves all stores, one of groundwater a single one, so most edges matter to few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .graph import Graph, needed
from .program import Program
from .reversal import Reversal
from .stages import CALLS

Root = tuple[str, int]  # kind and number: a result
Vertex = int | Root  # a node, or a result


@dataclass
class Linear:
    """The linearised step.

    Attributes
    ----------
    graph : Graph
        The step's, with what the coefficients are made of.
    edges : dict of Vertex to dict of Vertex to int
        What is left, in an order of computation: for a vertex what it depends on, and the coefficient's node.
    moved : dict of Vertex to set of int
        The parameters that move a vertex.
    """

    graph: Graph
    edges: dict[Vertex, dict[Vertex, int]]
    moved: dict[Vertex, set[int]]


def depends(*programs: Program) -> list[set[int]]:
    """For every root of what is made once, and of ordinates made of that, the parameters that it depends on."""
    found: list[set[int]] = []
    for program in programs:
        of: dict[int, set[int]] = {}
        for i, (op, args, value) in enumerate(program.graph.nodes):
            of[i] = set().union(*(of[a] for a in args))
            if op == "leaf" and value[0] in ("p", "d"):
                of[i] = {value[1]} if value[0] == "p" else found[value[1]]
        found += [of[i] for i in program.every_root]
    return found


def linearise(
    step: Program, results: Sequence[Root], slopes: Sequence[tuple[Root, int]], lines: dict[int, set[int]]
) -> Linear | None:
    """The linearised step; None of one with loops, networks or equations.

    Parameters
    ----------
    step : Program
    results : sequence of (kind, number)
        Those of its roots that are wanted.
    slopes : sequence of ((kind, number), int)
        The leaves, of kinds "d" and "w", that move with a parameter. The derivative is a leaf ("slope", n).
    lines : dict of int to set of int
        The parameters that move what comes out of a delay line, by the line's number among the states.
    """
    g, roots = step.graph, step.every_result
    live = sorted(needed(g, [roots[result] for result in results]))
    if any(g.op(i) in CALLS for i in live):
        return None
    reversal = Reversal(step)
    edges: dict[Vertex, dict[Vertex, int]] = {}
    for i in live:
        op, _, value = g.nodes[i]
        if op == "leaf" and value[0] in ("d", "w"):
            along: dict[Vertex, int] = {
                g.leaf("p", p): g.leaf("slope", n) for n, (leaf, p) in enumerate(slopes) if leaf == value
            }
        else:
            along = {a: c for a, c in reversal.partials(i).items() if a in edges or _moves(g, a)}
        if along:
            edges[i] = along
    for result in results:
        if roots[result] in edges or _moves(g, roots[result]):
            edges[result] = {roots[result]: g.const(1)}
    linear = Linear(g, edges, _moved(g, edges, lines))
    _Elimination(linear).run()
    return linear


def _moves(g: Graph, i: int) -> bool:
    return g.op(i) == "leaf" and g.nodes[i].value[0] in ("s", "p")


def _moved(g: Graph, edges: dict[Vertex, dict[Vertex, int]], lines: dict[int, set[int]]) -> dict[Vertex, set[int]]:
    states: dict[int, set[int]] = {n: set(of) for n, of in lines.items()}
    while True:
        moved: dict[Vertex, set[int]] = {}
        for v, along in edges.items():
            for a in along:
                if a not in moved:  # a leaf
                    assert isinstance(a, int)
                    kind, n = g.nodes[a].value
                    moved[a] = {n} if kind == "p" else states.get(n, set())
            moved[v] = set().union(*(moved[a] for a in along))
        after = {v[1]: states.get(v[1], set()) | moved[v] for v in edges if isinstance(v, tuple) and v[0] == "s"}
        if states | after == states:
            return moved
        states |= after


class _Elimination:
    def __init__(self, linear: Linear) -> None:
        self.graph, self.edges, self.moved = linear.graph, linear.edges, linear.moved
        self.users: dict[Vertex, dict[Vertex, None]] = {}
        for v, along in self.edges.items():
            for a in along:
                self.users.setdefault(a, {})[v] = None

    def run(self) -> None:
        between = [v for v in self.edges if isinstance(v, int)]
        while between:
            costs = {v: self.cost(v) for v in between}
            best = min(between, key=lambda v: costs[v])
            if costs[best] > 0:
                return
            between.remove(best)
            self.eliminate(best)

    def cost(self, v: Vertex) -> float:
        """The operations that the elimination of a vertex adds, less those that it saves."""
        g, along, users = self.graph, self.edges[v], self.users.get(v, {})
        cost = -sum(len(self.moved[a]) for a in along) - len(users) * len(self.moved[v])
        for u in users:
            simple = g.number(self.edges[u][v]) in (1, -1)
            for a, c in along.items():
                there = a in self.edges[u]
                cost += there or not (simple or g.number(c) in (1, -1))
                cost += 0 if there else len(self.moved[a])
        return cost

    def eliminate(self, v: Vertex) -> None:
        g, along, users = self.graph, self.edges.pop(v), self.users.pop(v, {})
        for u in users:
            of_u = self.edges[u]
            coefficient = of_u.pop(v)
            for a, c in along.items():
                before = len(g.nodes)
                total = self.plus(of_u.pop(a, g.const(0)), self.times(coefficient, c))
                if isinstance(v, int) and v in g.places:
                    for j in range(before, len(g.nodes)):
                        g.places.setdefault(j, g.places[v])
                if g.number(total) != 0:
                    of_u[a] = total
                    self.users[a][u] = None
        for a in along:
            self.users[a] = {u: None for u in self.users[a] if u != v and a in self.edges[u]}

    def masked(self, c: int) -> tuple[int, int, bool] | None:
        """Of a coefficient that is 0 where a mask is not as said: the mask, what it is there, and how that must be."""
        if self.graph.op(c) != "select":
            return None
        mask, x, y = self.graph.args(c)
        return (mask, x, True) if self.graph.number(y) == 0 else (mask, y, False) if self.graph.number(x) == 0 else None

    def under(self, mask: int, x: int, passes: bool) -> int:
        """x where a mask is so, else 0."""
        inner = self.masked(x)
        if inner is not None and inner[0] == mask:
            return x if inner[2] == passes else self.graph.const(0)
        nothing = self.graph.const(0)
        return self.graph.select(mask, *((x, nothing) if passes else (nothing, x)))

    def times(self, a: int, b: int) -> int:
        for x, y in ((a, b), (b, a)):
            where = self.masked(x)
            if where is not None:
                return self.under(where[0], self.times(where[1], y), where[2])
        return self.graph.mul(a, b)

    def plus(self, a: int, b: int) -> int:
        g, x, y = self.graph, self.masked(a), self.masked(b)
        if x is not None and y is not None and x[0] == y[0]:
            if x[2] == y[2]:
                return self.under(x[0], self.plus(x[1], y[1]), x[2])
            return g.select(x[0], *((x[1], y[1]) if x[2] else (y[1], x[1])))
        product = g.args(b)[0] if g.op(b) == "neg" else b
        if g.number(a) is None and g.op(product) == "mul":
            u, v = g.args(product)
            return g.fma(u if product == b else g.neg(u), v, a)
        return g.add(a, b)
