"""A graph with what is asked of it, and what a node may hold: a loop, equations, a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .graph import Graph, Place, needed


@dataclass
class Program:
    """A graph, and the nodes that are asked for, by kind: "s" the states after the step and what goes into the delay
    lines, "q" the fluxes, "d" what is made once, "w" ordinates, "c" what a loop carries from pass to pass."""

    graph: Graph
    roots: dict[str, list[int]]

    @property
    def every_root(self) -> list[int]:
        return [i for rows in self.roots.values() for i in rows]

    @property
    def every_result(self) -> dict[tuple[str, int], int]:
        """The roots by kind and number."""
        return {(kind, n): i for kind, rows in self.roots.items() for n, i in enumerate(rows)}

    def with_graph(self, graph: Graph, roots: Sequence[int]) -> Program:
        """The same roots, elsewhere."""
        roots = list(roots)
        return Program(graph, {kind: [roots.pop(0) for _ in rows] for kind, rows in self.roots.items()})

    def __repr__(self) -> str:
        """The nodes in their order, without those that nothing is made of: the same for equal programs."""
        live = sorted(needed(self.graph, self.every_root))
        number = {i: n for n, i in enumerate(live)}
        rows = [(self.graph.op(i), [number[a] for a in self.graph.args(i)], self.graph.nodes[i].value) for i in live]
        return repr((rows, {kind: [number[i] for i in roots] for kind, roots in self.roots.items()}))


@dataclass(eq=False)
class Loop:
    """The body of a `repeat`, whose node has as operands the number of passes, the starts, and what it captures.

    Attributes
    ----------
    most : int
        Passes at most.
    names : tuple of str
        What it carries from pass to pass.
    program : Program
        One pass, of leaves ("c", n) carried and ("x", n) captured.
    captured : int
    """

    most: int
    names: tuple[str, ...]
    program: Program
    captured: int


def loops_of(*programs: Program) -> list[tuple[int, Place]]:
    """How many passes each loop in programs makes at most, and its line; those inside others too."""
    found = []
    for program in programs:
        graph = program.graph
        for i in sorted(needed(graph, program.every_root)):
            if graph.op(i) == "repeat":
                loop = graph.nodes[i].value
                found += [(loop.most, graph.places[i]), *loops_of(loop.program)]
    return found


@dataclass(eq=False)
class Root:
    """The value of a "root", whose operands are where it starts, and what it captures.

    Attributes
    ----------
    most : int
        Iterations at most.
    names : tuple of str
        Of the unknowns.
    program : Program
        Of leaves ("c", n) the unknowns and ("x", n) captured: the residuals "r", Newton's step "c", and "j" the entries
        of the Jacobian that are not 0.
    entries : tuple of (int, int)
        Their rows and columns.
    captured : int
    """

    most: int
    names: tuple[str, ...]
    program: Program
    entries: tuple[tuple[int, int], ...]
    captured: int


def roots_of(*programs: Program) -> list[tuple[int, Place]]:
    """How many iterations each root in programs takes at most, and the line of its equations."""
    graphs = [(program.graph, needed(program.graph, program.every_root)) for program in programs]
    return [(g.nodes[i].value.most, g.places[i]) for g, live in graphs for i in sorted(live) if g.op(i) == "root"]


class Network(NamedTuple):
    """A network of a step; the value of its nodes.

    Attributes
    ----------
    name : str
    sizes : tuple of int
        Inputs, units of each hidden layer, outputs.
    activation : str
        Behind every layer but the last.
    number : int
        Its place among the networks of the step, in the order in which that calls them.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    number: int

    @property
    def hidden(self) -> int:
        """Units of all hidden layers."""
        return sum(self.sizes[1:-1])

    @property
    def weights(self) -> int:
        return sum(m * (n + 1) for n, m in pairwise(self.sizes))

    @property
    def words(self) -> str:
        """Its shape, for messages."""
        *before, last = map(str, self.sizes)
        return f"{' - '.join(before)} - {last} units"

    @property
    def type(self) -> str:
        return f"Mlp<Activation::{self.activation}, {', '.join(map(str, self.sizes))}>"
