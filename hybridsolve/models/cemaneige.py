"""CemaNeige (Valéry et al. 2014) and its hysteresis (Riboust et al. 2019): snow to stand before a runoff model.

One step of a day; G the snowpack in mm, e its thermal state in degC, Sn the mean annual snowfall of the basin in mm:

    (1) Ps = frac P,  Pl = P - Ps, with frac = clip(1 - (T + 1)/4, 0, 1), or Hydrotel's in `cemaneige_hydrotel`: 1 where
        Tmax <= 0, 0 where Tmin >= 0, else 1 - Tmax/(Tmax - Tmin);  G <- G + Ps
    (2) e <- min(CTG e + (1 - CTG) T, 0);  M* = min(Kf T, G) where e = 0 and T > 0, else 0
    (3) r = min(G/Gt, 1) with Gt = 0.9 Sn;  M = (0.9 r + 0.1) M*;  G <- G - M
    (4) the runoff model gets Pl + M as its precipitation

With hysteresis Gt = c Sn, and the covered share r is a state, as the local maximum Gl of the snowpack:

    (3') where M* > 0: Gl <- G where G < Gl and r = 1;  r <- min(G/Gl, 1).  M = (0.9 r + 0.1) M*;  G <- G - M
         Ps > M: r <- min(r + (Ps - M)/Gacc, 1), and Gl <- Gt where that is 1.  Else r <- min(G/Gl, 1)

The switches (e = 0, r = 1, M* > 0) give no gradient to what they are made of.

What differs between programs: airGR computes Sn of all days that it is given, so that a year more changes the model.
Here it is an input: take 365.25 times the mean of the flux `snowfall` over the training period, and keep it with the
parameters. RRMPG takes the first day as the start. airGR takes Hydrotel's share where Tmin and Tmax are given and the
station is below 1,500 m. Layers of a basin: `hybridsolve.models.layered`.

Checked against airGR 1.7.6 within 1e-9 mm: both shares of snow, with hysteresis and without, in one to five layers.
"""

from __future__ import annotations

from dataclasses import replace

from ..rows import Input
from ..spec import Balance, Forcing, ModelSpec, Parameter, State, Variable
from .forcings import PRCP, TMEAN, fallen
from .primitives import clip, maximum, minimum, select

AIRGR = "within airGR's range"
VALERY = "Valéry et al. 2014, doi 10.1016/j.jhydrol.2014.04.058"
NONE = 1e-6  # mm, the least snowpack that covers a basin
TINY = 1e-30  # mm, what a peak that divides is no less than


def usace(f):
    """Share of the precipitation that is snow, by the mean temperature."""
    return clip(1 - (f["tmean"] + 1) / 4, 0.0, 1.0)


def hydrotel(f):
    """The same, by the lowest and the highest temperature."""
    mixed = (f["tmin"] <= 0.0) & ~(f["tmax"] <= 0.0)
    spread = select(mixed, f["tmax"] - f["tmin"], 1.0)
    return select(mixed, 1 - f["tmax"] / spread, select(f["tmax"] <= 0.0, 1 + 0 * spread, 0.0))


def step_with(share_of, hysteresis=False):
    """The step with one of the two shares, with hysteresis or without."""

    def step(f, k, p, s):
        """One day; see the equations above."""
        measured = share_of(f) * f["prcp"]
        rain, snowfall = f["prcp"] - measured, fallen(p, measured)
        pack = s["snow"] + snowfall
        thermal = minimum(p["ctg"] * s["thermal"] + (1 - p["ctg"]) * f["tmean"], 0.0)
        melting = (thermal >= 0.0) & ~(f["tmean"] <= 0.0)
        potential = select(melting, minimum(p["kf"] * f["tmean"], pack), 0.0)
        if not hysteresis:
            full = maximum(0.9 * k["annual_snowfall"], NONE)
            melt = (0.9 * minimum(pack / full, 1.0) + 0.1) * potential
            left = pack - melt
            cover, more = minimum(left / full, 1.0), {}
        else:
            full = maximum(p["ch"] * k["annual_snowfall"], NONE)
            melting = ~(potential <= 0.0)
            peak = select(melting & (s["cover"] >= 1.0), minimum(pack / full, s["peak"]), s["peak"])
            depth = maximum(peak * full, TINY)
            cover = select(melting, minimum(pack / depth, 1.0), s["cover"])
            melt = (0.9 * cover + 0.1) * potential
            left = pack - melt
            grown = minimum(cover + (snowfall - melt) / p["gacc"], 1.0)
            growing = ~(snowfall <= melt)
            cover = select(growing, grown, minimum(left / depth, 1.0))
            more = dict(cover=cover, peak=select(growing & (grown >= 1.0), 1.0, peak))
        fluxes = dict(liquid=rain + melt, rain=rain, snowfall=snowfall, melt=melt, swe=left, covered=cover)
        return dict(snow=left, thermal=thermal, **more), fluxes

    return step


