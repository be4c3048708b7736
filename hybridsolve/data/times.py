"""What a time axis means: calendars, stamps and bounds of days or shorter steps, days that a calendar leaves out.

Days are intervals. A file says which 24 hours a value is of by CF bounds, by its stamps, or not at all:

* Bounds (named by the attribute `bounds` of `time`, or under a usual name) are believed, wherever in its day a stamp
  lies. They must be one day long each.
* Without bounds, a stamp at midnight is the start of its day, and one at noon is within its calendar day. Any other
  hour is refused, until `day_ends` says what it means.
* `day_ends` is for files without bounds. ``"09:00"``: a day runs from 09:00 of the date of its stamp to 09:00 of the
  next, as British rain days do. ``"stamp"``: it ends at its stamp, as in reanalyses that sum the day before.
  ``"stamp+09:00"``: it ends nine hours after its stamp, as Australian rain days do.

Shorter steps are intervals too: bounds are believed, and must be one step long each; without bounds a stamp is the
start of its step, until `day_ends="stamp"` says that it is the end.

Of other calendars, julian is converted day by day, dates of noleap and all_leap are taken for the same dates of the
standard calendar, and 360_day is refused.
"""

from __future__ import annotations

import calendar
import datetime
import math
import re
import warnings
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from .steps import DAY, bounds_name, check_times, grid_of, refuse_odd_step, step_seconds, time_text, usual_step
from .units import step_text

_DAY_ENDS = re.compile(r"(?P<stamp>stamp)?(?:(?(stamp)\+)(?P<hour>[01]\d|2[0-4]):(?P<minute>[0-5]\d))?")
_YEARS = np.datetime64("1678-01-01"), np.datetime64("2262-01-01")  # whole years that nanoseconds reach
_ABSENT = {  # days that some calendars leave out
    "29 February": lambda day: (day.month == 2) & (day.day == 29),
    "31 December of leap years": lambda day: (day.month == 12) & (day.day == 31) & day.is_leap_year,
}
CF_UNITS: tuple[tuple[str, Literal["D", "h", "m", "s"]], ...] = (
    ("days", "D"),
    ("hours", "h"),
    ("minutes", "m"),
    ("seconds", "s"),
)
_WITHOUT_BOUNDS = "ds.drop_vars(ds['time'].attrs.get('bounds', []), errors='ignore')"  # xarray converts `time` alone
_STORED = ("day_boundary", "utc_offset_hours", "step_boundary", "filled_days", "conversions")


def as_days(
    ds: xr.Dataset, where: str = "the data", *, day_ends: str | None = None, utc_offset: float | None = None
) -> xr.Dataset:
    """A dataset of daily values whose `time` is the start of each day, with CF bounds `time_bnds`.

    Days that a calendar leaves out (29 February, or 31 December of leap years as in Daymet) are filled if exactly they
    lack: forcing by the mean of the day before and the day after (by the day before at the end), `qobs` by NaN, and
    what is no floating-point number by the day before.

    Parameters
    ----------
    ds : xarray.Dataset
        As a file holds it, with the coordinate `time`; its dates may be cftime objects, text or of a time zone.
    where : str
        The file's name, for messages.
    day_ends : str, optional
        When the days of a file without bounds end: "HH:MM", "stamp" or "stamp+HH:MM" (see `hybridsolve.data.times`).
    utc_offset : float, optional
        Hours of the file's clock ahead of UTC, -14 to 14; stored only.

    Returns
    -------
    xarray.Dataset
        With `time` as datetime64[ns], and in its attributes `day_boundary`, and where they apply `utc_offset_hours` and
        `filled_days`.

    Raises
    ------
    ValueError
        The dates cannot be read, are unsorted, repeated or not daily; the bounds are not of one day, do not hold their
        stamps, or contradict `day_ends`; the hour of the stamps is ambiguous; an argument is malformed.
    """
    return _intervals(ds, where, day_ends, utc_offset, daily=True)


def as_steps(
    ds: xr.Dataset, where: str = "the data", *, day_ends: str | None = None, utc_offset: float | None = None
) -> xr.Dataset:
    """A dataset of one constant step, whose `time` is the start of each, with CF bounds `time_bnds`; days as `as_days`.

    Parameters
    ----------
    ds : xarray.Dataset
    where : str
    day_ends : str, optional
        Of steps shorter than a day only "stamp": each ends at its stamp.
    utc_offset : float, optional

    Returns
    -------
    xarray.Dataset
        As of `as_days`, with `step_boundary` in place of `day_boundary` where steps are shorter than a day.

    Raises
    ------
    ValueError
        As `as_days`; a step that varies, or that is neither a day nor a whole number of seconds that divides one.
    """
    return _intervals(ds, where, day_ends, utc_offset, daily=False)


