"""Rows of forcing that several models have in common, so that what stands before another model has the same."""

from __future__ import annotations

from ..rows import Forcing

PRCP = Forcing("prcp", "mm d-1", "precipitation, rain and snow together", 0.0, 1e5, transform="log")
TMEAN = Forcing("tmean", "degC", "mean air temperature", -150.0, 150.0)
PET = Forcing("pet", "mm d-1", "potential evapotranspiration", 0.0, 1e3)
