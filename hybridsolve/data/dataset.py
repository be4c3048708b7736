"""The one convention for basin data, and the checks that hold it.

The convention (every reader of `hybridsolve.data` gives it): an `xarray.Dataset` with

* dims ``time``, ``basin`` in that order (time-major, basin contiguous, as the kernels read it);
* coords ``basin`` (gauge id, str), ``time`` (datetime64[ns], the START of the step), ``time_bnds`` (time, bnds), and
  ``lat``, ``lon`` (degrees) where known;
* variables ``prcp`` [mm d-1], ``tmean`` [degC], ``pet`` [mm d-1], ``qobs`` [mm d-1, NaN = missing], ``tmin``,
  ``tmax`` [degC] where known, or those that a model's table names; static attributes over ``basin``, ``area_km2``;
* dataset attributes ``Conventions``, ``title``, ``source``, ``references``, ``citation``, ``day_boundary``.

The step is a day, or one that divides it. Depths of water are amounts per step, and their units say so: "mm d-1" above
is "mm h-1" at an hour and "mm/(3 h)" at three (`hybridsolve.data.units.unit_at`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, DTypeLike

from ..spec import ModelSpec, Variable
from .ids import read_ids, refuse_duplicates, spelled_as, text_ids
from .names import role_of
from .steps import DAY, bounds_name, check_times, date_of_row, refuse_odd_step, step_seconds, time_text, usual_step
from .times import add_time_bounds, standard_dates
from .units import DAY as DAY_SECONDS
from .units import is_same, step_text, unit_at
from .values import attribute, unmasked

# CF attributes. `pet` and `qobs` have no standard_name: the standard table knows potential evaporation and
# runoff only as mass fluxes (kg m-2 s-1), which are not convertible to mm d-1.
VARIABLES: dict[str, dict[str, str]] = {
    "prcp": {
        "units": "mm d-1",
        "long_name": "precipitation",
        "standard_name": "lwe_precipitation_rate",
        "cell_methods": "area: mean time: mean",
    },
    "tmean": {
        "units": "degC",
        "long_name": "daily mean air temperature",
        "standard_name": "air_temperature",
        "cell_methods": "area: mean time: mean",
    },
    "tmin": {
        "units": "degC",
        "long_name": "daily minimum air temperature",
        "standard_name": "air_temperature",
        "cell_methods": "area: mean time: minimum",
    },
    "tmax": {
        "units": "degC",
        "long_name": "daily maximum air temperature",
        "standard_name": "air_temperature",
        "cell_methods": "area: mean time: maximum",
    },
    "pet": {
        "units": "mm d-1",
        "long_name": "potential evapotranspiration",
        "cell_methods": "area: mean time: mean",
    },
    "qobs": {
        "units": "mm d-1",
        "long_name": "observed discharge per catchment area",
        "cell_methods": "time: mean",
    },
}


def rows_of(model: ModelSpec | None) -> dict[str, Variable]:
    """The rows of a model's table that data must hold over time, by name; none of None."""
    return {} if model is None else {row.name: row for row in model.forcings}


def attributes_at(name: str, step_seconds: int, row: Variable | None = None) -> dict[str, str]:
    """CF attributes of a variable of `VARIABLES`, or of a model's `row`, at a step; its unit is the row's if given."""
    own = VARIABLES.get(name, {})
    if row is not None:
        own = {"long_name": row.meaning, **own, "units": row.unit}
    elif not own:
        raise ValueError(
            f"variables must be any of {', '.join(VARIABLES)}, or be named by the model's table, found {name!r}; "
            "rename it, or give the model."
        )
    daily = unit_at("d-1", step_seconds) == "d-1"
    long_name = own["long_name"] if daily else own["long_name"].removeprefix("daily ")
    return {**own, "units": unit_at(own["units"], step_seconds), "long_name": long_name}


# ----------------------------------------------------------------------------------------------------
# building


