"""Opening basin data of any kind we know, or of the user's own, as one dataset."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import DTypeLike

from .._extras import needed_for
from ..spec import ModelSpec, Variable
from .calendar import SERIES as CALENDAR
from .calendar import with_calendar
from .camels import is_pack, read_camels
from .caravan import read_caravan
from .dataset import attributes_at, float_dtype, resolve_basins, rows_of, select_period
from .fulda import read_fulda
from .ids import listed
from .layout import TIME_NAMES, aside, with_basins, with_time
from .names import (
    ALIASES,
    SERIES,
    STATIC,
    NameOption,
    choose,
    is_sum,
    meaning,
    parse_names,
    role_of,
    split_unit,
    unit_of,
)
from .netcdf import is_zarr, loaded, open_netcdf, open_zarr
from .pet import PET_METHODS, pet_attributes, potential_evapotranspiration
from .steps import date_of_row, step_seconds
from .tables import AS_TEXT, SUFFIXES, read_folder, read_table, table_dataset, table_files
from .times import as_steps
from .units import DAY, convert, is_ours
from .values import attribute, numbers, refuse_codes, without_codes

_STATIC_UNITS = {"lat": "degrees_north", "lon": "degrees_east", "area_km2": "km2"}

_KINDS = (
    "a NetCDF or CSV file or a Zarr store of basins' series, a folder of CSV files, a Caravan folder, the CAMELS pack "
    "or 'fulda'"
)


def open_dataset(
    path_or_data: str | Path | xr.Dataset,
    *,
    basins: Any = None,
    period: Any = None,
    pet: str | None = None,
    dtype: DTypeLike = "float32",
    names: Any = None,
    day_ends: str | None = None,
    utc_offset: float | None = None,
    model: ModelSpec | None = None,
) -> xr.Dataset:
    """Open basin data of any kind we know, as a dataset of the convention, in memory.

    Parameters
    ----------
    path_or_data : path_like, "fulda", pandas.DataFrame or xarray.Dataset
        The CAMELS pack; a Caravan folder (with ``timeseries/netcdf``); the word ``fulda``; or data of one's own: a
        NetCDF file, Zarr store or dataset of series over time and basin, whatever these dimensions are called; a CSV
        file or frame of one basin, a column a variable; a folder of CSV files, one a basin and called by its id, with
        attributes in ``attributes.csv``. Precipitation and mean temperature are needed (or both extremes), and `pet`
        or what it is computed from: both extremes and `lat`; or what `model` needs. Series may be of days, or of any
        step of whole seconds that divides one.
    basins : None, list of str, or path_like
        Ids to take, or a text file with one id a line.
    period : str or pair, optional
        ``"first:last"``, both days included.
    pet : str, optional
        Method; the reader's own default where None. A `pet` already in the data is kept where None, and
        computed anew where a method is named.
    dtype : {"float32", "float64"}
    names : str or mapping, optional
        Which variable is which, where aliases and CF standard names do not say it:
        ``"prcp=pr,tmean=tas[K],qobs=Q[mm sum missing -999],area_km2=12.5[mi2]"``. In brackets a unit in place of the
        data's own; ``sum`` if a value without a time in its unit is the sum of one day; a code for missing values. For
        a single basin `lat`, `lon` and `area_km2` may be numbers.
    day_ends : str, optional
        Hour at which the days of the data end, such as ``"09:00"``, where their stamps do not say it; "stamp" where
        days or shorter steps end at their stamps.
    utc_offset : float, optional
        Hours of the data's clock ahead of UTC.
    model : ModelSpec, optional
        Whose forcings are read, each under the name and in the unit of its table; precipitation, temperature and
        evapotranspiration if left out. Those that the calendar decides (`hybridsolve.data.calendar`) are made where
        the data have none.

    Returns
    -------
    xarray.Dataset
        Depths of water are amounts per step: mm d-1, mm h-1, mm/(3 h).
        What was renamed, converted or computed is in the attribute `conversions`, a line each, and told in a warning.

    Raises
    ------
    FileNotFoundError
        No such file or folder.
    ValueError
        Not one of these kinds; a variable that is missing, in an unknown unit, or one of several that may be meant; a
        code for missing values or a negative flow; an id twice; or one of the errors of the reader.
    """
    rows = rows_of(model)
    if pet is not None and model is not None and "pet" not in rows:
        raise ValueError(
            f"pet '{pet}' is a method of the forcing pet, and model {model.name} takes {', '.join(rows)}; leave it out."
        )
    days = {"day_ends": day_ends, "utc_offset": utc_offset}
    opened = _opened(path_or_data, basins, period, pet, float_dtype(dtype), parse_names(names, list(rows)), days, rows)
    return with_calendar(opened, rows)


def _opened(path_or_data, basins, period, pet, dtype, asked, days, rows) -> xr.Dataset:
    """By the reader of its kind."""
    chosen = {} if pet is None else {"pet": pet}
    own = (asked, basins, period, pet, dtype, days, rows)
    if isinstance(path_or_data, xr.Dataset):
        return _own_data(path_or_data, "the dataset", "basin", *own)
    if isinstance(path_or_data, pd.DataFrame):
        table = table_dataset(path_or_data, "the frame", "basin", _time_of_table(asked))
        return _own_data(table, "the frame", "basin", *own)
    if not isinstance(path_or_data, str | os.PathLike):
        raise ValueError(
            f"data must be {_KINDS}, or a frame or dataset in memory, found {type(path_or_data).__name__}; give one "
            "of them."
        )
    if str(path_or_data) == "fulda":
        _refuse_options(asked, days, "the Fulda example")
        ds = read_fulda(dtype=dtype, **chosen)
        ds = ds.isel(basin=resolve_basins(basins, ds["basin"].values, "the Fulda example"))
        return _named_by(select_period(ds, period), rows)
    if not str(path_or_data):
        raise ValueError(f"data must be {_KINDS}, found an empty path; name one.")
    path = Path(path_or_data).expanduser()
    if path.is_dir():
        if is_zarr(path):
            with open_zarr(path, _KINDS, decode_timedelta=False) as source:
                return _own_data(source, path.name, path.stem, *own)
        if (path / "timeseries" / "netcdf").is_dir():
            _refuse_options(asked, days, "a Caravan folder")
            return _named_by(read_caravan(path, basins=basins, period=period, dtype=dtype, **chosen), rows)
        if not table_files(path)[0]:
            raise ValueError(
                f"{path} must be a Caravan folder with timeseries/netcdf inside, or hold CSV files "
                f"({', '.join(SUFFIXES)}), one a basin, found neither; expected {_KINDS}."
            )
        return _own_data(read_folder(path, basins, _time_of_table(asked)), str(path), path.name, asked, None, *own[2:])
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected {_KINDS}; check the path.")
    if path.suffix.casefold() in SUFFIXES:
        table = read_table(path, AS_TEXT, unit_row=True)
        table = table_dataset(table, path.name, path.stem, _time_of_table(asked))
        return _own_data(table, path.name, path.stem, *own)
    # Without timedelta: lengths of days and of dry spells are numbers with a unit.
    with open_netcdf(path, _KINDS, decode_timedelta=False) as source:
        if not source.variables and (groups := _groups(path)):
            raise ValueError(
                f"{path} must hold its variables outside of groups, found the groups {listed(groups)} alone; open one "
                f"with xarray.open_dataset(path, group='{groups[0]}') and give that dataset, or write it to a file."
            )
        if not is_pack(source):
            return _own_data(source, path.name, path.stem, *own)
    _refuse_options(asked, days, "the CAMELS pack")
    return _named_by(read_camels(path, basins=basins, period=period, dtype=dtype, **chosen), rows)


def _named_by(ds: xr.Dataset, rows: dict[str, Variable]) -> xr.Dataset:
    """What a reader calls by our names, by those of a model's table that mean the same."""
    ours = {role_of(name): name for name in rows if name not in ds}
    return ds.rename({role: name for role, name in ours.items() if role in ds and role != "qobs" and role not in rows})


