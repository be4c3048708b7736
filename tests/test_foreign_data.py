"""Users' own data in any dimensions: two national data sets end to end, and what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from foreign import AREA, DAYS, IDS, LAT, TRUTH, one_sentence, opened, own

from hybridsolve import cli, data
from hybridsolve.calibration.fit import calibrate
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.data.dataset import assemble, resolve_basins
from hybridsolve.training.inputs import Scaling


def national_netcdf(path):
    """As a national service writes it: CF names, mass fluxes, Kelvin, m3 s-1, areas in m2, basins first."""
    over = ("gauge_id", "time")
    flow = TRUTH["qobs"] * AREA / 86.4
    xr.Dataset(
        {
            "pr": (over, TRUTH["prcp"].T / 86400, {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}),
            "tas": (over, TRUTH["tmean"].T + 273.15, {"units": "K", "standard_name": "air_temperature"}),
            "tasmin": (over, TRUTH["tmin"].T + 273.15, {"units": "K"}),
            "tasmax": (over, TRUTH["tmax"].T + 273.15, {"units": "K"}),
            "river_flow": (over, flow.T, {"units": "m3/s", "standard_name": "water_volume_transport_in_river_channel"}),
            "area": ("gauge_id", AREA * 1e6, {"units": "m2"}),
            "gauge_lat": ("gauge_id", LAT),
            "geology": ("gauge_id", ["chalk", "", "granite"]),
        },
        coords={"time": DAYS, "gauge_id": IDS},
    ).to_netcdf(path)
    return path


def national_tables(folder):
    """The same river basins as one CSV a gauge, in inches and degrees Fahrenheit, with a table of attributes."""
    folder.mkdir()
    for b, name in enumerate(IDS):
        pd.DataFrame(
            {
                "date": DAYS.strftime("%d.%m.%Y"),
                "rainfall [inches/day]": TRUTH["prcp"][:, b] / 25.4,
                "tmin (degF)": TRUTH["tmin"][:, b] * 1.8 + 32,
                "tmax (degF)": TRUTH["tmax"][:, b] * 1.8 + 32,
                "Q (mm)": TRUTH["qobs"][:, b],
            }
        ).to_csv(folder / f"{name}.csv", index=False)
    order = [2, 0, 1]
    pd.DataFrame(
        {
            "gauge_id": [IDS[b] for b in order],
            "latitude": LAT[order],
            "area [km2]": AREA[order],
            "geology": ["granite", "chalk", " "],
        }
    ).to_csv(folder / "attributes.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def netcdf(tmp_path_factory):
    return national_netcdf(tmp_path_factory.mktemp("national") / "national.nc")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return national_tables(tmp_path_factory.mktemp("national") / "tables")


# ------------------------------------------------------------------------------------------- two national data sets


def test_a_national_netcdf_file(netcdf):
    with pytest.warns(UserWarning, match="national.nc is read so:") as told:
        ds = data.open_dataset(netcdf)
    assert len(told) == 1
    data.check_dataset(ds, forcing_names=("prcp", "tmean", "pet"), need_qobs=True)
    assert list(ds.basin.values) == IDS and ds.prcp.dims == ("time", "basin") and ds.prcp.dtype == np.float32
    for name, values in TRUTH.items():
        np.testing.assert_allclose(ds[name], values, rtol=2e-6, atol=2e-5)
    assert ds.qobs.attrs["units"] == "mm d-1" and ds.tmean.attrs["units"] == "degC"
    np.testing.assert_allclose(ds.area_km2, AREA)
    np.testing.assert_allclose(ds.lat, LAT)
    assert "lat" in ds.coords and list(ds.geology.values) == ["chalk", "", "granite"]
    said = ds.attrs["conversions"].split("\n")
    assert "basin: 'gauge_id'" in said and "prcp: 'pr' converted from kg m-2 s-1" in said
    assert "area_km2: 'area' converted from m2" in said
    assert "qobs: 'river_flow' converted from m3/s, divided by the area of 50 to 900 km2" in said
    assert all(line in str(told[0].message) for line in said)


def test_a_national_folder_of_tables(tables):
    ds = opened(tables, names="qobs=Q[mm sum]")
    data.check_dataset(ds, forcing_names=("prcp", "tmean", "pet"), need_qobs=True)
    assert list(ds.basin.values) == IDS
    for name, values in TRUTH.items():
        np.testing.assert_allclose(ds[name], values, rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(ds.area_km2, AREA)
    np.testing.assert_allclose(ds.lat, LAT)
    assert list(ds.geology.values) == ["chalk", "", "granite"]
    assert (
        "tmean: (tmin + tmax) / 2" in ds.attrs["conversions"] and "tmin: converted from degF" in ds.attrs["conversions"]
    )
    few = opened(tables, names="qobs=Q[mm sum]", basins=IDS[2:0:-1], period="2000-01-01:2000-12-31")
    assert list(few.basin.values) == IDS[2:0:-1] and few.sizes["time"] == 366
    with pytest.raises(ValueError, match=r"qobs \('Q' of .*tables\) is in 'mm', an amount without a time") as error:
        opened(tables)
    one_sentence(error)


def test_foreign_data_calibrate_and_simulate_as_our_own(netcdf, tables, tmp_path):
    ours = assemble(
        TRUTH | {"pet": opened(netcdf, dtype="float64").pet.values},
        basin=IDS,
        time=DAYS,
        lat=LAT,
        pet_attrs={"method": "hargreaves"},
    )
    sets = [ours, opened(netcdf), opened(tables, names={"qobs": "Q[mm sum]"})]
    options = dict(train="2000-10-01:2001-09-30", starts=2, steps=2, warmup_years=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = calibrate(sets[1], **options)
    assert "prcp: 'pr' converted from kg m-2 s-1" in result.attrs["conversions"]
    data.write_netcdf(result, tmp_path / "c.nc")
    with xr.open_dataset(tmp_path / "c.nc") as stored:
        stored = stored.load()
    flows = [simulate_calibrated(stored, ds, period="2001-10-01:2002-02-28", warmup_years=1) for ds in sets]
    for flow in flows[1:]:
        np.testing.assert_allclose(flow.streamflow, flows[0].streamflow, rtol=1e-3, atol=1e-4)
    assert "converted from degF" in flows[2].attrs["conversions"]


def test_the_command_line_takes_names_and_tells_once(tables, tmp_path, capsys):
    beyond = ["calibrate", str(tables), "--train", "2010-10-01:2011-09-30", "--out", str(tmp_path / "out")]
    assert cli.main(beyond) == 2 and "is in 'mm', an amount without a time" in capsys.readouterr().err
    with warnings.catch_warnings():
        assert cli.main([*beyond, "--names", "qobs=Q[mm sum]"]) == 2
    said = capsys.readouterr().err
    assert said.count("qobs: 'Q' converted from mm, as the sum of a day") == 1
    assert "outside the data, which cover 1999-10-01" in said


# ------------------------------------------------------------------------------------------------------- dimensions


@pytest.mark.parametrize(
    "dim", ["gauge_id", "gauge", "basin_id", "station", "catchment", "hru", "id", "site_no", "zzz"]
)
@pytest.mark.parametrize("time", ["time", "date", "day"])
def test_dimensions_are_known_by_what_they_hold(dim, time, tmp_path):
    ds = own((time, dim)).transpose()
    for source in (ds, tmp_path / "x.nc"):
        ds.to_netcdf(tmp_path / "x.nc")
        found = opened(source, basins=IDS[1:], period="1999-10-03:1999-10-12")
        assert found.prcp.dims == ("time", "basin") and list(found.basin.values) == IDS[1:]
        np.testing.assert_allclose(found.prcp, TRUTH["prcp"][2:12, 1:], rtol=1e-6)
        assert found.time.values[0] == np.datetime64("1999-10-03") and "time_bnds" in found.coords


def test_ids_in_a_variable_of_their_own(tmp_path):
    ds = own(("time", "station"))
    by_role = ds.assign_coords(station=[5, 6, 7]).assign(code=("station", IDS, {"cf_role": "timeseries_id"}))
    by_name = ds.drop_vars("station").assign(gauge_id=("station", IDS))
    counted = ds.assign_coords(station=np.arange(3)).assign(gauge_id=("station", IDS))
    by_text = ds.drop_vars("station").assign(label=("station", IDS))
    for kind in (by_role, by_name, counted, by_text):
        kind.to_netcdf(tmp_path / "x.nc")
        assert list(opened(tmp_path / "x.nc").basin.values) == IDS
    named = ds.assign(name=("station", ["a", "b", "c"])).drop_vars("station").assign(label=("station", IDS))
    assert list(opened(named, names="basin=label").basin.values) == IDS
    with pytest.raises(ValueError, match="must hold the ids of its 3 basins over the dimension 'station'") as error:
        opened(ds.drop_vars("station"))
    one_sentence(error)


def test_a_basin_without_a_dimension(tmp_path):
    one = own().isel(basin=1)
    one.to_netcdf(tmp_path / "a.nc")
    one.drop_vars("basin").to_netcdf(tmp_path / "fulda_at_kassel.nc")
    one.drop_vars("basin").expand_dims(height=[2.0], axis=1).drop_vars("lat").assign_coords(lat=47.0).to_netcdf(
        tmp_path / "c.nc"
    )
    for file, name in (("a", IDS[1]), ("fulda_at_kassel", "fulda_at_kassel"), ("c", "c")):
        found = opened(tmp_path / f"{file}.nc")
        assert list(found.basin.values) == [name] and found.prcp.dims == ("time", "basin") and found.lat.shape == (1,)
        np.testing.assert_allclose(found.prcp.values[:, 0], TRUTH["prcp"][:60, 1], rtol=1e-6)


def test_one_basin_and_other_dimensions_of_size_1():
    ds = own(("time", "gauge")).isel(gauge=[1]).expand_dims(height=[2.0], axis=2)
    found = opened(ds.assign_coords(lat=("gauge", LAT[1:2])))
    assert list(found.basin.values) == IDS[1:2] and found.prcp.dims == ("time", "basin")


@pytest.mark.parametrize(
    "stamps",
    [
        DAYS[:60].strftime("%Y%m%d").astype(int),
        DAYS[:60].strftime("%Y-%m-%d").astype(str),
        np.array(DAYS[:60].strftime("%d/%m/%Y"), dtype="S10"),
    ],
)
def test_dates_as_numbers_or_text(stamps, tmp_path):
    own().assign_coords(time=np.asarray(stamps)).to_netcdf(tmp_path / "x.nc")
    assert (opened(tmp_path / "x.nc").time.values == DAYS[:60]).all()


def test_bounds_keep_their_name_and_values():
    ds = own(("date", "basin"))
    bounds = np.stack([DAYS[:60], DAYS[:60] + pd.Timedelta(days=1)], 1)
    ds["date_bnds"] = (("date", "nv"), bounds)
    ds["date"].attrs["bounds"] = "date_bnds"
    found = opened(ds)
    name = found.time.attrs["bounds"]
    assert (found[name].values == bounds).all()


def grid(*sizes):
    values = (("time", "lat", "lon"), np.ones((60, *sizes)))
    coords = {"time": DAYS[:60], "lat": np.arange(sizes[0]) + 40.0, "lon": np.arange(sizes[1]) + 5.0}
    return xr.Dataset({n: (*values, {"units": u}) for n, u in (("pr", "mm/d"), ("tas", "degC"))}, coords=coords)


def two_steps(ds):
    days = pd.date_range("2000", periods=30, freq="h")
    return ds.assign_coords(time=days.append(pd.date_range(days[-1], periods=31, freq="90min")[1:]))


def no_units(ds, *names):
    for name in names or ("prcp",):
        ds[name].attrs.pop("units")
    return ds


FAULTS = {
    "empty": (lambda: xr.Dataset(), "must hold a time axis, .* found none"),
    "no time": (lambda: xr.Dataset({"a": ("x", [1.0])}), "must hold a time axis, .* found a"),
    "other": (
        lambda: own().rename(prcp="x")[["x", "tmean"]],
        "must hold the variable 'prcp' over time, under that name, another .*found x, tmean; .*--names prcp=",
    ),
    "no temperature": (lambda: own()[["prcp", "tmin"]], "must hold the variable 'tmean'"),
    "grid": (lambda: grid(3, 4), r"pr of .* is a grid over \(time, lat, lon\), expected one series a basin; average"),
    "row of a grid": (lambda: grid(3, 1), "is a grid"),
    "products": (lambda: own().expand_dims(product=2), "must have one dimension besides time"),
    "two dims": (
        lambda: own().assign(qobs=(("time", "gauge"), np.ones((60, 2)), {"units": "mm/d"})),
        "must share one dimension of basins, found prcp over basin",
    ),
    "ragged": (lambda: own().assign(n=("basin", [1, 2, 3], {"sample_dimension": "obs"})), "holds a ragged array"),
    "numbers as time": (lambda: own().assign_coords(time=np.arange(60.0)), "must hold dates, found float64"),
    "text as time": (lambda: own().assign_coords(time=["x"] * 60), "found 'x' in row 0"),
    "time of two dims": (
        lambda: xr.Dataset({"pr": (("b", "t"), np.ones((2, 3))), "time": (("b", "t"), np.ones((2, 3)))}),
        "must hold a time axis",
    ),
    "no units": (lambda: no_units(own()), r"prcp \('prcp' of .*\) has no unit, expected one such as 'mm d-1'"),
    "several without units": (
        lambda: no_units(own(), "prcp", "tmean"),
        r"prcp \('prcp' of .*\), tmean \('tmean' of .*\) have no units, .*'mm d-1', 'degC'; .*"
        r"\(prcp=prcp\[mm d-1\],tmean=tmean\[degC\], --names\)",
    ),
    "several absent": (
        lambda: own()[["qobs"]],
        r"must hold the variables 'prcp', 'tmean' over time, .*\(--names prcp=VARIABLE,tmean=VARIABLE\)",
    ),
    "text": (
        lambda: own().assign(prcp=(("time", "basin"), np.full((60, 3), "x"), {"units": "mm/d"})),
        "found 'x' in basin",
    ),
    "blank id": (lambda: own(ids=["a", "", "b"]), "missing or blank one in row 1"),
    "nan id": (lambda: own(ids=[1.0, np.nan, 2.0]), "found nan in row 1"),
    "float32 id": (
        lambda: own(ids=np.float32([1, 2, 2**24 + 2])),
        "as float32 below 2.24.*found 1.6777218e.07 in row 2",
    ),
    "text lat": (lambda: own().assign_coords(lat=("basin", ["a", "b", "c"])), "lat .* must hold numbers, found 'a'"),
    "two steps": (
        lambda: two_steps(own()),
        "must keep its step of 90 min, .* after 2000-01-01 00:00, found 2000-01-01 01:00",
    ),
    "weeks": (
        lambda: own().assign_coords(time=pd.date_range("2000", periods=60, freq="7D")),
        "must be of days, or of a step of whole seconds that divides a day, found a step of 168 h",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_foreign_data_are_refused_in_one_sentence(fault, tmp_path):
    make, message = FAULTS[fault]
    for source in (make(), tmp_path / "x.nc"):
        make().to_netcdf(tmp_path / "x.nc")
        with pytest.raises(ValueError, match=message) as error:
            opened(source)
        one_sentence(error)
        assert "the dataset" in str(error.value) or "x.nc" in str(error.value)


def test_names_that_are_not_there_are_said_at_once():
    with pytest.raises(ValueError, match="says prcp=a, tmean=b, and .* must hold these variables, found") as error:
        opened(own(), names="prcp=a,tmean=b,qobs=qobs")
    one_sentence(error)


def test_damaged_files_and_other_things_are_refused(tmp_path):
    ds = own(n=900)
    for name in TRUTH:
        ds[name].encoding = {"zlib": True, "chunksizes": (100, 3)}
    ds.to_netcdf(tmp_path / "x.nc")
    whole = bytearray((tmp_path / "x.nc").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 3000] = bytes(3000)
    (tmp_path / "x.nc").write_bytes(whole)
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 3])
    for file in ("x.nc", "cut.nc"):
        with pytest.raises(ValueError, match=f"{file} could not be read"):
            opened(tmp_path / file)
    for thing in (None, [1], np.ones(3), xr.DataArray([1.0])):
        with pytest.raises(ValueError, match="data must be a NetCDF or CSV file") as error:
            data.open_dataset(thing)
        one_sentence(error)
    for known in ("fulda", tmp_path):
        (tmp_path / "timeseries/netcdf").mkdir(parents=True, exist_ok=True)
        with pytest.raises(ValueError, match="names is for data of one's own"):
            data.open_dataset(known, names="prcp=pr")


def test_a_file_with_the_dimension_of_the_pack_is_not_the_pack(tmp_path):
    own(("time", "gauge_id")).to_netcdf(tmp_path / "x.nc")
    assert list(opened(tmp_path / "x.nc").basin.values) == IDS
    with pytest.raises(
        ValueError, match="must be the CAMELS pack with dims gauge_id and time and the variables"
    ) as error:
        data.read_camels(tmp_path / "x.nc")
    one_sentence(error)


def test_opening_what_was_opened_changes_nothing(netcdf, tmp_path):
    first = opened(netcdf)
    before = first.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = data.open_dataset(first)
        data.write_netcdf(first, tmp_path / "x.nc")
        read = data.open_dataset(tmp_path / "x.nc")
    xr.testing.assert_identical(first, before)
    xr.testing.assert_identical(again, first)
    xr.testing.assert_equal(read, first)
    assert read.attrs["conversions"] == first.attrs["conversions"]
    more = opened(read.rename(basin="gauge"))
    assert more.attrs["conversions"] == first.attrs["conversions"] + "\nbasin: 'gauge'"


def test_other_dates_are_not_the_time_axis():
    ds = own(("obs_time", "station"))
    ds = ds.assign(opened=("station", DAYS[:3]), prcp=ds.prcp)[["opened", *ds.data_vars]]
    assert (opened(ds).time.values == DAYS[:60]).all()


# ------------------------------------------------------------------------------------------------ codes, masks, ids


@pytest.mark.parametrize("code", [-99.0, -99.9, -999.0, -9999.0])
@pytest.mark.parametrize("name", ["prcp", "tmean", "tmin", "qobs"])
def test_codes_for_missing_values_are_refused_by_name(name, code):
    ds = own().astype("float32" if code == -99.9 else "float64")
    ds[name].values[4:6, 1] = code
    with pytest.raises(
        ValueError,
        match=rf"{name} of the .* found {code:g} in basin {IDS[1]} on 1999-10-05 \(2 such.*\({name}={name}\[",
    ) as e:
        opened(ds)
    one_sentence(e)
    if name == "qobs":
        found = opened(ds, names=f"qobs=qobs[missing {code:g}]")
        assert np.isnan(found.qobs.values[4:6, 1]).all() and int(found.qobs.isnull().sum()) == 2


def test_negative_flow_is_refused_by_name():
    ds = own()
    ds.qobs.values[7, 2] = -0.25
    with pytest.raises(
        ValueError, match=rf"qobs .* found -0.25 in basin {IDS[2]} on 1999-10-08 \(1 such values\)"
    ) as e:
        opened(ds)
    one_sentence(e)
    assert opened(ds, basins=IDS[:2]).sizes["basin"] == 2


def test_codes_in_attributes_are_missing_and_told():
    ds = own().assign(slope=("basin", [0.1, -999.0, 0.2]), lower=("basin", [-99, 5, 6]), zone=("basin", [1, -9999, 3]))
    found = opened(ds)
    np.testing.assert_array_equal(found.slope, [0.1, np.nan, 0.2])
    np.testing.assert_array_equal(found.zone, [1, np.nan, 3])
    assert list(found.lower.values) == [-99, 5, 6]
    assert "slope: missing in 1 basins, where it is -999 or -9999" in found.attrs["conversions"]


def test_text_of_attributes_is_decoded_and_blank_is_missing(tmp_path):
    ds = own().assign(
        a=("basin", np.array([b"clay  ", b"  ", b"sand"])),
        b=("basin", np.array(["clay", None, np.nan], dtype=object)),
        c=("basin", np.array([1, None, 3], dtype=object)),
    )
    found = opened(ds)
    assert list(found.a.values) == ["clay", "", "sand"] and list(found.b.values) == ["clay", "", ""]
    np.testing.assert_array_equal(found.c, [1, np.nan, 3])
    ds[["a", "prcp", "tmean", "tmin", "tmax", "lat"]].to_netcdf(tmp_path / "x.nc")
    assert list(opened(tmp_path / "x.nc").a.values) == ["clay", "", "sand"]
    with pytest.raises(ValueError, match=f"attribute 'a' is missing in 1 of 3 basins .{IDS[1]}"):
        Scaling.fit(found, ["a"], [], [], "1999-10-01:1999-11-01")


def test_masked_values_are_missing():
    def masked(values, where):
        return np.ma.masked_array(values, np.arange(np.size(values)).reshape(np.shape(values)) == where)

    ds = assemble(
        {"qobs": masked(np.full((3, 2), 1e20), 2), "prcp": masked(np.arange(6).reshape(3, 2), 1)},
        basin=["a", "b"],
        time=DAYS[:3],
        lat=masked([1.0, 2.0], 0),
        static={
            "n": (masked([3, 4], 1), {}),
            "t": (masked(np.array(["x", "y"]), 0), {}),
            "f": (masked([True, False], 0), {}),
        },
    )
    assert np.isnan(ds.qobs.values[1, 0]) and np.isnan(ds.prcp.values[0, 1]) and ds.prcp.values[2, 1] == 5
    assert np.isnan(ds.lat.values[0]) and np.isnan(ds.n.values[1]) and ds.n.values[0] == 3
    assert list(ds.t.values) == ["", "y"] and np.isnan(ds.f.values[0])
    whole = own().assign(qobs=(("time", "basin"), masked(np.full((60, 3), 7), 4), {"units": "mm d-1"}))
    assert np.isnan(opened(whole).qobs.values[1, 1]) and int(opened(whole).qobs.isnull().sum()) == 1


@pytest.mark.parametrize(
    "ids, expected",
    [
        (np.array([b"0101  ", b"0102  ", b"0103"]), ["0101", "0102", "0103"]),
        (np.array(["0101 ", " 0102", "0103"]), ["0101", "0102", "0103"]),
        (np.array([101.0, 102.0, 103.0]), ["101", "102", "103"]),
        (np.array([101, 102, 103], dtype="uint16"), ["101", "102", "103"]),
        (np.array(["0101", "0102", "0103"], dtype=object), ["0101", "0102", "0103"]),
    ],
)
def test_ids_of_every_kind_are_text_and_can_be_asked_for(ids, expected, tmp_path):
    ds = own(("time", "gauge_id")).assign_coords(gauge_id=ids)
    ds.to_netcdf(tmp_path / "x.nc")
    for source in (ds, tmp_path / "x.nc"):
        assert list(opened(source).basin.values) == expected
        assert list(opened(source, basins=expected[2:0:-1]).basin.values) == expected[2:0:-1]


def test_an_id_twice_is_refused_whichever_are_asked_for(tmp_path):
    own(ids=["a", "a", "b"]).to_netcdf(tmp_path / "x.nc")
    for basins in (None, ["b"]):
        with pytest.raises(ValueError, match="basin of x.nc must be unique; found 'a' more than once, in rows 0, 1"):
            opened(tmp_path / "x.nc", basins=basins)


def test_the_hint_for_zeros_goes_both_ways(tmp_path):
    for wanted, there in (("1013500", "01013500"), ("01013500", "1013500"), ("ABC", "abc")):
        with pytest.raises(ValueError, match=f"found '{wanted}'; write it as there, '{there}'"):
            resolve_basins([wanted], [there, "x"], "x.nc")
    (tmp_path / "b.txt").write_bytes(f"{IDS[2]}\n{IDS[0]}\n".encode("utf-16"))
    assert list(opened(own(), basins=tmp_path / "b.txt").basin.values) == [IDS[2], IDS[0]]
    (tmp_path / "b.txt").write_bytes(b"\xff\x01\x00")
    with pytest.raises(
        ValueError, match=r"b.txt must be a text file in UTF-8, a list of ids.*save it as UTF-8"
    ) as error:
        opened(own(), basins=tmp_path / "b.txt")
    one_sentence(error)


# --------------------------------------------------------------------------------------------------------- Caravan


def test_caravan_blank_text_codes_and_repetition(tmp_path):
    times, table = tmp_path / "timeseries/netcdf/camels", tmp_path / "attributes/camels"
    times.mkdir(parents=True)
    table.mkdir(parents=True)
    names = {"prcp": "total_precipitation_sum", "tmean": "temperature_2m_mean", "qobs": "streamflow"}
    names |= {"tmin": "temperature_2m_min", "tmax": "temperature_2m_max"}
    for b in range(2):
        series = {there: ("date", TRUTH[ours][:60, b].copy()) for ours, there in names.items()}
        xr.Dataset(series, coords={"date": DAYS[:60]}).to_netcdf(times / f"camels_{IDS[b]}.nc")
    rows = f"gauge_id,gauge_lat,gauge_lon,area,klass\ncamels_{IDS[0]},47,-69,100,x\ncamels_{IDS[1]},46,-68,200,"
    (table / "attributes_other_camels.csv").write_text(rows + "\n")
    ds = data.read_caravan(tmp_path)
    assert list(ds.klass.values) == ["x", ""]
    with pytest.raises(ValueError, match="attribute 'klass' is missing in 1 of 2 basins"):
        Scaling.fit(ds, ["klass"], [], [], "1999-10-01:1999-11-01")
    for text, message in (
        (rows + f"\ncamels_{IDS[1]},46,-68,200,y\n", "must be unique; found 'camels_01022500'"),
        (rows.replace("47,-69", "x,-69"), "gauge_lat of the attribute tables .* must hold numbers, found 'x' in row 0"),
    ):
        (table / "attributes_other_camels.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            data.read_caravan(tmp_path, basins=[f"camels_{IDS[0]}"])
    (table / "attributes_other_camels.csv").write_text(rows)
    series["streamflow"][1][3] = -999
    xr.Dataset(series, coords={"date": DAYS[:60]}).to_netcdf(times / f"camels_{IDS[1]}.nc")
    with pytest.raises(ValueError, match=f"qobs of Caravan .* found -999 in basin camels_{IDS[1]} on 1999-10-04"):
        data.read_caravan(tmp_path)
    other = tmp_path / "timeseries/netcdf/other"
    other.mkdir()
    (other / f"camels_{IDS[1]}.nc").write_bytes((times / f"camels_{IDS[1]}.nc").read_bytes())
    with pytest.raises(ValueError, match="must be unique; found 'camels_01022500'"):
        data.read_caravan(tmp_path, basins=[f"camels_{IDS[0]}"])
