"""The table of models side by side: made of a small data set, gone on with, and not made twice."""

import csv

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import ROOT  # noqa: F401 - puts the checkout on the path

from benchmarks import model_scores
from hybridsolve.data import write_netcdf

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PERIODS = [
    "--train",
    "2001-01-01:2001-12-31",
    "--validation",
    "2002-01-01:2002-06-30",
    "--test",
    "2002-07-01:2002-12-31",
]


@pytest.fixture
def command(tmp_path):
    draw, time = np.random.default_rng(0), pd.date_range("2000-01-01", "2002-12-31")
    n = len(time)
    prcp = draw.gamma(0.4, 8.0, (n, 2))
    flow = 0.4 * np.apply_along_axis(np.convolve, 0, prcp, 0.1 * 0.9 ** np.arange(40))[:n]
    series = {"prcp": (prcp, "mm d-1"), "pet": (2 + draw.random((n, 2)), "mm d-1"), "qobs": (flow, "mm d-1")}
    series["tmean"] = (5 + 5 * draw.standard_normal((n, 2)), "degC")
    data = xr.Dataset(coords={"time": time, "basin": ["a", "b"]})
    for name, (x, unit) in series.items():
        data[name] = (("time", "basin"), x.astype(np.float32), {"units": unit})
    write_netcdf(data, tmp_path / "d.nc")
    small = ["--starts", "2", "--steps", "3", "--warmup-years", "0.5", "--pet", "", "--data", str(tmp_path / "d.nc")]
    return ["--out", str(tmp_path / "out"), *small, *PERIODS]


def test_it_goes_on_where_it_stopped(command, tmp_path, capsys, monkeypatch):
    model_scores.main([*command, "--models", "gr4j"])
    model_scores.main([*command, "--models", "gr4j", "--free", "pet_factor"])
    (tmp_path / "out" / "cemaneige+gr4j.pt").touch()  # what a run that was stopped leaves is gone on with
    with pytest.raises(ValueError, match="cemaneige.gr4j.pt"):
        model_scores.main([*command, "--models", "gr4j", "cemaneige+gr4j"])
    (tmp_path / "out" / "cemaneige+gr4j.pt").unlink()
    capsys.readouterr()
    model_scores.main([*command, "--models", "gr4j", "cemaneige+gr4j"])
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open(newline="")))
    assert [(r["model"], r["free_factors"]) for r in rows] == [
        ("gr4j", "none"), ("gr4j", "pet_factor"), ("cemaneige+gr4j", "none"),
    ]  # fmt: skip
    for r in rows:
        assert r["failed"] == "0" and r["basins"] == "2" and r["threads"] and r["machine"]
        assert all(float(r[key]) <= 1 for key in model_scores.MEDIANS)
        np.testing.assert_allclose(float(r["seconds"]), 2 * float(r["seconds_per_basin"]), atol=0.06)
    table = capsys.readouterr().out
    assert f"| `gr4j` | pet_factor | {float(rows[1]['seconds_per_basin']):.3f} |" in table
    assert rows[0]["machine"] in table
    monkeypatch.setattr(model_scores, "calibrate", None)
    model_scores.main([*command, "--models", "gr4j", "cemaneige+gr4j"])


def test_every_model_that_gives_a_flow_is_in_it():
    names = model_scores.calibratable()
    assert {"gr4j", "hbv11p", "cemaneige+gr6j", "snow17+sacsma", "xinanjiang"} <= set(names)
    assert not {"cemaneige", "snow17", "degreeday"} & set(names) and "sacsma" in names[-1]
