"""The networks inside a step: what one is, how it is written in C++ (csrc/core/mlp.h), and on plain floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from .graph import Graph, Node, rewrite
from .program import Network, Program
from .statements import Body

ACTIVATIONS = ("tanh", "sigmoid", "relu")


def write(body: Body, i: int) -> list[str]:
    """The statements of an "mlp"; the names of its outputs."""
    network, x, place = _begin(body, i, body.graph.args(i)[1:])
    y = body.unused(network.name)
    if i in body.fields:
        kept = f"kept.{body.fields[i]}"
    else:
        kept = body.unused(f"{network.name}_hidden")
        body.lines.append(f"V {kept}[{network.hidden}];")
    body.lines.append(f"V {y}[{network.sizes[-1]}];")
    body.lines.append(f"{network.type}::forward<KNOWN>(in.n + {place}, {x}, {kept}, {y});")
    return [f"{y}[{n}]" for n in range(network.sizes[-1])]


def write_adjoint(body: Body, i: int) -> list[str]:
    """The statements of an "adj_mlp"; the names of the cotangents of its inputs."""
    network: Network = body.graph.nodes[i].value
    inputs, made = body.graph.args(i)[: network.sizes[0]], body.graph.args(i)[network.sizes[0]]
    _, x, place = _begin(body, i, inputs)
    d_y, d_x = body.unused(f"d_{network.name}"), body.unused(f"d_{x}")
    body.lines.append(f"const V {d_y}[] = {{{_listed(body, body.graph.args(i)[network.sizes[0] + 1 :])}}};")
    body.lines.append(f"V {d_x}[{network.sizes[0]}];")
    arguments = f"in.n + {place}, d.n + {place}, {x}, kept.{body.fields[made]}, {d_y}, {d_x}"
    body.lines.append(f"{network.type}::adjoint({arguments});")
    return [f"{d_x}[{n}]" for n in range(network.sizes[0])]


def _begin(body: Body, i: int, inputs: Sequence[int]) -> tuple[Network, str, int]:
    """The network, its inputs by name, and where its weights begin."""
    network: Network = body.graph.nodes[i].value
    x = body.unused(f"{network.name}_inputs")
    body.lines.append(f"const V {x}[] = {{{_listed(body, inputs)}}};")
    return network, x, int(body.enums["n"][network.number])


def _listed(body: Body, nodes: Sequence[int]) -> str:
    return ", ".join(body.vector(a) for a in nodes)


def unrolled(program: Program, n_parameters: int) -> Program:
    """The same with every unit as operations of its own, and the weights as parameters behind the others."""
    networks = {node.value.number: node.value for node in program.graph.nodes if node.op == "mlp"}
    outputs: dict[int, list[int]] = {}

    def rule(new: Graph, node: Node, i: int) -> int | None:
        of = program.graph.args(i)[0] if node.op == "item" else i
        if node.op == "mlp":
            before = (networks[n].weights for n in range(node.value.number))
            outputs[i] = _units_of(new, node.value, list(node.args[1:]), n_parameters + sum(before))
            return outputs[i][0]
        return outputs[of][node.value] if node.op == "item" and of in outputs else None

    graph, roots, _ = rewrite(program.graph, program.every_root, rule)
    return program.with_graph(graph, roots)


def _units_of(graph: Graph, network: Network, x: list[int], at: int) -> list[int]:
    """The outputs of a network whose first weight is the parameter of that number."""
    for layer, (n, m) in enumerate(pairwise(network.sizes)):
        values = []
        for o in range(m):
            z = graph.leaf("p", at + n * m + o)
            for i in range(n):
                z = graph.fma(graph.leaf("p", at + o * n + i), x[i], z)
            values.append(z)
        at += m * (n + 1)
        if layer < len(network.sizes) - 2:
            name = network.activation
            values = [graph.bound("at_least", z, 0.0) if name == "relu" else graph.function(name, z) for z in values]
        x = values
    return x


def forward(network: Network, w: Sequence[float], x: Sequence[float]) -> tuple[list[list[float]], list[float]]:
    """On plain floats: what is kept of the units of each hidden layer, and the outputs."""
    kept: list[list[float]] = []
    at, last = 0, len(network.sizes) - 2
    for layer, (n, m) in enumerate(pairwise(network.sizes)):
        z = [w[at + n * m + o] + sum(w[at + o * n + i] * x[i] for i in range(n)) for o in range(m)]
        at += m * (n + 1)
        if layer == last:
            return kept, z
        kept.append(z if network.activation == "relu" else [_FUNCTIONS[network.activation](v) for v in z])
        x = _units(network, kept[-1])
    raise AssertionError(network)


def adjoint(
    network: Network, w: Sequence[float], x: Sequence[float], kept: Sequence[Sequence[float]], d: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The cotangents of the inputs and of the weights."""
    values = [list(x), *(_units(network, units) for units in kept)]
    at, d_w = network.weights, [0.0] * network.weights
    for layer in reversed(range(len(values))):
        n, m = network.sizes[layer : layer + 2]
        at -= m * (n + 1)
        for o in range(m):
            d_w[at + n * m + o] = d[o]
            for i in range(n):
                d_w[at + o * n + i] = d[o] * values[layer][i]
        d = [sum(d[o] * w[at + o * n + i] for o in range(m)) for i in range(n)]
        if layer:
            d = [_SLOPES[network.activation](r) * v for r, v in zip(kept[layer - 1], d, strict=True)]
    return list(d), d_w


def _units(network: Network, kept: Sequence[float]) -> list[float]:
    return [max(v, 0.0) for v in kept] if network.activation == "relu" else list(kept)


_FUNCTIONS = {"tanh": math.tanh, "sigmoid": lambda x: 1 / (1 + math.exp(-min(max(x, -690.0), 690.0)))}
_SLOPES = {"tanh": lambda r: 1 - r * r, "sigmoid": lambda r: r * (1 - r), "relu": lambda z: float(z >= 0)}
