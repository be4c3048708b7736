"""CAMELS-US: 671 basins with extended Maurer forcing and USGS discharge, from one packed NetCDF file.

Newman et al. 2015, HESS 19:209 (forcing, discharge); Addor et al. 2017, HESS 21:5293 (attributes); CC BY 4.0.

What to know of these data: `srad` is a mean over daylight (here multiplied by dayl/86400); the climate
attributes (`p_mean`, `aridity`, ...) come from Daymet, not from this forcing; `pet_mean` is a
Priestley-Taylor mean; `qobs` was divided by the area of the forcing files (`area_km2`), which departs by more
than 10 % from `area_gages2` in 28 basins; thirteen attributes are signatures of the discharge
(`CAMELS_DISCHARGE_SIGNATURES`) and must never be inputs; `root_depth_*` and `geol_porostiy` (CAMELS' own
spelling) are NaN in some basins; 13 basins have more runoff than rain and are flagged, not dropped.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xarray as xr

from .dataset import assemble, float_dtype, period_slice, resolve_basins
from .ids import listed, text_ids
from .netcdf import open_netcdf
from .pet import PET_METHODS, pet_attributes, potential_evapotranspiration

FILE_NAME = "camels_us_671.nc"

CAMELS_DISCHARGE_SIGNATURES = (
    "q_mean", "runoff_ratio", "stream_elas", "slope_fdc", "baseflow_index", "hfd_mean", "q5", "q95",
    "high_q_freq", "high_q_dur", "low_q_freq", "low_q_dur", "zero_q_freq",
)  # fmt: skip

# Units of the attributes that have one (Addor et al. 2017, tables 1 to 6); the other numbers are
# dimensionless.
_UNITS = {
    "elev_mean": "m", "slope_mean": "m km-1", "area_gages2": "km2", "area_geospa_fabric": "km2",
    "p_mean": "mm d-1", "pet_mean": "mm d-1", "high_prec_freq": "d yr-1", "high_prec_dur": "d",
    "low_prec_freq": "d yr-1", "low_prec_dur": "d", "q_mean": "mm d-1", "q5": "mm d-1", "q95": "mm d-1",
    "high_q_freq": "d yr-1", "high_q_dur": "d", "low_q_freq": "d yr-1", "low_q_dur": "d",
    "soil_depth_pelletier": "m", "soil_depth_statsgo": "m", "soil_conductivity": "cm h-1",
    "max_water_content": "m", "sand_frac": "%", "silt_frac": "%", "clay_frac": "%", "water_frac": "%",
    "organic_frac": "%", "other_frac": "%", "root_depth_50": "m", "root_depth_99": "m",
}  # fmt: skip

_CITATION = "Newman et al. 2015, HESS 19:209; Addor et al. 2017, HESS 21:5293; CC BY 4.0"


_HELD = ("prcp", "tmin", "tmax", "srad", "dayl", "qobs", "gauge_lat", "gauge_lon", "elev_mean", "area_forcing_m2")


def is_pack(ds: xr.Dataset) -> bool:
    """Whether a dataset is the CAMELS-US pack, by what it holds."""
    return {"gauge_id", "time"} <= set(ds.dims) and {"gauge_id", "time", *_HELD} <= set(ds.variables)


def data_dir() -> Path:
    """Folder of the published observations: HYBRIDSOLVE_DATA, else ``../shared/data`` beside the checkout."""
    set_by_user = os.environ.get("HYBRIDSOLVE_DATA")
    if set_by_user:
        return Path(set_by_user)
    return Path(__file__).resolve().parents[2].parent / "shared" / "data"


def read_camels(path=None, *, basins=None, period=None, pet="priestley-taylor", dtype="float32") -> xr.Dataset:
    """Read the CAMELS-US pack.

    Parameters
    ----------
    path : path_like, optional
        The file, or the folder that holds ``camels_us_671.nc``; by default the folder of `data_dir`.
    basins : None, list of str, or path_like
        Gauge ids of eight digits, or a text file with one id a line; kept in the order given.
    period : str or pair, optional
        ``"first:last"``, both days included, within 1980-01-01:2008-12-31.
    pet : {"priestley-taylor", "hargreaves", "oudin"}
        Method of potential evapotranspiration, computed in float64. CAMELS' own `pet_mean` is
        Priestley-Taylor; the published dHBV runs use Hargreaves.
    dtype : {"float32", "float64"}
        Of the time series; attributes keep their own.

    Returns
    -------
    xarray.Dataset, dims (time, basin)
        `prcp`, `tmean` = (tmin + tmax)/2, `tmin`, `tmax`, `pet`, `qobs` (NaN = missing), `area_km2`, the
        static attributes, and `flag_more_runoff_than_rain`: over the whole record, more discharge than
        precipitation on the days with an observation.

    Raises
    ------
    FileNotFoundError
        No such file; set HYBRIDSOLVE_DATA.
    ValueError
        Unknown basin, a period outside the data, an unknown method.
    """
    dtype = float_dtype(dtype)
    if pet not in PET_METHODS:
        raise ValueError(f"pet must be one of {', '.join(sorted(PET_METHODS))} for CAMELS, found {pet!r}; choose one.")
    file = data_dir() if path is None else Path(path)
    if file.is_dir() or path is None:
        file = file / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(
            f"the CAMELS pack was expected at {file} and is not there; set the environment variable "
            f"HYBRIDSOLVE_DATA to the folder that holds {FILE_NAME}, or pass its path."
        )
    with open_netcdf(file, "the CAMELS pack", decode_timedelta=False) as source:
        if not is_pack(source):
            raise ValueError(
                f"{file} must be the CAMELS pack with dims gauge_id and time and the variables {', '.join(_HELD)}, "
                f"found dims {listed(source.dims)} and variables {listed(source.data_vars)}; use open_dataset for "
                "other files."
            )
        ids = text_ids(source["gauge_id"].values, f"gauge_id of {file.name}")
        index = resolve_basins(basins, ids, "CAMELS-US")
        time = source["time"].values
        cut = slice(None) if period is None else period_slice(time, period)
        # The file is chunked by 8 basins over the whole record: read the span of basins once, order it after.
        # A few basins far apart are read one by one instead.
        small = len(index) <= 16

        def read(name):
            variable = source[name]
            if small:
                rows = np.stack([variable.isel(gauge_id=int(i)).values for i in index])
            else:
                low, high = int(index.min()), int(index.max()) + 1
                rows = variable.isel(gauge_id=slice(low, high)).values[index - low]
            return rows.T  # a view: each cut below is copied once, into time-major order

        prcp, tmin, tmax, qobs = read("prcp"), read("tmin"), read("tmax"), read("qobs")
        srad = read("srad") * read("dayl") / 86400.0 if pet == "priestley-taylor" else None
        static = {}
        for name, variable in source.data_vars.items():
            if variable.dims == ("gauge_id",) and name not in ("gauge_lat", "gauge_lon", "area_forcing_m2"):
                static[str(name)] = (variable.values[index], _attributes(str(name), variable))
        lat, lon = source["gauge_lat"].values[index], source["gauge_lon"].values[index]
        elevation = source["elev_mean"].values[index]
        area = source["area_forcing_m2"].values[index] / 1e6

    valid = np.isfinite(qobs)
    runoff = np.where(valid, qobs, 0.0).sum(axis=0, dtype=np.float64)
    rain = np.where(valid, prcp, 0.0).sum(axis=0, dtype=np.float64)
    static["area_km2"] = (
        area,
        {"units": "km2", "long_name": "catchment area of the forcing files, by which qobs was divided"},
    )
    static["flag_more_runoff_than_rain"] = (
        runoff > rain,
        {
            "long_name": "more observed runoff than precipitation",
            "comment": "sums over all days of the whole record with an observation; mostly a bias of the precipitation",
        },
    )

    time = time[cut]

    def series(values):
        return xr.DataArray(np.ascontiguousarray(values[cut]), dims=("time", "basin"), coords={"time": time})

    low, high = series(tmin), series(tmax)
    mean = (low + high) / 2.0
    demand = potential_evapotranspiration(
        pet,
        tmean=mean,
        tmin=low,
        tmax=high,
        srad=None if srad is None else srad[cut],
        elevation=elevation,
        lat_degrees=lat,
    )
    return assemble(
        {
            "prcp": prcp[cut],
            "tmean": mean.values,
            "pet": demand.values,
            "qobs": qobs[cut],
            "tmin": low.values,
            "tmax": high.values,
        },
        basin=ids[index],
        time=time,
        lat=lat,
        lon=lon,
        static=static,
        attrs={
            "title": "CAMELS-US, daily, extended Maurer forcing and USGS discharge",
            "source": "CAMELS-US v1.2, extended Maurer forcing (Kratzert et al. 2019), attributes v2.0, quantised",
            "references": "https://doi.org/10.5194/hess-19-209-2015, https://doi.org/10.5194/hess-21-5293-2017",
            "citation": _CITATION,
            "license": "CC BY 4.0",
            "day_boundary": "as in source: the local day of the Maurer forcing and of the USGS daily mean "
            "discharge; the hour and zone of its boundary are not recorded there",
        },
        dtype=dtype,
        pet_attrs=pet_attributes(pet),
    )


def _attributes(name: str, variable: xr.DataArray) -> dict[str, str]:
    attributes = {}
    if name in _UNITS:
        attributes["units"] = _UNITS[name]
    elif variable.dtype.kind == "f":
        attributes["units"] = "1"
    if name == "geol_permeability":
        attributes["units"] = "1"
        attributes["comment"] = "log10 of the permeability in m2"
    if name == "hfd_mean":
        attributes["comment"] = "day of the water year"
    if name in CAMELS_DISCHARGE_SIGNATURES:
        attributes["role"] = "signature of the discharge: never an input"
    return attributes
