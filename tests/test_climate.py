"""Inputs that follow from the weather of the training period: CemaNeige's mean annual snowfall."""

import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.climate import with_climate
from hybridsolve.rows import Input

MODEL, TRAIN = "cemaneige+gr4j", "2001-01-01:2002-12-31"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def data():
    """Three basins, five years; the last is twice as wet."""
    draw = np.random.default_rng(0)
    time = np.arange("2000-01-01", "2005-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    n = len(time)
    season = np.cos(2 * np.pi * (np.arange(n) - 200) / 365.25)[:, None]
    prcp = draw.gamma(0.4, 8.0, (n, 3))
    prcp[time >= np.datetime64("2004-01-01")] *= 2
    series = {
        "prcp": (prcp, "mm d-1"),
        "tmean": (3 + 9 * season + draw.normal(0, 3, (n, 3)), "degC"),
        "pet": (2 + 2 * season + np.zeros((n, 3)), "mm d-1"),
        "qobs": (0.3 * np.apply_along_axis(np.convolve, 0, prcp, 0.1 * 0.9 ** np.arange(40))[:n], "mm d-1"),
    }
    ds = xr.Dataset(coords={"time": time, "basin": ["a", "b", "c"]})
    for name, (x, unit) in series.items():
        ds[name] = (("time", "basin"), x.astype(np.float32), {"units": unit})
    return ds


def snowfall(data, period):
    part = data.sel(time=slice(*period.split(":")))
    solid = np.clip(1 - (part["tmean"].values + 1) / 4, 0, 1) * part["prcp"].values
    return 365.25 * np.nanmean(solid, axis=0)


def test_it_is_that_of_the_training_period_without_its_gaps(data):
    made = with_climate(data, hs.models.get(MODEL), TRAIN)["annual_snowfall"]
    np.testing.assert_allclose(made, snowfall(data, TRAIN), rtol=1e-6)
    assert made.attrs["units"] == "mm"
    holed = data.copy(deep=True)
    holed["prcp"][400:450, 1] = np.nan
    made = with_climate(holed, hs.models.get(MODEL), TRAIN)["annual_snowfall"]
    np.testing.assert_allclose(made, snowfall(holed, TRAIN), rtol=1e-6)
    own = data.assign(annual_snowfall=("basin", [1.0, 2.0, 3.0], {"units": "mm"}))
    assert with_climate(own, hs.models.get(MODEL), TRAIN) is own
    assert with_climate(data, hs.models.get("gr4j"), TRAIN) is data


def test_a_calibration_keeps_it_and_later_runs_take_it_from_there(data, tmp_path, capsys):
    data.to_netcdf(tmp_path / "data.nc")
    out = tmp_path / "out"
    command = ["calibrate", str(tmp_path / "data.nc"), "--model", MODEL, "--train", TRAIN, "--out", str(out)]
    assert cli.main([*command, "--starts", "2", "--steps", "3", "--warmup-years", "1"]) == 0, capsys.readouterr().err
    with xr.open_dataset(out / "calibration.nc") as result:
        result = result.load()
    np.testing.assert_allclose(result["annual_snowfall"], snowfall(data, TRAIN), rtol=1e-6)
    late = data.sel(time=slice("2003-01-01", None))
    run = simulate_calibrated(result, late, period="2004-01-01:2004-12-31", warmup_years=1)
    stored = late.assign(annual_snowfall=result["annual_snowfall"].drop_attrs().assign_attrs(units="mm"))
    again = simulate_calibrated(
        result.drop_vars("annual_snowfall"), stored, period="2004-01-01:2004-12-31", warmup_years=1
    )
    np.testing.assert_array_equal(run["streamflow"], again["streamflow"])


def test_an_input_that_follows_from_no_flux_is_refused():
    model = hs.models.get("cemaneige")
    row = Input("annual_snowfall", "mm", "mean annual snowfall", 0.0, 1e5, annual="hail")
    message = "annual of the input 'annual_snowfall' of model cemaneige must be a flux of it; found 'hail': name one of"
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(model, inputs=(row,))
