"""Random dendritic networks: Scheidegger's lattice (1967, doi 10.1080/02626666709493507), and attributes for it."""

from __future__ import annotations

import numpy as np


def lattice(n: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows of the downstream reaches ``[n]``, -1 of an outlet, and attributes of the reaches but their slopes.

    Each of about 1.25 sqrt(n) rows of cells flows to the row below, every cell to one of its two lower neighbours.
    """
    width = -(-n // int(np.ceil(1.25 * np.sqrt(n))))
    row, column = np.divmod(np.arange(n), width)
    downstream = (row - 1) * width + (column + rng.integers(0, 2, n)) % width
    downstream[:width] = -1
    attributes = {
        "length": rng.lognormal(np.log(3000), 0.5, n),
        "n": rng.uniform(0.03, 0.1, n),
        "p": rng.uniform(10, 60, n),
        "q": rng.uniform(0.1, 0.9, n),
        "x": rng.uniform(0.2, 0.35, n),
        "area": rng.lognormal(np.log(5e6), 0.5, n),
    }
    return downstream, attributes


def slopes(upstream_area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slopes (m/m) that fall with the area drained (m2).

    Hack's and Flint's laws, roughly: 0.026 at one reach's 5 km2, 0.0004 at 200,000 km2, and scatter.
    """
    slope = 0.05 * (upstream_area / 1e6) ** -0.4 * rng.lognormal(0, 0.5, len(upstream_area))
    return slope.clip(1e-4, 0.1)
