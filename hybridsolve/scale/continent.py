"""A synthetic continent: weather, attributes, parameters and a river network of any size, for tests and benchmarks.

Nothing is read from elsewhere, and every value is a function of the seed, its basin and its date alone: random numbers
are counted (Philox of numpy, keyed by seed and purpose, with date and place as the counter), so that neither the chunks
of the store nor the period change a bit, and a continent's next days go on where the last ones ended.

Weather is a field of standard normal numbers over latitude, longitude and time: two lattices of random nodes, of large
and of small systems, interpolated, and noise of each basin and step. Precipitation falls where it passes a threshold,
whose height has a season, in amounts of a gamma distribution; temperature follows latitude, elevation and season, and
potential evapotranspiration temperature (Oudin et al. 2005, J. Hydrol. 303:290). Rivers are those of
`RiverNetwork.random`, their widths by Andreadis et al. (2013, doi 10.1002/wrcr.20440).
"""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy import special, stats

from .. import models
from .._extras import needed_for
from ..arguments import SEEDS, integer
from ..data.dataset import attributes_at, parse_period, rows_of
from ..data.names import role_of
from ..data.pet import pet_attributes
from ..data.units import unit_at
from ..routing.network import RiverNetwork
from ..spec import DAY, ModelSpec, Variable

SOUTH, NORTH, WEST, EAST = 28.0, 62.0, -120.0, -75.0  # degrees
LAND = 13.4e6  # km2 between them, which the basins share
LARGEST = 500.0  # km2, the mean area of a basin at most: few basins are a sample
BLOCK = 4096  # basins whose noise of a step is drawn from one counter
STEPS = 256  # at a time: bounds the memory of the lattices
SHAPE = 0.75  # of the gamma distribution of wet amounts
# Share of the variance, spacing in degrees and in days of each lattice; the rest is noise of each basin and step.
LATTICES = {"prcp": ((0.5, 6.0, 3.0), (0.3, 1.5, 1.0)), "tmean": ((0.6, 8.0, 4.0), (0.3, 2.0, 1.5))}
# Step of the packed integers, in the units of a day; their range is 32,767 times that on both sides of 0.
PACKED = {"prcp": 0.02, "tmean": 0.005, "tmin": 0.005, "tmax": 0.005, "pet": 0.001}
STORES = ("float32", "float32-compressed", "packed", "float16")
_UNITS = {"prcp": "mm d-1", "tmean": "degC", "tmin": "degC", "tmax": "degC", "pet": "mm d-1"}
_ATTRIBUTES = {
    "lat": ("degrees_north", "latitude"),
    "lon": ("degrees_east", "longitude"),
    "area_km2": ("km2", "area"),
    "elev_mean": ("m", "mean elevation"),
    "slope_mean": ("m km-1", "mean slope of the terrain"),
    "p_mean": ("mm d-1", "mean precipitation"),
    "t_mean": ("degC", "mean temperature"),
    "pet_mean": ("mm d-1", "mean potential evapotranspiration"),
    "aridity": ("1", "mean potential evapotranspiration over mean precipitation"),
    "frac_snow": ("1", "share of precipitation in months below 0 degC"),
    "frac_forest": ("1", "share of forest"),
    "clay_frac": ("1", "share of clay in the soil"),
    "soil_depth": ("m", "depth of the soil"),
}
# What parameters follow: centre and scale of an attribute, of its logarithm where so said.
_DRIVERS = {
    "elev_mean": (False, 800.0, 800.0),
    "slope_mean": (True, 3.0, 1.0),
    "aridity": (True, 0.0, 0.7),
    "frac_snow": (False, 0.25, 0.25),
    "frac_forest": (False, 0.5, 0.25),
    "clay_frac": (False, 0.25, 0.1),
    "soil_depth": (False, 1.2, 0.5),
}


