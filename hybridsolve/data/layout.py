"""What the dimensions of a file are: one is time, one is basins, whatever they are called."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from .ids import listed, refuse_duplicates, text_ids
from .names import NameOption, key_of, refer
from .steps import DAY

TIME_NAMES = ("time", "date", "datetime", "date_time", "timestamp", "day", "days", "dates", "t")
BASIN_NAMES = (
    "basin", "basin_id", "basins", "gauge_id", "gauge", "gauges", "gauge_ids", "gaugeid", "gage_id", "gage", "gageid",
    "station", "station_id", "stations", "catchment", "catchment_id", "catchments", "hru", "hru_id", "hruid", "site",
    "site_no", "site_id", "id", "ids", "grdc_no", "camels_id",
)  # fmt: skip
_GRID_NAMES = {
    "lat", "latitude", "lon", "longitude", "x", "y", "rlat", "rlon", "xc", "yc", "i", "j", "easting", "northing",
    "south_north", "west_east", "nlat", "nlon",
}  # fmt: skip
_DATES = ("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S")
_DIGITS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M"}  # by their number: pandas takes fewer of them too


def aside(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Free a name of ours that another variable or dimension of the file bears."""
    if name not in ds.variables and name not in ds.dims:
        return ds
    other = f"{name}_in_file"
    while other in ds.variables or other in ds.dims:
        other += "_"
    return ds.rename({name: other})


# --------------------------------------------------------------------------------------------------------------- time


def with_time(ds: xr.Dataset, asked: Mapping[str, NameOption], where: str, said: list[str]) -> xr.Dataset:
    """The dataset with its time axis as dimension and coordinate ``time``, decoded; another name of it goes to `said`.

    Raises
    ------
    ValueError
        No time axis, or one that holds no dates.
    """
    if "time" in asked:
        name = refer(ds, asked["time"].variable, "time", where)
        if ds[name].ndim != 1:
            raise ValueError(
                f"time of {where} must be of one dimension, found {name} with {ds[name].dims}; correct names."
            )
    else:
        found = {v: _time_rank(v, ds[v]) for v in map(str, ds.variables) if ds[v].ndim == 1}
        found = {v: rank for v, rank in found.items() if rank is not None}
        if not found:
            raise ValueError(
                f"{where} must hold a time axis, a variable such as time or date, found {listed(ds.variables)}; say "
                "which it is with names (--names time=VARIABLE)."
            )
        name = min(found, key=lambda v: (found[v], ds[v].dims != (v,)))  # dates of basins have no dimension of theirs
    if name != "time":
        said.append(f"time: '{name}'")
    dim = str(ds[name].dims[0])
    values = _decoded(ds[name], f"{name} of {where}")
    attrs, encoding = ds[name].attrs, ds[name].encoding
    ds = ds.drop_vars(name)
    if dim in ds.variables:
        ds = ds.drop_vars(dim)  # a count of rows
    if dim != "time":
        ds = aside(ds, "time").rename({dim: "time"})
    ds = ds.assign_coords(time=("time", values, attrs))
    ds["time"].encoding = {k: v for k, v in encoding.items() if k in ("units", "calendar", "dtype", "bounds")}
    return ds


def _time_rank(name, variable: xr.DataArray) -> int | None:
    """How surely a variable is the time axis, best first; None if it is none."""
    key, attrs = key_of(name), variable.attrs
    if attrs.get("standard_name") == "time" or attrs.get("axis") == "T":
        return -1
    dates = variable.dtype.kind == "M" or (
        variable.dtype == object and variable.size and hasattr(_first(variable), "year")
    )
    if dates:
        return TIME_NAMES.index(key) if key in TIME_NAMES else len(TIME_NAMES)
    return 100 + TIME_NAMES.index(key) if key in TIME_NAMES and key != "t" else None


def _first(variable: xr.DataArray):
    return variable[0].values.item()


def _decoded(variable: xr.DataArray, what: str) -> np.ndarray:
    values = variable.values
    if values.dtype.kind == "M" or (values.dtype == object and values.size and hasattr(values[0], "calendar")):
        return values
    if values.dtype.kind in "iu" or values.dtype.kind in "SUO":
        return parse_dates(values.tolist(), what)
    raise ValueError(
        f"{what} must hold dates, found {values.dtype} with units '{variable.attrs.get('units', '')}'; give it CF "
        "units such as 'days since 1970-01-01'."
    )


