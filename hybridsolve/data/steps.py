"""The one step of a dataset: its length, and what is counted in time and not in rows.

A step is a day, or a whole number of seconds that divides one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .units import step_text

if TYPE_CHECKING:  # the rivers take messages from here without loading xarray
    import xarray as xr

DAY = np.timedelta64(1, "D")
_SECOND = np.timedelta64(1, "s")
_BOUNDS = ("time_bnds", "time_bounds", "time_bnd", "time_bound", "bounds_time", "bnds_time")
# The seconds that float arithmetic leaves: stamps that lie within the second number of the first are meant to be on it.
_GRIDS = tuple(
    (np.timedelta64(grid, "ms").astype("timedelta64[ns]"), np.timedelta64(within, "ms").astype("timedelta64[ns]"))
    for grid, within in ((900_000, 60_000), (60_000, 1_000), (1_000, 1))
)


def step_seconds(data: xr.Dataset) -> int:
    """Length of a dataset's step in seconds, by the bounds of its first, else by what mostly lies between its dates.

    A single date without bounds is a day.

    Raises
    ------
    ValueError
        The step is neither a day nor a whole number of seconds that divides one.
    """
    name = bounds_name(data)
    if name is not None and data[name].dtype.kind == "M" and data.sizes["time"]:
        lower, upper = data[name].transpose("time", ...)[0].values
        step = upper - lower
    else:
        step = usual_step(data["time"].values)
    refuse_odd_step(step, data["time"].values, "time")
    return int(step / _SECOND)


def rows_of_days(data: xr.Dataset, days: float) -> int:
    """How many steps of a dataset, to the nearest, a number of days has; 365.25 days of hours have 8,766."""
    return round(days * ((DAY / _SECOND) / step_seconds(data)))


def bounds_name(ds: xr.Dataset) -> str | None:
    """Name of the variable that holds the bounds of `time`, or None."""
    time = ds["time"]
    said = time.attrs.get("bounds", time.encoding.get("bounds"))
    if said is not None and said in ds.variables:
        return str(said)
    return next((str(name) for name in ds.variables if str(name).lower() in _BOUNDS), None)


def usual_step(time: np.ndarray) -> np.timedelta64:
    """What mostly lies between two dates, the shortest if several do; a day where there are not two dates.

    Days with many gaps are still days. Dates may be datetime64 or cftime objects; the noise of float arithmetic is
    taken off.
    """
    apart = np.abs(np.diff(time).astype("timedelta64[ns]"))
    apart = apart[apart > np.timedelta64(0)]
    if not len(apart):
        return DAY.astype("timedelta64[ns]")
    grid, within = grid_of(np.median(apart))
    nearest = (apart + grid // 2) // grid * grid
    if (np.abs(apart - nearest) <= within).all():
        apart = nearest
    found, count = np.unique(apart, return_counts=True)
    return found[0] if found[0] == DAY else found[count.argmax()]


def grid_of(step) -> tuple[np.timedelta64, np.timedelta64]:
    """The times that steps of this length are meant to begin at, a multiple of the first; and how far off they may be.

    Quarters of an hour within a minute, minutes within a second, or seconds within a millisecond.
    """
    return next((pair for pair in _GRIDS if step >= pair[0] - pair[1]), _GRIDS[-1])


def refuse_odd_step(step: np.timedelta64, time: np.ndarray, what: str) -> None:
    """Raise unless a step is a day, or a whole number of seconds that divides one."""
    if step <= np.timedelta64(0) or step % _SECOND or DAY % step:
        raise ValueError(
            f"{what} must be of days, or of a step of whole seconds that divides a day, found a step of "
            f"{step / np.timedelta64(1, 'h'):g} h from {time_text(time[0])} on; aggregate or resample it to one of "
            "these."
        )


def check_times(time: np.ndarray, what: str = "time", *, step: np.timedelta64, gaps: bool) -> None:
    """Refuse dates that are missing, unsorted, repeated or not `step` apart, and gaps unless they are allowed.

    Raises
    ------
    ValueError
    """
    if np.isnat(time).any():
        at = int(np.flatnonzero(np.isnat(time))[0])
        raise ValueError(f"{what} must hold a date at every step, found none (NaT) at step {at}; drop that step.")
    apart = np.diff(time)
    if len(apart) == 0:
        return

    def text(stamp) -> str:
        return str(stamp)[:10] if step == DAY else time_text(stamp)

    missing = "days" if step == DAY else "steps"
    clock = "" if step == DAY else ", or write the times of a clock with summer time in UTC"
    for wrong, wanted, remedy in (
        (apart < np.timedelta64(0), "sorted", "call ds.sortby('time')" + clock),
        (apart == np.timedelta64(0), "free of duplicates", "call ds.drop_duplicates('time')" + clock),
    ):
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"{what} must be {wanted}, found {text(time[at + 1])} after {text(time[at])}; {remedy}.")
    # shorter somewhere, or regular and longer: another step; otherwise longer jumps are gaps
    shortest = apart.min()
    if step == DAY and (shortest < DAY or (shortest > DAY and (gaps or (apart == shortest).all()))):
        hours = shortest / np.timedelta64(1, "h")
        raise ValueError(
            f"{what} must be daily, found a step of {hours:g} h at {time_text(time[apart.argmin()])}; aggregate it to "
            "days first."
        )
    varies = apart % step != np.timedelta64(0)
    if varies.any():
        at = int(np.flatnonzero(varies)[0])
        raise ValueError(
            f"{what} must keep its step of {step_text(int(step / _SECOND))}, expected {time_text(time[at] + step)} "
            f"after {time_text(time[at])}, found {time_text(time[at + 1])} ({int(varies.sum())} such times in all); "
            "resample it to one step, or select a part that has one."
        )
    gap = apart != step
    if gap.any() and not gaps:
        at = int(np.flatnonzero(gap)[0])
        raise ValueError(
            f"{what} must have no gaps, expected {text(time[at] + step)} after {text(time[at])}, found "
            f"{text(time[at + 1])} ({int(gap.sum())} gaps in all); fill the missing {missing} or "
            "choose a period without them."
        )


def time_text(stamp) -> str:
    """A date with its clock, to the minute unless it has seconds."""
    text = str(stamp)[:19].replace("T", " ")
    return text.removesuffix(":00") if len(text) == 19 else text


def date_of_row(time: np.ndarray, row: int) -> str:
    """The date of a row for messages, with its clock where a day has several."""
    return str(time[row])[:10] if usual_step(time) >= DAY else time_text(time[row])
