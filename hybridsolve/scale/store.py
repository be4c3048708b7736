"""What a continental run writes: Zarr stores of format 3, which xarray and zarr open at any time.

A run writes a segment; days that are appended later are a segment of their own, and no segment is opened again once it
is complete. A chunk of a store is a window of time, and is written once, aside, and renamed by zarr. Where a run has
not come yet, values are NaN and the attribute `complete` is 0.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

EPOCH = np.datetime64("1970-01-01T00:00:00")


@dataclass(frozen=True)
class Output:
    """A series that is written.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Time first, then "member" where there are members, then "basin", "unit" or "reach".
    sizes : tuple of int
    chunks : tuple of int
    attrs : mapping
        Of integers also CF's `scale_factor`, `add_offset` and `_FillValue`.
    dtype : str
    """

    name: str
    dims: tuple[str, ...]
    sizes: tuple[int, ...]
    chunks: tuple[int, ...]
    attrs: Mapping[str, Any]
    dtype: str = "float32"


@dataclass(frozen=True)
class Axis:
    """A coordinate: its values, and attributes of CF."""

    values: np.ndarray
    attrs: Mapping[str, Any]
    dims: tuple[str, ...]


def time_axes(name: str, start: np.ndarray, step: int, *, ends: bool = False, **attrs: str) -> dict[str, Axis]:
    """A time axis of intervals with its bounds; its stamps are their starts, or their ends."""
    seconds = ((start - EPOCH) / np.timedelta64(1, "s")).astype(np.int64)
    units = dict(units="seconds since 1970-01-01 00:00:00", calendar="standard")
    bounds = np.stack([seconds, seconds + step], 1)
    about = dict(units, standard_name="time", axis="T", bounds=f"{name}_bnds", **attrs)
    return {
        name: Axis(bounds[:, int(ends)], about, (name,)),
        f"{name}_bnds": Axis(bounds, units, (name, "bnds")),
    }


def create(
    path: Path,
    outputs: Sequence[Output],
    axes: Mapping[str, Axis],
    attrs: Mapping[str, Any],
    compress: bool,
) -> None:
    """Make a store with its coordinates and without values, aside, and rename it to `path`."""
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        group = zarr.create_group(temporary, zarr_format=3, attributes={**attrs, "complete": 0})
        for name, axis in axes.items():
            values = axis.values
            text = values.dtype.kind in "UO"
            array = group.create_array(
                name,
                shape=values.shape,
                dtype="string" if text else values.dtype,
                chunks=tuple(max(1, n) for n in values.shape),
                dimension_names=axis.dims,
                attributes=dict(axis.attrs),
                compressors=None,
            )
            array[...] = values.astype(object) if text else values
        for output in outputs:
            group.create_array(
                output.name,
                shape=output.sizes,
                chunks=output.chunks,
                dtype=output.dtype,
                dimension_names=output.dims,
                attributes=dict(output.attrs),
                compressors="auto" if compress else None,
                fill_value=output.attrs.get("_FillValue", np.nan),
            )
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clean(path: Path) -> None:
    """Remove what killed processes have left half written in a store, which no other process writes into."""
    for left in path.rglob("*.partial"):
        left.unlink()


def open_arrays(path: Path) -> zarr.Group:
    """The store to write into."""
    return zarr.open_group(path, mode="r+", use_consolidated=False)


def packed_as(dtype: str, scale_factor: float, add_offset: float) -> dict[str, Any]:
    """The attributes of a variable that is packed; one of the integers, the least or the largest, stands for NaN."""
    info = np.iinfo(dtype)
    fill = int(info.min if info.min else info.max)
    return dict(scale_factor=scale_factor, add_offset=add_offset, _FillValue=fill)


def write(group: zarr.Group, array: Any, where: tuple, x: np.ndarray) -> None:
    """Write values into an array of a store, packed where it holds integers.

    Raises
    ------
    ValueError
        If a value is outside the range that the integers stand for; names the place and the date.
    """
    if array.dtype.kind == "f":
        array[where] = x
        return
    from ._unpack import pack

    about, info = array.attrs, np.iinfo(array.dtype)
    fill, scale, offset = about["_FillValue"], about["scale_factor"], about["add_offset"]
    least, most = info.min + (fill == info.min), info.max - (fill == info.max)
    values, out = np.ascontiguousarray(x), np.empty(x.shape, array.dtype)
    bad = pack(values.ravel(), scale, offset, least, most, fill, out.ravel())
    if bad >= 0:
        name, dims = array.basename, array.metadata.dimension_names
        at = dict(zip(dims, np.unravel_index(bad, x.shape), strict=True))
        ids, time = (np.asarray(group[dim]) for dim in (dims[-1], "time"))
        place = ids[where[-1]][at[dims[-1]]]
        date = EPOCH + np.timedelta64(int(time[where[0]][at["time"]]), "s")
        raise ValueError(
            f"{name} must lie in [{least * scale + offset:g}, {most * scale + offset:g}] {about['units']} to be packed "
            f"as {array.dtype} by scale_factor {scale:g}, found {values.ravel()[bad]:g} in {dims[-1]} {place} on "
            f"{date}; pack it by a larger scale_factor, as int32, or not at all, in another folder."
        )
    array[where] = out


def is_complete(path: Path) -> bool:
    """Whether a store is there with all its values."""
    return path.exists() and bool(zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("complete"))


def complete(path: Path) -> None:
    """Say that a store has all its values."""
    clean(path)
    open_arrays(path).attrs["complete"] = 1


def segments(folder: Path, kind: str = "") -> list[Path]:
    """The stores of a run of one kind, in time."""
    return sorted(folder.glob(f"[0-9][0-9][0-9][0-9]{kind}.zarr"))


def consolidate(folder: str | Path, target: str | Path, kind: str = "") -> Path:
    """Join the segments of a run into one store, with one metadata file, in a new place.

    Parameters
    ----------
    folder : path_like
        Of `hybridsolve.scale.run`.
    target : path_like
        Of the store, which must not exist.
    kind : {"", ".rivers", ".days"}
        The stores of basins, those of reaches, or those of the means of local days.

    Raises
    ------
    FileExistsError
        There is something at `target`.
    ValueError
        If the folder holds no segment, or one that is not complete.
    """
    folder, target = Path(folder), Path(target)
    if target.exists():
        raise FileExistsError(f"the joined store must be new, found {target} there already; name another.")
    parts = [zarr.open_group(path, mode="r", use_consolidated=False) for path in segments(folder, kind)]
    if not parts:
        raise ValueError(
            f"{folder} must be the folder of `hybridsolve run`, found no store 0000{kind}.zarr in it; name it."
        )
    for path, part in zip(segments(folder, kind), parts, strict=True):
        if not part.attrs.get("complete"):
            raise ValueError(f"{path} must be complete, found that its run has not ended; run it to its end first.")
    outputs: list[Output] = []
    axes: dict[str, Axis] = {}
    for name, array in parts[0].arrays():
        dims = tuple(str(d) for d in array.metadata.dimension_names)  # type: ignore[union-attr]  # of format 3
        together: list[Any] = [part[name] for part in parts]
        if dims[0] == "time" and len(dims) > 1 and dims[1] != "bnds":
            n = sum(x.shape[0] for x in together)
            outputs.append(Output(name, dims, (n, *array.shape[1:]), array.chunks, dict(array.attrs), str(array.dtype)))
        else:
            joined = dims[0] == "time"
            values = np.concatenate([x[...] for x in together]) if joined else array[...]
            axes[name] = Axis(np.asarray(values), dict(array.attrs), dims)
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    try:
        create(temporary, outputs, axes, dict(parts[0].attrs), any(a.compressors for _, a in parts[0].arrays()))
        whole: Any = zarr.open_group(temporary, mode="r+", use_consolidated=False)
        for output in outputs:
            done = 0
            for part in parts:
                source: Any = part[output.name]
                for t in range(0, source.shape[0], output.chunks[0]):
                    rows = np.asarray(source[t : t + output.chunks[0]])
                    whole[output.name][done + t : done + t + len(rows)] = rows
                done += source.shape[0]
        whole.attrs["complete"] = 1
        zarr.consolidate_metadata(whole.store)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def open_run(folder: str | Path, kind: str = "") -> xr.Dataset:
    """The output of a run as one dataset, lazily: its segments one after another in time.

    Parameters
    ----------
    folder : path_like
        Of `hybridsolve.scale.run`.
    kind : {"", ".rivers", ".days"}
        What is of basins, the discharge of reaches, or its means of local days.

    Raises
    ------
    FileNotFoundError
        There is no segment.
    """
    paths = segments(Path(folder), kind)
    if not paths:
        raise FileNotFoundError(
            f"{folder} must be the folder of `hybridsolve run`, found no store 0000{kind}.zarr in it."
        )
    found = [xr.open_dataset(path, engine="zarr", chunks={}, consolidated=False) for path in paths]
    return xr.concat(found, "time", data_vars="minimal", coords="minimal", compat="override")
