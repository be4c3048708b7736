"""Elevations of layers of equal area, from the hypsometric curve of each basin."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from .units import convert, is_ours
from .values import numbers

CURVE = "hypsometry"  # [basin, point]: elevations below which equal steps of 0 to 1 of the area lie
_LAYER = re.compile(r"elev_layer_(\d+)")


def layer_number(name: str) -> int | None:
    """The number of the layer whose elevation an input is, from 1, or None of any other."""
    found = _LAYER.fullmatch(name)
    return int(found[1]) if found else None


def layers_of_curve(data: xr.Dataset, n: int) -> np.ndarray:
    """Elevations ``[B, n]`` in m of n layers of equal area, lowest first: of the middle of each by area.

    Parameters
    ----------
    data : xarray.Dataset
        With `hypsometry` ``[basin, point]``: from its first point, the lowest elevation of the basin, to its last, the
        highest, as much area lies between one and the next; 101 points are percentiles.

    Raises
    ------
    ValueError
        If the curve is not so, is missing somewhere, or falls.
    """
    curve = data[CURVE]
    if curve.ndim != 2 or curve.dims[0] != "basin" or curve.shape[1] < 2:
        raise ValueError(
            f"{CURVE} must be [basin, point] with two points or more; found dims {curve.dims} of sizes {curve.shape}: "
            "transpose or correct it."
        )
    values, unit = numbers(curve.values, CURVE).astype(np.float64), curve.attrs.get("units")
    if unit is None:
        raise ValueError(f"{CURVE} has no units attribute, expected 'm'; set it once you know it is so.")
    if not is_ours(unit, "m"):
        values, _ = convert(values, unit, "m", CURVE)
    ids = data["basin"].values
    bad = ~(np.diff(values, axis=1) >= 0).all(1)  # a NaN is no step upward
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"{CURVE} must rise from point to point; found {values[at].tolist()[:5]}, .. of basin {ids[at]} "
            f"({int(bad.sum())} such basins): sort or complete it."
        )
    share = np.linspace(0, 1, values.shape[1])
    return np.stack([np.interp((np.arange(n) + 0.5) / n, share, row) for row in values])


def refuse_out_of_order(elevations: dict[int, np.ndarray], ids: np.ndarray) -> None:
    """Raise unless the elevations ``[B]`` of layers, by number, do not fall from one layer to the next."""
    for i, j in zip(sorted(elevations), sorted(elevations)[1:], strict=False):
        bad = ~(elevations[j] >= elevations[i])
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(
                f"elevations of layers must not fall from one to the next; found {elevations[i][at]:g} m of "
                f"elev_layer_{i} and {elevations[j][at]:g} m of elev_layer_{j} in basin {ids[at]} ({int(bad.sum())} "
                "such basins): put them in order."
            )
