"""Attributes of a basin's climate from its own forcing over a period, such as the training period.

The climatic indices of Addor et al. 2017 (doi 10.5194/hess-21-5293-2017) as the text defines them. Published values of
these are of another forcing and of years in which a model may be tested; those made here have names of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from .daily import to_days
from .dataset import period_slice
from .ids import listed

CLIMATE_ATTRIBUTES = {
    "climate_p_mean": ("mm d-1", "mean precipitation"),
    "climate_pet_mean": ("mm d-1", "mean potential evapotranspiration"),
    "climate_aridity": ("1", "mean potential evapotranspiration over mean precipitation"),
    "climate_p_seasonality": ("1", "seasonality of precipitation; positive where it falls in summer"),
    "climate_frac_snow": ("1", "share of precipitation on days below 0 degC"),
    "climate_high_prec_freq": ("d yr-1", "days of five times the mean precipitation or more"),
    "climate_high_prec_dur": ("d", "mean length of runs of days of five times the mean precipitation or more"),
    "climate_low_prec_freq": ("d yr-1", "days of less than 1 mm"),
    "climate_low_prec_dur": ("d", "mean length of runs of days of less than 1 mm"),
}
SERIES = ("prcp", "tmean", "pet")
YEAR = 365.25  # days
LEAST_DAYS = 365


def with_climate_attributes(data: xr.Dataset, names: Iterable[str], period: Any) -> xr.Dataset:
    """The data with those attributes among `names` that they lack and that follow from the forcing of a period.

    Days on which a basin lacks a value are left out.

    Raises
    ------
    ValueError
        If the data lack a series or the period, or a basin has less than a year of days in it.
    """
    lacking = [name for name in names if name in CLIMATE_ATTRIBUTES and name not in data.variables]
    if not lacking:
        return data
    if missing := [name for name in SERIES if name not in data]:
        raise ValueError(
            f"attribute '{lacking[0]}' is made of {', '.join(SERIES)}; found no '{missing[0]}' in the data: add it, or "
            "leave the attribute out."
        )
    try:
        rows = period_slice(data["time"].values, period)
    except ValueError as error:
        raise ValueError(
            f"attribute '{lacking[0]}' is made of the forcing of the training period, which the data must hold or the "
            f"attribute itself; found neither ({str(error).rstrip('.')}): add one of them."
        ) from None
    part = to_days(data[list(SERIES)].isel(time=rows))
    p, t, pet = (part[name].transpose("time", "basin").values.astype(np.float64) for name in SERIES)
    whole = np.isfinite(p) & np.isfinite(t) & np.isfinite(pet)
    if (short := whole.sum(0) < LEAST_DAYS).any():
        raise ValueError(
            f"attribute '{lacking[0]}' needs {LEAST_DAYS} days of forcing in the period; found fewer in basin "
            f"{listed(data['basin'].values[short])}: leave those basins or the attribute out."
        )
    p, t, pet = (np.where(whole, x, 0.0) for x in (p, t, pet))
    found = _indices(p, t, pet, whole)
    about = {name: {"units": unit, "long_name": meaning} for name, (unit, meaning) in CLIMATE_ATTRIBUTES.items()}
    return data.assign({name: ("basin", found[name], about[name]) for name in lacking})


def _indices(p: np.ndarray, t: np.ndarray, pet: np.ndarray, whole: np.ndarray) -> dict[str, np.ndarray]:
    """Of daily series ``[T, B]`` that are 0 where they are not `whole`; NaN where nothing falls."""
    days = whole.sum(0)
    mean, pet_mean = p.sum(0) / days, pet.sum(0) / days
    high, low = whole & (p >= 5 * mean), whole & (p < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "climate_p_mean": mean,
            "climate_pet_mean": pet_mean,
            "climate_aridity": pet_mean / mean,
            "climate_p_seasonality": _seasonality(p, t, whole),
            "climate_frac_snow": np.where(t < 0, p, 0.0).sum(0) / p.sum(0),
            "climate_high_prec_freq": high.sum(0) / days * YEAR,
            "climate_high_prec_dur": _duration(high),
            "climate_low_prec_freq": low.sum(0) / days * YEAR,
            "climate_low_prec_dur": _duration(low),
        }
    return {name: np.where(mean > 0, x, np.nan) for name, x in found.items()}


def _duration(event: np.ndarray) -> np.ndarray:
    """Mean length of the runs of days ``[T, B]`` on which something is true; 0 where it never is."""
    begins = event.copy()
    begins[1:] &= ~event[:-1]
    return event.sum(0) / np.maximum(begins.sum(0), 1)


def _seasonality(p: np.ndarray, t: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Eq. 14 of Woods 2009 (doi 10.1016/j.advwatres.2009.06.011), by least squares of a sine of a year.

    Precipitation's relative amplitude times the cosine of its phase from that of temperature.
    """
    angle = 2 * np.pi * np.arange(len(p)) / YEAR
    x = np.stack([np.ones_like(angle), np.sin(angle), np.cos(angle)], 1)
    products = np.einsum("tb,ti,tj->bij", whole, x, x, optimize=True)
    fit = [np.linalg.solve(products, (x.T @ y).T[..., None])[..., 0] for y in (p, t)]
    (level, *of_p), (_, *of_t) = (y.T for y in fit)
    return (of_p[0] * of_t[0] + of_p[1] * of_t[1]) / (np.hypot(*of_t) * level)
