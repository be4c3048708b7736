"""Potential evapotranspiration over (time, basin), by the library `pyet`.

`pyet` (Vremec et al. 2024, Geosci. Model Dev. 17:7083) implements the published formulas; this module brings
units and shapes to what it expects, works in blocks of basins so that the temporaries stay small, and closes
two gaps: `pyet.oudin` turns a missing temperature into zero evapotranspiration, and a radicand ``tmax -
tmin`` below zero becomes a NaN without a word.

The formulas are of days. At a shorter step they are given the means and extremes of each calendar day of the data's
clock, and the day's evapotranspiration is spread evenly over its steps.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from .._extras import needed_for
from .daily import by_day, rows_of_whole_days
from .steps import DAY, date_of_row, refuse_odd_step, usual_step
from .units import DAY as DAY_SECONDS
from .units import unit_at

PET_METHODS = {
    "hargreaves": "Hargreaves & Samani 1985, Appl. Eng. Agric. 1:96 (coefficient 0.0023)",
    "oudin": "Oudin et al. 2005, J. Hydrol. 303:290 (K1 = 100 degC, K2 = 5 degC)",
    "oudin-airgr": "Oudin et al. 2005, J. Hydrol. 303:290, with the sun and the latent heat of airGR's PE_Oudin",
    "priestley-taylor": "Priestley & Taylor 1972, Mon. Weather Rev. 100:81 (alpha = 1.26), net radiation by "
    "Allen et al. 1998, FAO-56 (albedo 0.23, dew point at tmin)",
}

_BLOCK = 64  # basins at a time: 64 x 30 years of daily float64 is 5 MB a temporary
_DAILY = {"tmin": "minimum", "tmax": "maximum"}  # of the steps of a day; the rest by their mean


def pet_attributes(method: str, step_seconds: int = DAY_SECONDS) -> dict[str, str]:
    """CF attributes of a `pet` variable made by `potential_evapotranspiration`."""
    spread = "" if step_seconds == DAY_SECONDS else "; of each calendar day, spread evenly over its steps"
    return {
        "method": method,
        "references": PET_METHODS[method],
        "comment": f"computed {_by_what(method)}; negative values set to 0{spread}",
    }


def potential_evapotranspiration(
    method: str,
    *,
    tmean: xr.DataArray,
    tmin=None,
    tmax=None,
    srad=None,
    rnet=None,
    elevation=None,
    lat_degrees,
) -> xr.DataArray:
    """Potential evapotranspiration of many basins, of days or spread evenly over the steps of each calendar day.

    Negative values are clipped at 0 (condensation is no demand). Where any input is NaN the result is NaN: at steps
    shorter than a day all that day, and so are days that the data hold in part.

    Parameters
    ----------
    method : {"hargreaves", "oudin", "oudin-airgr", "priestley-taylor"}
        ``hargreaves`` needs `tmin` and `tmax`; ``oudin`` only `tmean`, as ``oudin-airgr``, which is some 3 % more;
        ``priestley-taylor`` needs `elevation` and either `srad` with `tmin` and `tmax`, or `rnet`.
    tmean : xarray.DataArray, dims (time, basin) or (time,)
        Mean air temperature of each step, degC, with a datetime64 coordinate `time`, the start of each step.
    tmin, tmax : array_like, shape of `tmean`, optional
        Extremes, degC; at steps shorter than a day those of `tmean` where left out.
    srad : array_like, shape of `tmean`, optional
        Incoming shortwave radiation as a mean over the step, W m-2 (of a day over its 24 hours, not over daylight).
    rnet : array_like, shape of `tmean`, optional
        Net radiation as a mean over the step, W m-2; used instead of `srad` where it is known.
    elevation : array_like, shape (basin,) or scalar, optional
        Mean elevation, m.
    lat_degrees : array_like, shape (basin,) or scalar
        Latitude, degrees north.

    Returns
    -------
    xarray.DataArray, dims of `tmean`, float64
        Potential evapotranspiration, mm d-1 or mm per step (`units` says it), with `method` and `references`.

    Raises
    ------
    ValueError
        Unknown method, missing or misshaped input, basins in another order, latitude outside -90..90, a day with
        tmax < tmin, or steps shorter than a day that do not divide it.

    References
    ----------
    See `PET_METHODS`; Allen et al. 1998, FAO Irrigation and Drainage Paper 56, for radiation.
    """
    if method not in PET_METHODS:
        raise ValueError(f"pet method must be one of {', '.join(sorted(PET_METHODS))}, found {method!r}; choose one.")
    if not isinstance(tmean, xr.DataArray) or set(tmean.dims) - {"time", "basin"} or "time" not in tmean.coords:
        found = tmean.dims if isinstance(tmean, xr.DataArray) else type(tmean).__name__
        raise ValueError(
            "tmean must be an xarray.DataArray with dims (time, basin) and a time coordinate, found "
            f"{found}; give both dims and the days as coords to xarray.DataArray."
        )
    time = tmean["time"].values
    step = min(usual_step(time), DAY)
    if step < DAY:
        refuse_odd_step(step, time, "time of tmean")
        tmin, tmax = (tmean if extreme is None else extreme for extreme in (tmin, tmax))
    given = {"tmin": tmin, "tmax": tmax, "srad": srad, "rnet": rnet, "elevation": elevation}
    if method == "priestley-taylor":
        needed = ("rnet", "elevation") if rnet is not None else ("srad", "tmin", "tmax", "elevation")
    else:
        needed = {"hargreaves": ("tmin", "tmax")}.get(method, ())
    for name in needed:
        if given[name] is None:
            raise ValueError(
                f"{name} is needed for pet method {method!r} but was not given; pass it or choose another "
                "method (oudin needs only tmean)."
            )

    single = "basin" not in tmean.dims
    full = (tmean.expand_dims("basin") if single else tmean).transpose("time", "basin")
    n_basin = full.sizes["basin"]
    series = {"tmean": np.asarray(full.values, dtype=np.float64)}
    for name in needed:
        if name != "elevation":
            series[name] = _series(name, given[name], full, single)
    lat = _static("lat_degrees", lat_degrees, full)
    if not np.all(np.abs(lat) <= 90.0):
        bad = int(np.flatnonzero(~(np.abs(lat) <= 90.0))[0])
        raise ValueError(
            f"lat_degrees must lie in -90..90 degrees, found {lat[bad]:g} in basin {_basin(full, bad)}; give "
            "the gauge's latitude in degrees north."
        )
    height = _static("elevation", elevation, full) if "elevation" in needed else None
    if "tmin" in needed:
        below = series["tmax"] < series["tmin"]
        if below.any():
            t, b = (int(i[0]) for i in np.nonzero(below))
            raise ValueError(
                f"tmax must not be below tmin, found tmax={series['tmax'][t, b]:g} < "
                f"tmin={series['tmin'][t, b]:g} in basin {_basin(full, b)} on "
                f"{date_of_row(time, t)} ({int(below.sum())} such values); check whether the two "
                "are swapped."
            )

    steps = int(DAY // step)
    rows = np.arange(len(time))
    if steps > 1:
        rows = rows_of_whole_days(time)
        series = {name: by_day(values, rows, steps, _DAILY.get(name, "mean")) for name, values in series.items()}
    out = np.empty((len(rows), n_basin))
    for start in range(0, n_basin, _BLOCK):
        cut = slice(start, min(start + _BLOCK, n_basin))
        block = {
            k: xr.DataArray(np.ascontiguousarray(v[:, cut]), dims=("time", "basin"), coords={"time": time[rows]})
            for k, v in series.items()
        }
        out[:, cut] = _block(
            method,
            block,
            xr.DataArray(np.deg2rad(lat[cut]), dims="basin"),
            None if height is None else xr.DataArray(height[cut], dims="basin"),
        )
        for values in series.values():  # pyet.oudin writes 0 where tmean is NaN
            np.copyto(out[:, cut], np.nan, where=np.isnan(values[:, cut]))
    if steps > 1:
        daily, out = out / steps, np.full(full.shape, np.nan)
        out[rows[:, None] + np.arange(steps)] = daily[:, None]
    result = full.copy(data=out)
    result = result.isel(basin=0, drop=True) if single else result.transpose(*tmean.dims)
    result.name = "pet"
    length = DAY_SECONDS // steps
    units = {"units": unit_at("mm d-1", length), "long_name": "potential evapotranspiration"}
    result.attrs = units | pet_attributes(method, length)
    return result


def _block(method, v, lat, elevation):
    """One block of basins through pyet; lat in radians, temperatures in degC, radiation in W m-2."""
    if method == "oudin-airgr":
        return _oudin_airgr(v["tmean"], lat).transpose("time", "basin").values
    pyet = _pyet()
    if method == "hargreaves":
        pet = pyet.hargreaves(v["tmean"], v["tmax"], v["tmin"], lat)
    elif method == "oudin":
        pet = pyet.oudin(v["tmean"], lat)
    elif "rnet" in v:
        rn = v["rnet"] * (DAY_SECONDS / 1e6)  # W m-2 to MJ m-2 d-1
        pet = pyet.priestley_taylor(v["tmean"], rn=rn, elevation=elevation, lat=lat)
    else:
        rs = v["srad"] * (DAY_SECONDS / 1e6)
        # tmin and tmax given: pyet takes the dew point at tmin, FAO-56's advice where humidity is not trusted
        pet = pyet.priestley_taylor(v["tmean"], rs=rs, tmax=v["tmax"], tmin=v["tmin"], elevation=elevation, lat=lat)
    return pet.transpose("time", "basin").values


def _oudin_airgr(tmean, lat):
    """Radiation outside of the atmosphere times T + 5, of which 2850 W m-2 degC are a mm in a day."""
    day = tmean["time"].dt.dayofyear
    declination = 0.4093 * np.sin(day / 58.1 - 1.405)
    sunset = np.arccos((-np.tan(lat) * np.tan(declination)).clip(-1, 1))
    height = sunset * np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.sin(sunset)
    radiation = 446 * (1 + np.cos(day / 58.1) / 30) * height  # W m-2
    return (radiation * (tmean + 5) / 2850).clip(min=0)


def _by_what(method):
    return "here" if method == "oudin-airgr" else f"with pyet {_pyet().__version__}"


def _series(name, value, full, single):
    """`value` as float64 (time, basin) in the order of `full`."""
    if isinstance(value, xr.DataArray):
        if single and "basin" not in value.dims:
            value = value.expand_dims("basin")
        if set(value.dims) != {"time", "basin"}:
            raise ValueError(f"{name} must have dims (time, basin) as tmean has, found {value.dims}; rename its dims.")
        for dim in ("time", "basin"):
            # arithmetic of xarray would silently drop what does not match
            if dim in value.coords and dim in full.coords and not value.indexes[dim].equals(full.indexes[dim]):
                raise ValueError(
                    f"{name} must have the same {dim} coordinate as tmean, found another one; align the two "
                    "with xarray.align(..., join='exact') first."
                )
        value = value.transpose("time", "basin").values
    array = np.asarray(value, dtype=np.float64)
    if single and array.ndim == 1:
        array = array[:, None]
    if array.shape != full.shape:
        raise ValueError(f"{name} must have the shape {full.shape} of tmean, found {array.shape}; transpose or cut it.")
    return array


def _static(name, value, full):
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 1 or (array.ndim == 1 and array.shape[0] != full.sizes["basin"]):
        raise ValueError(
            f"{name} must be a number or have one value for each of the {full.sizes['basin']} basins, found "
            f"shape {array.shape}; pass an array over basins."
        )
    array = np.broadcast_to(array, (full.sizes["basin"],))
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, found {array[bad]} in basin {_basin(full, bad)}; fill or drop it.")
    return array


def _basin(full, index):
    return str(full.basin.values[index]) if "basin" in full.coords else f"number {index}"


def _pyet():
    with needed_for("potential evapotranspiration"):
        import pyet
    return pyet
