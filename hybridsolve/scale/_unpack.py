"""The loops that unpack and pack a block, in a file of their own so that numba is imported only for what is packed."""

from __future__ import annotations

import math

import numpy as np

from .._extras import needed_for

with needed_for("packed numbers"):
    from numba import njit


@njit(cache=True, nogil=True)
def unpack(stored: np.ndarray, factor: float, shift: float, missing: float, out: np.ndarray) -> None:
    """``out = factor * stored + shift`` in float32, NaN where ``stored`` is `missing`; flat arrays."""
    a, b = np.float32(factor), np.float32(shift)
    for i in range(stored.size):
        x = stored[i]
        out[i] = np.float32(np.nan) if x == missing else a * np.float32(x) + b


@njit(cache=True, nogil=True)
def pack(values: np.ndarray, scale: float, offset: float, least: int, most: int, fill: int, out: np.ndarray) -> int:
    """``out = (values - offset) / scale`` rounded, `fill` for NaN; the first place of a value out of range, or -1."""
    for i in range(values.size):
        x = values[i]
        if math.isnan(x):
            out[i] = fill
            continue
        n = np.rint((x - offset) / scale)
        if n < least or n > most:
            return i
        out[i] = np.int64(n)
    return -1
