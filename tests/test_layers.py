"""Elevations of layers: from a hypsometric curve, or as the data have them, and never out of order."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hybridsolve as hs
from hybridsolve.data import open_dataset, write_netcdf
from hybridsolve.data.layers import layers_of_curve
from hybridsolve.data.usable import static_inputs

MODEL = hs.models.get("cemaneige-5+gr4j")
ROWS = [v for v in MODEL.inputs if v.name.startswith("elev")]


def made(curve, units="m", **static):
    draw, time = np.random.default_rng(0), pd.date_range("2001-01-01", periods=60)
    series = {"prcp": (draw.gamma(0.5, 5, (60, 2)), "mm d-1"), "tmean": (draw.normal(0, 4, (60, 2)), "degC")}
    series |= {"pet": (np.ones((60, 2)), "mm d-1"), "qobs": (draw.gamma(1, 1, (60, 2)), "mm d-1")}
    data = xr.Dataset(coords={"time": time, "basin": ["a", "b"]})
    for name, (x, unit) in series.items():
        data[name] = (("time", "basin"), x, {"units": unit})
    data["elev_mean"] = ("basin", [500.0, 1000.0], {"units": "m"})
    if curve is not None:
        data["hypsometry"] = (("basin", "point"), np.asarray(curve), {"units": units})
    for name, x in static.items():
        data[name] = ("basin", x, {"units": "m"})
    return data


def test_layers_are_the_middles_of_equal_areas():
    percentiles = np.stack([np.linspace(100, 1100, 101), 10.0 * np.arange(101) ** 2 / 100])
    found = static_inputs(made(percentiles), ROWS)
    layers = np.stack([found[f"elev_layer_{i}"] for i in range(1, 6)], 1)
    np.testing.assert_allclose(layers[0], [200, 400, 600, 800, 1000])
    np.testing.assert_allclose(layers[1], np.array([10.0, 30, 50, 70, 90]) ** 2 / 10)
    np.testing.assert_allclose(layers_of_curve(made(percentiles / 1000, "km"), 5), layers)
    np.testing.assert_allclose(layers_of_curve(made([[0.0, 100], [7, 7]]), 2), [[25, 75], [7, 7]])
    own = {f"elev_layer_{i}": [100.0 * i, 50.0 * i] for i in range(1, 6)}
    kept = static_inputs(made(percentiles, **own), ROWS)  # what the data have goes before their curve
    assert kept["elev_layer_2"].tolist() == [200, 100]


def test_a_file_with_a_curve_is_run(tmp_path):
    write_netcdf(made([[100.0, 400, 2000], [200, 900, 1500]]), tmp_path / "d.nc")
    data = open_dataset(tmp_path / "d.nc", model=MODEL)
    parameters = xr.Dataset({v.name: ((), np.float32(v.from_unit(0.5))) for v in MODEL.parameters})
    layers = {f"elev_layer_{i}": ("basin", z, {"units": "m"}) for i, z in enumerate(layers_of_curve(data, 5).T, 1)}
    data = data.assign(annual_snowfall=("basin", [100.0, 200.0], {"units": "mm"}))
    by_curve, by_layers = (
        hs.simulate_dataset(x, parameters, MODEL, fluxes=["swe"], backend="reference")["swe"]
        for x in (data, data.drop_vars("hypsometry").assign(layers))
    )
    assert float(by_curve.max()) > 0
    xr.testing.assert_identical(by_curve, by_layers)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(curve=[[3.0, 2, 4], [1, 2, 3]]),
            r"hypsometry must rise from point to point; found \[3.0, 2.0, 4.0\], .* a",
        ),
        (dict(curve=[[1.0, 2, 4], [1, np.nan, 3]]), "must rise from point to point; found .* of basin b"),
        (dict(curve=[[1.0], [2.0]]), r"must be \[basin, point\] with two points or more; found .*sizes \(2, 1\)"),
        (dict(curve=[[1.0, 2], [1, 2]], units=None), "hypsometry has no units attribute, expected 'm'"),
        (dict(curve=None), r"input 'elev_layer_1' must be .* or the curve hypsometry \[basin, point\] of which"),
        (
            dict(curve=None, **{f"elev_layer_{i}": [100.0 * i, 500 - 100.0 * (i == 3)] for i in range(1, 6)}),
            "must not fall from one to the next; found 500 m of elev_layer_2 and 400 m of elev_layer_3 in basin b",
        ),
    ],
)
def test_what_gives_no_layers_is_refused(change, message):
    data = made(change.pop("curve"), **change)
    if data.get("hypsometry") is not None and data["hypsometry"].attrs["units"] is None:
        del data["hypsometry"].attrs["units"]
    with pytest.raises(ValueError, match=message):
        static_inputs(data, ROWS)