def _groups(path: Path) -> list[str]:
    with needed_for(str(path)):
        import netCDF4

    with netCDF4.Dataset(path) as file:
        return list(file.groups)


def _time_of_table(asked: dict[str, NameOption]) -> str | None:
    """The column of dates that the user names; it is read with the table, and not asked for again."""
    time = asked.pop("time", None)
    return None if time is None else time.variable


def _refuse_options(asked, days, what: str) -> None:
    given = ["names"] * bool(asked) + [name for name, value in days.items() if value is not None]
    if given:
        raise ValueError(f"{given[0]} is for data of one's own, and {what} needs none; leave it out.")


def _names(rows) -> tuple[list[str], list[str]]:
    """The series that are needed, and what the model calls those of `SERIES`, in their order."""
    needed = list(rows) or ["prcp", "tmean", "pet"]
    # what the model calls by another name than ours; observed flow is never among its forcings
    roles = {role_of(name): name for name in needed} | {"qobs": "qobs"}
    return needed, [roles.get(name, name) for name in SERIES]


def recognised(
    source: xr.Dataset,
    where: str,
    stem: str,
    asked: dict[str, NameOption],
    rows: dict[str, Variable],
    pet: str | None,
    said: list[str],
) -> tuple[xr.Dataset, dict[str, SeriesSource]]:
    """A dataset whose time, basins and series have our names, still as it is stored; and what is said of each series.

    Raises
    ------
    ValueError
        A series that is needed is not found, or several may be meant.
    """
    needed, (prcp, mean, low, high, demand, flow) = _names(rows)
    ds = with_time(source, asked, where, said)
    known = list(dict.fromkeys([prcp, mean, low, high, demand, flow, *needed]))
    if rows:
        useful = {flow, *needed} | ({mean, low, high} if {demand, mean} & set(needed) else set())
        known = [name for name in known if name in useful]
    series = [v for v in ds.data_vars if "time" in ds[v].dims and (ds[v].dtype.kind != "M" or v in known)]
    # Where pet is computed, it does not matter what else there is.
    wanted = [name for name in known if name != demand or pet is None]
    found = choose(ds, series, asked, wanted, where, strict=True)
    extremes = {low, high} <= set(found)
    made = {demand, *CALENDAR, *([mean] if extremes else [])}
    absent = [name for name in needed if name not in found and name not in made]
    _refuse_missing(absent, ds, series, where)
    if demand in needed and (pet is not None or demand not in found) and mean not in found and not extremes:
        _refuse_missing([mean], ds, series, where)
    ds = with_basins(ds, found, asked, where, stem, said)
    read = {name: SeriesSource.of(v, ds[v], asked.get(name)) for name, v in found.items()}
    for name in set(found) - set(found.values()):
        ds = aside(ds, name)
    return ds.rename({v: name for name, v in found.items() if v != name}), read


