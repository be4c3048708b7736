"""Forcing that several models have in common, so that what stands before another model has the same: rows, and snow."""

from __future__ import annotations

from ..rows import Forcing

PRCP = Forcing("prcp", "mm d-1", "precipitation, rain and snow together", 0.0, 1e5, transform="log")
TMEAN = Forcing("tmean", "degC", "mean air temperature", -150.0, 150.0)
PET = Forcing("pet", "mm d-1", "potential evapotranspiration", 0.0, 1e3)
SNOW_FACTOR = "snow_factor"  # the parameter of `hybridsolve.models.factors`, which a step has where it is asked for


def fallen(p, measured):
    """What falls as snow where so much is measured; see `hybridsolve.models.factors`."""
    return p[SNOW_FACTOR] * measured if SNOW_FACTOR in p else measured
