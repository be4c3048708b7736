"""The body of one function of a module in Triton: names, the order of statements, each operation as Triton has it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from .graph import FUNCTIONS, Graph
from .stages import CALLS
from .statements import ALIAS, ATOM, COMPARISON, LONGEST, PRODUCT, SUM, WIDTH, Body

# Functions of solve/triton/math.py by operation.
MATH = {name: name for name in ("quotient", "power", *FUNCTIONS, *(f"adj_{f}" for f in FUNCTIONS if f != "floor"))}
MATH |= {"power01": "pow01", "min": "minimum", "max": "maximum"}
BEYOND, SIGN = "beyond", "(beyond)"  # more passes than a loop may make: the variable, and among FLUXES its name
TAKEN = {"k", "d_d", "given", "zero", "number", "tl", "triton", "above_tiny", "most_of", "OPTIONS", "_", *MATH.values()}
TAKEN.add(BEYOND)
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|"}
Rows = Mapping[str, Sequence[str]]  # of each kind of leaf or result the names
# Tuple by tuple what a function returns: what it is called, and its node, or none for `BEYOND`.
Results = list[list[tuple[str, int | None]]]


class Function(Body):
    """One function of the module.

    Parameters
    ----------
    graph : Graph
    rows : mapping of str to sequence of str
        For each kind of leaf the names.

    Attributes
    ----------
    text_rows : list of str
        The function, once it is written.
    used : set of str
        The functions of math.py that it calls.
    """

    COMMENT = "#"

    def __init__(self, graph: Graph, rows: Rows) -> None:
        super().__init__(graph, {})
        self.rows = {kind: [self.unused(name) for name in names] for kind, names in rows.items()}
        self.read: set[str] = set()  # of these names those that are used
        self.used: set[str] = set()
        self.logarithms: dict[int, str] = {}  # of powers
        self.beyond: str | None = None  # where loops note `BEYOND`
        self.going: str | None = None  # of the body of a loop, what says which lanes go on
        self.text_rows: list[str] = []

    def within(self, graph: Graph, variables: Mapping[tuple[str, int], str]) -> Function:
        inner = type(self)(graph, {})
        inner.rows, inner.read, inner.used, inner.taken = self.rows, self.read, self.used, self.taken
        inner.variables, inner.beyond = variables, self.beyond
        return inner

    def note_passes(self, after_prepare: bool) -> None:
        """Have loops note `BEYOND`, which `prepare` may have begun."""
        self.beyond = BEYOND
        self.lines.append(f"{BEYOND} = {self.named(self.rows['d'][-1]) if after_prepare else self.lanes('zero')}")

    def compute(self, roots: Sequence[int], first: Sequence[int], late: bool = False) -> None:
        """The statements of all that these are made of; what the nodes `first` need is computed first. Or all is as
        late as it can be: many ordinates, each made of numbers of its own, would have these wait in registers."""
        stop = list(self.given)
        self.choose(roots, stop, ())
        for i in self.late(roots, stop) if late else self.order(roots, first, stop):
            self.write(i, known=True)

    def write_all(self, name: str, takes: str, results: Results, first: Sequence[int], late: bool) -> Function:
        """The function that returns these results, computed in the order that `compute` is told."""
        self.compute([i for row in results for _, i in row if i is not None], first, late)
        tuples = [tuple_of([BEYOND if i is None else self.result(wish, i) for wish, i in row]) for row in results]
        returned = ["return (", *(f"    {row}," for row in tuples), ")"] if len(tuples) > 1 else [f"return {tuples[0]}"]
        self.text_rows = ["@triton.jit", f"def {name}({takes}, OPTIONS: tl.constexpr):"]
        for row in [*self.unpacked(), *self.lines, *returned]:
            self.text_rows += wrapped(row, "    ")
        return self

    def unpacked(self) -> list[str]:
        """What is used of the arguments, by name."""
        shown = {kind: names for kind, names in self.rows.items() if self.read & set(names)}
        given = [kind if kind in shown else "_" for kind in "fkpdw"] + ["dt" if "dt" in self.read else "_"]
        lines = [f"{', '.join(given)} = given"] if set(given) != {"_"} else []
        for kind, names in shown.items():
            row = tuple_of([n if n in self.read else "_" for n in names])
            lines.append(f"{row if len(row) > WIDTH - 12 or len(names) == 1 else row[1:-1]} = {kind}")
        numbers = {"dt": "dt", "zero": "0.0"}
        return lines + [f"{name} = number({self.like()}, {x})" for name, x in numbers.items() if name in self.read]

    # What things are called.

    def unused(self, wish: str) -> str:
        return super().unused(f"{wish}_" if wish in TAKEN else wish)

    def named(self, name: str) -> str:
        """A row of an argument, which is unpacked then."""
        self.read.add(name)
        return name

    def like(self) -> str:
        """A row of lanes of the run's type."""
        return self.named((self.rows.get("s") or self.rows["p"])[0])

    def lanes(self, name: str) -> str:
        """A number that is made a row of lanes at the head of the function."""
        self.function("number")
        self.like()
        return self.named(name)

    def function(self, name: str) -> str:
        self.used.add(name)
        return name

    # Statements.

    def write(self, i: int, known: bool) -> None:
        op = self.graph.op(i)
        if op in CALLS:
            self.source_line(i)
            self.results[i] = self.WRITE[op](self, i)
        if op in ALIAS or op in CALLS or i in self.given or i in self.called:
            return
        if self.is_statement(i) or (i in self.uses and len(self.text(i)[0]) > LONGEST):
            self.assign(i, self.base_name(i))

    def assign(self, i: int, wish: str) -> None:
        text, _ = self.text(i)
        self.source_line(i)
        name = self.unused(wish)
        if self.graph.op(i) in ("power", "power01"):
            wanted = any(self.graph.op(j) == "log2_of" and self.graph.args(j) == (i,) for j in self.live)
            self.logarithms[i] = self.unused(f"log2_{name}") if wanted else "_"
            left = f"{self.logarithms[i]}, {name}"
        else:
            left = name
        self.lines.append(f"{left} = {text}")
        self.called[i] = name

    def result(self, wish: str, i: int) -> str:
        """What is returned of a node."""
        if self.graph.op(i) not in ALIAS and i not in self.given and i not in self.called:
            self.assign(i, wish)
        return self.called.get(i) or self.vector(i)

    # Expressions.

    def leaf(self, i: int) -> str:
        value = self.graph.nodes[i].value
        assert isinstance(value, tuple)
        kind, n = value
        if value in self.variables:
            return self.variables[value]
        if kind == "dt":
            return self.lanes("dt")
        return self.named(self.rows[kind][n]) if kind in self.rows else f"{kind}[{n}]"

    def scalar(self, i: int) -> str | None:
        x = self.graph.number(i)
        return None if x is None else repr(x)

    def vector(self, i: int, at_least: int = 0) -> str:
        number = self.scalar(i)
        if number is None:
            return self.bracketed(i, at_least)
        return self.lanes("zero") if number == "0.0" else f"{self.function('number')}({self.like()}, {number})"

    def text(self, i: int) -> tuple[str, int]:
        op, a, value = self.graph.nodes[i]
        if i in self.given:
            return self.named(self.given[i]), ATOM
        if op == "leaf":
            return self.leaf(i), ATOM
        if op == "const":
            return self.vector(i), ATOM
        if op == "item":
            return self.results[a[0]][value], ATOM
        if op == "same":
            return (self.called[a[0]], ATOM) if a[0] in self.called else self.text(a[0])
        if op in ("value_of", "log2_of"):
            return (self.called if op == "value_of" else self.logarithms)[a[0]], ATOM
        if op == "neg":
            return f"-{self.vector(a[0], ATOM)}", PRODUCT
        if op == "no":
            return f"~{self.bracketed(a[0], ATOM)}", PRODUCT
        if op in ("and", "or"):
            return f"{self.bracketed(a[0], ATOM)} {SIGNS[op]} {self.bracketed(a[1], ATOM)}", COMPARISON
        if op in SIGNS:
            binds = PRODUCT if op in ("mul", "div") else SUM
            sign, second = SIGNS[op], self.operand(a[1], binds + 1)
            if op == "add" and second.startswith("-"):
                sign, second = "-", second[1:]
            return f"{self.operand(a[0], binds)} {sign} {second}", binds
        if op == "reciprocal":
            return f"1.0 / {self.vector(a[0], ATOM)}", PRODUCT
        if op == "over_positive":
            return f"{self.vector(a[0], PRODUCT)} / {self.function('above_tiny')}({self.vector(a[1])})", PRODUCT
        if op == "ge" and self.scalar(a[0]):
            return f"{self.vector(a[1], SUM)} <= {self.scalar(a[0])}", COMPARISON
        if op == "ge":
            return f"{self.vector(a[0], SUM)} >= {self.operand(a[1], SUM)}", COMPARISON
        if op in ("at_least", "at_most"):
            x = self.vector(a[0])
            is_relu = op == "at_least" and value == 0
            return (f"{self.function('relu')}({x})" if is_relu else f"{self.function(op)}({x}, {value!r})"), ATOM
        if op == "select":
            first = self.operand(a[1], 0) if self.scalar(a[2]) is None else self.vector(a[1])
            return f"tl.where({self.bracketed(a[0], 0)}, {first}, {self.operand(a[2], 0)})", ATOM
        operands = ", ".join(self.vector(x) for x in a)
        return f"tl.fma({operands})" if op == "fma" else f"{self.function(MATH[op])}({operands})", ATOM


def tuple_of(items: Sequence[str]) -> str:
    items = list(items)
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def wrapped(row: str, indent: str = "") -> list[str]:
    """A statement on as many lines as it needs; a remark is cut."""
    indent, row = indent + row[: len(row) - len(row.lstrip())], row.lstrip()
    if row.startswith("#"):
        return [f"{indent}{row}"[:WIDTH].rstrip()]
    head, sign, tail = row.partition(" = ")
    if indent and sign and len(indent + row) > WIDTH:
        row = f"{head}\0=\0({tail})"  # no line ends at the sign
    rows = textwrap.wrap(
        row,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [row.replace("\0=\0", " = ") for row in rows]