def synthetic_continent(
    path: str | os.PathLike[str],
    basins: int,
    *,
    period: Any = ("2000-01-01", "2009-12-31"),
    step: int = DAY,
    seed: int = 0,
    model: ModelSpec | str | None = None,
    store: str = "float32",
    chunks: Mapping[str, int] | None = None,
    network: bool = True,
) -> Path:
    """Write forcing and attributes of a synthetic continent to a Zarr store, chunk by chunk.

    Parameters
    ----------
    path : path_like
        Of the store, which must not exist; it appears there once it is whole.
    basins : int
        They share a continent of 13.4 million km2; each is the catchment of one reach, and its id is the reach's.
    period : str or pair of dates
        Both days included.
    step : int
        s; a day or what divides it.
    seed : int
        0 or more; the same seed gives the same bits, whatever the chunks, the period and the version of the store.
    model : ModelSpec or str, optional
        Whose forcings are made, under the names of its table; precipitation, mean temperature and potential
        evapotranspiration if left out.
    store : {"float32", "float32-compressed", "packed", "float16"}
        How series are kept; "packed" as 16-bit integers by CF's scale_factor.
    chunks : mapping, optional
        Of "time" and "basin"; about a year of days and 4,096 basins if left out.
    network : bool
        Write the rivers too, by `RiverNetwork.save`, beside the store: ``continent.zarr`` has ``continent.network.nc``.

    Returns
    -------
    pathlib.Path
        Of the store.

    Raises
    ------
    FileExistsError
        There is something at `path`.
    ValueError
        If an argument does not fit, or the model has a forcing that is neither precipitation, temperature nor
        potential evapotranspiration.
    """
    with needed_for("a synthetic continent"):
        import zarr

    path, seed = Path(path), integer("seed", seed, 0, SEEDS)
    rivers_path = path.with_name(f"{path.stem}.network.nc")
    for target in (path, rivers_path) if network else (path,):
        if target.exists():
            raise FileExistsError(f"path must be new, found {target} there already; remove it or name another.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of path must exist, found none at {path.parent}; create it.")
    if store not in STORES:
        raise ValueError(f"store must be one of {', '.join(STORES)}; found {store!r}: choose one.")
    rows = _rows(model, step)
    time = _times(period, step)
    n_basins = integer("basins", basins, 1)
    extent = _chunks(chunks, len(time), n_basins, step)
    rivers, static = geography(n_basins, seed)

    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        group = zarr.create_group(temporary, zarr_format=3, attributes=_about(seed, store))
        _write_static(group, rivers, static, time, step, extent["basin"])
        arrays = {}
        for name, row in rows.items():
            role = role_of(name)
            kind, attrs = _kept_as(store, role, step)
            own = attributes_at(name if row is None else role, step) | ({"units": unit_at(_UNITS[role], step)})
            own |= pet_attributes("oudin", step) if role == "pet" else {}
            arrays[name] = group.create_array(
                name,
                shape=(len(time), n_basins),
                chunks=(extent["time"], extent["basin"]),
                dtype=kind,
                dimension_names=("time", "basin"),
                attributes={**own, "coordinates": "lat lon", **attrs},
                compressors="auto" if store == "float32-compressed" else None,
                fill_value=attrs.get("_FillValue", np.nan),  # so that a chunk that is lost is missing and not dry
            )
        for t in range(0, len(time), extent["time"]):
            rows_of_time = slice(t, min(t + extent["time"], len(time)))
            for b in range(0, n_basins, extent["basin"]):
                cut = slice(b, min(b + extent["basin"], n_basins))
                series = weather(static, cut, time[rows_of_time], step, seed, {role_of(name) for name in rows})
                for name, array in arrays.items():
                    array[rows_of_time, cut] = _packed(series[role_of(name)], array)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)  # other readers may pass over it
            zarr.consolidate_metadata(group.store)
        if network:
            rivers.save(rivers_path)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def synthetic_parameters(attributes: xr.Dataset, model: ModelSpec | str = models.DEFAULT, seed: int = 0) -> xr.Dataset:
    """Parameters of a model that follow the attributes of a synthetic continent smoothly, within the table's bounds.

    Parameters
    ----------
    attributes : xarray.Dataset
        Of `synthetic_continent`, or some of its basins: the result for a basin does not depend on the others.
    model : ModelSpec or str
    seed : int
        Of the functions, one for each parameter.

    Returns
    -------
    xarray.Dataset
        Each parameter ``[basin]``, those of the hydrograph too, with its unit; one that the table fixes at its default.

    Raises
    ------
    ValueError
        If an attribute is missing.
    """
    model, seed = models.get(model), integer("seed", seed, 0, SEEDS)
    missing = [name for name in _DRIVERS if name not in attributes]
    if missing:
        raise ValueError(
            f"attributes must be those of a synthetic continent, found no {missing[0]}; give its dataset as it was "
            "written."
        )
    drivers = []
    for name, (logarithm, centre, scale) in _DRIVERS.items():
        values = attributes[name].values.astype(np.float64)
        values = np.log(np.maximum(values, 1e-3)) if logarithm else values
        drivers.append(np.clip((values - centre) / scale, -3, 3))
    out = xr.Dataset(coords={"basin": attributes["basin"]}, attrs={"model": model.name, "seed": seed})
    for p in (*model.parameters, *model.routing_parameters):
        weights = _numbers(seed, f"parameter {p.name}").standard_normal(len(drivers))
        blend = sum(w * x for w, x in zip(weights / np.linalg.norm(weights), drivers, strict=True))
        unit = 0.1 + 0.8 * special.ndtr(blend)  # off the bounds, where some models have no response
        scaled = model.parameters_from_unit({p.name: torch.as_tensor(unit)})[p.name].numpy()
        values = scaled if p.free else np.full(len(unit), p.default)
        values = np.clip(values, p.lower, p.upper).astype(np.float32)
        out[p.name] = ("basin", values, {"units": p.unit, "long_name": p.meaning})
    return out


