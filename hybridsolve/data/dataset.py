"""The one convention for basin data, and the checks that hold it.

The convention (every reader of `hybridsolve.data` gives it): an `xarray.Dataset` with

* dims ``time``, ``basin`` in that order (time-major, basin contiguous, as the kernels read it);
* coords ``basin`` (gauge id, str), ``time`` (datetime64[ns], the START of the day), ``time_bnds`` (time,
bnds), and
  ``lat``, ``lon`` (degrees) where known;
* variables ``prcp`` [mm d-1], ``tmean`` [degC], ``pet`` [mm d-1], ``qobs`` [mm d-1, NaN = missing], ``tmin``,
  ``tmax`` [degC] where known, static attributes over ``basin``, ``area_km2``;
* dataset attributes ``Conventions``, ``title``, ``source``, ``references``, ``citation``, ``day_boundary``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Number
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .ids import read_ids, refuse_duplicates, spelled_as, text_ids
from .times import add_time_bounds, bounds_name, check_daily, standard_dates
from .units import is_ours
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


# ----------------------------------------------------------------------------------------------------
# building


def assemble(
    series: Mapping[str, np.ndarray],
    *,
    basin: Sequence[str],
    time,
    lat=None,
    lon=None,
    static: Mapping[str, tuple[np.ndarray, Mapping]] | None = None,
    attrs: Mapping[str, str] | None = None,
    dtype="float32",
    pet_attrs: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Build a dataset of the convention from plain arrays.

    Parameters
    ----------
    series : mapping of name to array, shape (T, B)
        Names of `VARIABLES`, in their units; cast to `dtype` here, at the very end. A masked value is missing.
    basin : sequence of str, length B
    time : array_like of datetime64, length T
        Start of each day.
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

    Returns
    -------
    xarray.Dataset
    """
    dtype = float_dtype(dtype)
    coords = {
        "time": ("time", standard_dates(time, "time")),
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
            name: (("time", "basin"), np.ascontiguousarray(unmasked(values), dtype=dtype), dict(VARIABLES[name]))
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


def resolve_basins(basins, available: Sequence[str], where: str) -> np.ndarray:
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


def float_dtype(dtype) -> np.dtype:
    try:
        result = np.dtype(dtype)
    except TypeError:
        result = None
    if result not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(f"dtype must be 'float32' or 'float64', found {dtype!r}; choose one of them.")
    return result


# ---------------------------------------------------------------------------------------------------- periods


def parse_period(period) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last day, both included, of ``"1999-10-01:2008-09-30"``.

    Parameters
    ----------
    period : str or pair of dates
        ``"first:last"`` with dates as YYYY-MM-DD, or a pair of dates: such text, or dates of Python, numpy or pandas.

    Returns
    -------
    (pandas.Timestamp, pandas.Timestamp)

    Raises
    ------
    ValueError
        Malformed, not a date of the calendar, or the end before the start.
    """
    form = "expected 'YYYY-MM-DD:YYYY-MM-DD', found {!r}; write for example 1999-10-01:2008-09-30."
    if isinstance(period, str):
        match = re.fullmatch(r"\s*(\d{4}-\d{2}-\d{2})\s*:\s*(\d{4}-\d{2}-\d{2})\s*", period)
        if match is None:
            raise ValueError("period is malformed, " + form.format(period))
        parts: Sequence = match.groups()
    else:
        ordered = isinstance(period, Iterable) and not isinstance(period, (Set, Mapping))
        parts = tuple(period) if ordered else ()
        if len(parts) != 2:
            raise ValueError("period is malformed, " + form.format(period))
    days = []
    for part in parts:
        try:
            # of text only whole dates: pandas takes '2008' for its first day, and a number for nanoseconds
            whole = not isinstance(part, (str, Number)) or re.match(r"\s*\d{4}-\d{2}-\d{2}", str(part))
            day = pd.Timestamp(part).tz_localize(None) if whole else pd.NaT
        except (ValueError, TypeError):
            day = pd.NaT
        if day is pd.NaT:
            raise ValueError(f"period holds {part!r}, which is no date of the calendar, " + form.format(period))
        days.append(day)
    if days[1] < days[0]:
        raise ValueError(
            f"period must end after it starts, found {days[0]:%Y-%m-%d} to {days[1]:%Y-%m-%d}; swap the two dates."
        )
    return days[0], days[1]


def period_text(period) -> str:
    """``"1999-10-01:2008-09-30"``, however the period was given."""
    return ":".join(day.strftime("%Y-%m-%d") for day in parse_period(period))


def overlap(periods: dict) -> str:
    """Which of the periods share days, in words; empty if none do."""
    days = {name: parse_period(period) for name, period in periods.items() if period is not None}
    for one, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        if one in days and other in days:
            first, last = max(days[one][0], days[other][0]), min(days[one][1], days[other][1])
            if first <= last:
                return (
                    f"the {one} period {period_text(periods[one])} overlaps the {other} period "
                    f"{period_text(periods[other])} from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
                )
    return ""


def select_period(ds: xr.Dataset, period) -> xr.Dataset:
    """Cut a dataset to a period, both days included; None gives the dataset back.

    Raises
    ------
    ValueError
        The period is malformed or asks for days that the data do not cover.
    """
    if period is None:
        return ds
    return ds.isel(time=period_slice(ds["time"].values, period))


def period_slice(time: np.ndarray, period) -> slice:
    """Slice of a sorted time axis that a period selects."""
    first, last = parse_period(period)
    _check_datetime(time)
    index = pd.DatetimeIndex(time)
    if len(index) == 0:
        raise ValueError(
            f"period {first:%Y-%m-%d}:{last:%Y-%m-%d} selects from data with no time steps; check the file."
        )
    if not index.is_monotonic_increasing:
        raise ValueError("time must be sorted to select a period, found it unsorted; call ds.sortby('time') first.")
    if first.normalize() < index[0].normalize() or last.normalize() > index[-1].normalize():
        raise ValueError(
            f"period {first:%Y-%m-%d}:{last:%Y-%m-%d} asks for days outside the data, which cover "
            f"{index[0]:%Y-%m-%d}:{index[-1]:%Y-%m-%d}; choose a period within."
        )
    # by calendar day, so that the last day is whole whatever the hour of the stamps
    start = index.searchsorted(first.normalize(), side="left")
    stop = index.searchsorted(last.normalize() + pd.Timedelta(days=1), side="left")
    return slice(int(start), int(stop))


# ----------------------------------------------------------------------------------------------------
# checking


def refuse_no_dataset(data) -> None:
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
    ds: xr.Dataset, *, forcing_names: Iterable[str], need_qobs: bool = False, values: bool = True
) -> None:
    """Refuse a dataset that would give wrong results, with one sentence that says what to do.

    Parameters
    ----------
    ds : xarray.Dataset
    forcing_names : iterable of str
        Variables that drive the model; of known ones (`VARIABLES`) the unit is checked too, and that
        precipitation and potential evapotranspiration are not negative.
    need_qobs : bool
        Also ask for `qobs`: at least one observation, no negative value (a missing one is NaN).
    values : bool
        Look at the values too, and not at names, units, basins and times alone.

    Raises
    ------
    ValueError
        Missing variable; wrong or missing units; wrong dims; no basin or no time step; duplicate basin; time
        not datetime64, unsorted, duplicated, with gaps, not daily or not the start of its bounds; NaN or infinity
        in a forcing; negative precipitation, evapotranspiration or discharge.
    """
    refuse_no_dataset(ds)
    names = list(forcing_names) + (["qobs"] if need_qobs else [])
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
    for name in names:
        _check_units(name, ds[name])
    if not names:
        return
    _check_basins(ds["basin"].values)
    _check_time(ds)
    for name in names if values else []:
        _check_values(ds, name)


def _check_units(name: str, array: xr.DataArray) -> None:
    found = array.attrs.get("units")
    expected = VARIABLES.get(name, {}).get("units")
    if found is None or not str(found).strip():
        wanted = f"'{expected}'" if expected else "its unit"
        raise ValueError(
            f"{name} has no units attribute, expected {wanted}; set ds['{name}'].attrs['units'] once you know it is so."
        )
    found = " ".join(str(found).split())
    if expected is None or is_ours(found, expected):
        return
    raise ValueError(
        f"{name} must be in {expected}, found units {found!r}; open the dataset with hybridsolve.data.open_dataset, "
        f"which converts units, or convert it and set units to '{expected}'."
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


def _check_time(ds: xr.Dataset) -> None:
    time = ds["time"].values
    _check_datetime(time)
    check_daily(time, gaps=False)
    name = bounds_name(ds)
    if name is None:
        return
    start = ds[name].transpose("time", ...).values[:, 0]
    if (start != time).any():
        at = int(np.flatnonzero(start != time)[0])
        raise ValueError(
            f"time must be the start of each day, found {time[at]} whose bounds '{name}' start at {start[at]}; call "
            "hybridsolve.data.as_days(ds)."
        )


def _check_values(ds: xr.Dataset, name: str) -> None:
    values = ds[name].values
    if values.dtype not in (np.float32, np.float64):  # of another byte order too, which torch does not take
        raise ValueError(
            f"{name} must hold numbers as float32 or float64, found dtype {values.dtype}; open the data with "
            "hybridsolve.data.open_dataset, or convert it by .astype('float32')."
        )
    finite = np.isfinite(values)

    def place(mask):
        t, b = np.unravel_index(int(np.argmax(mask)), mask.shape)
        return values[t, b], f"in basin {ds['basin'].values[b]} on {str(ds['time'].values[t])[:10]}"

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
    if name in ("prcp", "pet", "qobs"):
        with np.errstate(invalid="ignore"):
            negative = values < 0
        if negative.any():
            value, where = place(negative)
            remedy = "replace missing-value codes with NaN" if name == "qobs" else "correct the data or clip at 0"
            raise ValueError(
                f"{name} must not be negative, found {value:g} {where} ({int(negative.sum())} such values); {remedy}."
            )