def parse_dates(values: Sequence, what: str) -> np.ndarray:
    """Dates as datetime64[ns] of text, of numbers YYYYMMDD, or of dates; in one form that all of them have.

    Text and numbers may have a clock: 2001-01-31T06:00, 31.01.2001 06:00, 2001013106.

    Raises
    ------
    ValueError
        Not dates, or dates in which day and month cannot be told apart.
    """
    if values and all(isinstance(v, datetime.date) for v in values):
        return pd.DatetimeIndex(values).tz_localize(None).to_numpy("datetime64[ns]")
    text = pd.Series([v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values]).str.strip()
    found, clock = [], _CLOCKS[min(text.iloc[0].count(":"), 2)] if len(text) else ""
    forms = [form + clock for form in _DATES]
    if len(text) and text.str.match(r"\d{4}-\d\d-\d\d").all():
        found = [_try(text, "ISO8601")]
    elif len(text) and text.str.fullmatch(r"\d+").all() and text.str.len().nunique() == 1:
        found = [_try(text, form) for count, form in _DIGITS.items() if text.str.len().iloc[0] == count]
    elif len(text):
        found = [_try(text, form) for form in forms]
    found = [days for days in found if days is not None]
    if not found:
        wrong = [pd.to_datetime(text, format=form, errors="coerce").isna() for form in ("ISO8601", *forms)]
        row = int(np.argmax(min(wrong, key=sum))) if len(text) else None
        raise ValueError(
            f"{what} must hold dates in one form, such as 1999-10-01 or 01.10.1999, found "
            + ("no row" if row is None else f"'{text[row]}' in row {row}")
            + "; correct it, or write all as YYYY-MM-DD."
        )
    if len(found) > 1 and not (found[0] == found[1]).all():
        regular = [days for days in found if len(days) > 2 and _keeps_a_step(days)]
        if len(regular) != 1:
            raise ValueError(
                f"{what} must tell day from month, found '{text[0]}', which may be either; write dates as YYYY-MM-DD."
            )
        found = regular
    return found[0]


def _keeps_a_step(dates: np.ndarray) -> bool:
    apart = np.diff(dates)
    return bool(np.timedelta64(0) < apart[0] <= DAY and (apart == apart[0]).all())


def _try(text: pd.Series, form: str) -> np.ndarray | None:
    try:
        days = pd.DatetimeIndex(pd.to_datetime(text, format=form))
    except (ValueError, TypeError):  # TypeError: several time zones
        return None
    return days.tz_localize(None).to_numpy("datetime64[ns]")  # the clock of the stamps, as it is written


# ------------------------------------------------------------------------------------------------------------- basins


def with_basins(
    ds: xr.Dataset, chosen: Mapping[str, str], asked: Mapping[str, NameOption], where: str, stem: str, said: list[str]
) -> xr.Dataset:
    """The dataset with its basins as dimension and coordinate ``basin``, ids as text; a basin without an id is `stem`.

    Parameters
    ----------
    ds : xarray.Dataset
        Of `with_time`.
    chosen : mapping
        The variables over time that are read.
    said : list of str
        Gets a line where the ids have another name.

    Raises
    ------
    ValueError
        A grid, several dimensions besides time, no ids, or an id twice.
    """
    series = list(chosen.values())
    ragged = next((v for v in ds.variables if {"sample_dimension", "instance_dimension"} & set(ds[v].attrs)), None)
    if ragged is not None:
        raise ValueError(
            f"{where} holds a ragged array (its variable {ragged} says so), expected series over time and basin; write "
            "it with one time axis for all basins."
        )
    ids = _declared_ids(ds, asked, where)
    dim = _basin_dim(ds, series, ids, where)
    small = {d for v in series for d in ds[v].dims if d not in ("time", dim)}
    ds = ds.isel({d: 0 for d in small})  # of size 1, all of them
    if dim is None:
        if "basin" in asked and ds[ids].size != 1:
            raise ValueError(
                f"names says basin={ids}, which must hold one id for the one basin of {where}; correct it."
            )
        name = next(
            (v for v in map(str, ds.variables) if ds[v].size == 1 and (v == ids or key_of(v) in BASIN_NAMES)), None
        )
        single = [stem] if name is None else text_ids(ds[name].values.reshape(1), f"{name} of {where}")
        if name is not None:
            _say(said, name)
            ds = ds.drop_vars(name)
        ds = _one_basin(aside(ds, "basin"))
        return _named(ds, single)
    along = ids is not None and ds[ids].dims[:1] == (dim,)
    if "basin" in asked and not along:
        raise ValueError(
            f"names says basin={ids}, which must lie over the basins' dimension '{dim}' of {where}, found dimensions "
            f"({', '.join(map(str, ds[ids].dims))}); name another."
        )
    name = ids if along else _ids_over(ds, dim)
    if name is None and ds.sizes[dim] > 1:
        raise ValueError(
            f"{where} must hold the ids of its {ds.sizes[dim]} basins over the dimension '{dim}', found none; add a "
            "variable such as gauge_id, or say which it is with names (--names basin=VARIABLE)."
        )
    texts = [stem] if name is None else text_ids(ds[name].values, f"{name} of {where}")
    refuse_duplicates(texts, f"{name} of {where}")
    _say(said, name)
    attrs = {} if name is None else ds[name].attrs
    other = ds[dim] if dim in ds.variables and dim != name and ds[dim].dtype.kind not in "iu" else None
    ds = ds.drop_vars([v for v in {name, dim} if v in ds.variables])
    if dim != "basin":
        ds = aside(ds, "basin").rename({dim: "basin"})
        if other is not None:  # another name of the basins, kept as an attribute of theirs
            ds[dim] = ("basin", other.values, other.attrs)
    return _named(ds, texts, attrs)


