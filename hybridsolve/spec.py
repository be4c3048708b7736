"""What a model takes and gives, as one table: names, units, bounds, meanings and sources.

The table serves the documentation, the validation of inputs, the search of parameters, the scaling of learned ones, the
conversion to other time steps, the reports and the attributes of NetCDF files, so that each fact stands once. Reading
it needs neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads the tables without loading torch
    import torch

DAY = 86_400  # s: the step that the tables' rates and fractions are written for
DEFINITIONS: dict[str, ModelSpec] = {}  # by key, every model that was ever defined


@dataclass(frozen=True)
class Variable:
    """One quantity of a model: a flux, a static input, or one of the kinds below.

    Attributes
    ----------
    name, unit, meaning : str
        The unit of a depth of water per step is written for a day, ``mm d-1``; at another step it is mm of that step.
    lower, upper : float
        Bounds, both allowed.
    source : str
        Where the bounds or the definition come from.
    """

    name: str
    unit: str
    meaning: str
    lower: float = -float("inf")
    upper: float = float("inf")
    source: str = ""


@dataclass(frozen=True)
class Forcing(Variable):
    """A series that drives the model.

    Attributes
    ----------
    transform : {"none", "log"}
        What training does to it before it is standardised: "log" is ``log10(sqrt(x) + 0.1)``, for skewed rain
        (Feng et al. 2020, doi 10.1029/2019WR026793).
    """

    transform: str = "none"


@dataclass(frozen=True)
class Parameter(Variable):
    """A constant of the model; the bounds are also the range of calibration and learning.

    Attributes
    ----------
    default : float, optional
        Taken where a run is not given the parameter; None: it must be given.
    free : bool
        Calibrated and learned unless asked otherwise; one that is not needs a default.
    scale : {"linear", "log"}
        How the search goes through its range.
    step : {"none", "rate", "fraction"}
        How the value, written for a day, becomes that of a step of another length: not at all; a rate in proportion to
        the step; a fraction k of a store that leaves in a day as ``1 - (1 - k)**(step / day)``.
    """

    default: float | None = None
    free: bool = True
    scale: str = "linear"
    step: str = "none"

    def at_step(self, value: Any, seconds: float) -> Any:
        """A value for a day, a number or a tensor, as that of a step of this length."""
        share = seconds / DAY
        if share == 1 or self.step == "none":
            return value
        if self.step == "rate":
            return value * share
        if isinstance(value, float | int):
            return -math.expm1(share * math.log1p(-value)) if value < 1 else value
        # All of it leaves at 1, where the derivative is infinite and none is given; in between 1 - k would round.
        below = value < 1
        return (-((-value.where(below, 0.0)).log1p() * share).expm1()).where(below, value.detach())


@dataclass(frozen=True)
class State(Variable):
    """A store, carried from step to step.

    Attributes
    ----------
    initial, wet : float or callable
        Where a run starts that is given no state, and the other end of what a season can leave: a warm-up is long
        enough if runs from both agree. A number, or a function of the mapping of parameters.
    """

    initial: float | Callable = 0.0
    wet: float | Callable = 0.0


@dataclass(frozen=True)
class DelayLine:
    """Water on its way: what enters a step leaves by fixed shares in this step and those after it.

    With ordinates w_0 .. w_{n-1} and contents M_0 .. M_{n-2} of a line, a step that puts x into it gets
    ``M_0 + w_0 x`` out of it, and leaves ``M_j <- M_{j+1} + w_{j+1} x``. The driver moves the contents; the step reads
    M_0 as ``s[name]`` and w_0 as ``p[name]``, and returns x as the state of that name.

    Attributes
    ----------
    slots : int
        n, at most.
    ordinates : callable
        ``(inputs, parameters) -> [n, B, C]``, both mappings; or a list of n values, as the model compiler needs it.
    """

    name: str
    unit: str
    meaning: str
    slots: int
    ordinates: Callable


@dataclass(frozen=True)
class Hydrograph:
    """How runoff is delayed on its way to the gauge: convolved with the ordinates of a unit hydrograph.

    Attributes
    ----------
    kind : str
        A function of `hybridsolve.solve.ordinates` that makes the ordinates: "gamma", "nash", "lag".
    parameters : tuple of Parameter
        In the order in which that function takes them; times in days.
    days : float
        Length; at a shorter step it has more ordinates.
    at : {"midpoint", "end"}
        Where in its step an ordinate of the density is taken.
    normalised : bool
        Whether the ordinates sum to 1.
    cut : float, optional
        Log of the density (1/d) below which an ordinate, not the first, is 0.
    """

    kind: str
    parameters: tuple[Parameter, ...]
    days: float = 15.0
    at: str = "midpoint"
    normalised: bool = True
    cut: float | None = None


@dataclass(frozen=True)
class Balance:
    """Where the water comes from and goes to: gains - losses = change of what is stored.

    Attributes
    ----------
    gains, losses : tuple of str
        Forcings and fluxes; the outflow before its routing is a loss.
    storage : callable, optional
        ``(state, inputs, parameters) -> mm``, mappings all; the sum of the states in mm if left out.
    """

    gains: tuple[str, ...]
    losses: tuple[str, ...]
    storage: Callable | None = None


@dataclass(frozen=True)
class Signature:
    """A number of a basin that nobody trains on, to see whether what was learned makes sense.

    Attributes
    ----------
    of, over : str
        A forcing or flux; with `over` the sum of the one over that of the other.
    how : {"mean", "max"}
        Without `over`.
    observed : str, optional
        The attribute of a dataset that it can be compared with.
    """

    name: str
    unit: str
    meaning: str
    of: str
    over: str | None = None
    how: str = "mean"
    observed: str | None = None


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
        The module that has its step and adjoint for Triton; None: it has none.
    key : str
        The name and a hash of the definition: a model that is redefined under its name is another.
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
    key: str = field(init=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.key)

    def __post_init__(self) -> None:
        # Made at once, since torch.compile does not trace a hash.
        object.__setattr__(self, "key", f"{self.name}:{hashlib.sha256(_text(self).encode()).hexdigest()[:12]}")
        if re.search(r"[\s,:]", self.name):
            raise ValueError(f"a model's name must have no space, comma or colon; found '{self.name}': rename it.")
        every = [v.name for table in self._tables for v in table]
        for name in every:
            if not name.isidentifier():
                raise ValueError(f"model {self.name} has a variable '{name}', which is no identifier: rename it.")
            if every.count(name) > 1:
                raise ValueError(f"model {self.name} has two variables '{name}'; expected one: rename one of them.")
        if self.outflow not in self.flux_names:
            raise ValueError(
                f"the outflow of model {self.name} must be one of its fluxes, {', '.join(self.flux_names)}; found "
                f"'{self.outflow}': correct it."
            )
        one_of: list[tuple[str, str, tuple[str, ...]]]
        one_of = [(f"the transform of forcing '{v.name}'", v.transform, ("none", "log")) for v in self.forcings]
        one_of += [(f"how of signature '{s.name}'", s.how, ("mean", "max")) for s in self.signatures]
        series = self.forcing_names + self.output_names
        one_of += [(f"of of signature '{s.name}'", s.of, series) for s in self.signatures]
        one_of += [(f"over of signature '{s.name}'", s.over, series) for s in self.signatures if s.over is not None]
        if self.balance:
            one_of += [("the balance", name, series) for name in (*self.balance.gains, *self.balance.losses)]
        for p in self.every_parameter:
            one_of.append((f"the scale of parameter '{p.name}'", p.scale, ("linear", "log")))
            one_of.append((f"the step of parameter '{p.name}'", p.step, ("none", "rate", "fraction")))
        for what, found, expected in one_of:
            if found not in expected:
                raise ValueError(
                    f"{what} of model {self.name} must be one of {', '.join(expected)}; found '{found}': correct it."
                )
        for p in self.every_parameter:
            if p.default is not None and not p.lower <= p.default <= p.upper:
                raise ValueError(
                    f"the default of parameter '{p.name}' of model {self.name} must lie in [{p.lower:g}, {p.upper:g}]; "
                    f"found {p.default:g}: correct it."
                )
            if not p.free and p.default is None:
                raise ValueError(
                    f"parameter '{p.name}' of model {self.name} is not free and has no default: give it one."
                )
            if p.scale == "log" and not p.lower > 0:
                raise ValueError(
                    f"parameter '{p.name}' of model {self.name} has a log scale, which needs a lower bound above 0; "
                    f"found {p.lower:g}: raise it, or take 'linear'."
                )
        for s in self.states:
            if not callable(s.initial) and not s.lower <= s.initial <= s.upper:
                raise ValueError(
                    f"state '{s.name}' of model {self.name} must start in [{s.lower:g}, {s.upper:g}] {s.unit}; found "
                    f"{s.initial:g}: correct its initial value."
                )

        DEFINITIONS[self.key] = self  # at once, since torch.compile puts off what a traced function would note

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
        """The name of the compiled kernel for a run with these parameters."""
        return "_".join([self.name, *(v.name for v in self.optional_parameters if v.name in set(names))])

    def initial_state(self, parameters: Mapping[str, torch.Tensor], wet: bool = False) -> dict:
        """Where a run starts that is given no state, or the wet end of it: numbers or tensors by name."""
        values = {s.name: s.wet if wet else s.initial for s in self.states}
        return {name: x(parameters) if callable(x) else x for name, x in values.items()}

    def check_step(self, seconds: int) -> None:
        """Raise unless the model can run at steps of this length.

        Raises
        ------
        ValueError
        """
        if seconds in self.steps if self.steps is not None else seconds > 0 and DAY % seconds == 0:
            return
        known = "that divide a day" if self.steps is None else "of " + ", ".join(f"{s} s" for s in self.steps)
        raise ValueError(
            f"model {self.name} runs at steps {known}; found {seconds} s: aggregate or interpolate the data to one of "
            "these, or take another model."
        )

    def parameters_at_step(self, parameters: Mapping[str, torch.Tensor], seconds: int) -> dict[str, torch.Tensor]:
        """Parameters as the table has them, for a day, as those of a step of this length; see `Parameter`."""
        rows = {v.name: v for v in self.parameters + self.optional_parameters}
        return {name: rows[name].at_step(x, seconds) for name, x in parameters.items()}

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
        unknown = [name for name in unit if name not in known]
        if unknown:
            raise ValueError(
                f"model {self.name} has no parameter '{unknown[0]}'; expected any of "
                f"{', '.join(known)}: remove or rename it."
            )

        def scaled(v: Parameter, u: torch.Tensor) -> torch.Tensor:
            if v.scale == "log":
                return v.lower * (v.upper / v.lower) ** u
            return v.lower + (v.upper - v.lower) * u

        return {name: scaled(known[name], u) for name, u in unit.items()}


def _text(x: Any) -> str:
    """A definition as text: all that the tables say, and of functions the code and what they close over."""
    if is_dataclass(x):
        return f"{type(x).__name__}({','.join(_text(getattr(x, f.name)) for f in fields(x) if f.init)})"
    if isinstance(x, tuple):
        return f"({','.join(map(_text, x))})"
    if hasattr(x, "__code__"):
        closed_over = [cell.cell_contents for cell in x.__closure__ or ()]
        return _text((x.__code__, x.__defaults__, *(c for c in closed_over if c is not x)))
    return f"{x.co_code.hex()} {x.co_names} {_text(x.co_consts)}" if hasattr(x, "co_code") else repr(x)