cemaneige = ModelSpec(
    name="cemaneige",
    title="CemaNeige",
    source=VALERY,
    forcings=(PRCP, TMEAN),
    inputs=(Input("annual_snowfall", "mm", "mean annual snowfall, of training", 0.0, 1e5, annual="snowfall"),),
    parameters=(
        Parameter("ctg", "1", "weight of yesterday in the thermal state", 0.0, 1.0, AIRGR),
        Parameter("kf", "mm degC-1 d-1", "degree-day factor of melt", 0.5, 20.0, AIRGR, scale="log",
                  allowed=(0.0, 200.0)),
    ),
    states=(
        State("snow", "mm", "snowpack", 0.0, 1e30, initial=0.0, wet=100.0),
        State("thermal", "degC", "thermal state of the snowpack", -150.0, 0.0, initial=0.0, wet=-5.0),
    ),
    fluxes=(
        Variable("liquid", "mm d-1", "rain and melt, the precipitation of what stands behind"),
        Variable("rain", "mm d-1", "precipitation that is no snow"),
        Variable("snowfall", "mm d-1", "snow"),
        Variable("melt", "mm d-1", "melt"),
        Variable("swe", "mm", "snow water equivalent"),
        Variable("covered", "1", "share of the area under snow"),
    ),
    reference_step=step_with(usace),
    outflow="liquid",
    balance=Balance(gains=("prcp",), losses=("liquid",)),
)  # fmt: skip
cemaneige_hydrotel = replace(
    cemaneige,
    name="cemaneige_hydrotel",
    title="CemaNeige, snow by Hydrotel's rule",
    forcings=(
        PRCP,
        TMEAN,
        Forcing("tmin", "degC", "lowest air temperature", -150.0, 150.0),
        Forcing("tmax", "degC", "highest air temperature", -150.0, 150.0),
    ),
    reference_step=step_with(hydrotel),
)
cemaneige_hysteresis = replace(
    cemaneige,
    name="cemaneige_hysteresis",
    title="CemaNeige with hysteresis",
    source="Riboust et al. 2019, doi 10.2478/johh-2018-0004",
    parameters=cemaneige.parameters
    + (
        Parameter("gacc", "mm", "snowfall that covers all of a bare area", 1.0, 100.0, AIRGR, allowed=(0.01, 1e4)),
        Parameter("ch", "1", "snowpack that covers all, as a share of the annual snowfall", 0.01, 1.0, AIRGR,
                  allowed=(0.0, 10.0)),
    ),
    states=cemaneige.states
    + (
        State("cover", "1", "share of the area under snow", 0.0, 1.0, initial=0.0, wet=1.0),
        State("peak", "1", "local maximum of the snowpack, as a share of what covers all", 0.0, 1e30, initial=1.0,
              wet=1.0),
    ),
    reference_step=step_with(usace, hysteresis=True),
)  # fmt: skip
cemaneige_hysteresis_hydrotel = replace(
    cemaneige_hysteresis,
    name="cemaneige_hysteresis_hydrotel",
    title="CemaNeige with hysteresis, snow by Hydrotel's rule",
    forcings=cemaneige_hydrotel.forcings,
    reference_step=step_with(hydrotel, hysteresis=True),
)
