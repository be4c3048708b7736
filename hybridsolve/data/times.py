"""What a time axis means: stamps and bounds of days, calendars, and days that a calendar leaves out."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .dataset import _DAY, add_time_bounds


def as_days(ds: xr.Dataset, where: str, *, day_ends: str | None = None, utc_offset: float | None = None) -> xr.Dataset:
    """A dataset of daily values whose `time` is the start of each day, with CF bounds `time_bnds`.

    Parameters
    ----------
    ds : xarray.Dataset
        As a file holds it, with the coordinate `time`.
    where : str
        The file's name, for messages.
    day_ends : str, optional
        "09:00": the hour at which the days of the file end, where its stamps do not say it.
    utc_offset : float, optional
        Hours of the file's clock ahead of UTC.
    """
    if "time_bnds" in ds.variables:
        ds = ds.set_coords("time_bnds")
        ds["time"].attrs.setdefault("bounds", "time_bnds")
    elif np.issubdtype(ds["time"].dtype, np.datetime64) and (np.diff(ds["time"].values) == _DAY).all():
        ds = add_time_bounds(ds)  # only for days: of another step the length is not ours to say
    return ds
