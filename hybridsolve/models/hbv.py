"""HBV 1.0, 1.1p and 2.0: the tables of variables, and one step in plain torch, which judges the kernels.

The equations of the first two, their order and their sources stand in csrc/models/hbv.h. HBV 2.0 (Song et al. 2025) is
1.1p with two things of a basin, its area A (km2) and its elevation:

    tt is 4 degC from 2000 m on: the parameter has no gradient there
    LF = rt clip((A - ac) / 1000, -1, 1) for A < 2500 km2, else rt exp(-clip((A - 2500) / 50, 0, 10))
    SLZ <- max(SLZ + LF, eps) after the percolation: the exchange with the region, which makes and takes water

The flux `exchange` is what SLZ really gained of it; `floors` is what the floors of the soil and of the lower zone make
(eps in csrc/models/hbv.h), so that the balance of 2.0 closes. hydrodl2, of the same authors, reports neither.

Checked against hydrodl2 1.4.0 within 1e-9: fluxes routed and not, states, loss and gradients.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, Forcing, Hydrograph, ModelSpec, Parameter, Signature, State, Variable
from .forcings import PRCP, TMEAN, fallen
from .primitives import clip, exp, maximum, minimum, power, relu, select

HIGH, COLD = 2000.0, 4.0  # m, from which on HBV 2.0 has its threshold of snowfall at this many degC
LARGE = 2500.0  # km2, from which on its exchange with the region is that of a large basin
EPS = 1e-5  # mm, the floor of a store that evaporation or capillary rise could empty

FENG = "Feng et al. 2022, doi 10.1029/2022WR032404"

SONG = "Song et al. 2025, doi 10.1029/2024WR038928"
FORCINGS = (
    PRCP,
    TMEAN,
    Forcing("pet", "mm d-1", "potential evapotranspiration", -1e3, 1e3),
)
PARAMETERS = (
    Parameter("beta", "1", "shape of the soil's response: share of the water that recharges", 1.0, 6.0, FENG),
    Parameter("fc", "mm", "maximum soil moisture storage", 50.0, 1000.0, FENG),
    Parameter("k0", "d-1", "recession of the upper zone above uzl", 0.05, 0.9, FENG, step="fraction"),
    Parameter("k1", "d-1", "recession of the upper zone", 0.01, 0.5, FENG, step="fraction"),
    Parameter("k2", "d-1", "recession of the lower zone", 0.001, 0.2, FENG, step="fraction"),
    Parameter("lp", "1", "share of fc above which evaporation is potential", 0.2, 1.0, FENG),
    Parameter("perc", "mm d-1", "maximum percolation to the lower zone", 0.0, 10.0, FENG, step="rate"),
    Parameter("uzl", "mm", "upper zone storage above which q0 runs", 0.0, 100.0, FENG),
    Parameter("tt", "degC", "threshold temperature of snowfall and melt", -2.5, 2.5, FENG),
    Parameter("cfmax", "mm degC-1 d-1", "degree-day factor of melt", 0.5, 10.0, FENG, step="rate"),
    Parameter("cfr", "1", "refreezing, as a share of cfmax", 0.0, 0.1, FENG),
    Parameter("cwh", "1", "liquid water that the snowpack holds, as a share of it", 0.0, 0.2, FENG),
)
BETAET = Parameter("betaet", "1", "shape of evaporation against soil moisture; 1 where absent", 0.3, 5.0, FENG)
C = Parameter(
    "c", "d-1", "capillary rise from the lower zone", 0.0, 1.0, "Song et al. 2024, HESS 28:3051", step="fraction"
)
ROUTING = Hydrograph(
    "gamma",
    (
        Parameter("route_a", "1", "shape of the gamma unit hydrograph, before max(a, 0) + 0.1", 0.0, 2.9, FENG),
        Parameter("route_b", "d", "scale of the gamma unit hydrograph, before max(b, 0) + 0.5", 0.0, 6.5, FENG),
    ),
)
EMPTY = 0.001  # mm, as published (Feng et al. 2022)
STATES = (
    State("snowpack", "mm", "frozen water of the snowpack", 0.0, 1e30, initial=EMPTY),
    State("meltwater", "mm", "liquid water held by the snowpack", 0.0, 1e30, initial=EMPTY),
    State("sm", "mm", "soil moisture", 0.0, 1e30, initial=EMPTY, wet=lambda p: p["fc"]),
    State("suz", "mm", "upper zone storage", 0.0, 1e30, initial=EMPTY, wet=lambda p: p["uzl"]),
    State("slz", "mm", "lower zone storage", 0.0, 1e30, initial=EMPTY, wet=100.0),
)
CAPILLARY = Variable("capillary", "mm d-1", "capillary rise from the lower zone into the soil")
FLUXES = (
    Variable("streamflow", "mm d-1", "q0 + q1 + q2, before routing"),
    Variable("q0", "mm d-1", "fast flow, upper zone above uzl"),
    Variable("q1", "mm d-1", "interflow, upper zone"),
    Variable("q2", "mm d-1", "baseflow, lower zone"),
    Variable("aet", "mm d-1", "actual evapotranspiration"),
    Variable("swe", "mm", "snow water equivalent: the frozen part at the end of the step"),
    Variable("recharge", "mm d-1", "water that passes the soil, by its wetness"),
    Variable("excess", "mm d-1", "water above field capacity"),
    Variable("infiltration", "mm d-1", "liquid water that leaves the snowpack for the soil"),
    Variable("percolation", "mm d-1", "flow from the upper to the lower zone"),
    CAPILLARY,
    Variable("evapfactor", "1", "actual over potential evapotranspiration that the soil allows"),
    Variable("rain", "mm d-1", "precipitation at or above tt"),
    Variable("snowfall", "mm d-1", "precipitation below tt"),
    Variable("melt", "mm d-1", "snowpack that melts"),
    Variable("refreezing", "mm d-1", "meltwater that freezes again"),
)

SIGNATURES = (
    Signature("aet", "mm d-1", "mean actual evapotranspiration", of="aet"),
    Signature("swe_max", "mm", "largest snow water equivalent", of="swe", how="max"),
    Signature("bfi", "1", "baseflow index: share of q2 in streamflow", "q2", "streamflow", observed="baseflow_index"),
    Signature(
        "runoff",
        "1",
        "runoff ratio: simulated streamflow over precipitation",
        "streamflow",
        "prcp",
        observed="runoff_ratio",
    ),
)


def snow(f, p, s, tt):
    """The snowpack after a step, the liquid water that leaves it, and the fluxes; `tt` divides snow from rain."""
    rain = select(f["tmean"] >= tt, f["prcp"], 0.0)
    snowfall = fallen(p, f["prcp"] - rain)
    snowpack = s["snowpack"] + snowfall
    warmth = f["tmean"] - tt
    potential = p["cfmax"] * warmth
    melt = minimum(relu(potential), snowpack)
    meltwater, snowpack = s["meltwater"] + melt, snowpack - melt
    refreezing = minimum(relu(-p["cfr"] * potential), meltwater)
    snowpack, meltwater = snowpack + refreezing, meltwater - refreezing
    infiltration = relu(meltwater - p["cwh"] * snowpack)
    fluxes = dict(swe=snowpack, rain=rain, snowfall=snowfall, melt=melt, refreezing=refreezing)
    return dict(snowpack=snowpack, meltwater=meltwater - infiltration), infiltration, fluxes


def soil_wetness(p, sm):
    """The share of the water that recharges."""
    return clip(power(sm / p["fc"], p["beta"]), 0.0, 1.0)


def evaporation_factor(p, sm):
    """The share of the potential evapotranspiration that the soil allows."""
    relative = sm / (p["lp"] * p["fc"])
    return clip(power(relative, p["betaet"]), 0.0, 1.0) if "betaet" in p else minimum(relative, 1.0)


def upper_response(p, suz):
    """What remains in the upper zone, percolation, and flow above the threshold and below it."""
    percolation = minimum(suz, p["perc"])
    suz = suz - percolation
    q0 = p["k0"] * relu(suz - p["uzl"])
    suz = suz - q0
    q1 = p["k1"] * suz
    return suz - q1, percolation, q0, q1


def reference_step(f, k, p, s, *, wetness=soil_wetness, evapfactor=evaporation_factor, response=upper_response):
    """One day of HBV: with ``rt`` among the parameters that of 2.0, with ``c`` of 1.1p, else of 1.0; without ``betaet``
    that is 1.

    Parameters
    ----------
    f, k, p, s : mapping of str to Tensor
        Forcing, inputs (of 2.0), parameters and state of the step, broadcastable to ``[B, C]``; units as in the tables.
    wetness, evapfactor, response : callable
        The processes that a model of one's own may have otherwise, as the functions above.

    Returns
    -------
    state, fluxes : dict of str to Tensor
    """
    pet = f["pet"]
    tt = select(k["elev_mean"] >= HIGH, COLD, p["tt"]) if "rt" in p else p["tt"]
    pack, infiltration, fluxes = snow(f, p, s, tt)

    water = fluxes["rain"] + infiltration
    recharge = water * wetness(p, s["sm"])
    sm = s["sm"] + (water - recharge)
    excess = relu(sm - p["fc"])
    sm = select(sm >= p["fc"], p["fc"], sm)  # sm - excess, without its rounding
    allowed = evapfactor(p, sm)
    aet = minimum(sm, pet * allowed)
    left = sm - aet
    soil = maximum(left, EPS)

    slz = s["slz"]
    if "c" in p:
        fill = soil / p["fc"]
        capillary = minimum(slz, p["c"] * slz * (1 - minimum(fill, 1.0)))
        # aet - capillary as one number, since the rounding of sm, once more a day, is most of the error of dry basins
        soil = select(left >= EPS, sm - (aet - capillary), soil + capillary)
        drawn = slz - capillary
        slz = maximum(drawn, EPS)
        fluxes["capillary"] = capillary
        if "rt" in p:
            fluxes["floors"] = (maximum(left, EPS) - left) + (slz - drawn)

    suz = s["suz"] + recharge + excess
    suz, percolation, q0, q1 = response(p, suz)
    slz = slz + percolation
    if "rt" in p:
        small = clip((k["area_km2"] - p["ac"]) / 1000, -1.0, 1.0)
        large = exp(-clip((k["area_km2"] - LARGE) / 50, 0.0, 10.0))
        gaining = maximum(slz + p["rt"] * select(k["area_km2"] >= LARGE, large, small), EPS)
        fluxes["exchange"] = gaining - slz
        slz = gaining
    q2 = p["k2"] * slz
    slz = slz - q2

    state = dict(pack, sm=soil, suz=suz, slz=slz)
    fluxes.update(
        streamflow=q0 + q1 + q2,
        q0=q0,
        q1=q1,
        q2=q2,
        aet=aet,
        recharge=recharge,
        excess=excess,
        infiltration=infiltration,
        percolation=percolation,
        evapfactor=allowed,
    )
    return state, fluxes


hbv10 = ModelSpec(
    name="hbv10",
    title="HBV 1.0",
    source=FENG,
    forcings=FORCINGS,
    parameters=PARAMETERS,
    optional_parameters=(BETAET,),
    outflow="streamflow",
    routing=ROUTING,
    balance=Balance(gains=("prcp",), losses=("streamflow", "aet")),
    signatures=SIGNATURES,
    steps=None,
    triton="hybridsolve.solve.triton.hbv",
    states=STATES,
    fluxes=tuple(v for v in FLUXES if v is not CAPILLARY),
    reference_step=reference_step,
)
hbv11p = replace(
    hbv10,
    name="hbv11p",
    title="HBV 1.1p: with capillary rise",
    source="Song et al. 2024, doi 10.5194/hess-28-3051-2024",
    parameters=PARAMETERS + (BETAET, C),
    optional_parameters=(),
    fluxes=FLUXES,
)
hbv20 = replace(
    hbv11p,
    name="hbv20",
    title="HBV 2.0: with an exchange with the region",
    source=SONG,
    inputs=(
        Variable("area_km2", "km2", "area of the basin with all that is upstream", 0.0, 1e8),
        Variable("elev_mean", "m", "mean elevation of the basin", -500.0, 9000.0),
    ),
    parameters=PARAMETERS
    + (
        BETAET,
        C,
        Parameter("rt", "mm d-1", "largest exchange with the region", 0.0, 20.0, SONG, step="rate"),
        Parameter("ac", "km2", "area at which a small basin gains nothing from the region", 0.0, 2500.0, SONG),
    ),
    fluxes=FLUXES
    + (
        Variable("exchange", "mm d-1", "water that the lower zone gains from the region, of either sign"),
        Variable("floors", "mm d-1", "water that the floors of empty stores make"),
    ),
    balance=Balance(gains=("prcp", "exchange", "floors"), losses=("streamflow", "aet")),
    triton=None,
)