def _own_data(source, where, stem, asked, basins, period, pet, dtype, days, rows) -> xr.Dataset:
    """A dataset of the convention from series under any names, dimensions and units."""
    said: list[str] = []
    needed, (_, mean, low, high, demand, _) = _names(rows)
    if pet is not None and demand in asked:
        raise ValueError(
            f"{demand} is computed by {pet} or read by names from '{asked[demand].variable}', found both; give one."
        )
    ds, read = recognised(source, where, stem, asked, rows, pet, said)
    if basins is not None:
        ds = ds.isel(basin=resolve_basins(basins, ds["basin"].values, where))
    ds = loaded(select_period(as_steps(ds, where, **days), period), where, _KINDS).transpose("time", "basin", ...)
    ds = _attributes(ds, asked, where, said)
    step = step_seconds(ds)
    _refuse_no_units(read, where, step, rows)
    for name, about in read.items():
        ds = _in_our_unit(ds, name, about, where, said, step, rows.get(name))
    compute = demand in needed and (pet is not None or demand not in ds)
    if (mean in needed or compute) and mean not in ds:
        ds[mean] = ((ds[low] + ds[high]) / 2).assign_attrs(attributes_at(mean, step, rows.get(mean)))
        said.append(f"{mean}: ({low} + {high}) / 2")
    if compute:
        temperatures = {"tmean": mean, "tmin": low, "tmax": high}
        ds = _with_pet(ds, "hargreaves" if pet is None else pet, where, step, demand, temperatures)
        lacking = int((ds[demand].isnull() & ds[mean].notnull()).any("basin").sum())
        if step < DAY and lacking:
            said.append(f"{demand}: missing in {lacking} steps, of days that the data do not hold whole")
    for name in {*read, mean, demand}:
        if name in ds:
            ds[name] = ds[name].astype(dtype).copy(data=np.ascontiguousarray(ds[name].values, dtype=dtype))
    if step == DAY:
        ds.attrs.setdefault("day_boundary", "as in source")
    if said:
        before = str(ds.attrs.get("conversions", "")).splitlines()  # of a file that was written by us
        ds.attrs["conversions"] = "\n".join([*before, *said])
        warnings.warn(f"{where} is read so:\n  " + "\n  ".join(said), stacklevel=4)
    return ds


