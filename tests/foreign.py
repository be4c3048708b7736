"""Series of three basins in our own units, and a small dataset of them to be written or spoilt as others do."""

import warnings

import numpy as np
import pandas as pd
import xarray as xr

from hybridsolve import data

DAYS = pd.date_range("1999-10-01", periods=900)
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


def one_sentence(error):
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    return text
