"""EXP-HYDRO (Patil and Stieglitz 2014) with smooth thresholds (Hoege et al. 2022), a trial of the model compiler.

One explicit step of a day, with H(x) = (1 + tanh 5x) / 2, and the fluxes those of the step, which close its balance:

    Ps = H(Tmin - T) P,  Pr = P - Ps;  M = H(T - Tmax) H(S0) min(S0, Df (T - Tmax))
    on = H(S1) H(S1 - Smax),  un = H(S1) H(Smax - S1)
    ET = PET (on + un S1 / Smax);  Qb = Qmax (on + un e^(-f (Smax - S1)));  Qs = on (S1 - Smax)
    S0 <- S0 + Ps - M;  S1 <- S1 + Pr + M - ET - Qb - Qs
"""

from __future__ import annotations

from hybridsolve.models.primitives import exp, minimum, sigmoid
from hybridsolve.spec import Balance, Forcing, ModelSpec, Parameter, State, Variable

from .examples import Example as Generic


def smooth(x):
    """From 0 to 1 at x = 0."""
    return sigmoid(10 * x)  # the same, without the cancellation where it is nearly 0


def reference_step(f, k, p, s):
    """One day; see the equations above."""
    snowfall = smooth(p["tmin"] - f["tmean"]) * f["prcp"]
    rain = f["prcp"] - snowfall
    warmth = f["tmean"] - p["tmax"]
    melt = smooth(warmth) * smooth(s["snow"]) * minimum(s["snow"], p["df"] * warmth)
    deficit = p["smax"] - s["soil"]
    wet = smooth(s["soil"])
    full = wet * smooth(-deficit)
    part = wet * smooth(deficit)
    aet = f["pet"] * (full + part * (s["soil"] / p["smax"]))
    baseflow = p["qmax"] * (full + part * exp(-p["f"] * deficit))
    spill = -full * deficit
    state = dict(snow=s["snow"] + snowfall - melt, soil=s["soil"] + rain + melt - aet - baseflow - spill)
    return state, dict(streamflow=baseflow + spill, baseflow=baseflow, spill=spill, aet=aet, melt=melt)


exphydro = ModelSpec(
    name="exphydro",
    title="EXP-HYDRO",
    source="Patil and Stieglitz 2014, doi 10.2166/nh.2013.204",
    forcings=(
        Forcing("prcp", "mm d-1", "precipitation", 0.0, 1e5, transform="log"),
        Forcing("tmean", "degC", "mean air temperature", -150.0, 150.0),
        Forcing("pet", "mm d-1", "potential evapotranspiration", 0.0, 1e3),
    ),
    parameters=(
        Parameter("f", "mm-1", "decline of the baseflow with the deficit", 0.0, 0.1),
        Parameter("smax", "mm", "capacity of the soil", 100.0, 1500.0),
        Parameter("qmax", "mm d-1", "baseflow of a full soil", 10.0, 50.0),
        Parameter("df", "mm degC-1 d-1", "degree-day factor of melt", 0.0, 5.0),
        Parameter("tmax", "degC", "threshold of melt", 0.0, 3.0),
        Parameter("tmin", "degC", "threshold of snowfall", -3.0, 0.0),
    ),
    states=(
        State("snow", "mm", "snowpack", -1e30, 1e30, initial=0.0),
        State("soil", "mm", "water in the soil", -1e30, 1e30, initial=0.0, wet=lambda p: p["smax"]),
    ),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("baseflow", "mm d-1", "baseflow"),
        Variable("spill", "mm d-1", "water above the soil's capacity"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("melt", "mm d-1", "melt"),
    ),
    reference_step=reference_step,
    outflow="streamflow",
    balance=Balance(gains=("prcp",), losses=("streamflow", "aet")),
)


class Example(Generic):
    """As its table says."""