def _intervals(ds: xr.Dataset, where: str, day_ends, utc_offset, *, daily: bool) -> xr.Dataset:
    what = f"time of {where}"
    if "time" not in ds.variables or ds["time"].dims != ("time",):
        raise ValueError(f"{where} must have the coordinate time, one date a step; found none: add it.")
    if ds.sizes["time"] == 0:
        raise ValueError(f"{what} must have at least one date, found none; check the file.")
    stamps, stated = _stamps(ds["time"], what)
    offset = _offset(ds, where, utc_offset, stated)
    if stamps.dtype.kind == "M" and np.isnat(stamps).any():
        check_times(stamps, what, step=DAY, gaps=True)
    name = bounds_name(ds)
    bounds = None if name is None else _bounds(ds, stamps, name, where)
    step = DAY if daily else _step(stamps, bounds, what)
    if name is not None and bounds is not None:
        start = _start_by_bounds(bounds, stamps, name, where, step)
        if day_ends is not None:
            said = _start_by_day_ends(stamps, day_ends, where, step)
            if (said != start).any():
                at = int(np.flatnonzero(said != start)[0])
                raise ValueError(
                    f"day_ends '{day_ends}' must agree with the bounds '{name}' of {where}, found a "
                    f"{_called(step)} that starts at {time_text(start[at])} by its bounds and at "
                    f"{time_text(said[at])} by day_ends; leave out day_ends, or drop wrong bounds with "
                    f"ds.drop_vars('{name}')."
                )
        source = f"by its bounds {name}"
    elif day_ends is not None:
        start, source = _start_by_day_ends(stamps, day_ends, where, step), f"by day_ends {day_ends}"
    else:
        if "bounds" in ds["time"].attrs:
            warnings.warn(
                f"{what} names its bounds '{ds['time'].attrs['bounds']}', which are not there; "
                + ("the hour of its stamps tells the days" if step == DAY else "its stamps start the steps")
                + " instead.",
                stacklevel=3,
            )
        if step == DAY:
            start, source = _start_by_hour(stamps, where)
        else:
            start, source = _on_grid(_standard(stamps, what), step), "assumed: the source does not say"
    check_times(start, what, step=step, gaps=True)

    ds = ds.drop_vars([name] if name else [])
    attrs = {key: value for key, value in ds["time"].attrs.items() if key not in ("units", "calendar", "bounds")}
    ds = ds.assign_coords(time=("time", start, attrs))
    if step == DAY:
        boundary = "day_boundary"
        meaning = f"{_clock(start)} to {_clock(start)} of the next day, {source}"
    else:
        boundary, meaning = "step_boundary", f"time is the start of each step of {_length(step)}, {source}"
    if boundary not in ds.attrs or (day_ends is not None and name is None):
        ds.attrs[boundary] = meaning
    if offset is not None:
        ds.attrs["utc_offset_hours"] = offset
    return add_time_bounds(_fill_absent_days(ds, where, step), _seconds(step))


def _step(stamps: np.ndarray, bounds: np.ndarray | None, what: str) -> np.timedelta64:
    """The step of a file: that between its stamps; of a single one, that between its bounds."""
    step = usual_step(bounds[0] if bounds is not None and len(stamps) == 1 else stamps)
    if step == DAY:
        return DAY
    refuse_odd_step(step, stamps, what)
    return step


def standard_time(ds: xr.Dataset, where: str, dim: str = "time") -> xr.Dataset:
    """A dataset whose dates are datetime64[ns] of the standard calendar, whatever their step; see `as_days` for days.

    Raises
    ------
    ValueError
        `dim` has no dates, or such as the standard calendar does not know.
    """
    if dim not in ds.variables:
        raise ValueError(f"{where} must have the coordinate {dim}, one date a step; found none: add it.")
    attrs = {key: value for key, value in ds[dim].attrs.items() if key not in ("units", "calendar")}
    return ds.assign_coords({dim: (ds[dim].dims, standard_dates(ds[dim], f"{dim} of {where}"), attrs)})


