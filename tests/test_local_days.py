"""Means of the local day at gauges, against pandas."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybridsolve.routing.local_days import daily_means, offset_of_longitude

OFFSETS = [0.0, -7.0, 5.5, 12.0]


def discharge(hours=96, gauges=4):
    values = np.random.default_rng(0).gamma(2, 3, (hours, gauges))
    ends = pd.date_range("2001-01-01 01:00", periods=hours, freq="h")
    attrs = {"units": "m3 s-1"}
    return xr.DataArray(values, coords={"time": ends, "reach": np.arange(gauges)}, dims=("time", "reach"), attrs=attrs)


def test_each_gauge_has_its_own_days():
    q = discharge()
    means = daily_means(q, OFFSETS)
    assert means.dims == ("day", "reach") and means.attrs["cell_methods"] == "day: mean"
    for i, hours in enumerate(OFFSETS):
        local = pd.Series(q.values[:, i], q["time"].values + pd.Timedelta(hours - 1, "h"))
        days = local.groupby(local.index.floor("D")).agg(["mean", "count"])
        expected = days["mean"].where(days["count"] == 24).reindex(pd.DatetimeIndex(means["day"].values))
        np.testing.assert_allclose(means[:, i], expected, rtol=1e-12)
    assert means[:, 0].notnull().sum() == 4 and means[:, 1].notnull().sum() == 3
    np.testing.assert_array_equal(means["utc_offset"], OFFSETS)


def test_zones_of_longitudes():
    np.testing.assert_array_equal(offset_of_longitude([0, 7.4, 7.6, -105, 255, 180, 179]), [0, 0, 1, -7, -7, -12, 12])


def test_what_has_no_local_day_is_refused():
    with pytest.raises(ValueError, match="within 14 of UTC; found 15"):
        daily_means(discharge(), 15)
    with pytest.raises(ValueError, match="must hold a whole local day or more"):
        daily_means(discharge(hours=20), 0)
    with pytest.raises(ValueError, match="must be .time, gauge."):
        daily_means(discharge().T, 0)
