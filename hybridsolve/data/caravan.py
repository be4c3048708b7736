"""Caravan: a community dataset of basins all over the world, in its published folder layout.

Kratzert et al. 2023, Sci. Data 10:61. One file a basin, ``timeseries/netcdf/<source>/<source>_<id>.nc``,
ERA5-Land forcing aggregated from hours to the local day, discharge of the source datasets; attributes as CSV
tables in ``attributes/<source>/``.

What to know of these data: ERA5-Land's own potential evaporation (`potential_evaporation_sum`, in newer
versions `potential_evaporation_sum_ERA5_LAND`) is known to be far too high, so that it is taken only when
asked for by name; newer versions add one by FAO Penman-Monteith. Radiation is NET shortwave and NET longwave.
Records differ in length from basin to basin: the union of days is given, NaN where a basin has none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .dataset import assemble, float_dtype, parse_period, period_slice, resolve_basins
from .names import SERIES
from .netcdf import open_netcdf
from .pet import PET_METHODS, pet_attributes, potential_evapotranspiration
from .tables import attribute_table
from .times import DAY
from .values import numbers, refuse_codes

_NAMES = {
    "prcp": "total_precipitation_sum",
    "tmean": "temperature_2m_mean",
    "tmin": "temperature_2m_min",
    "tmax": "temperature_2m_max",
    "qobs": "streamflow",
}
_NET_SOLAR, _NET_THERMAL = "surface_net_solar_radiation_mean", "surface_net_thermal_radiation_mean"
# methods that are columns of the files, by the names of newer and older versions
_IN_FILE = {
    "era5-land": ("potential_evaporation_sum_ERA5_LAND", "potential_evaporation_sum"),
    "fao-penman-monteith": ("potential_evaporation_sum_FAO_PENMAN_MONTEITH",),
}
_FILE_PET = {
    "era5-land": "ERA5-Land itself; too high, see Clerc-Schwarzenbach et al. 2024, HESS 28:4219",
    "fao-penman-monteith": "Allen et al. 1998, FAO-56, computed by Caravan from ERA5-Land",
}


def read_caravan(root, *, basins=None, period=None, pet="hargreaves", source=None, dtype="float32") -> xr.Dataset:
    """Read basins of a Caravan folder.

    Parameters
    ----------
    root : path_like
        The folder that holds ``timeseries`` and ``attributes``.
    basins : None, list of str, or path_like
        Gauge ids as Caravan writes them (``camels_01013500``), or a text file with one a line.
    period : str or pair, optional
        ``"first:last"``, both days included.
    pet : {"hargreaves", "oudin", "priestley-taylor", "fao-penman-monteith", "era5-land"}
        The first three are computed here (Priestley-Taylor from Caravan's net radiation, and `ele_mt_sav` of
        HydroATLAS as elevation); the last two are taken from the files.
    source : str, optional
        One subset such as ``camels`` or ``hysets``; all of them where None.
    dtype : {"float32", "float64"}

    Returns
    -------
    xarray.Dataset, dims (time, basin)
        As `hybridsolve.data.dataset` describes; attributes of all tables over `basin`, `timezone` where
        known.

    Raises
    ------
    FileNotFoundError
        No Caravan folder, no such subset, no attribute table with the gauges' positions.
    ValueError
        Unknown basin or method, a file without a variable that is needed, a period outside the data.
    """
    dtype = float_dtype(dtype)
    root = Path(root)
    methods = sorted([*PET_METHODS, *_IN_FILE])
    if pet not in methods:
        raise ValueError(f"pet must be one of {', '.join(methods)} for Caravan, found {pet!r}; choose one.")
    folder = root / "timeseries" / "netcdf"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{root} must be a Caravan folder with timeseries/netcdf inside, found none; pass the folder "
            "that the NetCDF archive of Caravan unpacks to."
        )
    present = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if source is not None and source not in present:
        raise FileNotFoundError(
            f"source must be one of {', '.join(present) or 'the folders of timeseries/netcdf (none here)'}, "
            f"found {source!r}; choose one, or None for all."
        )
    paths = [f for name in ([source] if source else present) for f in sorted((folder / name).glob("*.nc"))]
    if not paths:
        raise FileNotFoundError(f"{folder} must hold files <source>/<source>_<id>.nc, found none; check the download.")
    available = [f.stem for f in paths]
    files = dict(zip(available, paths, strict=True))
    ids = [available[i] for i in resolve_basins(basins, available, f"Caravan in {root.name}")]
    table = _attribute_table(root, {files[i].parent.name for i in ids})
    absent = [i for i in ids if i not in table.index]
    if absent:
        raise ValueError(
            f"the attribute tables must have a row for each basin, found none for {absent[0]!r} "
            f"({len(absent)} such basins); complete attributes/<source>/attributes_other_<source>.csv."
        )
    table = table.loc[ids]
    for name in ("gauge_lat", "gauge_lon"):
        if name not in table:
            raise FileNotFoundError(
                f"the attribute tables must have the column {name}, found none; add "
                "attributes/<source>/attributes_other_<source>.csv."
            )

    where = f"the attribute tables of {root.name}"
    known = [name for name in ("gauge_lat", "gauge_lon", "area") if name in table]
    place = {name: numbers(table[name].to_numpy(), f"{name} of {where}") for name in known}

    columns = dict(_NAMES)
    if pet == "priestley-taylor":
        columns.update(solar=_NET_SOLAR, thermal=_NET_THERMAL)
    limits = None if period is None else parse_period(period)
    read = [_read_file(files[i], columns, pet, limits) for i in ids]
    first, last = min(r[0][0] for r in read), max(r[0][1] for r in read)
    time = np.arange(first, last + DAY)
    cut = slice(None) if period is None else period_slice(time, period)
    time = time[cut].astype("datetime64[ns]")
    values = {
        name: np.full((len(time), len(ids)), np.nan) for name in (*columns, *(["pet"] if pet in _IN_FILE else []))
    }
    for b, (_, days, data, _) in enumerate(read):
        at = (days - time[0].astype("datetime64[D]")).astype(int)
        for name, series in data.items():
            values[name][at, b] = series

    for name in SERIES:
        if name in values and name != "pet":
            refuse_codes(name, values[name], time, np.array(ids), f"Caravan in {root.name}")
    solar, thermal = values.pop("solar", None), values.pop("thermal", None)
    if pet in _IN_FILE:
        # upward fluxes and condensation make small negative numbers in ERA5-Land
        np.copyto(values["pet"], 0.0, where=values["pet"] < 0)
        attributes = {"method": pet, "references": _FILE_PET[pet], "comment": "negative values set to 0"}
    else:
        elevation = numbers(table["ele_mt_sav"].to_numpy(), f"ele_mt_sav of {where}") if "ele_mt_sav" in table else None
        t = {
            name: xr.DataArray(values[name], dims=("time", "basin"), coords={"time": time})
            for name in ("tmean", "tmin", "tmax")
        }
        values["pet"] = potential_evapotranspiration(
            pet,
            **t,
            rnet=None if solar is None else solar + thermal,
            elevation=elevation,
            lat_degrees=place["gauge_lat"],
        ).values
        attributes = pet_attributes(pet)

    static: dict[str, tuple[np.ndarray, dict]] = {
        str(name): (column.to_numpy(), {})
        for name, column in table.items()
        if name not in ("gauge_lat", "gauge_lon", "area")
    }
    if "area" in table:
        area = {"units": "km2", "long_name": "catchment area"}
        static["area_km2"] = (place["area"], area)
    if any(zone for *_, zone in read):
        static["timezone"] = (np.array([zone for *_, zone in read]), {"long_name": "time zone of the gauge"})
    return assemble(
        {name: values[name] for name in ("prcp", "tmean", "pet", "qobs", "tmin", "tmax")},
        basin=ids,
        time=time,
        lat=place["gauge_lat"],
        lon=place["gauge_lon"],
        static=static,
        attrs={
            "title": "Caravan, daily, ERA5-Land forcing and observed discharge",
            "source": f"Caravan, subsets {', '.join(sorted({files[i].parent.name for i in ids}))}",
            "references": "https://doi.org/10.1038/s41597-023-01975-w",
            "citation": "Kratzert et al. 2023, Sci. Data 10:61; cite also the source datasets of the discharge",
            "license": "CC BY 4.0; see the folder licenses of Caravan for each source",
            "day_boundary": "as in source: hours of ERA5-Land aggregated to the gauge's local day, at a "
            "fixed offset from UTC through the year; the day of the discharge is that of its agency",
        },
        dtype=dtype,
        pet_attrs=attributes,
    )


def _read_file(file: Path, columns: dict[str, str], pet: str, limits):
    """First and last day of a file; within `limits` its days and series; and its time zone.

    Cut here, and kept in the precision of the file: thousands of basins since 1950 are many gigabytes.
    """
    with open_netcdf(file, "a time series of Caravan") as ds:
        if "date" not in ds.coords:
            raise ValueError(f"{file} must have the coordinate date, found {', '.join(map(str, ds.coords))}; check it.")
        wanted = dict(columns)
        if pet in _IN_FILE:
            named = [name for name in _IN_FILE[pet] if name in ds]
            if not named:
                raise ValueError(
                    f"{file} must hold {_IN_FILE[pet][0]} for pet={pet!r}, found none; choose a method that "
                    "is computed, such as hargreaves."
                )
            wanted["pet"] = named[0]
        for name in wanted.values():
            if name not in ds:
                raise ValueError(
                    f"{file} must hold the variable {name!r}, found {', '.join(map(str, ds.data_vars))}; "
                    "check the version of Caravan or choose another pet method."
                )
        days = ds["date"].values.astype("datetime64[D]")
        if len(days) == 0 or (np.diff(days) <= np.timedelta64(0)).any():
            raise ValueError(f"{file} must hold sorted days without repetition, found otherwise; download it again.")
        span = (days[0], days[-1])
        cut = slice(None)
        if limits is not None:
            low, high = (np.datetime64(day, "D") for day in limits)
            cut = slice(int(np.searchsorted(days, low)), int(np.searchsorted(days, high, side="right")))
        data = {name: ds[column].values[cut] for name, column in wanted.items()}
        return span, days[cut], data, str(ds.attrs.get("Timezone", ""))


def _attribute_table(root: Path, sources: set[str]) -> pd.DataFrame:
    """All attribute tables of the subsets, one row a basin; positions first."""
    parts = []
    for source in sorted(sources):
        tables = []
        for kind in ("other", "caravan", "hydroatlas"):
            file = root / "attributes" / source / f"attributes_{kind}_{source}.csv"
            if file.is_file():
                tables.append(attribute_table(file))
        if not tables:
            raise FileNotFoundError(
                f"attributes/{source}/attributes_other_{source}.csv was expected in {root} and is not there; "
                "unpack the attributes of Caravan beside the time series."
            )
        joined = pd.concat(tables, axis=1)
        parts.append(joined.loc[:, ~joined.columns.duplicated()])  # some versions repeat the position in two tables
    return pd.concat(parts)
