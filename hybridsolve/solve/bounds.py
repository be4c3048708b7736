"""Between which numbers a value must lie in the precision of a run."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from ..spec import DAY, Parameter, Variable


def bounds(variable: Variable, dtype: torch.dtype, step: int = DAY) -> tuple[float, float]:
    """Bounds that allow one unit in the last place: lo + (hi - lo) * 1 may round past hi."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    lower, upper = variable.taken if isinstance(variable, Parameter) else (variable.lower, variable.upper)
    if isinstance(variable, Parameter) and step != DAY and variable.step != "none":
        lower, upper = variable.at_step(lower, step), variable.at_step(upper, step)
        return lower - 1e-5 * abs(lower), upper + 1e-5 * abs(upper)  # the conversion rounds as well
    lower, upper = kind(lower), kind(upper)
    return float(np.nextafter(lower, kind(-np.inf))), float(np.nextafter(upper, kind(np.inf)))


@cache
def bounds_of(rows: tuple[Variable, ...], dtype: torch.dtype, step: int = DAY) -> list[tuple[float, float]]:
    """As `bounds`, of several rows of a table."""
    return [bounds(v, dtype, step) for v in rows]