def _say(said: list[str], name) -> None:
    if name not in (None, "basin"):
        said.append(f"basin: '{name}'")


def _named(ds: xr.Dataset, ids, attrs: Mapping | None = None) -> xr.Dataset:
    return ds.assign_coords(
        basin=(
            "basin",
            np.asarray(ids, dtype=str),
            {"long_name": "gauge id", "cf_role": "timeseries_id", **(attrs or {})},
        )
    )


def _one_basin(ds: xr.Dataset) -> xr.Dataset:
    """A dimension of one basin, for what depends on time or on nothing."""
    bounds = ds["time"].attrs.get("bounds") or ds["time"].encoding.get("bounds")
    alone = [
        v
        for v in ds.variables
        if ds[v].dims in ((), ("time",)) and v not in ("time", bounds) and "grid_mapping_name" not in ds[v].attrs
    ]
    ds = ds.reset_coords([v for v in alone if v in ds.coords])
    return ds.assign({v: ds[v].expand_dims("basin", axis=-1) for v in alone})


def _declared_ids(ds: xr.Dataset, asked, where: str):
    if "basin" in asked:
        return refer(ds, asked["basin"].variable, "basin", where)
    return next((v for v in ds.variables if ds[v].attrs.get("cf_role") == "timeseries_id"), None)


def _basin_dim(ds: xr.Dataset, series: list, ids, where: str):
    """The dimension of the basins, or None for a single one without."""
    dims = {v: [d for d in ds[v].dims if d != "time"] for v in series}
    large = {d for v in series for d in dims[v] if ds.sizes[d] > 1}
    own = ds[ids].dims[0] if ids is not None and ds[ids].ndim else None
    for v in series:
        extra = [d for d in dims[v] if d in large]
        grid = [d for d in extra if key_of(d) in _GRID_NAMES and d != own]
        if grid and (len(extra) > 1 or _ids_over(ds, extra[0]) in (None, extra[0])):
            raise ValueError(
                f"{v} of {where} is a grid over ({', '.join(map(str, ds[v].dims))}), expected one series a basin; "
                "average it over the basins first."
            )
        if len(extra) > 1:
            raise ValueError(
                f"{v} of {where} must have one dimension besides time, that of the basins, found "
                f"({', '.join(map(str, ds[v].dims))}); select one of the others first."
            )
    if len(large) > 1:
        over = ", ".join(f"{v} over {d[0]}" for v, d in dims.items() if d)
        raise ValueError(f"the series of {where} must share one dimension of basins, found {over}; give all over one.")
    if large:
        return large.pop()
    small = {d for v in series for d in dims[v]}
    if own in small:
        return own
    named = [d for d in small if key_of(d) in BASIN_NAMES]
    return min(named, key=lambda d: BASIN_NAMES.index(key_of(d))) if named else None


def _ids_over(ds: xr.Dataset, dim):
    """The variable with the ids along a dimension: its coordinate unless that counts, else one by its name or text."""

    def along(v):
        return ds[v].dims == (dim,) or (ds[v].ndim == 2 and ds[v].dims[0] == dim and ds[v].dtype.kind in "SU")

    over = [v for v in ds.variables if along(v)]
    named = [v for v in over if v != dim and key_of(v) in BASIN_NAMES]
    named.sort(key=lambda v: BASIN_NAMES.index(key_of(v)))
    if dim in over:
        values = ds[dim].values
        counts = values.dtype.kind in "iu" and (np.array_equal(values, np.arange(len(values))) or not len(values))
        return named[0] if counts and named else dim
    if named:
        return named[0]
    text = [v for v in over if ds[v].dtype.kind in "SUO"]
    return text[0] if len(text) == 1 else None
