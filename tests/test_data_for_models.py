"""Data for models of other forcings than precipitation, temperature and evapotranspiration, and their static inputs."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from data_at_steps import STEPS, raw, refused, truth
from foreign import opened

from hybridsolve import data, models
from hybridsolve.spec import Forcing, Variable

TANK = replace(
    models.get("hbv10"),
    name="tank",
    forcings=(
        Forcing("rainfall", "mm d-1", "rain", 0.0, 1e4),
        Forcing("demand", "mm d-1", "evaporative demand"),
        Forcing("wind", "m s-1", "wind"),
    ),
    balance=None,
    signatures=(),
)


def tank_file(step=3600):
    ds = raw(step).drop_vars("tas").rename(pet="demand", pr="precip")
    ds["u10"] = ds.demand.assign_attrs(units="km h-1")
    ds["elevation"] = ("gauge_id", [1.0, 2.0, 3.0], {"units": "km"})
    ds["area"] = ("gauge_id", [1e6, 2e6, 3e6], {"units": "m2"})
    return ds


@pytest.mark.parametrize("step", [3600, 86400])
def test_a_model_of_other_forcings(step, tmp_path):
    tank_file(step).to_netcdf(tmp_path / "x.nc")
    refused(lambda: opened(tmp_path / "x.nc"), "must hold the variable 'tmean'")
    refused(
        lambda: opened(tmp_path / "x.nc", model=TANK), r"must hold the variable 'wind' over time, found .*--names wind="
    )
    ds = opened(tmp_path / "x.nc", model=TANK, names="wind=u10", dtype="float64")
    values = truth(step)[1]
    np.testing.assert_array_equal(ds.rainfall, values["prcp"])
    np.testing.assert_allclose(ds.wind, values["pet"] / 3.6, rtol=1e-14)
    assert ds.rainfall.attrs["units"] == STEPS[step] and ds.wind.attrs["units"] == "m s-1"
    assert not {"prcp", "pet", "tmean"} & set(ds.variables)
    data.check_dataset(ds, model=TANK, need_qobs=True, steps=[3600, 86400])
    data.write_netcdf(ds, tmp_path / "y.nc")
    xr.testing.assert_equal(data.open_dataset(tmp_path / "y.nc", model=TANK, dtype="float64"), ds)
    wrong = ds.assign(demand=ds.demand.assign_attrs(units="mm/month"))
    refused(lambda: data.check_dataset(wrong, model=TANK), f"demand must be in {STEPS[step].split('/')[0]}.*mm/month")
    refused(lambda: data.check_dataset(ds.drop_vars("wind"), model=TANK), "variable 'wind' is missing")
    runs = r"model tank runs at steps of 10800 s, found data at \d+ s; choose"
    refused(lambda: data.check_dataset(ds, model=TANK, steps=[10800]), runs)
    if step < 86400:
        refused(lambda: data.check_dataset(ds, model=TANK, steps={86400}), "found data at 3600 s; .*data.to_days, or")


def test_forcings_that_are_called_like_our_own_series():
    """A routing model may be driven by runoff, which is another name of flow elsewhere; readers' names are renamed."""
    ds = tank_file().assign(runoff=lambda d: d.demand)
    model = replace(TANK, forcings=(Forcing("runoff", "mm d-1", "runoff"), Forcing("rainfall", "mm d-1", "rain")))
    found = opened(ds, model=model, dtype="float64")
    np.testing.assert_array_equal(found.runoff, ds.demand)
    np.testing.assert_array_equal(found.qobs, ds.discharge)
    negative = found.assign(rainfall=-found.rainfall)
    refused(lambda: data.check_dataset(negative, model=model), "rainfall must not be negative")
    fulda = data.open_dataset("fulda", model=model)
    assert "rainfall" in fulda and "prcp" not in fulda and {"tmean", "pet", "qobs"} <= set(fulda)


def test_assemble_for_a_model():
    time, values = truth()
    series = {"rainfall": values["prcp"], "demand": values["pet"], "wind": values["tmean"], "qobs": values["qobs"]}
    ds = data.assemble(series, basin=["a", "b", "c"], time=time, model=TANK)
    assert [ds[name].attrs["units"] for name in series] == ["mm h-1", "mm h-1", "m s-1", "mm h-1"]
    assert ds.rainfall.attrs["long_name"] == "rain"
    refused(
        lambda: data.assemble(series, basin=["a", "b", "c"], time=time), "named by the model's table, found 'rainfall'"
    )


def test_static_inputs():
    rows = (
        Variable("area", "km2", "area", 0.1),
        Variable("elevation", "m", "height"),
        Variable("latitude", "1", "", -90, 90),
    )
    ds = opened(tank_file().assign(lat=("gauge_id", [5, 6, 7], {"units": "1"})), model=TANK, names="wind=u10")
    ds.lat.attrs["units"] = "1"
    found = data.static_inputs(ds, rows)
    assert {name: x.tolist() for name, x in found.items()} == {
        "area": [1.0, 2.0, 3.0], "elevation": [1000.0, 2000.0, 3000.0], "latitude": [5.0, 6.0, 7.0],
    }  # fmt: skip
    assert all(x.dtype == np.float64 for x in found.values())
    slope = (Variable("slope", "1", "slope"),)
    refused(lambda: data.static_inputs(ds, slope), "input 'slope' must be a variable of the data .*found .*elevation")
    ds.area_km2[1] = np.nan
    refused(lambda: data.static_inputs(ds, rows), r"in \[0.1, inf\] km2, found nan in basin b \(1 such")
    del ds.elevation.attrs["units"]
    refused(lambda: data.static_inputs(ds, rows[1:]), "input 'elevation' has no units attribute, expected 'm'")
    ds.elevation.attrs["units"] = "K"
    refused(lambda: data.static_inputs(ds, rows[1:]), "must be in a unit of the kind of m, found 'K'")