def add_time_bounds(ds: xr.Dataset, step_seconds: int | None = None) -> xr.Dataset:
    """Add CF bounds to a `time` axis: each value is the start of its step, by default that between the dates."""
    start = ds["time"].values.astype("datetime64[ns]")
    step = usual_step(start) if step_seconds is None else np.timedelta64(step_seconds, "s")
    bounds = np.stack([start, start + step.astype("timedelta64[ns]")], axis=1)
    ds = ds.assign_coords(time_bnds=(("time", "bnds"), bounds))
    name = f"start of the {_called(step)}"
    ds["time"].attrs.update(standard_name="time", long_name=name, bounds="time_bnds", axis="T")
    if len(start):  # one unit for time and bounds, for those who write with plain xarray
        unit = next(unit for unit, length in CF_UNITS if not step % np.timedelta64(1, length))
        ds.variables["time"].encoding["units"] = f"{unit} since {str(start[0])[:19].replace('T', ' ')}"
    return ds


def carry_days(result: xr.Dataset, data: xr.Dataset) -> xr.Dataset:
    """A result with the bounds of its steps, and with what its data say of them and of how they were read."""
    result.attrs.update({name: data.attrs[name] for name in _STORED if name in data.attrs})
    return add_time_bounds(result, step_seconds(data)) if "time_bnds" in data.coords else result


def standard_dates(time, what: str) -> np.ndarray:
    """Dates of any kind as datetime64[ns] of the standard calendar; `what` names them in messages."""
    time = time if isinstance(time, xr.DataArray) else xr.DataArray(np.asarray(time), dims="time")
    return _standard(_stamps(time, what)[0], what)


# ---------------------------------------------------------------------------------------- dates of any kind


def _stamps(time: xr.DataArray, what: str) -> tuple[np.ndarray, float | None]:
    """Dates by the file's own clock, as datetime64[ns] or cftime objects; and its hours ahead of UTC, if it says so."""
    zoned = isinstance(time.dtype, pd.DatetimeTZDtype)
    values = np.array(time.to_index(), dtype=object) if zoned else time.values
    first = values.flat[0] if values.size else None
    if isinstance(first, (str, bytes, datetime.date)):  # pandas.Timestamp is a date too
        values, offset = _from_objects(values, what)
    elif hasattr(first, "calendar"):
        return _by_own_clock(values, time)
    elif values.dtype.kind == "M":
        values, offset = _by_own_clock(values, time)
    else:
        units = time.attrs.get("units")
        raise ValueError(
            f"{what} must hold dates, found {'nothing' if first is None else f'the number {first}'} with "
            f"{f'units {units!r}' if units else 'no units'}; set its attribute units to such as 'days since "
            "2000-01-01', or assign dates made by pandas.to_datetime."
        )
    dates = values[~np.isnat(values)]
    if dates.size and (dates.min() < _YEARS[0] or dates.max() >= _YEARS[1]):
        raise ValueError(_out_of_range(what, str(dates.min())[:10], str(dates.max())[:10]))
    return values.astype("datetime64[ns]"), offset


def _from_objects(values: np.ndarray, what: str) -> tuple[np.ndarray, float | None]:
    """Dates from text of ISO 8601 or from objects of Python or pandas, and their hours ahead of UTC if all have one."""
    moments = []
    for x in values.ravel().tolist():
        text = x.decode("utf-8", "replace") if isinstance(x, bytes) else x
        try:
            written = not isinstance(text, str) or re.match(r"\s*\d{4}-\d\d-\d\d(?!\d)", text)
            if pd.isna(text) or not (written and isinstance(text, (str, datetime.date))):
                raise ValueError("nothing, or a form that is ambiguous")
            moments.append(pd.Timestamp(text))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{what} must hold dates such as 2000-01-31, found {text!r}; convert them with pandas.to_datetime and "
                "its format."
            ) from error
    zones = {moment.tzinfo is None for moment in moments}
    if len(zones) > 1:
        raise ValueError(f"{what} must have a time zone at all its dates or at none, found both; make them alike.")
    stamps = np.array([moment.replace(tzinfo=None) for moment in moments], dtype="datetime64[us]").reshape(values.shape)
    if zones == {True}:
        return stamps, None
    offsets = {moment.utcoffset() / datetime.timedelta(hours=1) for moment in moments}
    offset = offsets.pop() if len(offsets) == 1 else None
    clock = f"{offset:+g} h from UTC" if offset is not None else "with its summer time"
    warnings.warn(f"{what} is of a time zone; its local clock is kept, {clock}.", stacklevel=5)
    return stamps, offset


