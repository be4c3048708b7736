"""How far the difference of two scores depends on the years that happened to be scored."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import xarray as xr
from scipy.special import ndtr, stdtrit

LEAST_YEARS = 5  # with observations, below which an interval is not given: too few draws differ


def years_since(time: xr.DataArray) -> np.ndarray:
    """Whole years from the first step to each step ``[T]``: blocks that begin on the day on which the period does."""
    year, month, day = time.dt.year.values, time.dt.month.values, time.dt.day.values
    earlier = (month < month[0]) | ((month == month[0]) & (day < day[0]))
    return np.asarray(year - year[0] - earlier)


def nse_differences(
    sim: np.ndarray, obs: np.ndarray, years: np.ndarray, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NSE of every simulation less that of every other, with bootstrap intervals over blocks of a year.

    Years are drawn with replacement, the same for all simulations and basins, and the NSE of a draw is that of all its
    steps, its mean included, as in Clark et al. 2021 (Water Resour. Res. 57, e2020WR029001). It follows from sums over
    each year, so that a draw costs no pass over the steps. Percentiles of few years are too narrow; they are taken
    farther out, as Hesterberg 2015 has it (Am. Stat. 69:371): at the normal probability of sqrt(n/(n-1)) times
    Student's quantile for n years.

    Parameters
    ----------
    sim : ndarray ``[M, T, B]``
    obs : ndarray ``[T, B]``
        mm per step, NaN where missing.
    years : ndarray of int ``[T]``
        Of `years_since`.
    resamples, level, seed
        Draws, and the coverage of the intervals.

    Returns
    -------
    difference, lower, upper : ndarray ``[M, M, B]``, float64
        Of row less column. NaN where a simulation is not finite on a scored step or the observations have no variance;
        the bounds are NaN too where fewer than `LEAST_YEARS` years have observations.
    """
    seen, n_years = ~np.isnan(obs), int(years[-1]) + 1
    known = np.where(seen, obs, 0.0).astype(np.float64)
    of_year = (years == np.arange(n_years)[:, None]).astype(np.float64)
    centred = np.where(seen, known - known.sum(0) / np.maximum(seen.sum(0), 1), 0.0)
    errors = np.where(seen, sim - known, 0.0)
    failed = np.asarray(~np.isfinite(errors).all(1))
    # Sums over each year, ``[Y, B]``: of steps, of the observations and their squares, of every model's squared errors.
    count, first, second = of_year @ seen, of_year @ centred, of_year @ centred**2
    squares = np.stack([of_year @ np.where(bad, 0.0, e) ** 2 for bad, e in zip(failed, errors, strict=True)])

    def efficiencies(draws: np.ndarray) -> list[np.ndarray]:
        """NSE of every model ``[R, B]`` of years drawn so often ``[R, Y]``; NaN where observations do not vary."""
        total = draws @ second - (draws @ first) ** 2 / np.maximum(draws @ count, 1)
        total[total <= 1e-12 * second.sum(0)] = np.nan
        return [np.where(bad, np.nan, 1 - draws @ x / total) for bad, x in zip(failed, squares, strict=True)]

    draws = np.random.default_rng(seed).multinomial(n_years, np.full(n_years, 1 / n_years), resamples)
    whole, drawn = efficiencies(np.ones((1, n_years))), efficiencies(draws.astype(np.float64))
    found, lower, upper = np.zeros((3, len(sim), *sim.shape[::2]))
    n = (count > 0).sum(0)
    farther = np.sqrt(n / np.maximum(n - 1, 1)) * stdtrit(np.maximum(n - 1, 1), (1 - level) / 2)
    place = np.where(n < LEAST_YEARS, np.nan, ndtr(farther) * (resamples - 1))
    for i, j in combinations(range(len(sim)), 2):
        found[i, j] = (whole[i] - whole[j])[0]
        ordered = np.sort(drawn[i] - drawn[j], axis=0)
        lower[i, j], upper[i, j] = _between(ordered, place), _between(ordered, resamples - 1 - place)
        found[j, i], lower[j, i], upper[j, i] = -found[i, j], -upper[i, j], -lower[i, j]
    for i, nse in enumerate(whole):
        found[i, i] = lower[i, i] = upper[i, i] = nse[0] - nse[0]
    return found, lower, upper


def _between(ordered: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Of columns in order ``[R, B]`` the value at a place ``[B]`` that is no whole number; NaN if one of them is."""
    below = np.nan_to_num(place).astype(int)
    columns = np.arange(len(place))
    first, second = ordered[below, columns], ordered[np.minimum(below + 1, len(ordered) - 1), columns]
    return np.asarray(np.where(np.isnan(ordered[-1]), np.nan, first + (place - below) * (second - first)))
