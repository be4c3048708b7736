"""HBV as rates, all fluxes of one state: what Song et al. (2024) solve by backward Euler, with its adjoint.

States snowpack Sp, meltwater Sw, sm, suz, slz; P falls as rain R at or above tt, else as snow Sn (mm and days):

    M  = min([cfmax (T - tt)]+, Sp),  F = min([cfr cfmax (tt - T)]+, Sw),  I = [Sw - cwh Sp]+
    w  = clip((sm / fc)^beta, 0, 1),  Rg = (R + I) w,  X = [sm - fc]+
    ET = min(sm, PET clip((sm / (lp fc))^betaet, 0, 1))
    Cr = c slz (1 - min(sm / (ndc fc), 1)), ndc = 1 where it is absent
    PC = min(suz, perc),  Q0 = k0 [suz - uzl]+,  Q1 = k1 suz,  Q2 = k2 slz

    dSp = Sn + F - M;  dSw = M - F - I;  dsm = R + I - Rg - X - ET + Cr
    dsuz = Rg + X - PC - Q0 - Q1;  dslz = PC - Q2 - Cr

Fluxes are of stores that are at least 0, in the powers of a soil of at least 1e-8 mm. The limits by Sp, Sw, sm and suz
are rates as all else, of the content in a day; no floor makes water.

What differs between programs:

* The capillary rise of HBV 1.1p fills a soil up to fc; that of the adjoint program up to ndc fc, 0.05 <= ndc <= 0.95.
  Here the optional parameter `ndc` is the second form, and a run without it the first.
* hydrodl2 and its adjoint version stop at a residual of 1e-3 mm or after three or four iterations, for all cells at
  once, and take the Jacobian from before the last; here each cell ends at 1e-10 mm.
* k0, k1, k2 and c are rates here, of which a store empties exponentially in continuous time, and no shares of a day.

Checked by the residuals of its steps, each below 1e-10 mm, and by its balance. No numbers of these programs are
compared, since their roots are not converged.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, Parameter
from .forcings import fallen
from .hbv import FLUXES, SIGNATURES, SONG, evaporation_factor, hbv11p, soil_wetness
from .primitives import maximum, minimum, relu, select
from .schemes import scheme

DRY = 1e-8  # mm, of a soil in the powers
NDC = Parameter("ndc", "1", "share of fc up to which capillary rise fills; 1 where absent", 0.05, 0.95, SONG)


def rates(f, k, p, s):
    """mm/d; see the equations above."""
    snowpack, meltwater, suz, slz = (relu(s[name]) for name in ("snowpack", "meltwater", "suz", "slz"))
    wet = maximum(s["sm"], DRY)
    rain = select(f["tmean"] >= p["tt"], f["prcp"], 0.0)
    snowfall = fallen(p, f["prcp"] - rain)
    potential = p["cfmax"] * (f["tmean"] - p["tt"])
    melt = minimum(relu(potential), snowpack)
    refreezing = minimum(relu(-p["cfr"] * potential), meltwater)
    infiltration = relu(meltwater - p["cwh"] * snowpack)

    water = rain + infiltration
    recharge = water * soil_wetness(p, wet)
    excess = relu(s["sm"] - p["fc"])
    allowed = evaporation_factor(p, wet)
    aet = minimum(relu(s["sm"]), f["pet"] * allowed)
    full = p["ndc"] * p["fc"] if "ndc" in p else p["fc"]
    capillary = p["c"] * slz * (1 - minimum(relu(s["sm"]) / full, 1.0))
    percolation = minimum(suz, p["perc"])
    q0, q1, q2 = p["k0"] * relu(suz - p["uzl"]), p["k1"] * suz, p["k2"] * slz

    slopes = dict(
        snowpack=snowfall + refreezing - melt,
        meltwater=melt - refreezing - infiltration,
        sm=water - recharge - excess - aet + capillary,
        suz=recharge + excess - percolation - q0 - q1,
        slz=percolation - q2 - capillary,
    )
    fluxes = dict(
        streamflow=q0 + q1 + q2,
        q0=q0,
        q1=q1,
        q2=q2,
        aet=aet,
        swe=snowpack,
        recharge=recharge,
        excess=excess,
        infiltration=infiltration,
        percolation=percolation,
        capillary=capillary,
        evapfactor=allowed,
        rain=rain,
        snowfall=snowfall,
        melt=melt,
        refreezing=refreezing,
    )
    return slopes, fluxes


hbv_rates = replace(
    hbv11p,
    name="hbv_implicit",
    title="HBV, all fluxes of one state",
    source=SONG,
    parameters=tuple(replace(v, step="none") for v in hbv11p.parameters),
    optional_parameters=(NDC,),
    states=tuple(replace(v, lower=-1e30) for v in hbv11p.states),
    fluxes=tuple(
        replace(v, meaning="snow water equivalent, the frozen part") if v.name == "swe" else v for v in FLUXES
    ),
    reference_step=rates,
    balance=Balance(gains=("prcp",), losses=("streamflow", "aet")),
    signatures=SIGNATURES,
    triton=None,
    rates=True,
)
hbv_implicit = scheme(hbv_rates, "backward_euler")
