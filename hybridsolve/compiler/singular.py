"""Where a step may need a function at a point without a finite derivative: roots, logarithms and powers at 0.

The bounds of the table are carried through the traced step as intervals. What they cannot exclude is warned of: the
kernels give a finite gradient there (hybridsolve/models/primitives.py says which), but one of 1e8 and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..rows import Variable
from ..spec import ModelSpec
from .graph import Graph
from .tracing import trace

Interval = tuple[float, float]
ALL = (-math.inf, math.inf)


def doubtful(model: ModelSpec) -> list[str]:
    """A sentence, with file and line, for each place of a step that may be met without a finite derivative."""
    found: dict[str, None] = {}  # each once
    for program in trace(model, model.optional_parameter_names):
        graph = program.graph
        within = _intervals(graph, model)
        for i, node in enumerate(graph.nodes):
            if node.op not in ("sqrt", "log", "power") or within[node.args[0]][0] > 0 or i not in graph.places:
                continue
            if node.op == "power" and within[node.args[1]][0] >= 1:
                continue
            file, line = graph.places[i]
            what = "power, with an exponent that may be below 1," if node.op == "power" else node.op
            found[
                f"{file}:{line}: {what} is taken of a value that may be 0, where it has no finite derivative: keep "
                "it up, as maximum(x, 1e-6) does, or raise the lower bound in the table."
            ] = None
    return list(found)


def _intervals(graph: Graph, model: ModelSpec) -> list[Interval]:
    """What every node may be; numbers that are not known are any."""
    rows = {
        "f": model.forcings,
        "k": model.inputs,
        "p": model.parameters + model.optional_parameters,
        "s": model.states,
    }
    found: list[Interval] = []
    for node in graph.nodes:
        a = [found[j] for j in node.args]
        if node.op == "leaf":
            kind, n = node.value
            row = rows[kind][n] if kind in rows and n < len(rows[kind]) else None
            made = (row.lower, row.upper) if isinstance(row, Variable) else (0.0, math.inf) if kind == "dt" else ALL
        elif node.op == "const":
            made = (node.value, node.value)
        elif node.op in ("at_least", "at_most"):
            pick = max if node.op == "at_least" else min
            made = (pick(a[0][0], node.value), pick(a[0][1], node.value))
        elif node.op == "mul" and node.args[0] == node.args[1]:
            ends = (a[0][0] ** 2, a[0][1] ** 2)
            made = (0.0 if a[0][0] <= 0 <= a[0][1] else min(ends), max(ends))
        elif node.op in _RULES:
            made = _RULES[node.op](*a)
        else:
            made = ALL
        found.append(made)
    return found


def _products(a: Interval, b: Interval) -> Interval:
    ends = [x * y if x and y else 0.0 for x in a for y in b]
    return min(ends), max(ends)


def _quotients(a: Interval, b: Interval) -> Interval:
    return _products(a, (1 / b[1], 1 / b[0])) if b[0] > 0 else ALL


def _rising(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    return lambda a: (function(a[0]), function(a[1]))


_RULES: Mapping[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "neg": lambda a: (-a[1], -a[0]),
    "mul": _products,
    "div": _quotients,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "select": lambda m, a, b: (min(a[0], b[0]), max(a[1], b[1])),
    "exp": lambda a: (math.exp(min(max(a[0], -83.0), 83.0)), math.inf),
    "sqrt": _rising(lambda x: math.sqrt(max(x, 0.0))),
    "tanh": _rising(math.tanh),
    "sigmoid": lambda a: (0.0, 1.0),
    "softplus": lambda a: (0.0, math.inf),
    "sin": lambda a: (-1.0, 1.0),
    "cos": lambda a: (-1.0, 1.0),
    "floor": _rising(lambda x: math.floor(x) if math.isfinite(x) else x),
    "value_of": lambda a: (0.0, math.inf),
}
