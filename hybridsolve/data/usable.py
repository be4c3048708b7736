"""What a run can use of data: basins, days and inputs; what lacks is named, and left out where that is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from ..spec import ModelSpec, Variable
from .dataset import attributes_at, period_slice, period_text
from .ids import listed
from .layers import CURVE, layer_number, layers_of_curve, refuse_out_of_order
from .names import role_of
from .steps import date_of_row, rows_of_days, step_seconds
from .units import DAY, convert, is_ours
from .values import numbers


def used_days(data: xr.Dataset, periods, warmup_years: float, warmup_days: int = 0) -> xr.Dataset:
    """The data from the first day of a warm-up to the last of a period: what lies outside is not run, and not judged.

    Parameters
    ----------
    periods : iterable of str or pair
    warmup_years : float
        Before each of them, where the data allow.
    warmup_days : int
        Before each of them too; the longer counts.
    """
    slices = [period_slice(data["time"].values, period) for period in periods]
    longest = rows_of_days(data, max(365.25 * warmup_years, warmup_days))
    first = max(0, min(days.start for days in slices) - longest)
    return data.isel(time=slice(first, max(days.stop for days in slices)))


def usable_basins(
    data: xr.Dataset, forcing_names: Sequence[str], period=None, *, least: int = 2, skip: bool = False
) -> np.ndarray:
    """Indices of the basins whose forcing has no gap and whose observations vary in a period.

    Parameters
    ----------
    data : xarray.Dataset
        With dims ``(time, basin)``.
    forcing_names : sequence of str
    period : str or pair, optional
        In which `qobs` must vary; None: observations are not looked at.
    least : int
        Observations that a basin must have in the period.
    skip : bool
        Leave out the unusable basins, with a warning that names them, instead of raising.

    Raises
    ------
    ValueError
        If a basin cannot be used and `skip` is not set, or none can.
    """
    ids, time = data["basin"].values, data["time"].values
    counted = "on {} days" if step_seconds(data) == DAY else "in {} steps"
    why: dict[int, str] = {}
    series = {name for name in data.data_vars if set(data[name].dims) == {"time", "basin"}}
    numbers = {name for name in series if data[name].dtype.kind in "fiu"}  # `check_dataset` refuses the others
    for name in filter(numbers.__contains__, forcing_names):
        gaps = ~np.isfinite(data[name].transpose("time", "basin").values)
        for b in np.flatnonzero(gaps.any(0)):
            days = np.flatnonzero(gaps[:, b])
            why.setdefault(
                int(b),
                f"{name} is missing {counted.format(len(days))} from {date_of_row(time, days[0])} to "
                f"{date_of_row(time, days[-1])}",
            )
    if period is not None and "qobs" in numbers:
        obs = data["qobs"].transpose("time", "basin").values[period_slice(time, period)]
        there = (~np.isnan(obs)).sum(0)
        for b in np.flatnonzero(~_vary(obs) | (there < least)):
            n = int(there[b])
            what = "does not vary" if n >= least else f"has {n} values, fewer than {least},"
            why.setdefault(int(b), f"qobs {what} in the training period {period_text(period)}")
    if not why:
        return np.arange(len(ids))
    first, reason = min(why.items())
    more = f", and {len(why) - 1} more basins likewise" if len(why) > 1 else ""
    said = f"basin {ids[first]} cannot be used: {reason}{more}"
    if not skip or len(why) == len(ids):
        leave_out = "" if len(why) == len(ids) else ", or leave such basins out with skip_unusable (--skip-unusable)"
        raise ValueError(f"{said}; fill it or choose another period{leave_out}.")
    out = np.array(sorted(why))
    if "gauge" in data.coords:  # the basins are units, and a gauge has all of its own or none
        out = np.flatnonzero(np.isin(data["gauge"].values, data["gauge"].values[out]))
    if len(out) == len(ids):
        raise ValueError(f"{said}; every gauge has such a unit: fill it or choose another period.")
    warnings.warn(f"{len(out)} of {len(ids)} basins are left out ({listed(ids[out])}): {said}.", stacklevel=3)
    return np.setdiff1d(np.arange(len(ids)), out)


def refuse_outside(data: xr.Dataset, model: ModelSpec) -> None:
    """Raise if a forcing lies outside the model's bounds, of which a kernel knows no basin and no date.

    The bounds are not scaled with the step: what falls in a day may fall in an hour of it.
    """
    for v in model.forcings:
        values = data[v.name].values
        bad = ~((values >= v.lower) & (values <= v.upper))
        if bad.any():
            t, b = np.argwhere(bad)[0]
            unit = attributes_at(v.name, step_seconds(data), v)["units"]
            raise ValueError(
                f"forcing '{v.name}' must lie in [{v.lower:g}, {v.upper:g}] {unit}; found {values[t, b]:g} in basin "
                f"{data['basin'].values[b]} on {date_of_row(data['time'].values, t)} ({bad.sum()} such values): "
                "correct it, or leave out that basin."
            )


def static_inputs(data: xr.Dataset, rows: Iterable[Variable]) -> dict[str, np.ndarray]:
    """The static inputs that a model's table names, one number for each basin, in the table's units.

    An input is the variable over `basin` of its name, or of another that means the same (area is `area_km2`).
    Elevations of layers come from the hypsometric curve `hypsometry` where the data have none (see `layers_of_curve`).

    Parameters
    ----------
    data : xarray.Dataset
    rows : iterable of Variable

    Returns
    -------
    dict of str to numpy.ndarray of float64 ``[B]``

    Raises
    ------
    ValueError
        None of that name over `basin`, one without a unit or in a unit of another kind, missing values, or values
        outside the table's bounds; elevations of layers that fall.
    """
    inputs: dict[str, np.ndarray] = {}
    rows = list(rows)
    layers = {row.name: number for row in rows if (number := layer_number(row.name)) is not None}
    if layers and CURVE in data.variables and not any(name in data.variables for name in layers):
        made = layers_of_curve(data, max(layers.values()))
        data = data.assign({name: ("basin", made[:, i - 1], {"units": "m"}) for name, i in layers.items()})
    for row in rows:
        name = next((name for name in (row.name, role_of(row.name)) if name in data.variables), None)
        if name is None or data[name].dims != ("basin",):
            found = [v for v in data.variables if data[v].dims == ("basin",) and v != "basin"]
            raise ValueError(
                f"input '{row.name}' must be a variable of the data with one number for each basin, found "
                f"{listed(found)}; add it, in {row.unit}"
                + (f", or the curve {CURVE} [basin, point] of which layers are made." if row.name in layers else ".")
            )
        values, unit = (
            numbers(data[name].values, f"input '{row.name}'").astype(np.float64),
            data[name].attrs.get("units"),
        )
        if unit is None and row.unit != "1":
            raise ValueError(
                f"input '{row.name}' has no units attribute, expected '{row.unit}'; set "
                f"ds['{name}'].attrs['units'] once you know it is so."
            )
        if unit is not None and not is_ours(unit, row.unit):
            values, _ = convert(values, unit, row.unit, f"input '{row.name}'")
        bad = ~((values >= row.lower) & (values <= row.upper) & np.isfinite(values))
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(
                f"input '{row.name}' must lie in [{row.lower:g}, {row.upper:g}] {row.unit}, found {values[at]:g} in "
                f"basin {data['basin'].values[at]} ({int(bad.sum())} such basins); correct it, or leave out that basin."
            )
        inputs[row.name] = values
    refuse_out_of_order({i: inputs[name] for name, i in layers.items()}, data["basin"].values)
    return inputs


def varies(data: xr.Dataset, period) -> np.ndarray:
    """Whether each basin's observations vary over a period."""
    return _vary(data["qobs"].transpose("time", "basin").values[period_slice(data["time"].values, period)])


def _vary(obs: np.ndarray) -> np.ndarray:
    seen = ~np.isnan(obs)
    return np.where(seen, obs, -np.inf).max(0) > np.where(seen, obs, np.inf).min(0)
