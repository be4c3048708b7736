"""Opening NetCDF files, and writing results: whole or not at all, and with their provenance.

A file is written under a temporary name in the same folder, flushed to the disk, and moved over the old one
in one step (`os.replace` is atomic within a file system), so that a killed run or a full disk never leaves
half a file or destroys the previous result.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import xarray as xr

from .files import refuse_special

_COMPRESS_ABOVE = 100_000  # elements; below it the chunk overhead costs more than it saves


def open_netcdf(path, expected: str, **options) -> xr.Dataset:
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
        raise FileNotFoundError(f"{path} does not exist, expected {expected}; check the path.")
    try:
        with warnings.catch_warnings():  # dates of other calendars are told by who reads them (`times.standard_time`)
            warnings.filterwarnings("ignore", "Unable to decode time axis", xr.SerializationWarning)
            return xr.open_dataset(path, engine="netcdf4", **options)
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:  # what the netCDF library raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        units = re.search(r"unable to decode time units (.+?)(?:\. |$)", reason)
        if units:
            raise ValueError(
                f"{path} must tell its times by units such as 'days since 2000-01-01' and a calendar of CF, found "
                f"{units[1]}; correct these attributes, or values that are no such times, in the file."
            ) from error
        raise ValueError(
            f"{path} could not be read as NetCDF ({reason}), expected {expected}; check the file."
        ) from error


def load_netcdf(path, expected: str, **options) -> xr.Dataset:
    """As `open_netcdf`, but all in memory and the file closed."""
    with open_netcdf(path, expected, **options) as file:
        return loaded(file, path, expected)


def loaded(ds: xr.Dataset, path, expected: str) -> xr.Dataset:
    """The dataset with its values in memory; a part of the file that cannot be read is one sentence that names it."""
    try:
        return ds.load()
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} could not be read as NetCDF ({reason}), expected {expected}; check the file."
        ) from error


def write_netcdf(ds: xr.Dataset, path, *, command=None, seed=None, citation=None) -> Path:
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
        hybridsolve_version=_version("hybridsolve"),
        torch_version=_version("torch"),
        numpy_version=_version("numpy"),
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
        enc = {}
        if variable.dtype.kind in "fiub" and variable.size > _COMPRESS_ABOVE:
            enc.update(zlib=True, complevel=1)
        if name in out.coords or name == bounds:
            enc["_FillValue"] = None  # CF: coordinates have no missing values
        if name == "time" and np.issubdtype(variable.dtype, np.datetime64) and variable.size:
            # said here, for both: xarray would choose the units of time and of its bounds separately
            both = [out[n].values.ravel() for n in ("time", bounds) if n and out[n].dtype.kind == "M"]
            enc.update(units=_time_units(np.concatenate(both)), dtype="int64")
        encoding[name] = enc
    _atomically(path, lambda temp: out.to_netcdf(temp, engine="netcdf4", encoding=encoding))
    return path


def write_text_atomic(path, text: str) -> Path:
    """Write a text file (UTF-8, newlines as given) atomically; errors as in `write_netcdf`."""
    path = Path(path)
    _atomically(path, lambda temp: temp.write_bytes(text.encode("utf-8")))
    return path


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder of {path} must exist, found none; create {path.parent} or choose another path."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file to write, found a folder; add a file name to the path.")
    refuse_special(path)
    temp = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write(temp)
        with open(temp, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temp, path)
    except (OSError, RuntimeError) as error:
        # a full disk comes out of the HDF5 library as RuntimeError("NetCDF: HDF error")
        free = shutil.disk_usage(path.parent).free / 2**20
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise OSError(
            f"could not write {path} ({reason}; {free:.0f} MiB free in its folder), nothing was changed "
            "there; free space or permissions on that disk, or choose another path."
        ) from error
    finally:
        temp.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform allows to open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse this; the file itself is already safe
    finally:
        os.close(handle)


def _time_units(values: np.ndarray) -> str:
    """CF units in which all values are whole numbers."""
    origin = values.min().astype("datetime64[D]")
    for unit, length in (("days", "D"), ("hours", "h"), ("seconds", "s")):
        if not ((values - origin) % np.timedelta64(1, length)).astype("int64").any():
            return f"{unit} since {origin}"
    return f"nanoseconds since {origin}"


def _version(package: str) -> str:
    # from the metadata: this module must import neither torch nor the package above it
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