def assemble(
    series: Mapping[str, np.ndarray],
    *,
    basin: Sequence[str],
    time: np.ndarray,
    lat: ArrayLike | None = None,
    lon: ArrayLike | None = None,
    static: Mapping[str, tuple[np.ndarray, Mapping]] | None = None,
    attrs: Mapping[str, str] | None = None,
    dtype: DTypeLike = "float32",
    pet_attrs: Mapping[str, str] | None = None,
    model: ModelSpec | None = None,
) -> xr.Dataset:
    """Build a dataset of the convention from plain arrays.

    Parameters
    ----------
    series : mapping of name to array, shape (T, B)
        Names of `VARIABLES` or of the model's table, in their units at the step of `time`; cast to `dtype` here, at
        the very end. A masked value is missing.
    basin : sequence of str, length B
    time : array_like of datetime64, length T
        Start of each step, which is a day or divides one; of a single one a day.
    lat, lon : array_like, shape (B,), optional
        Degrees north and east.
    static : mapping of name to (values, attributes), optional
        One value for each basin; numbers keep their dtype, and a masked one is NaN; text that is missing or blank is
        empty.
    attrs : mapping, optional
        Dataset attributes.
    dtype : {"float32", "float64"}
    pet_attrs : mapping, optional
        Further attributes of `pet` (`method`, `references`).
    model : ModelSpec, optional
        Whose table gives the units of variables.

    Returns
    -------
    xarray.Dataset
    """
    dtype = float_dtype(dtype)
    start = standard_dates(time, "time")
    step = int(usual_step(start) / np.timedelta64(1, "s"))
    rows = rows_of(model)
    coords = {
        "time": ("time", start),
        "basin": (
            "basin",
            text_ids(basin, "basin"),
            {"long_name": "gauge id", "cf_role": "timeseries_id"},
        ),
    }
    if lat is not None:
        attributes = {"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude"}
        coords["lat"] = ("basin", unmasked(lat).astype(np.float64), attributes)
    if lon is not None:
        attributes = {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"}
        coords["lon"] = ("basin", unmasked(lon).astype(np.float64), attributes)
    ds = xr.Dataset(
        {
            name: (
                ("time", "basin"),
                np.ascontiguousarray(unmasked(values), dtype=dtype),
                attributes_at(name, step, rows.get(name)),
            )
            for name, values in series.items()
        },
        coords=coords,
        attrs={"Conventions": "CF-1.11", **(attrs or {})},
    )
    if "pet" in ds:
        ds["pet"].attrs.update(pet_attrs or {})
    for name, (values, attributes) in (static or {}).items():
        ds[name] = ("basin", attribute(values), dict(attributes))
    return add_time_bounds(ds)


def resolve_basins(basins: Any, available: Sequence[str] | np.ndarray, where: str) -> np.ndarray:
    """Indices into `available` of the basins asked for, in the order asked.

    `basins` is None (all), a list of ids, or the path of a text file with one id a line (# begins a comment).
    """
    available = [str(a) for a in available]
    refuse_duplicates(available, f"ids of {where}")
    if basins is None:
        return np.arange(len(available))
    if isinstance(basins, (str, Path)):
        path = Path(basins)
        if not path.is_file():
            raise FileNotFoundError(
                f"basins must be a list of ids or a text file with one id a line, found no file {path}; pass "
                f"['{basins}'] for a single basin."
            )
        wanted = read_ids(path)
    elif isinstance(basins, Iterable):
        wanted = [str(b) for b in (basins.values if isinstance(basins, xr.DataArray) else basins)]
    else:
        raise ValueError(
            f"basins must be a list of ids or a text file with one id a line, found {type(basins).__name__}; pass "
            f"['{basins}'] for a single basin."
        )
    if not wanted:
        raise ValueError(f"basins must name at least one basin, found none; pass ids of {where} or None for all.")
    position = {name: i for i, name in enumerate(available)}
    missing = [name for name in wanted if name not in position]
    if missing:
        other = spelled_as(missing[0], available)
        hint = f"write it as there, '{other}'" if other else "check the ids"
        raise ValueError(
            f"basins must be among the {len(available)} of {where} (such as {available[0]!r}), found "
            f"{missing[0]!r}{f' and {len(missing) - 1} more that are not' if len(missing) > 1 else ''}; "
            f"{hint}."
        )
    seen: set[str] = set()
    for name in wanted:
        if name in seen:
            raise ValueError(f"basins must be unique, found {name!r} twice; remove the repetition.")
        seen.add(name)
    return np.array([position[name] for name in wanted])


def float_dtype(dtype: DTypeLike) -> np.dtype:
    try:
        result = np.dtype(dtype)
    except TypeError:
        result = None
    if result not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"dtype must be 'float32' or 'float64', found {dtype!r}; choose one of them.")
    return result


# ---------------------------------------------------------------------------------------------------- periods


_STAMP = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?)?"
_ONE_DAY, _INSTANT = pd.Timedelta(days=1).as_unit("s"), pd.Timedelta(1, "us").as_unit("us")  # of any year


