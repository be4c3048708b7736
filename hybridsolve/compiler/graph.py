"""A step as a graph of operations, each of which stands in it once; constants are folded as it is built.

A node is an operation, the nodes that it takes, and a value: the number of a constant, what a leaf stands for, or the
bound of `at_least` and `at_most`. Nodes take earlier ones alone, so that their order is one of computation.

Operations, with the rules of csrc/core/math.h and elementary.h:

=========================== ===========================================================================
leaf, const                 (kind, index), such as ("p", 3) the fourth parameter; a number
add, sub, mul, neg, div     a + b, a - b, a b, -a, a / b; `div` goes in `simplify`
reciprocal, quotient        1 / a; a / b, given 1 / b
fma                         a b + c, rounded once
min, max, at_least, at_most of two operands, or of one and a number
ge, no, and, or             masks: a >= b, and of masks
select                      (mask, a, b)
power, power01              x^y and clip(x^y, 0, 1), with the logarithm that the adjoint needs
value_of, log2_of           the two of a power
exp .. floor                functions of one argument
adj_exp ..                  of x, its function r and a cotangent d_r: the cotangent of x
over_positive               a / at_least(b, tiny)
repeat, adj_repeat          a loop over a program of its own (program.Loop), and its adjoint: several results
mlp, adj_mlp                a network (program.Network), and its adjoint: several results, and what is kept of it
root                        of equations (program.Root): several results, which have no cotangent
item                        one of these, by its number
moved                       a, whose derivatives are those of a + b; "frozen" is a without derivatives
sums                        what is added to and what adds to it: the cotangent of a network's weights
=========================== ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from . import floats

FUNCTIONS = ("exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "sin", "cos", "floor")
MASKS = ("ge", "no", "and", "or")
Leaf = tuple[str, int]
Place = tuple[str, int]  # file and line


class Node(NamedTuple):
    op: str
    args: tuple[int, ...] = ()
    value: Any = None  # a float, a Leaf, a Loop, a Root, a Network or a number of an item


class Graph:
    """Nodes, and what is known of them.

    Attributes
    ----------
    nodes : list of Node
    positive : set of int
        Nodes that the table's bounds keep above 0.
    names : dict of int to str
        What a node is called in the step.
    places : dict of int to (str, int)
        File and line that a node comes from.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.positive: set[int] = set()
        self.names: dict[int, str] = {}
        self.places: dict[int, Place] = {}
        self._known: dict[Node, int] = {}
        self.around: Graph | None = None  # of the body of a loop the graph that it stands in
        self.is_step = False  # and of no loop in it, nor of what is made before it
        self.captured: dict[int, int] = {}  # and of nodes there the leaves that stand for them here

    def node(self, op: str, *args: int, value: Any = None) -> int:
        """The node of an operation, made where there is none."""
        node = Node(op, args, value)
        if node not in self._known:
            self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return self._known[node]

    def op(self, i: int) -> str:
        return self.nodes[i].op

    def args(self, i: int) -> tuple[int, ...]:
        return self.nodes[i].args

    def number(self, i: int) -> float | None:
        """The number of a constant, else None."""
        node = self.nodes[i]
        return node.value if node.op == "const" and isinstance(node.value, float) else None

    def const(self, x: float) -> int:
        return self.node("const", value=float(x) + 0.0)  # no -0.0 beside 0.0

    def leaf(self, kind: str, index: int, positive: bool = False) -> int:
        i = self.node("leaf", value=(kind, index))
        if positive:
            self.positive.add(i)
        return i

    def capture(self, i: int) -> int:
        """The leaf that stands for a node of the graph around; a number is one here too."""
        around = self.around
        assert around is not None
        x = around.number(i)
        if x is not None:
            return self.const(x)
        if i not in self.captured:
            self.captured[i] = self.leaf("x", len(self.captured), i in around.positive)
            if i in around.names:
                self.names[self.captured[i]] = around.names[i]
        return self.captured[i]

    def _symmetric(self, op: str, a: int, b: int) -> int:
        """The node of a sum or product, in whichever order it is there already."""
        there = self._known.get(Node(op, (b, a)))
        return self.node(op, a, b) if there is None else there

    def neg(self, a: int) -> int:
        x = self.number(a)
        if x is not None:
            return self.const(-x)
        if self.op(a) == "neg":
            return self.args(a)[0]
        if self.op(a) == "sub":
            return self.node("sub", *reversed(self.args(a)))
        return self.node("neg", a)

    def add(self, a: int, b: int) -> int:
        x, y = self.number(a), self.number(b)
        if x is not None and y is not None:
            return self.const(x + y)
        if x == 0:
            return b
        if y == 0:
            return a
        if self.op(b) == "neg":
            return self.sub(a, self.args(b)[0])
        if self.op(a) == "neg":
            return self.sub(b, self.args(a)[0])
        return self._symmetric("add", *((b, a) if x is not None else (a, b)))

    def sub(self, a: int, b: int) -> int:
        x, y = self.number(a), self.number(b)
        if x == 0:
            return self.neg(b)
        if y is not None:
            return self.add(a, self.const(-y))
        if self.op(b) == "neg":
            return self.add(a, self.args(b)[0])
        if self.op(a) == "neg":
            return self.neg(self.add(self.args(a)[0], b))
        return self.node("sub", a, b)

    def mul(self, a: int, b: int) -> int:
        x, y = self.number(a), self.number(b)
        if x is not None and y is not None:
            return self.const(x * y)
        if x is not None:
            a, b, y = b, a, x
        if y == 1:
            return a
        if y is not None and y < 0:
            return self.neg(self.mul(a, self.const(-y)))
        if self.op(a) == "neg":
            return self.neg(self.mul(self.args(a)[0], b))
        if self.op(b) == "neg":
            return self.neg(self.mul(a, self.args(b)[0]))
        i = self._symmetric("mul", a, b)
        if a in self.positive and (b in self.positive or (y is not None and y > 0)):
            self.positive.add(i)
        return i

    def div(self, a: int, b: int) -> int:
        y = self.number(b)
        return self.mul(a, self.const(1 / y)) if y else self.node("div", a, b)

    def fma(self, a: int, b: int, c: int) -> int:
        if self.number(a) == 1 or self.number(b) == 1:
            return self.add(b if self.number(a) == 1 else a, c)
        return self.mul(a, b) if self.number(c) == 0 else self.node("fma", a, b, c)

    def ge(self, a: int, b: int) -> int:
        """a >= b; of a difference and 0 its two parts."""
        if self.number(b) == 0 and self.op(a) == "sub":
            return self.node("ge", *self.args(a))
        return self.node("ge", a, b)

    def no(self, m: int) -> int:
        if self.op(m) in ("and", "or"):
            return self.node("or" if self.op(m) == "and" else "and", *(self.no(a) for a in self.args(m)))
        return self.args(m)[0] if self.op(m) == "no" else self.node("no", m)

    def select(self, mask: int, a: int, b: int) -> int:
        if self.op(mask) == "no":
            return self.select(self.args(mask)[0], b, a)
        return a if a == b else self.node("select", mask, a, b)

    def bound(self, op: str, x: int, number: float) -> int:
        """at_least or at_most; clip(x^y, 0, 1) of a power with y > 0 is one operation."""
        known = self.number(x)
        if known is not None:
            return self.const((max if op == "at_least" else min)(known, number))
        if (op, number) == ("at_least", 0) and self.op(x) == "at_most" and self.nodes[x].value == 1:
            (of,) = self.args(x)
            if self.op(of) == "value_of":
                (power,) = self.args(of)
                if self.op(power) == "power" and self.args(power)[1] in self.positive:
                    return self.node("value_of", self.node("power01", *self.args(power)))
        return self.node(op, x, value=float(number))

    def extreme(self, op: str, a: int, b: int) -> int:
        """min or max; the second operand may be a number, at a tie with which the first has the gradient."""
        y = self.number(b)
        return self.node(op, a, b) if y is None else self.bound("at_most" if op == "min" else "at_least", a, y)

    def function(self, name: str, x: int) -> int:
        known = self.number(x)
        return self.node(name, x) if known is None else self.const(getattr(floats, name)(known))

    def power(self, x: int, y: int) -> int:
        u, v = self.number(x), self.number(y)
        if u is not None and v is not None:
            return self.const(floats.power(u, v))
        return self.node("value_of", self.node("power", x, y))

    def frozen(self, a: int) -> int:
        return a if self.op(a) in ("const", "frozen") else self.node("frozen", a)

    def plain(self) -> Graph:
        """The same nodes where nothing carries derivatives forward: "moved" and "frozen" are "same" as their first."""
        other = Graph()
        other.__dict__.update(self.__dict__)
        other._known = dict(self._known)
        other.nodes = [Node("same", node.args[:1]) if node.op in ("moved", "frozen") else node for node in self.nodes]
        return other

    def build(self, node: Node) -> int:
        """A node of this meaning, folded."""
        folded: dict[str, Callable[..., int]] = dict(
            neg=self.neg, add=self.add, sub=self.sub, mul=self.mul, div=self.div, fma=self.fma, select=self.select
        )
        if node.op in folded:
            return folded[node.op](*node.args)
        return self.node(node.op, *node.args, value=node.value)


def needed(graph: Graph, roots: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
    """The nodes that these are made of, these included; what nodes of `stop` are made of is not."""
    ends, seen, todo = set(stop), set(), list(roots)
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            todo += () if i in ends else graph.args(i)
    return seen


Rule = Callable[[Graph, Node, int], "int | None"]


def rewrite(graph: Graph, roots: Sequence[int], rule: Rule) -> tuple[Graph, list[int], dict[int, int]]:
    """The graph again, node by node, by ``rule(new graph, node with new operands, old index)`` or, where that is None,
    as it was; with the new roots, and where each old node is now."""
    new = Graph()
    moved: dict[int, int] = {}
    for i in sorted(needed(graph, roots)):
        node = graph.nodes[i]
        node = node._replace(args=tuple(moved[a] for a in node.args))
        before = len(new.nodes)
        made = rule(new, node, i)
        moved[i] = j = new.build(node) if made is None else made
        if i in graph.positive:
            new.positive.add(j)
        if i in graph.names:
            new.names.setdefault(j, graph.names[i])
        if i in graph.places:
            for made in (j, *range(before, len(new.nodes))):
                new.places.setdefault(made, graph.places[i])
    return new, [moved[r] for r in roots], moved
