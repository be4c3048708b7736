"""A traced graph made cheaper without another meaning: shared reciprocals, fused products, and what is made once.

All of it happens on the forward graph, before it is reversed, so that the adjoint's recomputation meets the bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .graph import FUNCTIONS, Graph, Node, needed, rewrite

COSTLY = ("reciprocal", "quotient", "power", "power01", "mlp", "item", *(f for f in FUNCTIONS if f != "floor"))
CHEAP_ENOUGH = 2  # so many cheap operations on parameters are done in every step rather than once and loaded


def share_reciprocals(graph: Graph, roots: Sequence[int]) -> tuple[Graph, list[int]]:
    """x / y as a quotient given 1 / y; where u y divides too and u > 0, that is u times the reciprocal of u y."""
    divisors = {graph.args(i)[1] for i in needed(graph, roots) if graph.op(i) == "div"}
    wider: dict[int, tuple[int, int]] = {}  # of a divisor y: a divisor u y, and u
    for e in sorted(divisors):
        if graph.op(e) == "mul":
            for y, u in (graph.args(e), graph.args(e)[::-1]):
                if y in divisors and u in graph.positive:
                    wider.setdefault(y, (e, u))

    def early(new: Graph, i: int) -> int:  # a node that may come later in the old graph
        node = graph.nodes[i]
        j = new.build(node._replace(args=tuple(early(new, a) for a in node.args)))
        if i in graph.positive:
            new.positive.add(j)
        return j

    def rule(new: Graph, node: Node, i: int) -> int | None:
        if node.op != "div":
            return None
        x, y = node.args
        old = graph.args(i)[1]
        if old in wider and _plain(graph, wider[old][0]):
            e, u = wider[old]
            per_y = new.mul(early(new, u), new.node("reciprocal", early(new, e)))
        else:
            per_y = new.node("reciprocal", y)
        new.names.setdefault(per_y, f"per_{_word(graph, old)}")
        number = new.number(x)
        return new.node("quotient", x, y, per_y) if number is None else new.mul(per_y, new.const(number))

    new, roots, _ = rewrite(graph, roots, rule)
    return new, roots


def _word(graph: Graph, i: int) -> str:
    """What a divisor is called."""
    if i in graph.names:
        return graph.names[i]
    return "_".join(_word(graph, a) for a in graph.args(i)) if graph.op(i) == "mul" else "divisor"


def _plain(graph: Graph, e: int) -> bool:
    """Whether a divisor can be made at any place: of leaves and what does not divide."""
    return not any(graph.op(i) == "div" for i in needed(graph, [e]))


def fuse(graph: Graph, roots: Sequence[int], fixed: Collection[int] = ()) -> tuple[Graph, list[int], dict[int, int]]:
    """a b + c as one operation where the product has no other use; the nodes `fixed` stay as they are."""
    uses: dict[int, int] = {}
    for i in needed(graph, roots):
        for a in graph.args(i):
            uses[a] = uses.get(a, 0) + 1
    for i in roots:
        uses[i] = uses.get(i, 0) + 1

    def loose(i: int) -> bool:
        return graph.op(i) == "mul" and uses[i] == 1 and i not in fixed and graph.number(graph.args(i)[1]) is None

    def rule(new: Graph, node: Node, i: int) -> int | None:
        if node.op not in ("add", "sub") or i in fixed:
            return None
        (a, b), (old_a, old_b) = node.args, graph.args(i)
        if node.op == "add" and loose(old_a) and new.op(a) == "mul":
            x, y = new.args(a)
            return new.fma(x, y, b)
        if loose(old_b) and new.op(b) == "mul":
            x, y = new.args(b)
            return new.fma(x if node.op == "add" else new.neg(x), y, a)
        if node.op == "sub" and loose(old_a) and new.op(a) == "mul":
            x, y = new.args(a)
            return new.fma(x, y, new.neg(b))
        return None

    return rewrite(graph, roots, rule)


def made_once(graph: Graph, roots: Sequence[int]) -> list[int]:
    """The nodes that depend on parameters and inputs alone, are used by others, and are worth making once."""
    alone: set[int] = set()
    for i in sorted(needed(graph, roots)):
        node = graph.nodes[i]
        if node.op == "leaf":
            if isinstance(node.value, tuple) and node.value[0] in ("p", "k", "dt"):
                alone.add(i)
        elif node.op == "const" or all(a in alone for a in node.args):
            alone.add(i)
    live = needed(graph, roots)
    used = {a for i in live - alone for a in graph.args(i)} | (set(roots) & alone)
    found = []
    for i in sorted(used & alone):
        work = [j for j in needed(graph, [i]) if graph.op(j) not in ("leaf", "const", "neg")]
        if graph.op(i) in ("power", "power01", "ge", "no", "and", "or"):
            continue  # no number: what is made of it is
        if len(work) > CHEAP_ENOUGH or any(graph.op(j) in COSTLY for j in work):
            found.append(i)
    return found


def replaced(graph: Graph, roots: Sequence[int], by_leaf: Sequence[int]) -> tuple[Graph, list[int]]:
    """The graph with a leaf ("d", n) in place of the n-th of these nodes."""
    number = {i: n for n, i in enumerate(by_leaf)}

    def rule(new: Graph, node: Node, i: int) -> int | None:
        return new.leaf("d", number[i]) if i in number else None

    new, roots, _ = rewrite(graph, roots, rule)
    return new, roots
