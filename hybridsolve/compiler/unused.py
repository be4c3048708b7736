"""Rows of a table, and outputs of networks, that a step makes nothing of: searched, or learned, in vain."""

from __future__ import annotations

from ..spec import ModelSpec
from .graph import Graph, needed
from .program import Program
from .tracing import first_line, trace, trace_start


def unused(model: ModelSpec) -> list[str]:
    """A sentence, with file and line, for each kind of row that neither states nor fluxes after a step are made of."""
    step, ordinates = trace(model, model.optional_parameter_names)
    starts = [trace_start(model, s.initial) for s in model.states if callable(s.initial)]
    parameters = (*model.parameters, *model.optional_parameters)
    kinds = {"forcing": ("f", model.forcings), "input": ("k", model.inputs), "parameter": ("p", parameters)}
    read = set().union(*map(_leaves, (step, ordinates, *starts)))
    file, line = first_line(model.reference_step)
    found = []
    for what, (kind, rows) in kinds.items():
        rest = [f"'{v.name}'" for n, v in enumerate(rows) if (kind, n) not in read]
        if rest:
            found.append(
                f"{file}:{line}: the step of model {model.name} makes nothing of the {what} {', '.join(rest)} of its "
                "table: use it there, or take its row out."
            )
    return found + _unused_outputs(step.graph, needed(step.graph, step.every_root))


def _leaves(program: Program) -> set[tuple[str, int]]:
    graph = program.graph
    return {graph.nodes[i].value for i in needed(graph, program.every_root) if graph.op(i) == "leaf"}


def _unused_outputs(graph: Graph, live: set[int]) -> list[str]:
    """A sentence for each call of a network of whose outputs, or some of them, nothing is made."""
    found = []
    for i, node in enumerate(graph.nodes):
        if node.op != "mlp":
            continue
        items = [j for j, x in enumerate(graph.nodes) if x.op == "item" and x.args[0] == i]
        rest = [str(graph.nodes[j].value + 1) for j in items if j not in live]
        if rest:
            file, line = graph.places[i]
            found.append(
                f"{file}:{line}: nothing is made of output {', '.join(rest)} of {len(items)} of network "
                f"'{node.value.name}', whose weights cannot be learned: use it, or leave it out."
            )
    return found
