"""A graph as statements of C++: which nodes are statements, in which order, and what they are called.

triton_statements.py has those of Triton, which differ in how they are written.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .graph import MASKS, Graph, Leaf, needed
from .simplify import COSTLY
from .stages import CALLS

WIDTH = 120  # of a line of what is generated
LONGEST = 76  # of an expression that is still written where it is used
ATOM, PRODUCT, SUM, COMPARISON = 3, 2, 1, 0
ALIAS = ("leaf", "const", "neg", "value_of", "log2_of", "item")  # what has no statement of its own
# C++20's own words; then those of the contract and of the core, among them all that a function is given.
_WORDS = set(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
    co_await co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default
    delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile
    wchar_t while xor xor_eq

    V T s q f p d w d_s d_q d_w in kept dt min max select fma exp log sqrt tanh sigmoid softplus sin cos floor pow
    relu at_least at_most quotient ratio splat lane step stage m base_log2 prepare ordinates log2 exp2 power pow01
    below above any read load store gather reciprocal going U plain constant moved frozen slope linear
    tangent""".split()
)


class Body:
    """The body of one function.

    Parameters
    ----------
    graph : Graph
    enums : mapping of str to list of str
        For each kind of leaf the names of its rows.
    kept : sequence of int
        Nodes that stand in `kept`.
    given : mapping of int to str
        Nodes that are there already, and how they are read.
    variables : mapping of (kind, index) to str
        Of the body of a loop, what its leaves are called.
    taken : set of str
        And the names around it, which its own are added to.
    """

    COMMENT = "//"
    TYPE = "V"  # of its values
    WRITE: Mapping[str, Callable[[Any, int], list[str]]] = {}  # of operations with several results what writes them

    def __init__(
        self,
        graph: Graph,
        enums: Mapping[str, list[str]],
        kept: Sequence[int] = (),
        given: Mapping[int, str] = {},
        variables: Mapping[tuple[str, int], str] = {},
        taken: set[str] | None = None,
    ) -> None:
        self.graph, self.enums, self.variables = graph, enums, variables
        self.taken = set(_WORDS)
        self.fields = {i: self.unused(self.base_name(i)) for i in kept}
        self.taken = set(_WORDS) if taken is None else taken
        self.given = dict(given)
        self.results: dict[int, list[str]] = {}  # of a loop or network the names of its results
        self.added: set[str] = set()  # kinds of cotangents that are added to
        self.called: dict[int, str] = {}
        self.sums: dict[int, str] = {}  # partial sums of what is added to, and where they are stored
        self.lines: list[str] = []
        self.place: tuple[str, int] | None = None

    def within(self, graph: Graph, variables: Mapping[tuple[str, int], str]) -> Body:
        """The body of a loop in this one, whose leaves are variables here."""
        return type(self)(graph, self.enums, variables=variables, taken=self.taken)

    def value(self, i: int) -> str:
        """What to read a node by, after its statement."""
        return self.called.get(i) or self.vector(i)

    def declared(self) -> list[str]:
        """What is kept, as members of a struct."""
        kinds: dict[str, list[str]] = {"V": []}
        for i, name in self.fields.items():
            op = self.graph.op(i)
            kind = "Power<V>" if op.startswith("power") else "Log2<V>" if op == "logarithm" else "V"
            size = f"[{self.graph.nodes[i].value.hidden}]" if op == "mlp" else ""
            kinds.setdefault(kind, []).append(name + size)
        return [f"{kind} {', '.join(names)};" for kind, names in kinds.items() if names]

    def forward(self, stores: Sequence[tuple[str, int]], made: Sequence[int]) -> list[str]:
        """What is kept of the nodes that are made here, and values stored at their places: states last, so that none is
        overwritten before it is read."""
        g = self.graph
        states = [i for place, i in stores if place.startswith("s[") and g.op(i) != "const"]
        known = {i for i in self.fields if i not in made}
        roots, stop = [i for _, i in stores] + [i for i in self.fields if i in made], [*self.given, *known]
        self.choose(roots, stop, states)
        for i in sorted(needed(g, roots, stop)):
            self.write(i, i in known)
        for i in states:
            self.write_again(i)
        self.store(stores)
        return self.lines

    def backward(self, d_leaves: Mapping[Leaf, int]) -> list[str]:
        """All cotangents."""
        self.sums = self.chains(d_leaves)
        places = {("s", n): f"d_s[{name}]" for n, name in enumerate(self.enums["s"])}
        states = [(places.get(leaf, ""), i) for leaf, i in d_leaves.items() if leaf[0] in ("s", "c")]
        self.cotangents(states, [i for _, i in self.changed(d_leaves)])
        self.carried = [self.value(i) for (kind, _), i in d_leaves.items() if kind == "c"]
        return self.lines

    def cotangents(self, stores: Sequence[tuple[str, int]], others: Sequence[int]) -> None:
        """Cotangents stored at their places, and others; each sum is stored as soon as its operands are there, so that
        none waits in a register."""
        g, stop = self.graph, [*self.fields, *self.given]
        states = [i for _, i in stores if g.op(i) != "const"]
        roots = list(dict.fromkeys([*others, *(i for _, i in stores)]))
        self.choose(roots, stop, states)
        for i in self.order(roots, [i for _, i in stores], stop):
            self.write(i, known=True)
        for i in states:
            self.write_again(i)
        self.store([(place, i) for place, i in stores if place])

    def store(self, stores: Sequence[tuple[str, int]]) -> None:
        """Values at their places, those of states last."""
        self.lines += [""] if stores else []
        for place, i in sorted(stores, key=lambda store: store[0].startswith(("s[", "d_s["))):
            self.lines.append(f"{place} = {self.value(i)};")

    def places(self, roots: Mapping[Leaf, int]) -> list[tuple[str, int]]:
        """The places of results by kind and number."""
        names = {(kind, n): str(n) if kind == "w" else self.enums[kind.removeprefix("d_")][n] for kind, n in roots}
        return [(f"{kind}[{names[kind, n]}]", i) for (kind, n), i in roots.items()]

    # Which nodes are statements.

    def choose(self, roots: Sequence[int], stop: Sequence[int], stored: Sequence[int]) -> None:
        g, ends = self.graph, set(stop)
        self.live = needed(g, roots, stop)
        self.uses: dict[int, int] = {i: 1 for i in roots}
        for i in self.live - ends:
            for a in g.args(i):
                self.uses[a] = self.uses.get(a, 0) + (2 if g.op(i) in CALLS else 1)
        self.stored = set(stored)

    def is_statement(self, i: int) -> bool:
        op = self.graph.op(i)
        if op in CALLS:
            return True
        if op in ALIAS and i not in self.fields or i in self.given:
            return False
        if i in self.sums or i in self.fields or op in ("power", "power01", "logarithm"):
            return True
        return i in self.graph.names or self.uses.get(i, 0) > 1

    def changed(self, d_leaves: Mapping[Leaf, int]) -> list[tuple[Leaf, int]]:
        """The cotangents that are not what they were."""
        g = self.graph
        return [
            ((kind, n), i)
            for (kind, n), i in d_leaves.items()
            if g.nodes[i].value != (f"d_{kind}", n) or g.op(i) != "leaf"
        ]

    def chains(self, d_leaves: Mapping[Leaf, int]) -> dict[int, str]:
        """Partial sums of what is added to, and where they are stored."""
        g, found = self.graph, {}
        self.added = {f"d_{kind}" for kind, _ in d_leaves if kind not in ("s", "c")}
        live = needed(g, [i for _, i in self.changed(d_leaves)], [*self.fields, *self.given])
        users: dict[int, list[int]] = {}
        for i in sorted(live):
            for a in g.args(i):
                users.setdefault(a, []).append(i)
        for i in sorted(live):
            leaf = g.nodes[i].value
            if g.op(i) != "leaf" or not isinstance(leaf, tuple) or leaf[0] not in self.added - {"d_n"}:
                continue
            todo = [i]
            while todo:
                j = todo.pop()
                for u in users.get(j, ()):
                    after = users.get(u, [])
                    part = len(after) == 1 and g.op(after[0]) == "select" and j in g.args(after[0])
                    if u not in found and not part:
                        found[u] = self.leaf(i)
                        todo.append(u)
        return found

    def order(self, roots: Sequence[int], first: Sequence[int], stop: Sequence[int]) -> list[int]:
        """The nodes that the states' cotangents need, in their order, and each other one as soon as it can be made."""
        g, ends = self.graph, set(stop)
        live, spine = needed(g, roots, stop), needed(g, first, stop)
        users: dict[int, list[int]] = {}
        waits: dict[int, int] = {}
        for i in sorted(live - spine):
            operands = set() if i in ends else set(g.args(i))
            waits[i] = len(operands)
            for a in operands:
                users.setdefault(a, []).append(i)
        done: dict[int, None] = {}

        def put(i: int) -> None:
            todo = [i]
            while todo:
                j = todo.pop()
                if j in done:
                    continue
                done[j] = None
                ready = []
                for u in users.get(j, ()):
                    waits[u] -= 1
                    if waits[u] == 0:
                        ready.append(u)
                todo += reversed(ready)

        for i in sorted(live):
            if i in ends or not g.args(i):
                put(i)
        for i in [*sorted(spine), *sorted(live - spine)]:
            put(i)
        return list(done)

    def late(self, roots: Sequence[int], stop: Sequence[int]) -> list[int]:
        """The nodes, each just before the first that needs it."""
        ends, todo = set(stop), list(reversed(roots))
        done: dict[int, None] = {}
        while todo:
            waits = [a for a in self.graph.args(todo[-1]) if a not in done] if todo[-1] not in ends else []
            if waits:
                todo += reversed(waits)
            else:
                done[todo.pop()] = None
        return list(done)

    # What they are called.

    def unused(self, base: str) -> str:
        base = base.lower() if base.isupper() else base  # macros and rows of the tables are in capitals
        if base in _WORDS or base.startswith("keep_"):
            base = f"{base}_"
        name, n = base, 1
        while name in self.taken:
            n += 1
            name = f"{base}_{n}"
        self.taken.add(name)
        return name

    def base_name(self, i: int) -> str:
        g = self.graph
        if i in g.names:
            return g.names[i]
        op, args, _ = g.nodes[i]
        if op == "logarithm":
            return "log2"
        if op in ("power", "power01"):
            values = [j for j in range(i + 1, len(g.nodes)) if g.op(j) == "value_of" and g.args(j) == (i,)]
            return next((g.names[j] for j in values if j in g.names), "power")
        return "where" if op in MASKS else {"adj": "d"}.get(op[:3], "x")

    # Statements.

    def write(self, i: int, known: bool) -> None:
        if not self.is_statement(i) and not (i in self.uses and len(self.text(i)[0]) > LONGEST):
            return
        g = self.graph
        op = g.op(i)
        if op in CALLS:
            if not known or i not in self.fields:
                self.source_line(i)
                self.results[i] = self.WRITE[op](self, i)
            return
        if i in self.fields:
            if not known and op == "item":
                of, number = g.args(i)[0], g.nodes[i].value
                self.lines.append(f"kept.{self.fields[i]} = {self.results[of][number]};")
            elif not known and (op == "quotient" or op not in COSTLY):
                self.source_line(i)
                self.lines.append(f"kept.{self.fields[i]} = {self.operation(i)[0]};")
            elif not known:
                self.source_line(i)
                function = {"reciprocal": "reciprocal", "power": "pow", "power01": "pow01"}.get(op, op)
                operands = ", ".join(self.vector(a) for a in g.args(i))
                self.lines.append(f"keep_{function}<KNOWN>(kept.{self.fields[i]}, {operands});")
            return
        if op in ALIAS or i in self.given or i in self.called:
            return
        text, _ = self.text(i)
        self.source_line(i)
        if i in self.sums:
            self.called[i] = self.sums[i]
            self.lines.append(f"{self.sums[i]} = {text};")
            return
        name = self.unused(self.base_name(i))
        self.called[i] = name
        kind = "auto" if op in MASKS or op in ("power", "power01", "logarithm") else self.TYPE
        self.lines.append(f"const {kind} {name} = {text};")

    def write_again(self, i: int) -> None:
        """A copy of what is about to be overwritten, or of what has no statement yet."""
        if i not in self.called:
            self.source_line(i)
            name = self.unused(f"new_{self.base_name(i)}" if self.graph.op(i) == "leaf" else self.base_name(i))
            self.lines.append(f"const V {name} = {self.vector(i)};")
            self.called[i] = name

    def source_line(self, i: int) -> None:
        """The line of the step that a statement comes from, where that is another than before."""
        place = self.graph.places.get(i)
        if place is not None and place != self.place:
            self.place = place
            self.lines.append(f"{self.COMMENT} {place[1]}: {linecache.getline(*place).strip()}")

    # Expressions.

    def leaf(self, i: int) -> str:
        value = self.graph.nodes[i].value
        assert isinstance(value, tuple)
        kind, n = value
        if value in self.variables:
            return self.variables[value]
        if kind == "dt":
            return "in.dt"
        if kind == "d_w" and kind not in self.added:  # of ordinates, which are numbered through
            return f"d_w[{n}]"
        if kind in ("d_f", "d_p", "d_d", "d_w"):
            return f"d.{kind[2:]}[{self.enums[kind[2:]][n]}]"
        where = {"k": "in.k", "d": "in.d", "w": "in.w"}.get(kind, kind)
        return f"{where}[{self.enums[kind.removeprefix('d_')][n]}]"

    def scalar(self, i: int) -> str | None:
        """Of a number, or of the length of the step: what operators take as it is."""
        x = self.graph.number(i)
        if x is not None:
            return f"T({int(x) if x == int(x) and abs(x) < 1e15 else repr(x)})"
        return "in.dt" if self.graph.nodes[i].value == ("dt", 0) else None

    def vector(self, i: int, at_least: int = 0) -> str:
        """A node as a value of V, in brackets where it binds less than `at_least`."""
        number = self.scalar(i)
        if number is not None:
            return f"{self.TYPE}{{}}" if self.graph.number(i) == 0 else f"splat<{self.TYPE}>({number})"
        return self.bracketed(i, at_least)

    def bracketed(self, i: int, at_least: int) -> str:
        text, binds = (self.called[i], ATOM) if i in self.called else self.text(i)
        return text if binds >= at_least else f"({text})"

    def operand(self, i: int, at_least: int) -> str:
        return self.scalar(i) or self.bracketed(i, at_least)

    def text(self, i: int) -> tuple[str, int]:
        """A node's expression, and how strongly it binds."""
        op, a, value = self.graph.nodes[i]
        if i in self.given:
            return self.given[i], ATOM
        if op == "leaf":
            return self.leaf(i), ATOM
        if op == "const":
            return self.vector(i), ATOM
        if i in self.fields:
            return f"kept.{self.fields[i]}", ATOM
        return self.operation(i)

    def operation(self, i: int) -> tuple[str, int]:
        op, a, value = self.graph.nodes[i]
        if op == "item":
            return self.results[a[0]][value], ATOM
        if op == "same":
            return (self.called[a[0]], ATOM) if a[0] in self.called else self.text(a[0])
        if op in ("value_of", "log2_of"):
            return f"{self.bracketed(a[0], ATOM)}.{'value' if op == 'value_of' else 'log2_x'}", ATOM
        if op == "neg":
            return f"-{self.vector(a[0], ATOM)}", PRODUCT
        if op in ("add", "sub", "mul", "div"):
            binds = PRODUCT if op in ("mul", "div") else SUM
            first, second = self.operand(a[0], binds), self.operand(a[1], binds + 1)
            if self.scalar(a[0]) and self.scalar(a[1]):
                first = self.vector(a[0])
            return f"{first} {dict(add='+', sub='-', mul='*', div='/')[op]} {second}", binds
        if op == "reciprocal":
            return f"T(1) / {self.vector(a[0], ATOM)}", PRODUCT
        if op == "over_positive":
            return f"ratio({self.vector(a[0])}, at_least({self.vector(a[1])}, Format<T>::tiny))", ATOM
        if op in ("at_least", "at_most"):
            assert isinstance(value, float)
            number = self.graph.const(value)
            return (
                f"relu({self.vector(a[0])})"
                if op == "at_least" and value == 0
                else f"{op}({self.vector(a[0])}, {self.scalar(number)})"
            ), ATOM
        if op == "ge":
            return f"{self.vector(a[0], SUM)} >= {self.vector(a[1], SUM)}", COMPARISON
        if op in ("and", "or"):
            sign = "&" if op == "and" else "|"
            return f"{self.bracketed(a[0], ATOM)} {sign} {self.bracketed(a[1], ATOM)}", COMPARISON
        function = {"power": "pow", "power01": "pow01", "logarithm": "base_log2"}.get(op, op)
        operands = [self.vector(x) if self.graph.op(x) not in MASKS else self.bracketed(x, 0) for x in a]
        return f"{function}({', '.join(operands)})", ATOM
