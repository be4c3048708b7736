"""What a model takes and gives, as one table: names, units, bounds, meanings and sources.

The table serves the documentation, the validation of inputs, the search of parameters, the scaling of learned ones, the
conversion to other time steps, the reports and the attributes of NetCDF files, so that each fact stands once. Reading
it needs neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import combinations
from numbers import Real
from types import CodeType
from typing import TYPE_CHECKING, Any

from .rows import DAY, Balance, DelayLine, Forcing, Hydrograph, Parameter, Signature, State, Variable
from .table_checks import check

if TYPE_CHECKING:  # the command line reads the tables without loading torch
    import torch

__all__ = [
    "DAY",
    "Balance",
    "DelayLine",
    "Forcing",
    "Hydrograph",
    "ModelSpec",
    "Parameter",
    "Signature",
    "State",
    "Variable",
]
DEFINITIONS: dict[str, ModelSpec] = {}  # by key, every model that was ever defined
FIRST: dict[str, ModelSpec] = {}  # by name, the first that was defined: the one that a kernel of that name computes


@dataclass(frozen=True)
class ModelSpec:
    """A model: its tables of variables and one step in plain torch.

    Attributes
    ----------
    forcings : tuple of Forcing
    parameters, optional_parameters : tuple of Parameter
        The optional ones may be left out of a run; what that means is said in their `meaning`.
    states : tuple of State
    fluxes : tuple of Variable
    reference_step : callable
        ``(forcing, inputs, parameters, state) -> (state, fluxes)``, all mappings of name to tensor, broadcast over
        ``[B, C]``; `inputs` holds the step's length in days too, as "dt", and `parameters` what `prepare` makes.
    outflow : str
        The flux that leaves the catchment, before its routing.
    routing : Hydrograph, optional
        Of the outflow; its parameters are not used by `simulate` but calibrated and learned with the rest. None: the
        outflow is the flow at the gauge.
    inputs : tuple of Variable
        Numbers of a basin that nobody learns, such as an area.
    prepare : callable, optional
        ``(inputs, parameters) -> mapping``: what depends on these alone, made once where they do not vary by step.
    lines : tuple of DelayLine
    balance : Balance, optional
    signatures : tuple of Signature
    steps : tuple of int, optional
        The lengths of a step that the model may run at, s; None: any that divides a day.
    triton : str, optional
        The module that has its step and adjoint for Triton by hand; None: they are generated, if the model is defined
        by `hybridsolve.models.define`.
    rates : bool
        Whether `reference_step` gives, in place of the states after a step, how fast they change (per day), and fluxes
        per day, of the forcing of a day: such a model runs by a scheme (`hybridsolve.models.schemes`).
    key : str
        The name and a hash of the definition: a model that is redefined under its name is another.
    equations : str
        A hash of what a kernel computes: the step, `prepare` and the ordinates.
    """

    name: str
    title: str
    source: str
    forcings: tuple[Forcing, ...]
    parameters: tuple[Parameter, ...]
    states: tuple[State, ...]
    fluxes: tuple[Variable, ...]
    reference_step: Callable
    outflow: str
    routing: Hydrograph | None = None
    optional_parameters: tuple[Parameter, ...] = ()
    inputs: tuple[Variable, ...] = ()
    prepare: Callable | None = None
    lines: tuple[DelayLine, ...] = ()
    balance: Balance | None = None
    signatures: tuple[Signature, ...] = ()
    steps: tuple[int, ...] | None = (DAY,)
    triton: str | None = None
    rates: bool = False
    key: str = field(init=False, compare=False)
    equations: str = field(init=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.key)

    def __post_init__(self) -> None:
        check(self)
        # Made at once, since torch.compile does not trace a hash.
        object.__setattr__(self, "key", f"{self.name}:{_hash(self)}")
        functions = (self.reference_step, self.prepare, *(line.ordinates for line in self.lines))
        object.__setattr__(self, "equations", _hash(functions))
        if self.rates:
            return  # no kernel computes it
        DEFINITIONS[self.key] = self  # at once, since torch.compile puts off what a traced function would note
        FIRST.setdefault(self.name, self)

    @property
    def _tables(self) -> tuple[tuple[Variable | DelayLine, ...], ...]:
        return (
            self.forcings,
            self.inputs,
            self.parameters,
            self.optional_parameters,
            self.routing_parameters,
            self.states,
            self.lines,
            self.fluxes,
        )

    @property
    def routing_parameters(self) -> tuple[Parameter, ...]:
        return self.routing.parameters if self.routing else ()

    @property
    def every_parameter(self) -> tuple[Parameter, ...]:
        """The optional ones and the routing's too."""
        return self.parameters + self.optional_parameters + self.routing_parameters

    @property
    def forcing_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.forcings)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.inputs)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.parameters)

    @property
    def optional_parameter_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.optional_parameters)

    @property
    def routing_parameter_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.routing_parameters)

    @property
    def free_parameters(self) -> tuple[Parameter, ...]:
        """What is calibrated and learned unless asked otherwise, the routing's last."""
        return tuple(p for p in (*self.parameters, *self.routing_parameters) if p.free)

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.states)

    @property
    def line_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.lines)

    @property
    def flux_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.fluxes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What a run can give as series: the fluxes, and the states at the end of every step."""
        return self.flux_names + self.state_names

    def __repr__(self) -> str:
        return f"<model {self.name}: {self.title}>"

    def variable(self, name: str) -> Variable | DelayLine:
        """The table row of any variable of this model.

        Raises
        ------
        ValueError
            If the model has no variable of that name.
        """
        every = {v.name: v for table in self._tables for v in table}
        if name not in every:
            raise ValueError(f"model {self.name} has no variable '{name}'; it has {', '.join(every)}.")
        return every[name]

    def present_parameters(self, names: Iterable[str]) -> tuple[Parameter, ...]:
        """The rows of the parameters that a run with these names uses, in the kernel's order."""
        names = set(names)
        return self.parameters + tuple(v for v in self.optional_parameters if v.name in names)

    def kernel_name(self, names: Iterable[str]) -> str:
        """The name of the compiled kernel for a run with these parameters, fit for C++."""
        name = re.sub(r"\W", "_", self.name, flags=re.ASCII)
        return "_".join([name, *(v.name for v in self.optional_parameters if v.name in set(names))])

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        """Every choice of optional parameters that a run may have."""
        names = self.optional_parameter_names
        return tuple(some for n in range(len(names) + 1) for some in combinations(names, n))

    @property
    def kernel_names(self) -> tuple[str, ...]:
        """The names of all kernels of the model, one for every choice of optional parameters."""
        return tuple(map(self.kernel_name, self.choices))

    def initial_state(self, parameters: Mapping[str, torch.Tensor], wet: bool = False) -> dict:
        """Where a run starts that is given no state, or the wet end of it: numbers or tensors by name.

        Raises
        ------
        ValueError
            If a function of the table reads a parameter that is not there.
        """
        found = {}
        for s in self.states:
            x = s.wet if wet else s.initial
            what = f"the start of state '{s.name}'"
            found[s.name] = self.called(what, x, parameters) if callable(x) else x
        return found

    def called(self, what: str, function: Callable, *given: Mapping) -> Any:
        """What a function of the model makes of mappings of names.

        Raises
        ------
        ValueError
            If it reads a name that is in none of them.
        """
        try:
            return function(*given)
        except KeyError as error:
            names = ", ".join(dict.fromkeys(name for mapping in given for name in mapping))
            raise ValueError(
                f"{what} of model {self.name} reads {error}, which it is not given; expected any of {names}: correct "
                "the name, or add it to the table."
            ) from error

    def check_step(self, seconds: int) -> None:
        """Raise unless the model can run at steps of this length.

        Raises
        ------
        ValueError
        """
        if self.steps is not None and seconds in self.steps:
            return
        if self.steps is None and isinstance(seconds, Real) and seconds > 0 and DAY % seconds == 0:
            return
        known = "that divide a day" if self.steps is None else "of " + ", ".join(f"{s} s" for s in self.steps)
        raise ValueError(
            f"model {self.name} runs at steps {known}; found {seconds} s: aggregate or interpolate the data to one of "
            "these, or take another model."
        )

    def parameters_at_step(self, parameters: Mapping[str, torch.Tensor], seconds: int) -> dict[str, torch.Tensor]:
        """Parameters as the table has them, for a day, as those of a step of this length; see `Parameter`."""
        rows = {v.name: v for v in self.parameters + self.optional_parameters}
        self._refuse_unknown(parameters, rows)
        return {name: rows[name].at_step(x, seconds) for name, x in parameters.items()}

    def _refuse_unknown(self, given: Mapping[str, Any], known: Mapping[str, Parameter]) -> None:
        """Raise unless these are parameters by name."""
        if not isinstance(given, Mapping):
            raise TypeError(f"parameters must map names to values; found {type(given).__name__}: pass a dict.")
        for name in given:
            if name not in known:
                raise ValueError(
                    f"model {self.name} has no parameter '{name}'; expected any of {', '.join(known)}: remove or "
                    "rename it."
                )

    def parameters_from_unit(self, unit: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scale values in 0..1 to the parameters' bounds: ``lower + (upper - lower) u``.

        On a log scale ``lower (upper / lower)**u``.

        Parameters
        ----------
        unit : mapping of str to Tensor
            Any of the model's parameters, optional and routing ones included, in any shape.

        Returns
        -------
        dict of str to Tensor
            In the parameters' units, same shapes and order.

        Raises
        ------
        ValueError
            If a name is not a parameter of this model.
        """
        known = {v.name: v for v in self.every_parameter}
        self._refuse_unknown(unit, known)

        return {name: known[name].from_unit(u) for name, u in unit.items()}


def _hash(x: Any) -> str:
    return hashlib.sha256(_text(x).encode()).hexdigest()[:12]


def _text(x: Any, seen: tuple = ()) -> str:
    """A definition as text: all that the tables say, and of functions the code and what they use from outside."""
    if is_dataclass(x):
        return f"{type(x).__name__}({','.join(_text(getattr(x, f.name), seen) for f in fields(x) if f.init)})"
    if isinstance(x, tuple):
        return f"({','.join(_text(v, seen) for v in x)})"
    if hasattr(x, "__code__"):
        if x in seen:
            return str(x.__name__)
        closed_over = tuple(cell.cell_contents for cell in x.__closure__ or ())
        used = (x.__globals__.get(name) for name in _names_of(x.__code__))
        used = tuple(v for v in used if hasattr(v, "__code__") or isinstance(v, bool | int | float | str | tuple))
        defaults = (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
        return _text((x.__code__, defaults, *closed_over, *used), (*seen, x))
    return f"{x.co_code.hex()} {x.co_names} {_text(x.co_consts, seen)}" if hasattr(x, "co_code") else repr(x)


def _names_of(code: CodeType) -> list[str]:
    """The names that a function's code and those of the functions within it look up."""
    within = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names_of(c)]
    return [*code.co_names, *within]
