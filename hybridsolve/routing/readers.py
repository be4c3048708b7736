"""Tables of river networks from files, as the ids of reaches, the ids that they flow to, and attributes by name.

Sources of names and units: David et al. (2011, doi 10.1175/2011JHM1345.1) for RAPID's tables; the National Water
Model's RouteLink; the schema of the NextGen hydrofabric 2.2, whose channels have RouteLink's columns; MERIT-Basins
(Lin et al. 2019, doi 10.1029/2019WR025287; reachhydro.org); HydroRIVERS' technical documentation 1.0 (Lehner and Grill
2013, doi 10.1002/hyp.9740).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._extras import needed_for
from ..data.ids import listed, refuse_duplicates
from .checks import look_up, reach_ids

if TYPE_CHECKING:
    import pandas as pd

Table = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]  # ids, the ids that these flow to, attributes

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
KM, KM2 = 1e3, 1e6  # m, m2
# The tables of a hydrofabric that may hold the channels' attributes: of 2.2, and before.
CHANNELS = ("flowpath-attributes", "flowpath_attributes")
WATERBODIES = ("WaterbodyID", "rl_NHDWaterbodyComID")  # the waterbody that a flowpath is part of: of 2.2, and before
MERIT = {
    "length": ("lengthkm", KM),
    "slope": ("slope", 1.0),
    "drained_area": ("uparea", KM2),
    "strahler_order": ("order", 1.0),
}
HYDRORIVERS = {
    "length": ("LENGTH_KM", KM),
    "area": ("CATCH_SKM", KM2),
    "drained_area": ("UPLAND_SKM", KM2),
    "distance_to_outlet": ("DIST_DN_KM", KM),
    "mean_discharge": ("DIS_AV_CMS", 1.0),
    "strahler_order": ("ORD_STRA", 1.0),
}
SAVED = ("ids", "downstream", "order")  # what a saved network has beside its attributes


def read_routelink(path) -> Table:
    """See `RiverNetwork.from_routelink`."""
    table = _read_netcdf(path, "a RouteLink file with link and to", ("link", "to"))
    attributes = {name: table[theirs].values for name, theirs in ROUTELINK.items() if theirs in table.variables}
    ids, to = (reach_ids(table[name].values, f"{name} of {path}", nan=0) for name in ("link", "to"))
    return ids, to, attributes


def read_rapid(rapid_connect_csv, k_csv, x_csv) -> Table:
    """See `RiverNetwork.from_rapid`."""
    table = _read_csv(rapid_connect_csv, np.int64, "rows of id, downstream id, number upstream, upstream ids")
    if table.shape[1] < 3:
        raise ValueError(
            f"{rapid_connect_csv} must have 3 columns or more, id, downstream id and number upstream; found "
            f"{table.shape[1]}: check the file."
        )
    ids, to, above = table[:, 0], table[:, 1], table[:, 3:]
    _refuse_contradiction(rapid_connect_csv, ids, to, above)
    k = _read_csv(k_csv, np.float64, "k of one reach a row").ravel()
    x = _read_csv(x_csv, np.float64, "x of one reach a row").ravel()
    return ids, to, dict(k=k, x=x)


def _refuse_contradiction(path: str | Path, ids: np.ndarray, to: np.ndarray, above: np.ndarray) -> None:
    """Raise unless the reaches upstream of each ``[N, M]``, filled up by 0, are those that flow to it."""
    flowing, used = np.isin(to, ids), above != 0
    ends = np.stack([ids, to])[:, flowing]
    again = np.stack([above[used], np.repeat(ids, used.sum(1))])
    if not np.array_equal(ends[:, np.lexsort(ends)], again[:, np.lexsort(again)]):
        once, twice = (Counter(map(tuple, x.T.tolist())) for x in (ends, again))
        up, down = min((once - twice) | (twice - once))
        raise ValueError(
            f"{path} must list each reach once, upstream of the one it flows to; found {up} and "
            f"{down}, of which only one names the other: correct one of the two rows."
        )


def read_hydrofabric(path: str | Path, dangling: str, channels: str | None) -> Table:
    """See `RiverNetwork.from_hydrofabric`."""
    what = "a NextGen hydrofabric"
    layers = _layers(path, what)
    if channels is None:
        channels = next((name for name in CHANNELS if name in layers), CHANNELS[0])
    for name in ("flowpaths", "nexus", channels):
        if name not in layers:
            raise ValueError(
                f"{path} must be {what} with the tables flowpaths, nexus and {channels}; found no {name}, only "
                f"{listed(layers)}: download or subset it with that table, or name the table of channels."
            )
    flowpaths = _read_layer(path, what, ("id", "toid", "lengthkm"), ("areasqkm", "tot_drainage_areasqkm"), "flowpaths")
    nexus = _read_layer(path, what, ("id", "toid"), (), "nexus")
    refuse_duplicates(flowpaths["id"].astype(str), f"id of flowpaths of {path}")
    refuse_duplicates(nexus["id"].astype(str), f"id of nexus of {path}")
    known = flowpaths["toid"].isin(nexus["id"]).to_numpy()
    if dangling == "refuse" and not known.all():
        raise ValueError(
            f"every toid of flowpaths of {path} must be an id of nexus; found {listed(flowpaths['toid'][~known])}, not "
            'in it: add what is missing, or pass dangling="outlet".'
        )
    # A nexus at the end of a river has no toid, or wb-0.
    to = flowpaths["toid"].map(nexus.set_index("id")["toid"]).fillna("wb-0")
    attributes = {"length": flowpaths["lengthkm"] * KM}
    for name, theirs in {"area": "areasqkm", "drained_area": "tot_drainage_areasqkm"}.items():
        if theirs in flowpaths:
            attributes[name] = flowpaths[theirs] * KM2
    theirs = {name: column for name, column in ROUTELINK.items() if name not in ("length", "waterbody")}
    rows = _read_layer(path, what, (), ("id", "link", *theirs.values(), *WATERBODIES), channels)
    key = next((name for name in ("id", "link") if name in rows), None)
    if key is None:
        raise ValueError(f"{channels} of {path} must have the column id or link; found {listed(rows)}: check the file.")
    rows = rows.drop_duplicates()  # the published tables repeat some
    refuse_duplicates(rows[key].astype(str), f"{key} of {channels} of {path}")
    rows = rows.set_index(key).reindex(flowpaths["id"])
    attributes |= {name: rows[column].to_numpy() for name, column in theirs.items() if column in rows}
    if said := [column for column in WATERBODIES if column in rows]:
        attributes["waterbody"] = _waterbodies(rows[said[0]])
    ids = _numbers(flowpaths["id"], f"id of flowpaths of {path}")
    return ids, _numbers(to, f"toid of nexus of {path}"), attributes


def _numbers(names: pd.Series, what: str) -> np.ndarray:
    """The numbers of names such as wb-12, int64 ``[N]``."""
    numbers = names.astype(str).str.extract(r"^(?:[a-z]+-)?([0-9]{1,18})$", expand=False)
    if numbers.isna().any():
        row = int(np.flatnonzero(numbers.isna())[0])
        raise ValueError(f"{what} must be names such as wb-12; found '{names.iloc[row]}' in row {row}: correct it.")
    return numbers.to_numpy().astype(np.int64)


def _waterbodies(names: pd.Series) -> np.ndarray:
    """Ids of waterbodies ``[N]``: the first of several, 0 where it is no number, -1 where there is none."""
    import pandas as pd

    first = names.astype("string").str.split(",").str[0].str.strip()
    absent = first.isna() | first.str.casefold().isin(["", "null", "none", "na", "nan"])
    return pd.to_numeric(first, errors="coerce").fillna(0).mask(absent, -1).to_numpy(np.float64)


def read_merit(path: str | Path, catchments: str | Path | None) -> Table:
    """See `RiverNetwork.from_merit`."""
    what = "the rivers of MERIT-Basins"
    above = tuple(f"up{i}" for i in range(1, 5))
    table = _read_layer(path, what, ("COMID", "NextDownID"), (*(column for column, _ in MERIT.values()), *above))
    ids, to = (reach_ids(table[name].to_numpy(), f"{name} of {path}", nan=0) for name in ("COMID", "NextDownID"))
    refuse_duplicates(ids, f"COMID of {path}")
    if set(above) <= set(table):
        upstream = table[list(above)].fillna(0).to_numpy().astype(np.int64)
        _refuse_contradiction(path, ids, to, np.where(np.isin(upstream, ids), upstream, 0))  # a table may be cut out
    attributes = _scaled(table, MERIT)
    if catchments is not None:
        units = _read_layer(catchments, "the catchments of MERIT-Basins", ("COMID", "unitarea"))
        comid = reach_ids(units["COMID"].to_numpy(), f"COMID of {catchments}")
        refuse_duplicates(comid, f"COMID of {catchments}")
        row, known = look_up(comid, ids)
        if not known.all():
            raise ValueError(
                f"{catchments} must have the catchment of every reach of {path}; found none of "
                f"{listed(ids[~known])}: give the file of the same basin."
            )
        attributes["area"] = units["unitarea"].to_numpy()[row] * KM2
    return ids, to, attributes


def read_hydrorivers(path: str | Path) -> Table:
    """See `RiverNetwork.from_hydrorivers`."""
    optional = [column for column, _ in HYDRORIVERS.values()]
    table = _read_layer(path, "HydroRIVERS", ("HYRIV_ID", "NEXT_DOWN"), optional)
    ids, to = (reach_ids(table[name].to_numpy(), f"{name} of {path}", nan=0) for name in ("HYRIV_ID", "NEXT_DOWN"))
    return ids, to, _scaled(table, HYDRORIVERS)


def _scaled(table: pd.DataFrame, names: Mapping[str, tuple[str, float]]) -> dict[str, np.ndarray]:
    return {name: table[column].to_numpy() * unit for name, (column, unit) in names.items() if column in table}


def _layers(path: str | Path, expected: str) -> list[str]:
    """The tables of a vector file."""
    with needed_for("a table of rivers in a GeoPackage or shapefile"):
        import pyogrio

    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist, expected {expected}; check the path.")
    try:
        return [str(name) for name in pyogrio.list_layers(path)[:, 0]]
    except pyogrio.errors.DataSourceError as error:
        reason = str(error).split(";")[0].split("\n")[0].rstrip(".")
        raise ValueError(
            f"{path} could not be read as a GeoPackage or shapefile ({reason}), expected {expected}; check the file."
        ) from error


def _read_layer(
    path: str | Path, expected: str, needed: Sequence[str], wanted: Sequence[str] = (), layer: str | None = None
) -> pd.DataFrame:
    """The columns of a table that are needed, and those wanted that are there, without geometry."""
    with needed_for("a table of rivers in a GeoPackage or shapefile"):
        import pyogrio

    layer = _layers(path, expected)[0] if layer is None else layer
    fields = [str(name) for name in pyogrio.read_info(path, layer=layer)["fields"]]
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(
            f"{layer} of {path} must have the columns {', '.join(needed)}, as {expected} does; found no "
            f"{', '.join(missing)}, only {listed(fields)}: give another file, or rename the columns."
        )
    columns = [name for name in (*needed, *wanted) if name in fields]
    return pyogrio.read_dataframe(path, layer=layer, columns=columns, read_geometry=False)[columns]


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
