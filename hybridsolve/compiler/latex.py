"""The equations of a step in LaTeX, as it computes them: read off the traced graph, by the names that it has in Python.

Every named value is an equation, everything else stands inside one. A name that is set again gets a prime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from ..spec import ModelSpec
from .graph import MASKS, Graph, needed
from .program import Program
from .tracing import trace

SUM, PRODUCT, ATOM = 1, 2, 3  # how tightly a text holds together
LONG = 120  # characters of what is named v where it is used twice and has no name
FUNCTIONS = {"exp": r"\exp", "log": r"\ln", "tanh": r"\tanh", "sin": r"\sin", "cos": r"\cos"}
Text = tuple[str, int]


def equations(model: ModelSpec) -> str:
    """The body of an ``aligned`` environment: a line an equation, fluxes as values, states by arrows.

    Raises
    ------
    StepError
        If the step cannot be traced.
    """
    step, _ = trace(model, model.optional_parameter_names)
    results = [(name, i, "=") for name, i in zip(model.flux_names, step.roots["q"], strict=True)]
    stores = model.state_names + model.line_names
    results += [(name, i, r"\leftarrow") for name, i in zip(stores, step.roots["s"], strict=True)]
    ordinates = {("w", n): rf"\omega_{{{word(name)}}}" for n, name in enumerate(model.line_names)}
    return " \\\\\n".join(_Writer(step, ordinates | {("dt", 0): r"\Delta t"}).lines(results))


def word(name: str) -> str:
    """A name of Python as a symbol: trailing digits are an index."""
    parts = re.fullmatch(r"([A-Za-z_]*?)_?(\d+)", name)
    base, index = parts.groups() if parts and parts[1] else (name, "")
    plain = base.replace("_", r"\_")
    symbol = base if len(base) == 1 else rf"\mathrm{{{plain}}}"
    return f"{symbol}_{{{index}}}" if index else symbol


class _Writer:
    """Writes a program; `known` has the texts of leaves that have no name."""

    def __init__(self, program: Program, known: dict[tuple[str, int], str]) -> None:
        self.graph: Graph = program.graph
        self.live = needed(program.graph, program.every_root)
        self.known = known
        self.symbols: dict[int, str] = {}
        self.times: dict[str, int] = {}

    def symbol(self, name: str) -> str:
        """A name as a symbol, with a prime more each time that it is set."""
        n = self.times[name] = self.times.get(name, -1) + 1
        return word(name) + ("'" * n if n < 4 else f"^{{({n})}}")

    def lines(self, results: list[tuple[str, int, str]]) -> list[str]:
        graph, lines = self.graph, list[str]()
        called = {i: name for name, i, sign in reversed(results) if sign == "="}
        shared = [a for i in self.live for a in graph.args(i)]
        for i in sorted(i for i in self.live if graph.op(i) == "leaf" and graph.nodes[i].value not in self.known):
            self.symbols[i] = self.symbol(graph.names[i])
        for i in sorted(self.live):
            op = graph.op(i)
            if op == "repeat":
                lines += self._loop(i)
            elif op == "mlp":
                lines.append(self._network(i))
            elif op not in ("leaf", "const", "item", "power", "power01"):
                text = self.text(i)[0]
                name = called.get(i) or graph.names.get(i) or ("v" if len(text) > LONG and shared.count(i) > 1 else "")
                if name:
                    self.symbols[i] = self.symbol(name)
                    lines.append(f"{self.symbols[i]} &= {text}")
        for name, i, sign in results:
            text = self.text(i)[0]
            if sign != "=" or self.symbols.get(i) != word(name):
                lines.append(f"{word(name)} &{sign} {text}")
        return lines

    def _loop(self, i: int) -> Iterator[str]:
        """A loop as a block: what it begins with, and a pass."""
        loop, (passes, *rest) = self.graph.nodes[i].value, self.graph.args(i)
        start, captured = rest[: len(loop.names)], rest[len(loop.names) :]
        inside = _Writer(loop.program, {("x", n): self._within(a) for n, a in enumerate(captured)})
        # What a pass begins with has the bare names: a prime is a value of this pass.
        inside.times = self.times | dict.fromkeys(loop.names, -1)
        begun = {name: self.text(a)[0] for name, a in zip(loop.names, start, strict=True)}
        yield rf"&\textbf{{repeat }} {self.text(passes)[0]} \textbf{{ times, from}}"
        yield from (rf"&\quad {word(name)} = {text}" for name, text in begun.items())
        yield r"&\textbf{by}"
        results = [(name, j, r"\leftarrow") for name, j in zip(loop.names, loop.program.roots["c"], strict=True)]
        yield from (rf"&\quad {line.replace('&', '', 1)}" for line in inside.lines(results))
        yield r"&\textbf{end}"
        self.times |= {name: n for name, n in inside.times.items() if name not in loop.names}

    def _within(self, i: int) -> str:
        text, bond = self.text(i)
        return text if bond == ATOM else rf"\left({text}\right)"

    def _network(self, i: int) -> str:
        network, (_, *inputs) = self.graph.nodes[i].value, self.graph.args(i)
        self.symbols[i] = word(network.name)
        return rf"{word(network.name)} &= \mathrm{{network}}\left({', '.join(self.text(a)[0] for a in inputs)}\right)"

    def text(self, i: int) -> Text:
        """What stands for a node in an expression, and how tightly it holds together."""
        if i in self.symbols:
            return self.symbols[i], ATOM
        node = self.graph.nodes[i]
        if node.op == "leaf":
            return self.known[node.value], ATOM
        if node.op == "const":
            return number(node.value)
        if node.op in ("add", "sub"):
            a, b = node.args
            sign, x = "+" if node.op == "add" else "-", self.graph.number(b)
            if x is not None and x < 0:  # a constant is folded into a sum with its sign
                return f"{self._in(a, SUM)} - {number(-x)[0]}", SUM
            return f"{self._in(a, SUM)} {sign} {self._in(b, SUM if node.op == 'add' else PRODUCT)}", SUM
        if node.op == "neg":
            return f"-{self._in(node.args[0], PRODUCT)}", SUM
        if node.op == "mul":
            return self._product(i)
        if node.op in MASKS:
            return self._mask(i), ATOM
        if node.op == "div":
            return rf"\frac{{{self.text(node.args[0])[0]}}}{{{self.text(node.args[1])[0]}}}", ATOM
        return self._function(i)

    def _in(self, i: int, bond: int) -> str:
        text, its = self.text(i)
        return text if its >= bond and not (bond > SUM and text.startswith("-")) else rf"\left({text}\right)"

    def _base(self, i: int) -> str:
        """What a power is of."""
        text, bond = self.text(i)
        if i in self.symbols and "^" not in text:
            return f"{{{text}}}"
        return text if bond == ATOM and not re.search(r"[\\^]", text) else rf"\left({text}\right)"

    def _product(self, i: int) -> Text:
        """Factors as powers; a number first, or as what divides where that is shorter."""
        factors: dict[int, int] = {}
        todo, over = [i], ""
        while todo:
            j = todo.pop()
            if self.graph.op(j) == "mul" and (j == i or j not in self.symbols):
                todo += reversed(self.graph.args(j))
            else:
                factors[j] = factors.get(j, 0) + 1
        parts = []
        for j in sorted(factors, key=lambda j: self.graph.op(j) != "const"):
            x, n = self.graph.number(j), factors[j]
            if x and len(f"{x:.12g}") > 5 and 0 < (whole := round(1 / x)) <= 9999 and 1 / whole == x:
                over = str(whole)
            else:
                parts.append(self._in(j, PRODUCT) if n == 1 else f"{self._base(j)}^{{{n}}}")
        text = r" \, ".join(parts)
        return (rf"\frac{{{text}}}{{{over}}}", ATOM) if over else (text, PRODUCT)

    def _function(self, i: int) -> Text:
        op, args, value = self.graph.nodes[i]
        texts = [self.text(a)[0] for a in args]
        if op in FUNCTIONS:
            return rf"{FUNCTIONS[op]}\left({texts[0]}\right)", ATOM
        if op == "sqrt":
            return rf"\sqrt{{{texts[0]}}}", ATOM
        if op == "floor":
            return rf"\left\lfloor {texts[0]} \right\rfloor", ATOM
        if op == "value_of":
            return self.text(args[0])
        if op in ("power", "power01"):
            text = f"{self._base(args[0])}^{{{texts[1]}}}"
            return (text, ATOM) if op == "power" else (rf"\min\left(\max\left({text}, 0\right), 1\right)", ATOM)
        if op in ("min", "max"):
            return rf"\{op}\left({texts[0]}, {texts[1]}\right)", ATOM
        if op == "at_least" and value == 0:
            return rf"\left[{texts[0]}\right]^{{+}}", ATOM
        if op in ("at_least", "at_most"):
            name = "max" if op == "at_least" else "min"
            return rf"\{name}\left({texts[0]}, {number(value)[0]}\right)", ATOM
        if op == "select":
            return self._cases(i), ATOM
        if op == "item":
            made = self.graph.nodes[args[0]]
            if made.op == "repeat":
                return rf"{word(made.value.names[value])}^{{\ast}}", ATOM
            return f"{self.symbols[args[0]]}_{{{value + 1}}}", ATOM
        return rf"\mathrm{{{op}}}\left({', '.join(texts)}\right)", ATOM

    def _cases(self, i: int) -> str:
        rows = []
        while True:
            mask, a, b = self.graph.args(i)
            rows.append(rf"{self.text(a)[0]} & \text{{if }} {self._mask(mask)}")
            if self.graph.op(b) != "select" or b in self.symbols:
                break
            i = b
        rows.append(rf"{self.text(b)[0]} & \text{{else}}")
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"

    def _mask(self, i: int, turned: bool = False) -> str:
        """A condition; where it is named, by its name."""
        op, args, _ = self.graph.nodes[i]
        if op == "no":
            return self._mask(args[0], not turned)
        if i in self.symbols:
            return rf"\neg {self.symbols[i]}" if turned else self.symbols[i]
        if op == "ge":
            left, right = (self.text(a)[0] for a in args)
            if self.graph.op(args[0]) == "const":  # x <= 0 rather than 0 >= x
                return f"{right} > {left}" if turned else rf"{right} \le {left}"
            return f"{left} < {right}" if turned else rf"{left} \ge {right}"
        sign = r"\wedge" if (op == "and") != turned else r"\vee"
        return rf"\left({self._mask(args[0], turned)} {sign} {self._mask(args[1], turned)}\right)"


def number(x: float) -> Text:
    """A number as short as it is exact to twelve digits; a fraction where that is shorter."""
    text = f"{x:.12g}"
    near = Fraction(x).limit_denominator(999)
    if len(text) > 7 and abs(float(near) - x) <= 1e-15 * abs(x) and near.denominator > 1:
        return rf"\frac{{{near.numerator}}}{{{near.denominator}}}", ATOM
    mantissa, _, exponent = text.partition("e")
    if exponent:
        power = f"10^{{{int(exponent)}}}"
        return (power if mantissa == "1" else rf"{mantissa} \cdot {power}"), PRODUCT
    return text, SUM if x < 0 else ATOM
