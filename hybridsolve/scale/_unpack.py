"""The loop that unpacks a block, in a file of its own so that numba is imported only where something is packed."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def unpack(stored: np.ndarray, factor: float, shift: float, missing: float, out: np.ndarray) -> None:
    """``out = factor * stored + shift`` in float32, NaN where ``stored`` is `missing`; flat arrays."""
    a, b = np.float32(factor), np.float32(shift)
    for i in range(stored.size):
        x = stored[i]
        out[i] = np.float32(np.nan) if x == missing else a * np.float32(x) + b
