"""Routing from file to file: `hybridsolve route`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ..data.netcdf import write_netcdf
from .muskingum import CHANNEL, Routed, hydraulics, route
from .network import RiverNetwork
from .rivers import whole_steps

SCHEME_TITLES = {
    "todini": "Muskingum-Cunge by Todini (2007, doi 10.5194/hess-11-1645-2007)",
    "ddr": "Muskingum-Cunge as in ddr (Bindas et al. 2024, doi 10.1029/2023WR035337)",
    "muskingum": "linear Muskingum (McCarthy 1938)",
    "accumulate": "accumulation",
}


def open_network(path) -> RiverNetwork:
    """A network written by `RiverNetwork.save`, or a RouteLink file of the National Water Model."""
    with _open(path) as file:
        routelink = "link" in file.variables
    return RiverNetwork.from_routelink(path) if routelink else RiverNetwork.load(path)


def route_file(
    inflow,
    network: RiverNetwork,
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
    command: str | None = None,
) -> list[Path]:
    """Route the lateral inflow of a NetCDF file to discharge in another.

    Parameters
    ----------
    inflow : path_like
        NetCDF with ``lateral_inflow(time, reach)`` in m3/s and the coordinate ``reach`` of ids, in any order; ``time``
        is the begin of each interval, and evenly spaced.
    network : RiverNetwork
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
    command : str, optional
        Recorded in the files.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ValueError
        As `route`; if the file lacks a variable or has another unit, the steps do not divide, or the restart file is of
        another network, scheme or time.
    """
    with _open(inflow) as file:
        lateral, times, interval = _lateral(file, inflow)
        ids = file["reach"].values
    repeat = whole_steps(interval, dt)
    if map_file is not None:
        for name in ("lon", "lat"):  # said before anything is computed
            network.attribute(name)
        if gauges is not None:
            raise ValueError("a map shows all reaches; found gauges asked for alone: leave out the gauges, or the map.")
    state = None if restart is None else _read_restart(restart, network, scheme, times[0])
    parameters = {name: torch.tensor([float(value)]) for name, value in (constants or {}).items()}
    with torch.no_grad():
        routed = route(
            network,
            lateral,
            parameters,
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
    written = [write_netcdf(result, out, command=command)]
    if write_restart is not None:
        written.append(write_netcdf(_restart(routed, network, scheme, ends[-1]), write_restart, command=command))
    if map_file is not None:
        from .. import plot

        mean = routed.discharge.mean(0).numpy()
        written.append(plot.save(plot.network_map(network, mean, name="mean discharge"), map_file))
    return written


def _open(path) -> xr.Dataset:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a NetCDF file: check the path.")
    try:
        return xr.open_dataset(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} could not be read as NetCDF ({str(error).splitlines()[0]}); check the file."
        ) from error


def _lateral(file: xr.Dataset, path):
    """The inflow as a tensor, its times, and seconds of an interval."""
    if (
        "lateral_inflow" not in file
        or set(file["lateral_inflow"].dims) != {"time", "reach"}
        or "reach" not in file.coords
    ):
        raise ValueError(
            f"{path} must have lateral_inflow(time, reach) and the coordinate reach; found "
            f"{', '.join(file.variables)}: rename or add them."
        )
    variable = file["lateral_inflow"].transpose("time", "reach")
    unit = str(variable.attrs.get("units", "none"))
    if unit.replace(" ", "").replace("^", "").replace("**", "") not in ("m3s-1", "m3/s"):
        raise ValueError(f"lateral_inflow of {path} must be in m3 s-1; found units '{unit}': convert it, or say so.")
    times = file["time"].values
    gaps = np.diff(times).astype("timedelta64[ns]").astype(np.int64)
    if len(times) < 2 or (gaps != gaps[0]).any() or gaps[0] <= 0:
        raise ValueError(f"time of {path} must have two or more evenly spaced values; found others: fill what lacks.")
    return torch.from_numpy(np.ascontiguousarray(variable.values, dtype=np.float32)), times, gaps[0] / 1e9


def _restart(routed: Routed, network: RiverNetwork, scheme: str, time) -> xr.Dataset:
    units = {"discharge": "m3 s-1", "storage": "m3", "substeps": "1"}
    stores = {name: ("reach", x.numpy(), dict(units=units[name])) for name, x in routed.final_state.items()}
    return xr.Dataset(
        stores,
        coords={"reach": network.ids, "time": time},
        attrs=dict(title="restart of hybridsolve route", network=network.fingerprint, scheme=scheme),
    )


def _read_restart(path, network: RiverNetwork, scheme: str, time) -> dict[str, torch.Tensor]:
    with _open(path) as file:
        file = file.load()
    if file.attrs.get("network") != network.fingerprint:
        raise ValueError(
            f"{path} must be a restart file of this network, {network!r}; found one of another: route with that "
            "network, or start without it."
        )
    if file.attrs["scheme"] != scheme:
        raise ValueError(
            f"{path} must be of scheme '{scheme}'; found '{file.attrs['scheme']}': route with that scheme."
        )
    if file["time"].values != time:
        raise ValueError(
            f"{path} must be the state at the begin of the inflow, {time}; found that of {file['time'].values}: choose "
            "the inflow that follows it."
        )
    names = [name for name in ("discharge", "storage", "substeps") if name in file]
    if scheme != "todini":
        names = ["discharge"]
    return {name: torch.from_numpy(file[name].values.astype(np.float32)) for name in names}
