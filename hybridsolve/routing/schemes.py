"""The schemes of `route`: their parameters, the constants of a reach made of them, and one step in plain torch.

The constants, whose adjoint torch knows, are those of csrc/routing/muskingum.h. The `_step` functions are the oracle,
which judges the kernels: the same step, level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..solve.compiled import MOST_INFLOW
from ..solve.faults import BadInflow
from ..spec import Variable

LEAST = 1e-4  # m3/s: the discharge at which a dry reach's hydraulics are taken
BLOCK, LANES = 2**14, 64  # reaches: fewer than torch shares among threads; a multiple of what it computes together
MOST_SUBSTEPS = 16  # as in csrc/routing/muskingum.h; of those that follow from the state there are 8 at most
PARAMETERS = {
    v.name: v
    for v in (
        Variable("n", "s m-1/3", "Manning's roughness", 1e-4, 10.0),
        Variable("p", "m", "top width at a depth of 1 m; the width is p d^q", 1e-3, 1e5),
        Variable("q", "1", "how the width grows with depth: 0 rectangular, 1 triangular", 0.0, 10.0),
        Variable("slope", "1", "of the bed", 1e-8, 10.0),
        Variable("length", "m", "of the reach", 1e-2, 1e7),
        Variable("x", "1", "Muskingum's weight of the inflow", 0.0, 0.5),
        Variable("k", "s", "Muskingum's travel time", 1e-3, 1e9),
    )
}
CHANNEL = ("n", "p", "q", "slope", "length")
# The parameters that each scheme takes, and the kernel that runs it.
SCHEMES = {
    "todini": (CHANNEL, "todini"),
    "ddr": ((*CHANNEL, "x"), "ddr"),
    "muskingum": (("k", "x"), "linear"),
    "accumulate": ((), "linear"),
}
STATE = {
    "discharge": Variable("discharge", "m3/s", "at the end of a step", 0.0, 1e30),
    "storage": Variable("storage", "m3", "in the reach", -1e30, 1e30),
}


def by_blocks(make: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """``make(*given)`` of tensors ``[..., N]``, a block of reaches at a time: a reach's bits are its own.

    On a CPU torch rounds the last few numbers of an array, and those where threads part it, otherwise than the rest.
    """
    n = given[0].shape[-1]
    if given[0].device.type != "cpu":
        return make(*given)
    with torch.no_grad():
        padded = [torch.cat([x, x[..., -1:].expand(*x.shape[:-1], -n % LANES)], -1) for x in given]
        found = torch.cat([make(*part) for part in zip(*(x.split(BLOCK, -1) for x in padded), strict=True)], -1)[
            ..., :n
        ]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in given)):
        return found
    whole = make(*given)
    return whole + (found - whole).detach()  # exactly what was found, with the gradient of the whole


# --- The constants of a reach: [CONSTANTS, N], in the order of csrc/routing/muskingum.h -----------------------------


def linear(k: Tensor, x: Tensor, dt: float) -> Tensor:
    """Muskingum's coefficients of inflow after and before, outflow before, and lateral inflow."""
    most = k * (1 - x) + dt / 2
    return torch.stack([(dt / 2 - k * x) / most, (dt / 2 + k * x) / most, (k * (1 - x) - dt / 2) / most, dt / most])


def passing(like: Tensor) -> Tensor:
    one, zero = torch.ones_like(like), torch.zeros_like(like)
    return torch.stack([one, zero, zero, one])


def ddr(v: Mapping[str, Tensor]) -> Tensor:
    """Constants of section and celerity; the slope is 0.001 at least."""
    q, root = v["q"] + 1e-6, v["slope"].clamp(min=1e-3).sqrt()
    a = torch.log2(v["n"] * (q + 1) / (v["p"] * root + 1e-8))
    return torch.stack([a, 3 / (5 + 3 * q), q, torch.log2(v["p"]), root / v["n"], v["length"], v["x"]])


def todini(v: Mapping[str, Tensor], dt: float, substeps: Tensor | None = None) -> Tensor:
    """Exponents and factors of the Courant and Reynolds numbers as powers of the discharge, and its limit.

    That is the discharge above which there is more than one sub-step, or minus their number where more are given.
    """
    q1 = v["q"] + 1
    e = 3 / (2 + 3 * q1)
    log2_d = torch.log2(unit_depth(v))
    f, g = 1 - q1 * e, torch.log2(dt * q1 / (v["p"] * v["length"])) - q1 * log2_d
    h = torch.log2(e * e * q1 / (v["slope"] * v["length"])) + log2_d
    if substeps is None:
        limit = torch.exp2(-(g / f).detach()).clamp(max=1e30)
    else:
        limit = torch.where(substeps > 1, -substeps, 1e30)
    return torch.stack([f, g, e, h, limit])


def unit_depth(v: Mapping[str, Tensor]) -> Tensor:
    """Depth at 1 m3/s by Manning; that at Q is Q^e times it."""
    q1 = v["q"] + 1
    return (v["n"] * q1 ** (5 / 3) / (v["p"] * v["slope"].sqrt())) ** (3 / (2 + 3 * q1))


def _courant(constants: Tensor, discharge: Tensor) -> Tensor:
    """The Courant number of a whole step."""
    f, g, *_ = constants
    return torch.exp2(f * torch.log2(discharge.clamp(min=LEAST)) + g)


