"""Readers, checks, potential evapotranspiration and writers of `hybridsolve.data`."""

import errno
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from foreign import YEARS, one_sentence, textbook, toy

from hybridsolve import data
from hybridsolve.data import files as files_module
from hybridsolve.data.files import check_target
from hybridsolve.data.usable import usable_basins

FORCING = ("prcp", "tmean", "pet")


@pytest.fixture(scope="module")
def camels_file():
    file = data.data_dir() / "camels_us_671.nc"
    if not file.is_file():
        pytest.skip(f"the CAMELS pack is not at {file}; set HYBRIDSOLVE_DATA to run this test")
    return file


# ------------------------------------------------------------------------------------------------------
# checks


def test_a_good_dataset_passes():
    ds = toy()
    assert data.check_dataset(ds, forcing_names=FORCING, need_qobs=True) is None
    ds.tmean.attrs["units"] = "°C"
    ds.prcp.attrs["units"] = "mm/day"
    data.check_dataset(ds, forcing_names=FORCING)
    data.check_dataset(ds.isel(time=[0]), forcing_names=FORCING)


def edit(name, index, value):
    def apply(ds):
        ds[name].values[index] = value
        return ds

    return apply


def units(name, value):
    def apply(ds):
        ds[name].attrs["units"] = value
        return ds

    return apply


