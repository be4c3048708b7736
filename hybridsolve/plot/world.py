"""Coasts, lakes and rivers of the world behind a map: Natural Earth at 1:50 million, which is in the public domain.

``python -m hybridsolve.plot.world FOLDER`` makes the file anew of Natural Earth's GeoJSON: lines simplified to 0.03
degrees, in hundredths of a degree, without islands and lakes below 0.02 square degrees.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("world.npz")
KINDS = {"coast": "ne_50m_land", "lake": "ne_50m_lakes", "river": "ne_50m_rivers_lake_centerlines"}
LEAST = 0.02  # square degrees


@functools.cache
def lines(kind: str) -> list[np.ndarray]:
    """Lines ``[n, 2]`` of longitude and latitude in degrees, of "coast", "lake" or "river"."""
    with np.load(FILE) as stored:
        starts, steps = stored[f"{kind}_starts"], stored[f"{kind}_steps"].astype(np.int32)
    return [np.cumsum(part, axis=0) / 100 for part in np.split(steps, starts[1:])]


def within(kind: str, west: float, east: float, south: float, north: float) -> list[np.ndarray]:
    """Those that have a point in a box."""
    box = np.array([[west, south], [east, north]])
    return [line for line in lines(kind) if ((line >= box[0]) & (line <= box[1])).all(1).any()]


def make(folder: Path) -> None:
    """Write the file; needs shapely, which the extra `grids` brings."""
    from shapely.geometry import shape

    stored: dict[str, Any] = {}
    for kind, name in KINDS.items():
        parts = []
        for feature in json.loads((folder / f"{name}.geojson").read_text(encoding="utf-8"))["features"]:
            if feature["geometry"] is None:
                continue
            whole = shape(feature["geometry"])
            for part in getattr(whole, "geoms", [whole]):
                if kind == "river" or part.area > LEAST:
                    simple = part.simplify(0.03)
                    parts.append(
                        np.round(100 * np.array((simple if kind == "river" else simple.exterior).coords)[:, :2])
                    )
        # The first point of a line as it is, the others as steps from the one before: small numbers compress.
        steps = [np.diff(part, axis=0, prepend=0 * part[:1]) for part in parts]
        stored[f"{kind}_starts"] = np.cumsum([0, *map(len, steps[:-1])]).astype(np.int32)
        stored[f"{kind}_steps"] = np.concatenate(steps).astype(np.int16)
    np.savez_compressed(FILE, **stored)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
