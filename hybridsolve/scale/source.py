"""The forcing of a continental run: found by name, checked before anything is read, then read block by block.

Values are unpacked and converted to the model's units in one pass, ``a x + b`` in float32, which is all that CF's
packing and the conversion of a rate or a temperature are.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..climate import stored_climate
from ..data.dataset import attributes_at, period_slice
from ..data.ids import refuse_duplicates, text_ids
from ..data.names import parse_names
from ..data.netcdf import is_zarr, open_netcdf, open_zarr
from ..data.opening import SeriesSource, recognised
from ..data.steps import bounds_name, check_times, step_seconds
from ..data.times import as_steps
from ..data.units import convert, is_ours
from ..data.usable import static_inputs
from ..spec import ModelSpec, Variable

WHAT = "forcing of basins over time"


@dataclass(frozen=True)
class Series:
    """A variable as it is stored, with what makes it the model's forcing: ``factor * stored + shift``."""

    stored: xr.DataArray
    factor: float
    shift: float
    missing: float | None

    def read(self, rows: slice, basins: slice) -> np.ndarray:
        """Values float32 ``[T, B]``, or ``[T, M, B]`` with members."""
        x = self.stored[{"time": rows, "basin": basins}].values
        if x.dtype == np.float32 and (self.factor, self.shift) == (1.0, 0.0) and self.missing is None:
            return np.ascontiguousarray(x)
        from ._unpack import unpack

        x = np.ascontiguousarray(x, dtype=x.dtype if x.dtype.kind in "iu" or x.dtype.itemsize > 2 else np.float32)
        x = x.astype(x.dtype.newbyteorder("="), copy=False)
        out = np.empty(x.shape, np.float32)
        unpack(x.ravel(), self.factor, self.shift, np.nan if self.missing is None else self.missing, out.ravel())
        return out


