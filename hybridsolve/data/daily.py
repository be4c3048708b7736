"""Days out of shorter steps: sums of what is an amount per step, means of the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from .steps import DAY, check_times, step_seconds, usual_step
from .times import add_time_bounds
from .units import DAY as DAY_SECONDS
from .units import is_per_step, unit_at

_REDUCED: dict[str, Callable] = {"sum": np.sum, "mean": np.mean, "minimum": np.min, "maximum": np.max}


def to_days(data: xr.Dataset) -> xr.Dataset:
    """Daily values of data of shorter steps, by calendar days of their clock.

    Amounts per step (mm h-1 at an hour) and what ``cell_methods`` calls sums over time are added up, minima and maxima
    are those of the day, the rest is averaged. Days that the data hold in part are left out; of floating-point numbers
    one missing step makes the day missing, and other variables over time are left out.

    Parameters
    ----------
    data : xarray.Dataset
        Over `time`, each the start of its step, as `open_dataset` gives it.

    Returns
    -------
    xarray.Dataset
        Daily data as they are.

    Raises
    ------
    ValueError
        No whole day, or dates that are not of one step.
    """
    step = step_seconds(data)
    if step == DAY_SECONDS:
        return data
    rows = rows_of_whole_days(data["time"].values)
    if not len(rows):
        raise ValueError("data must hold at least one whole day to be made daily, found none; give a longer period.")
    series = [name for name in data.data_vars if "time" in data[name].dims]
    days = data.drop_vars([*series, *(name for name in data.coords if "time" in data[name].dims)])
    for name in (name for name in series if data[name].dtype.kind == "f"):
        values = data[name].transpose("time", ...)
        how = _how(values, step)
        attrs = dict(values.attrs)
        if "units" in attrs and how == "sum":
            attrs["units"] = unit_at(str(attrs["units"]), DAY_SECONDS, of=step)
        reduced = by_day(values.values, rows, DAY_SECONDS // step, how)
        days[name] = xr.DataArray(reduced, dims=values.dims, attrs=attrs).transpose(*data[name].dims)
    days = days.assign_coords(time=("time", data["time"].values[rows], data["time"].attrs))
    days.attrs.pop("step_boundary", None)
    days.attrs["day_boundary"] = f"{str(days['time'].values[0])[11:16]} of the data's clock, by their steps"
    return add_time_bounds(days, DAY_SECONDS)


def rows_of_whole_days(time: np.ndarray) -> np.ndarray:
    """The first row of each calendar day that sorted dates of one step hold whole."""
    step = usual_step(time)
    check_times(time, step=step, gaps=True)
    _, first, count = np.unique(time.astype("datetime64[D]"), return_index=True, return_counts=True)
    return first[count == DAY // step]


def by_day(values: np.ndarray, rows: np.ndarray, steps: int, how: str) -> np.ndarray:
    """Sum, mean, minimum or maximum over each day of values ``[T, ...]``: of the `steps` rows that begin at `rows`."""
    together = len(rows) * steps
    if len(rows) and rows[-1] + steps - rows[0] == together:  # no day lacks between them: a view, not a copy
        days = values[rows[0] : rows[0] + together].reshape(len(rows), steps, *values.shape[1:])
    else:
        days = values[rows[:, None] + np.arange(steps)]
    return _REDUCED[how](days, axis=1)


def _how(series: xr.DataArray, step: int) -> str:
    methods = str(series.attrs.get("cell_methods", ""))
    if is_per_step(str(series.attrs.get("units", "")), step) or "time: sum" in methods:
        return "sum"
    return next((name for name in ("minimum", "maximum") if name in methods), "mean")
