"""A step run once on symbols: what it computes becomes a graph, with the names and lines that it has in Python.

A step has one way through for all cells, so a symbol refuses whatever would choose a way: `if`, `and`, `>`, Python's
own min and max, a function of torch or numpy. Each of these is a `StepError` with the line that has it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from ..models.primitives import Traced
from ..spec import DEFINITIONS, ModelSpec, Parameter, Variable
from .errors import StepError, fault, here, is_own
from .graph import FUNCTIONS, MASKS, Graph
from .implicit import solved
from .networks import ACTIVATIONS
from .program import Loop, Network, Program

_NO_WAY = "all cells take one way through a step: write select(condition, x, y), minimum or maximum"


def networks_of(key: str, optional: tuple[str, ...] = ()) -> tuple[Network, ...]:
    """The networks inside the step of a model, in the order of its calls; of a step that cannot be traced none.

    Parameters
    ----------
    key : str
        Of a `ModelSpec`.
    optional : tuple of str
        The optional parameters that the run has.
    """
    return _networks_of(key, optional)


# Under torch.compile it is asked once, while the graph is made: as `solve.backends.choose`.
networks_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _networks_of(key: str, optional: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        program, _ = trace(DEFINITIONS[key], optional)
    except StepError:
        return ()  # it runs as backend="reference" alone, which says so where a network is called
    found = {node.value.number: node.value for node in program.graph.nodes if node.op == "mlp"}
    return tuple(found[n] for n in range(len(found)))


class Symbol(Traced):
    """What a step computes with while it is traced: a number or a mask that is not known yet."""

    __slots__ = ("graph", "index")

    def __init__(self, graph: Graph, index: int) -> None:
        self.graph, self.index = graph, index

    def __add__(self, other: Any) -> Symbol:
        return _made(self, "add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return _made(self, "add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return _made(self, "sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _made(self, "sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return _made(self, "mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return _made(self, "mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        if isinstance(other, int | float) and other == 0:
            raise fault("a step must not divide by 0: correct the divisor.")
        return _made(self, "div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return _made(self, "div", other, self)

    def __neg__(self) -> Symbol:
        return _made(self, "neg", self)

    def __ge__(self, other: Any) -> Symbol:  # type: ignore[override]
        return _made(self, "ge", self, other)

    def __le__(self, other: Any) -> Symbol:  # type: ignore[override]
        return _made(self, "ge", other, self)

    def __pow__(self, exponent: Any) -> Symbol:
        if not isinstance(exponent, int) or exponent < 1:
            raise fault(
                "x ** y needs a whole number y of at least 1, since x may be negative; found "
                f"{exponent if isinstance(exponent, int | float) else 'one that the step computes'}: write "
                "power(x, y), which takes x below 0 as 0."
            )
        result, square = None, self
        while True:
            if exponent & 1:
                result = square if result is None else result * square
            exponent >>= 1
            if not exponent:
                return result  # type: ignore[return-value]
            square = square * square

    def __rpow__(self, base: Any) -> NoReturn:
        raise fault(
            "a number to the power of a value is no primitive: write exp(y * log(x)) with the log of the number."
        )

    def __invert__(self) -> Symbol:
        return _made(self, "no", self)

    def __and__(self, other: Any) -> Symbol:
        return _made(self, "and", self, other)

    def __or__(self, other: Any) -> Symbol:
        return _made(self, "or", self, other)

    def __bool__(self) -> NoReturn:
        raise fault(f"a step has no `if`, `and`, `or` or `not` on values; {_NO_WAY}, and & | ~ on conditions.")

    def __gt__(self, other: Any) -> NoReturn:  # type: ignore[override]
        raise fault(
            "a step has no > or < on values, which leave open what holds at a tie: write >= or <=, "
            "and minimum or maximum for Python's min or max."
        )

    __lt__ = __gt__  # type: ignore[assignment]

    def __eq__(self, other: object) -> NoReturn:  # type: ignore[override]
        raise fault("a step has no == or != on values, which rounding would decide: write >= or <=.")

    __ne__ = __eq__
    __hash__ = object.__hash__

    def __float__(self) -> NoReturn:
        raise fault(
            "a value is no number while a step is traced, so that functions of math or numpy do not take it: use the "
            "functions of hybridsolve.models.primitives."
        )

    __int__ = __index__ = __complex__ = __float__

    def __iter__(self) -> NoReturn:
        raise fault("a value is no array: a step loops over names or lists of values.")

    __len__ = __getitem__ = __iter__  # type: ignore[assignment]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise fault(
            f"a value has no method or attribute '{name}': use the functions of hybridsolve.models.primitives, "
            "not those of a tensor or an array."
        )

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise fault(
            f"a step must not call torch.{getattr(function, '__name__', function)}: use the functions of "
            "hybridsolve.models.primitives."
        )

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> NoReturn:
        self.__array_function__(function, None, args, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise fault(
            f"a step must not call numpy.{getattr(function, '__name__', function)}: use the functions of "
            "hybridsolve.models.primitives."
        )

    def primitive(self, name: str, *operands: Any) -> Symbol:
        """A function of `hybridsolve.models.primitives` of this and other values."""
        if name in ("minimum", "maximum"):
            return _made(self, name[:3], *operands)
        if name == "relu":
            return _made(self, "at_least", operands[0], 0.0)
        if name == "clip":
            x, lower, upper = operands
            return _made(self, "at_least", _made(self, "at_most", x, upper), lower)
        return _made(self, name, *operands)

    def repeated(self, n: Any, most: int, body: Callable, start: Mapping[str, Any]) -> dict[str, Any]:
        """`repeat` of `hybridsolve.models.primitives`."""
        if not isinstance(most, int) or most < 1:
            raise fault(f"repeat takes a whole number of at least 1 as the most passes; found {most!r}: correct it.")
        outside = _graph_of((n, *start.values()))
        operands = [_index(outside, x, False) for x in (n, *start.values())]
        inside = Graph()
        inside.around = outside
        carried = {name: Symbol(inside, inside.leaf("c", i)) for i, name in enumerate(start)}
        inside.names.update((x.index, name) for name, x in carried.items())
        after = _run(inside, body, carried)
        if not isinstance(after, Mapping) or set(after) != set(start):
            found = ", ".join(after) if isinstance(after, Mapping) else type(after).__name__
            raise fault(f"the body of repeat must return {', '.join(start)}; found {found or 'none'}: correct it.")
        program = Program(inside, {"c": [_root(inside, after[name]) for name in start]})
        loop = Loop(most, tuple(start), program, len(inside.captured))
        made = outside.node("repeat", *operands, *inside.captured, value=loop)
        outside.places[made] = here()
        items = {name: outside.node("item", made, value=i) for i, name in enumerate(start)}
        outside.places.update(dict.fromkeys(items.values(), here()))
        return {name: Symbol(outside, i) for name, i in items.items()}

    def solved(self, equations: Callable, start: Mapping[str, Any], most: int) -> dict[str, Any]:
        """`implicit` of `hybridsolve.models.primitives`."""
        around = _graph_of((self, *start.values()))
        if around.around is not None or not around.is_step:
            raise fault("equations are solved in the step, and neither in a loop nor in prepare: call implicit there.")
        if not isinstance(most, int) or most < 1:
            raise fault(f"implicit takes a whole number of at least 1 as the most iterations; found {most!r}.")
        place, inside = here(), Graph()
        inside.around = around
        unknowns = {name: inside.leaf("c", n) for n, name in enumerate(start)}
        inside.names.update((i, name) for name, i in unknowns.items())
        found = _run(inside, equations, {name: Symbol(inside, i) for name, i in unknowns.items()})
        if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(x, Mapping) for x in found):
            raise fault("equations must return two mappings, residuals and values: return residuals, values.", place)
        residuals, values = found
        if set(residuals) != set(start):
            raise fault(
                f"equations must return a residual of {', '.join(start)}; found {', '.join(residuals) or 'none'}: "
                "correct it.",
                place,
            )
        made = solved(
            inside,
            list(unknowns.values()),
            tuple(start),
            [_index(around, x, False) for x in start.values()],
            [_root(inside, residuals[name]) for name in start],
            [_root(inside, x) for x in values.values()],
            most,
            place,
        )
        return {name: Symbol(around, i) for name, i in zip(values, made, strict=True)}

    def network(
        self, name: str, inputs: Sequence[Any], hidden: Sequence[int], outputs: int, activation: str
    ) -> tuple[Symbol, ...]:
        """`mlp` of `hybridsolve.models.primitives`."""
        graph = _graph_of(inputs)
        if graph.around is not None or not graph.is_step:
            raise fault(f"a network stands in the step, and neither in a loop nor in prepare: call '{name}' there.")
        if not isinstance(name, str) or not name.isidentifier():
            raise fault(f"a network needs a name of letters, digits and _; found {name!r}: correct it.")
        if not isinstance(hidden, Sequence):
            raise fault(f"network '{name}' needs its hidden layers as a tuple; found {hidden!r}: write ({hidden!r},).")
        hidden = tuple(hidden)
        sizes = (len(inputs), *hidden, outputs)
        if not hidden or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sizes):
            raise fault(
                f"network '{name}' needs one or more hidden layers and outputs of whole sizes from 1 on; found "
                f"hidden={hidden}, outputs={outputs!r}: correct them."
            )
        if activation not in ACTIVATIONS:
            raise fault(
                f"network '{name}' may have the activation {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}; found "
                f"{activation!r}: choose one."
            )
        known = {node.value.name: node.value for node in graph.nodes if node.op == "mlp"}
        network = Network(name, sizes, activation, known[name].number if name in known else len(known))
        if known.get(name, network) != network:
            raise fault(
                f"network '{name}' must have one shape wherever it is called; found {network.words} with "
                f"{activation} after {known[name].words} with {known[name].activation}: rename one."
            )
        weights = graph.leaf("n", network.number)
        made = graph.node("mlp", weights, *(_index(graph, x, False) for x in inputs), value=network)
        graph.names.setdefault(made, f"{name}_hidden")
        items = [graph.node("item", made, value=n) for n in range(outputs)]
        graph.places.update(dict.fromkeys((made, *items), here()))
        return tuple(Symbol(graph, i) for i in items)


def _graph_of(operands: Sequence[Any]) -> Graph:
    """The innermost of the graphs that these stand in: the body of a loop sees what is around it."""
    graphs = [x.graph for x in operands if isinstance(x, Symbol)]
    depths = []
    for graph in graphs:
        depth, around = 0, graph.around
        while around is not None:
            depth, around = depth + 1, around.around
        depths.append(depth)
    return graphs[depths.index(max(depths))]


def _number(x: Any) -> float:
    if not isinstance(x, int | float):
        raise fault("clip takes a value and two plain numbers: write minimum and maximum where a bound is a value.")
    return float(x)


def _made(like: Symbol, op: str, *operands: Any) -> Symbol:
    """The symbol of an operation, its operands checked."""
    graph = _graph_of((like, *operands))
    before = len(graph.nodes)
    made = _unplaced(graph, op, *operands)
    for i in range(before, len(graph.nodes)):
        if graph.op(i) not in ("leaf", "const"):
            graph.places[i] = here()
    return Symbol(graph, made)


def _unplaced(graph: Graph, op: str, *operands: Any) -> int:
    if op in ("at_least", "at_most"):
        x, number = operands
        return graph.bound(op, _index(graph, x, False), _number(number))
    masks = {"no": (True,), "and": (True, True), "or": (True, True), "select": (True, False, False)}
    expected = masks.get(op, (False,) * len(operands))
    a = [_index(graph, x, mask) for x, mask in zip(operands, expected, strict=True)]
    if op in ("and", "or"):
        return graph.node(op, *a)
    if op in ("min", "max"):
        return graph.extreme(op, *a)
    return graph.function(op, *a) if op in FUNCTIONS else getattr(graph, op)(*a)


def _index(graph: Graph, x: Any, mask: bool) -> int:
    if isinstance(x, Symbol):
        if (x.graph.op(x.index) in MASKS) != mask:
            raise fault(
                "select, & | and ~ take conditions, such as x >= y; found a value: compare it."
                if mask
                else "a condition is no number: write select(condition, x, 0.0) of a value x."
            )
        return x.index if x.graph is graph else _captured(graph, x)
    if isinstance(x, int | float) and not mask:
        return graph.const(x)
    raise fault(
        f"a step computes with its own values and plain numbers; found a {type(x).__name__}: pass it as an input."
    )


def _captured(graph: Graph, x: Symbol) -> int:
    """A value from around a loop's body, in it."""
    if graph.around is None:
        raise fault("a value of a loop's body is seen outside it: return it from the body, and give it a start.")
    if x.graph.op(x.index) in MASKS:
        raise fault("a condition made outside a loop's body is used in it: make it inside, or use select outside.")
    return graph.capture(x.index if x.graph is graph.around else _captured(graph.around, x))


