"""The adjoint of a program: the forward graph, and behind it what carries cotangents back through it.

A cotangent is a list of terms until it is asked for, so that what passes a mask once need not pass it again. The rules
at kinks are those of csrc/core/math.h: min and max give the gradient to the operand that was picked, the first at a
tie; a bound passes it at the bound; what a mask is made of gets none.

The cotangent of a power's base x travels as that of ln x, which is d_r r y, finite at x = 0, where that of x is not for
y < 1. A quotient's goes to both its parts as that of their logarithms, which spares a division; where the value itself
must have one it is d_ln_x / at_least(x, tiny).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .graph import FUNCTIONS, needed
from .program import Loop, Network, Program
from .simplify import COSTLY, fuse

LN2 = 0.69314718055994530942


@dataclass(frozen=True)
class Term:
    """x, or -x, or x y; where a mask is given, only where that is `passes`."""

    x: int
    y: int | None = None
    minus: bool = False
    mask: int | None = None
    passes: bool = True


@dataclass(eq=False)
class AdjointLoop:
    """A loop and the adjoint of its body, of leaves ("d_c", n) and ("d_x", n) besides; the value of an "adj_repeat"."""

    loop: Loop
    reversal: Adjoint


@dataclass
class Adjoint:
    """A program and its reversal in one graph.

    Attributes
    ----------
    program : Program
        Forward, in this graph.
    d_leaves : dict of (kind, index) to int
        For every leaf the node of its cotangent: that of a state alone, of all others added to what is there already,
        a leaf of the kind "d_f", "d_p", "d_d", "d_w" or "d_n".
    kept : list of int
        Costly results of the forward graph that the reversal wants again.
    """

    program: Program
    d_leaves: dict[tuple[str, int], int]
    kept: list[int]


def reverse(program: Program, counts: dict[str, int], silent: Collection[tuple[str, int]] = ()) -> Adjoint:
    """The adjoint of a program, with cotangents "d_s", "d_q", "d_d" or "d_w" of its roots.

    Parameters
    ----------
    program : Program
    counts : dict of str to int
        How many leaves there are of each kind that has a cotangent: "s", "f", "p", "d", "w", "n".
    silent : collection of (kind, index)
        The roots without a cotangent, which nothing is computed for.
    """
    return Reversal(program).run(counts, silent)


class Reversal:
    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        self.live = needed(self.graph, program.every_root)
        self.last_forward = len(self.graph.nodes)
        self.terms: dict[int, list[Term]] = {}
        self.log_terms: dict[int, list[Term]] = {}  # of the cotangent of the logarithm
        self.per: dict[int, int] = {}  # of a divisor its reciprocal
        self.d_items: dict[int, dict[int, int]] = {}  # of a loop or network the cotangents of its results, by number
        self.networks: dict[int, list[int]] = {}  # the adjoints of each network's calls
        g = self.graph
        for i in sorted(self.live):
            if g.op(i) == "quotient":
                self.per[g.args(i)[1]] = g.args(i)[2]
            elif g.op(i) == "reciprocal":
                self.per.setdefault(g.args(i)[0], i)

    def partials(self, i: int) -> dict[int, int]:
        """The partial derivatives of a node along what it is made of, by that: the adjoint of a cotangent of 1."""
        g = self.graph
        self.terms, self.log_terms = {i: [Term(g.const(1))]}, {}
        self.visit(i)
        found = {}
        for a in dict.fromkeys([*self.terms, *self.log_terms]):
            x = g.args(a)[0] if g.op(a) == "logarithm" else a
            d_ln = self.total(self.log_terms.get(a, []))
            terms = [*self.terms.get(a, []), *([] if d_ln is None else [self.from_log(x, d_ln)])]
            total = self.total(terms)
            if a != i and total is not None:
                found[x] = total
        return found

    def run(self, counts: dict[str, int], silent: Collection[tuple[str, int]]) -> Adjoint:
        g = self.graph
        for kind, rows in self.program.roots.items():
            for n, i in enumerate(rows):
                if (kind, n) not in silent:
                    self.give(i, Term(g.leaf(f"d_{kind}", n)))
        for i in sorted(self.live, reverse=True):
            before = len(g.nodes)
            self.visit(i)
            if i in g.places:
                for j in range(before, len(g.nodes)):
                    g.places.setdefault(j, g.places[i])
        d_leaves = {(kind, n): self.of_leaf(kind, n) for kind, count in counts.items() for n in range(count)}

        forward = self.program.every_root
        live = needed(g.plain(), forward)  # what derivatives alone are made of is no part of a step
        costly = [i for i in sorted(live) if g.op(i) in COSTLY and g.op(i) != "quotient"]
        asked = [*d_leaves.values(), *costly, *forward]
        g, moved, _ = fuse(g, asked, fixed=range(self.last_forward))
        n, k = len(d_leaves), len(costly)
        kept, wanted = moved[n : n + k], needed(g, moved[:n], stop=moved[n : n + k])
        return Adjoint(
            self.program.with_graph(g, moved[n + k :]),
            dict(zip(d_leaves, moved[:n], strict=True)),
            [i for i in kept if i in wanted],
        )

    def give(self, i: int, *terms: Term) -> None:
        if self.graph.number(i) is None:
            self.terms.setdefault(i, []).extend(terms)

    def give_log(self, i: int, *terms: Term) -> None:
        if self.graph.number(i) is None:
            self.log_terms.setdefault(i, []).extend(terms)

    def replaced(self, terms: Sequence[Term]) -> list[Term]:
        """A term under a mask and the same under its opposite are that term without a mask."""
        left = list(terms)
        for term in terms:
            opposite = Term(term.x, term.y, term.minus, term.mask, not term.passes)
            if term.mask is not None and term in left and opposite in left:
                left.remove(term)
                left.remove(opposite)
                left.append(Term(term.x, term.y, term.minus))
        return left

    def total(self, terms: Sequence[Term], start: int | None = None) -> int | None:
        """The sum of terms, masked ones last, or from `start` in the order in which they were given."""
        g, acc = self.graph, start
        terms = self.replaced(terms)
        if start is None:
            terms.sort(key=lambda t: 3 if t.mask is not None else 2 if t.y is not None else int(t.minus))
        for t in terms:
            x = t.x if t.y is None else g.mul(t.x, t.y)
            if t.mask is None and t.minus:
                acc = g.neg(x) if acc is None else g.sub(acc, x)
            elif t.mask is None:
                acc = x if acc is None else g.add(acc, x)
            else:  # a masked sum, where a sum with something masked would be two operations
                nothing = g.const(0) if acc is None else acc
                more = x if acc is None else g.add(acc, x)
                acc = g.select(t.mask, more, nothing) if t.passes else g.select(t.mask, nothing, more)
        return acc

    def masked(self, terms: Sequence[Term], i: int, mask: int, passes: bool) -> list[Term]:
        """The terms of node i where a mask is so, as one; a term that passes the same mask already, without it."""
        left = []
        for t in self.replaced(terms):
            if t.mask != mask:
                left.append(t)
            elif t.passes == passes:
                left.append(Term(t.x, t.y, t.minus))
        x = self.total(left)
        return [] if x is None else [Term(self.named(x, i), mask=mask, passes=passes)]

    def of_leaf(self, kind: str, n: int) -> int:
        g, i = self.graph, self.graph.leaf(kind, n)
        start = None if kind in ("s", "c") else g.leaf(f"d_{kind}", n)
        if kind == "n" and start is not None:
            return g.node("sums", start, *self.networks[n]) if n in self.networks else start
        terms = list(self.terms.get(i, []))
        if i in self.log_terms:
            x = self.total(self.log_terms[i])
            assert x is not None
            terms.append(self.from_log(i, x))
        found = self.total(terms, start)
        return g.const(0) if found is None else self.named(found, i)

    def from_log(self, i: int, d_ln: int) -> Term:
        """The cotangent of a node that of whose logarithm is known."""
        if i in self.per:
            return Term(d_ln, self.per[i])
        return Term(self.graph.node("over_positive", d_ln, i))

    def named(self, d: int, i: int) -> int:
        """The cotangent d of node i, with its name."""
        if i in self.graph.names and d >= self.last_forward and self.graph.op(d) not in ("leaf", "const", "neg"):
            self.graph.names.setdefault(d, f"d_{self.graph.names[i]}")
        return d

    def visit(self, i: int) -> None:
        """Hand the cotangent of a node on to what it is made of."""
        g = self.graph
        op, a, value = g.nodes[i]
        ends = "leaf const ge no and or floor power power01 log2_of logarithm root frozen".split()
        if op in ends or op == "item" and g.op(a[0]) == "root":
            return
        if op == "repeat":
            return self.visit_loop(i, value)
        if op == "mlp":
            return self.visit_network(i, value)
        d_ln = self.total(self.log_terms.pop(i, []))
        terms = self.terms.pop(i, [])
        if op == "quotient":
            return self.visit_quotient(i, terms, d_ln)
        if d_ln is not None:
            if op == "mul" and i in self.per:  # a divisor: so are its factors
                for x, y in (a, a[::-1]):
                    if g.number(x) is None:
                        self.per.setdefault(x, g.mul(y, self.per[i]))
                        self.give_log(x, Term(d_ln))
            else:
                terms = [*terms, self.from_log(i, d_ln)]
        if not terms:
            return
        if op in ("at_least", "at_most"):
            assert isinstance(value, float)
            bound = g.const(value)
            mask = g.ge(a[0], bound) if op == "at_least" else g.ge(bound, a[0])
            return self.give(a[0], *self.masked(terms, i, mask, True))
        if op in ("min", "max", "select"):
            if op == "select":
                mask, x, y = a
            else:
                x, y = a
                mask = g.ge(y, x) if op == "min" else g.ge(x, y)
            self.give(x, *self.masked(terms, i, mask, True))
            return self.give(y, *self.masked(terms, i, mask, False))
        d = self.total(terms)
        assert d is not None
        self.named(d, i)
        if op in ("add", "moved"):
            self.give(a[0], Term(d))
            self.give(a[1], Term(d))
        elif op == "sub":
            self.give(a[0], Term(d))
            self.give(a[1], Term(d, minus=True))
        elif op == "neg":
            self.give(a[0], Term(d, minus=True))
        elif op == "mul" and a[0] == a[1]:
            self.give(a[0], Term(g.mul(d, g.const(2)), a[0]))
        elif op in ("mul", "fma"):
            self.give(a[0], Term(d, a[1]))
            self.give(a[1], Term(d, a[0]))
            if op == "fma":
                self.give(a[2], Term(d))
        elif op == "reciprocal":
            self.give_log(a[0], Term(g.mul(d, i), minus=True))
        elif op == "item":
            self.d_items.setdefault(a[0], {})[value] = d
        elif op == "value_of":
            self.visit_power(i, a[0], d)
        elif op in FUNCTIONS:
            self.give(a[0], Term(g.node(f"adj_{op}", a[0], i, d)))
        else:
            raise AssertionError(op)

    def visit_loop(self, i: int, loop: Loop) -> None:
        g, found = self.graph, self.d_items.pop(i, {})
        if not found:
            return
        nothing = g.const(0)
        reversal = reverse(loop.program, {"c": len(loop.names), "x": loop.captured})
        d_items = [found.get(n, nothing) for n in range(len(loop.names))]
        made = g.node("adj_repeat", *g.args(i), *d_items, value=AdjointLoop(loop, reversal))
        for n, a in enumerate(g.args(i)[1:]):
            self.give(a, Term(self.named(g.node("item", made, value=n), a)))

    def visit_network(self, i: int, network: Network) -> None:
        g, found = self.graph, self.d_items.pop(i, {})
        if not found:
            return
        _, *inputs = g.args(i)
        d_items = [found.get(n, g.const(0)) for n in range(network.sizes[-1])]
        made = g.node("adj_mlp", *inputs, i, *d_items, value=network)
        self.networks.setdefault(network.number, []).append(made)
        for n, a in enumerate(inputs):
            self.give(a, Term(self.named(g.node("item", made, value=n), a)))

    def visit_quotient(self, i: int, terms: list[Term], d_ln: int | None) -> None:
        """i = x / y: of x directly, of y as that of its logarithm."""
        g = self.graph
        x, y, per_y = g.args(i)
        logs = []
        d = self.total(terms)
        if d is not None:
            self.named(d, i)
            self.give(x, Term(d, per_y))
            logs.append(Term(d, i))
        if d_ln is not None:
            self.give(x, Term(g.node("over_positive", d_ln, g.mul(x, per_y)), per_y))
            logs.append(Term(d_ln))
        total = self.total(logs)
        if total is not None:
            self.give_log(y, Term(total, minus=True))

    def visit_power(self, i: int, power: int, d: int) -> None:
        g = self.graph
        x, y = g.args(power)
        log2_x = g.node("log2_of", power)
        d_exponent = g.mul(d, i)
        if g.op(power) == "power01":  # where x^y is above 1 nothing passes
            d_exponent = g.select(g.ge(g.const(0), log2_x), d_exponent, g.const(0))
        self.give(y, Term(g.mul(d_exponent, g.const(LN2)), log2_x))
        self.give_log(x, Term(d_exponent, y))
