"""How many days flow follows rain, and in which basins it seems to come first: a sign of days that mean two things."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from .daily import to_days
from .dataset import select_period
from .ids import listed
from .names import of_role

LAGS = np.arange(-3, 11)  # days
# Of the largest correlation: 1 % of the basins of CAMELS-US exceed it, and 70 % if their rain is a day late.
EARLY = 0.25


def lag_of_days(data: xr.Dataset, period=None) -> xr.Dataset:
    """Lag of flow behind rain in every basin, by correlation of rain with the rises of the logarithm of flow.

    What rain says of the rain of the next day (its regression on it) is taken from the next day's first: rain falls on
    several days in a row, and flow would else seem to answer before it.

    Parameters
    ----------
    data : xarray.Dataset
        Precipitation, as `prcp` or under another name of it, and `qobs`, ``(time, basin)``; what is of steps shorter
        than a day is added up to days.
    period : str or pair, optional
        All of the data if left out.

    Returns
    -------
    xarray.Dataset, dims (basin)
        `lag`, the days from -3 to 10 of the highest correlation (NaN where flow or rain do not vary), and `early`, the
        highest correlation at a negative lag as a share of the highest of all (0 where it is within four standard
        errors of none).
    """
    data = select_period(data, period)
    name = of_role(data, "prcp")
    if name is None:
        raise ValueError(f"data must hold precipitation, found {listed(data.data_vars)}; rename it to prcp.")
    data = to_days(data[[name, "qobs"]])
    rain = np.nan_to_num(data[name].transpose("time", "basin").values.astype(np.float32))
    flow = data["qobs"].transpose("time", "basin").values.astype(np.float32)
    days, basins = rain.shape
    if days <= len(LAGS):
        nothing = np.full(basins, np.nan)
        return xr.Dataset({"lag": ("basin", nothing), "early": ("basin", nothing)}, {"basin": data["basin"].values})
    rain = rain - rain.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rain[1:] -= (rain[1:] * rain[:-1]).sum(0) / (rain * rain).sum(0) * rain[:-1]
        rise = np.maximum(np.diff(np.log1p(np.maximum(flow, 0)), axis=0, prepend=np.nan), 0)
        n = np.isfinite(rise).sum(0)
        rise = np.nan_to_num(rise - np.nansum(rise, 0) / n)
        size = np.sqrt((rain * rain).sum(0) * (rise * rise).sum(0))
        correlation = np.stack([_products(rain, rise, int(lag)) / size for lag in LAGS])
        best, before = correlation.max(0), correlation[LAGS < 0].max(0)
        early = np.where(before * np.sqrt(n) > 4, before / best, 0.0)
    known = np.isfinite(best)
    lag = np.where(known, LAGS[np.where(known, correlation, 0).argmax(0)], np.nan)
    return xr.Dataset(
        {
            "lag": ("basin", lag, {"units": "d", "long_name": "lag of flow behind rain"}),
            "early": (
                "basin",
                np.where(known, early, np.nan),
                {"units": "1", "long_name": "response before the rain, as a share of the largest"},
            ),
        },
        {"basin": data["basin"].values},
    )


def warn_of_early_flow(data: xr.Dataset, period=None) -> None:
    """Warn of basins where flow answers before the rain; of data without rain there is nothing to say."""
    if of_role(data, "prcp") is None:
        return
    found = lag_of_days(data, period)
    named = (found["early"] > EARLY).values
    if not named.any():
        return
    worst = found.isel(basin=named).sortby("early", ascending=False)
    lags = [f"{b} (lag {lag:+.0f} d)" for b, lag in zip(worst["basin"].values, worst["lag"].values, strict=True)]
    warnings.warn(
        f"flow rises before the rain in {named.sum()} of {named.size} basins ({listed(lags)}): their "
        "days of rain and flow may be shifted; check when the days of both end (day_ends, or --day-ends), and shift "
        "one where they differ.",
        stacklevel=3,
    )


def _products(rain: np.ndarray, rise: np.ndarray, lag: int) -> np.ndarray:
    """Sum over days of the rain times the rise `lag` days later."""
    n = len(rain) - abs(lag)
    first, second = max(0, -lag), max(0, lag)
    return np.einsum("tb,tb->b", rain[first : first + n], rise[second : second + n])
