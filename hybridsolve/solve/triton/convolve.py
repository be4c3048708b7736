"""Convolution with the ordinates of unit hydrographs in Triton; equations and adjoint as in csrc/routing/convolve.h.

A program takes SERIES series over STEPS steps. The ordinates' cotangents are summed over the steps of each program's
chunk; the chunks' sums are added in order afterwards.
"""

import triton
import triton.language as tl

ANY_SIZE = ("n_steps", "n_series", "length")  # for which no kernel of its own is compiled, as in drive.py


@triton.jit
def tile(n_series, STEPS: tl.constexpr, SERIES: tl.constexpr):
    """This program's chunk of steps, its steps from 0 and its series; on one axis, since others end at 65,535."""
    across = (n_series + SERIES - 1) // SERIES
    chunk = tl.program_id(0) // across
    n = (tl.program_id(0) % across) * SERIES + tl.arange(0, SERIES)[None, :]
    return chunk, chunk * STEPS + tl.arange(0, STEPS)[:, None], n


@triton.jit
def inflow_at(inflow, memory, t, n, n_series, length, used):
    """The inflow at steps t; before the first, the memory, oldest first."""
    now = tl.load(inflow + t * n_series + n, mask=used & (t >= 0), other=0.0)
    return now + tl.load(memory + (t + (length - 1)) * n_series + n, mask=used & (t < 0), other=0.0)


@triton.jit(do_not_specialize=ANY_SIZE)
def forward(
    inflow,
    ordinates,
    memory,
    outflow,
    n_steps: "i64",
    n_series: "i64",
    length: "i64",
    STEPS: tl.constexpr,
    SERIES: tl.constexpr,
):
    _, t, n = tile(n_series, STEPS, SERIES)
    used = (n < n_series) & (t < n_steps)
    routed = tl.zeros((STEPS, SERIES), inflow.dtype.element_ty)
    for k in range(length):
        w = tl.broadcast_to(tl.load(ordinates + k * n_series + n, mask=n < n_series, other=0.0), (STEPS, SERIES))
        routed = tl.fma(w, inflow_at(inflow, memory, t - k, n, n_series, length, used), routed)
    tl.store(outflow + t * n_series + n, routed, mask=used)


@triton.jit(do_not_specialize=ANY_SIZE)
def adjoint(
    inflow,
    ordinates,
    memory,
    d_outflow,
    d_inflow,
    d_ordinates,
    d_memory,
    n_steps: "i64",
    n_series: "i64",
    length: "i64",
    STEPS: tl.constexpr,
    SERIES: tl.constexpr,
):
    """The cotangents of inflow and memory, and of the ordinates a chunk's part: d_ordinates [chunks, L, N]."""
    chunk, t, n = tile(n_series, STEPS, SERIES)
    t -= length - 1  # from the memory's first step on
    used = (n < n_series) & (t < n_steps)
    q = inflow_at(inflow, memory, t, n, n_series, length, used)
    d_q = tl.zeros((STEPS, SERIES), inflow.dtype.element_ty)
    for k in range(length):
        w = tl.broadcast_to(tl.load(ordinates + k * n_series + n, mask=n < n_series, other=0.0), (STEPS, SERIES))
        there = (n < n_series) & (t + k >= 0) & (t + k < n_steps)
        d = tl.load(d_outflow + (t + k) * n_series + n, mask=there, other=0.0)
        d_q = tl.fma(w, d, d_q)
        part = tl.sum(q * d, axis=0, keep_dims=True)
        tl.store(d_ordinates + (chunk * length + k) * n_series + n, part, mask=n < n_series)
    tl.store(d_inflow + t * n_series + n, d_q, mask=used & (t >= 0))
    tl.store(d_memory + (t + (length - 1)) * n_series + n, d_q, mask=used & (t < 0))
