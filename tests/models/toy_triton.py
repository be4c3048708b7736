"""The toy model in Triton: equations and their numbers as in toy.py; csrc/core/model.h says what each function is."""

import triton
import triton.language as tl

from hybridsolve.solve.triton.math import (
    above_tiny,
    adj_minimum,
    adj_pow01,
    adj_relu,
    at_least,
    at_most,
    minimum,
    pow01,
    relu,
)

FLUXES = "evaporation overflow percolation discharge exchange pumped baseflow".split()
DERIVED = "drain dryness".split()
OPTIONS = ()
BOTTOM, TOP = tl.constexpr(-50.0), tl.constexpr(500.0)
SLOTS = tl.constexpr(4)


@triton.jit
def prepare(given, OPTIONS: tl.constexpr):
    _, k, p, _, _, _ = given
    return p[3] * at_most(k[0] * 10.0, 1.0), 1.0 / p[0]


@triton.jit
def prepare_adj(given, d_d, OPTIONS: tl.constexpr):
    _, k, p, d, _, _ = given
    zero = tl.zeros_like(p[0])
    return -d_d[1] * d[1] * d[1], zero, zero, d_d[0] * at_most(k[0] * 10.0, 1.0), zero, zero, zero


@triton.jit
def ordinates(given, OPTIONS: tl.constexpr):
    lag = given[2][5]
    w = ()
    for j in tl.static_range(SLOTS):
        w = w + (relu(1.0 - relu(j - lag) - relu(lag - j)),)
    return w


@triton.jit
def ordinates_adj(given, d_w, OPTIONS: tl.constexpr):
    lag = given[2][5]
    zero = tl.zeros_like(lag)
    d_lag = zero
    for j in tl.static_range(SLOTS):
        late, early = j - lag, lag - j
        d = adj_relu(1.0 - relu(late) - relu(early), d_w[j])
        d_lag += adj_relu(late, d) - adj_relu(early, d)
    return (zero, zero, zero, zero, zero, d_lag, zero), (zero, zero)


@triton.jit
def evaluate(given, s):
    f, _, p, d, w, dt = given
    rainfall, demand = f
    capacity, shape, leak, _, kx, _, pumping = p
    filled = s[0] * d[1]  # 1
    ln_wetness, power = pow01(at_most(filled, 1.0), shape)
    evaporation = minimum(s[0], demand * power)  # 2
    soil_1 = s[0] - evaporation + rainfall
    overflow = relu(soil_1 - capacity)  # 3
    soil_2 = minimum(capacity, soil_1)
    percolation = minimum(soil_2, leak)  # 4
    arriving = tl.fma(w[0], overflow, s[2])  # 5
    exchange = -(kx * s[1])  # 6
    level_1 = s[1] + exchange + percolation
    pumped = minimum(level_1 - BOTTOM, pumping * dt)  # 7
    lowered = level_1 - pumped
    level_2 = at_least(lowered, BOTTOM)
    baseflow = d[0] * relu(level_2)  # 8
    level_3 = level_2 - baseflow
    spill = relu(level_3 - TOP)  # 9
    state = (soil_2 - percolation, tl.where(level_3 >= TOP, TOP, level_3), overflow)
    fluxes = (evaporation, overflow, percolation, arriving + baseflow + spill, exchange, pumped, baseflow)
    return state, fluxes, (filled, ln_wetness, power, soil_1, soil_2, level_1, lowered, level_2, level_3)


@triton.jit
def step(given, s, OPTIONS: tl.constexpr):
    state, fluxes, _ = evaluate(given, s)
    return state, fluxes


@triton.jit
def step_adj(given, s, d_q, d_s, OPTIONS: tl.constexpr):
    """Cotangents of the state before, forcing, parameters, derived numbers and first ordinates."""
    f, _, p, d, w, dt = given
    capacity, shape, leak, _, kx, _, pumping = p
    _, fluxes, trace = evaluate(given, s)
    filled, ln_wetness, power, soil_1, soil_2, level_1, lowered, level_2, level_3 = trace
    overflow = fluxes[1]
    zero = tl.zeros_like(capacity)

    d_discharge = d_q[3]  # 10, 9
    d_level = tl.where(level_3 >= TOP, 0.0, d_s[1]) + adj_relu(level_3 - TOP, d_discharge)
    d_baseflow = d_q[6] + d_discharge - d_level  # 8
    d_drain = d_baseflow * relu(level_2)
    d_level += adj_relu(level_2, d_baseflow * d[0])
    d_level = tl.where(lowered >= BOTTOM, d_level, 0.0)  # 7
    d_level, d_wanted = adj_minimum(level_1 - BOTTOM, pumping * dt, d_q[5] - d_level, d_level, zero)
    d_exchange = d_q[4] + d_level  # 6
    d_percolation = d_q[2] + d_level
    d_level = d_level - d_exchange * kx

    d_overflow = d_q[1] + d_s[2] + d_discharge * w[0]  # 5
    d_soil, d_leak = adj_minimum(soil_2, leak, d_percolation - d_s[0], d_s[0], zero)  # 4
    d_soil_1 = adj_relu(soil_1 - capacity, d_overflow)  # 3
    d_capacity, d_soil_1 = adj_minimum(capacity, soil_1, d_soil, -d_soil_1, d_soil_1)
    d_evaporation = d_q[0] - d_soil_1  # 2
    d_soil_0, d_demand = adj_minimum(s[0], f[1] * power, d_evaporation, d_soil_1, zero)
    d_ln, d_shape = adj_pow01(ln_wetness, power, shape, d_demand * f[1])  # 1
    d_filled = tl.where(filled <= 1.0, d_ln / above_tiny(at_most(filled, 1.0)), 0.0)
    state = (tl.fma(d_filled, d[1], d_soil_0), d_level, d_discharge)
    d_p = (d_capacity, d_shape, d_leak, zero, -d_exchange * s[1], zero, d_wanted * dt)
    return state, (d_soil_1, d_demand * power), d_p, (d_drain, d_filled * s[0]), (d_discharge * overflow,)
