"""Weather and flow of three basins at steps of a day and shorter: as ours, and as a foreign file holds it."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from foreign import one_sentence

from hybridsolve import data

STEPS = {900: "mm/(15 min)", 3600: "mm h-1", 10800: "mm/(3 h)", 21600: "mm/(6 h)", 43200: "mm/(12 h)", 86400: "mm d-1"}


def truth(step=3600, days=5, seed=0):
    """Weather and flow of three basins as amounts per step."""
    time = pd.date_range("2001-01-01", periods=days * 86400 // step, freq=pd.Timedelta(step, "s")).to_numpy()
    rng = np.random.default_rng(seed)
    shape = (len(time), 3)
    warm = 5 * np.sin(2 * np.pi * np.arange(len(time))[:, None] * step / 86400)
    values = {
        "prcp": rng.gamma(0.5, 2.0, shape),
        "tmean": 8 + warm + rng.normal(0, 1, shape),
        "pet": rng.uniform(0, 0.2, shape),
        "qobs": rng.gamma(2.0, 0.1, shape),
    }
    return time, values


def made(step=3600, days=5, dtype="float64", **options):
    time, values = truth(step, days)
    return data.assemble(values, basin=["a", "b", "c"], time=time, lat=[50, 51, -30], dtype=dtype, **options)


def raw(step=3600, days=5, units=None, stamps=0, **attrs):
    """As a foreign file holds it: other names, no bounds; stamps this many hours after the start of each step."""
    time, values = truth(step, days)
    units = {"prcp": STEPS[step], "tmean": "degC", "pet": STEPS[step], "qobs": STEPS[step]} | (units or {})
    names = {"prcp": "pr", "tmean": "tas", "pet": "pet", "qobs": "discharge"}
    return xr.Dataset(
        {names[v]: (("time", "gauge_id"), x, {"units": units[v], **attrs}) for v, x in values.items()},
        {"time": time + np.timedelta64(round(stamps * 3600), "s"), "gauge_id": ["a", "b", "c"]},
    )


def refused(call, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=match) as error:
            call()
    return one_sentence(error)
