"""What a time axis means: bounds, stamps, calendars, absent days; and the lag of flow behind rain."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import published

from hybridsolve import cli, data
from hybridsolve.data import netcdf, times
from hybridsolve.data.lags import EARLY, lag_of_days, warn_of_early_flow

FORCING = ("prcp", "tmean", "pet")
HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(1, "D")
DAYS = pd.date_range("2003-12-20", "2004-03-10").to_numpy()


def series(time=DAYS, **attrs):
    """Two basins whose rain is the number of the step, so that each value tells where it came from."""
    n = len(time)
    rain = np.arange(n, dtype="float32")[:, None] + np.array([0, 1000], "float32")
    units = dict(prcp="mm d-1", tmean="degC", pet="mm d-1", qobs="mm d-1")
    return xr.Dataset(
        {name: (("time", "basin"), rain.copy(), {"units": unit}) for name, unit in units.items()},
        coords={"time": ("time", time), "basin": ["a", "b"]},
        attrs=attrs,
    )


def with_bounds(ds, lower, upper=None, name="time_bnds", attribute=True):
    upper = lower + DAY if upper is None else upper
    ds = ds.assign({name: (("time", "nv"), np.stack([lower, upper], 1))})
    if attribute:
        ds["time"].attrs["bounds"] = name
    return ds


def cftime_days(calendar, start="2003-12-20", n=90, **options):
    return xr.date_range(start, periods=n, calendar=calendar, use_cftime=True, **options)


def read(ds, tmp_path, **options):
    """Written by plain xarray and read by us, with its notes."""
    ds["time"].encoding.setdefault("units", "hours since 1990-01-01")
    ds["time"].encoding.setdefault("dtype", "float64")
    ds.to_netcdf(tmp_path / "x.nc")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = data.open_dataset(tmp_path / "x.nc", **options)
    return found, [str(note.message) for note in notes]


def refused(call, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=match) as error:
            call()
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    return text


def holds(ds, start):
    """The convention, and attributes that are true."""
    assert ds.time.dtype == "datetime64[ns]" and (ds.time.values == start).all()
    assert ds.time.attrs["bounds"] == "time_bnds" and ds.time.attrs["long_name"] == "start of the day"
    assert (ds.time_bnds.values == np.stack([start, start + DAY], 1)).all()
    assert [v for v in ds.variables if "b" in v and "time" in v] == ["time_bnds"]


# ----------------------------------------------------------------------------------------------------- bounds

BOUNDS = {  # stamps and lower bounds, in hours after the date; name, and whether `time` names them
    "start": (0, 0, "time_bnds", True),
    "noon": (12, 0, "time_bounds", True),
    "end": (24, 0, "time_bnds", True),
    "British": (0, 9, "bounds_of_days", True),
    "Australian": (9, -15, "time_bnds", True),
    "not named by time": (12, 0, "time_bounds", False),
    "noon to noon": (0, -12, "time_bound", False),
}


@pytest.mark.parametrize("kind", BOUNDS)
def test_bounds_of_a_file_tell_its_days(kind, tmp_path):
    stamp, lower, name, attribute = BOUNDS[kind]
    if kind == "British":
        stamp = 9 + 24
    ds = with_bounds(series(DAYS + stamp * HOUR), DAYS + lower * HOUR, name=name, attribute=attribute)
    found, notes = read(ds, tmp_path)
    holds(found, DAYS + lower * HOUR)
    assert (found.prcp.values == ds.prcp.values).all()
    assert [("its bounds" in note) for note in notes] == [True] * (stamp != lower)
    assert name in found.attrs["day_boundary"] and found.attrs["day_boundary"][:5] == f"{lower % 24:02d}:00"
    data.check_dataset(found, forcing_names=FORCING)


def test_bounds_left_as_numbers_and_bounds_a_second_short():
    coded = with_bounds(series(DAYS + 12 * HOUR), DAYS, name="time_bounds", attribute=False)
    coded["time"].encoding["units"] = "hours since 2003-12-20"
    hours = 24.0 * np.arange(len(DAYS))
    coded["time_bounds"] = (("nv", "time"), np.stack([hours, hours + 24]))
    short = with_bounds(series(), DAYS, DAYS + DAY - np.timedelta64(1, "s"))
    with pytest.warns(UserWarning, match="2003-12-20 12:00 starts at 2003-12-20 00:00"):
        holds(data.as_days(coded), DAYS)
    holds(data.as_days(short), DAYS)
    assert coded.time.values[0] == DAYS[0] + 12 * HOUR and not coded.attrs  # the caller's data are left alone


def test_bounds_that_are_gone_are_said():
    ds = with_bounds(series(), DAYS).drop_vars("time_bnds")
    with pytest.warns(UserWarning, match="names its bounds 'time_bnds', which are not there"):
        holds(data.as_days(ds), DAYS)


NAT = np.datetime64("NaT", "ns")
BAD_BOUNDS = {
    "months": (
        lambda: with_bounds(series(), DAYS, DAYS + 31 * DAY),
        "one day long each, found 2003-12-20 00:00 to 2004-0",
    ),
    "hours": (lambda: with_bounds(series(), DAYS, DAYS + HOUR), "one day long each.*aggregate the data to days"),
    "reversed": (lambda: with_bounds(series(), DAYS + DAY, DAYS), "one day long each"),
    "overlap": (
        lambda: with_bounds(series(DAYS[0] + 12 * HOUR * np.arange(9)), DAYS[0] + 12 * HOUR * np.arange(9)),
        "time of the data must be daily, found a step of 12 h",
    ),
    "elsewhere": (
        lambda: with_bounds(series(), DAYS - 3 * DAY),
        "hold their stamps.*found 2003-12-17 00:00 to 2003-12-18",
    ),
    "missing": (lambda: with_bounds(series(), np.where(DAYS == DAYS[4], NAT, DAYS)), r"none \(NaT\) at step 4"),
    "shape": (
        lambda: series().assign(time_bnds=(("time", "nv"), np.stack([DAYS] * 3, 1))),
        r"dims time and one of size 2, found \('time', 'nv'\) of \(82, 3\)",
    ),
    "calendar": (
        lambda: series().assign(time_bnds=(("time", "nv"), np.stack([cftime_days("noleap", n=82)] * 2, 1))),
        "of the calendar of time",
    ),
}


@pytest.mark.parametrize("kind", BAD_BOUNDS)
def test_bounds_that_are_no_days_are_refused(kind):
    make, message = BAD_BOUNDS[kind]
    refused(lambda: data.as_days(make()), message)


def test_bounds_and_time_must_agree_in_check_dataset():
    ds = with_bounds(series(DAYS + 12 * HOUR), DAYS)
    text = refused(
        lambda: data.check_dataset(ds, forcing_names=FORCING), "2003-12-20T12.* whose bounds 'time_bnds' start"
    )
    assert "as_days" in text
    with pytest.warns(UserWarning, match="its bounds"):
        data.check_dataset(data.as_days(ds), forcing_names=FORCING)


# ----------------------------------------------------------------------------------------------------- stamps


def test_stamps_without_bounds(tmp_path):
    found, notes = read(series(), tmp_path)
    holds(found, DAYS)
    assert (
        not notes and found.attrs["day_boundary"] == "00:00 to 00:00 of the next day, assumed: the source does not say"
    )
    found, notes = read(series(DAYS + 12 * HOUR), tmp_path)
    holds(found, DAYS)
    assert len(notes) == 1 and "stamped at noon and has no bounds" in notes[0]
    assert found.attrs["day_boundary"].endswith("by its stamps at noon")
    found, notes = read(series(day_boundary="as the agency says"), tmp_path)
    assert found.attrs["day_boundary"] == "as the agency says"


DAY_ENDS = {  # day_ends: hours from the date of a midnight stamp to the start of its day
    "09:00": 9,
    "00:00": 0,
    "24:00": 0,
    "23:30": 23.5,
    "stamp": -24,
    "stamp+09:00": -15,
    "stamp+00:00": -24,
}


@pytest.mark.parametrize("day_ends", DAY_ENDS)
def test_day_ends_says_what_the_stamps_mean(day_ends, tmp_path):
    start = DAYS + np.timedelta64(round(DAY_ENDS[day_ends] * 60), "m")
    found, notes = read(series(day_boundary="unknown"), tmp_path, day_ends=day_ends, utc_offset=-3.5)
    holds(found, start)
    assert not notes and (found.prcp.values == series().prcp.values).all()
    assert found.attrs["utc_offset_hours"] == -3.5
    assert (
        found.attrs["day_boundary"]
        == f"{str(start[0])[11:16]} to {str(start[0])[11:16]} of the next day, by day_ends {day_ends}"
    )
    # written and read again, the bounds say it, and saying it once more is no contradiction
    data.write_netcdf(found, tmp_path / "y.nc")
    again = data.open_dataset(
        tmp_path / "y.nc", **({} if "stamp" in day_ends else {"day_ends": day_ends}), utc_offset=-3.5
    )
    xr.testing.assert_identical(again.time, found.time)
    xr.testing.assert_identical(again.time_bnds, found.time_bnds)
    assert again.attrs["day_boundary"] == found.attrs["day_boundary"] and again.attrs["utc_offset_hours"] == -3.5


def test_a_period_is_of_the_days_and_not_of_the_stamps(tmp_path):
    found, _ = read(series(), tmp_path, day_ends="stamp", period="2003-12-31:2004-01-01")
    assert found.prcp.values[:, 0].tolist() == [12, 13]  # stamped 1 and 2 January


BAD_OPTIONS = (
    *(
        (dict(day_ends=x), "day_ends must be an hour such as 09:00")
        for x in ("9", "25:00", "24:30", "", "stamp+", "noon", 9)
    ),
    *((dict(utc_offset=x), "utc_offset must be hours from -14 to 14") for x in (15, -14.5, np.nan, np.inf, "x", True)),
)


@pytest.mark.parametrize("options, message", BAD_OPTIONS)
def test_options_of_days_are_checked(options, message):
    refused(lambda: data.as_days(series(), "x.nc", **options), message)


def test_options_must_not_contradict_the_file():
    ds = with_bounds(series(), DAYS)
    text = refused(
        lambda: data.as_days(ds, "x.nc", day_ends="09:00"), "starts at 2003-12-20 00:00 by its bounds and at 2003-12"
    )
    assert "ds.drop_vars('time_bnds')" in text
    holds(data.as_days(ds.drop_vars("time_bnds").drop_attrs(), "x.nc", day_ends="09:00"), DAYS + 9 * HOUR)
    refused(lambda: data.as_days(series(utc_offset_hours=1.0), utc_offset=2), "which says \\+1 h, found \\+2")


def test_command_line_takes_the_options(tmp_path, capsys):
    series(DAYS + 9 * HOUR).to_netcdf(tmp_path / "nine.nc")
    period = ["--train", "2004-01-01:2004-01-31"]
    assert cli.main(["calibrate", str(tmp_path / "nine.nc"), *period]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "found 2003-12-20 09:00" in said and "--day-ends" in said
    options = ["--day-ends", "09:00", "--utc-offset", "99"]
    assert cli.main(["calibrate", str(tmp_path / "nine.nc"), *period, *options]) == 2
    assert "utc_offset must be hours from -14 to 14, found 99" in capsys.readouterr().err
    assert cli.main(["train", "mlp-static", str(tmp_path / "nine.nc"), "--day-ends", "9h"]) == 2
    assert "day_ends must be an hour such as 09:00" in capsys.readouterr().err


SECOND = np.timedelta64(1, "s")
BERLIN = pd.date_range("2004-03-20", periods=20, tz="Europe/Berlin")
BAD_TIMES = {
    "nine o'clock": (
        DAYS + 9 * HOUR,
        "stamped at midnight, at noon or have bounds, found 2003-12-20 09:00.*--day-ends",
    ),
    "end of the day": (DAYS + DAY - SECOND, "found 2003-12-20 23:59"),
    "hourly": (DAYS[0] + HOUR * np.arange(50), "must be daily, found a step of 1 h at 2003-12-20 00:00; aggregate it"),
    "weekly": (DAYS[::7], "must be daily, found a step of 168 h"),
    "monthly": (pd.date_range("2000-01-01", periods=9, freq="MS").to_numpy(), "must be daily, found a step of 696 h"),
    "summer time": (
        BERLIN.tz_convert(None).to_numpy(),
        "the same hour every day, found 2004-03-19 23:00 and 2004-03-28 22",
    ),
    "unsorted": (DAYS[[0, 2, 1, 3]], "sorted, found 2003-12-21 after 2003-12-22; call ds.sortby"),
    "descending": (DAYS[::-1], "sorted"),
    "far, of 365 days": (cftime_days("noleap", "2261-12-20", 20), "1678 to 2261, found 2261-12-20 to 2262-01-08"),
    "twice": (DAYS[[0, 1, 1, 2]], "free of duplicates, found 2003-12-21 after 2003-12-21"),
    "missing": (np.where(DAYS == DAYS[3], NAT, DAYS), r"none \(NaT\) at step 3"),
    "empty": (DAYS[:0], "at least one date, found none"),
    "numbers": (np.arange(9), "found the number 0 with no units; set its attribute units"),
    "dates as numbers": (np.array([20000101.0, 20000102.0]), "found the number 20000101.0"),
    "German text": (["31.01.2000", "01.02.2000"], "dates such as 2000-01-31, found '31.01.2000'.*pandas.to_datetime"),
    "text and nothing": (np.array(["2000-01-01", None], dtype=object), "dates such as 2000-01-31, found None"),
    "text of two zones": (["2000-01-01T00:00+01:00", "2000-01-02T00:00"], "a time zone at all its dates or at none"),
    "too early": (
        np.array(["1500-01-01", "1500-01-02"], "datetime64[s]"),
        "1678 to 2261, found 1500-01-01 to 1500-01-02",
    ),
}


@pytest.mark.parametrize("kind", BAD_TIMES)
def test_times_that_are_no_days_are_refused(kind):
    time, message = BAD_TIMES[kind]
    refused(lambda: data.as_days(series(time), "x.nc"), f"time of x.nc.*{message}")


def test_without_time():
    refused(lambda: data.as_days(series().drop_vars("time"), "x.nc"), "x.nc must have the coordinate time")


GOOD_TIMES = {
    "text": [str(day)[:10] for day in DAYS],
    "bytes": np.array([str(day)[:10] for day in DAYS], dtype="S10"),
    "seconds": DAYS.astype("datetime64[s]"),
    "microseconds": DAYS.astype("datetime64[us]"),
    "dates of Python": np.array([pd.Timestamp(day).date() for day in DAYS], dtype=object),
    "proleptic": cftime_days("proleptic_gregorian", n=len(DAYS)),
}


@pytest.mark.parametrize("kind", GOOD_TIMES)
def test_dates_of_other_types(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = data.as_days(series(GOOD_TIMES[kind]))
    holds(ds, DAYS)


def test_time_zones(tmp_path):
    with pytest.warns(UserWarning, match="time zone; its local clock is kept, with its summer time"):
        ds = data.as_days(series(BERLIN))  # over the change to summer time
    holds(ds, pd.date_range("2004-03-20", periods=20).to_numpy())
    assert "utc_offset_hours" not in ds.attrs
    with pytest.warns(UserWarning, match="local clock is kept, \\+5.5 h from UTC"):
        ds = data.as_days(series([f"{str(day)[:10]}T00:00+05:30" for day in DAYS]))
    holds(ds, DAYS)
    assert ds.attrs["utc_offset_hours"] == 5.5
    # units of a zone: xarray decodes to UTC, and the days would start at 06:00
    ds = series(np.arange(len(DAYS)))
    ds["time"].attrs["units"] = "days since 2003-12-20 00:00:00 -6:00"
    ds.to_netcdf(tmp_path / "x.nc")
    found = data.open_dataset(tmp_path / "x.nc")
    holds(found, DAYS)
    assert found.attrs["utc_offset_hours"] == -6


def test_noise_of_float_stamps_is_rounded():
    noise = (np.random.default_rng(0).normal(0, 8, len(DAYS)) * 1e9).astype("timedelta64[ns]")
    with pytest.warns(UserWarning, match="rounded by up to a minute: .* is read as"):
        holds(data.as_days(series(DAYS + noise)), DAYS)
    with pytest.warns(UserWarning, match="rounded"):
        holds(data.as_days(series(DAYS - np.timedelta64(300, "ms"))), DAYS)


# -------------------------------------------------------------------------------------------------- calendars


@pytest.mark.parametrize("bounds", [True, False])
def test_a_year_without_leap_day(bounds, tmp_path):
    """29 February between steps 70 and 71: filled by a rule that is said and stored."""
    time = cftime_days("noleap", n=82)
    ds = with_bounds(series(time), time, time.shift(1, "D")) if bounds else series(time)
    ds["quality"] = ("time", np.arange(82))
    found, notes = read(ds, tmp_path)
    start = pd.date_range("2003-12-20", periods=83).to_numpy()
    holds(found, start)
    at = int(np.flatnonzero(start == np.datetime64("2004-02-29"))[0])
    expected = np.insert(np.arange(82.0), at, at - 0.5)
    for name in FORCING:
        assert (found[name].values == expected[:, None] + [0, 1000]).all() and found[name].dtype == "float32"
    assert np.isnan(found.qobs.values[at]).all() and int(found.qobs.isnull().sum()) == 2
    assert found.quality.values[at] == at - 1 and found.quality.dtype.kind == "i"
    assert len(notes) == 1 and "has no 29 February" in notes[0]
    assert found.attrs["filled_days"].startswith("29 February (1 days") and "qobs missing" in found.attrs["filled_days"]
    data.check_dataset(found, forcing_names=FORCING, need_qobs=True)
    data.write_netcdf(found, tmp_path / "y.nc")  # of the standard calendar
    assert (data.open_dataset(tmp_path / "y.nc").time.values == start).all()


def test_daymet_without_31_december_of_leap_years(tmp_path):
    full = pd.date_range("1999-12-01", "2004-12-31")
    time = full[~((full.month == 12) & (full.day == 31) & full.is_leap_year)]
    found, notes = read(series(time), tmp_path, period="1999-12-01:2004-12-31")
    holds(found, full.to_numpy())
    assert len(notes) == 1 and "31 December of leap years (2 days" in notes[0]
    last = len(time) - 1
    assert found.prcp.values[-2:, 0].tolist() == [last, last]  # the day before alone
    at = int(np.flatnonzero(full == "2000-12-31")[0])
    assert found.prcp.values[at, 0] == at - 0.5


@pytest.mark.parametrize("gone", [["2004-01-05"], ["2004-02-29", "2004-01-05"]])
def test_other_gaps_stay_refused(gone, tmp_path):
    found, notes = read(series(DAYS[~np.isin(DAYS, np.array(gone, "datetime64[ns]"))]), tmp_path)
    assert not notes and "filled_days" not in found.attrs
    refused(lambda: data.check_dataset(found, forcing_names=FORCING), "no gaps, expected 2004-01-05 after 2004-01-04")
    cut, _ = read(
        series(DAYS[~np.isin(DAYS, np.array(gone, "datetime64[ns]"))]), tmp_path, period="2004-01-06:2004-02-28"
    )
    data.check_dataset(cut, forcing_names=FORCING)  # a period without them serves


def test_a_leap_day_that_lacks_in_one_year_of_two_is_a_gap(tmp_path):
    full = pd.date_range("2000-01-01", "2004-12-31")
    found, _ = read(series(full[full != "2000-02-29"]), tmp_path)
    refused(lambda: data.check_dataset(found, forcing_names=FORCING), "expected 2000-02-29 after 2000-02-28")


def test_a_last_day_that_is_there_is_not_absent(tmp_path):
    full = pd.date_range("2000-12-01", "2004-12-31")
    found, _ = read(series(full[full != "2000-12-31"]), tmp_path)
    refused(lambda: data.check_dataset(found, forcing_names=FORCING), "expected 2000-12-31 after 2000-12-30")


def test_days_end_by_the_calendar_of_the_file(tmp_path):
    found, _ = read(series(cftime_days("noleap", n=82)), tmp_path, day_ends="stamp")
    assert found.prcp.sel(time="2004-02-28", basin="a") == 71  # stamped 1 March, a day after 28 February


def test_julian_dates_are_converted(tmp_path):
    found, notes = read(series(cftime_days("julian")), tmp_path)
    holds(found, pd.date_range("2004-01-02", periods=90).to_numpy())  # 13 days apart
    assert len(notes) == 1 and "2003-12-20 there is 2004-01-02" in notes[0]


def test_dates_that_the_standard_calendar_lacks_are_refused_with_a_remedy_that_works(tmp_path):
    time = cftime_days("all_leap", "2002-12-20")
    ds = with_bounds(series(time), time, time.shift(1, "D"))
    text = refused(lambda: read(ds, tmp_path), "found 2003-02-29 of the calendar all_leap")
    assert ".convert_calendar('standard')" in text
    remedy = text[text.index("convert the file by ") + 20 : text.index(" of xarray")]
    found, _ = read(eval(remedy, {"ds": ds}), tmp_path)
    data.check_dataset(found, forcing_names=FORCING)
    assert found.sizes["time"] == 89
    found, _ = read(series(cftime_days("all_leap", "2003-12-20")), tmp_path)  # of a leap year
    holds(found, pd.date_range("2003-12-20", periods=90).to_numpy())


def test_360_days_are_refused_with_a_remedy_that_works(tmp_path, capsys):
    time = cftime_days("360_day", "2000-01-01", 720)
    ds = with_bounds(series(time), time, time.shift(1, "D"), name="time_bounds")
    text = refused(lambda: read(ds, tmp_path), "found 360_day with its 30 February")
    remedy = text[text.index("convert the file by ") + 20 : text.index(" of xarray")]
    found, _ = read(eval(remedy, {"ds": ds}), tmp_path)
    data.check_dataset(found, forcing_names=FORCING, need_qobs=True)
    holds(found, pd.date_range("2000-01-01", "2001-12-31").to_numpy())
    ds.to_netcdf(tmp_path / "y.nc")
    for command in (
        ["calibrate", tmp_path / "y.nc", "--train", "2000-01-01:2000-12-30"],
        ["train", "lstm", tmp_path / "y.nc"],
    ):
        assert cli.main([str(word) for word in [*command, "--out", tmp_path / "out"]]) == 2
        assert "360_day" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_far_dates_are_refused_with_a_remedy_that_works(tmp_path):
    ds = series(cftime_days("standard", "2261-12-20"))
    refused(lambda: read(ds, tmp_path), "1678 to 2261, found 2261-12-20 to 2262-03-19")
    found, _ = read(ds.sel(time=slice("1678", "2261")), tmp_path)
    assert found.sizes["time"] == 12


@pytest.mark.parametrize("units", ["months since 2000-01-01", "days since 2000-01-00", "days since when"])
def test_units_that_cannot_be_decoded_are_told(units, tmp_path):
    ds = series(np.arange(len(DAYS)))
    ds["time"].attrs["units"] = units
    ds.to_netcdf(tmp_path / "x.nc")
    text = refused(lambda: netcdf.open_netcdf(tmp_path / "x.nc", "a data set"), "must tell its times by units such as")
    assert units in text and "decode_times" not in text


def test_standard_time_of_any_step():
    hourly = series(cftime_days("noleap", "2003-02-28", 48, freq="h"))
    found = times.standard_time(hourly, "x.nc")
    assert (found.time.values == pd.date_range("2003-02-28", periods=48, freq="h").to_numpy()).all()
    refused(lambda: times.standard_time(series(cftime_days("360_day")), "x.nc"), "time of x.nc .*360_day")
    refused(
        lambda: times.standard_time(series(np.arange(9)), "x.nc"), "time of x.nc must hold dates, found the number 0"
    )
    refused(lambda: times.standard_time(series(), "x.nc", dim="date"), "x.nc must have the coordinate date")
    one = times.standard_time(series(cftime_days("noleap")).isel(time=0), "restart.nc")
    assert one.time.values == DAYS[0] and one.time.dtype == "datetime64[ns]"
    assembled = data.assemble({"prcp": np.ones((9, 1))}, basin=["a"], time=cftime_days("noleap", "2003-02-25", 9))
    holds(assembled, pd.date_range("2003-02-25", periods=9).to_numpy())


# ---------------------------------------------------------------------------------------- periods and writing


@pytest.mark.parametrize(
    "period, message",
    [
        (("2004", "2004"), "no date of the calendar"),  # pandas takes it for 1 January
        ((2004, 2005), "no date of the calendar"),
        ((np.int64(2004), 2005), "no date of the calendar"),
        ((pd.NaT, "2004-01-01"), "no date of the calendar"),
        (tuple(cftime_days("360_day", n=2)), "no date of the calendar"),
        ("2004-01-02:2004-01-01", "must end after it starts"),
        ("2004-01-02:3004-01-01", "outside the data, which cover 2003-12-20:2004-03-10"),
        ("1204-01-02:2004-01-01", "outside the data"),
    ],
)
def test_periods_that_are_none(period, message):
    refused(lambda: data.select_period(series(), period), message)


def test_periods_of_dates_of_other_types():
    first, last = pd.Timestamp("2004-01-01T00:00Z"), np.datetime64("2004-01-02")
    assert data.select_period(series(), (first, last)).sizes["time"] == 2
    assert data.select_period(series(), (pd.Timestamp(last).date(), "2004-01-05")).sizes["time"] == 4


@pytest.mark.parametrize("hours", [0, 9, 8.5])
def test_time_and_bounds_are_written_in_one_unit(hours, tmp_path):
    start = DAYS + np.timedelta64(round(hours * 60), "m")
    ds = times.add_time_bounds(series(start))
    named = with_bounds(series(start), start, name="time_bounds")
    for write, made in ((data.write_netcdf, ds), (xr.Dataset.to_netcdf, ds), (data.write_netcdf, named)):
        write(made, tmp_path / "x.nc")
        bounds = made.time.attrs["bounds"]
        with xr.open_dataset(tmp_path / "x.nc", decode_times=False) as raw:
            assert raw[bounds].attrs.get("units", raw.time.attrs["units"]) == raw.time.attrs["units"]
            assert (raw[bounds].values[:, 0] == raw.time.values).all() and raw.time.dtype == raw[bounds].dtype
            assert "coordinates" not in raw.attrs
        holds(data.open_dataset(tmp_path / "x.nc"), start)


def test_bounds_finer_than_time_give_the_unit(tmp_path):
    data.write_netcdf(with_bounds(series(), DAYS - 15 * HOUR), tmp_path / "x.nc")
    with xr.open_dataset(tmp_path / "x.nc", decode_times=False) as raw:
        assert raw.time.attrs["units"].startswith("hours since") and raw.time_bnds.dtype == raw.time.dtype == "int64"
        assert (raw.time_bnds.values[:, 0] - raw.time.values == -15).all()


def test_results_carry_the_bounds_of_their_days():
    rng = np.random.default_rng(0)
    start = pd.date_range("2000-01-01", periods=500).to_numpy()
    ds = series(start)
    for name in ds:
        ds[name].values[:] = rng.gamma(1, 2, (500, 2))
    ds = data.as_days(ds, day_ends="09:00", utc_offset=1)
    from hybridsolve.calibration.fit import calibrate
    from hybridsolve.calibration.simulate_calibrated import simulate_calibrated

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = calibrate(ds, train="2000-06-01:2001-03-31", starts=1, steps=1, warmup_years=0.4, progress=False)
        flow = simulate_calibrated(result, ds, period="2001-01-01:2001-01-31", warmup_years=0.5)
    for out in (result, flow):
        holds(out, out.time.values)
        assert out.time.values[0].astype(str)[11:16] == "09:00"
        assert out.attrs["utc_offset_hours"] == 1 and out.attrs["day_boundary"] == ds.attrs["day_boundary"]


# ------------------------------------------------------------------------------------------------------- lags


def answering(shift=0, n_basins=40, seed=0):
    """Rain in spells of days, and flow that rises with it and falls in the days after; `shift` days apart."""
    rng = np.random.default_rng(seed)
    n = 1500
    rain = rng.gamma(0.2, 8, (n + 40, n_basins))
    for t in range(1, len(rain)):
        rain[t] += 0.7 * rain[t - 1]
    flow = sum(rain[20 - k : 20 - k + n] * share for k, share in enumerate((0.3, 0.2, 0.1, 0.06, 0.04, 0.02)))
    rain = rain[20 - shift : 20 - shift + n]
    ids = [f"b{i:02d}" for i in range(n_basins)]
    ds = series(pd.date_range("2000-01-01", periods=n)).isel(basin=[0] * n_basins).assign_coords(basin=ids)
    return ds.assign(prcp=ds.prcp.copy(data=rain), qobs=ds.qobs.copy(data=flow + 0.5))


@pytest.mark.parametrize("shift, lag", [(0, 0), (1, -1), (2, -2), (-2, 2)])
def test_lag_of_days(shift, lag):
    ds = answering(shift)
    found = lag_of_days(ds)
    assert (found.lag == lag).all() and ((found.early > EARLY) == (lag < 0)).all()
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        warn_of_early_flow(ds, "2001-01-01:2003-12-31")
    said = [str(note.message) for note in notes]
    assert len(said) == (lag < 0)
    if said:
        assert "in 40 of 40 basins" in said[0] and f"(lag {lag} d), " in said[0] and "--day-ends" in said[0]


def test_lag_needs_an_answer():
    ds = answering(1, n_basins=4)
    ds.qobs.values[:, 0] = np.nan
    ds.qobs.values[:, 1] = 2
    ds.prcp.values[:, 2] = 0
    ds.qobs.values[::7, 3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lag_of_days(ds)
        short = lag_of_days(ds, "2000-01-01:2000-01-09")
    assert np.isnan(found.lag.values[:3]).all() and found.lag.values[3] == -1
    assert short.lag.isnull().all() and short.early.isnull().all()
    apart = answering().assign(qobs=answering(seed=1).qobs)  # of other basins: no answer, and no warning
    assert (lag_of_days(apart).early == 0).all()


def test_lags_of_camels():
    with xr.open_dataset(published("camels_us_671.nc")) as pack:
        ids = np.sort(pack["gauge_id"].values.astype(str))[100:400]
    ds = data.read_camels(published("camels_us_671.nc"), basins=list(ids), period="1989-10-01:1999-09-30", pet="oudin")
    assert (lag_of_days(ds).early > EARLY).sum() <= 3
    late = ds.assign(prcp=ds.prcp.copy(data=np.roll(ds.prcp.values, 1, 0)))
    assert (lag_of_days(late).early > EARLY).sum() > 0.5 * len(ids)
