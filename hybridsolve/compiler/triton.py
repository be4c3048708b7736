"""A model as a module in Triton on the contract of solve/triton/drive.py, to be read beside its step in Python.

It is made of the graphs that cpp.py writes as C++, with the same names and remarks. What a function takes and returns
are tuples: nothing is added to in place, so that a cotangent begins at 0. Nothing is kept either: the adjoint computes
the step again, by the same operations. A step with loops has one flux more, 1 where a lane is to make more passes than
a loop may; so has what is made once. A network is unrolled, and its weights are parameters behind the others. Every
value is a row of lanes, of float32 or float64. A number beside one takes its type; where there is none beside it,
`number` makes a row of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ..spec import ModelSpec
from . import roots, triton_loops
from .cpp import _names_of, compiled
from .graph import Graph, Node, rewrite
from .program import loops_of, roots_of
from .reversal import Adjoint
from .statements import WIDTH
from .tracing import networks_of
from .triton_statements import BEYOND, SIGN, Function, Results, Rows, tuple_of, wrapped


class _Function(Function):
    """With what writes the operations that have several results; networks are unrolled."""

    WRITE = dict(repeat=triton_loops.write, adj_repeat=triton_loops.write_adjoint, root=roots.write_in_triton)


def source(model: ModelSpec, optional: Sequence[str] = (), outputs: Collection[str] | None = None) -> str:
    """The module with the step of a model and its adjoint.

    Parameters
    ----------
    model : ModelSpec
    optional : sequence of str
        The optional parameters that the run has.
    outputs : collection of str, optional
        What alone of fluxes and states has cotangents in the adjoint; all.

    Returns
    -------
    str

    Raises
    ------
    StepError
        If the step does what no kernel can; the message names the line.
    """
    step, prepare, ordinates = compiled(model, optional, outputs, networks_unrolled=True)
    step, prepare = (
        replace(part, program=replace(part.program, graph=part.program.graph.plain())) for part in (step, prepare)
    )
    parameters = [v.name for v in model.present_parameters(optional)]
    for network in networks_of(model.key, tuple(optional)):
        parameters += [f"{network.name}_{n}" for n in range(network.weights)]
    before = (BEYOND,) if loops_of(prepare.program) else ()
    beyond = (BEYOND,) if before or loops_of(step.program) or roots_of(step.program) else ()
    once, fluxes, lines = _names_of(prepare) + before, model.flux_names + beyond, model.line_names
    stores = model.state_names + lines
    names = dict(s=stores, q=fluxes, f=model.forcing_names, p=parameters, d=once, w=lines)
    first = dict(p=parameters, k=model.input_names)
    rows = first | dict(f=model.forcing_names, d=once)
    rows |= dict(w=[f"first_{name}" for name in lines], s=[f"{name}_0" for name in stores])
    d_rows = dict(d_q=[f"d_{name}_out" for name in fluxes], d_s=[f"d_{name}_after" for name in stores])
    kinds = "sfpdw" if once or lines else "sfp"
    functions = [
        _forward("step", "given, s", step, rows, names, "sq", bool(before)),
        _backward("step_adj", "given, s, d_q, d_s", step, rows | d_rows, names, kinds),
    ]
    if once:
        d_rows = dict(d=once, d_d=[f"d_{name}" for name in once])
        functions += [
            _forward("prepare", "given", prepare, first, names, "d"),
            _backward("prepare_adj", "given, d_d", prepare, first | d_rows, names, "p"),
        ]
    if lines:
        names["w"] = tuple(f"{line.name}_{j}" for line in model.lines for j in range(line.slots))
        functions += [
            _forward("ordinates", "given", ordinates, first, names, "w", late=True),
            _backward("ordinates_adj", "given, d_w", ordinates, first, names, "pd", late=True),
        ]
    used = ", ".join(sorted({name for function in functions for name in function.used}))
    file = Path(model.reference_step.__code__.co_filename).name
    generated = (
        f"Generated from {file} by hybridsolve.compiler: change that, not this. A comment with a number is the line of "
        "the Python step that the statements below it come from."
    )
    text = []
    for said in (f"{model.title}. {model.source}", generated):
        text += textwrap.wrap(said, WIDTH, initial_indent="# ", subsequent_indent="# ")
    text += ["", "import triton", "import triton.language as tl", ""]
    text += [*wrapped(f"from hybridsolve.solve.triton.math import ({used})"), ""] if used else []
    table_fluxes = (*model.flux_names, *(SIGN for _ in beyond))
    for what, table in (("FLUXES", table_fluxes), ("DERIVED", once), ("OPTIONS", ())):
        quoted = [f'"{name}"' for name in table]
        text += wrapped(f"{what} = {tuple_of(quoted)}")
    for function in functions:
        text += ["", "", *function.text_rows]
    return "\n".join([*text, ""])


def _forward(
    name: str,
    takes: str,
    of: Adjoint,
    rows: Rows,
    names: Rows,
    kinds: str,
    after_prepare: bool = False,
    late: bool = False,
) -> Function:
    """The function that computes the results of these kinds, and of the last `BEYOND`, where that has one name more."""
    roots = of.program.roots
    results: Results = [list(zip(names[kind], roots[kind], strict=False)) for kind in kinds]
    function = _Function(of.program.graph, rows)
    first = [i for row in results for _, i in row if i is not None]
    if len(names[kinds[-1]]) > len(roots[kinds[-1]]):
        function.note_passes(after_prepare)
        results[-1].append((BEYOND, None))
    return function.write_all(name, takes, results, first, late)


def _backward(name: str, takes: str, of: Adjoint, rows: Rows, names: Rows, kinds: str, late: bool = False) -> Function:
    """The function that computes the cotangents of leaves of these kinds, from 0 where they were sums in place."""
    sums = {f"d_{kind}" for kind, _ in of.d_leaves if kind != "s"}

    def rule(new: Graph, node: Node, i: int) -> int | None:
        return new.const(0) if isinstance(node.value, tuple) and node.value[0] in sums else None

    made = of.program.roots.get("d", ())  # what was made once need not be made again
    graph, roots, _ = rewrite(of.program.graph, [*of.d_leaves.values(), *made], rule)
    d = dict(zip(of.d_leaves, roots, strict=False))
    zero = graph.const(0)
    results: Results = [[(f"d_{row}", d.get((kind, n), zero)) for n, row in enumerate(names[kind])] for kind in kinds]
    function = _Function(graph, rows)
    function.given = dict(zip(roots[len(d) :], function.rows.get("d", ()), strict=False))
    return function.write_all(name, takes, results, [i for (kind, _), i in d.items() if kind == "s"], late)
