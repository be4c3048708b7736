"""Inputs of a model that follow from the weather of a training period, such as the mean annual snowfall.

They are computed once, of that period alone, stored with what was fitted, and taken from there afterwards: years that
are appended, or those that a model is tested on, change nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from .data.dataset import period_slice
from .data.steps import step_seconds
from .data.usable import static_inputs
from .rows import Input
from .solve.simulate import simulate
from .spec import DAY, ModelSpec

YEAR = 365.25  # days


def of_climate(model: ModelSpec) -> list[Input]:
    """The inputs that follow from the weather."""
    return [row for row in model.inputs if isinstance(row, Input) and row.annual is not None]


def with_climate(data: xr.Dataset, model: ModelSpec, period: Any) -> xr.Dataset:
    """The data with the inputs that they lack and that follow from the weather, as means of a period.

    Days on which a basin has no forcing are left out of its mean.

    Raises
    ------
    ValueError
        If the data do not hold the period, or lack another input of the model.
    """
    lacking = [row for row in of_climate(model) if row.name not in data.variables]
    if not lacking:
        return data
    part = data.isel(time=period_slice(data["time"].values, period))
    step = step_seconds(data)
    series = {name: part[name].transpose("time", "basin").values.astype(np.float64) for name in model.forcing_names}
    whole = np.all([np.isfinite(x) for x in series.values()], axis=0)
    forcing = {name: torch.as_tensor(np.where(whole, x, 0.0)) for name, x in series.items()}
    names = {row.name for row in lacking}
    inputs = static_inputs(data, [row for row in model.inputs if row.name not in names])
    given = {name: torch.as_tensor(x) for name, x in inputs.items()}
    given |= {row.name: torch.full((1,), min(max(1.0, row.lower), row.upper), dtype=torch.float64) for row in lacking}
    values = {v.name: v.from_unit(0.5) if v.default is None else v.default for v in model.parameters}
    parameters = {name: torch.full((1, 1), value, dtype=torch.float64) for name, value in values.items()}
    fluxes = tuple(row.annual for row in lacking if row.annual)
    with torch.no_grad():
        run = simulate(model, forcing, parameters, inputs=given, step=step, fluxes=fluxes)
    for row in lacking:
        total = np.where(whole, run.fluxes[row.annual].numpy(), 0.0).sum(0)  # type: ignore[index]
        mean = total / np.maximum(whole.sum(0), 1) * (YEAR * DAY / step)
        data = data.assign({row.name: ("basin", mean, {"units": row.unit, "long_name": row.meaning})})
    return data


def stored_climate(data: xr.Dataset, model: ModelSpec, stored: xr.Dataset) -> xr.Dataset:
    """The data with the inputs that were stored with what was fitted, in place of their own."""
    found = {row.name: stored[row.name] for row in of_climate(model) if row.name in stored.variables}
    return data.assign({name: x.sel(basin=data["basin"]) for name, x in found.items()}) if found else data
