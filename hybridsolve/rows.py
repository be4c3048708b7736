"""The rows of a model's table: what `hybridsolve.spec.ModelSpec` is made of, and where it offers them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DAY = 86_400  # s: the step that the tables' rates and fractions are written for


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
class Input(Variable):
    """A number of a basin that nobody learns and that may follow from its weather.

    Attributes
    ----------
    annual : str, optional
        The flux whose mean amount in a year of the training period it is where the data do not have it. That flux
        follows from the forcing alone.
    """

    annual: str | None = None


@dataclass(frozen=True)
class Parameter(Variable):
    """A constant of the model; the bounds are the range of calibration and learning, and of runs unless they differ.

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
    allowed : (lower, upper), optional
        What a run takes, where that is more than calibration and learning go through.
    """

    default: float | None = None
    free: bool = True
    scale: str = "linear"
    step: str = "none"
    allowed: tuple[float, float] | None = None

    @property
    def taken(self) -> tuple[float, float]:
        """Bounds of what a run takes."""
        return self.allowed or (self.lower, self.upper)

    def from_unit(self, u: Any) -> Any:
        """The value at a place 0..1 in the range, a number or a tensor."""
        return (
            self.lower * (self.upper / self.lower) ** u
            if self.scale == "log"
            else self.lower + (self.upper - self.lower) * u
        )

    @property
    def octaves(self) -> float:
        """How often the range of a log scale doubles; 0 of a linear scale."""
        return math.log2(self.upper / self.lower) if self.scale == "log" else 0.0

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
