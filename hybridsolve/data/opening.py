"""Opening basin data of any kind we know, as one dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from .camels import read_camels
from .caravan import read_caravan
from .dataset import VARIABLES, _check_units, _float_dtype, resolve_basins, select_period
from .fulda import read_fulda
from .pet import PET_METHODS, pet_attributes, potential_evapotranspiration
from .times import as_days


def open_dataset(
    path_or_dir, *, basins=None, period=None, pet=None, dtype="float32", day_ends=None, utc_offset=None
) -> xr.Dataset:
    """Open basin data of any kind we know, as a dataset of the convention, in memory.

    Parameters
    ----------
    path_or_dir : path_like or "fulda"
        A NetCDF file in our own convention (`prcp`, `tmean`, and `pet` or `tmin`, `tmax`, `lat`; either dim
        order), the CAMELS pack (dim `gauge_id`), a Caravan folder (with ``timeseries/netcdf``), or the word
        ``fulda``.
    basins : None, list of str, or path_like
        Ids to take, or a text file with one id a line.
    period : str or pair, optional
        ``"first:last"``, both days included.
    pet : str, optional
        Method; the reader's own default where None. A `pet` already in a file is kept where None, and
        computed anew where a method is named.
    dtype : {"float32", "float64"}
    day_ends : str, optional
        When the days of a file without CF bounds end, if its stamps do not say it: "09:00" (each runs from 09:00 of its
        date to 09:00 of the next), "stamp", or "stamp+09:00"; see `hybridsolve.data.times`.
    utc_offset : float, optional
        Hours of the file's clock ahead of UTC; kept with the data.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    FileNotFoundError
        No such file or folder.
    ValueError
        Not one of these kinds, or one of the errors of the reader.
    """
    chosen = {} if pet is None else {"pet": pet}
    days = {"day_ends": day_ends, "utc_offset": utc_offset}
    if str(path_or_dir) == "fulda":
        ds = read_fulda(dtype=dtype, **chosen)
        ds = ds.isel(basin=resolve_basins(basins, ds["basin"].values, "the Fulda example"))
        return as_days(select_period(ds, period), "the Fulda example", **days)
    path = Path(path_or_dir)
    kinds = "a NetCDF file of our convention, the CAMELS pack, a Caravan folder or the word 'fulda'"
    if path.is_dir():
        if not (path / "timeseries" / "netcdf").is_dir():
            raise ValueError(
                f"{path} must be a Caravan folder with timeseries/netcdf inside, found none; expected {kinds}."
            )
        return as_days(read_caravan(path, basins=basins, period=period, dtype=dtype, **chosen), str(path), **days)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected {kinds}; check the path.")
    try:
        source = xr.open_dataset(path, engine="netcdf4")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} could not be read as NetCDF ({error}), expected {kinds}; check the file.") from error
    with source:
        if "gauge_id" not in source.dims:
            return _own_file(source, path, basins, period, pet, _float_dtype(dtype), days)
    return as_days(read_camels(path, basins=basins, period=period, dtype=dtype, **chosen), path.name, **days)


def _own_file(source, path, basins, period, pet, dtype, days) -> xr.Dataset:
    for dim in ("time", "basin"):
        if dim not in source.dims or dim not in source.coords:
            raise ValueError(
                f"{path} must have dimensions and coordinates time and basin, found dims "
                f"{', '.join(map(str, source.dims))}; rename them as the convention says."
            )
    for name in ("prcp", "tmean"):
        if name not in source:
            raise ValueError(
                f"{path} must hold the variable {name!r}, found {', '.join(map(str, source.data_vars))}; add "
                "or rename it."
            )
    ds = source.isel(basin=resolve_basins(basins, source["basin"].values, path.name))
    ds = select_period(as_days(ds, path.name, **days), period).load()
    # a string type of the file (vlen or characters) becomes plain numpy text
    ds = ds.assign_coords(basin=ds["basin"].copy(data=ds["basin"].values.astype(str)))
    ds = ds.transpose("time", "basin", ...)
    if pet is not None or "pet" not in ds:
        method = "hargreaves" if pet is None else pet
        if method not in PET_METHODS:
            raise ValueError(
                f"pet must be one of {', '.join(sorted(PET_METHODS))} for {path}, found {method!r}; choose one."
            )
        if "lat" not in ds.variables:
            raise ValueError(
                f"{path} must hold lat to compute pet by {method}, found none; add lat over basin, or a variable pet."
            )
        values = {}
        for name in ("tmean", "tmin", "tmax"):
            if name in ds:
                _check_units(name, ds[name])  # before a Kelvin goes into a formula for Celsius
                values[name] = ds[name].astype("float64")
        result = potential_evapotranspiration(
            method,
            **values,
            lat_degrees=ds["lat"].values,
            elevation=ds["elev_mean"].values if "elev_mean" in ds else None,
        )
        ds["pet"] = result.astype(dtype).assign_attrs({**VARIABLES["pet"], **pet_attributes(method)})
    for name in VARIABLES:
        if name in ds:
            ds[name] = ds[name].astype(dtype).copy(data=np.ascontiguousarray(ds[name].values, dtype=dtype))
    return ds
