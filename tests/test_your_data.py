"""Every block of docs/your-data.md runs, one after the other, in a folder that holds the files it speaks of."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import ROOT
from foreign import AREA, DAYS, IDS, LAT, TRUTH

from hybridsolve import cli, data
from hybridsolve.data.names import ALIASES, KEYS, STANDARD_NAMES, parse_names

TEXT = (Path(ROOT) / "docs" / "your-data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    series = {name: values.round(4) for name, values in TRUTH.items()}
    flow = series["qobs"] * 1203 / 86.4
    pd.DataFrame(
        {
            "date": DAYS.strftime("%Y-%m-%d"),
            "rain [mm/d]": series["prcp"][:, 0],
            "tmin [degC]": series["tmin"][:, 0],
            "tmax [degC]": series["tmax"][:, 0],
            "Q [m3/s]": flow[:, 0],
        }
    ).to_csv("kassel.csv", index=False)
    Path("gauges").mkdir()
    for b, name in enumerate(IDS):
        units = {"prcp": "mm/d", "tmin": "degC", "tmax": "degC"}
        table = {f"{n} [{u}]": series[n][:, b] for n, u in units.items()} | {"Q [mm]": series["qobs"][:, b]}
        pd.DataFrame(table, index=pd.Index(DAYS, name="date")).to_csv(f"gauges/{name}.csv")
    pd.DataFrame({"gauge_id": IDS, "lat": LAT, "area [km2]": AREA}).to_csv("gauges/attributes.csv", index=False)
    over = ("gauge_id", "time")
    xr.Dataset(
        {
            "pr": (over, series["prcp"].T / 86400, {"units": "kg m-2 s-1"}),
            "tasmin": (over, series["tmin"].T + 273.15, {"units": "K"}),
            "tasmax": (over, series["tmax"].T + 273.15, {"units": "K"}),
            "river_flow": (
                over,
                (series["qobs"] * AREA / 86.4).T,
                {"units": "m3 s-1", "standard_name": "water_volume_transport_in_river_channel"},
            ),
            "area": ("gauge_id", AREA * 1e6, {"units": "m2"}),
            "gauge_lat": ("gauge_id", LAT),
        },
        coords={"time": DAYS, "gauge_id": IDS},
    ).to_netcdf("national.nc")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_every_block_of_python_runs(folder, capsys):
    known, seen = {}, []
    for block in blocks("python"):
        exec(compile(block, "docs/your-data.md", "exec"), known)
        seen.append(known["data"])
        assert known["result"]["nse"].notnull().any()
    one, many, frame, frames, national, hourly = seen
    assert hourly.prcp.attrs["units"] == "mm h-1" and hourly.sizes["time"] == 72 and known["days"].sizes["time"] == 3
    np.testing.assert_allclose(known["days"].prcp, 24 * 0.2, rtol=1e-6)
    np.testing.assert_allclose(one.qobs.values[:, 0], TRUTH["qobs"][:, 0], rtol=1e-2, atol=1e-3)
    assert list(many.basin.values) == ["01013500", "01022500"] and frames.sizes["basin"] == 2
    for name in ("prcp", "tmean", "pet", "qobs"):
        np.testing.assert_array_equal(one[name], frame[name])
        np.testing.assert_array_equal(frames[name].values[:, 0], frame[name].values[:, 0])
    np.testing.assert_allclose(national.qobs, TRUTH["qobs"][:882], rtol=1e-2, atol=1e-3)
    assert "qobs: 'Q' converted from m3/s, divided by the area of 1203 km2" in one.attrs["conversions"]
    assert (folder / "kassel_calibrated.nc").is_file()


@pytest.mark.filterwarnings("ignore")
def test_the_command_is_one_that_the_command_line_takes(folder):
    (command,) = blocks("bash")
    words = shlex.split(command.replace("\\\n", " "))
    arguments = cli._parser().parse_args(words[1:])
    ds = data.open_dataset(arguments.data, names=arguments.names)
    data.check_dataset(ds, forcing_names=("prcp", "tmean", "pet"), need_qobs=True)


def test_the_tables_of_the_page_are_those_of_the_code():
    rows = {
        cells[0].strip(): cells for cells in (line.strip("|").split("|") for line in TEXT.splitlines() if "|" in line)
    }
    listed = {name.strip("` ") for row in rows for name in row.split(",")}
    assert set(KEYS) <= listed
    for name in ("prcp", "tmean", "pet", "qobs"):
        _, also, standard = rows[f"`{name}`"]
        for alias in also.split(","):
            assert alias.strip() == "..." or alias.strip().casefold() in ALIASES[name], alias
        for word in standard.split(","):
            assert STANDARD_NAMES[word.strip()] == name
    for write in ("prcp=pr", "tmean=tas[K]", "prcp=P[mm sum]", "qobs=Q[mm d-1 missing -999]", "area_km2=464[mi2]"):
        assert f"`{write}`" in TEXT and parse_names(write)