class Values(Mapping[str, Symbol]):
    """What a step is given of one kind, by name."""

    def __init__(self, what: str, values: Mapping[str, Symbol]) -> None:
        self._what, self._values = what, values

    def __getitem__(self, name: str) -> Symbol:
        if name not in self._values:
            raise fault(f"the model has no {self._what} '{name}'; its table has {', '.join(self._values) or 'none'}.")
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, name: str, value: Any) -> NoReturn:
        raise fault(
            f"the step writes {self._what} '{name}', which may be read again as it was before: give it a name of its "
            "own, and return the states after the step."
        )


@contextmanager
def _watched(graph: Graph) -> Iterator[None]:
    """While it lasts, a node takes the name of the first local variable that holds it."""

    def note(frame: FrameType) -> None:
        for name, value in frame.f_locals.items():
            if isinstance(value, Symbol) and value.graph is graph and graph.op(value.index) not in ("leaf", "const"):
                graph.names.setdefault(value.index, name)

    def every_line(frame: FrameType, event: str, argument: Any) -> Any:
        note(frame)
        return every_line

    def every_call(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        return None if is_own(code.co_filename) or code.co_name.startswith("<") else every_line

    before = sys.gettrace()
    sys.settrace(every_call)
    try:
        yield
    finally:
        sys.settrace(before)


def _run(graph: Graph, function: Callable, *arguments: Any) -> Any:
    """The function on symbols; whatever it raises is an error of its line."""
    try:
        with _watched(graph):
            return function(*arguments)
    except StepError:
        raise
    except RecursionError as error:
        raise fault("a step must not call itself: write a loop over a fixed number of passes.", _of(error)) from None
    except Exception as error:
        raise fault(
            f"the step cannot be read on values that stand for numbers ({type(error).__name__}: {error}): correct the "
            "line, or write it on the functions of hybridsolve.models.primitives.",
            _of(error),
        ) from error


def _of(error: BaseException) -> tuple[str, int]:
    """The innermost line of the model's code in an error's traceback."""
    place, at = here(), error.__traceback__
    while at is not None:
        if not is_own(at.tb_frame.f_code.co_filename):
            place = at.tb_frame.f_code.co_filename, at.tb_lineno
        at = at.tb_next
    return place


def _is_positive(row: Any) -> bool:
    """Whether the table keeps a value above 0."""
    return (row.taken[0] if isinstance(row, Parameter) else row.lower) > 0 if isinstance(row, Variable) else False


def _given(graph: Graph, kind: str, rows: Sequence[Any]) -> dict[str, Symbol]:
    leaves = {v.name: graph.leaf(kind, i, _is_positive(v)) for i, v in enumerate(rows)}
    graph.names.update((i, name) for name, i in leaves.items())
    return {name: Symbol(graph, i) for name, i in leaves.items()}


def first_line(function: Callable) -> tuple[str, int]:
    """File and line where a function begins."""
    code = getattr(function, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else here()


def _checked(function: Callable, what: str, found: Any, names: Sequence[str], every: Sequence[str]) -> None:
    """Raise unless a step returns what the table says."""
    place = first_line(function)
    if not isinstance(found, Mapping):
        raise fault(
            f"a step must return two mappings, states and fluxes; found {type(found).__name__} for {what}.", place
        )
    for name in names:
        if name not in found:
            raise fault(
                f"the step never sets {what} '{name}' of the table: return it, or take it out of the table.", place
            )
        value = found[name]
        if not isinstance(value, Symbol | int | float):
            kind = type(value).__name__
            raise fault(f"the step must return a value as {what} '{name}'; found {kind}: correct it.", place)
        if isinstance(value, Symbol) and value.graph.op(value.index) in MASKS:
            raise fault(
                f"the step returns a condition as {what} '{name}': write select(condition, x, 0.0) of a value x.",
                place,
            )
    for name in found:
        if name not in every:
            raise fault(f"the step returns {what} '{name}', which the table does not have: add it there.", place)


def trace(model: ModelSpec, optional: Sequence[str] = ()) -> tuple[Program, Program]:
    """The step of a model, and the ordinates of its delay lines, as it is written.

    Parameters
    ----------
    model : ModelSpec
    optional : sequence of str
        The optional parameters that the run has.

    Returns
    -------
    step, ordinates : Program

    Raises
    ------
    StepError
        If the step does what no kernel can; the message names the line.
    """
    parameters = model.present_parameters(optional)

    def given(graph: Graph) -> tuple[Values, Values]:
        k = _given(graph, "k", model.inputs) | {"dt": Symbol(graph, graph.leaf("dt", 0, True))}
        inputs = Values("input", k)
        p = Values("parameter", _given(graph, "p", parameters))
        if model.prepare is not None:
            made = _run(graph, model.prepare, inputs, p)
            if not isinstance(made, Mapping):
                found = type(made).__name__
                raise fault(
                    f"prepare must return a mapping of names; found {found}: return a dict.", first_line(model.prepare)
                )
            p = Values("parameter", {**p, **made})
        return inputs, p

    graph = Graph()
    graph.is_step = True
    k, p = given(graph)
    lines = {name: Symbol(graph, graph.leaf("w", n)) for n, name in enumerate(model.line_names)}
    p = Values("parameter", {**p, **lines})
    f = Values("forcing", _given(graph, "f", model.forcings))
    s = Values("state", _given(graph, "s", model.states + model.lines))
    step = model.reference_step
    returned = _run(graph, step, f, k, p, s)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise fault("a step must return two mappings, states and fluxes: return state, fluxes.", first_line(step))
    names = model.state_names + model.line_names
    _checked(step, "state", returned[0], names, names)
    _checked(step, "flux", returned[1], model.flux_names, model.flux_names)
    roots = {
        "s": [_root(graph, returned[0][name]) for name in names],
        "q": [_root(graph, returned[1][name]) for name in model.flux_names],
    }

    shares = Graph()
    k, p = given(shares)
    w: list[int] = []
    for line in model.lines:
        values = _run(shares, line.ordinates, k, p)
        if not isinstance(values, Sequence) or len(values) != line.slots:
            raise fault(
                f"the ordinates of delay line '{line.name}' must be a list of {line.slots} values; found "
                f"{len(values) if isinstance(values, Sequence) else type(values).__name__}: correct them or `slots`.",
                first_line(line.ordinates),
            )
        w += [_root(shares, value) for value in values]
    return Program(graph, roots), Program(shares, {"w": w})


def trace_start(model: ModelSpec, function: Callable) -> Program:
    """The start of a state, which the table has as a function of parameters.

    Raises
    ------
    StepError
    """
    graph = Graph()
    p = Values("parameter", _given(graph, "p", model.every_parameter))
    return Program(graph, {"s": [_root(graph, _run(graph, function, p))]})


def _root(graph: Graph, x: Symbol | float) -> int:
    return _index(graph, x, False)