@dataclass(frozen=True)
class SeriesSource:
    """What the data and the user say of one series."""

    variable: str
    attrs: dict
    unit: str | None
    summed: bool
    missing: float | None
    asked: bool

    @classmethod
    def of(cls, variable: str, array: xr.DataArray, asked: NameOption | None) -> SeriesSource:
        unit, summed, missing = split_unit(unit_of(variable, array) or "")
        summed = summed or is_sum(array, TIME_NAMES)
        if asked is not None:
            if asked.unit is not None or asked.summed:
                summed = asked.summed
            unit, missing = asked.unit or unit, missing if asked.missing is None else asked.missing
        return cls(str(variable), dict(array.attrs), unit, summed, missing, asked is not None)


def _refuse_missing(absent, ds, series, where) -> None:
    if not absent:
        return
    aliases = [other for name in absent for other in ALIASES.get(role_of(name), ())[: 6 // len(absent) + 1]]
    aliases = [other for other in aliases if other not in absent][:6]
    one = len(absent) == 1
    others = f", under {'that name, another' if one else 'these names, others'} (such as {', '.join(aliases)}) or "
    others = f"{others}{'a CF standard name' if one else 'CF standard names'}" if aliases else ""
    raise ValueError(
        f"{where} must hold the variable{'' if one else 's'} {', '.join(map(repr, absent))} over time{others}, found "
        f"{listed(series or ds.variables)}; say which {'it is' if one else 'they are'} with names "
        f"(--names {','.join(f'{name}=VARIABLE' for name in absent)})."
    )


def _attributes(ds, asked, where, said) -> xr.Dataset:
    """Attributes as text or numbers, NaN or blank where missing; `lat` and `lon` as coordinates, the area in km2."""
    static = [v for v in ds.variables if ds[v].dims == ("basin",) and v != "basin"]
    for v in static:
        values, coded = without_codes(attribute(ds[v].values))
        if coded:
            said.append(f"{v}: missing in {coded} basins, where it is -999 or -9999")
        ds[v] = ds[v].copy(data=values)
    for name in STATIC:
        if name in asked and asked[name].number is not None:
            if ds.sizes["basin"] != 1:
                raise ValueError(
                    f"names gives {name} as a number, which is for one basin, and {where} has {ds.sizes['basin']}; "
                    "name a variable with one value a basin."
                )
            ds = aside(ds, name)
            ds[name] = ("basin", np.array([asked[name].number]), {"units": asked[name].unit or _STATIC_UNITS[name]})
            static.append(name)
    by_variable = {name: a for name, a in asked.items() if a.variable is not None}
    found = choose(ds, static, by_variable, STATIC, where, strict=False)
    for name, v in found.items():
        unit = (asked[name].unit if name in asked else None) or unit_of(v, ds[v])
        if name == "area_km2" and unit is None:
            if name in asked:
                raise ValueError(f"area_km2 of {where} has no unit; say it with names, as in area_km2={v}[km2].")
            continue  # kept under its own name; refused where it is needed
        what, attrs = f"{name} ({v} of {where})", dict(ds[v].attrs)
        values = numbers(ds[v].values, what)
        how = ""
        if name == "area_km2" and unit is not None and not is_ours(unit, "km2"):
            values, how = convert(values, unit, "km2", what)[0], f" converted from {unit}"
        if v != name or how:
            said.append(f"{name}: '{v}'{how}")
        ds = ds.drop_vars(v)
        if v != name:
            ds = aside(ds, name)
        ds[name] = ("basin", values, {**attrs, "units": _STATIC_UNITS[name]})
        if name != "area_km2":
            ds = ds.set_coords(name)
    return ds


def _refuse_no_units(read: dict[str, SeriesSource], where: str, step: int, rows: dict[str, Variable]) -> None:
    bare = {name: about.variable for name, about in read.items() if about.unit is None}
    if not bare:
        return
    units = {name: attributes_at(name, step, rows.get(name))["units"] for name in bare}
    what = ", ".join(f"{name} ('{variable}' of {where})" for name, variable in bare.items())
    such = ", ".join(f"'{unit}'" for unit in dict.fromkeys(units.values()))
    say = ",".join(f"{name}={variable}[{units[name]}]" for name, variable in bare.items())
    has = "has no unit, expected one" if len(bare) == 1 else "have no units, expected ones"
    raise ValueError(f"{what} {has} such as {such}; set the attribute units, or say it with names ({say}, --names).")


def _in_our_unit(
    ds, name: str, about: SeriesSource, where: str, said: list[str], step: int, row: Variable | None
) -> xr.Dataset:
    own = attributes_at(name, step, row)
    ours, what = own["units"], f"{name} ('{about.variable}' of {where})"
    if ds[name].dims != ("time", "basin"):
        raise ValueError(
            f"{what} must have a value for each basin and step, found dimensions {ds[name].dims}; correct it."
        )
    ids, time = ds["basin"].values, ds["time"].values
    values = numbers(ds[name].values, what, lambda t, b: f"basin {ids[b]} on {date_of_row(time, t)}")
    if about.missing is not None:
        values = np.where(np.isclose(values, about.missing, rtol=1e-6, atol=0), np.nan, values)
    refuse_codes(name, values, time, ids, where, about.variable)
    assert about.unit is not None  # _refuse_no_units
    done = [f"'{about.variable}'"] if about.variable != name or about.asked else []
    if not is_ours(about.unit, ours):
        values, how = convert(
            values.astype(np.float64),
            about.unit,
            ours,
            what,
            summed=about.summed,
            step_seconds=step,
            area=lambda: _area(ds, f"{what} in '{about.unit}'", where),
        )
        done.append(f"converted from {about.unit}" + (f", {how}" if how else ""))
    if role_of(name) == "pet" and (values < 0).sum() > (values > 0).sum():
        values = -values
        condensed = int((values < 0).sum())
        values = np.where(values < 0, 0, values)
        done.append(f"positive downward, its sign turned and {condensed} values of condensation set to 0")
    attrs = about.attrs
    if done:
        kept = ("method", "references", "comment", "source", "history")
        attrs = {**{k: v for k, v in attrs.items() if k in kept}, **own}
        said.append(f"{name}: " + " ".join(done))
    ds[name] = (("time", "basin"), values, {**attrs, "units": ours})
    return ds


def _area(ds, what: str, where: str) -> np.ndarray:
    if "area_km2" not in ds:
        raise ValueError(
            f"{what} is a volume and needs the basins' areas, found {_candidates(ds, 'area_km2')}; give the attribute "
            "area_km2, or say it with names (--names area_km2=VARIABLE[km2], or a number for one basin)."
        )
    area = ds["area_km2"].values.astype(np.float64)
    bad = ~((area > 0) & np.isfinite(area))
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"{what} is a volume and needs areas above 0, found {area[at]:g} km2 in basin {ds['basin'].values[at]} "
            f"({int(bad.sum())} such basins); complete area_km2 of {where}, or leave those basins out."
        )
    return area


def _candidates(ds, name: str) -> str:
    """What may be an attribute and was not taken for it."""
    may = [v for v in ds.variables if ds[v].dims == ("basin",) and meaning(v, ds[v]) == name]
    return (
        f"{may[0]} without a unit" if len(may) == 1 else f"{listed(may)} and nothing that says which" if may else "none"
    )


def _with_pet(ds, method: str, where: str, step: int, demand: str, temperatures: dict) -> xr.Dataset:
    if not isinstance(method, str) or method not in PET_METHODS:
        raise ValueError(
            f"pet must be one of {', '.join(sorted(PET_METHODS))} for {where}, found {method!r}; choose one."
        )
    if "lat" not in ds.variables:
        raise ValueError(
            f"{where} must hold lat to compute {demand} by {method}, found {_candidates(ds, 'lat')}; add lat over "
            f"basin, or a variable {demand}, or give it with names (--names lat=VARIABLE, or a number for one basin)."
        )
    result = potential_evapotranspiration(
        method,
        **{name: _celsius(ds[other], where) for name, other in temperatures.items() if other in ds},
        lat_degrees=ds["lat"].values,
        elevation=ds["elev_mean"].values if "elev_mean" in ds else None,
    )
    ds = ds.drop_vars(demand, errors="ignore")
    ds[demand] = result.assign_attrs({**attributes_at("pet", step), **pet_attributes(method, step)})
    return ds


def _celsius(temperature: xr.DataArray, where: str) -> xr.DataArray:
    """In degC, whatever a model's table says."""
    values, unit = temperature.values.astype(np.float64), temperature.attrs["units"]
    if not is_ours(unit, "degC"):
        values, _ = convert(values, unit, "degC", f"{temperature.name} of {where}")
    return temperature.copy(data=values)
