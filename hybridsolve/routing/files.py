"""Routing from file to file: `hybridsolve route`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ..data.files import check_target, refuse_overwriting
from ..data.ids import read_ids, refuse_duplicates
from ..data.netcdf import load_netcdf, loaded, open_netcdf, write_netcdf
from ..data.times import bounds_name, standard_dates
from ..solve.compiled import MOST_INFLOW
from .checks import reach_ids
from .local_days import checked_offsets, daily_means, offset_of_longitude
from .muskingum import CHANNEL, PARAMETERS, SCHEMES, STATE, Routed, check_scheme, hydraulics, route
from .network import RiverNetwork
from .rivers import whole_steps

SCHEME_TITLES = {
    "todini": "Muskingum-Cunge by Todini (2007, doi 10.5194/hess-11-1645-2007)",
    "ddr": "Muskingum-Cunge as in ddr (Bindas et al. 2024, doi 10.1029/2023WR035337)",
    "muskingum": "linear Muskingum (McCarthy 1938)",
    "accumulate": "accumulation",
}
INFLOW = "lateral inflow: lateral_inflow(time, reach) in m3 s-1"
STATE_UNITS = {"discharge": "m3 s-1", "storage": "m3"}
RESTART = "a restart file of `hybridsolve route`"
BELOW_WATERBODY = {
    "long_name": "whether a lake or reservoir, which is routed as a river, lies here or upstream",
    "flag_meanings": "no yes",
}


def open_network(path) -> RiverNetwork:
    """A network of `RiverNetwork.save`, a RouteLink file of the National Water Model, or a hydrofabric (.gpkg)."""
    if Path(path).suffix.lower() == ".gpkg":
        return RiverNetwork.from_hydrofabric(path)
    with open_netcdf(path, "a network of RiverNetwork.save or a RouteLink file") as file:
        routelink = "link" in file.variables
    return RiverNetwork.from_routelink(path) if routelink else RiverNetwork.load(path)


def read_gauges(given: str, what: str = "gauges") -> np.ndarray:
    """Ids of gauges, from a file with one a line or joined by commas, or from the text itself."""
    if os.path.isdir(given):
        raise IsADirectoryError(f"{what} must be ids joined by commas, or a file of them; found the folder {given}.")
    if os.path.isfile(given):
        names, what = read_ids(given), f"gauges of {given}"
    else:
        names = given.split(",")
        if (os.sep in given or Path(given).suffix) and not all(name.strip().isdigit() for name in names):
            raise FileNotFoundError(f"{given} does not exist, expected a file of {what} or their ids; check the path.")
    names = [name for part in names for name in part.split()]
    if not names:
        raise ValueError(f"{what} must name a reach or more; found none: name them, or leave it out for all reaches.")
    ids = reach_ids(names, what)
    refuse_duplicates(ids, what)
    return ids


def route_file(
    inflow,
    network,
    out,
    *,
    dt: float = 3600.0,
    scheme: str = "todini",
    gauges=None,
    constants: Mapping[str, float] | None = None,
    hydraulic: bool = False,
    restart=None,
    write_restart=None,
    map_file=None,
    local_days: str | None = None,
    command: str | None = None,
) -> list[Path]:
    """Route the lateral inflow of a NetCDF file to discharge in another.

    Parameters
    ----------
    inflow : path_like
        NetCDF with ``lateral_inflow(time, reach)`` in m3/s and the coordinate ``reach`` of ids, in any order; ``time``
        is the start of each interval unless it has bounds, which say so, and evenly spaced. The run has its precision.
    network : RiverNetwork or path_like
        Or a file as `open_network` takes it.
    out : path_like
        Where ``discharge(time, reach)`` at the end of each step is written.
    dt, scheme, gauges
        As for `route`; the inflow's interval must be a multiple of `dt`.
    constants : mapping of str to float, optional
        Parameters of the channels that are the same for all reaches, in place of the network's.
    hydraulic : bool
        Also write depth, top width and velocity.
    restart, write_restart : path_like, optional
        Where the state before the first step is read, and that after the last one written, so that windows chain.
    map_file : path_like, optional
        Where a map of the mean discharge is drawn; needs the discharge of all reaches, and their lon and lat.
    local_days : str, optional
        Also write the means of the gauges' local days: hours ahead of UTC, or "longitude" for each gauge's zone by its
        lon.
    command : str, optional
        Recorded in the files.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ValueError
        As `route`; if the file lacks a variable or has another unit or calendar, the steps do not divide, the restart
        file is of another network, scheme or time, or a file to write is one that is read.
    """
    outputs = {"out": out, "write_restart": write_restart, "map_file": map_file}
    file = None if isinstance(network, RiverNetwork) else network
    refuse_overwriting(outputs, {"inflow": inflow, "network": file, "restart": restart})
    for name, path in outputs.items():
        if path is not None:
            check_target(name, path)
    check_scheme(scheme)
    _check_constants(constants or {}, scheme, hydraulic)
    if file is not None:
        network = open_network(file)
    offset = None if local_days is None else utc_offsets(local_days, network, gauges)
    lateral, ids, times, interval = _lateral(inflow)
    repeat = whole_steps(interval, dt)
    lacking, others = np.setdiff1d(network.ids, ids), np.setdiff1d(ids, network.ids)
    for which, what in ((lacking, "lacks"), (others, "also has")):
        if len(which):
            raise ValueError(
                f"{inflow} must hold the {network.n_reaches} reaches of the network; it {what} {len(which)}, such as "
                f"{which[0]}: add what lacks, and choose by ds.sel(reach=network.ids)."
            )
    if map_file is not None:
        if Path(map_file).suffix.lower() != ".png":
            raise ValueError(f"map_file must end in .png, found {map_file}: figures are written as PNG.")
        for name in ("lon", "lat"):  # before the run
            network.attribute(name)
        if gauges is not None:
            raise ValueError("a map shows all reaches; found gauges asked for alone: leave out the gauges, or the map.")
    state = None if restart is None else _read_restart(restart, network, scheme, times[0], lateral.dtype)
    parameters = {name: torch.tensor([value], dtype=lateral.dtype) for name, value in (constants or {}).items()}
    with torch.no_grad():
        routed = route(
            network,
            lateral,
            {name: x for name, x in parameters.items() if name in SCHEMES[scheme][0]},
            ids=ids,
            dt=dt,
            scheme=scheme,
            repeat=repeat,
            gauges=gauges,
            initial_state=state,
        )
        series = {"discharge": routed.discharge}
        if hydraulic:
            only = {name: x for name, x in parameters.items() if name in CHANNEL}
            series |= hydraulics(network, routed.discharge, only, ids=routed.ids)
    ends = times[0] + (np.arange(1, len(routed.discharge) + 1) * round(dt * 1e9)).astype("timedelta64[ns]")
    units = {"discharge": "m3 s-1", "depth": "m", "top_width": "m", "velocity": "m s-1"}
    result = xr.Dataset(
        {name: (("time", "reach"), x.numpy(), dict(units=units[name])) for name, x in series.items()},
        coords={"time": ends, "reach": routed.ids},
        attrs=dict(title="routed discharge at the end of each step", source=SCHEME_TITLES[scheme]),
    )
    if offset is not None:
        result["discharge_daily_mean"] = daily_means(result["discharge"], offset)
    if "waterbody" in network.attributes:
        below = network.below_waterbody[network.index(routed.ids)].astype(np.int8)
        result["below_waterbody"] = ("reach", below, BELOW_WATERBODY | dict(flag_values=np.array([0, 1], np.int8)))
    written = [write_netcdf(result, out, command=command)]
    if write_restart is not None:
        written.append(write_netcdf(_restart(routed, network, scheme, ends[-1]), write_restart, command=command))
    if map_file is not None:
        from .. import plot

        mean = routed.discharge.mean(0).numpy()
        written.append(plot.save(plot.network_map(network, mean, name="mean discharge"), map_file))
    return written


def utc_offsets(local_days: str | float, network: RiverNetwork, gauges: np.ndarray | None) -> np.ndarray:
    """Hours ahead of UTC of each gauge, or of all reaches."""
    if local_days == "longitude":
        lon = network.attribute("lon")
        return offset_of_longitude(lon if gauges is None else lon[network.index(gauges)])
    try:
        return checked_offsets(float(local_days), network.n_reaches if gauges is None else len(gauges))
    except (ValueError, OverflowError):
        raise ValueError(
            f"local_days must be hours ahead of UTC, within 14, or 'longitude'; found '{local_days}': correct it."
        ) from None


def _check_constants(constants: Mapping[str, float], scheme: str, hydraulic: bool) -> None:
    taken = tuple(dict.fromkeys(SCHEMES[scheme][0] + (CHANNEL if hydraulic else ())))
    for name, value in constants.items():
        if name not in taken:
            raise ValueError(
                f"scheme '{scheme}' takes no parameter '{name}', only {', '.join(taken) or 'none'}: remove it."
            )
        row = PARAMETERS[name]
        if not row.lower <= value <= row.upper:
            raise ValueError(
                f"parameter '{name}' must lie in [{row.lower:g}, {row.upper:g}] {row.unit}; found {value:g}: correct "
                "it."
            )


def _lateral(path):
    """The inflow as a tensor, its reaches, the start of its intervals, and the seconds of one."""
    with open_netcdf(path, INFLOW) as file:
        variables = file.variables
        if (
            "lateral_inflow" not in variables
            or set(file["lateral_inflow"].dims) != {"time", "reach"}
            or "reach" not in variables
            or file["reach"].dims != ("reach",)
        ):
            raise ValueError(
                f"{path} must have lateral_inflow(time, reach) and the coordinate reach; found "
                f"{', '.join(map(str, variables))}: rename or add them."
            )
        if "time" not in variables:
            raise ValueError(
                f"{path} must have a coordinate time in units such as 'hours since 2000-01-01'; found none: add it."
            )
        bounds = bounds_name(file)
        time = file["time"]
        if bounds is None and "bounds" in time.attrs | time.encoding:
            warnings.warn(
                f"time of {path} names bounds that are not there: it is taken as the start of each interval.",
                stacklevel=3,
            )
        names = ["lateral_inflow", "reach", "time", *([bounds] if bounds else [])]
        file = loaded(file[names], path, INFLOW)
    variable = file["lateral_inflow"].transpose("time", "reach")
    unit = str(variable.attrs.get("units", "none"))
    if re.sub(r"[ .^]|\*\*", "", unit) not in ("m3s-1", "m3/s"):
        raise ValueError(f"lateral_inflow of {path} must be in m3 s-1; found units '{unit}': convert it, or say so.")
    ids = reach_ids(file["reach"].values, f"reach of {path}")
    refuse_duplicates(ids, f"reach of {path}")
    times, interval = _intervals(file, path)
    if variable.dtype.kind not in "iuf":
        raise ValueError(f"lateral_inflow of {path} must be numbers; found {variable.dtype}: convert it.")
    values = np.ascontiguousarray(variable.values, dtype=np.result_type(variable.dtype, np.float32).newbyteorder("="))
    bad = ~((values >= 0) & (values <= MOST_INFLOW))
    if bad.any():
        row, i = np.argwhere(bad)[0]
        raise ValueError(
            f"lateral_inflow of {path} must be 0 to {MOST_INFLOW:g} m3 s-1 without gaps; found {values[row, i]:g} at "
            f"reach {ids[i]} on {str(times[row])[:16]}, and {bad.sum() - 1} more such values: fill or correct them."
        )
    return torch.from_numpy(values), ids, times, interval


def _intervals(file: xr.Dataset, path) -> tuple[np.ndarray, float]:
    """The start of each row's interval, and the seconds of one."""
    # Without the encoding: `standard_dates` would otherwise take back the shift by a time zone in the units.
    bounds, file = bounds_name(file), file.drop_encoding()
    times = standard_dates(file["time"], f"time of {path}")
    ends = times[1:]
    if bounds is not None:
        if file[bounds].dims[:1] != ("time",) or file[bounds].shape[1:] != (2,) or file[bounds].dtype.kind not in "MO":
            raise ValueError(
                f"{bounds} of {path} must be dates [{len(times)}, 2], the start and end of each interval; found "
                f"{file[bounds].dtype} {list(file[bounds].shape)}: correct or drop it."
            )
        times, ends = standard_dates(file[bounds], f"bounds '{bounds}' of {path}").T
    starts = times if len(ends) == len(times) else times[:-1]
    gaps = (ends - starts).astype(np.int64)
    if not len(gaps) or (gaps != gaps[0]).any() or gaps[0] <= 0 or (np.diff(times).astype(np.int64) != gaps[0]).any():
        remedy = "fill what lacks"
        if (calendar := getattr(next(iter(file["time"].values), None), "calendar", "standard")) != "standard":
            remedy = (
                'convert it by ds.convert_calendar("standard", align_on="date", missing=float("nan"), use_cftime=False)'
                '.interpolate_na("time")'
            )
        raise ValueError(
            f"time of {path} must have two or more evenly spaced values, or one with bounds, in the standard calendar; "
            f"found others, of calendar '{calendar}': {remedy}."
        )
    return times, gaps[0] / 1e9


