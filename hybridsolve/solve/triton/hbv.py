"""HBV 1.0 and 1.1p in Triton: one step, and its adjoint beside it.

Equations, sources and forms are those of csrc/models/hbv.h, line by line; the numbers are its. What a step is given is
the tuple that drive.py says; states and fluxes are tuples in the order of the names below.
"""

import triton
import triton.language as tl

from .math import above_tiny, adj_minimum, adj_pow01, adj_relu, at_least, at_most, minimum, pow01, quotient, relu

FLUXES = (
    "streamflow q0 q1 q2 aet swe recharge excess infiltration percolation evapfactor rain snowfall melt refreezing "
    "capillary"
).split()

OPTIONS = ("betaet", "c")  # parameters that not every model here has: a step is told which are there

EPS = tl.constexpr(1e-5)  # mm, the floor of a store


@triton.jit
def evaluate(given, s, OPTIONS: tl.constexpr):
    """Everything that one step computes; step() and step_adj() both start here, so the physics stands once."""
    betaet: tl.constexpr = OPTIONS[0]
    capillary_rise: tl.constexpr = OPTIONS[1]
    f, _, p, _, _, _ = given
    prcp, tmean, pet = f
    beta, fc, k0, k1, k2, lp, perc, uzl, tt, cfmax, cfr, cwh = p[:12]
    snowpack_0, meltwater_0, sm_0, suz_0, slz_0 = s

    rain = tl.where(tmean >= tt, prcp, 0.0)  # 1, 2
    snowfall = prcp - rain
    snowpack_1 = snowpack_0 + snowfall
    melt_potential = cfmax * (tmean - tt)  # 3
    melt = minimum(relu(melt_potential), snowpack_1)
    meltwater_1 = meltwater_0 + melt
    freeze_potential = -cfr * melt_potential  # 4
    refreezing = minimum(relu(freeze_potential), meltwater_1)
    snowpack = (snowpack_1 - melt) + refreezing
    meltwater_2 = meltwater_1 - refreezing
    free = tl.fma(-cwh, snowpack, meltwater_2)  # 5
    infiltration = relu(free)
    meltwater = meltwater_2 - infiltration

    per_lp_fc = 1.0 / (lp * fc)  # 6
    per_fc = lp * per_lp_fc
    water = rain + infiltration
    ln_wetness, wetness = pow01(quotient(sm_0, fc, per_fc), beta)
    recharge = water * wetness
    sm_1 = sm_0 + (water - recharge)
    excess = relu(sm_1 - fc)  # 7
    sm_2 = tl.where(sm_1 >= fc, fc, sm_1)

    relative = quotient(sm_2, lp * fc, per_lp_fc)  # 8
    if betaet:
        ln_dryness, evapfactor = pow01(relative, p[12])
    else:
        ln_dryness, evapfactor = relative, at_most(relative, 1.0)
    aet = minimum(sm_2, pet * evapfactor)
    sm_3 = at_least(sm_2 - aet, EPS)
    if capillary_rise:  # 8b
        fill = quotient(sm_3, fc, per_fc)
        potential = p[13] * slz_0 * (1.0 - at_most(fill, 1.0))
        capillary = minimum(slz_0, potential)
        sm = tl.where(sm_2 - aet >= EPS, sm_2 - (aet - capillary), sm_3 + capillary)
        slz_1 = at_least(slz_0 - capillary, EPS)
    else:
        fill, potential, capillary, sm, slz_1 = sm_3, sm_3, sm_3, sm_3, slz_0

    suz_1 = suz_0 + recharge + excess  # 9
    percolation = minimum(suz_1, perc)
    suz_2 = suz_1 - percolation
    above_uzl = suz_2 - uzl  # 10
    q0 = k0 * relu(above_uzl)
    suz_3 = suz_2 - q0
    q1 = k1 * suz_3  # 11
    suz = suz_3 - q1
    slz_2 = slz_1 + percolation  # 12
    q2 = k2 * slz_2
    slz = slz_2 - q2
    state = (snowpack, meltwater, sm, suz, slz)
    fluxes = (q0 + q1 + q2, q0, q1, q2, aet, snowpack, recharge, excess, infiltration, percolation, evapfactor)
    fluxes = fluxes + (rain, snowfall, melt, refreezing, capillary)
    snow = (snowpack_1, melt_potential, meltwater_1, freeze_potential, free)
    soil = (per_lp_fc, per_fc, water, ln_wetness, wetness, sm_1, sm_2, relative, ln_dryness, fill, potential)
    zones = (suz_1, above_uzl, suz_3, slz_2)
    return state, fluxes, snow, soil, zones


