"""Tables of river networks from files, as the ids of reaches, the ids that they flow to, and attributes by name.

Sources: David et al. (2011, doi 10.1175/2011JHM1345.1) for RAPID's tables; the National Water Model's RouteLink for its
names.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from .checks import reach_ids

ROUTELINK = {
    "length": "Length",
    "slope": "So",
    "n": "n",
    "k": "MusK",
    "x": "MusX",
    "bottom_width": "BtmWdth",
    "side_slope": "ChSlp",
    "top_width": "TopWdth",
    "top_width_cc": "TopWdthCC",
    "n_cc": "nCC",
    "alt": "alt",
    "lon": "lon",
    "lat": "lat",
    "waterbody": "NHDWaterbodyComID",
}
SAVED = ("ids", "downstream", "order")  # what a saved network has beside its attributes


def read_routelink(path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """See `RiverNetwork.from_routelink`."""
    table = _read_netcdf(path, "a RouteLink file with link and to", ("link", "to"))
    attributes = {name: table[theirs].values for name, theirs in ROUTELINK.items() if theirs in table.variables}
    ids, to = (reach_ids(table[name].values, f"{name} of {path}", nan=0) for name in ("link", "to"))
    return ids, to, attributes


def read_rapid(rapid_connect_csv, k_csv, x_csv) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """See `RiverNetwork.from_rapid`."""
    table = _read_csv(rapid_connect_csv, np.int64, "rows of id, downstream id, number upstream, upstream ids")
    if table.shape[1] < 3:
        raise ValueError(
            f"{rapid_connect_csv} must have 3 columns or more, id, downstream id and number upstream; found "
            f"{table.shape[1]}: check the file."
        )
    ids, to, above = table[:, 0], table[:, 1], table[:, 3:]
    flowing, used = np.isin(to, ids), above != 0
    ends = np.stack([ids, to])[:, flowing]
    again = np.stack([above[used], np.repeat(ids, used.sum(1))])
    if not np.array_equal(ends[:, np.lexsort(ends)], again[:, np.lexsort(again)]):
        once, twice = (Counter(map(tuple, x.T.tolist())) for x in (ends, again))
        up, down = min((once - twice) | (twice - once))
        raise ValueError(
            f"{rapid_connect_csv} must list each reach once, upstream of the one it flows to; found {up} and "
            f"{down}, of which only one names the other: correct one of the two rows."
        )
    k = _read_csv(k_csv, np.float64, "k of one reach a row").ravel()
    x = _read_csv(x_csv, np.float64, "x of one reach a row").ravel()
    return ids, to, dict(k=k, x=x)


def write_saved(path, arrays: dict[str, np.ndarray], fingerprint: str) -> Path:
    """See `RiverNetwork.save`."""
    import xarray as xr

    from ..data.netcdf import write_netcdf

    file = xr.Dataset({name: ("reach", x) for name, x in arrays.items()})
    file.attrs.update(title="hybridsolve river network", fingerprint=fingerprint, checksum=_checksum(arrays))
    return write_netcdf(file, path)


def read_saved(path) -> dict[str, np.ndarray]:
    """The arrays that `write_saved` wrote, unchanged."""
    file = _read_netcdf(path, "a network written by RiverNetwork.save", SAVED, mask_and_scale=False)
    arrays = {name: x.values for name, x in file.data_vars.items()}
    if file.attrs.get("checksum") != _checksum(arrays):
        raise ValueError(
            f"{path} must hold what RiverNetwork.save wrote, by its checksum; found other values, so it is damaged "
            "or was changed: save the network anew."
        )
    return arrays


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        x = arrays[name]
        total.update(f"{name} {x.dtype.str[1:]} {x.shape}".encode())
        total.update(x.astype(x.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


def _read_netcdf(path, expected: str, names: tuple[str, ...], **options):
    """A NetCDF file as an xarray dataset in memory, which has these variables."""
    from ..data.netcdf import load_netcdf

    table = load_netcdf(path, expected, **options)
    missing = [name for name in names if name not in table.variables]
    if missing:
        raise ValueError(f"{path} must be {expected}; found no {', '.join(missing)} in it: check the file.")
    return table


def _read_csv(path, dtype, expected: str) -> np.ndarray:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist, expected {expected}; check the path.")
    try:
        return np.loadtxt(path, dtype=dtype, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        reason = str(error).split("\n")[0].split("; ")[0].rstrip(".")
        raise ValueError(f"{path} could not be read as a table ({reason}), expected {expected}; check it.") from error
