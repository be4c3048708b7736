"""The loops of the synthetic weather, in a file of their own so that numba is imported only where one is made.

Each value is made by the same operations wherever it stands in its array, so that chunks do not change a bit.
"""

from __future__ import annotations

import math

import numpy as np

from .._extras import needed_for

with needed_for("a synthetic continent"):
    from numba import njit


@njit(cache=True)
def add_lattice(out: np.ndarray, lattice: np.ndarray, y: np.ndarray, x: np.ndarray, weight: float) -> None:
    """Add to ``out [T, B]`` what lies at (y, x) of ``lattice [T, Y, X]``, interpolated to unit variance."""
    for t in range(out.shape[0]):
        for b in range(out.shape[1]):
            i, j = int(y[b]), int(x[b])
            v, u = y[b] - i, x[b] - j
            total = (1 - v) * ((1 - u) * lattice[t, i, j] + u * lattice[t, i, j + 1])
            total += v * ((1 - u) * lattice[t, i + 1, j] + u * lattice[t, i + 1, j + 1])
            norm = ((1 - v) * (1 - v) + v * v) * ((1 - u) * (1 - u) + u * u)
            out[t, b] += weight * total / math.sqrt(norm)


@njit(cache=True)
def rain(
    field: np.ndarray,
    threshold: np.ndarray,
    season: np.ndarray,
    cosine: np.ndarray,
    mean: np.ndarray,
    amounts: np.ndarray,
    per_unit: float,
) -> None:
    """Make normal numbers precipitation, in place: above the threshold a gamma amount by their rank among the wet."""
    last = len(amounts) - 2
    for t in range(field.shape[0]):
        for b in range(field.shape[1]):
            least = threshold[b] + season[b] * cosine[t]
            z = field[t, b]
            if z <= least:
                field[t, b] = 0.0
                continue
            exceeded = math.erfc(z * math.sqrt(0.5)) / math.erfc(least * math.sqrt(0.5))
            place = -math.log(max(exceeded, 1e-17)) * per_unit
            i = min(int(place), last)
            field[t, b] = mean[b] * (amounts[i] + (place - i) * (amounts[i + 1] - amounts[i]))


@njit(cache=True)
def temperature(
    field: np.ndarray, mean: np.ndarray, amplitude: np.ndarray, season: np.ndarray, diurnal: np.ndarray
) -> None:
    """Make normal numbers temperature, degC, in place."""
    for t in range(field.shape[0]):
        for b in range(field.shape[1]):
            field[t, b] = mean[b] - amplitude[b] * season[t] + diurnal[t] + 3.5 * field[t, b]


@njit(cache=True)
def demand(temperature: np.ndarray, out: np.ndarray, radiation: np.ndarray, place: np.ndarray) -> None:
    """Oudin's potential evapotranspiration, mm per step, of temperature (degC) and radiation ``[T, L]`` (MJ m-2)."""
    for t in range(out.shape[0]):
        for b in range(out.shape[1]):
            warm = temperature[t, b] + 5.0
            if warm <= 0:
                out[t, b] = 0.0
                continue
            i = int(place[b])
            energy = radiation[t, i] + (place[b] - i) * (radiation[t, i + 1] - radiation[t, i])
            out[t, b] = energy * warm / (100.0 * (2.501 - 0.002361 * temperature[t, b]))
