"""What no program goes below on this machine, and which of three things sets it.

*Memory*: the bytes that must move, each array once, at the speed of a copy. *Arithmetic*: the operations of the model's
traced step, elementary functions as csrc/core writes them, at the rates measured; with a gradient those of the reversed
graph too, without the recomputation that a method with little memory adds. *Latency*: a run cannot end before the chain
of operations that leads from a step's state to the next has been gone through once a step; polynomials count with the
shortest chain that there is. Of rivers memory alone is known.
"""

from __future__ import annotations

import ctypes
import functools
import math
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import models
from ..compiler import cache
from ..compiler.cpp import compiled
from ..compiler.graph import Graph, needed
from .cases import DTYPES, FORWARD, Case

KINDS = ("fma", "add", "min", "div")  # products too; differences; maxima, comparisons and selections; roots
RATES = (*KINDS, "fma+add", "fma+min", "add+min")
NAMES = (
    *(f"{kind} {dtype}" for dtype in DTYPES for kind in RATES),
    *(f"latency of {kind} {dtype}" for dtype in DTYPES for kind in KINDS),
    "copy",
)


def measure(threads: int) -> dict[str, float]:
    """The ceilings by name: numbers a second, seconds, and of "copy" bytes a second.

    Raises
    ------
    RuntimeError
        If there is no C++ compiler, or it fails.
    """
    from ..solve.compiled import extension

    isa = extension("cpu").isa()
    compiler, version = cache.compiler()
    flags = ("-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-pthread", "-fPIC", "-shared")
    flags += (*cache.ISAS[isa], f"-DHS_ISA={isa}", f"-I{cache.sources()}")

    def make(made: Path) -> None:
        source = made.with_name("ceilings.cpp")
        source.write_text('#include "bench/ceilings.h"\n')
        done = subprocess.run([compiler, *flags, str(source), "-o", str(made)], capture_output=True, text=True)
        if done.returncode != 0:
            raise cache.failed("", done.stderr, "the C++ compiler", "try another by CXX")

    library = cache.entry("\0".join(("ceilings", *flags, version)), ".so", f"ceilings of this machine; {isa}", make)
    found = (ctypes.c_double * len(NAMES))()
    n = ctypes.CDLL(str(library)).measure(threads, found)
    if n != len(NAMES):
        raise RuntimeError(f"the ceilings must be {len(NAMES)} numbers; found {n}: clear the cache of kernels.")
    return dict(zip(NAMES, found, strict=True))


class Cost(NamedTuple):
    """Operations of an elementary function by kind, and those of its shortest chain."""

    work: tuple[int, int, int, int]
    chain: tuple[int, int, int, int]


def _cost(dtype: str) -> dict[str, Cost]:
    """Of every operation of a graph; coefficients as csrc/core has them."""
    wide = dtype == "float64"
    exp2, even, odd, log2 = (11, 5, 5, 7) if wide else (6, 3, 2, 8)  # coefficients
    depth = lambda n: math.ceil(math.log2(n))  # noqa: E731
    estrin = lambda n: n - 2 + depth(n)  # noqa: E731  # with the powers

    def plus(*parts: Iterable[int]) -> tuple[int, int, int, int]:
        return tuple(map(sum, zip(*parts, strict=True)))  # type: ignore[return-value]

    none = (0, 0, 0, 0)
    fma, add, low, div = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    times = lambda n, kind: tuple(n * x for x in kind)  # noqa: E731
    one = {kind: Cost(kind, kind) for kind in (none, fma, add, low, div)}
    # Exponent and fraction of a logarithm; double divides, and takes the square.
    more = plus(add, div, fma) if wide else none
    parts = Cost(plus(times(estrin(log2) + 3 + wide, fma), add, more), plus(times(depth(log2) + 2, fma), more))
    grown = Cost(plus(times(even + odd + 4, fma), add), plus(times(4 + depth(max(even, odd)), fma), add))
    exponential = Cost(plus(grown.work, fma, low, low), plus(grown.chain, fma, low, low))
    raised = Cost(
        plus(parts.work, times(estrin(exp2) + 6, fma), times(2, add), times(3, low)),
        plus(parts.chain, times(depth(exp2) + 3, fma), times(2, add), times(3, low)),
    )
    sigmoid = Cost(plus(exponential.work, add, div), plus(exponential.chain, add, div))
    logarithm = Cost(plus(parts.work, low, fma, fma), plus(parts.chain, low, fma))
    sine = Cost(plus(times(12 if wide else 10, fma), times(3, add)), plus(times(8, fma), times(3, add)))
    each = lambda *parts: Cost(plus(*parts), plus(*parts))  # noqa: E731
    return {
        **dict.fromkeys(("leaf", "const", "neg", "value_of", "no", "and", "or"), one[none]),
        **dict.fromkeys(("fma", "mul"), one[fma]),
        **dict.fromkeys(("add", "sub", "log2_of"), one[add]),
        **dict.fromkeys(("min", "max", "at_least", "at_most", "ge", "select"), one[low]),
        **dict.fromkeys(("div", "reciprocal"), one[div]),
        "quotient": each(times(3, fma)),
        "power01": Cost(plus(raised.work, low), plus(raised.chain, low)),
        "power": Cost(plus(raised.work, times(2, low)), plus(raised.chain, times(2, low))),
        "exp": exponential,
        "log": logarithm,
        "sqrt": each(low, div),
        "tanh": Cost(*(plus(x, low, low, fma, fma, add, add, div) for x in grown)),
        "sigmoid": sigmoid,
        "softplus": Cost(
            plus(exponential.work, logarithm.work, low, low, times(5, add), div),
            plus(exponential.chain, logarithm.chain, low, times(2, add)),
        ),
        "sin": sine,
        "cos": sine,
        "floor": each(times(2, add), low, low),
        "over_positive": each(low, div),
        "adj_exp": one[fma],
        "adj_log": each(low, div),
        "adj_sqrt": each(fma, div),
        "adj_tanh": each(fma, fma),
        "adj_sigmoid": each(fma, fma, add),
        "adj_softplus": Cost(*(plus(x, fma) for x in sigmoid)),
        "adj_sin": Cost(*(plus(x, fma) for x in sine)),
        "adj_cos": Cost(*(plus(x, fma) for x in sine)),
    }


