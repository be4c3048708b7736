"""Data of other steps than a day: units, bounds, periods, and days made of them."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from data_at_steps import STEPS, made, raw, refused, truth
from foreign import opened, textbook

from hybridsolve import data, models
from hybridsolve.data.dataset import overlap, period_slice, period_text
from hybridsolve.data.lags import lag_of_days
from hybridsolve.data.times import carry_days
from hybridsolve.data.units import convert, is_same
from hybridsolve.data.usable import refuse_outside, usable_basins, used_days

FORCING = ("prcp", "tmean", "pet")
HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(1, "D")
every_step = pytest.mark.parametrize("step", STEPS)


# ------------------------------------------------------------------------------------------------------ units


@every_step
def test_units_at_a_step(step):
    assert data.unit_at("mm d-1", step) == STEPS[step]
    assert data.unit_at(STEPS[step], 86400, of=step) == "mm d-1"
    for same in ("degC", "1", "mm", "d", "m s-1"):
        assert data.unit_at(same, step) == same
    # what we write is read by pint as the amount of a step
    found, _ = convert(np.array([1.0]), STEPS[step], "mm d-1", "x")
    assert found.item() == pytest.approx(86400 / step, rel=1e-14)
    assert is_same(STEPS[step], STEPS[step]) and not is_same(STEPS[step], "mm s-1") and not is_same("furlong", "mm")


def test_units_of_other_tables():
    assert data.unit_at("mm degC-1 d-1", 3600) == "mm degC-1 h-1"
    assert data.unit_at("mm degC-1 d-1", 10800) == "mm degC-1/(3 h)"
    assert data.unit_at("d-1", 3600) == "h-1" and data.unit_at("d-1", 10800) == "1/(3 h)"
    assert data.unit_at("1/(3 h)", 3600, of=10800) == "h-1" and data.unit_at("mm d-1", 90) == "mm/(90 s)"
    assert data.unit_at("mm d-1", 60) == "mm min-1" and data.unit_at("mm d-1", 1) == "mm s-1"
    assert is_same("mm / (180 min)", "mm/(3 h)") and is_same("kg/m2/s", "kg m-2 s-1") and not is_same("K", "degC")


@pytest.mark.parametrize(
    "unit, value, expected",
    [
        ("mm d-1", 24.0, 1.0),
        ("mm/day", 24.0, 1.0),
        ("mm/hr", 1.5, 1.5),
        ("mm/(3 h)", 3.0, 1.0),
        ("kg m-2 s-1", 1 / 3600, 1.0),
        ("m h-1", 1e-3, 1.0),
        ("m3 s-1", 1.0, 3.6 / 40),
    ],
)
def test_conversion_to_an_hour(unit, value, expected):
    found, _ = convert(np.array([[value]]), unit, "mm h-1", "x", area=lambda: np.array([40.0]), step_seconds=3600)
    assert found.item() == pytest.approx(expected, rel=1e-14)


def test_amounts_without_a_time():
    for step, unit in STEPS.items():
        found, said = convert(np.array([[2.5]]), "mm", unit, "x", summed=True, step_seconds=step)
        assert found.item() == 2.5 and "as the sum of" in said
    refused(
        lambda: convert(np.array([[2.5]]), "mm", "mm/(3 h)", "x", step_seconds=10800), "the sum of its step of 3 h, say"
    )
    ds = raw(10800, units={"prcp": "mm"})
    refused(lambda: opened(ds), "an amount without a time")
    ds.pr.attrs["cell_methods"] = "time: sum (interval: 1 h)"
    np.testing.assert_array_equal(opened(ds, dtype="float64").prcp, ds.pr)
    np.testing.assert_array_equal(opened(ds.drop_attrs(), dtype="float64", names="prcp=pr[mm sum],tmean=tas[degC],"
                                         "pet=pet[mm sum],qobs=discharge[mm sum]").prcp, ds.pr)  # fmt: skip


# ------------------------------------------------------------------------------------------- files and tables


@every_step
def test_netcdf_in_and_out(step, tmp_path):
    time, values = truth(step)
    raw(step).to_netcdf(tmp_path / "x.nc")
    ds = opened(tmp_path / "x.nc", dtype="float64")
    assert data.step_seconds(ds) == step and (ds.time.values == time).all()
    assert (ds.time_bnds.values == np.stack([time, time + np.timedelta64(step, "s")], 1)).all()
    for name, x in values.items():
        np.testing.assert_array_equal(ds[name].values, x)
        assert ds[name].attrs["units"] == ("degC" if name == "tmean" else STEPS[step])
    data.check_dataset(ds, forcing_names=FORCING, need_qobs=True, steps=[step])
    data.write_netcdf(ds, tmp_path / "y.nc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to convert, nothing to say
        again = data.open_dataset(tmp_path / "y.nc", dtype="float64")
    xr.testing.assert_identical(again.drop_attrs(), ds.drop_attrs())
    for name in values:
        assert again[name].attrs == ds[name].attrs
    with xr.open_dataset(tmp_path / "y.nc", decode_times=False) as file:
        assert file.time.attrs["units"].split()[0] == {900: "minutes", 86400: "days"}.get(step, "hours")
        assert file.time.dtype == file.time_bnds.dtype == "int64"
    made(step).to_netcdf(tmp_path / "z.nc")  # by plain xarray
    xr.testing.assert_equal(opened(tmp_path / "z.nc", dtype="float64").time_bnds, ds.time_bnds)


def test_rates_of_a_day_in_an_hourly_file_are_divided_and_that_is_said(tmp_path):
    """mm d-1 at an hourly step is a rate; K, m3 s-1 and fluxes of mass are converted as in daily files."""
    time, values = truth()
    ds = raw(units={"prcp": "mm d-1", "tmean": "K", "pet": "kg m-2 s-1", "qobs": "m3 s-1"})
    ds["tas"] = (ds.tas + 273.15).assign_attrs(ds.tas.attrs)
    ds["area"] = ("gauge_id", [100.0, 50.0, 7.0], {"units": "km2"})
    ds.to_netcdf(tmp_path / "x.nc")
    found = opened(tmp_path / "x.nc", dtype="float64")
    np.testing.assert_allclose(found.prcp, values["prcp"] / 24, rtol=1e-14)
    np.testing.assert_allclose(found.tmean, values["tmean"], atol=1e-12)
    np.testing.assert_allclose(found.pet, values["pet"] * 3600, rtol=1e-14)
    np.testing.assert_allclose(found.qobs, values["qobs"] * 3.6 / np.array([100.0, 50.0, 7.0]), rtol=1e-14)
    assert "prcp: 'pr' converted from mm d-1" in found.attrs["conversions"]
    assert [found[name].attrs["units"] for name in values] == ["mm h-1", "degC", "mm h-1", "mm h-1"]
    assert found.tmean.attrs["long_name"] == "mean air temperature"
    # 24 hours of a rate are its day
    np.testing.assert_allclose(data.to_days(found).prcp[0], values["prcp"][:24].mean(0), rtol=1e-14)


def table(step=3600, days=5, b=0):
    time, values = truth(step, days)
    index = pd.DatetimeIndex(time, name="time")
    names = {"prcp": f"rain [{STEPS[step]}]", "tmean": "T [degC]", "pet": f"pet ({STEPS[step]})", "qobs": "Q [mm/d]"}
    return pd.DataFrame({names[v]: x[:, b] for v, x in values.items()}, index=index)


TIMES = {
    "iso": lambda t: t.strftime("%Y-%m-%dT%H:%M:%S"),
    "blank": lambda t: t.strftime("%Y-%m-%d %H:%M"),
    "german": lambda t: t.strftime("%d.%m.%Y %H:%M"),
    "british": lambda t: t.strftime("%d/%m/%Y %H:%M:%S"),
    "american": lambda t: t.strftime("%m/%d/%Y %H:%M"),
    "digits": lambda t: t.strftime("%Y%m%d%H%M"),
}


@pytest.mark.parametrize("step", [900, 3600, 10800])
@pytest.mark.parametrize("form", TIMES)
def test_csv(form, step, tmp_path):
    time, values = truth(step)
    frame = table(step)
    frame.set_axis(TIMES[form](frame.index)).rename_axis("time").to_csv(tmp_path / "x.csv")
    ds = opened(tmp_path / "x.csv", dtype="float64")
    assert (ds.time.values == time).all() and data.step_seconds(ds) == step
    np.testing.assert_allclose(ds.prcp[:, 0], values["prcp"][:, 0], rtol=1e-12)  # as pandas reads text
    np.testing.assert_allclose(ds.qobs[:, 0], values["qobs"][:, 0] * step / 86400, rtol=1e-12)
    assert ds.prcp.attrs["units"] == STEPS[step]
    data.write_netcdf(ds, tmp_path / "y.nc")
    xr.testing.assert_equal(data.open_dataset(tmp_path / "y.nc", dtype="float64"), ds)


def test_columns_of_hours_and_frames(tmp_path):
    time, values = truth()
    frame = table()
    t = frame.index
    parts = frame.assign(YYYY=t.year, MM=t.month, DD=t.day, HH=t.hour)
    parts.to_csv(tmp_path / "x.csv", index=False)
    for source in (tmp_path / "x.csv", frame, frame.reset_index(), frame.reset_index(drop=True).assign(date=time)):
        ds = opened(source, dtype="float64")
        assert (ds.time.values == time).all()
        np.testing.assert_allclose(ds.prcp[:, 0], values["prcp"][:, 0], rtol=1e-12)
    daily = table(86400)  # the same hour every day, as in CAMELS' own files, says nothing
    t = daily.index
    daily.assign(Year=t.year, Mnth=t.month, Day=t.day, Hr=12).to_csv(tmp_path / "y.csv", index=False)
    assert (opened(tmp_path / "y.csv").time.values == truth(86400)[0]).all()
    parts["HH"] = parts["HH"].astype(str).replace("3", "x")
    parts.to_csv(tmp_path / "x.csv", index=False)
    refused(lambda: opened(tmp_path / "x.csv"), "HH of x.csv must be numbers, found none in row 3")


def test_a_folder_of_hourly_tables(tmp_path):
    for b, name in enumerate("abc"):
        table(b=b).to_csv(tmp_path / f"{name}.csv")
    ds = opened(tmp_path, dtype="float64")
    np.testing.assert_allclose(ds.prcp, truth()[1]["prcp"], rtol=1e-12)
    assert ds.prcp.attrs["units"] == "mm h-1"
    table(86400).rename(columns={"rain [mm d-1]": "rain [mm h-1]"}).to_csv(tmp_path / "c.csv")
    refused(lambda: opened(tmp_path), "must hold files of one step, found another in c.csv than in a.csv")


# ------------------------------------------------------------------------------------------- bounds and stamps


@pytest.mark.parametrize("step", [3600, 10800])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_bounds_tell_the_steps(step, where, tmp_path):
    time, values = truth(step)
    ds = raw(step, stamps=where * step / 3600)
    ds.time.encoding["units"] = "minutes since 2001-01-01"
    ds["time_bnds"] = (("time", "nv"), np.stack([time, time + np.timedelta64(step, "s")], 1))
    ds.time.attrs["bounds"] = "time_bnds"
    ds.to_netcdf(tmp_path / "x.nc")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = data.open_dataset(tmp_path / "x.nc", dtype="float64")
    assert any("the step of 2001-01-01 0" in str(note.message) for note in notes) == (where > 0)
    assert (found.time.values == time).all() and (found.prcp.values == values["prcp"]).all()
    assert "by its bounds time_bnds" in found.attrs["step_boundary"] and "day_boundary" not in found.attrs
    assert found.time.attrs["long_name"] == "start of the step"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = data.as_steps(ds.isel(time=[3]))  # a single step is as long as its bounds
    assert data.step_seconds(one) == step and one.time.values[0] == time[3]


def test_stamps_without_bounds():
    time = truth()[0]
    starts = data.as_steps(raw())
    assert (starts.time.values == time).all()
    assert starts.attrs["step_boundary"] == "time is the start of each step of 1 h, assumed: the source does not say"
    ends = data.as_steps(raw(stamps=1), day_ends="stamp", utc_offset=1)
    assert (ends.time.values == time).all() and ends.attrs["utc_offset_hours"] == 1
    assert ends.attrs["step_boundary"].endswith("by day_ends stamp")
    halves = data.as_steps(raw(stamps=0.5))
    assert (halves.time.values == time + 30 * np.timedelta64(1, "m")).all()
    refused(lambda: data.as_steps(raw(), "x.nc", day_ends="09:00"), "whose step is 1 h, must be 'stamp'.*found '09:00'")
    bounded = data.as_steps(raw())
    refused(lambda: data.as_steps(bounded, day_ends="stamp"), "must agree with the bounds 'time_bnds'.* a step that")
    refused(lambda: data.as_days(raw()), "must be daily|same hour every day|found a step of 1 h")


def test_days_with_more_gaps_than_days():
    dates = pd.DatetimeIndex(["2001-01-01", "2001-01-06", "2001-01-11", "2001-01-16", "2001-01-17"])
    found = opened(raw(86400).assign_coords(time=dates))
    assert data.step_seconds(found) == 86400 and data.select_period(found, "2001-01-16:2001-01-17").sizes["time"] == 2
    refused(
        lambda: data.check_dataset(found, forcing_names=FORCING), r"2001-01-02 after 2001-01-01, .* \(3 gaps in all\)"
    )


def test_noise_of_float_stamps():
    for step in (900, 3600, 10800):
        time = truth(step)[0]
        noise = np.random.default_rng(0).integers(-20_000, 20_000, len(time)).astype("timedelta64[ms]")
        found = data.as_steps(raw(step).assign_coords(time=time + noise))
        assert (found.time.values == time).all() and data.step_seconds(found) == step
    minutes = np.datetime64("2001-01-01", "ns") + np.arange(4) * np.timedelta64(1, "m")
    assert data.step_seconds(data.as_steps(xr.Dataset(coords={"time": minutes}))) == 60


def shifted(hours):
    time = truth()[0]
    return raw().assign_coords(time=time + (np.arange(len(time)) >= 30) * np.timedelta64(round(hours * 60), "m"))


BERLIN = pd.date_range("2001-10-27", periods=96, freq="h", tz="Europe/Berlin").tz_localize(None)
BAD_STEPS = {
    "half an hour late": (
        lambda: shifted(0.5),
        "keep its step of 1 h, expected 2001-01-02 06:00 after 2001-01-02 05:00, found 2001-01-02 06:30 .1 such",
    ),
    "seven hours": (lambda: raw().isel(time=range(0, 50, 7)), "whole seconds that divides a day, found a step of 7 h"),
    "months": (
        lambda: raw().isel(time=range(9)).assign_coords(time=pd.date_range("2001", periods=9, freq="MS")),
        "whole seconds that divides a day, found a step of 744 h",
    ),
    "back": (lambda: raw().isel(time=[0, 1, 3, 2, 4, 5]), "sorted, found 2001-01-01 02:00 after 2001-01-01 03:00"),
    "summer time": (
        lambda: raw(days=4).assign_coords(time=BERLIN),
        "free of duplicates, found 2001-10-28 02:00 after 2001-10-28 02:00.*summer time in UTC",
    ),
    "cumulated": (
        lambda: raw().assign(
            time_bnds=(("time", "nv"), np.stack([np.full(120, truth()[0][0]), truth()[0] + HOUR], 1))
        ),
        "be 1 h long each, found 2001-01-01 00:00 to 2001-01-01 02:00 for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_STEPS)
def test_steps_that_vary_are_refused(kind, tmp_path):
    make, message = BAD_STEPS[kind]
    refused(lambda: opened(make()), f"(time|bounds 'time_bnds') of the dataset must (be )?.*{message}")


def test_gaps_are_refused_by_the_run_and_not_by_the_reader():
    time = truth()[0]
    ds = opened(raw().sel(time=time[(time != time[30]) & (time != time[31])]))
    refused(
        lambda: data.check_dataset(ds, forcing_names=FORCING),
        r"no gaps, expected 2001-01-02 06:00 after 2001-01-02 05:00, found 2001-01-02 08:00 \(1 gaps in all\)",
    )
    data.check_dataset(data.select_period(ds, "2001-01-03:2001-01-05"), forcing_names=FORCING)


@pytest.mark.parametrize("step", [3600, 21600])
def test_a_leap_day_that_the_calendar_lacks(step, tmp_path):
    n = 86400 // step
    time = xr.date_range("2004-02-27", periods=4 * n, freq=f"{step}s", calendar="noleap", use_cftime=True)
    ds = raw(step, days=4).assign_coords(time=time)
    ds.to_netcdf(tmp_path / "x.nc")
    found = opened(tmp_path / "x.nc", dtype="float64")
    assert found.sizes["time"] == 5 * n and (np.diff(found.time) == np.timedelta64(step, "s")).all()
    rain = ds.pr.values.reshape(4, n, 3)
    leap = found.prcp.sel(time="2004-02-29").values
    np.testing.assert_allclose(leap, (rain[1] + rain[2]) / 2, rtol=1e-15)
    assert np.isnan(found.qobs.sel(time="2004-02-29")).all() and int(found.qobs.isnull().sum()) == 3 * n
    assert found.attrs["filled_days"].startswith("29 February (1 days")
    late = opened(ds.isel(time=slice(n + 2, None)))  # begins within 28 February: no day before to fill from
    assert "filled_days" not in late.attrs
    refused(lambda: data.check_dataset(late, forcing_names=FORCING), "no gaps, expected 2004-02-29 00:00")


def test_results_carry_the_bounds_of_their_steps(tmp_path):
    ds = opened(raw(10800), utc_offset=1)
    part = xr.Dataset({"flow": ds.qobs[3:4]}, {"time": ds.time.values[3:4]})
    out = carry_days(part, ds)
    assert data.step_seconds(out) == 10800 and out.attrs["step_boundary"] == ds.attrs["step_boundary"]
    data.write_netcdf(out, tmp_path / "x.nc")
    with xr.open_dataset(tmp_path / "x.nc") as back:
        assert data.step_seconds(back) == 10800 and back.time.attrs["long_name"] == "start of the step"


# ---------------------------------------------------------------------------------------------------- periods


@every_step
def test_dates_of_a_period_are_whole_days(step):
    ds = made(step)
    cut = data.select_period(ds, "2001-01-02:2001-01-03")
    assert cut.sizes["time"] == 2 * 86400 // step and cut.time.values[0] == np.datetime64("2001-01-02")
    for period in (("2001-01-02", np.datetime64("2001-01-03")), (pd.Timestamp("2001-01-02"), "2001-01-03")):
        xr.testing.assert_identical(data.select_period(ds, period), cut)
    assert data.select_period(ds, "2001-01-01:2001-01-05").sizes == ds.sizes
    refused(lambda: data.select_period(ds, "2001-01-02:2001-01-06"), "outside the data, which cover 2001-01-01")


def test_clocks_of_a_period():
    ds = made()
    cut = data.select_period(ds, "2001-01-01T06:00:2001-01-02T18:00")
    assert cut.time.values[0] == np.datetime64("2001-01-01T06") and cut.time.values[-1] == np.datetime64(
        "2001-01-02T18"
    )
    assert data.select_period(ds, "2001-01-01T06:00:2001-01-01").sizes["time"] == 18
    assert data.select_period(ds, ("2001-01-01", "2001-01-02T00:00")).sizes["time"] == 25
    first, last = data.parse_period("2001-01-01 06:30:2001-01-02")
    assert (first, last) == (pd.Timestamp("2001-01-01T06:30"), pd.Timestamp("2001-01-02"))
    for text in ("2001-01-01:2001-01-02", "2001-01-01T06:00:2001-01-02T00:00", "2001-01-01T06:00:05:2001-01-02"):
        assert period_text(text) == text
    refused(
        lambda: data.parse_period("2001-01-02T07:00:2001-01-02T06:00"), "found 2001-01-02 07:00 to 2001-01-02 06:00"
    )
    part = ds.isel(time=slice(5, -2))
    refused(
        lambda: data.select_period(part, "2001-01-01:2001-01-03"),
        "asks for steps outside the data, which cover 2001-01-01T05:00:2001-01-05T21:00",
    )
    refused(lambda: data.select_period(part, "2001-01-02:2001-01-05"), "outside the data")
    refused(lambda: data.select_period(part, "2001-01-01T04:00:2001-01-02"), "outside the data")
    assert data.select_period(part, "2001-01-01T05:00:2001-01-05T21:00").sizes == part.sizes
    halves = ds.time.values + 30 * np.timedelta64(1, "m")
    assert period_slice(halves, "2001-01-01:2001-01-05") == slice(0, 120)
    shared = overlap({"train": "2001-01-01:2001-01-03", "test": "2001-01-03T12:00:2001-01-04"})
    assert shared.endswith("from 2001-01-03 12:00 to 2001-01-03")
    assert not overlap({"train": "2001-01-01:2001-01-03T11:00", "test": "2001-01-03T12:00:2001-01-04"})


@every_step
def test_warm_up_counts_in_days(step):
    ds = made(step, days=9)
    n = 86400 // step
    assert data.rows_of_days(ds, 3) == 3 * n and data.rows_of_days(ds, 365.25) == round(365.25 * n)
    used = used_days(ds, ["2001-01-05:2001-01-06", "2001-01-07:2001-01-07"], 0, 2)
    assert used.sizes["time"] == 5 * n and used.time.values[0] == np.datetime64("2001-01-03")
    assert used_days(ds, ["2001-01-05:2001-01-06"], 2 / 365.25).sizes["time"] == 4 * n


def test_what_is_missing_is_told_with_its_clock():
    ds = made()
    ds.prcp[5:7, 1] = np.nan
    refused(
        lambda: usable_basins(ds, FORCING),
        "prcp is missing in 2 steps from 2001-01-01 05:00 to 2001-01-01 06:00; fill it",
    )
    refused(lambda: data.check_dataset(ds, forcing_names=FORCING), "found nan in basin b on 2001-01-01 05:00")
    refused(
        lambda: opened(raw().assign(pr=lambda d: d.pr.where(d.pr > 1e-3, -999))),
        "found -999 in basin . on 2001-01-0. ..:00",
    )
    cold = made()
    cold.tmean[7, 2] = -200
    refused(lambda: refuse_outside(cold, models.get("hbv10")), r"150\] degC; found -200 in basin c on 2001-01-01 07:00")
    cold = made()
    cold.prcp[7, 2] = 2e5
    refused(lambda: refuse_outside(cold, models.get("hbv10")), r"100000\] mm h-1; found 200000")


# --------------------------------------------------------------------------------- days out of shorter steps


@pytest.mark.parametrize("step", [3600, 10800])
def test_daily_sums_and_means(step):
    time, values = truth(step)
    n = 86400 // step
    ds = made(step).assign(tmin=lambda d: d.tmean.assign_attrs(cell_methods="time: minimum", units="degC"))
    ds["wind"] = ds.tmean.assign_attrs(units="m s-1")
    ds["quality"] = ("time", np.arange(len(time)))
    days = data.to_days(ds)
    folded = {name: x.reshape(5, n, 3) for name, x in values.items()}
    for name in ("prcp", "pet", "qobs"):
        np.testing.assert_allclose(days[name], folded[name].sum(1), rtol=1e-14)
        assert days[name].attrs["units"] == "mm d-1"
    np.testing.assert_allclose(days.tmean, folded["tmean"].mean(1), rtol=1e-14)
    np.testing.assert_allclose(days.wind, folded["tmean"].mean(1), rtol=1e-14)
    np.testing.assert_allclose(days.tmin, folded["tmean"].min(1), rtol=1e-14)
    assert days.tmean.attrs["units"] == "degC" and "quality" not in days and data.step_seconds(days) == 86400
    data.check_dataset(days, forcing_names=FORCING, need_qobs=True, steps=[86400])
    assert data.to_days(days) is days
    # days in part are left out, and those with a missing step are missing
    ds.qobs[n + 1, 0] = np.nan
    part = data.to_days(ds.isel(time=slice(2, -1)))
    assert [str(t)[:10] for t in part.time.values] == ["2001-01-02", "2001-01-03", "2001-01-04"]
    assert np.isnan(part.qobs.values[0, 0]) and int(part.qobs.isnull().sum()) == 1
    gap = data.to_days(ds.isel(time=np.r_[0:n, 2 * n : 5 * n]))
    np.testing.assert_allclose(gap.prcp, folded["prcp"].sum(1)[[0, 2, 3, 4]], rtol=1e-14)
    refused(lambda: data.to_days(ds.isel(time=slice(2, n))), "at least one whole day")


@pytest.mark.parametrize("method", ["hargreaves", "oudin", "priestley-taylor"])
def test_evapotranspiration_of_hours_is_that_of_their_days(method):
    ds = made(days=6)
    rng = np.random.default_rng(1)
    srad = ds.tmean.copy(data=rng.uniform(0, 300, ds.tmean.shape))
    height = np.array([100.0, 500.0, 900.0])
    found = data.potential_evapotranspiration(
        method, tmean=ds.tmean, srad=srad, elevation=height, lat_degrees=ds.lat.values
    )
    assert found.attrs["units"] == "mm h-1" and "spread evenly" in found.attrs["comment"]
    fold = ds.tmean.values.reshape(6, 24, 3)
    for b in range(3):
        expected = textbook(
            method, pd.date_range("2001", periods=6), fold[..., b].mean(1), fold[..., b].min(1), fold[..., b].max(1),
            float(ds.lat[b]), srad=srad.values.reshape(6, 24, 3)[..., b].mean(1), elevation=height[b],
        )  # fmt: skip
        np.testing.assert_allclose(found.values[:, b], np.repeat(expected / 24, 24), rtol=1e-8, atol=1e-12)
    tmean = ds.tmean[5:-3].copy()
    tmean[50, 1] = np.nan  # on 3 January
    part = data.potential_evapotranspiration(
        method, tmean=tmean, srad=srad[5:-3], elevation=height, lat_degrees=ds.lat.values
    )
    missing = np.isnan(part.to_series().unstack("basin")).groupby(lambda t: t.date()).sum().to_numpy()
    assert missing.tolist() == [[19, 19, 19], [0] * 3, [0, 24, 0], [0] * 3, [0] * 3, [21, 21, 21]]


def test_hourly_files_without_evapotranspiration():
    ds = raw().drop_vars("pet").assign(lat=("gauge_id", [50.0, 51.0, -30.0]))
    found = opened(ds)
    assert found.pet.attrs["units"] == "mm h-1" and found.pet.attrs["method"] == "hargreaves"
    expected = data.potential_evapotranspiration(
        "hargreaves", tmean=data.to_days(made()).tmean, tmin=made().tmean.resample(time="D").min(),
        tmax=made().tmean.resample(time="D").max(), lat_degrees=[50.0, 51.0, -30.0],
    )  # fmt: skip
    np.testing.assert_allclose(found.pet, np.repeat(expected.values / 24, 24, axis=0), rtol=1e-6)
    data.check_dataset(found, forcing_names=FORCING, need_qobs=True)
    assert "pet: missing in 5 steps" in opened(ds.isel(time=slice(None, -19))).attrs["conversions"]


def test_lags_of_hourly_data_are_those_of_their_days():
    rng = np.random.default_rng(0)
    ds = made(days=400)
    rain = rng.gamma(0.2, 8, (400, 3))
    flow = sum(np.roll(rain, k, 0) * share for k, share in enumerate((0.3, 0.2, 0.1, 0.05))) + 0.5
    hours = {"prcp": np.repeat(rain, 24, 0) / 24, "qobs": np.repeat(np.roll(flow, 2, 0), 24, 0) / 24}
    ds = ds.assign({name: ds[name].copy(data=x) for name, x in hours.items()})
    found = lag_of_days(ds)
    assert (found.lag == 2).all()
    xr.testing.assert_allclose(found, lag_of_days(data.to_days(ds)))
    xr.testing.assert_allclose(found, lag_of_days(ds.rename(prcp="rainfall")))
    refused(lambda: lag_of_days(ds.rename(prcp="x")), "must hold precipitation")