# --- The land ------------------------------------------------------------------------------------------------------


def geography(n: int, seed: int) -> tuple[RiverNetwork, dict[str, np.ndarray]]:
    """The rivers of a continent of n basins, and the attributes float64 ``[n]`` of basins in the network's order."""
    rivers = RiverNetwork.random(n, seed)
    a = rivers.attributes
    # The lattice's cells become the continent's: Hack's law holds across sizes, and so does the height of the land.
    larger = min(LAND / n, LARGEST) * 1e6 / a["area"].mean()
    a["area"] *= larger
    a["length"] *= larger**0.5
    a["slope"] = np.clip(a["slope"] * larger**-0.4, 1e-4, 0.1)
    bankfull = 0.2 * (rivers.upstream_area() / 1e6) ** 0.8  # m3/s
    a["width"] = 7.2 * bankfull**0.5
    a["p"] = a["width"] / (0.27 * bankfull**0.3) ** a["q"]

    across = -(-n // int(np.ceil(1.25 * np.sqrt(n))))
    row, column = np.divmod(rivers.ids - 1, across)
    lat = SOUTH + (NORTH - SOUTH) * (row + 0.5) / (-(-n // across))
    lon = WEST + (EAST - WEST) * (column + 0.5) / across
    rise, bed = a["slope"] * a["length"], np.full(n, 2.0)
    for k in range(rivers.n_levels - 2, -1, -1):  # from the outlets up
        level = slice(rivers.level_start[k], rivers.level_start[k + 1])
        below = rivers.downstream[level]
        bed[level] = bed[below] + rise[below]
    elevation = bed + rise / 2 + 20.0

    def smooth(purpose: str, spacing: float = 6.0) -> np.ndarray:
        lattice = _nodes(seed, purpose, spacing, 0)
        out: np.ndarray = np.zeros((1, n))
        _add_lattice(out, lattice[None], *_place(lat, lon, spacing), 1.0)
        return out.reshape(n)

    wet = np.clip(750 * np.exp(0.5 * smooth("wetness") - 0.4 * (lat - SOUTH) / (NORTH - SOUTH)), 150, 2500)
    rain = wet * (1 + np.clip(elevation, 0, 2500) / 2500)  # mm per year
    temperature = 23.0 - 0.55 * (lat - SOUTH) - 0.005 * elevation
    amplitude = 6.0 + 0.35 * (lat - SOUTH)
    probability = np.clip(0.12 + 0.25 * (rain / 1000) ** 0.6 + 0.03 * smooth("wet days"), 0.08, 0.75)
    threshold = -special.ndtri(probability)
    season = 0.35 * smooth("season of rain")
    demand, cold = np.zeros(n), np.zeros(n)
    for day in range(15, 365, 30):
        month = temperature - amplitude * np.cos(2 * np.pi * (day - 20) / 365.25)
        radiation = np.interp(lat, *_radiation_at(day))
        demand += radiation * np.maximum(month + 5, 0) / (100 * (2.501 - 0.002361 * month)) / 12
        cold += (month < 0) / 12
    forest = special.ndtr(0.8 * smooth("forest", 3.0) + np.log(rain / 800))
    static = {
        "lat": lat,
        "lon": lon,
        "area_km2": a["area"] / 1e6,
        "elev_mean": elevation,
        "slope_mean": 2e3 * a["slope"],
        "p_mean": rain / 365.25,
        "t_mean": temperature,
        "pet_mean": demand,
        "aridity": demand / (rain / 365.25),
        "frac_snow": cold,
        "frac_forest": forest,
        "clay_frac": 0.05 + 0.4 * special.ndtr(smooth("clay", 3.0)),
        "soil_depth": 0.2 + 2.0 * special.ndtr(smooth("soil", 3.0) - np.log1p(a["slope"] * 100)),
        "_amplitude": amplitude,
        "_threshold": threshold,
        "_season": season,
    }
    return rivers, static


# --- The weather ---------------------------------------------------------------------------------------------------


def weather(
    static: Mapping[str, np.ndarray], cut: slice, time: np.ndarray, step: int, seed: int, roles: set[str]
) -> dict[str, np.ndarray]:
    """Series float32 ``[T, B]`` of some basins: depths in mm per step, temperatures in degC.

    Parameters
    ----------
    static : mapping
        Of `geography`, of all basins.
    cut : slice
        The basins wanted.
    time : datetime64 ``[T]``
        Start of each step, of `step` seconds.
    roles : set of str
        Of "prcp", "tmean", "tmin", "tmax", "pet".
    """
    from . import _weather

    local = {name: np.ascontiguousarray(x[cut]) for name, x in static.items()}
    days = (time - np.datetime64("1970-01-01T00:00:00")) / np.timedelta64(1, "s") / DAY
    of_year = pd.DatetimeIndex(time).dayofyear.values + (days - np.floor(days))
    share = step / DAY
    out = {name: np.empty((len(time), len(local["lat"])), np.float32) for name in sorted(roles)}
    # Of shorter steps fewer are wet, and the amounts of a year stay.
    probability = special.ndtr(-local["_threshold"]) * share**0.35
    threshold = -special.ndtri(probability)
    for t in range(0, len(time), STEPS):
        now = slice(t, min(t + STEPS, len(time)))
        angle = 2 * np.pi * of_year[now] / 365.25
        hour = 24 * (days[now] % 1) + 12 * share
        if "prcp" in roles:
            field = _field("prcp", local, cut.start, days[now], step, seed)
            amount = local["p_mean"] * share / probability
            _weather.rain(field, threshold, local["_season"], np.cos(angle), amount, *_gamma_amounts())
            out["prcp"][now] = field
        if roles - {"prcp"}:
            field = _field("tmean", local, cut.start, days[now], step, seed)
            diurnal = np.where(share < 1, -5 * np.cos(2 * np.pi * (hour - 3) / 24), 0.0)
            season = np.cos(angle - 2 * np.pi * 20 / 365.25)
            _weather.temperature(field, local["t_mean"], local["_amplitude"], season, diurnal)
            half = np.float32(4.5 * share)
            for name, value in (("tmean", field), ("tmin", field - half), ("tmax", field + half)):
                if name in roles:
                    out[name][now] = value
            if "pet" in roles:
                grid, radiation = _radiation()
                sun = np.where(share < 1, np.maximum(-np.cos(2 * np.pi * hour / 24), 0) * np.pi, 1.0) * share
                at_steps = radiation[pd.DatetimeIndex(time[now]).dayofyear.values - 1] * sun[:, None]
                place = (local["lat"] - grid[0]) / (grid[1] - grid[0])
                _weather.demand(field, out["pet"][now], at_steps, place)
    return out


def _field(
    role: str, local: Mapping[str, np.ndarray], first: int, days: np.ndarray, step: int, seed: int
) -> np.ndarray:
    """Standard normal numbers float32 ``[T, B]`` that hang together in space and time."""
    noise = 1.0 - sum(share for share, _, _ in LATTICES[role])
    out = _noise(
        f"{role} of a step of {step} s", seed, np.rint(days * DAY / step).astype(np.int64), first, len(local["lat"])
    )
    out *= np.float32(noise**0.5)
    for share, degrees, apart in LATTICES[role]:
        node, within = np.divmod(days / apart, 1.0)
        nodes = {k: _nodes(seed, f"{role} {degrees}", degrees, k) for k in range(int(node[0]), int(node[-1]) + 2)}
        norm = np.sqrt(within**2 + (1 - within) ** 2)
        lattice = np.stack(
            [((1 - w) * nodes[int(k)] + w * nodes[int(k) + 1]) / s for k, w, s in zip(node, within, norm, strict=True)]
        )
        _add_lattice(out, lattice, *_place(local["lat"], local["lon"], degrees), share**0.5)
    return out


def _noise(purpose: str, seed: int, steps: np.ndarray, first: int, n: int) -> np.ndarray:
    out = np.empty((len(steps), n), np.float32)
    for row, step in zip(out, steps.tolist(), strict=True):
        for block in range(first // BLOCK, (first + n - 1) // BLOCK + 1):
            start, stop = max(block * BLOCK, first), min((block + 1) * BLOCK, first + n)
            drawn = _numbers(seed, purpose, step, block).standard_normal(stop - block * BLOCK, np.float32)
            row[start - first : stop - first] = drawn[start - block * BLOCK :]
    return out


def _nodes(seed: int, purpose: str, degrees: float, number: int) -> np.ndarray:
    shape = (int((NORTH - SOUTH) / degrees) + 2, int((EAST - WEST) / degrees) + 2)
    return _numbers(seed, purpose, number).standard_normal(shape)


def _numbers(seed: int, purpose: str, number: int = 0, block: int = 0) -> np.random.Generator:
    """Random numbers of one purpose at one place of its count, which may lie below 0."""
    counter = np.array([0, block, number % 2**64, 0], np.uint64)
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, zlib.crc32(purpose.encode())], np.uint64), counter=counter)
    )


