"""Opening NetCDF files, and writing results with their provenance."""

from __future__ import annotations

import re
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import __version__
from .._extras import needed_for
from .files import write_atomic
from .times import CF_UNITS

_COMPRESS_ABOVE = 100_000  # elements; below it the chunk overhead costs more than it saves
_RAISED = (OSError, RuntimeError, ValueError, TypeError, OverflowError)  # by the netCDF library and the decoding


def open_netcdf(path: str | Path, expected: str, **options: Any) -> xr.Dataset:
    """Open a NetCDF file lazily; what goes wrong is one sentence that names the file.

    Parameters
    ----------
    path : path_like
    expected : str
        What the file should be, for messages: "a restart file of `hybridsolve route`".
    **options
        Of `xarray.open_dataset`.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not NetCDF, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {found}, expected {expected}; check the path.")
    return _opened(path, expected, engine="netcdf4", **options)


def need_engine(path: str | Path, engine: str) -> None:
    """Raise where what xarray needs for a kind of file is not installed."""
    with needed_for(str(path)):
        import_module({"netcdf4": "netCDF4"}.get(engine, engine))


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store, of format 3 or 2."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def open_zarr(path: Path, expected: str, **options: Any) -> xr.Dataset:
    """Open a Zarr store lazily, as `open_netcdf` does a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata", RuntimeWarning)
        return _opened(path, expected, engine="zarr", **options)


def _opened(path: Path, expected: str, engine: str, **options: Any) -> xr.Dataset:
    need_engine(path, engine)
    try:
        with warnings.catch_warnings():  # dates of other calendars are told by who reads them (`times.standard_time`)
            warnings.filterwarnings("ignore", "Unable to decode time axis", xr.SerializationWarning)
            return xr.open_dataset(path, engine=engine, **options)
    except _RAISED as error:
        reason = _first_line(error)
        units = re.search(r"unable to decode time units (.+?)(?:\. |$)", reason)
        if units:
            raise ValueError(
                f"{path} must tell its times by units such as 'days since 2000-01-01' and a calendar of CF, found "
                f"{units[1]}; correct these attributes, or values that are no such times, in the file."
            ) from error
        raise ValueError(_unreadable(path, reason, expected)) from error


def load_netcdf(path: str | Path, expected: str, **options: Any) -> xr.Dataset:
    """As `open_netcdf`, but all in memory and the file closed."""
    with open_netcdf(path, expected, **options) as file:
        return loaded(file, path, expected)


def loaded(ds: xr.Dataset, path: str | Path, expected: str) -> xr.Dataset:
    """The dataset with its values in memory; a part of the file that cannot be read is one sentence that names it."""
    try:
        return ds.load()
    except _RAISED as error:
        raise ValueError(_unreadable(path, _first_line(error), expected)) from error


def _unreadable(path: str | Path, reason: str, expected: str) -> str:
    return f"{path} could not be read as NetCDF ({reason}), expected {expected}; check the file."


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def write_netcdf(
    ds: xr.Dataset,
    path: str | Path,
    *,
    command: str | None = None,
    seed: int | None = None,
    citation: str | Sequence[str] | None = None,
) -> Path:
    """Write a dataset as NetCDF-4, atomically and with provenance.

    The values are written as they are in memory: packing left over from an input file (``scale_factor`` and
    the like) is dropped. Numeric variables of more than 100,000 elements are compressed (zlib level 1).

    Parameters
    ----------
    ds : xarray.Dataset
        Not modified.
    path : path_like
        Target; an existing file is replaced only once the new one is whole.
    command : str, optional
        What made the data; the running command line where not given.
    seed : int, optional
        Seed of the random numbers; recorded as "none" where not given.
    citation : str or list of str, optional
        Citations of data and models used, added to the dataset's own.

    Returns
    -------
    pathlib.Path
        The path written.

    Raises
    ------
    OSError
        The folder does not exist, is not writable, or the disk is full; the former file is untouched.
    """
    path = Path(path)
    need_engine(path, "netcdf4")
    out = ds.drop_encoding()
    bounds = out["time"].attrs.get("bounds") if "time" in out.variables else None
    bounds = bounds if bounds in out.variables else None
    if bounds in out.coords:
        out = out.reset_coords(bounds)  # CF: named by time:bounds, not in a `coordinates` attribute
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if command is None:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv and sys.argv[0] else "interactive"
    out.attrs.setdefault("Conventions", "CF-1.11")
    before = out.attrs.get("history")
    out.attrs.update(
        history=(f"{before}\n" if before else "") + f"{now} {command}",
        hybridsolve_version=__version__,
        torch_version=metadata.version("torch"),
        numpy_version=np.__version__,
        command=command,
        seed="none" if seed is None else int(seed),
        created=now,
    )
    if citation is not None:
        cited = [citation] if isinstance(citation, str) else list(citation)
        own = out.attrs.get("citation")
        out.attrs["citation"] = "; ".join(dict.fromkeys(([own] if own else []) + cited))

    encoding = {}
    for name, variable in out.variables.items():
        enc: dict[str, Any] = {}
        if variable.dtype.kind in "fiub" and variable.size > _COMPRESS_ABOVE:
            enc.update(zlib=True, complevel=1)
        if name in out.coords or name == bounds:
            enc["_FillValue"] = None  # CF: coordinates have no missing values
        if name == "time" and np.issubdtype(variable.dtype, np.datetime64) and variable.size:
            # said here, for both: xarray would choose the units of time and of its bounds separately
            both = [out[n].values.ravel() for n in ("time", bounds) if n and out[n].dtype.kind == "M"]
            enc.update(units=_time_units(np.concatenate(both)), dtype="int64")
        encoding[name] = enc
    write_atomic(path, lambda temp: out.to_netcdf(temp, engine="netcdf4", encoding=encoding))
    return path


def _time_units(values: np.ndarray) -> str:
    """CF units in which all values are whole numbers."""
    origin = values.min().astype("datetime64[D]")
    for unit, length in CF_UNITS:
        if not ((values - origin) % np.timedelta64(1, length)).astype("int64").any():
            return f"{unit} since {origin}"
    return f"nanoseconds since {origin}"
