"""What a model must beat: flows that are known without one, made of observations alone.

Sources: Schaefli and Gupta 2007 (Hydrol. Process. 21:2075), the mean of each calendar day; Kitanidis and Bras 1980
(Water Resour. Res. 16:1034), persistence.
"""

from __future__ import annotations

import numpy as np
import xarray as xr


def climatology(obs: np.ndarray, time: xr.DataArray, known: np.ndarray) -> np.ndarray:
    """The mean of a calendar day, or of an hour of it, over the years that are known.

    Parameters
    ----------
    obs : ndarray ``[T, B]``
        mm per step, NaN where missing.
    time : xarray.DataArray ``[T]``
        Of any calendar.
    known : ndarray of bool ``[T]``
        The steps whose observations may be used: those of training.

    Returns
    -------
    ndarray ``[T, B]``, float64
        NaN on days without an observation in any of these years.
    """
    of_year = time.dt.month.values * 31 + time.dt.day.values
    of_day = time.dt.hour.values * 3600 + time.dt.minute.values * 60 + time.dt.second.values
    slots, slot = np.unique(of_year * 86_400 + of_day, return_inverse=True)
    seen = ~np.isnan(obs) & known[:, None]
    total, count = np.zeros((2, len(slots), obs.shape[1]))
    np.add.at(total, slot, np.where(seen, obs, 0.0))
    np.add.at(count, slot, seen)
    with np.errstate(invalid="ignore"):  # 0/0, the days without an observation
        return np.asarray(total / count)[slot]


def persistence(obs: np.ndarray) -> np.ndarray:
    """The observation of the step before, ``[T, B]``; NaN at the first step and after a missing one."""
    return np.concatenate([np.full_like(obs[:1], np.nan), obs[:-1]])