def _by_own_clock(values: np.ndarray, time: xr.DataArray) -> tuple[np.ndarray, float | None]:
    """Undo the shift to UTC that decoding units such as "days since 2000-01-01 00:00 -6:00" makes."""
    zone = re.search(r":\d\d(?:\.\d+)?\s*([+-])(\d{1,2}):?(\d\d)?\s*$", str(time.encoding.get("units", "")))
    if zone is None:
        return values, None
    hours = int(zone[2]) + int(zone[3] or 0) / 60
    hours = -hours if zone[1] == "-" else hours
    return _later(values, hours), hours


def _later(values: np.ndarray, hours: float) -> np.ndarray:
    span = datetime.timedelta(hours=hours)  # cftime knows no other
    return values + (np.timedelta64(span) if values.dtype.kind == "M" else span)


def _standard(stamps: np.ndarray, what: str) -> np.ndarray:
    """Dates of the standard calendar, datetime64[ns]."""
    if stamps.dtype.kind == "M":
        return stamps
    name = stamps.flat[0].calendar
    if name == "360_day":
        raise ValueError(
            f"{what} must be of a calendar whose dates exist, found 360_day with its 30 February; convert the file by "
            f"{_WITHOUT_BOUNDS}.convert_calendar('standard', align_on='year', missing=float('nan'))"
            ".interpolate_na('time') of xarray, which stretches each year and interpolates five days of it."
        )
    if name == "julian":
        moved = [stamp.change_calendar("standard") for stamp in stamps.ravel()]
        warnings.warn(
            f"{what} is of the Julian calendar and is converted: {str(stamps.flat[0])[:10]} there is "
            f"{str(moved[0])[:10]}.",
            stacklevel=5,
        )
        stamps = np.array(moved, dtype=object).reshape(stamps.shape)
    low, high = min(stamps.flat), max(stamps.flat)
    if low.year < 1678 or high.year > 2261:
        raise ValueError(_out_of_range(what, str(low)[:10], str(high)[:10]))
    texts = [stamp.isoformat() for stamp in stamps.ravel()]
    try:
        return np.array(texts, dtype="datetime64[ns]").reshape(stamps.shape)
    except ValueError as error:
        lost = next(t[:10] for t in texts if t[5:10] == "02-29" and not calendar.isleap(int(t[:4])))
        raise ValueError(
            f"{what} must hold dates that exist, found {lost} of the calendar {name}; convert the file by "
            f"{_WITHOUT_BOUNDS}.convert_calendar('standard') of xarray, which leaves such days out."
        ) from error


def _out_of_range(what: str, first: str, last: str) -> str:
    return (
        f"{what} must lie within the years 1678 to 2261, found {first} to {last}; cut the file by "
        "ds.sel(time=slice('1678', '2261')) of xarray, or shift its years."
    )


# ------------------------------------------------------------------------------------- the start of each step


def _bounds(ds: xr.Dataset, stamps: np.ndarray, name: str, where: str) -> np.ndarray:
    """The bounds ``[T, 2]`` of a file, of the type of its stamps."""
    what = f"bounds '{name}' of {where}"
    if ds[name].ndim != 2 or "time" not in ds[name].dims or ds[name].size != 2 * len(stamps):
        raise ValueError(
            f"{what} must have dims time and one of size 2, found {ds[name].dims} of {ds[name].shape}; correct them, "
            f"or drop them with ds.drop_vars('{name}')."
        )
    variable = ds[name].transpose("time", ...)
    encoding = ds["time"].encoding
    if variable.dtype.kind in "iuf" and encoding.get("units"):  # `time` does not name them: xarray has not decoded them
        coding = {key: encoding[key] for key in ("units", "calendar") if encoding.get(key)}
        variable = xr.decode_cf(xr.Dataset({name: (variable.dims, variable.values, coding)}))[name]
    bounds, _ = _stamps(variable, what)
    if bounds.dtype != stamps.dtype or (bounds.dtype == object and bounds[0, 0].calendar != stamps[0].calendar):
        raise ValueError(
            f"{what} must be of the calendar of time, found another; correct their attribute calendar, or drop them "
            f"with ds.drop_vars('{name}')."
        )
    if bounds.dtype.kind == "M" and np.isnat(bounds).any():
        at = int(np.flatnonzero(np.isnat(bounds).any(1))[0])
        raise ValueError(f"{what} must hold two dates at every step, found none (NaT) at step {at}; correct them.")
    return bounds


