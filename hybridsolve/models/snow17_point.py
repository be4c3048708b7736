"""Snow-17 at a point (Anderson 1976, 2006), as sacsmaR and many hybrids have it: snow to stand before a runoff model.

One step of h hours, k = h/6; we ice, lq liquid water in it, neg heat deficit in mm, ti temperature index of the pack:

    (1) T <= PXTEMP: fall = SCF P, rain = 0; else rain = P, fall = 0.  we <- we + fall
    (2) Mf = k (MFMIN + (MFMAX - MFMIN)(1 + sin(2 pi (D - 80)/365))/2), D the day of the year
        neg <- [neg - min(T, 0) fall/160 + NMF k Mf/MFMAX (ti - min(T, 0))]+
        ti <- min(T, 0) where fall > 1.5 h, else min(ti + (1 - (1 - TIPM)^k)(T - ti), 0)
    (3) rain > 0.25 h: melt = [6.12e-10 h ((T + 273)^4 - 273^4) + 0.0125 rain [T]+
                               + 8.5 UADJ k (0.9 es - 6.11 + 0.00057 Pa T)]+
        else melt = [Mf (T - MBASE) + 0.0125 rain [T]+]+ where T > MBASE, else 0
        es = 2.7489e8 exp(-4278.63/(T + 242.792));  Pa = 33.86 (29.9 - 0.335 H + 0.00022 H^2.4), H elevation/100 m
    (4) melt >= we: all of we, lq and the rain leave.  Else neg <- min(neg, 0.33 we), we <- we - melt, w = melt + rain:
        w + lq > neg + PLWHC (we + neg): the pack is ripe, the surplus leaves; lq = PLWHC (we + neg), we <- we + neg
        else w + lq >= neg: lq <- lq + w - neg, we <- we + neg;  in both neg <- 0
        else all of w and lq freezes: we <- we + w + lq, lq <- 0, neg <- neg - w - lq
    (5) neg = 0: ti <- 0.  Ground melt: DAYGM h/24 of we, and as large a share of lq; all where we is no more

In (4) sacsmaR and a port of it that is much copied freeze lq and keep it too: their packs make water, 3 to 11 % in
four years. Here lq is 0 then; `as_published` restores theirs, and its flux `made` shows it. The flux `catch` is what
SCF adds to the snow that was measured.

This is not the model of the National Weather Service, whose pack covers an area by a depletion curve, lags and
attenuates its outflow, melts at the ground before the heat balance, and exchanges 1/k of the heat of (2). The switches
(T <= PXTEMP, fall > 1.5 h, rain > 0.25 h, neg = 0) give no gradient to what they are made of.

Checked against sacsmaR: within 1e-9 mm as published, and apart from it by the water that its pack makes.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, Forcing, ModelSpec, Parameter, State, Variable
from .forcings import PRCP, TMEAN
from .join import ELEVATION
from .primitives import exp, minimum, power, relu, select, sin

PRACTICE = "as the National Weather Service calibrates it"
RIPE = (
    1 - 1e-12
)  # of what a pack holds: it stays full where melt at the ground alone changes it, whatever rounding says
YEAR = 6.283185307179586 / 365


def potential_melt(f, k, p, rain, factor, hours):
    """Equation (3)."""
    t = f["tmean"]
    by_rain = 0.0125 * rain * relu(t)
    vapour = 2.7489e8 * exp(-4278.63 / (t + 242.792))
    height = k["elev_mean"] / 100
    pressure = 33.86 * (29.9 - 0.335 * height + 0.00022 * power(height, 2.4))
    radiated = 6.12e-10 * hours * ((t + 273) ** 4 - 273.0**4)
    exchanged = 8.5 * p["uadj"] * (hours / 6) * (0.9 * vapour - 6.11 + 0.00057 * pressure * t)
    warm = select(t <= p["mbase"], 0.0, relu(factor * (t - p["mbase"]) + by_rain))
    return select(rain <= 0.25 * hours, warm, relu(radiated + by_rain + exchanged))


def step_with(published=False):
    """The step, mended or as published."""

    def step(f, k, p, s):
        """One step; see the equations above."""
        t, hours = f["tmean"], 24 * k["dt"]
        snowing = t <= p["pxtemp"]
        gauged = select(snowing, f["prcp"], 0.0)
        fall, rain = p["scf"] * gauged, f["prcp"] - gauged
        pack = s["snow"] + fall
        cold = minimum(t, 0.0)
        season = 0.5 + 0.5 * sin(YEAR * (f["day_of_year"] - 80))
        factor = (hours / 6) * (p["mfmin"] + (p["mfmax"] - p["mfmin"]) * season)
        exchange = p["nmf"] * (hours / 6) * (factor / p["mfmax"]) * (s["index"] - cold)
        deficit = relu(s["deficit"] - cold * fall / 160 + exchange)
        following = s["index"] + (1 - power(1 - p["tipm"], hours / 6)) * (t - s["index"])
        index = select(fall <= 1.5 * hours, minimum(following, 0.0), cold)

        melt = potential_melt(f, k, p, rain, factor, hours)
        gone = pack <= melt
        deficit = minimum(deficit, 0.33 * pack)
        left = pack - melt
        water = melt + rain + s["held"]
        capacity = p["plwhc"] * (left + deficit)
        ripe = water >= (deficit + capacity) * RIPE
        wet = ripe | (water >= deficit)
        leaving = select(gone, pack + s["held"] + rain, select(ripe, water - deficit - capacity, 0.0))
        held = select(wet, water - deficit, s["held"] if published else 0.0 * water)
        held = select(ripe, capacity, held)
        held = select(gone, 0.0, held)
        ice = select(gone, 0.0, left + select(wet, deficit, water))
        deficit = select(gone | wet, 0.0, deficit - water)
        made = select(gone | wet, 0.0, s["held"])

        loss = p["daygm"] * (hours / 24)
        deep = ~(ice <= loss)
        share = select(deep, loss / select(deep, ice, 1.0), 1.0)
        ground = select(deep, loss, ice) + share * held
        state = dict(
            snow=select(deep, ice - loss, 0.0),
            held=select(deep, held - share * held, 0.0),
            deficit=deficit,
            index=select(deficit <= 0.0, 0.0, index),
        )
        fluxes = dict(liquid=leaving + ground, rain=rain, snowfall=fall, melt=minimum(melt, pack), ground=ground)
        fluxes |= dict(swe=state["snow"] + state["held"], catch=fall - gauged)
        return state, fluxes | dict(made=made) if published else fluxes

    return step


snow17_point = ModelSpec(
    name="snow17_point",
    title="Snow-17 at a point",
    source="Anderson 2006, Snow accumulation and ablation model: SNOW-17, National Weather Service",
    forcings=(PRCP, TMEAN, Forcing("day_of_year", "1", "day of the year, 1 on the first of January", 1.0, 366.0)),
    inputs=(ELEVATION,),
    parameters=(
        Parameter("scf", "1", "snow that falls over snow that is measured", 0.7, 1.4, PRACTICE, allowed=(0.0, 5.0)),
        Parameter("mfmax", "mm degC-1 (6h)-1", "melt factor of 21 June", 0.5, 2.0, PRACTICE, allowed=(0.01, 10.0)),
        Parameter("mfmin", "mm degC-1 (6h)-1", "melt factor of 21 December", 0.05, 0.6, PRACTICE, allowed=(0.0, 10.0)),
        Parameter("uadj", "mm mbar-1 (6h)-1", "wind function of rain on snow", 0.01, 0.2, PRACTICE, allowed=(0.0, 1.0)),
        Parameter("nmf", "mm degC-1 (6h)-1", "largest factor of the heat exchange", 0.05, 0.5, PRACTICE,
                  allowed=(0.0, 5.0)),
        Parameter("tipm", "1", "weight of the last 6 h in the index of the pack's temperature", 0.01, 1.0, PRACTICE,
                  allowed=(0.0, 1.0)),
        Parameter("mbase", "degC", "temperature above which snow melts", 0.0, 1.0, PRACTICE, allowed=(-10.0, 10.0)),
        Parameter("pxtemp", "degC", "temperature up to which snow falls", -2.0, 2.0, PRACTICE, allowed=(-10.0, 10.0)),
        Parameter("plwhc", "1", "liquid water that the pack holds, as a share of it", 0.01, 0.3, PRACTICE,
                  allowed=(0.0, 1.0)),
        Parameter("daygm", "mm d-1", "melt at the ground", 0.0, 0.3, PRACTICE, allowed=(0.0, 10.0)),
    ),
    states=(
        State("snow", "mm", "ice of the snowpack", 0.0, 1e30, initial=0.0, wet=100.0),
        State("held", "mm", "liquid water of the snowpack", 0.0, 1e30, initial=0.0, wet=2.0),
        State("deficit", "mm water", "heat deficit of the snowpack, as water that it would freeze", 0.0, 1e30),
        State("index", "degC", "index of the snowpack's temperature", -150.0, 0.0),
    ),
    fluxes=(
        Variable("liquid", "mm d-1", "rain and what leaves the snowpack, the precipitation of what stands behind"),
        Variable("rain", "mm d-1", "precipitation that is no snow"),
        Variable("snowfall", "mm d-1", "snow, with what the gauge did not catch"),
        Variable("melt", "mm d-1", "melt at the surface"),
        Variable("ground", "mm d-1", "melt at the ground, with the liquid water that it sets free"),
        Variable("swe", "mm", "snow water equivalent"),
        Variable("catch", "mm d-1", "snow that the gauge did not catch, below 0 where it caught too much"),
    ),
    reference_step=step_with(),
    outflow="liquid",
    balance=Balance(gains=("prcp", "catch"), losses=("liquid",)),
    steps=(3600, 10800, 21600, 86400),
)  # fmt: skip


def as_published(model: ModelSpec = snow17_point) -> ModelSpec:
    """The model with the line of sacsmaR that makes water; it is not registered."""
    return replace(
        model,
        name=f"{model.name}_published",
        fluxes=model.fluxes + (Variable("made", "mm d-1", "liquid water that freezes and stays liquid"),),
        reference_step=step_with(published=True),
        balance=Balance(gains=("prcp", "catch", "made"), losses=("liquid",)),
    )
