"""Flood peaks: how far from the observed ones the simulated are in time and in height.

The observed peaks are those that stand out by a standard deviation of the observations, and of peaks less than 100
steps apart the highest (Kratzert et al. 2021, doi 10.5194/hess-25-2685-2021, appendix).
"""

from __future__ import annotations

import numpy as np
from scipy.signal import find_peaks

APART = 100  # steps between two peaks, at least
WINDOW = 3  # steps on either side of an observed peak within which the simulated one is sought


def errors(sim: np.ndarray, obs: np.ndarray, seen: np.ndarray, window: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute errors of peaks in steps and in percent, ``[B]`` each.

    Parameters
    ----------
    sim, obs : ndarray, [B, T]
        Flow, finite.
    seen : ndarray of bool, [B, T]
        Steps with an observation. A peak whose window holds another step, or leaves the record, does not count.
    window : int
        Steps on either side.

    Returns
    -------
    timing, height : ndarray, [B]
        NaN where there is no peak.
    """
    timing, height = np.full(len(obs), np.nan), np.full(len(obs), np.nan)
    for b in range(len(obs)):
        steps = np.flatnonzero(seen[b])
        if not len(steps):
            continue
        o, s = obs[b, steps], sim[b, steps]
        late, off = [], []
        for at in find_peaks(o, distance=APART, prominence=max(o.std(), np.finfo(float).tiny))[0]:
            first, last = at - window, at + window
            if first < 0 or last >= len(steps) or steps[last] - steps[first] != 2 * window:
                continue
            late.append(abs(_place(s[first : last + 1], window) - window))
            off.append(abs(s[at] - o[at]) / o[at])
        if late:
            timing[b], height[b] = np.mean(late), 100 * np.mean(off)
    return timing, height


def _place(flow: np.ndarray, middle: int) -> int:
    """Where the peak is: in the middle where that is one, else where there is most."""
    if flow[middle] > max(flow[middle - 1], flow[middle + 1]):
        return middle
    return int(flow.argmax())