def _place(lat: np.ndarray, lon: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    return (lat - SOUTH) / degrees, (lon - WEST) / degrees


def _add_lattice(out: np.ndarray, lattice: np.ndarray, y: np.ndarray, x: np.ndarray, weight: float) -> None:
    from . import _weather

    _weather.add_lattice(out, lattice, y, x, float(weight))


@cache
def _gamma_amounts() -> tuple[np.ndarray, float]:
    """Amounts of mean 1 over minus the log of their probability of exceedance, and the nodes in one of that."""
    per_unit = 64.0
    exceeded = np.exp(-np.arange(0, 40 * per_unit + 1) / per_unit)
    return stats.gamma.isf(exceeded, SHAPE) / SHAPE, per_unit


@cache
def _radiation() -> tuple[np.ndarray, np.ndarray]:
    """Latitudes, degrees, and extraterrestrial radiation ``[366, L]`` of the days of a year, MJ m-2 d-1."""
    from pyet.meteo_utils import extraterrestrial_r

    grid = np.arange(SOUTH, NORTH + 1.0)
    year = pd.date_range("2000-01-01", "2000-12-31")
    return grid, np.stack([np.asarray(extraterrestrial_r(year, np.deg2rad(lat))) for lat in grid], 1)


def _radiation_at(day: int) -> tuple[np.ndarray, np.ndarray]:
    grid, radiation = _radiation()
    return grid, radiation[day - 1]


# --- The store -----------------------------------------------------------------------------------------------------


def _rows(model: ModelSpec | str | None, step: int) -> dict[str, Variable | None]:
    """The series to make, by name, and their rows in the model's table."""
    if model is None:
        integer("step", step, 1, DAY)
        if DAY % step:
            raise ValueError(f"step must divide a day, 86400 s; found {step}: choose another.")
        return dict.fromkeys(("prcp", "tmean", "pet"))
    spec = models.get(model)
    spec.check_step(step)
    rows: dict[str, Variable | None] = dict(rows_of(spec))
    for row in spec.forcings:
        unit = _UNITS.get(role_of(row.name))
        if unit != row.unit:
            raise ValueError(
                f"a synthetic continent has precipitation, temperature and potential evapotranspiration, in mm d-1 and "
                f"degC; found the forcing '{row.name}' in {row.unit} of model {spec.name}: choose another model."
            )
    return rows


def _times(period: Any, step: int) -> np.ndarray:
    first, last = parse_period(period)
    stop = last.normalize() + pd.Timedelta(days=1)
    return np.arange(first.to_datetime64(), stop.to_datetime64(), np.timedelta64(step, "s")).astype("datetime64[ns]")


def _chunks(chunks: Mapping[str, int] | None, n_steps: int, n_basins: int, step: int) -> dict[str, int]:
    wanted = {"time": 366, "basin": BLOCK} | dict(chunks or {})
    if set(wanted) != {"time", "basin"}:
        raise ValueError(f"chunks must be of time and basin; found {', '.join(map(str, chunks or {}))}: correct them.")
    most = {"time": n_steps, "basin": n_basins}
    return {name: min(integer(f"chunks of {name}", size, 1), most[name]) for name, size in wanted.items()}


def _about(seed: int, store: str) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "title": "a synthetic continent",
        "source": "hybridsolve.scale.synthetic_continent, random numbers",
        "seed": seed,
        "store": store,
        "day_boundary": "00 UTC",
    }


