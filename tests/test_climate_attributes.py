"""Attributes of climate that follow from a run's own forcing over its training period."""

import re

import numpy as np
import pytest
import xarray as xr
from conftest import published
from trainings import CORRECTED, QUICK, learnable

import hybridsolve as hs
from hybridsolve.data.camels import read_camels
from hybridsolve.data.climate_attributes import CLIMATE_ATTRIBUTES, with_climate_attributes
from hybridsolve.training.trained import Trained

TRAIN = "2001-01-01:2002-12-31"


@pytest.fixture
def data():
    """Two basins, three years: rain of 10 mm in three days of ten and 0.5 mm else; all in a year's sine."""
    time = np.arange("2001-01-01", "2004-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    n = np.arange(len(time))
    season = np.sin(2 * np.pi * n / 365.25)
    wet = np.where(n % 10 < 3, 10.0, 0.5)
    prcp = np.stack([wet, 2 * (1 + 0.6 * np.sin(2 * np.pi * (n / 365.25 - 0.25)))], 1)
    tmean = np.stack([10 * season, 10 * season], 1)
    pet = np.stack([np.full(len(n), 2.0), 2 + season], 1)
    ds = xr.Dataset(coords={"time": time, "basin": ["a", "b"]})
    for name, (x, unit) in {"prcp": (prcp, "mm d-1"), "tmean": (tmean, "degC"), "pet": (pet, "mm d-1")}.items():
        ds[name] = (("time", "basin"), x, {"units": unit})
    return ds


def test_the_indices_are_those_counted_by_hand(data):
    made = with_climate_attributes(data, CLIMATE_ATTRIBUTES, TRAIN)
    a, b = (made.isel(basin=i) for i in range(2))
    assert a["climate_p_mean"] == pytest.approx((3 * 10 + 7 * 0.5) / 10, rel=2e-3) and a["climate_pet_mean"] == 2
    assert a["climate_aridity"] == pytest.approx(2 / a["climate_p_mean"])
    assert a["climate_frac_snow"] == pytest.approx(0.5, abs=0.01)
    assert a["climate_low_prec_freq"] == pytest.approx(0.7 * 365.25, rel=2e-3)
    assert a["climate_low_prec_dur"] == 7 and a["climate_high_prec_freq"] == 0 and a["climate_high_prec_dur"] == 0
    # A quarter of a year after temperature: no seasonality; and 0.6 where they go together.
    assert b["climate_p_seasonality"] == pytest.approx(0, abs=0.01)
    together = data.assign(prcp=2 * (1 + 0.06 * data["tmean"]))
    made = with_climate_attributes(together, ["climate_p_seasonality"], TRAIN)
    np.testing.assert_allclose(made["climate_p_seasonality"], 0.6, atol=0.01)
    made = with_climate_attributes(together.assign(tmean=-data["tmean"]), ["climate_p_seasonality"], TRAIN)
    np.testing.assert_allclose(made["climate_p_seasonality"], -0.6, atol=0.01)
    storm = data.copy(deep=True)
    storm["prcp"][100:102, 1] = storm["prcp"][200, 1] = 50
    made = with_climate_attributes(storm, ["climate_high_prec_dur", "climate_high_prec_freq"], TRAIN)
    assert made["climate_high_prec_dur"][1] == 1.5
    assert made["climate_high_prec_freq"][1] == pytest.approx(3 / 730 * 365.25)
    assert made["climate_high_prec_freq"].attrs["units"] == "d yr-1"


def test_they_know_the_period_alone_and_leave_out_its_gaps(data):
    before = with_climate_attributes(data, CLIMATE_ATTRIBUTES, TRAIN)
    later = data.copy(deep=True)
    later["prcp"][730:] *= 7
    after = with_climate_attributes(later, CLIMATE_ATTRIBUTES, TRAIN)
    for name in CLIMATE_ATTRIBUTES:
        np.testing.assert_array_equal(before[name], after[name])
    holed = data.copy(deep=True)
    holed["tmean"][100:110, 0] = np.nan
    made = with_climate_attributes(holed, CLIMATE_ATTRIBUTES, TRAIN)
    assert made["climate_p_mean"][0] == pytest.approx(
        float(data["prcp"][:730, 0].drop_isel(time=range(100, 110)).mean())
    )
    assert made["climate_low_prec_dur"][0] == 7 and np.isfinite(made["climate_p_seasonality"]).all()
    np.testing.assert_allclose(made["climate_p_seasonality"], before["climate_p_seasonality"], atol=0.02)
    own = data.assign(climate_p_mean=("basin", [1.0, 2.0]))
    assert with_climate_attributes(own, ["climate_p_mean", "elev_mean"], TRAIN) is own


def test_steps_of_an_hour_are_made_days(data):
    time = np.arange("2001-01-01", "2004-01-01", dtype="datetime64[h]").astype("datetime64[ns]")
    hours = xr.Dataset(coords={"time": time, "basin": ["a", "b"]})
    for name in data:
        x = np.repeat(data[name].values, 24, 0)
        amount = name != "tmean"
        hours[name] = (("time", "basin"), x / 24 if amount else x, {"units": "mm h-1" if amount else "degC"})
    expected, made = (with_climate_attributes(x, CLIMATE_ATTRIBUTES, TRAIN) for x in (data, hours))
    for name in CLIMATE_ATTRIBUTES:
        np.testing.assert_allclose(made[name], expected[name], rtol=1e-6, atol=1e-12)


def test_what_they_cannot_be_made_of_is_named(data):
    def refused(data, message, period=TRAIN):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            with_climate_attributes(data, ["climate_aridity"], period)
        assert "\n" not in str(caught.value)

    refused(data.drop_vars("pet"), "attribute 'climate_aridity' is made of prcp, tmean, pet; found no 'pet'")
    refused(
        data,
        "training period, which the data must hold or the attribute itself; found neither (",
        "1999-01-01:2002-12-31",
    )
    short = data.copy(deep=True)
    short["prcp"][:400, 1] = np.nan
    refused(short, "needs 365 days of forcing in the period; found fewer in basin b:")


def test_a_training_makes_them_and_a_trained_model_makes_them_again(tmp_path):
    data, period = learnable(), "2005-01-01:2005-06-30"
    config = CORRECTED | dict(attributes=["climate_p_mean", "climate_frac_snow", "rock"], fill=[], epochs=1)
    trained = hs.learn.train(data, config, out=tmp_path, **QUICK)
    read = Trained.load(tmp_path / "trained.pt")
    wetter = data.copy(deep=True)
    wetter["prcp"] = wetter["prcp"].where(data["time"] < np.datetime64("2002-01-01"), 2 * data["prcp"])
    flows = [t.predict(x, period)["streamflow"].values for t, x in ((trained, data), (read, data), (read, wetter))]
    np.testing.assert_array_equal(flows[0], flows[1])
    mean = read.scaling.attribute_mean[0]
    assert mean == pytest.approx(float(data["prcp"].sel(time=slice("2002-01-01", "2003-12-31")).mean()))
    assert read.parameters(data, period)["k0"].shape == (12, 2)


def test_they_are_near_the_published_ones_of_another_forcing():
    data = read_camels(published("camels_us_671.nc"), pet="hargreaves")
    made = with_climate_attributes(data, CLIMATE_ATTRIBUTES, "1999-10-01:2008-09-30")
    least = dict(
        p_mean=0.94, p_seasonality=0.96, frac_snow=0.96, low_prec_freq=0.9, low_prec_dur=0.9, high_prec_dur=0.8
    )
    for name, r in least.items():
        assert np.corrcoef(made[f"climate_{name}"], data[name])[0, 1] > r
