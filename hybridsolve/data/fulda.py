"""The Fulda at Grebenau (Germany): a real basin in the wheel of `spotpy`, for examples and tests.

Daily temperature, precipitation and discharge of 1979-1988, package data of spotpy (Houska et al. 2015, PLoS
ONE 10:e0145180, MIT licence), whose own examples use an area of 2976.41 km2.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .._extras import MissingPackage
from .dataset import assemble, float_dtype
from .pet import pet_attributes, potential_evapotranspiration

AREA_KM2 = 2976.41
LAT = 50.9  # of the basin, to a tenth of a degree: extraterrestrial radiation needs no more
_CITATION = "Houska, Kraft, Chamorro-Chavez & Breuer 2015, PLoS ONE 10:e0145180 (spotpy)"


def read_fulda(*, pet: str = "hargreaves", dtype="float32") -> xr.Dataset:
    """Read the Fulda example as a dataset of one basin, ``grebenau``.

    Parameters
    ----------
    pet : {"hargreaves", "oudin"}
        Method of potential evapotranspiration (there is no radiation for others).
    dtype : {"float32", "float64"}

    Returns
    -------
    xarray.Dataset, time 3653, basin 1
        `prcp`, `tmean`, `tmin`, `tmax`, `pet`, `qobs` in mm d-1 and degC, `area_km2`; discharge was given in
        m3 s-1 and is divided by the area.

    Raises
    ------
    ModuleNotFoundError
        spotpy is not installed.
    FileNotFoundError
        The installed one is without its examples.
    ValueError
        Another method, or a file in another form than expected.
    """
    float_dtype(dtype)
    if pet not in ("hargreaves", "oudin"):
        raise ValueError(
            f"pet must be 'hargreaves' or 'oudin' for the Fulda example, found {pet!r}; choose one of them."
        )
    spec = importlib.util.find_spec("spotpy")  # its location only: importing it would pull in all its samplers
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("the Fulda example", "spotpy")
    path = Path(next(iter(spec.submodule_search_locations))) / "examples" / "cmf_data" / "fulda_climate.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed spotpy must hold {'/'.join(path.parts[-4:])}, found none; run: pip install "
            "'hybridsolve[demo]'."
        )
    frame = pd.read_csv(path, skiprows=[1], encoding="utf-8")  # the second line holds units
    wanted = ["date", "tmax", "tmin", "tmean", "Prec", "Q"]
    if list(frame.columns) != wanted:
        raise ValueError(f"{path.name} must have columns {wanted}, found {list(frame.columns)}; install spotpy 1.6.")
    time = pd.to_datetime(frame["date"], format="%d.%m.%Y").to_numpy()

    def column(name):
        return frame[name].to_numpy(np.float64)[:, None]

    t = {
        name: xr.DataArray(column(name), dims=("time", "basin"), coords={"time": time})
        for name in ("tmean", "tmin", "tmax")
    }
    series = {
        "prcp": column("Prec"),
        "tmean": t["tmean"].values,
        "pet": potential_evapotranspiration(pet, **t, lat_degrees=LAT).values,
        "qobs": column("Q") * 86.4 / AREA_KM2,  # m3 s-1 over km2 to mm d-1
        "tmin": t["tmin"].values,
        "tmax": t["tmax"].values,
    }
    return assemble(
        series,
        basin=["grebenau"],
        time=time,
        lat=[LAT],
        static={"area_km2": (np.array([AREA_KM2]), {"units": "km2", "long_name": "catchment area"})},
        attrs={
            "title": "Fulda at Grebenau, daily 1979-1988",
            "source": "spotpy package data, examples/cmf_data/fulda_climate.csv",
            "references": "https://doi.org/10.1371/journal.pone.0145180",
            "citation": _CITATION,
            "license": "MIT",
            "day_boundary": "as in source, which does not state it",
        },
        dtype=dtype,
        pet_attrs=pet_attributes(pet),
    )