def parse_period(period: Any) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last day, both included, of ``"1999-10-01:2008-09-30"``; or steps, where a clock is given.

    Parameters
    ----------
    period : str or pair of dates
        ``"first:last"`` with dates as YYYY-MM-DD, or a pair of dates: such text, or dates of Python, numpy or pandas.
        A date means its whole day, at any step; with a clock, as 2001-01-01T06:00, the step that begins then.

    Returns
    -------
    (pandas.Timestamp, pandas.Timestamp)

    Raises
    ------
    ValueError
        Malformed, not a date of the calendar, or the end before the start.
    """
    (first, _), (last, _) = _parts(period)
    return first, last


def _parts(period: Any) -> list[tuple[pd.Timestamp, bool]]:
    """First and last of a period, and of each whether it is a whole day."""
    form = "expected 'YYYY-MM-DD:YYYY-MM-DD', found {!r}; write for example 1999-10-01:2008-09-30."
    if isinstance(period, str):
        match = re.fullmatch(rf"\s*({_STAMP})\s*:\s*({_STAMP})\s*", period)
        if match is None:
            raise ValueError("period is malformed, " + form.format(period))
        parts: Sequence = match.groups()
    else:
        ordered = isinstance(period, Iterable) and not isinstance(period, (Set, Mapping))
        parts = tuple(period) if ordered else ()
        if len(parts) != 2:
            raise ValueError("period is malformed, " + form.format(period))
    found = []
    for part in parts:
        try:
            # of text only whole dates: pandas takes '2008' for its first day, and a number for nanoseconds
            whole = not isinstance(part, (str, Number)) or re.match(r"\s*\d{4}-\d{2}-\d{2}", str(part))
            moment = pd.Timestamp(part).tz_localize(None) if whole else pd.NaT
        except (ValueError, TypeError):
            moment = pd.NaT
        if moment is pd.NaT:
            raise ValueError(f"period holds {part!r}, which is no date of the calendar, " + form.format(period))
        # an object at midnight is a date: neither Python nor pandas tells the two apart as text does
        clock = ":" in part if isinstance(part, str) else moment != moment.normalize()
        found.append((moment, not clock))
    first, stop = _limits(found)
    if stop <= first:
        raise ValueError(
            f"period must end after it starts, found {_moment(*found[0], ' ')} to {_moment(*found[1], ' ')}; swap the "
            "two dates."
        )
    return found


def _limits(parts: list[tuple[pd.Timestamp, bool]]) -> tuple[pd.Timestamp, pd.Timestamp]:
    """The first instant at which a step of the period may begin, and the one before which it must."""
    (first, _), (last, whole) = parts
    return first, last.normalize() + _ONE_DAY if whole else last + _INSTANT


def _moment(moment: pd.Timestamp, day: bool, between: str = "T") -> str:
    form = "%Y-%m-%d" if day else f"%Y-%m-%d{between}%H:%M" + (":%S" if moment.second else "")
    return str(moment.strftime(form))


def period_text(period: Any) -> str:
    """``"1999-10-01:2008-09-30"``, however the period was given."""
    return ":".join(_moment(*part) for part in _parts(period))


def overlap(periods: dict) -> str:
    """Which of the periods share steps, in words; empty if none do."""
    parts = {name: _parts(period) for name, period in periods.items() if period is not None}
    for one, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        if one in parts and other in parts:
            both = [_limits(parts[name]) for name in (one, other)]
            first, last = max(a for a, _ in both), min(b for _, b in both) - _INSTANT
            if first <= last:
                begin = _moment(first, first == first.normalize(), " ")
                end = _moment(last, last.strftime("%H:%M:%S") == "23:59:59", " ")
                return (
                    f"the {one} period {period_text(periods[one])} overlaps the {other} period "
                    f"{period_text(periods[other])} from {begin} to {end}"
                )
    return ""


def select_period(ds: xr.Dataset, period: Any) -> xr.Dataset:
    """Cut a dataset to a period, both days included; None gives the dataset back.

    Raises
    ------
    ValueError
        The period is malformed or asks for days that the data do not cover.
    """
    if period is None:
        return ds
    return ds.isel(time=period_slice(ds["time"].values, period))


def period_slice(time: np.ndarray, period: Any) -> slice:
    """Slice of a sorted time axis that a period selects, the steps that begin in it."""
    parts = _parts(period)
    first, stop = _limits(parts)
    asked = f"period {':'.join(_moment(*part) for part in parts)}"
    _check_datetime(time)
    index = pd.DatetimeIndex(time)
    if len(index) == 0:
        raise ValueError(f"{asked} selects from data with no time steps; check the file.")
    if not index.is_monotonic_increasing:
        raise ValueError("time must be sorted to select a period, found it unsorted; call ds.sortby('time') first.")
    step = pd.Timedelta(min(usual_step(time), DAY.astype("timedelta64[ns]")))
    # a day may begin at 09:00, and the steps of an hour at half past
    late = first <= index[0] - step if parts[0][1] else first < index[0]
    if late or stop > index[-1] + step:
        days = step == _ONE_DAY and parts[0][1] and parts[1][1]
        raise ValueError(
            f"{asked} asks for {'days' if days else 'steps'} outside the data, which cover "
            f"{_moment(index[0], days)}:{_moment(index[-1], days)}; choose a period within."
        )
    return slice(int(index.searchsorted(first, side="left")), int(index.searchsorted(stop, side="left")))


# ----------------------------------------------------------------------------------------------------
# checking


def refuse_no_dataset(data: object) -> None:
    """Raise unless this is a dataset with the dims of basin data."""
    if not isinstance(data, xr.Dataset):
        raise TypeError(
            f"data must be a dataset of hybridsolve.data.open_dataset, found {type(data).__name__}: open it first."
        )
    if not {"time", "basin"} <= data.sizes.keys():
        raise ValueError(
            f"data must have the dims time and basin, found {', '.join(map(str, data.dims))}: rename them."
        )


def check_dataset(
    ds: xr.Dataset,
    *,
    forcing_names: Iterable[str] | None = None,
    need_qobs: bool = False,
    values: bool = True,
    model: ModelSpec | None = None,
    steps: Collection[int] | None = None,
) -> None:
    """Refuse a dataset that would give wrong results, with one sentence that says what to do.

    Parameters
    ----------
    ds : xarray.Dataset
    forcing_names : iterable of str, optional
        Variables that drive the model, by default those of its table; of these, and of known ones (`VARIABLES`), the
        unit is checked too, and that precipitation and potential evapotranspiration are not negative.
    need_qobs : bool
        Also ask for `qobs`: at least one observation, no negative value (a missing one is NaN).
    values : bool
        Look at the values too, and not at names, units, basins and times alone.
    model : ModelSpec, optional
        Whose table gives the units of its forcings.
    steps : collection of int, optional
        Step lengths in seconds that the model may run at; any that data may have where it is left out.

    Raises
    ------
    ValueError
        Missing variable; wrong or missing units; wrong dims; no basin or no time step; duplicate basin; time
        not datetime64, unsorted, duplicated, with gaps, of a step that varies or is not allowed, or not the start of
        its bounds; NaN or infinity in a forcing; negative precipitation, evapotranspiration or discharge.
    """
    refuse_no_dataset(ds)
    rows = rows_of(model)
    names = list(rows if forcing_names is None else forcing_names) + (["qobs"] if need_qobs else [])
    for name in names:
        if name not in ds.data_vars:
            raise ValueError(
                f"variable {name!r} is missing, expected {', '.join(names)}, found "
                f"{', '.join(map(str, ds.data_vars)) or 'no variables'}; add or rename it, or say which it is when the "
                "data are opened (names, --names)."
            )
    for name in names:
        if ds[name].dims != ("time", "basin"):
            same = set(ds[name].dims) == {"time", "basin"}
            remedy = "call ds.transpose('time', 'basin', ...)" if same else "rename or drop dimensions"
            raise ValueError(f"{name} must have dims ('time', 'basin'), found {ds[name].dims}; {remedy}.")
    for dim in ("time", "basin"):
        if names and ds.sizes[dim] == 0:
            raise ValueError(f"{dim} must have at least one entry, found none; widen the selection of {dim}.")
        if names and dim not in ds.coords:
            raise ValueError(f"coordinate {dim!r} is missing, expected one value an entry; assign it to the dataset.")
    if not names:
        return
    _check_basins(ds["basin"].values)
    step = _check_time(ds)
    if steps is not None and step not in steps:
        runs = "the model" if model is None else f"model {model.name}"
        daily = " aggregate them by hybridsolve.data.to_days, or" if DAY_SECONDS in steps and step < DAY_SECONDS else ""
        raise ValueError(
            f"{runs} runs at steps of {', '.join(map(str, sorted(steps)))} s, found data at {step} s;{daily} choose "
            "data or a model that fit."
        )
    for name in names:
        _check_units(name, ds[name], step, rows.get(name))
    for name in names if values else []:
        _check_values(ds, name)


def _check_units(name: str, array: xr.DataArray, step: int, row: Variable | None) -> None:
    found = array.attrs.get("units")
    known = row is not None or name in VARIABLES
    expected = attributes_at(name, step, row)["units"] if known else None
    if found is None or not str(found).strip():
        wanted = f"'{expected}'" if expected else "its unit"
        raise ValueError(
            f"{name} has no units attribute, expected {wanted}; set ds['{name}'].attrs['units'] once you know it is so."
        )
    found = " ".join(str(found).split())
    if expected is None or is_same(found, expected):
        return
    at = "" if step == DAY_SECONDS else f" at a step of {step_text(step)}"
    raise ValueError(
        f"{name} must be in {expected}{at}, found units {found!r}; open the dataset with "
        f"hybridsolve.data.open_dataset, which converts units, or convert it and set units to '{expected}'."
    )


def _check_basins(ids: np.ndarray) -> None:
    index = pd.Index(ids)
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise ValueError(
            f"basin ids must be unique, found {str(twice)!r} {int((index == twice).sum())} times; drop the repetition."
        )


def _check_datetime(time: np.ndarray) -> None:
    if not np.issubdtype(time.dtype, np.datetime64):
        raise ValueError(
            f"time must be datetime64, found dtype {time.dtype}; decode it with xarray.decode_cf, or convert its "
            "calendar with hybridsolve.data.as_days(ds)."
        )


def _check_time(ds: xr.Dataset) -> int:
    """The step in seconds, which the dates and their bounds must keep."""
    time = ds["time"].values
    _check_datetime(time)
    usual = usual_step(time)
    refuse_odd_step(usual, time, "time")
    check_times(time, step=usual if usual != DAY else DAY, gaps=False)
    name = bounds_name(ds)
    if name is None:
        return int(usual / np.timedelta64(1, "s"))
    start, end = ds[name].transpose("time", ...).values.T
    if (start != time).any():
        at = int(np.flatnonzero(start != time)[0])
        raise ValueError(
            f"time must be the start of each {'day' if usual == DAY else 'step'}, found {time[at]} whose bounds "
            f"'{name}' start at {start[at]}; call hybridsolve.data.{'as_days' if usual == DAY else 'as_steps'}(ds)."
        )
    length = end - start
    step = length[0] if len(time) == 1 else usual
    if (length != step).any():
        at = int(np.flatnonzero(length != step)[0])
        raise ValueError(
            f"bounds '{name}' must be one step long each, {step_text(int(step / np.timedelta64(1, 's')))}, found "
            f"{time_text(start[at])} to {time_text(end[at])}; correct them, or drop them with ds.drop_vars('{name}')."
        )
    return step_seconds(ds)


def _check_values(ds: xr.Dataset, name: str) -> None:
    values = ds[name].values
    if values.dtype not in (np.float32, np.float64):  # of another byte order too, which torch does not take
        raise ValueError(
            f"{name} must hold numbers as float32 or float64, found dtype {values.dtype}; open the data with "
            "hybridsolve.data.open_dataset, or convert it by .astype('float32')."
        )
    finite = np.isfinite(values)

    def place(mask: np.ndarray) -> tuple[Any, str]:
        t, b = np.unravel_index(int(np.argmax(mask)), mask.shape)
        return values[t, b], f"in basin {ds['basin'].values[b]} on {date_of_row(ds['time'].values, int(t))}"

    if name == "qobs":
        if not finite.any():
            raise ValueError(
                "qobs must hold at least one observation, found none; choose other basins or another period."
            )
        if np.isinf(values).any():
            value, where = place(np.isinf(values))
            raise ValueError(f"qobs must be a number or NaN, found {value} {where}; replace it with NaN.")
    elif not finite.all():
        value, where = place(~finite)
        raise ValueError(
            f"{name} must be finite everywhere, found {value} {where} ({int((~finite).sum())} such values in "
            f"{int((~finite).any(axis=0).sum())} basins); fill them, or drop those basins or days."
        )
    if name == "qobs" or role_of(name) in ("prcp", "pet"):
        with np.errstate(invalid="ignore"):
            negative = values < 0
        if negative.any():
            value, where = place(negative)
            remedy = "replace missing-value codes with NaN" if name == "qobs" else "correct the data or clip at 0"
            raise ValueError(
                f"{name} must not be negative, found {value:g} {where} ({int(negative.sum())} such values); {remedy}."
            )
