"""The degree-day snow of HBV (Bergström 1976; Feng et al. 2022) alone, to stand before a runoff model.

Snow falls below tt and melts above it by cfmax (T - tt); the pack holds liquid water up to cwh of itself, which
freezes again by cfr cfmax (tt - T). These are the first lines of `hybridsolve.models.hbv`, at any step that divides a
day. Layers of a basin: `hybridsolve.models.layered`.

Checked as part of HBV, whose function it calls.
"""

from __future__ import annotations

from ..spec import Balance, ModelSpec, Variable
from .forcings import PRCP, TMEAN
from .hbv import FENG, FLUXES, PARAMETERS, STATES, snow

_KEPT = ("tt", "cfmax", "cfr", "cwh", "snowpack", "meltwater", "swe", "rain", "snowfall", "melt", "refreezing")


def reference_step(f, k, p, s):
    """One step; see above."""
    state, infiltration, fluxes = snow(f, p, s, p["tt"])
    return state, dict(fluxes, liquid=fluxes["rain"] + infiltration)


degreeday = ModelSpec(
    name="degreeday",
    title="Degree-day snow of HBV",
    source=FENG,
    forcings=(PRCP, TMEAN),
    parameters=tuple(v for v in PARAMETERS if v.name in _KEPT),
    states=tuple(v for v in STATES if v.name in _KEPT),
    fluxes=(
        Variable("liquid", "mm d-1", "rain and what leaves the snowpack, the precipitation of what stands behind"),
        *(v for v in FLUXES if v.name in _KEPT),
    ),
    reference_step=reference_step,
    outflow="liquid",
    balance=Balance(gains=("prcp",), losses=("liquid",)),
    steps=None,
)