@dataclass(frozen=True)
class Source:
    """A forcing, not yet read.

    Attributes
    ----------
    series : dict of str to Series
        By the model's name of the forcing.
    time : datetime64 ``[T]``
        Start of each step of `step` seconds.
    basins : ndarray of str ``[B]``
    members : int
        Of the ensemble; 0 where the forcing has none.
    static : xarray.Dataset
        What the file says of each basin.
    chunk : (int, int)
        Steps and basins that are stored together.
    """

    series: dict[str, Series]
    time: np.ndarray
    step: int
    basins: np.ndarray
    members: int
    static: xr.Dataset
    chunk: tuple[int, int]
    path: str

    def read(self, rows: slice, basins: slice) -> dict[str, np.ndarray]:
        """Every forcing of some steps and basins."""
        return {name: series.read(rows, basins) for name, series in self.series.items()}

    def inputs(self, model: ModelSpec, fitted: xr.Dataset) -> dict[str, np.ndarray]:
        """The static inputs of the model, of which some may be stored with what was fitted."""
        return static_inputs(stored_climate(self.static, model, fitted), model.inputs) if model.inputs else {}

    @property
    def end(self) -> np.datetime64:
        """The end of the last step."""
        return np.datetime64(self.time[-1] + np.timedelta64(self.step, "s"))

    def row_of(self, start: np.datetime64) -> int:
        """The row of the step that starts then, which may lie before the first."""
        return int((start - self.time[0]) // np.timedelta64(self.step, "s"))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must not change while a run goes on."""
        about = {name: [s.factor, s.shift, str(s.stored.dtype)] for name, s in self.series.items()}
        ids = hashlib.sha256("\n".join(self.basins.tolist()).encode()).hexdigest()[:16]
        return dict(series=about, basins=ids, members=self.members, step=self.step)


def open_source(path: str, model: ModelSpec, names: str | None = None, period: str | None = None) -> Source:
    """Find a model's forcing in a file and check all that can be known without reading it.

    Parameters
    ----------
    path : str
        A Zarr store, a NetCDF file, or a pattern of such files that follow one another in time.
    names : str, optional
        As for `hybridsolve.data.open_dataset`.
    period : str, optional
        All of the data if left out.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    ValueError
        A variable is missing or has another unit, the calendar is another, time has gaps or repeats, an id repeats, or
        a chunk of the store was never written.
    """
    where = Path(path).name
    asked = parse_names(names, model.forcing_names)
    ds = _opened(path)
    rows: dict[str, Variable] = {v.name: v for v in model.forcings}
    one = ds.isel(member=0) if "member" in ds.dims else ds
    found, read = recognised(one, where, Path(path).stem, asked, rows, None, [])
    absent = [name for name in rows if name not in found]
    if absent:
        raise ValueError(
            f"{where} must hold every forcing of {model.name}, found none of {', '.join(absent)}; compute it first, as "
            "hybridsolve.data.open_dataset does, and store it."
        )
    given = found["time"].values
    bounds = bounds_name(found)
    time = as_steps(found[[] if bounds is None else [bounds]].assign_coords(time=found["time"]), where)
    if time.sizes["time"] != len(given):
        check_times(np.sort(given), f"time of {where}", step=np.timedelta64(step_seconds(time), "s"), gaps=False)
        raise ValueError(f"time of {where} must have no gaps, found {time.sizes['time'] - len(given)} steps missing.")
    starts, step = time["time"].values, step_seconds(time)
    check_times(starts, f"time of {where}", step=np.timedelta64(step, "s"), gaps=False)
    model.check_step(step)
    ids = text_ids(found["basin"].values, f"basins of {where}")
    refuse_duplicates(ids, f"basins of {where}")
    chosen = slice(0, len(starts)) if period is None else period_slice(starts, period)
    found = found.assign_coords(time=starts).isel(time=chosen)
    stored = {name: _with_members(ds[read[name].variable], found[name], chosen) for name in rows}
    members = {int(x.sizes.get("member", 0)) for x in stored.values()}
    if len(members) > 1:
        raise ValueError(
            f"all forcings of {where} must have the same members, found {members}; repeat those without any."
        )
    series = {name: _series(stored[name], read[name], name, row, where, step) for name, row in rows.items()}
    static = ds_static(found)
    chunk = (max(_chunk(x, "time") for x in stored.values()), max(_chunk(x, "basin") for x in stored.values()))
    _refuse_lost_chunks(path, {name: read[name].variable for name in rows})
    return Source(series, found["time"].values, step, ids, members.pop(), static, chunk, path)


def _with_members(given: xr.DataArray, found: xr.DataArray, rows: slice) -> xr.DataArray:
    """A variable by our names of its dimensions, with its members, if it has any."""
    if "member" not in given.dims:
        return found
    ours = dict(zip((d for d in given.dims if d != "member"), found.dims, strict=True))
    return given.rename({d: name for d, name in ours.items() if d != name}).isel(time=rows)


def ds_static(ds: xr.Dataset) -> xr.Dataset:
    """The variables over basins alone, as they are meant."""
    names = [v for v in ds.variables if ds[v].dims == ("basin",)]
    return xr.decode_cf(ds[names].drop_vars("time", errors="ignore"), decode_times=False)


def _opened(path: str) -> xr.Dataset:
    files = sorted(glob.glob(path)) or [path]
    opened = []
    for name in files:
        file = Path(name)
        open_file = open_zarr if file.is_dir() and is_zarr(file) else open_netcdf
        opened.append(open_file(file, WHAT, mask_and_scale=False, decode_timedelta=False))
    if len(opened) == 1:
        return opened[0]
    dims = [next((str(d) for d in ds.dims if "time" in str(d).lower()), "time") for ds in opened]
    try:
        lazy = [ds.chunk() for ds in opened]
        return xr.concat(lazy, dims[0], data_vars="minimal", coords="minimal", compat="override", join="exact")
    except ValueError as error:
        raise ValueError(
            f"the files of {path} must have the same basins and variables and follow one another in time, found that "
            f"they do not ({error}); name those that do."
        ) from error


def _series(x: xr.DataArray, said: SeriesSource, name: str, row: Variable, where: str, step: int) -> Series:
    what = f"{name} ('{said.variable}' of {where})"
    dims = ("time", "member", "basin") if "member" in x.dims else ("time", "basin")
    if set(x.dims) != set(dims):
        raise ValueError(
            f"{what} must have a value for each basin and step, found dimensions {x.dims}; select one of the others."
        )
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise ValueError(f"{what} must be numbers, found {x.dtype}; convert it.")
    ours = attributes_at(name, step, row)["units"]
    if said.unit is None:
        raise ValueError(f"{what} has no unit, expected one such as '{ours}'; set its attribute units.")
    factor, shift = float(x.attrs.get("scale_factor", 1.0)), float(x.attrs.get("add_offset", 0.0))
    if not is_ours(said.unit, ours):

        def refuse_volume() -> np.ndarray:
            raise ValueError(f"{what} is a volume in '{said.unit}', expected a depth in '{ours}'; divide it by areas.")

        two, _ = convert(
            np.array([[0.0], [1.0]]), said.unit, ours, what, summed=said.summed, step_seconds=step, area=refuse_volume
        )
        unit_shift, unit_factor = float(two[0, 0]), float(two[1, 0] - two[0, 0])
        factor, shift = factor * unit_factor, shift * unit_factor + unit_shift
    stored = x.attrs.get("_FillValue", x.attrs.get("missing_value"))
    missing = None if stored is None or np.isnan(stored) else float(stored)
    return Series(x.transpose(*dims), factor, shift, missing)


def _chunk(x: xr.DataArray, dim: str) -> int:
    preferred: Mapping[str, int] = x.encoding.get("preferred_chunks") or {}
    sizes = x.encoding.get("chunks") or x.encoding.get("chunksizes")
    if dim in preferred:
        return int(preferred[dim])
    if sizes is not None and len(sizes) == x.ndim:
        return int(dict(zip(x.dims, sizes, strict=True)).get(dim, 1))
    return 1


def _refuse_lost_chunks(path: str, variables: Mapping[str, str]) -> None:
    """Raise if a chunk of a store was never written, where what then stands for it is no number."""
    for name in sorted(glob.glob(path)) or [path]:
        if not (Path(name).is_dir() and is_zarr(Path(name))):
            continue
        import zarr

        group = zarr.open_group(name, mode="r")
        for forcing, variable in variables.items():
            array = group[variable]
            if not isinstance(array, zarr.Array) or array.nchunks_initialized == array.nchunks:
                continue
            blank, marked = array.fill_value, array.attrs.get("_FillValue", array.attrs.get("missing_value"))
            if blank is None or blank != blank or blank == marked:
                raise ValueError(
                    f"{forcing} ('{variable}' of {Path(name).name}) must be whole, found {array.nchunks_initialized} "
                    f"of its {array.nchunks} chunks written; complete the store."
                )
