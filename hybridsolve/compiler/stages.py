"""A step cut into stages, each of which a CPU runs over many units before it begins the next (csrc/core/drive.h).

A step is one long chain of operations that wait for each other, longer than the window in which a processor looks for
work that it can do meanwhile. A stage is short: while one unit waits, the processor is at the next ones already. What a
later stage wants of an earlier one is stored for every unit and loaded again. So cuts are made where least is alive,
and as few of them as leave no chain within a stage that is longer than `LONGEST`.

Of the adjoint only what carries cotangents is cut. What that needs of the forward step is made again in every stage
that needs it, from the state before the step and what the step has kept, which what crosses its own cuts is a part of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from .graph import MASKS, Graph, Node, needed, rewrite
from .reversal import Adjoint

LONGEST = 80  # cycles of a chain within a stage
PER_STAGE = 6.0  # what a stage costs beside its work, in values that cross a cut
AGAIN = 0.3  # what an operation of the forward step costs that a stage of the adjoint makes again
# Written where they are used, in every stage that uses them: they cost little or nothing, and a mask is no number.
FREE = ("leaf", "const", "neg", "value_of", "log2_of", "sums", *MASKS)
CALLS = ("repeat", "adj_repeat", "mlp", "adj_mlp", "root")  # these cross no cut: their items do
# Cycles from the operands of an operation to its result, about those of today's processors.
CYCLES = dict(add=4, sub=4, mul=4, fma=4, min=4, max=4, at_least=3, at_most=3, select=5)
CYCLES |= dict(quotient=12, reciprocal=13, div=13, over_positive=16, logarithm=36, power=50, power01=50)
CYCLES |= dict(exp=45, log=50, sqrt=20, tanh=70, sigmoid=65, softplus=130, sin=60, cos=60, floor=10)
CYCLES |= dict(adj_exp=4, adj_log=16, adj_sqrt=18, adj_tanh=12, adj_sigmoid=12, adj_softplus=65, adj_sin=64, adj_cos=64)
CYCLES |= dict.fromkeys(CALLS, LONGEST)

Root = tuple[str, int]  # kind and number of a result


@dataclass
class Stages:
    """A program in stages.

    Attributes
    ----------
    made : list of list of int
        The nodes of each stage.
    stored : list of dict of Root to int
        The results that each stage stores: a state no earlier than in the last stage that reads the one before.
    crossing : list of int
        Nodes that a later stage than their own uses.
    """

    made: list[list[int]]
    stored: list[dict[Root, int]]
    crossing: list[int]


class Needs(NamedTuple):
    """What a node is made of: nodes with a place, nodes that are made again, and leaves that may be overwritten."""

    placed: frozenset[int]
    again: frozenset[int]
    leaves: frozenset[Root]


def apart(adjoint: Adjoint) -> Adjoint:
    """The same with the logarithm of each power as an operation of its own, so that a cut may lie behind it."""

    def rule(new: Graph, node: Node, i: int) -> int | None:
        if node.op not in ("power", "power01"):
            return None
        logarithm = new.node("logarithm", node.args[0])
        return new.node(node.op, logarithm, node.args[1])

    n, k = len(adjoint.d_leaves), len(adjoint.kept)
    asked = [*adjoint.d_leaves.values(), *adjoint.kept, *adjoint.program.every_root]
    graph, moved, _ = rewrite(adjoint.program.graph, asked, rule)
    d_leaves = dict(zip(adjoint.d_leaves, moved[:n], strict=True))
    return Adjoint(adjoint.program.with_graph(graph, moved[n + k :]), d_leaves, moved[n : n + k])


def of_step(adjoint: Adjoint) -> Stages:
    """The stages of a step."""
    return _staged(adjoint.program.graph, adjoint.program.every_result, "s", adjoint.kept, ())


def of_adjoint(adjoint: Adjoint, taped: Collection[int], sums: Collection[int], once: Collection[int] = ()) -> Stages:
    """The stages of the adjoint, `taped` being what it is given of the forward step, `sums` what stands where it is
    added to, and `once` what is not made again in stages, though it carries no cotangents."""
    roots = {(f"d_{kind}", n): i for (kind, n), i in adjoint.d_leaves.items()}
    return _staged(adjoint.program.graph, roots, "d_s", sums, taped, once)


def _staged(
    graph: Graph,
    roots: Mapping[Root, int],
    state: str,
    held: Collection[int],
    taped: Collection[int],
    once: Collection[int] = (),
) -> Stages:
    live = sorted(needed(graph, [*roots.values(), *(held if state == "s" else ())], taped))
    carries: set[int] = set()  # nodes that carry cotangents; of a step all
    for i in live:
        op, args, value = graph.nodes[i]
        is_leaf = op == "leaf" and isinstance(value, tuple) and value[0].startswith("d_")
        if state == "s" or is_leaf or i in once or any(a in carries for a in args):
            carries.add(i)
    alone: set[int] = set()  # of parameters and inputs alone, and so cheap that it is made in every step
    for i in live:
        op, args, value = graph.nodes[i]
        if op == "const" or value[0] in ("p", "k", "d", "dt") if op == "leaf" else all(a in alone for a in args):
            alone.add(i)
    placed = {i for i in live if i in carries and graph.op(i) not in FREE and i not in taped and i not in alone}
    known: dict[int, Needs] = {}

    def needs(i: int) -> Needs:
        """Of a node without a place what it is made of, itself included."""
        if i not in known:
            value = graph.nodes[i].value
            if i in placed:
                known[i] = Needs(frozenset([i]), frozenset(), frozenset())
            elif i in taped:
                known[i] = Needs(frozenset(), frozenset(), frozenset())
            elif graph.op(i) == "leaf":
                mutable = isinstance(value, tuple) and value[0] == state
                known[i] = Needs(frozenset(), frozenset(), frozenset([value] if mutable else ()))
            else:
                own = frozenset([i] if graph.op(i) not in FREE else ())
                known[i] = _union([Needs(frozenset(), own, frozenset()), *(needs(a) for a in graph.args(i))])
        return known[i]

    for i in live:  # so that no recursion is deep
        needs(i)
    of = {i: _union([needs(a) for a in graph.args(i)]) for i in placed}
    order = _schedule(placed, of)
    made = _cut(graph, order, of, held)

    stage = {i: n for n, nodes in enumerate(made) for i in nodes}
    end = max(len(made) - 1, 0)
    read: dict[Root, int] = {}
    ready = {root: max((stage[j] for j in needs(i).placed), default=end) for root, i in roots.items()}
    reads = [(stage[i], of[i].leaves) for i in order] + [(ready[root], needs(i).leaves) for root, i in roots.items()]
    for n, leaves in reads:
        for leaf in leaves:
            read[leaf] = max(read.get(leaf, 0), n)
    stored: list[dict[Root, int]] = [{} for _ in range(end + 1)]
    used = {i: stage[i] for i in order}
    for i in order:
        for a in of[i].placed:
            used[a] = max(used[a], stage[i])
    for root, i in roots.items():
        at = max(ready[root], read.get(root, 0)) if root[0] == state else ready[root]
        stored[at][root] = i
        for a in needs(i).placed:
            used[a] = max(used[a], at)
    crossing = [i for i in order if used[i] > stage[i] and i not in held and graph.op(i) not in CALLS]
    return Stages(made or [[]], stored, crossing)


def _union(parts: Sequence[Needs]) -> Needs:
    return Needs(
        frozenset[int]().union(*(part.placed for part in parts)),
        frozenset[int]().union(*(part.again for part in parts)),
        frozenset[Root]().union(*(part.leaves for part in parts)),
    )


def _schedule(nodes: Iterable[int], of: Mapping[int, Needs]) -> list[int]:
    """The nodes in their order, but those that lead to one result alone as soon as they can be made."""
    nodes = sorted(nodes)
    users: dict[int, list[int]] = {i: [] for i in nodes}
    for i in nodes:
        for a in of[i].placed:
            users[a].append(i)
    leads: dict[int, int] = {}  # of a node the result that it leads to, if it is one
    for i in reversed(nodes):
        found = {leads.get(u, -1) for u in users[i]} or {i}
        if of[i].placed and len(found) == 1 and -1 not in found:
            leads[i] = found.pop()
    waits = {i: len(of[i].placed) for i in nodes}
    done: dict[int, None] = {}
    for i in nodes:
        todo = [] if i in leads else [i]
        while todo:
            j = todo.pop()
            done[j] = None
            for u in users[j]:
                waits[u] -= 1
                if u in leads and waits[u] == 0:
                    todo.append(u)
    return list(done)


def _cut(graph: Graph, order: Sequence[int], of: Mapping[int, Needs], held: Collection[int]) -> list[list[int]]:
    """The order in pieces, at the least cost; what is `held` stands in memory anyhow."""
    place = {i: n for n, i in enumerate(order)}
    last = dict(place)
    for i in order:
        for a in of[i].placed:
            last[a] = max(last[a], place[i])
    N = len(order)
    across = [0.0] * (N + 1)  # the cost of a cut before the n-th node
    for i in order:
        for n in range(place[i] + 1, last[i] + 1):
            across[n] += inf if graph.op(i) in CALLS else 0.5 if i in held else 2 if graph.op(i) == "logarithm" else 1
    best, begun = [0.0] + [inf] * N, [0] * (N + 1)
    for b in range(N):
        cycles: dict[int, int] = {}
        again: set[int] = set()
        for e in range(b, N):
            i = order[e]
            again |= of[i].again
            cycles[i] = max((cycles.get(a, 0) for a in of[i].placed), default=0) + CYCLES.get(graph.op(i), 0)
            if cycles[i] > LONGEST and e > b and across[e] < inf:
                break
            total = best[b] + PER_STAGE + across[e + 1] + AGAIN * len(again)
            if total < best[e + 1]:
                best[e + 1], begun[e + 1] = total, b
    pieces, end = [], N
    while end > 0:
        pieces.append(list(order[begun[end] : end]))
        end = begun[end]
    return pieces[::-1]
