"""Every block of Python of docs/nextgen.md runs, one after the other, beside the files that it names."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import hybridsolve as hs

pytest.importorskip("bmipy", reason="the page needs bmipy")
pytest.importorskip("pyogrio", reason="the page needs pyogrio")
from test_public_networks import HYDRORIVERS, KM, MERIT, hydrofabric, shapefile  # noqa: E402

TEXT = (Path(ROOT) / "docs" / "nextgen.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = hs.models.get("hbv10").free_parameters
    middle = {v.name: [(v.lower + v.upper) / 2] * 2 for v in rows}
    pd.DataFrame({"id": ["cat-27", "cat-28"], **middle}).to_csv("parameters.csv", index=False)
    (config,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    Path("config.yaml").write_text(config)
    hydrofabric(tmp_path)
    shapefile("riv.shp", **MERIT)
    shapefile("cat.shp", COMID=MERIT["COMID"], unitarea=KM)
    shapefile("HydroRIVERS.shp", **HYDRORIVERS)
    here = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "docs/nextgen.md", "exec"), here)
    assert here["runoff"].shape == (24, 2) and (here["runoff"] > 0).all() and np.isfinite(here["depth"]).all()
    assert Path("state.nc").exists() and Path("network.nc").exists()
    Path("config.yaml").write_text(re.sub("start.*", "start: 2020-01-02 06:00\nstate: before.nc", config))
    Path("state.nc").rename("before.nc")
    here["catchments"].initialize("config.yaml")
    assert (here["catchments"].get_value("sm", np.empty(2)) > 0.001).all()


def test_the_page_names_what_there_is():
    from hybridsolve.interop.bmi_config import STANDARD, UNITS

    for row, name in STANDARD.items():
        assert f"| `{row}` | `{name}` | {UNITS[name]} |" in TEXT
