"""Series of the calendar: as published, made where a model asks for them and the data have none."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import golden

import hybridsolve as hs
from hybridsolve.data import open_dataset
from hybridsolve.data.calendar import SERIES


def days(*dates):
    return np.array(dates, dtype="datetime64[D]")


def test_days_since_21_march():
    """As the National Weather Service counts them, whose leap years end a day later."""
    dates = days("2001-03-21", "2001-03-20", "2001-12-31", "2001-01-01", "2000-03-20", "2000-12-31", "2000-02-29")
    assert SERIES["snow_day"](dates).tolist() == [0, 364, 285, 286, -1, 285, 345]
    assert SERIES["day_of_year"](days("2000-01-01", "2000-12-31", "2001-12-31")).tolist() == [1, 366, 365]


@pytest.mark.parametrize(
    "name, column, most", (("tmean_lapse", 0, 0.016), ("tmin_lapse", 1, 0.009), ("tmax_lapse", 2, 0.026))
)
def test_lapse_rates_are_near_those_of_valery(name, column, most):
    """A curve through a table of 366 days; degC per km."""
    table = golden("shared_airgr_cemaneige")["gradT_degC_per_100m_by_day366"]
    leap = np.arange("2000-01-01", "2001-01-01", dtype="datetime64[D]")
    assert np.abs(SERIES[name](leap) - 10 * table[:, column]).max() < most
    assert SERIES[name](days("2001-03-01")) == SERIES[name](days("2000-03-01"))


def frame(**more):
    time = pd.date_range("2001-01-01", periods=40, name="time")
    columns = dict(prcp=np.ones(40), tmean=np.zeros(40), pet=np.ones(40), qobs=np.ones(40))
    ds = pd.DataFrame(columns | more, index=time).to_xarray().expand_dims(basin=["north", "south"], axis=1)
    for name, unit in dict(prcp="mm d-1", tmean="degC", pet="mm d-1", qobs="mm d-1").items():
        ds[name].attrs["units"] = unit
    ds["lat"] = xr.DataArray([45.0, -45.0], dims="basin", attrs={"units": "degrees_north"})
    return ds


@pytest.mark.filterwarnings("ignore")
def test_they_are_made_where_a_model_asks_for_them():
    model = hs.models.get("cemaneige-2+gr4j")
    ds = open_dataset(frame(), model=model)
    lapse = ds["tmean_lapse"]
    assert lapse.dims == ("time", "basin") and lapse.dtype == ds["prcp"].dtype and lapse.attrs["units"] == "degC km-1"
    np.testing.assert_allclose(lapse[:, 0], SERIES["tmean_lapse"](ds["time"].values.astype("datetime64[D]")), rtol=1e-6)
    later = SERIES["tmean_lapse"](ds["time"].values.astype("datetime64[D]") + np.timedelta64(182, "D"))
    np.testing.assert_allclose(lapse[:, 1], later, rtol=1e-6)
    assert "tmean_lapse: of the calendar" in ds.attrs["conversions"]
    assert "tmean_lapse" not in open_dataset(frame(), model=hs.models.get("gr4j"))

    given = frame(tmean_lapse=np.full(40, 6.5))
    given["tmean_lapse"].attrs["units"] = "degC km-1"
    assert (open_dataset(given, model=model)["tmean_lapse"] == 6.5).all()
