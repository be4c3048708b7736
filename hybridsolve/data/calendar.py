"""Series that the calendar alone decides, for models that ask for them: days of the season, lapse rates of temperature.

They are of the northern hemisphere; a basin south of the equator has those of half a year later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from ..rows import Variable

DAY = np.timedelta64(1, "D")
HALF_A_YEAR = 182  # days
# degC per km: a mean, and cosines and sines of one, two and three cycles a year. They are within 0.016 (mean), 0.009
# (lowest) and 0.026 (highest temperature) of the daily table of Valéry (2010) for the French Alps, which airGR has.
LAPSE = {
    "tmean_lapse": (5.369, -0.774, 0.333, -0.199, 0.088, -0.058, -0.008),
    "tmin_lapse": (4.02, -0.354, 0.197, -0.014, -0.007, 0.011, -0.034),
    "tmax_lapse": (6.835, -1.203, 0.442, -0.514, 0.193, -0.129, -0.052),
}


def _day_of_year(days: np.ndarray) -> np.ndarray:
    """1 on the first of January."""
    return ((days - days.astype("datetime64[Y]").astype("datetime64[D]")) / DAY + 1).astype(np.float64)


def _is_leap(days: np.ndarray) -> np.ndarray:
    year = days.astype("datetime64[Y]")
    first, last = (x.astype("datetime64[D]") for x in (year, year + 1))
    return (last - first) / DAY > 365


def _snow_day(days: np.ndarray) -> np.ndarray:
    """Days since 21 March as the National Weather Service counts them: -1 on 20 March of a leap year."""
    day = _day_of_year(days)
    later = _is_leap(days) & (day > 60)  # beyond 29 February
    return np.where(day >= 80, day - later - 80, day + 285)


def _lapse(name: str) -> Callable[[np.ndarray], np.ndarray]:
    mean, *waves = LAPSE[name]

    def series(days: np.ndarray) -> np.ndarray:
        day = _day_of_year(days)
        angle = 2 * np.pi / 366 * np.where(_is_leap(days) | (day < 60), day - 1, day)  # a row for 29 February
        pairs = zip(waves[::2], waves[1::2], strict=True)
        found = np.full(len(days), mean)
        for n, (a, b) in enumerate(pairs, 1):
            found += a * np.cos(n * angle) + b * np.sin(n * angle)
        return found

    return series


SERIES = {"day_of_year": _day_of_year, "snow_day": _snow_day, **{name: _lapse(name) for name in LAPSE}}


def with_calendar(ds: xr.Dataset, rows: Mapping[str, Variable]) -> xr.Dataset:
    """The dataset with those of `SERIES` that a model's table has and the data have not, said in `conversions`."""
    wanted = [name for name in rows if name in SERIES and name not in ds]
    if not wanted:
        return ds
    days = ds["time"].values.astype("datetime64[D]")
    south = ds["lat"].values < 0 if "lat" in ds.variables else np.zeros(ds.sizes["basin"], bool)
    dtype = next(ds[name].dtype for name in rows if name in ds)
    for name in wanted:
        values = np.where(south, SERIES[name](days + HALF_A_YEAR * DAY)[:, None], SERIES[name](days)[:, None])
        attrs = {"units": rows[name].unit, "long_name": rows[name].meaning, "method": "of the calendar"}
        ds[name] = (("time", "basin"), np.ascontiguousarray(values, dtype=dtype), attrs)
    said = [f"{name}: of the calendar" for name in wanted]
    ds.attrs["conversions"] = "\n".join([*str(ds.attrs.get("conversions", "")).splitlines(), *said])
    return ds