@triton.jit
def step(given, s, OPTIONS: tl.constexpr):
    """The state after the step and its fluxes, in the order of FLUXES."""
    state, fluxes, _, _, _ = evaluate(given, s, OPTIONS)
    return state, fluxes


@triton.jit
def step_adj(given, s, d_q, d_s, OPTIONS: tl.constexpr):
    """From the cotangents of the fluxes and of the state after the step, those of forcing, parameters and state."""
    betaet: tl.constexpr = OPTIONS[0]
    capillary_rise: tl.constexpr = OPTIONS[1]
    _, fluxes, snow, soil, zones = evaluate(given, s, OPTIONS)
    f, _, p, _, _, _ = given
    prcp, tmean, pet = f
    beta, fc, k0, k1, k2, lp, perc, uzl, tt, cfmax, cfr, cwh = p[:12]
    snowpack_1, melt_potential, meltwater_1, freeze_potential, free = snow
    per_lp_fc, per_fc, water, ln_wetness, wetness, sm_1, sm_2, relative, ln_dryness, fill, potential = soil
    suz_1, above_uzl, suz_3, slz_2 = zones
    aet, snowpack, evapfactor, capillary = fluxes[4], fluxes[5], fluxes[10], fluxes[15]
    sm_0, slz_0 = s[2], s[4]
    zero = tl.zeros_like(fc)
    d_streamflow, d_q0_out, d_q1_out, d_q2_out, d_aet_out, d_swe, d_recharge, d_excess = d_q[:8]
    d_infiltration, d_percolation, d_evapfactor, d_rain, d_snowfall, d_melt, d_refreezing, d_capillary = d_q[8:]
    d_snowpack, d_meltwater_in, d_sm_in, d_suz_in, d_slz_in = d_s

    d_q2 = d_q2_out + d_streamflow - d_slz_in  # 12
    d_k2 = d_q2 * slz_2
    d_slz_2 = tl.fma(k2, d_q2, d_slz_in)
    d_slz = d_slz_2
    d_percolation += d_slz_2
    d_q1 = d_q1_out + d_streamflow - d_suz_in  # 11
    d_k1 = d_q1 * suz_3
    d_suz_3 = tl.fma(k1, d_q1, d_suz_in)
    d_q0 = d_q0_out + d_streamflow - d_suz_3  # 10
    d_k0 = d_q0 * relu(above_uzl)
    d_above_uzl = adj_relu(above_uzl, d_q0 * k0)
    d_suz_2 = d_suz_3 + d_above_uzl
    d_percolation -= d_suz_2  # 9
    d_suz, d_perc = adj_minimum(suz_1, perc, d_percolation, d_suz_2, zero)
    d_recharge += d_suz
    d_excess += d_suz

    d_sm_3 = d_sm_in  # 8b
    d_ln_fc = zero  # the cotangent of -ln FC, summed over the lines that hold SM/FC or SM/(LP FC)
    d_c = zero
    if capillary_rise:
        d_slz = tl.where(slz_0 - capillary >= EPS, d_slz_2, 0.0)
        d_capillary += d_sm_in - d_slz
        d_slz, d_potential = adj_minimum(slz_0, potential, d_capillary, d_slz, zero)
        deficit = 1.0 - at_most(fill, 1.0)
        d_c = d_potential * slz_0 * deficit
        d_slz = tl.fma(d_potential * p[13], deficit, d_slz)
        d_fill = tl.where(fill <= 1.0, -d_potential * p[13] * slz_0, 0.0)
        d_sm_3 = tl.fma(d_fill, per_fc, d_sm_3)
        d_ln_fc = d_fill * fill

    d_sm_2 = tl.where(sm_2 - aet >= EPS, d_sm_3, 0.0)  # 8
    d_aet = d_aet_out - d_sm_2
    d_sm_2, d_demand = adj_minimum(sm_2, pet * evapfactor, d_aet, d_sm_2, zero)
    d_pet = d_demand * evapfactor
    d_evapfactor = tl.fma(d_demand, pet, d_evapfactor)
    d_betaet = zero
    if betaet:
        d_ln_relative, d_betaet = adj_pow01(ln_dryness, evapfactor, p[12], d_evapfactor)
        d_sm_2 += d_ln_relative / above_tiny(relative) * per_lp_fc
    else:
        d_relative = tl.where(relative <= 1.0, d_evapfactor, 0.0)
        d_ln_relative = d_relative * relative
        d_sm_2 = tl.fma(d_relative, per_lp_fc, d_sm_2)
    d_ln_fc += d_ln_relative
    d_lp = -d_ln_relative * (fc * per_lp_fc)

    d_excess -= d_sm_2  # 7
    d_above_fc = adj_relu(sm_1 - fc, d_excess)
    d_sm_1 = d_sm_2 + d_above_fc
    d_recharge -= d_sm_1  # 6
    d_water = tl.fma(d_recharge, wetness, d_sm_1)
    d_ln_wetness, d_beta = adj_pow01(ln_wetness, wetness, beta, d_recharge * water)
    d_ln_fc += d_ln_wetness
    d_fc = -d_above_fc - d_ln_fc * per_fc
    d_sm = d_sm_1 + d_ln_wetness / above_tiny(sm_0 * per_fc) * per_fc

    d_infiltration += d_water - d_meltwater_in  # 5
    d_free = adj_relu(free, d_infiltration)
    d_cwh = -d_free * snowpack
    d_meltwater_2 = d_meltwater_in + d_free
    d_snowpack += d_swe - d_free * cwh
    d_refreezing += d_snowpack - d_meltwater_2  # 4
    d_freeze, d_meltwater = adj_minimum(relu(freeze_potential), meltwater_1, d_refreezing, zero, d_meltwater_2)
    d_freeze = adj_relu(freeze_potential, d_freeze)
    d_cfr = -d_freeze * melt_potential
    d_melt += d_meltwater - d_snowpack  # 3
    d_thaw, d_snowpack = adj_minimum(relu(melt_potential), snowpack_1, d_melt, zero, d_snowpack)
    d_thaw = tl.fma(-d_freeze, cfr, adj_relu(melt_potential, d_thaw))
    d_cfmax = d_thaw * (tmean - tt)
    d_warmth = d_thaw * cfmax  # the threshold of line 1 has no gradient
    d_snowfall += d_snowpack  # 2, 1
    d_rain += d_water - d_snowfall
    d_prcp = d_snowfall + tl.where(tmean >= tt, d_rain, 0.0)

    d_f = (d_prcp, d_warmth, d_pet)
    d_p = (d_beta, d_fc, d_k0, d_k1, d_k2, d_lp, d_perc, -d_above_uzl, -d_warmth, d_cfmax, d_cfr, d_cwh)
    if capillary_rise:
        d_p = d_p + (d_betaet, d_c)
    elif betaet:
        d_p = d_p + (d_betaet,)
    return (d_snowpack, d_meltwater, d_sm, d_suz, d_slz), d_f, d_p
