"""EXP-HYDRO (Patil and Stieglitz 2014): a snowpack and a soil, with hard thresholds or smooth ones (Hoege et al. 2022).

One explicit step of a day, with H(x) = (1 + tanh 5x) / 2, x in mm or degC; the fluxes are those of the step:

    Ps = H(Tmin - T) P,  Pr = P - Ps;  M = H(T - Tmax) H(S0) min(S0, Df (T - Tmax))
    on = H(S1) H(S1 - Smax),  un = H(S1) H(Smax - S1)
    ET = PET (on + un S1 / Smax);  Qb = Qmax (on + un e^(-f (Smax - S1)));  Qs = on (S1 - Smax)
    S0 <- S0 + Ps - M;  S1 <- S1 + Pr + M - ET - Qb - Qs

The hard form has steps in place of H, 0 at 0.

What differs between programs:

* P-RNN (Jiang et al. 2020) takes the same step, but reports fluxes anew from the state after it, which do not close the
  balance. HydroNODE and torchHydroNodes solve the equations in continuous time, with the forcing interpolated.
* In both forms one step may take more out of the soil than it has, and in the smooth form a thaw just below Tmax makes
  snow: stores may be negative, and no floor makes water. The hard form's soil below 0 neither evaporates nor flows.
* Here `exphydro@rk4x8` solves them in continuous time within a day whose weather is constant, see
  `hybridsolve.models.schemes`.
* PET is a forcing; the published programs compute Hamon's.
* f (Smax - S1) is at least -50, so that a flood does not overflow.

Checked against P-RNN, states of the smooth form within 1e-9 mm, and against exp-hydro, fluxes of a step of both
forms.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, ModelSpec, Parameter, State, Variable
from .forcings import PET, PRCP, TMEAN, fallen
from .primitives import exp, minimum, select, sigmoid

HOEGE = "Hoege et al. 2022, doi 10.5194/hess-26-5085-2022"


def smooth(x):
    """From 0 to 1 at x = 0: (1 + tanh 5x) / 2, without the cancellation where it is nearly 0."""
    return sigmoid(10 * x)


def hard(x):
    """0 up to x = 0, and 1 above."""
    return select(x <= 0.0, 0.0 * x, 1.0)


def fluxes_with(above):
    """The fluxes of a day with this function for H."""

    def fluxes(f, p, s):
        measured = above(p["tmin"] - f["tmean"]) * f["prcp"]
        rain, snowfall = f["prcp"] - measured, fallen(p, measured)
        warmth = f["tmean"] - p["tmax"]
        melt = above(warmth) * above(s["snow"]) * minimum(s["snow"], p["df"] * warmth)
        deficit = p["smax"] - s["soil"]
        wet = above(s["soil"])
        full = wet * above(-deficit)
        part = wet - full if above is hard else wet * above(deficit)
        aet = f["pet"] * (full + part * (s["soil"] / p["smax"]))
        baseflow = p["qmax"] * (full + part * exp(minimum(-p["f"] * deficit, 50.0)))
        spill = -full * deficit
        made = dict(streamflow=baseflow + spill, baseflow=baseflow, spill=spill, aet=aet)
        return {**made, "rain": rain, "snowfall": snowfall, "melt": melt}

    return fluxes


def step_with(above):
    """The step with this function for H."""
    fluxes = fluxes_with(above)

    def step(f, k, p, s):
        """One day; see the equations above."""
        q = fluxes(f, p, s)
        soil = s["soil"] + q["rain"] + q["melt"] - q["aet"] - q["baseflow"] - q["spill"]
        return dict(snow=s["snow"] + q["snowfall"] - q["melt"], soil=soil), q

    return step


def rates_with(above):
    """The rates with this function for H."""
    fluxes = fluxes_with(above)

    def rates(f, k, p, s):
        """mm/d; see the equations above."""
        q = fluxes(f, p, s)
        soil = q["rain"] + q["melt"] - q["aet"] - q["baseflow"] - q["spill"]
        return dict(snow=q["snowfall"] - q["melt"], soil=soil), q

    return rates


exphydro = ModelSpec(
    name="exphydro",
    title="EXP-HYDRO, smooth",
    source=HOEGE,
    forcings=(PRCP, TMEAN, PET),
    parameters=(
        Parameter("f", "mm-1", "decline of the baseflow with the deficit", 0.0, 0.1, HOEGE),
        Parameter("smax", "mm", "capacity of the soil", 100.0, 1500.0, HOEGE, allowed=(1.0, 1e4)),
        Parameter("qmax", "mm d-1", "baseflow of a full soil", 10.0, 50.0, HOEGE, allowed=(0.0, 1e3)),
        Parameter("df", "mm degC-1 d-1", "degree-day factor of melt", 0.0, 5.0, HOEGE, allowed=(0.0, 100.0)),
        Parameter("tmax", "degC", "temperature above which snow melts", 0.0, 3.0, HOEGE, allowed=(-20.0, 20.0)),
        Parameter("tmin", "degC", "temperature below which snow falls", -3.0, 0.0, HOEGE, allowed=(-20.0, 20.0)),
    ),
    states=(
        State("snow", "mm", "snowpack", -1e30, 1e30, initial=0.0, wet=100.0),
        State("soil", "mm", "water in the soil", -1e30, 1e30, initial=0.0, wet=lambda p: p["smax"]),
    ),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("baseflow", "mm d-1", "baseflow"),
        Variable("spill", "mm d-1", "water above the soil's capacity"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("rain", "mm d-1", "precipitation that is no snow"),
        Variable("snowfall", "mm d-1", "snow"),
        Variable("melt", "mm d-1", "melt"),
    ),
    reference_step=step_with(smooth),
    outflow="streamflow",
    balance=Balance(gains=("prcp",), losses=("streamflow", "aet")),
)
exphydro_hard = replace(
    exphydro,
    name="exphydro_hard",
    title="EXP-HYDRO, hard thresholds",
    source="Patil and Stieglitz 2014, doi 10.2166/nh.2013.204",
    reference_step=step_with(hard),
)
exphydro_rates, exphydro_hard_rates = (
    replace(model, reference_step=rates_with(above), steps=None, rates=True)
    for model, above in ((exphydro, smooth), (exphydro_hard, hard))
)