def _start_by_bounds(bounds: np.ndarray, stamps: np.ndarray, name: str, where: str, step: np.timedelta64) -> np.ndarray:
    what = f"bounds '{name}' of {where}"
    lower, upper = bounds[:, 0], bounds[:, 1]
    _, within = grid_of(step)
    off = np.abs((upper - lower).astype("timedelta64[ns]") - step) > 2 * within  # some write 23:59:59
    outside = (stamps < lower) | (stamps > upper)
    length, make = ("one day", "aggregate the data to days") if step == DAY else (_length(step), "correct them")
    for wrong, must, remedy in (
        (off, f"be {length} long each", make),
        (outside, "hold their stamps", "correct time or bounds"),
    ):
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{what} must {must}, found {time_text(lower[at])} to {time_text(upper[at])} for "
                f"{time_text(stamps[at])}; {remedy} or drop wrong bounds with ds.drop_vars('{name}')."
            )
    start = _on_grid(_standard(lower, what), step)
    apart = _on_grid(_standard(stamps, f"time of {where}"), step) - start
    if apart.any():
        at = int(np.flatnonzero(apart)[0])
        warnings.warn(
            f"time of {where} is stamped within or at the end of its {_called(step)}s, which its bounds {name} tell: "
            f"the {_called(step)} of "
            f"{time_text(stamps[at])} starts at {time_text(start[at])}, which is its time from here on.",
            stacklevel=4,
        )
    return start


def _start_by_day_ends(stamps: np.ndarray, day_ends: str, where: str, step: np.timedelta64) -> np.ndarray:
    if step != DAY and day_ends != "stamp":
        raise ValueError(
            f"day_ends of {where}, whose step is {_length(step)}, must be 'stamp' (each step ends at its stamp), found "
            f"{day_ends!r}; write that, or leave it out where steps start at their stamps."
        )
    match = _DAY_ENDS.fullmatch(day_ends) if isinstance(day_ends, str) and day_ends else None
    hours = 0.0 if match is None else int(match["hour"] or 0) + int(match["minute"] or 0) / 60
    if match is None or hours > 24:
        raise ValueError(
            f"day_ends must be an hour such as 09:00 (of the day after the stamp's date), 'stamp' or 'stamp+09:00', "
            f"found {day_ends!r}; write one of them."
        )
    what = f"time of {where}"
    if match["stamp"]:  # in the file's calendar: the day before 1 March may be 28 February
        return _on_grid(_standard(_later(stamps, hours - _seconds(step) / 3600), what), step)
    date = _on_grid(_standard(stamps, what), step).astype("datetime64[D]").astype("datetime64[ns]")
    return date + np.timedelta64(round((hours % 24) * 60), "m")