FAULTS = {
    "missing": (lambda ds: ds.drop_vars("pet"), "variable 'pet' is missing.*add or rename"),
    "no qobs": (lambda ds: ds.drop_vars("qobs"), "variable 'qobs' is missing"),
    "kelvin": (units("tmean", "K"), "tmean must be in degC, found units 'K'; open the dataset with"),
    "m s-1": (units("prcp", "m s-1"), "prcp must be in mm d-1, found units 'm s-1'; open"),
    "m3 s-1": (units("qobs", "m3/s"), "found units 'm3/s'; open"),
    "nonsense": (units("pet", "furlong"), "found units 'furlong'; open .* or convert it"),
    "no units": (
        lambda ds: (ds.prcp.attrs.pop("units"), ds)[1],
        "prcp has no units attribute, expected 'mm d-1'",
    ),
    "order": (lambda ds: ds.transpose("basin", "time", ...), r"found \('basin', 'time'\); call ds.transpose"),
    "dims": (lambda ds: ds.rename(basin="cell"), r"must have the dims time and basin, found time, cell, bnds"),
    "empty": (lambda ds: ds.isel(basin=slice(0, 0)), "basin must have at least one entry"),
    "no time": (lambda ds: ds.isel(time=slice(0, 0)), "time must have at least one entry"),
    "unsorted": (lambda ds: ds.isel(time=[0, 1, 3, 2, 4]), "sorted, found 1999-10-03 after 1999-10-04"),
    "twice": (lambda ds: ds.isel(time=[0, 1, 1, 2]), "duplicates, found 1999-10-02 after 1999-10-02"),
    "gap": (lambda ds: ds.isel(time=[0, 1, 2, 5, 6, 9]), r"expected 1999-10-04 .* found 1999-10-06 \(2 gaps"),
    "hourly": (
        lambda ds: ds.isel(time=slice(0, 4)).assign_coords(time=pd.date_range("1999-10-01", periods=4, freq="h")),
        "time must be the start of each step, found 1999-10-01T01",
    ),
    "units of days at an hour": (
        lambda ds: (
            ds.drop_vars("time_bnds").isel(time=range(4)).assign_coords(time=pd.date_range("2000", periods=4, freq="h"))
        ),
        "prcp must be in mm h-1 at a step of 1 h, found units 'mm d-1'",
    ),
    "bounds of two days": (
        lambda ds: ds.assign_coords(time_bnds=ds.time_bnds + np.array([0, 1]) * np.timedelta64(1, "D")),
        "bounds 'time_bnds' must be one step long each, 1 d, found 1999-10-01 00:00 to 1999-10-03 00:00",
    ),
    "weekly": (lambda ds: ds.isel(time=slice(0, None, 7)), "of days, or of a step .*, found a step of 168 h"),
    "a step that varies": (
        lambda ds: ds.isel(time=range(9)).assign_coords(time=ds.time[:9] + np.timedelta64(7, "h") * (np.arange(9) > 6)),
        "must keep its step of 1 d, expected 1999-10-08 00:00 after 1999-10-07 00:00, found 1999-10-08 07:00",
    ),
    "no dates": (lambda ds: ds.assign_coords(time=np.arange(len(YEARS))), "must be datetime64"),
    "nan": (
        edit("tmean", (3, 1), np.nan),
        r"found nan in basin 00000002 on 1999-10-04 \(1 such values in 1 basins",
    ),
    "inf": (edit("pet", (0, 2), np.inf), "pet must be finite everywhere, found inf in basin 00000003"),
    "rain": (
        edit("prcp", (4, 0), -0.5),
        "prcp must not be negative, found -0.5 in basin 00000001 on 1999-10-05",
    ),
    "code": (edit("qobs", (4, 0), -999.0), "qobs must not be negative, found -999 .* missing-value codes"),
    "no obs": (lambda ds: ds.assign(qobs=ds.qobs.where(False)), "at least one observation"),
    "ids": (
        lambda ds: ds.assign_coords(basin=["a", "b", "a"]),
        "basin ids must be unique, found 'a' 2 times",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_the_fault(fault):
    spoil, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as error:
        data.check_dataset(spoil(toy()), forcing_names=FORCING, need_qobs=True)
    one_sentence(error)


def test_leaving_basins_out_is_no_remedy_where_none_is_left():
    ds = toy(n_basin=2)
    ds["prcp"][3, 0] = np.nan
    with pytest.raises(ValueError, match="or leave such basins out with skip_unusable"):
        usable_basins(ds, FORCING)
    ds["prcp"][4, 1] = np.nan
    with pytest.raises(ValueError, match="fill it or choose another period.$"):
        usable_basins(ds, FORCING, skip=True)


def test_period():
    assert data.parse_period("1999-10-01:2008-09-30") == (
        pd.Timestamp(1999, 10, 1),
        pd.Timestamp(2008, 9, 30),
    )
    for wrong, message in (
        ("2008-09-30:1999-10-01", "must end after it starts"),
        ("1999:2008", "period is malformed"),
        ("1999-10-01", "period is malformed"),
        ("1999-02-30:2000-01-01", "no date of the calendar"),
        (7, "period is malformed"),
        ((None, "2000-01-01"), "no date of the calendar"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            data.parse_period(wrong)
        one_sentence(error)

    ds = toy()
    cut = data.select_period(ds, "1999-12-31:2000-03-01")
    assert cut.sizes["time"] == 1 + 31 + 29 + 1  # both ends, and a leap day
    assert cut.time_bnds.values[-1, 1] == np.datetime64("2000-03-02")
    assert data.select_period(ds, None) is ds
    for wrong in ("1999-09-30:2000-01-01", "2000-01-01:2001-10-01"):
        with pytest.raises(ValueError, match="outside the data, which cover 1999-10-01:2001-09-30") as error:
            data.select_period(ds, wrong)
        one_sentence(error)
    hourly = xr.Dataset(coords={"time": pd.date_range("2000-01-01", periods=72, freq="h")})
    assert data.select_period(hourly, "2000-01-02:2000-01-02").sizes["time"] == 24


def test_convention():
    ds = toy()
    assert ds.prcp.dims == ("time", "basin") and ds.prcp.dtype == np.float32
    assert ds.prcp.values.flags["C_CONTIGUOUS"]
    assert ds.time.attrs["bounds"] == "time_bnds" and "time_bnds" in ds.coords
    assert (ds.time_bnds[:, 0] == ds.time).all() and ds.basin.dtype.kind == "U"
    with pytest.raises(ValueError, match="dtype must be"):
        toy(dtype="float16")


# -----------------------------------------------------------------------------------------------------
# writing


def test_netcdf_round_trip_with_provenance(tmp_path):
    ds = toy(n_basin=200)
    ds.prcp.encoding = {
        "dtype": "int16",
        "scale_factor": 0.5,
        "_FillValue": -9,
    }  # must not quantise the result
    ds.attrs["history"] = "made by hand"
    path = data.write_netcdf(ds, tmp_path / "x.nc", command="run me", seed=7, citation=["nobody 2000", "some 2001"])
    assert os.listdir(tmp_path) == ["x.nc"]
    back = data.open_dataset(path)
    for name in ("prcp", "tmean", "pet", "qobs", "elev_mean"):
        np.testing.assert_array_equal(back[name].values, ds[name].values)
        assert back[name].dtype == ds[name].dtype
    assert back.prcp.attrs == ds.prcp.attrs and back.pet.attrs["method"] == "sine"
    assert (back.time_bnds == ds.time_bnds).all() and list(back.basin.values) == list(ds.basin.values)
    data.check_dataset(back, forcing_names=FORCING, need_qobs=True)
    attrs = back.attrs
    assert attrs["history"].startswith("made by hand\n") and attrs["history"].endswith("Z run me")
    assert attrs["command"] == "run me" and int(attrs["seed"]) == 7
    assert attrs["citation"] == "nobody 2000; some 2001"
    assert attrs["numpy_version"] == np.__version__ and attrs["torch_version"] and attrs["hybridsolve_version"]
    assert attrs["Conventions"] == "CF-1.11" and attrs["created"].endswith("Z")
    with xr.open_dataset(path, decode_times=False) as raw:
        assert raw.prcp.encoding["zlib"] and raw.prcp.encoding["complevel"] == 1
        assert not raw.elev_mean.encoding["zlib"]
        assert raw.time.attrs["units"].startswith("days since 1999-10-01")
        assert "_FillValue" not in raw.time.attrs and "_FillValue" not in raw.lat.encoding
        assert (raw.time_bnds[:, 1] - raw.time == 1).all()
        assert "coordinates" not in raw.attrs
    assert "history" in ds.attrs and "command" not in ds.attrs  # the caller's dataset is left alone


def test_netcdf_keeps_hours(tmp_path):
    ds = xr.Dataset({"q": ("time", np.arange(5.0))}, {"time": pd.date_range("2000-01-01T06", periods=5, freq="h")})
    with xr.open_dataset(data.write_netcdf(ds, tmp_path / "h.nc")) as back:
        assert (back.time.values == ds.time.values).all() and back.attrs["seed"] == "none"


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.nc"
    data.write_netcdf(toy(), path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "replace", full)
        with pytest.raises(OSError, match=r"could not write .*x\.nc \(No space left on device; .*free space") as error:
            data.write_netcdf(toy(seed=2), path)
    one_sentence(error)
    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "replace", full)
        with pytest.raises(OSError, match="could not write .*t.csv"):
            data.write_text_atomic(tmp_path / "t.csv", "a,b\n")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.nc"]
    with pytest.raises(FileNotFoundError, match="the folder of .* must exist"):
        data.write_netcdf(toy(), tmp_path / "none" / "x.nc")
    with pytest.raises(IsADirectoryError, match="add a file name"):
        data.write_netcdf(toy(), tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in a folder are a matter of Unix")
def test_devices_and_pipes_stay(tmp_path):
    """Such as /dev/null, which a move would replace where that is allowed."""
    os.mkfifo(pipe := tmp_path / "pipe")
    for write in (lambda p: data.write_netcdf(toy(), p), lambda p: data.write_text_atomic(p, "a")):
        with pytest.raises(ValueError, match="the output must be a file to write, found the device or pipe") as error:
            write(pipe)
        one_sentence(error)
    with pytest.raises(ValueError, match="--out must be a file to write, found the device or pipe"):
        check_target("--out", pipe)
    assert pipe.is_fifo()


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are a matter of Unix")
def test_a_write_that_really_runs_out_of_space(tmp_path):
    """The limit of a file's size stands in for a full disk: HDF5 itself fails in the middle of the file."""
    path = tmp_path / "x.nc"
    path.write_bytes(b"old")
    code = """
        import resource, sys
        import numpy as np, xarray as xr
        from hybridsolve import data
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        ds = xr.Dataset({"a": (("x", "y"), np.random.default_rng(0).random((1000, 1000)))})
        for write in (lambda p: data.write_netcdf(ds, p), lambda p: data.write_text_atomic(p, "x" * 10**6)):
            try:
                write(sys.argv[1])
            except OSError as error:
                print("OSError", error)
        """
    root = str(Path(data.__file__).resolve().parents[2])
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert run.stdout.count("OSError could not write") == 2, run.stdout + run.stderr
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.nc"]


def test_text(tmp_path):
    path = data.write_text_atomic(tmp_path / "t.csv", "a,b\n1,ü\n")
    assert path.read_bytes() == "a,b\n1,ü\n".encode() and os.listdir(tmp_path) == ["t.csv"]


# -----------------------------------------------------------------------------------------------------
# opening


def test_open_own_file_in_the_other_order_and_without_pet(tmp_path):
    ds = toy(dtype="float64").transpose("basin", "time", ...).drop_vars("pet")
    ds.to_netcdf(tmp_path / "x.nc")
    back = data.open_dataset(tmp_path / "x.nc", basins=["00000003", "00000001"], period="2000-01-01:2000-12-31")
    assert back.prcp.dims == ("time", "basin") and dict(back.sizes) == {"time": 366, "basin": 2, "bnds": 2}
    assert back.prcp.values.flags["C_CONTIGUOUS"] and back.pet.dtype == np.float32
    assert list(back.basin.values) == ["00000003", "00000001"]
    assert back.pet.attrs["method"] == "hargreaves" and back.pet.attrs["units"] == "mm d-1"
    one = ds.sel(basin="00000001", time="2000")
    expected = textbook(
        "hargreaves", pd.DatetimeIndex(one.time), *(one[n].values for n in ("tmean", "tmin", "tmax")), -33.0
    )
    np.testing.assert_allclose(back.pet.values[:, 1], expected, rtol=1e-6, atol=1e-6)
    data.check_dataset(back, forcing_names=FORCING, need_qobs=True)
    other = data.open_dataset(tmp_path / "x.nc", pet="oudin")
    assert other.pet.attrs["method"] == "oudin"


def test_open_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist, expected"):
        data.open_dataset(tmp_path / "none.nc")
    with pytest.raises(ValueError, match="must be a Caravan folder"):
        data.open_dataset(tmp_path)
    (tmp_path / "text.nc").write_text("no netcdf")
    with pytest.raises(ValueError, match="could not be read as NetCDF"):
        data.open_dataset(tmp_path / "text.nc")
    ds = toy()
    ds.drop_vars(["tmean", "tmin"]).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(ValueError, match="must hold the variable 'tmean'"):
        data.open_dataset(tmp_path / "a.nc")
    ds.drop_vars(["pet", "lat"]).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ValueError, match="must hold lat to compute pet"):
        data.open_dataset(tmp_path / "b.nc")
    ds.to_netcdf(tmp_path / "e.nc")
    for wrong, message in (
        (["1"], "found '1'; write it as there, '00000001'"),
        (["7", "8"], "found '7' and 1 more"),
        (["00000001", "00000001"], "unique"),
        ([], "at least one basin"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            data.open_dataset(tmp_path / "e.nc", basins=wrong)
        one_sentence(error)
    with pytest.raises(FileNotFoundError, match="text file with one id a line"):
        data.open_dataset(tmp_path / "e.nc", basins="00000001")
    (tmp_path / "ids.txt").write_text("# mine\n00000002\n\n00000001  # first\n")
    chosen = data.open_dataset(tmp_path / "e.nc", basins=tmp_path / "ids.txt")
    assert list(chosen.basin.values) == ["00000002", "00000001"]


# ------------------------------------------------------------------------------------------------------ Fulda


def test_fulda():
    pytest.importorskip("spotpy", reason="spotpy is not installed: pip install 'hybridsolve[demo]'")
    ds = data.read_fulda()
    assert dict(ds.sizes) == {"time": 3653, "basin": 1, "bnds": 2} and list(ds.basin.values) == ["grebenau"]
    data.check_dataset(ds, forcing_names=FORCING, need_qobs=True)
    # the first line of the file: 143 m3/s over 2976.41 km2
    assert float(ds.qobs[0, 0]) == pytest.approx(143 * 86400 / 2976.41e6 * 1000, rel=1e-6)
    assert str(ds.time.values[1])[:10] == "1979-01-02"  # dd.mm.yyyy, not mm.dd
    years = 365.25 / ds.sizes["time"]
    assert 500 < float(ds.pet.sum()) * years < 800 and 700 < float(ds.prcp.sum()) * years < 1000
    assert data.read_fulda(pet="oudin", dtype="float64").pet.dtype == np.float64
    with pytest.raises(ValueError, match="'hargreaves' or 'oudin'"):
        data.read_fulda(pet="priestley-taylor")
    assert data.open_dataset("fulda", period="1980-01-01:1980-12-31").sizes["time"] == 366


def test_fulda_without_spotpy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hybridsolve\[demo\]'") as error:
        data.read_fulda()
    one_sentence(error)


# ----------------------------------------------------------------------------------------------------- CAMELS


def test_camels(camels_file):
    begin = time.perf_counter()
    ds = data.read_camels(camels_file)
    seconds = time.perf_counter() - begin
    assert dict(ds.sizes) == {"time": 10593, "basin": 671, "bnds": 2}
    print(f"671 basins in {seconds:.1f} s")
    data.check_dataset(ds, forcing_names=FORCING, need_qobs=True)
    assert int(ds.flag_more_runoff_than_rain.sum()) == 13
    assert bool(ds.flag_more_runoff_than_rain.sel(basin="12147600"))
    assert ds.prcp.values.flags["C_CONTIGUOUS"] and ds.prcp.dtype == np.float32
    # CAMELS' own mean Priestley-Taylor series comes from Daymet: close, not equal
    ratio = ds.pet.mean("time", dtype="float64") / ds.pet_mean
    assert abs(float(ratio.median()) - 1) < 0.06
    with xr.open_dataset(camels_file) as raw:
        one = raw.isel(gauge_id=400, time=slice(1000, 1020)).load()
    ours = ds.isel(basin=400, time=slice(1000, 1020))
    assert str(one.gauge_id.values) == str(ours.basin.values)
    np.testing.assert_allclose(ours.tmean, (one.tmin + one.tmax) / 2, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(ours.prcp, one.prcp, rtol=1e-6)
    np.testing.assert_array_equal(ours.qobs, one.qobs)
    expected = textbook(
        "priestley-taylor",
        pd.DatetimeIndex(one.time),
        *((one.tmin + one.tmax).values / 2, one.tmin.values, one.tmax.values),
        float(one.gauge_lat),
        srad=(one.srad * one.dayl / 86400).values,
        elevation=float(one.elev_mean),
    )
    np.testing.assert_allclose(ours.pet, expected, rtol=1e-5, atol=1e-6)
    signatures = [n for n in ds if "signature" in ds[n].attrs.get("role", "")]
    assert sorted(signatures) == sorted(data.CAMELS_DISCHARGE_SIGNATURES)

    few = data.open_dataset(camels_file, basins=["14400000", "01013500"], period="1989-10-01:1999-09-30", pet="oudin")
    same = data.select_period(ds, "1989-10-01:1999-09-30").sel(basin=["14400000", "01013500"])
    for name in ("prcp", "qobs", "tmin", "area_km2", "flag_more_runoff_than_rain", "gauge_name"):
        np.testing.assert_array_equal(few[name].values, same[name].values)
    assert few.pet.attrs["method"] == "oudin" and float(few.lat[1]) == pytest.approx(47.237, abs=1e-2)


def test_camels_subset_beyond_a_few(camels_file):
    with xr.open_dataset(camels_file) as raw:
        ids = raw.gauge_id.values.astype(str)[[600, *range(40, 80, 2)]]
        rain = raw.prcp.sel(gauge_id=ids).mean("time").values
    ds = data.read_camels(camels_file, basins=ids, pet="hargreaves", dtype="float64")
    assert list(ds.basin.values) == list(ids) and ds.prcp.dtype == np.float64
    np.testing.assert_allclose(ds.prcp.mean("time"), rain, rtol=1e-12)


def test_camels_refuses(camels_file, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="found '1013500'; write it as there, '01013500'"):
        data.read_camels(camels_file, basins=[1013500])
    with pytest.raises(ValueError, match="which cover 1980-01-01:2008-12-31"):
        data.read_camels(camels_file, basins=["01013500"], period="1979-01-01:1990-01-01")
    with pytest.raises(ValueError, match="for CAMELS, found 'era5-land'"):
        data.read_camels(camels_file, pet="era5-land")


def test_camels_absent_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDSOLVE_DATA", str(tmp_path))
    assert data.data_dir() == tmp_path
    with pytest.raises(FileNotFoundError, match="set the environment variable HYBRIDSOLVE_DATA") as error:
        data.read_camels()
    one_sentence(error)


# ---------------------------------------------------------------------------------------------------- Caravan


def write_caravan(root, *, new=True):
    """Two subsets in the published layout, with different record lengths and ids with leading zeros."""
    ds = toy(n_basin=3, dtype="float64")
    spans = {
        "camels_01013500": ("camels", 0, slice("1999-10-01", "2001-09-30"), "America/New_York"),
        "camels_01022500": ("camels", 1, slice("2000-01-01", "2001-09-30"), "America/New_York"),
        "hysets_01AD002": ("hysets", 2, slice("1999-10-01", "2001-06-30"), "America/Moncton"),
    }
    for gauge, (source, b, span, zone) in spans.items():
        one = ds.isel(basin=b).sel(time=span).rename(time="date").reset_coords(drop=True)
        out = xr.Dataset(
            {
                "total_precipitation_sum": one.prcp,
                "temperature_2m_mean": one.tmean,
                "temperature_2m_min": one.tmin,
                "temperature_2m_max": one.tmax,
                "streamflow": one.qobs,
                "surface_net_solar_radiation_mean": one.pet * 30 + 20,
                "surface_net_thermal_radiation_mean": one.pet * 0 - 40,
            },
            attrs={"Timezone": zone},
        )
        if new:
            out["potential_evaporation_sum_ERA5_LAND"] = one.pet * 3 - 0.5
            out["potential_evaporation_sum_FAO_PENMAN_MONTEITH"] = one.pet * 1.1
        else:
            out["potential_evaporation_sum"] = one.pet * 3 - 0.5
        folder = root / "timeseries" / "netcdf" / source
        folder.mkdir(parents=True, exist_ok=True)
        out.drop_vars("basin", errors="ignore").astype("float32").to_netcdf(folder / f"{gauge}.nc")
    for source in ("camels", "hysets"):
        gauges = [g for g, s in spans.items() if s[0] == source][::-1]  # another order than the files
        folder = root / "attributes" / source
        folder.mkdir(parents=True, exist_ok=True)
        at = [spans[g][1] for g in gauges]
        other = pd.DataFrame(
            {"gauge_lat": ds.lat.values[at], "gauge_lon": ds.lon.values[at], "area": ds.area_km2.values[at]},
            index=pd.Index(gauges, name="gauge_id"),
        )
        other["gauge_name"] = [f"river {g}" for g in gauges]
        other.to_csv(folder / f"attributes_other_{source}.csv")
        pd.DataFrame({"p_mean": np.array(at) + 0.5}, index=other.index).to_csv(
            folder / f"attributes_caravan_{source}.csv"
        )
        pd.DataFrame({"ele_mt_sav": ds.elev_mean.values[at]}, index=other.index).to_csv(
            folder / f"attributes_hydroatlas_{source}.csv"
        )
    return ds


def test_caravan(tmp_path):
    truth = write_caravan(tmp_path)
    ds = data.read_caravan(tmp_path)
    assert list(ds.basin.values) == ["camels_01013500", "camels_01022500", "hysets_01AD002"]
    assert ds.sizes["time"] == len(YEARS) and ds.prcp.dims == ("time", "basin") and ds.prcp.dtype == np.float32
    np.testing.assert_allclose(ds.prcp.values[:, 0], truth.prcp.values[:, 0], rtol=1e-6)
    start = int(np.flatnonzero(YEARS == "2000-01-01")[0])
    assert np.isnan(ds.prcp.values[:start, 1]).all() and np.isfinite(ds.prcp.values[start:, 1]).all()
    assert np.isnan(ds.pet.values[:start, 1]).all()
    np.testing.assert_allclose(ds.qobs.values[start:, 1], truth.qobs.values[start:, 1], rtol=1e-6)
    np.testing.assert_allclose(ds.area_km2, truth.area_km2)
    np.testing.assert_allclose(ds.p_mean, [0.5, 1.5, 2.5])
    np.testing.assert_allclose(ds.lat, truth.lat)
    assert list(ds.timezone.values) == ["America/New_York", "America/New_York", "America/Moncton"]
    assert str(ds.gauge_name.values[2]) == "river hysets_01AD002"
    assert ds.pet.attrs["method"] == "hargreaves" and "10:61" in ds.attrs["citation"]
    with pytest.raises(ValueError, match="prcp must be finite everywhere, found nan in basin camels_01022500"):
        data.check_dataset(ds, forcing_names=FORCING)
    cut = data.open_dataset(tmp_path, period="2000-02-01:2001-01-31")
    assert cut.sizes["time"] == 366
    data.check_dataset(cut, forcing_names=FORCING, need_qobs=True)
    np.testing.assert_array_equal(cut.prcp.values, data.select_period(ds, "2000-02-01:2001-01-31").prcp.values)
    one = data.read_caravan(tmp_path, source="hysets")
    assert list(one.basin.values) == ["hysets_01AD002"] and one.sizes["time"] == 639
    assert data.write_netcdf(ds, tmp_path / "out.nc").is_file()


@pytest.mark.parametrize("new", [True, False])
def test_caravan_pet(tmp_path, new):
    truth = write_caravan(tmp_path, new=new)
    basins = ["camels_01013500"]
    era = data.read_caravan(tmp_path, basins=basins, pet="era5-land")
    np.testing.assert_allclose(
        era.pet.values[:, 0], np.maximum(truth.pet.values[:, 0] * 3 - 0.5, 0), rtol=1e-5, atol=1e-6
    )
    assert era.pet.attrs["method"] == "era5-land" and float(era.pet.min()) == 0
    if new:
        fao = data.read_caravan(tmp_path, basins=basins, pet="fao-penman-monteith")
        np.testing.assert_allclose(fao.pet.values[:, 0], truth.pet.values[:, 0] * 1.1, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match="must hold potential_evaporation_sum_FAO_PENMAN_MONTEITH") as error:
            data.read_caravan(tmp_path, basins=basins, pet="fao-penman-monteith")
        one_sentence(error)
    pt = data.read_caravan(tmp_path, basins=["camels_01022500"], pet="priestley-taylor", dtype="float64")
    one = truth.isel(basin=1).sel(time=slice("2000-01-01", None))
    expected = textbook(
        "priestley-taylor",
        pd.DatetimeIndex(one.time),
        one.tmean.values,
        None,
        None,
        0.0,
        rnet=one.pet.values * 30 - 20,
        elevation=float(one.elev_mean),
    )
    np.testing.assert_allclose(pt.pet.values[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_caravan_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="timeseries/netcdf inside"):
        data.read_caravan(tmp_path)
    write_caravan(tmp_path)
    with pytest.raises(FileNotFoundError, match="one of camels, hysets, found 'lamah'"):
        data.read_caravan(tmp_path, source="lamah")
    with pytest.raises(ValueError, match="found 'camels_x'"):
        data.read_caravan(tmp_path, basins=["camels_x"])
    with pytest.raises(ValueError, match="for Caravan, found 'penman'"):
        data.read_caravan(tmp_path, pet="penman")
    with pytest.raises(ValueError, match="which cover 1999-10-01:2001-09-30"):
        data.read_caravan(tmp_path, period="1990-01-01:2000-01-01")
    os.remove(tmp_path / "attributes" / "hysets" / "attributes_other_hysets.csv")
    with pytest.raises(FileNotFoundError, match="must have the column gauge_lat"):
        data.read_caravan(tmp_path, source="hysets")
