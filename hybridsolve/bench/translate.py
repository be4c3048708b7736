"""A model's step as source of other languages in Python: what the compiler's graph holds, an operation a line.

So peers compute the model's own equations, in the order in which our kernels have them, and nobody writes them twice.
Of a minimum and a maximum the operand that the oracle picks has the gradient, as `where` says it and theirs would not.
"""

from __future__ import annotations

from dataclasses import dataclass

import hybridsolve
from hybridsolve.compiler.cpp import compiled
from hybridsolve.compiler.graph import needed


@dataclass(frozen=True)
class Dialect:
    """How a language has what differs.

    Attributes
    ----------
    where, power, no : str
        Of m, a and b; of a and b; of a.
    number : str
        A constant, of x.
    module : str
        What stands before a function's name.
    """

    where: str
    power: str
    number: str
    no: str = "not {a}"
    module: str = ""


TINY = {"float32": 2.0**-60, "float64": 2.0**-500}  # below it a power's base is taken as that
FUNCTIONS = ("exp", "log", "sqrt", "tanh")


@dataclass(frozen=True)
class Step:
    """Source of one step.

    Attributes
    ----------
    once, every : list of str
        Statements that make d0.. of parameters p0.. alone, and those of a step, which reads f0.., p0.., d0.. and s0.. .
    n_once : int
    states : list of str
        What holds the states after it.
    outflow : str
    """

    once: list[str]
    n_once: int
    every: list[str]
    states: list[str]
    outflow: str


def step(model: str, dialect: Dialect, dtype: str) -> Step:
    """Translate a model without delay lines.

    Raises
    ------
    ValueError
        If its step has an operation that is not translated.
    """
    spec = hybridsolve.models.get(model)
    program, prepare = (adjoint.program for adjoint in compiled(spec)[:2])
    outflow = program.roots["q"][spec.flux_names.index(spec.outflow)]
    once, made = _statements(prepare.graph, prepare.roots["d"], dialect, dtype)
    every, found = _statements(program.graph, [*program.roots["s"], outflow], dialect, dtype)
    once += [f"d{n} = {name}" for n, name in enumerate(made)]
    return Step(once, len(made), every, found[:-1], found[-1])


def _statements(graph, roots, dialect: Dialect, dtype: str) -> tuple[list[str], list[str]]:
    number = lambda x: dialect.number.format(x=repr(float(x)))  # noqa: E731
    where = dialect.where.format
    names: dict[int, str] = {}
    lines = []
    for i in sorted(needed(graph, roots)):
        op, args, value = graph.nodes[i]
        a, b, c = ([names[x] for x in args] + ["", "", ""])[:3]
        plain = dict(
            add=f"{a} + {b}", sub=f"{a} - {b}", mul=f"{a} * {b}", neg=f"-{a}", fma=f"{a} * {b} + {c}",
            reciprocal=f"{number(1)} / {a}", quotient=f"{a} / {b}", ge=f"{a} >= {b}", no=dialect.no.format(a=a),
        )  # fmt: skip
        if op in ("leaf", "const", "value_of"):
            leaf = f"{value[0]}{value[1]}" if op == "leaf" else ""
            names[i] = number(1) if leaf == "dt0" else leaf or (number(value) if op == "const" else a)
            continue
        if op in plain:
            text = plain[op]
        elif op == "select":
            text = where(m=a, a=b, b=c)
        elif op in ("min", "max", "at_least", "at_most"):
            b = b or number(value)
            text = where(m=f"{a} {'<=' if op in ('min', 'at_most') else '>='} {b}", a=a, b=b)
        elif op in ("power", "power01"):
            tiny = number(TINY[dtype])
            lines.append(f"b{i} = {where(m=f'{a} >= {tiny}', a=a, b=tiny)}")
            text = dialect.power.format(a=f"b{i}", b=b)
            if op == "power01":
                lines.append(f"w{i} = {text}")
                text = where(m=f"w{i} <= {number(1)}", a=f"w{i}", b=number(1))
        elif op in FUNCTIONS:
            text = f"{dialect.module}{op}({a})"
        else:
            raise ValueError(f"the operation '{op}' is not translated: measure a model without it.")
        names[i] = f"v{i}"
        lines.append(f"{names[i]} = {text}")
    return lines, [names[i] for i in roots]