def _start_by_hour(stamps: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    what = f"time of {where}"
    stamps = _noise_removed(_standard(stamps, what), what)
    date = stamps.astype("datetime64[D]").astype("datetime64[ns]")
    hour = stamps - date
    if (hour != hour[0]).any():
        at = int(np.flatnonzero(hour != hour[0])[0])
        step = np.diff(stamps)
        if step.min() >= np.timedelta64(22, "h"):
            raise ValueError(
                f"{what} must have the same hour every day, found {time_text(stamps[0])} and "
                f"{time_text(stamps[at])}; write the local dates without daylight saving, or CF bounds."
            )
        check_times(stamps, what, step=DAY, gaps=True)
    if not hour[0]:
        return date, "assumed: the source does not say"
    if hour[0] == np.timedelta64(12, "h"):
        warnings.warn(
            f"{what} is stamped at noon and has no bounds; each stamp is taken for its calendar day, from midnight to "
            "midnight (day_ends says otherwise).",
            stacklevel=4,
        )
        return date, "by its stamps at noon"
    clock = _clock(stamps)
    raise ValueError(
        f"{what} must be stamped at midnight, at noon or have bounds, found {time_text(stamps[0])}; say when its "
        f"days end by day_ends (--day-ends): 'stamp' at the stamp, {clock} a day after {clock} of its date, 00:00 at "
        "midnight."
    )


def _noise_removed(stamps: np.ndarray, what: str) -> np.ndarray:
    """Without the seconds that float arithmetic leaves: below one, or differing from stamp to stamp within a minute.

    The same 23:59:59 every day is no such noise: it means the end of a day.
    """
    exact = _on_grid(stamps, DAY)
    off = stamps - exact
    if not off.any() or (np.abs(off).max() >= np.timedelta64(1, "s") and (off == off[0]).all()):
        return stamps
    at = int(np.abs(off).argmax())
    warnings.warn(f"{what} is rounded by up to a minute: {stamps[at]} is read as {time_text(exact[at])}.", stacklevel=5)
    return exact


def _on_grid(stamps: np.ndarray, step: np.timedelta64) -> np.ndarray:
    """To the times that such steps are meant to begin at, if all stamps lie near one: see `steps.grid_of`."""
    grid, within = grid_of(step)
    origin = np.datetime64(0, "ns")
    nearest = origin + (stamps - origin + grid // 2) // grid * grid
    return nearest if (np.abs(stamps - nearest) <= within).all() else stamps


def _offset(ds: xr.Dataset, where: str, given, stated: float | None) -> float | None:
    """Hours ahead of UTC, as given or as the file says."""
    own = ds.attrs.get("utc_offset_hours", stated)
    if given is None:
        return None if own is None else float(own)
    try:
        offset = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        offset = math.nan
    if not -14 <= offset <= 14:
        raise ValueError(f"utc_offset must be hours from -14 to 14, found {given!r}; write for example 5.5.")
    if own is not None and float(own) != offset:
        raise ValueError(
            f"utc_offset must agree with {where}, which says {float(own):+g} h, found {offset:+g}; leave it out."
        )
    return offset


def _fill_absent_days(ds: xr.Dataset, where: str, step: np.timedelta64) -> xr.Dataset:
    """Fill the days that the calendar of the file leaves out, if these and no others are missing."""
    start, step = ds["time"].values, step.astype("timedelta64[ns]")
    lacking = (start[-1] - start[0]) // step + 1 - len(start)
    if lacking == 0 or lacking > len(start) // 50 + DAY // step:  # more than any calendar leaves out
        return ds
    missing = np.setdiff1d(np.arange(start[0], start[-1], step), start)
    for kind, is_absent in _ABSENT.items():
        # a year that ends without its last day is completed
        expected = np.arange(start[0], start[-1] + DAY + step, step)
        expected = expected[is_absent(pd.DatetimeIndex(expected))]
        end = expected[expected > start[-1]]
        if len(end) and end[0] != start[-1] + step:
            expected = expected[: -len(end)]
        if not len(expected) or expected[0] - DAY < start[0]:
            continue
        if np.array_equal(missing, expected[expected < start[-1]]) and not np.isin(expected, start).any():
            return _filled(ds, where, kind, expected)
    return ds


def _filled(ds: xr.Dataset, where: str, kind: str, absent: np.ndarray) -> xr.Dataset:
    """With the steps `absent`, of dates of one kind that is named in messages."""
    start = ds["time"].values
    full = np.union1d(start, absent)
    at = np.searchsorted(full, absent)
    # a step of an absent day has the values of the day before, at first; no two such days follow each other
    source = np.searchsorted(start, np.where(np.isin(full, absent), full - DAY, full))
    filled = ds.isel(time=source).assign_coords(time=("time", full, ds["time"].attrs))
    before, after = np.searchsorted(full, absent - DAY), np.searchsorted(full, absent + DAY)
    after = np.where(after < len(full), after, before)
    for name, variable in filled.data_vars.items():
        if "time" in variable.dims and (variable.dtype.kind == "f" or name == "qobs"):
            series = variable.astype(np.result_type(variable.dtype, np.float32)).transpose("time", ...).copy()
            series[at] = np.nan if name == "qobs" else (series.values[before] + series.values[after]) / 2
            filled[name] = series.transpose(*variable.dims)
    days = len(np.unique(absent.astype("datetime64[D]")))
    filled.attrs["filled_days"] = (
        f"{kind} ({days} days, which the source leaves out): mean of the day before and the day after; qobs missing"
    )
    warnings.warn(f"{where} has no {kind}; filled_days: {filled.attrs['filled_days']}.", stacklevel=5)
    return filled


def _clock(start: np.ndarray) -> str:
    return str(start[0])[11:16]


def _seconds(step: np.timedelta64) -> int:
    return int(step / np.timedelta64(1, "s"))


def _length(step: np.timedelta64) -> str:
    return step_text(_seconds(step))


def _called(step: np.timedelta64) -> str:
    return "day" if step == DAY else "step"
