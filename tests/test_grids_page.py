"""Every block of docs/grids-and-units.md runs, one after the other, in a folder that holds the files it speaks of."""

import re
import shlex
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from conftest import ROOT

from hybridsolve import cli

TEXT = (Path(ROOT) / "docs" / "grids-and-units.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    lat, lon, time = np.arange(46.5, 49), np.arange(8.5, 12), pd.date_range("2000-01-01", "2001-12-31")
    shape = (len(time), 3, 4)
    season = np.sin(2 * np.pi * (time.dayofyear.to_numpy() - 110) / 365)[:, None, None]
    dims = ("time", "lat", "lon")
    xr.Dataset(
        {
            "prcp": (dims, draw.gamma(0.4, 8, shape).astype("f4"), {"units": "mm d-1"}),
            "tmean": (dims, (8 + 9 * season + draw.normal(0, 2, shape)).astype("f4"), {"units": "degC"}),
            "pet": (dims, (2 + 1.5 * season + np.zeros(shape)).astype("f4"), {"units": "mm d-1"}),
        },
        coords={"time": time, "lat": lat, "lon": lon},
    ).to_netcdf("weather.nc")
    cells = xr.DataArray(draw.uniform(200, 2000, (3, 4)), coords={"lat": lat, "lon": lon}, name="elevation")
    cells.to_netcdf("elevation.nc")
    boxes = [shapely.box(8.2 + i, 46.5, 9.0 + i, 48.2) for i in range(3)]
    table = {"zone": ["a1", "a2", "b1"], "gauge": ["a", "a", "b"], "height": [500.0, 1500.0, 900.0]}
    geopandas.GeoDataFrame(table, geometry=boxes, crs=4326).to_file("zones.gpkg")
    flow = draw.gamma(1, 2, (len(time), 2)).astype("f4")
    qobs = xr.DataArray(flow, coords={"time": time, "gauge": ["a", "b"]}, dims=("time", "gauge"), name="qobs")
    qobs.assign_attrs(units="mm d-1").to_netcdf("flow.nc")
    known = {}
    for block in blocks("python"):
        exec(compile(block, "docs/grids-and-units.md", "exec"), known)
    assert list(known["fitted"]["basin"].values) == ["a", "b"] and known["fitted"]["nse"].notnull().all()
    assert known["on_grid"].shape == (3, 4) and known["table"].loc["b1", "prcp"] == known["values"].sel(basin="b1")
    (command,) = blocks("sh")
    assert cli.main(shlex.split(command.replace("\\\n", ""))[1:]) == 0
    with xr.open_dataset("forcing.nc") as written:
        for name in ("tmean", "prcp", "pet"):
            np.testing.assert_array_equal(written[name], known["forcing"][name])