def _restart(routed: Routed, network: RiverNetwork, scheme: str, time) -> xr.Dataset:
    stores = {name: ("reach", x.numpy(), dict(units=STATE_UNITS[name])) for name, x in routed.final_state.items()}
    return xr.Dataset(
        stores,
        coords={"reach": network.ids, "time": time},
        attrs=dict(title="restart of hybridsolve route", network=network.fingerprint, scheme=scheme),
    )


def _read_restart(path, network: RiverNetwork, scheme: str, time, dtype) -> dict[str, torch.Tensor]:
    """The state of a restart file in the order of the network; the file may have any order."""
    file = load_netcdf(path, RESTART)
    names = tuple(STATE) if scheme == "todini" else ("discharge",)
    lacking = [x for x in ("network", "scheme") if x not in file.attrs]
    lacking += [x for x in ("reach", "time", *names[:1]) if x not in file.variables]
    if lacking:
        raise ValueError(
            f"{path} must be {RESTART}; found no {', '.join(lacking)} in it: write it anew, or start without it."
        )
    if file.attrs["network"] != network.fingerprint:
        raise ValueError(
            f"{path} must be a restart file of this network, {network!r}; found one of another: route with that "
            "network, or start without it."
        )
    if file.attrs["scheme"] != scheme:
        raise ValueError(
            f"{path} must be of scheme '{scheme}'; found '{file.attrs['scheme']}': route with that scheme."
        )
    if file["time"].dtype.kind != "M" or file["time"].size != 1 or file["time"].values.astype("M8[ns]") != time:
        raise ValueError(
            f"{path} must be the state at the start of the inflow, {time}; found that of {file['time'].values}: choose "
            "the inflow that follows it."
        )
    ids = reach_ids(file["reach"].values, f"reach of {path}")
    refuse_duplicates(ids, f"reach of {path}")
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, network.ids, sorter=order).clip(max=len(ids) - 1)]
    state = {}
    for name in names:
        if name not in file or file[name].shape != (network.n_reaches,) or (ids[at] != network.ids).any():
            raise ValueError(
                f"{path} must hold the {name} of every reach of the network; found others: write it anew, or start "
                "without it."
            )
        values, unit = file[name].values[at], file[name].attrs.get("units", STATE[name].unit)
        if values.dtype.kind != "f" or str(unit) not in (STATE[name].unit, STATE_UNITS[name]):
            raise ValueError(
                f"{name} of {path} must be floats in {STATE_UNITS[name]}; found {values.dtype} in '{unit}': convert "
                "it, or start without it."
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} of {path} must be finite; found {values[~np.isfinite(values)][0]} at reach "
                f"{network.ids[~np.isfinite(values)][0]}: write it anew, or start without it."
            )
        state[name] = torch.from_numpy(values.astype(values.dtype.newbyteorder("="))).to(dtype)
    if "substeps" in file:
        warnings.warn(f"substeps of {path} are ignored, since they follow from the state.", stacklevel=3)
    if file["discharge"].dtype.itemsize != dtype.itemsize:
        warnings.warn(
            f"{path} is in {file['discharge'].dtype}, the inflow in {str(dtype)[6:]}: the discharge differs from that "
            "of one run by rounding.",
            stacklevel=3,
        )
    return state
