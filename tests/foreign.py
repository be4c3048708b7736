"""Small datasets: three basins in our own units, to be written or spoilt as others do, and one for the checks."""

import warnings

import numpy as np
import pandas as pd
import xarray as xr

from hybridsolve import data

DAYS = pd.date_range("1999-10-01", periods=900)
YEARS = pd.date_range("1999-10-01", "2001-09-30")
IDS = ["01013500", "01022500", "01030500"]
AREA = np.array([120.0, 50.0, 900.0])
LAT = np.array([47.0, 44.0, 45.5])


def truth(n=900, seed=0):
    """Weather and flow in our own units, by name, ``[time, basin]``."""
    rng = np.random.default_rng(seed)
    shape = (n, 3)
    season = np.cos(2 * np.pi * (DAYS[:n].dayofyear.to_numpy()[:, None] - 20) / 365.25)
    tmean = 10 - 12 * season + rng.normal(0, 2, shape)
    prcp, store = rng.gamma(0.5, 6.0, shape), np.full(3, 40.0)
    qobs = np.empty(shape)
    for t in range(n):
        store = store + 0.6 * prcp[t]
        qobs[t] = 0.04 * store
        store = store - qobs[t]
    return {"prcp": prcp, "tmin": tmean - 4, "tmax": tmean + 4, "tmean": tmean, "qobs": qobs}


TRUTH = truth()


def own(dims=("time", "basin"), n=60, ids=IDS):
    """A small dataset of our own names in foreign dimensions, to be spoilt."""
    units = {"prcp": "mm d-1", "qobs": "mm d-1"}
    time, basin = dims
    ds = xr.Dataset(
        {k: ((time, basin), v[:n].copy(), {"units": units.get(k, "degC")}) for k, v in TRUTH.items()},
        coords={time: DAYS[:n], basin: list(ids), "lat": (basin, LAT)},
    )
    return ds


def opened(source, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.open_dataset(source, **options)


def toy(n_basin=3, days=YEARS, dtype="float32", seed=0):
    """A small dataset of the convention, with everything a check may look at."""
    rng = np.random.default_rng(seed)
    shape = (len(days), n_basin)
    season = np.sin(2 * np.pi * (days.dayofyear.to_numpy() - 110) / 365)[:, None]
    tmean = 8 + 10 * season + rng.normal(0, 3, shape)
    width = rng.uniform(2, 12, shape)
    qobs = rng.gamma(0.8, 2.0, shape)
    qobs[5, 0] = np.nan
    return data.assemble(
        {
            "prcp": rng.gamma(0.5, 6.0, shape),
            "tmean": tmean,
            "pet": np.maximum(0, 2 + 2 * season + np.zeros(shape)),
            "qobs": qobs,
            "tmin": tmean - width / 2,
            "tmax": tmean + width / 2,
        },
        basin=[f"{i:08d}" for i in range(1, n_basin + 1)],
        time=days,
        lat=np.linspace(-33, 65, n_basin),
        lon=np.linspace(-100, 20, n_basin),
        static={
            "elev_mean": (np.linspace(50, 2000, n_basin), {"units": "m"}),
            "area_km2": (np.linspace(10, 900, n_basin), {"units": "km2"}),
        },
        attrs={"title": "toy", "citation": "nobody 2000"},
        dtype=dtype,
        pet_attrs={"method": "sine"},
    )


def textbook(method, day, tmean, tmin, tmax, lat, srad=None, rnet=None, elevation=None):
    """FAO-56 (Allen et al. 1998) and the three formulas, written out a second time from the papers; 1-D."""
    j = day.dayofyear.to_numpy()
    phi = np.deg2rad(lat)
    distance = 1 + 0.033 * np.cos(2 * np.pi * j / 365)  # eq. 23
    declination = 0.409 * np.sin(2 * np.pi * j / 365 - 1.39)  # eq. 24
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1, 1))  # eq. 25
    ra = (
        24 * 60 / np.pi * 0.0820 * distance
        * (sunset * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.sin(sunset))
    )  # eq. 21, MJ m-2 d-1  # fmt: skip
    latent = 2.501 - 2.361e-3 * tmean  # MJ kg-1
    if method == "hargreaves":
        pet = 0.0023 * ra / latent * (tmean + 17.8) * np.sqrt(tmax - tmin)
    elif method == "oudin":
        pet = np.where(tmean + 5 > 0, ra / latent * (tmean + 5) / 100, 0)
    else:

        def saturation(t):
            return 0.6108 * np.exp(17.27 * t / (t + 237.3))

        if rnet is None:
            rs = srad * 0.0864
            clear = (0.75 + 2e-5 * elevation) * ra
            cloud = np.clip(1.35 * np.clip(rs / clear, 0.3, 1) - 0.35, 0.05, 1)
            emitted = 4.903e-9 * ((tmax + 273.16) ** 4 + (tmin + 273.16) ** 4) / 2
            rn = 0.77 * rs - emitted * (0.34 - 0.14 * np.sqrt(saturation(tmin))) * cloud
        else:
            rn = rnet * 0.0864
        slope = 4098 * saturation(tmean) / (tmean + 237.3) ** 2
        psychro = 0.665e-3 * 101.3 * ((293 - 0.0065 * elevation) / 293) ** 5.26
        pet = 1.26 * slope / (slope + psychro) * rn / latent
    return np.maximum(pet, 0)


def one_sentence(error):
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    return text