@functools.cache
def operations(model: str, dtype: str) -> tuple[dict[str, int], dict[str, int]] | None:
    """Operations of a cell-step by kind, of the forward run and of the reversal; None where a step has a loop."""
    spec, cost = models.get(model), _cost(dtype)
    adjoint = compiled(spec)[0]
    program, graph = adjoint.program, adjoint.program.graph
    outflow = spec.flux_names.index(spec.outflow)
    forward = needed(graph, [*program.roots["s"], program.roots["q"][outflow]])
    back = needed(graph, adjoint.d_leaves.values()) - forward
    if any(graph.op(i) not in cost for i in forward | back):
        return None
    others = {("d_q", n) for n in range(len(spec.flux_names)) if n != outflow}
    found = []
    for live in (forward, _working(graph, back, others)):
        total: Counter[str] = Counter()
        for i in live:
            total.update(dict(zip(KINDS, cost[graph.op(i)].work, strict=True)))
        found.append(dict(total))
    return found[0], found[1]


def _working(graph: Graph, live: set[int], nothing: set[tuple[str, int]]) -> list[int]:
    """The nodes that are still operations where the leaves `nothing` are 0."""
    zero, working = {i for i in live if graph.nodes[i].value in nothing and graph.op(i) == "leaf"}, []
    for i in sorted(live - zero):
        op, a = graph.op(i), [x in zero for x in graph.args(i)]
        if op in ("add", "sub") and any(a):
            if all(a):
                zero.add(i)
        elif op == "fma" and (a[0] or a[1]):
            if a[2]:
                zero.add(i)
        elif (
            (op == "mul" and any(a))
            or (op == "select" and all(a[1:]))
            or (op in ("neg", "over_positive") and a[0])
            or (op.startswith("adj_") and a[-1])
        ):
            zero.add(i)
        else:
            working.append(i)
    return working


def chain(model: str, dtype: str, ceilings: dict[str, float]) -> float:
    """Seconds a step that the chain through a model's states takes: the largest mean of a cycle among them."""
    spec, cost = models.get(model), _cost(dtype)
    program = compiled(spec)[0].program
    graph, n = program.graph, len(spec.states)
    each = [ceilings[f"latency of {kind} {dtype}"] for kind in KINDS]
    roots = program.roots["s"][:n]
    live = sorted(needed(graph, roots))
    longest = np.full((n, n), -np.inf)
    for k in range(n):
        reached = {i: 0.0 for i in live if graph.nodes[i].value == ("s", k)}
        for i in live:
            before = [reached[a] for a in graph.args(i) if a in reached]
            if before and graph.op(i) in cost:
                reached[i] = max(before) + float(np.dot(cost[graph.op(i)].chain, each))
        longest[k] = [reached.get(i, -np.inf) for i in roots]
    total, half = np.zeros(n), np.zeros(n)
    rounds = 8 * n  # whatever leads into the slowest cycle is left behind by then
    for step in range(2 * rounds):
        half = total if step == rounds else half
        total = (total[:, None] + longest).max(0)
    return float((total.max() - half.max()) / rounds)


def floor(case: Case, mode: str, ceilings: dict[str, float]) -> tuple[float, str]:
    """Seconds that a case takes at least, and what sets it: "memory", "arithmetic" or "latency"."""
    flow = case.B * case.T * (case.C if case.each else 1)
    n_forcings = 1 if case.river else len(models.get(case.model).forcings)
    n_bytes = case.itemsize * (n_forcings * case.B * case.T + flow)
    # Back, the forcing is read again, and the cotangent.
    floors = {"memory": n_bytes * (1 if mode == FORWARD else 2) / ceilings["copy"]}
    counts = None if case.river else operations(case.model, case.dtype)
    if counts is not None:
        total = Counter(counts[0])
        if mode != FORWARD:
            total.update(counts[1])
        floors["arithmetic"] = case.steps * _seconds(total, case.dtype, ceilings)
        floors["latency"] = case.T * chain(case.model, case.dtype, ceilings)
    what = max(floors, key=lambda name: floors[name])
    return floors[what], what


def _seconds(total: Counter[str], dtype: str, ceilings: dict[str, float]) -> float:
    """Of so many operations: the largest of what each kind takes alone, what two kinds take that share units, and what
    all take at the highest of the rates but that of divisions."""
    rate = {kind: ceilings[f"{kind} {dtype}"] for kind in RATES}
    groups = [(kinds.split("+"), rate[kinds]) for kinds in RATES]
    groups.append((["fma", "add", "min"], max(rate.values())))
    return max(sum(total[kind] for kind in kinds) / most for kinds, most in groups)
