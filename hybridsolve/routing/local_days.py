"""Means of the local day at gauges, beside the flow at the end of each step."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ..data.daily import by_day, rows_of_whole_days
from ..data.steps import usual_step

DAY = np.timedelta64(1, "D")


def offset_of_longitude(lon: ArrayLike) -> np.ndarray:
    """Hours ahead of UTC of the time zone around each meridian of 15 degrees, for longitudes of either convention."""
    degrees = (np.asarray(lon, dtype=np.float64) + 180) % 360 - 180
    hours: np.ndarray = np.floor(degrees / 15 + 0.5)
    return hours


def checked_offsets(utc_offset: ArrayLike, n_gauges: int) -> np.ndarray:
    """Hours ahead of UTC of each gauge ``[G]``; raise unless they are within 14."""
    offset = np.broadcast_to(np.asarray(utc_offset, dtype=np.float64), (n_gauges,))
    if not (np.abs(offset) <= 14).all():
        bad = offset[~(np.abs(offset) <= 14)][0]
        raise ValueError(f"utc_offset must be hours within 14 of UTC; found {bad:g}: correct it.")
    return offset


def daily_means(discharge: xr.DataArray, utc_offset: ArrayLike, days: np.ndarray | None = None) -> xr.DataArray:
    """Means over each gauge's local calendar day.

    Parameters
    ----------
    discharge : DataArray ``[time, G]``
        At the end of each step, whose length divides the day; time is of UTC, and the second dimension any.
    utc_offset : float or array ``[G]``
        Hours by which each gauge's clock is ahead of UTC; see `offset_of_longitude`.
    days : ndarray of datetime64, optional
        Sorted dates to give, whether a gauge has them whole or not; those that any has if left out.

    Returns
    -------
    DataArray ``[day, G]``
        In the unit of discharge, by local date; the mean of the values at the ends of the day's steps, NaN where the
        series holds a day in part. The coordinate `utc_offset` has the offsets.

    Raises
    ------
    ValueError
        If an offset is not within 14 hours, the times are not of one step, or no gauge has a whole day.
    """
    if discharge.ndim != 2 or discharge.dims[0] != "time":
        raise ValueError(f"discharge must be [time, gauge]; found {list(discharge.dims)}: transpose it.")
    gauge = discharge.dims[1]
    offset = checked_offsets(utc_offset, discharge.shape[1])
    ends = discharge["time"].values.astype("datetime64[ns]")
    step = usual_step(ends)
    found = {}
    for hours in np.unique(offset):
        starts = ends - step + np.timedelta64(round(hours * 3600), "s")
        # A clock that is ahead by no multiple of the step has the steps that begin in its day.
        rows = rows_of_whole_days(starts)
        columns = np.flatnonzero(offset == hours)
        means = by_day(discharge.values[:, columns], rows, int(DAY // step), "mean")
        found[hours] = starts[rows].astype("datetime64[D]"), columns, means
    if days is None:
        days = np.unique(np.concatenate([dates for dates, _, _ in found.values()]))
    if not len(days):
        raise ValueError("discharge must hold a whole local day or more, found none; give a longer run.")
    result = np.full((len(days), len(offset)), np.nan, discharge.dtype)
    for dates, columns, means in found.values():
        asked = np.isin(dates, days)
        result[np.ix_(np.searchsorted(days, dates[asked]), columns)] = means[asked]
    attrs = {**discharge.attrs, "cell_methods": "day: mean", "long_name": "mean of the local day"}
    coords = {"day": days.astype("datetime64[ns]"), gauge: discharge[gauge]}
    out = xr.DataArray(result, dims=("day", gauge), coords=coords, attrs=attrs)
    return out.assign_coords(utc_offset=(gauge, offset.copy(), {"units": "h", "long_name": "clock ahead of UTC"}))
