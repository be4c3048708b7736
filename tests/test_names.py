"""Names and units of users' own variables."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from foreign import AREA, TRUTH, one_sentence, opened, own

from hybridsolve import data
from hybridsolve.data.names import meaning, parse_names, unit_of
from hybridsolve.data.units import convert


@pytest.mark.parametrize(
    "name, ours",
    [
        *[
            (n, "prcp")
            for n in ("pr", "PPT", "tp", "rr", "P", "precip_cr2met", "precipitation_AGCD", "Rainfall", "prec")
        ],
        *[(n, "prcp") for n in ("prcp(mm/day)", "total_precipitation_sum", "precipitation_mean", "tsd_prec", "P (mm)")],
        *[
            (n, "tmean")
            for n in ("tas", "t2m", "tg", "temperature", "2m_temp_mean", "temperature_mean", "tavg(C)", "T")
        ],
        *[
            (n, "tmin")
            for n in ("tasmin", "tn", "tmin_AGCD", "temperature_min_cpc", "2m_temp_min", "temperature_2m_min")
        ],
        *[(n, "tmax") for n in ("tasmax", "tx", "tmax_SILO", "temperature_max(°C)", "tmax (deg C)")],
        *[(n, "pet") for n in ("pev", "evspsblpot", "pet_hargreaves", "potential_evapotransp_gleam", "ET0")],
        *[(n, "qobs") for n in ("QObs(mm/d)", "discharge_spec", "discharge_vol_obs", "streamflow_mmd", "q_mm", "Q")],
        *[(n, None) for n in ("e", "prcp_std", "precipitation_stdev", "temperature_anomaly", "swe", "peti", "srad")],
    ],
)
def test_names_of_variables(name, ours):
    assert meaning(name, xr.DataArray(0.0)) == ours


@pytest.mark.parametrize(
    "name, attrs, ours",
    [
        ("x", {"standard_name": "lwe_precipitation_rate"}, "prcp"),
        ("x", {"standard_name": "air_temperature"}, "tmean"),
        ("x", {"standard_name": "air_temperature", "cell_methods": "area: mean time: minimum"}, "tmin"),
        ("temperature", {"cell_methods": "time: maximum"}, "tmax"),
        ("x", {"standard_name": "water_potential_evaporation_flux"}, "pet"),
        ("q", {"standard_name": "specific_humidity"}, None),
        ("p", {"standard_name": "air_pressure"}, None),
        ("x", {"standard_name": "snowfall_flux"}, None),
    ],
)
def test_standard_names(name, attrs, ours):
    assert meaning(name, xr.DataArray(0.0, attrs=attrs)) == ours


def test_the_unit_of_a_name():
    for name, attrs, unit in (
        ("q", {"units": " m3 s-1 "}, "m3 s-1"),
        ("QObs(mm/d)", {}, "mm/d"),
        ("streamflow_MLd", {}, "ML d-1"),
        ("discharge_m3s", {}, "m3 s-1"),
        ("area_gages2", {}, "km2"),
        ("area", {}, None),
        ("q", {"units": " "}, None),
    ):
        assert unit_of(name, xr.DataArray(0.0, attrs=attrs)) == unit


@pytest.mark.parametrize(
    "ours, unit, value, expected",
    [
        ("mm d-1", "kg m-2 s-1", 1e-4, 8.64),
        ("mm d-1", "kg m**-2 s**-1", 1e-4, 8.64),
        ("mm d-1", "m s-1", 1e-7, 8.64),
        ("mm d-1", "mm h-1", 0.5, 12.0),
        ("mm d-1", "mm/hr", 0.5, 12.0),
        ("mm d-1", "mm day**-1", 3.0, 3.0),
        ("mm d-1", "millimeter per day", 3.0, 3.0),
        ("mm d-1", "m/d", 0.003, 3.0),
        ("mm d-1", "MM/Day", 3.0, 3.0),
        ("mm d-1", "m of water equivalent per day", 0.003, 3.0),
        ("mm d-1", "mm w.e. d-1", 3.0, 3.0),
        ("mm d-1", "inches/day", 0.5, 12.7),
        ("mm d-1", "in d-1", 0.5, 12.7),
        ("mm d-1", "m3 s-1", 2.0, 2.0 * 86.4 / 40),
        ("mm d-1", "m^3/s", 2.0, 2.0 * 86.4 / 40),
        ("mm d-1", "m³/s", 2.0, 2.0 * 86.4 / 40),
        ("mm d-1", "l/s", 2000.0, 2.0 * 86.4 / 40),
        ("mm d-1", "ML d-1", 40.0, 1.0),
        ("mm d-1", "ft3/s", 100.0, 100 * 0.3048**3 * 86.4 / 40),
        ("mm d-1", "cfs", 100.0, 100 * 0.3048**3 * 86.4 / 40),
        ("mm d-1", "kg s-1", 2000.0, 2.0 * 86.4 / 40),
        ("degC", "K", 300.0, 26.85),
        ("degC", "kelvin", 300.0, 26.85),
        ("degC", "Kelvin", 300.0, 26.85),
        ("degC", "deg K", 300.0, 26.85),
        ("degC", "degF", 50.0, 10.0),
        ("degC", "degree_Fahrenheit", 50.0, 10.0),
        ("degC", "F", 50.0, 10.0),
        ("degC", "deg C", 10.0, 10.0),
        ("degC", "degrees C", 10.0, 10.0),
        ("degC", "℃", 10.0, 10.0),
        ("km2", "m2", 4e7, 40.0),
        ("km2", "mi2", 1.0, 1.609344**2),
        ("km2", "ha", 4000.0, 40.0),
    ],
)
def test_units(ours, unit, value, expected):
    found, _ = convert(np.array([[value]]), unit, ours, "x", area=lambda: np.array([40.0]))
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "unit, value", [("mm", 3.0), ("m", 0.003), ("inches", 3 / 25.4), ("kg m-2", 3.0), ("m3", 12e4)]
)
def test_an_amount_is_the_sum_of_a_day_only_where_that_is_said(unit, value):
    def call(**k):
        return convert(np.array([[value]]), unit, "mm d-1", "rain", area=lambda: np.array([40.0]), **k)

    found, said = call(summed=True)
    assert found.item() == pytest.approx(3.0) and said.startswith("as the sum of a day")
    with pytest.raises(ValueError, match=f"rain is in '{unit}', an amount without a time") as error:
        call()
    one_sentence(error)
    ds = own()
    ds["prcp"] = (ds.prcp * value / 3).assign_attrs(units=unit)
    for methods in ("area: mean time: sum (interval: 1 h)", "time: sum", "area: time: sum"):
        ds.prcp.attrs["cell_methods"] = methods
        if unit != "m3":
            np.testing.assert_allclose(opened(ds).prcp, TRUTH["prcp"][:60], rtol=1e-6)
    for methods in ("area: sum time: mean", "time: mean"):
        ds.prcp.attrs["cell_methods"] = methods
        with pytest.raises(ValueError, match="an amount without a time"):
            opened(ds)


@pytest.mark.parametrize(
    "ours, unit, message",
    [
        ("mm d-1", "bananas", "has a unit that is not known, 'bananas'"),
        ("mm d-1", "mm/(d", "not known"),
        ("mm d-1", "**", "not known"),
        ("mm d-1", "mm/24h", "not known"),
        ("mm d-1", "W m-2", "must be in a unit of a depth or volume of water per time, found 'W m-2'"),
        ("mm d-1", "K", "depth or volume"),
        ("mm d-1", "mm2/d", "depth or volume"),
        ("mm d-1", "1", "depth or volume"),
        ("mm d-1", "mm/month", "months and years differ in length"),
        ("degC", "mm", "a temperature, found 'mm'"),
        ("degC", "delta_degC", "a temperature"),
        ("km2", "m", "an area, found 'm'"),
    ],
)
def test_units_that_are_refused(ours, unit, message):
    with pytest.raises(ValueError, match=message) as error:
        convert(np.ones((1, 1)), unit, ours, "x", area=lambda: np.ones(1))
    one_sentence(error)


def test_our_own_units_do_not_import_the_registry(tmp_path):
    own().to_netcdf(tmp_path / "x.nc")
    code = (
        "import sys; from hybridsolve.data import open_dataset; open_dataset(sys.argv[1], pet='oudin'); "
        "sys.exit('cf_xarray.units' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.nc")]).returncode == 0


def test_evaporation_that_is_positive_downward_is_turned_round():
    ds = own()
    demand = np.full((60, 3), 2.0)
    demand[0] = -0.1  # condensation
    for name, unit, factor in (("pev", "m", 1e-3), ("pet", "mm d-1", 1.0)):
        down = ds.assign({name: (("time", "basin"), -demand * factor, {"units": unit, "cell_methods": "time: sum"})})
        found = opened(down)
        np.testing.assert_allclose(found.pet, np.maximum(demand, 0), rtol=1e-6)
        assert "its sign turned and 3 values of condensation set to 0" in found.attrs["conversions"]
    up = ds.assign(pet=(("time", "basin"), demand, {"units": "mm d-1"}))
    np.testing.assert_allclose(opened(up).pet, demand, rtol=1e-6)
    with pytest.raises(ValueError, match="pet must not be negative"):
        data.check_dataset(opened(up), forcing_names=("prcp", "tmean", "pet"))


def test_flow_by_volume_needs_areas():
    ds = own().assign(qobs=lambda d: (d.qobs * AREA / 86.4).assign_attrs(units="m3 s-1"))
    for area, message in (
        ({}, "found none; give the attribute area_km2"),
        ({"area": ("basin", AREA)}, "found area without a unit; give"),
        (
            {"area": ("basin", AREA), "area_gages2": ("basin", AREA)},
            "found area, area_gages2 and nothing that says which",
        ),
        ({"area_km2": ("basin", [1.0, np.nan, 2.0])}, "found nan km2 in basin 01022500 .1 such basins."),
        ({"area_km2": ("basin", [1.0, 0.0, 2.0])}, "found 0 km2 in basin 01022500"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            opened(ds.assign(area))
        one_sentence(error)
    for names in ("area_km2=area[m2]", {"area_km2": "area[m2]"}):
        found = opened(ds.assign(area=("basin", AREA * 1e6)), names=names)
        np.testing.assert_allclose(found.qobs, TRUTH["qobs"][:60], rtol=1e-6)
        np.testing.assert_allclose(found.area_km2, AREA)


def test_names_are_parsed():
    asked = parse_names("prcp=P (mm)[mm sum], qobs=Q[mm d-1 missing -999],tmean=T mean,lat=50.9,area_km2=12[mi2]")
    assert asked["prcp"].variable == "P (mm)" and asked["prcp"].unit == "mm" and asked["prcp"].summed
    assert asked["qobs"].unit == "mm d-1" and asked["qobs"].missing == -999 and not asked["qobs"].summed
    assert asked["tmean"].variable == "T mean" and asked["tmean"].unit is None
    assert asked["lat"].number == 50.9 and asked["area_km2"].unit == "mi2"
    assert parse_names(None) == parse_names("") == {}


@pytest.mark.parametrize(
    "names, message",
    [
        ("prcp", "must be written prcp=pr,tmean=tas"),
        ("prcp=", "must be written"),
        ("rain=P", "names knows prcp, tmean, .*, found 'rain'"),
        ("prcp=a,prcp=b", "must give 'prcp' once"),
        ("prcp=prcp,qobs=prcp", "must give each variable once"),
        ("prcp=x[mm", "as VARIABLE or VARIABLE.unit."),
        ("qobs=qobs[missing]", "must be followed by a number"),
        ("prcp=nope", "the dataset must hold that variable, found prcp, tmin"),
        ("lat=prcp", "cannot be lat"),
        ("lat=50", "is for one basin, and the dataset has 3"),
        ("time=prcp", "time of the dataset must be of one dimension"),
        ("basin=prcp", "must lie over the basins' dimension"),
        (7, "must be text or a mapping, found int"),
    ],
)
def test_names_that_are_refused(names, message):
    with pytest.raises(ValueError, match=message) as error:
        opened(own().rename(basin="station"), names=names)
    one_sentence(error)


def test_two_candidates_are_refused_until_one_is_named():
    ds = own().rename(prcp="pr").assign(ppt=lambda d: d.pr * 2)
    with pytest.raises(ValueError, match="prcp must be one variable, .* pr, ppt; say which .*--names prcp=") as error:
        opened(ds)
    one_sentence(error)
    np.testing.assert_allclose(opened(ds, names="prcp=PPT").prcp, TRUTH["prcp"][:60] * 2, rtol=1e-6)
    # our own name is no candidate among others; and a user's word is above it
    mine = ds.rename(pr="prcp")
    np.testing.assert_allclose(opened(mine).prcp, TRUTH["prcp"][:60], rtol=1e-6)
    other = opened(mine, names="prcp=ppt")
    np.testing.assert_allclose(other.prcp, TRUTH["prcp"][:60] * 2, rtol=1e-6)
    np.testing.assert_allclose(other.prcp_in_file, TRUTH["prcp"][:60], rtol=1e-6)
    # where a method is named, it does not matter how many there are in the data
    pets = own().assign(pet_hargreaves=lambda d: d.prcp, pet_gleam=lambda d: d.prcp)
    with pytest.raises(ValueError, match="pet must be one variable"):
        opened(pets)
    assert opened(pets, pet="oudin").pet.attrs["method"] == "oudin"
    with pytest.raises(ValueError, match="pet is computed by oudin or read by names"):
        opened(pets, pet="oudin", names="pet=pet_gleam")
