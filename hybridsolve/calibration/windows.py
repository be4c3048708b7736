"""A period of data with its warm-up as the solver takes them, and the flow at the gauge over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..data.dataset import period_slice
from ..data.steps import rows_of_days, step_seconds
from ..data.usable import static_inputs
from ..routing.gauge import simulate_to_gauge
from ..routing.units import Units, units_of
from ..solve.faults import passes_unlimited
from ..spec import DAY, ModelSpec
from .space import SearchSpace

CELLS = 4096  # run at a time over a whole period: bounds the memory of their flows


@dataclass(frozen=True)
class Window:
    """A period and the warm-up before it.

    Attributes
    ----------
    forcing : dict of str to Tensor ``[T, B]``
    inputs : dict of str to Tensor ``[B]``
        The model's static inputs.
    obs : Tensor ``[T, B]``
        Observed flow, mm per step; NaN where missing, and throughout the warm-up. With units ``[T, G]``.
    n_warmup : int
        Steps of T before the period.
    spun_up : bool
        The data begin less than a year before the period, so that their first year is run twice.
    step : int
        Length of a step, s.
    backend : str
        As for `simulate`.
    units : Units, optional
        Of which gauges the B basins of the forcing are units; the basins of everything else are then the G gauges.
    """

    forcing: dict[str, Tensor]
    inputs: dict[str, Tensor]
    obs: Tensor
    n_warmup: int
    spun_up: bool
    step: int = DAY
    backend: str = "auto"
    units: Units | None = None

    def basins(self, index: np.ndarray) -> Window:
        """The window of some of its basins."""
        units, rows = (None, index) if self.units is None else self.units.of_gauges(index)
        return replace(
            self,
            forcing={name: x[:, rows] for name, x in self.forcing.items()},
            inputs={name: x[rows] for name, x in self.inputs.items()},
            obs=self.obs[:, index],
            units=units,
        )

    def of_units(self, model: ModelSpec, values: Mapping[str, Tensor], routing: bool = False) -> dict[str, Tensor]:
        """Values of gauges ``[G, S]`` at their units ``[B, S]``; the hydrograph's stay the gauges', unless asked."""
        if self.units is None:
            return dict(values)
        kept = () if routing else model.routing_parameter_names
        return {name: x if name in kept else self.units.spread(x) for name, x in values.items()}

    @property
    def options(self) -> dict:
        """What a run over the window takes besides the forcing and the parameters."""
        return dict(inputs=self.inputs or None, step=self.step, backend=self.backend)

    @passes_unlimited()
    def flow(
        self, model: ModelSpec, values: Mapping[str, Tensor], initial_state: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Flow at the gauge ``[T, B, S]``, mm per step, of parameters ``[B, S]`` in their units."""
        state = None if initial_state is None else self.of_units(model, initial_state)
        values, units = self.of_units(model, values), self.units
        run = simulate_to_gauge(
            model, self.forcing, values, initial_state=state, components="each", units=units, **self.options
        )
        return run.fluxes[model.outflow]


def window(data: xr.Dataset, model: ModelSpec, period: Any, warmup_years: float, backend: str = "auto") -> Window:
    """Cut a period with its warm-up: as many years as asked for where the data allow, one at least.

    Raises
    ------
    ValueError
        If a static input of the model is missing, or is no number within its bounds; or if the model cannot run at the
        step of the data.
    """
    step = step_seconds(data)
    model.check_step(step)
    scored = period_slice(data["time"].values, period)
    year = rows_of_days(data, 365)
    available = min(scored.start, rows_of_days(data, 365.25 * warmup_years))
    rows = np.arange(scored.start - available, scored.stop)
    spun_up = available < year
    if spun_up:
        rows = np.concatenate([rows[:year], rows])
    n_warmup = len(rows) - (scored.stop - scored.start)

    def series(name: str) -> Tensor:
        values = data[name].transpose("time", "basin").values
        # A slice is a view: the whole record is in memory once, whatever the number of windows.
        return torch.as_tensor(values[rows] if spun_up else values[rows[0] : rows[-1] + 1])

    forcing = {name: series(name) for name in model.forcing_names}
    dtype = next(iter(forcing.values())).dtype
    obs = series("qobs").clone() if "qobs" in data else torch.empty(len(rows), data.sizes["basin"], dtype=dtype)
    obs[: n_warmup if "qobs" in data else None] = torch.nan
    inputs = {name: torch.as_tensor(x, dtype=dtype) for name, x in static_inputs(data, model.inputs).items()}
    units = units_of(data)
    obs = obs if units is None else obs[:, units.first]
    return Window(forcing, inputs, obs, n_warmup, spun_up, step, backend, units)


def flows(
    space: SearchSpace, period: Window, usable: np.ndarray, points: Tensor, initial_state: Callable | None = None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Flow at the gauge ``[T, B, S]`` of some usable basins at a time, with their indices into `usable`.

    Parameters
    ----------
    points : Tensor ``[P, B, S]``
        Of the usable basins.
    initial_state : callable, optional
        ``(parameters) -> state``, both mappings.
    """
    for part in np.array_split(np.arange(len(usable)), -(-len(usable) * points.shape[2] // CELLS)):
        values = space.values(points[:, part])
        with torch.no_grad():
            state = None if initial_state is None else initial_state(values)
            yield part, period.basins(usable[part]).flow(space.model, values, state)