def _substeps(constants: Tensor, inflow: Tensor, discharge: Tensor) -> Tensor:
    """Sub-steps of a step, from the inflow at its end and the outflow at its start: the ceiling of C, 1 to 8."""
    limit, q = constants[4], ((inflow + discharge) / 2).detach().clamp(min=LEAST)
    by_state = torch.where(q > limit, _courant(constants, q).detach().ceil().clamp(1, 8), 1)
    return torch.where(limit < 0, -limit, by_state).detach()


def storage_of(constants: Tensor, dt: float, inflow: Tensor, discharge: Tensor) -> Tensor:
    """Todini's storage of inflow and outflow, as a step with their sub-steps would leave it."""
    _, _, e, h, _ = constants
    courant = _courant(constants, (inflow + discharge) / 2)
    reynolds = torch.exp2(e * torch.log2(((inflow + discharge) / 2).clamp(min=LEAST)) + h)
    reynolds = torch.maximum(reynolds, (1 - courant / _substeps(constants, inflow, discharge)).abs())
    return dt / (2 * courant) * ((1 - reynolds) * inflow + (1 + reynolds) * discharge)


# --- The oracle ----------------------------------------------------------------------------------------------------


def _edges(downstream: Tensor, values: Tensor):
    flows = downstream >= 0
    return downstream[flows].long(), values[flows]


def _linear_step(c, dt, i0, i1, mean, ql, s):
    o = c[0] * i1 + c[1] * i0 + c[2] * s[0] + c[3] * ql
    return [o], o


def _ddr_step(c, dt, i0, i1, mean, ql, s):
    a, e, q, log2_p, r, length, x = c
    d = torch.exp2(e * (torch.log2(s[0]) + a)).clamp(min=0.01)
    width = torch.exp2(log2_p) * d**q
    z = (width * q / (2 * d)).clamp(0.5, 50)
    bottom = (width - 2 * z * d).clamp(min=0.01)
    radius = (width + bottom) * d / 2 / (bottom + 2 * d * (1 + z**2).sqrt())
    k = length / (5 / 3 * (radius ** (2 / 3) * r).clamp(0.01, 15))
    raw = (
        (dt - 2 * k * x) * mean + (dt + 2 * k * x) * i0 + (2 * k * (1 - x) - dt) * s[0] + 2 * dt * ql.clamp(min=LEAST)
    ) / (2 * k * (1 - x) + dt)
    return [raw.clamp(min=LEAST)], raw


def _todini_step(c, dt, i0, i1, mean, ql, s):
    f, g, e, h, _ = c
    o, storage = s
    substeps = _substeps(c, i1, o)
    w = dt / substeps
    total = torch.zeros_like(o)

    def outflow(begin, end, guess, volume):
        log2_q = torch.log2(((end + guess) / 2).clamp(min=LEAST))
        courant, reynolds = torch.exp2(f * log2_q + g) / substeps, torch.exp2(e * log2_q + h)
        least = torch.where(courant - 1 > 1 - courant, courant - 1, 1 - courant)
        reynolds = torch.where(reynolds >= least, reynolds, least)
        out = (courant * (2 * volume - begin) - (1 - reynolds) * end) / (1 + courant + reynolds)
        return out.clamp(min=0)

    for j in range(int(substeps.max())):
        begin, end = i0 + (i1 - i0) * j / substeps, i0 + (i1 - i0) * (j + 1) / substeps
        volume = storage / w + (begin + end) / 2 + mean - (i0 + i1) / 2 + ql
        new = outflow(o, end, outflow(o, end, o + end - begin, volume), volume)
        used = j < substeps
        total = torch.where(used, total + (o + new) / 2, total)
        storage = torch.where(used, w * (volume - (o + new) / 2), storage)
        o = torch.where(used, new, o)
    return [o, storage], total / substeps


_STEPS = {"linear": _linear_step, "ddr": _ddr_step, "todini": _todini_step}


def reference(kernel, graph, column, constants, lateral, state, dt, sizes):
    """What `ops.route` computes, level by level in plain torch."""
    n_steps, n_reaches, n_levels, n_outputs, repeat = sizes
    level_start, downstream = graph.level_start, graph.downstream
    if bool((~((lateral >= 0) & (lateral <= MOST_INFLOW))).any()):
        raise BadInflow
    levels = [slice(int(a), int(b)) for a, b in zip(level_start[:-1], level_start[1:], strict=True)]
    at = torch.full((n_outputs,), -1, dtype=torch.long)
    at[column[column >= 0].long()] = (column >= 0).nonzero()[:, 0]
    series = []
    for t in range(n_steps):
        before = torch.zeros_like(state[0]).index_add(0, *_edges(downstream, state[0]))
        new, published = [], []
        i1 = i_mean = torch.zeros_like(state[0])
        for here in levels:
            s, out = _STEPS[kernel](
                constants[:, here], dt, before[here], i1[here], i_mean[here], lateral[t // repeat, here], state[:, here]
            )
            new.append(torch.stack(s))
            published.append(out)
            flows = downstream[here] >= 0
            i1 = i1.index_add(0, downstream[here][flows].long(), s[0][flows])
            i_mean = i_mean.index_add(0, downstream[here][flows].long(), out[flows])
        state = torch.cat(new, dim=1)
        series.append(state[0][at])
    return torch.stack(series), state
