"""Routing by the gamma unit hydrograph in Triton; equations and adjoint as in csrc/routing/unit_hydrograph.h.

A program takes SERIES series over STEPS steps. The ordinates' cotangents are summed over the steps of each chunk, the
chunks' sums are added in order by a second kernel.
"""

import triton
import triton.language as tl

from .math import adj_relu, at_least, exp2, log2, maximum, relu

LENGTH = tl.constexpr(15)
ANY_SIZE = ("n_steps", "n_series", "n_chunks")  # for which no kernel of its own is compiled, as in drive.py


@triton.jit
def log2_ordinate(a, b, k: tl.constexpr):
    """log2 of t^(a' - 1) exp(-t / th) at t = k + 1/2."""
    t = tl.full(a.shape, k + 0.5, a.dtype)
    return (relu(a) + (0.1 - 1.0)) * log2(t) - t / (relu(b) + 0.5) * 1.4426950408889634074


@triton.jit
def scale_of_ordinates(a, b):
    """The highest logarithm, and the sum of the ordinates taken relative to it."""
    highest = log2_ordinate(a, b, 0)
    for k in tl.static_range(1, LENGTH):
        highest = maximum(highest, log2_ordinate(a, b, k))
    total = tl.zeros_like(a)
    for k in tl.static_range(LENGTH):
        total += relative_ordinate(a, b, highest, k)
    return highest, total


@triton.jit
def relative_ordinate(a, b, highest, k: tl.constexpr):
    return exp2(at_least(log2_ordinate(a, b, k) - highest, -120.0))


@triton.jit
def tile(n_series, STEPS: tl.constexpr, SERIES: tl.constexpr):
    """This program's chunk of steps, its steps from 0 and its series; on one axis, since others end at 65,535."""
    across = (n_series + SERIES - 1) // SERIES
    chunk = tl.program_id(0) // across
    n = (tl.program_id(0) % across) * SERIES + tl.arange(0, SERIES)[None, :]
    return chunk, chunk * STEPS + tl.arange(0, STEPS)[:, None], n


@triton.jit
def inflow_at(inflow, memory, t, n, n_series, used):
    """The inflow at steps t; before the first, the memory, oldest first."""
    now = tl.load(inflow + t * n_series + n, mask=used & (t >= 0), other=0.0)
    return now + tl.load(memory + (t + (LENGTH - 1)) * n_series + n, mask=used & (t < 0), other=0.0)


@triton.jit(do_not_specialize=ANY_SIZE)
def forward(inflow, a, b, memory, outflow, n_steps: "i64", n_series: "i64", STEPS: tl.constexpr, SERIES: tl.constexpr):
    _, t, n = tile(n_series, STEPS, SERIES)
    used = (n < n_series) & (t < n_steps)
    a, b = tl.load(a + n, mask=n < n_series, other=1.0), tl.load(b + n, mask=n < n_series, other=1.0)
    highest, total = scale_of_ordinates(a, b)
    routed = tl.zeros((STEPS, SERIES), a.dtype)
    for k in tl.static_range(LENGTH):
        w = tl.broadcast_to(relative_ordinate(a, b, highest, k) / total, (STEPS, SERIES))
        routed = tl.fma(w, inflow_at(inflow, memory, t - k, n, n_series, used), routed)
    tl.store(outflow + t * n_series + n, routed, mask=used)


@triton.jit(do_not_specialize=ANY_SIZE)
def adjoint(
    inflow,
    a,
    b,
    memory,
    d_outflow,
    d_inflow,
    d_memory,
    d_ordinates,
    n_steps: "i64",
    n_series: "i64",
    STEPS: tl.constexpr,
    SERIES: tl.constexpr,
):
    """The cotangents of inflow and memory, and of the ordinates a chunk's part: d_ordinates [chunks, 15, N]."""
    chunk, t, n = tile(n_series, STEPS, SERIES)
    t -= LENGTH - 1  # from the memory on: the first chunk begins 14 steps before the first
    used = (n < n_series) & (t < n_steps)
    a, b = tl.load(a + n, mask=n < n_series, other=1.0), tl.load(b + n, mask=n < n_series, other=1.0)
    highest, total = scale_of_ordinates(a, b)
    q = inflow_at(inflow, memory, t, n, n_series, used)
    d_q = tl.zeros((STEPS, SERIES), a.dtype)
    for k in tl.static_range(LENGTH):
        w = tl.broadcast_to(relative_ordinate(a, b, highest, k) / total, (STEPS, SERIES))
        d = tl.load(
            d_outflow + (t + k) * n_series + n, mask=(n < n_series) & (t + k >= 0) & (t + k < n_steps), other=0.0
        )
        d_q = tl.fma(w, d, d_q)
        part = tl.sum(q * d, axis=0, keep_dims=True)
        tl.store(d_ordinates + (chunk * LENGTH + k) * n_series + n, part, mask=n < n_series)
    tl.store(d_inflow + t * n_series + n, d_q, mask=used & (t >= 0))
    tl.store(d_memory + (t + (LENGTH - 1)) * n_series + n, d_q, mask=used & (t < 0))


@triton.jit(do_not_specialize=ANY_SIZE)
def adjoint_ordinates(a, b, d_ordinates, d_a, d_b, n_series: "i64", n_chunks: "i64", SERIES: tl.constexpr):
    n = tl.program_id(0).to(tl.int64) * SERIES + tl.arange(0, SERIES)
    used = n < n_series
    given_a, given_b = tl.load(a + n, mask=used, other=1.0), tl.load(b + n, mask=used, other=1.0)
    highest, total = scale_of_ordinates(given_a, given_b)
    rate = 1.0 / (relu(given_b) + 0.5)
    d_w = ()
    mean = tl.zeros_like(given_a)
    for k in tl.static_range(LENGTH):
        d = tl.zeros_like(given_a)
        for chunk in range(n_chunks):
            d += tl.load(d_ordinates + (chunk * LENGTH + k) * n_series + n, mask=used, other=0.0)
        d_w = d_w + (d,)
        mean = tl.fma(relative_ordinate(given_a, given_b, highest, k) / total, d, mean)
    d_power, d_scale = tl.zeros_like(given_a), tl.zeros_like(given_a)
    for k in tl.static_range(LENGTH):
        t = tl.full((SERIES,), k + 0.5, given_a.dtype)
        d_ln_u = relative_ordinate(given_a, given_b, highest, k) / total * (d_w[k] - mean)
        d_power = tl.fma(d_ln_u, log2(t) * 0.69314718055994530942, d_power)
        d_scale = tl.fma(d_ln_u, t * rate * rate, d_scale)
    tl.store(d_a + n, adj_relu(given_a, d_power), mask=used)
    tl.store(d_b + n, adj_relu(given_b, d_scale), mask=used)
