"""What the tests must know of a model: weather that meets all its branches, stores from empty to full, exact ties.

`Example` reads all of it from the model's table. A file of this folder that bears a model's name, or the first part of
it, may say it better, by a subclass named `Example`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridsolve.spec import ModelSpec, Variable


def uniform(*shape, seed=0, dtype=torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def normal(*shape, seed=0, dtype=torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pick(values, *shape, seed) -> Tensor:
    """Each entry one of these values."""
    return torch.tensor(values, dtype=torch.float64)[(uniform(*shape, seed=seed) * len(values)).long()]


def is_depth(variable: Variable) -> bool:
    return variable.unit.startswith("mm")


class _Asked(dict):
    """A mapping that notes the names it is asked for."""

    def __init__(self, given):
        super().__init__(given)
        self.names = []

    def __getitem__(self, name):
        self.names.append(name)
        return super().__getitem__(name)


class Example:
    """Inputs of one model; functions that change a run's inputs take a `conftest.Inputs` and change it in place.

    Parameters
    ----------
    model : ModelSpec

    Attributes
    ----------
    water : tuple of str
        The forcings that bring water.
    dataset : dict of str to str
        For each forcing the variable of a dataset of basins that can stand for it.
    most : dict of str to float
        Where a store's wet end in the table is not what random ones should reach.
    rounding : float
        mm, what a flow may be off in single precision for the rounding of the store that it overflows from.
    flood : float
        mm a step, what the model must stand beside its weather.
    years : int
        For how long a balance of 1e-9 mm is asked, which must be far above the rounding of what is stored by then.
    """

    most: dict[str, float] = {}
    rounding = 0.0
    flood = 200.0
    years = 10

    def __init__(self, model: ModelSpec):
        self.model = model
        gains = model.balance.gains if model.balance else ()
        logged = [f.name for f in model.forcings if f.transform == "log"]
        depths = [f.name for f in model.forcings if is_depth(f)]
        self.water = tuple(n for n in model.forcing_names if n in gains) or tuple(logged or depths[:1])
        self.dataset = {}
        for f in model.forcings:
            self.dataset[f.name] = "prcp" if f.name in self.water else "pet" if is_depth(f) else "tmean"

    @property
    def parameter(self) -> str:
        """One that every output of note depends on."""
        return self.model.parameter_names[0]

    @property
    def pair(self) -> tuple[str, str]:
        """The outflow and another flux."""
        losses = self.model.balance.losses if self.model.balance else ()
        others = [n for n in (*losses, *self.model.output_names) if n != self.model.outflow]
        return self.model.outflow, others[0]

    @property
    def store(self) -> str:
        """A state that other things depend on."""
        return self.model.state_names[0]

    @property
    def stationary(self) -> tuple[str, ...]:
        """Parameters that cannot vary by step: those of the ordinates of delay lines."""
        unit = {v.name: torch.full((1, 1), 0.5) for v in self.model.parameters + self.model.optional_parameters}
        parameters = _Asked(self.model.parameters_from_unit(unit))
        inputs = {v.name: torch.full((1, 1), _inside(v)) for v in self.model.inputs}
        for line in self.model.lines:
            line.ordinates(inputs | {"dt": 1.0}, parameters)
        return tuple(dict.fromkeys(parameters.names))

    def forcing(self, T: int, B: int, draw) -> dict[str, Tensor]:
        """Dry and wet days, frost and thaw; `draw(*shape)` is uniform in 0..1."""
        season = torch.sin(torch.arange(T) * (2 * torch.pi / 20))[:, None]
        series = {}
        for f in self.model.forcings:
            if f.name in self.water:
                x = torch.where(draw(T, B) < 0.5, 0.0, 40 * draw(T, B) ** 3)
            elif is_depth(f):
                x = torch.where(draw(T, B) < 0.2, 0.0, 5 * draw(T, B))
            elif f.unit == "degC":
                x = 2 + 6 * season + 4 * draw(T, B) - 2
            else:
                x = _inside(f) + (min(f.upper, _inside(f) + 1) - _inside(f)) * (draw(T, B) - 0.5)
            series[f.name] = x.clamp(f.lower, f.upper)
        return series

    def inputs(self, B: int, draw) -> dict[str, Tensor]:
        """The static inputs ``[B]``, over their range where that has ends."""
        rows = {v.name: (v.lower, v.upper) if v.upper - v.lower < 1e6 else (_inside(v),) * 2 for v in self.model.inputs}
        return {name: lower + (upper - lower) * draw(B) for name, (lower, upper) in rows.items()}

    def state(self, parameters: dict[str, Tensor], cells: tuple[int, int], draw) -> dict[str, Tensor]:
        """Stores ``[B, C]``: three in ten empty, the others anything up to `most`, or to their wet end."""
        first = {n: p if p.dim() == 2 else p[0] for n, p in parameters.items()}
        full, state = self.full(first), {}
        for v in self.model.states:
            empty, most = self.empty(v), self.most.get(v.name, full[v.name])
            state[v.name] = torch.where(draw(*cells) < 0.3, empty, empty + (most - empty) * draw(*cells))
        return state

    def full(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The wet end of each store, or its start where that is wetter; where both are empty 50 mm."""
        wet, start = self.model.initial_state(parameters, wet=True), self.model.initial_state(parameters)
        full = {}
        for v in self.model.states:
            most = torch.maximum(*(torch.as_tensor(x[v.name], dtype=torch.float64) for x in (wet, start)))
            least = min(self.empty(v) + 50, v.upper) if is_depth(v) else -float("inf")
            full[v.name] = torch.where(most > self.empty(v) + 0.01, most, most.clamp(min=least))
        return full

    def empty(self, store: Variable) -> float:
        return store.lower if store.lower > -1e6 else 0.0

    def exact(self) -> tuple[Callable, ...]:
        """Functions that make inputs at which 24 steps of an hour are one of a day, to rounding.

        Each changes a run's inputs and returns the names of the outputs that this holds for. What leaves a store as a
        fraction does so if nothing but other fractions changes it; a rate, while the store lasts.
        """
        return ()

    def made(self, x, run) -> Tensor:
        """Water that the model itself says it makes, mm per step and cell, of a run of all outputs."""
        return torch.zeros(1, 1, 1, dtype=torch.float64)

    def apart(self, x) -> None:
        """Move what stands at a threshold off it, where rounding or a small difference would decide."""

    def steady(self, x) -> None:
        """Parameters with which a small difference does not grow from step to step, for years in single precision."""

    def smooth(self, x) -> None:
        """Inputs at which the model has no kink, for finite differences."""
        T, B = x.sizes[:2]
        for i, f in enumerate(self.model.forcings):
            if is_depth(f):
                x.forcing[f.name] = (1 + 20 * uniform(T, B, seed=6) if f.name in self.water else
                                     0.5 + uniform(T, B, seed=7 + i))  # fmt: skip
        self.apart(x)
        x.initial_state = {n: 1 + s for n, s in x.initial_state.items()}
        for v in self.model.states:
            if v.upper - v.lower < 1e6:  # well inside
                share = (x.initial_state[v.name] - 1 - v.lower) / (v.upper - v.lower)
                x.initial_state[v.name] = v.lower + (v.upper - v.lower) * (0.25 + share / 2)

    def ties(self, x) -> None:
        """Inputs on a coarse grid, on which kinks are met exactly."""
        T, B, C = x.sizes
        for i, f in enumerate(self.model.forcings):
            grid = [0, 0, 0, 8, 16] if f.name in self.water else [0, 0, 1, 2]
            if is_depth(f) or f.unit == "degC":
                x.forcing[f.name] = pick(grid, T, B, seed=1 + i).clamp(f.lower, f.upper)
        for i, name in enumerate(x.parameters):
            v = self.model.variable(name)
            x.parameters[name] = pick([v.lower, (v.lower + v.upper) / 2, v.upper], B, C, seed=i)
        full = self.full(x.parameters)
        for i, v in enumerate(self.model.states):
            x.initial_state[v.name] = torch.where(uniform(B, C, seed=8 + i) < 0.5, full[v.name], self.empty(v))


def _inside(v: Variable) -> float:
    """A value in the midst of what is allowed."""
    if v.lower > -1e6 and v.upper < 1e6:
        return (v.lower + v.upper) / 2
    return min(max(1.0, v.lower), v.upper)