def _write_static(
    group: Any, rivers: RiverNetwork, static: Mapping[str, np.ndarray], time: np.ndarray, step: int, chunk: int
) -> None:
    def put(name: str, values: np.ndarray, dims: tuple[str, ...], attributes: dict[str, Any]) -> None:
        group.create_array(name, data=values, chunks="auto", dimension_names=dims, attributes=attributes)

    start = (time - time[0]) // np.timedelta64(1, "s")
    units = f"seconds since {str(time[0])[:19].replace('T', ' ')}"
    put(
        "time",
        start.astype(np.int64),
        ("time",),
        {"units": units, "calendar": "standard", "bounds": "time_bnds", "standard_name": "time", "axis": "T"},
    )
    bounds = np.stack([start, start + step], 1).astype(np.int64)
    put("time_bnds", bounds, ("time", "bnds"), {"units": units, "calendar": "standard"})
    put("basin", rivers.ids, ("basin",), {"long_name": "id of the basin and of its reach", "cf_role": "timeseries_id"})
    for name, (unit, meaning) in _ATTRIBUTES.items():
        dtype = np.float64 if name in ("lat", "lon") else np.float32
        standard = {"standard_name": meaning} if name in ("lat", "lon") else {}
        put(name, static[name].astype(dtype), ("basin",), {"units": unit, "long_name": meaning, **standard})


def _kept_as(store: str, role: str, step: int) -> tuple[str, dict[str, Any]]:
    if store != "packed":
        return ("float16" if store == "float16" else "float32"), {}
    # Amounts of a shorter step are smaller; the largest of an hour are more than a day's over 24.
    scale = PACKED[role] * (1.0 if _UNITS[role] == "degC" else (step / DAY) ** 0.5)
    return "int16", {"scale_factor": scale, "add_offset": 0.0, "_FillValue": -32768}


def _packed(values: np.ndarray, array: Any) -> np.ndarray:
    scale = array.attrs.get("scale_factor")
    if scale is None:
        return values.astype(array.dtype)
    return np.rint(np.clip(values / np.float64(scale), -32767, 32767)).astype(np.int16)
