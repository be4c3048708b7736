"""route(): lateral inflow to discharge along a river network, by Muskingum's family of schemes.

The way of a run: `route` checks and orders by id, makes the constants of each reach from its parameters in plain torch
(`linear`, `ddr`, `todini`, whose adjoint torch knows) and calls `ops.route` -> `backends.route` ->
csrc/routing/network.h (time steps along the network, and their adjoint) -> csrc/routing/muskingum.h (one step of one
reach). The `_step` functions here are the oracle: the same step in plain torch, level by level.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ..arguments import whole
from ..data.ids import refuse_duplicates
from ..solve import backends, compiled, ops
from ..solve.compiled import MOST_INFLOW
from ..solve.faults import BadInflow
from ..solve.problem import dense, mapping
from .network import reach_ids

if TYPE_CHECKING:
    from .network import RiverNetwork

LEAST = 1e-4  # m3/s: the discharge at which a dry reach's hydraulics are taken
MOST_SUBSTEPS = 16  # as in csrc/routing/muskingum.h; of those that follow from the state there are 8 at most


@dataclass(frozen=True)
class Parameter:
    """A parameter of a reach: its unit, the bounds that its values must lie within, and its meaning."""

    name: str
    unit: str
    lower: float
    upper: float
    meaning: str


PARAMETERS = {
    v.name: v
    for v in (
        Parameter("n", "s m-1/3", 1e-4, 10.0, "Manning's roughness"),
        Parameter("p", "m", 1e-3, 1e5, "top width at a depth of 1 m; the width is p d^q"),
        Parameter("q", "1", 0.0, 10.0, "how the width grows with depth: 0 rectangular, 1 triangular"),
        Parameter("slope", "1", 1e-8, 10.0, "of the bed"),
        Parameter("length", "m", 1e-2, 1e7, "of the reach"),
        Parameter("x", "1", 0.0, 0.5, "Muskingum's weight of the inflow"),
        Parameter("k", "s", 1e-3, 1e9, "Muskingum's travel time"),
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


@dataclass(frozen=True)
class Routed:
    """What routing gives.

    Attributes
    ----------
    discharge : Tensor ``[T, G]``
        At the end of each step, m3/s, of the gauges, or of all reaches in the network's order.
    ids : ndarray ``[G]``
        The reaches of the columns.
    final_state : dict of str to Tensor ``[N]``
        "discharge" (m3/s) and, in the scheme that conserves mass, "storage" (m3) of every reach in the network's order:
        the `initial_state` of a run that continues this one, which gives the bits of one run over both.
    """

    discharge: Tensor
    ids: np.ndarray
    final_state: dict[str, Tensor]


def route(
    network: RiverNetwork,
    lateral: Tensor,
    parameters: Mapping[str, Tensor] | None = None,
    *,
    ids: Sequence[int] | str,
    dt: float,
    scheme: str = "todini",
    repeat: int = 1,
    gauges: Sequence[int] | None = None,
    initial_state: Mapping[str, Tensor] | None = None,
    substeps: Tensor | int | None = None,
    checkpoint_interval: int | None = None,
    backend: str = "auto",
) -> Routed:
    """Route lateral inflow through a river network; gradients come back to inflow, parameters and initial state.

    Parameters
    ----------
    network : RiverNetwork
        Of N reaches.
    lateral : Tensor ``[T / repeat, N]``
        Lateral inflow of each reach, m3/s, the mean of each row's time.
    parameters : mapping of str to Tensor ``[N]`` or ``[1]``, optional
        In the network's order; what is left out comes from the network's attributes. `PARAMETERS` lists units, bounds
        and meanings, `SCHEMES` what each scheme takes.
    ids : sequence of int ``[N]``, or "network"
        The reach of each column of `lateral`; "network" says that they are in the order of ``network.ids``.
    dt : float
        Length of a step, s.
    scheme : {"todini", "ddr", "muskingum", "accumulate"}
        "todini": Muskingum-Cunge that conserves mass (Todini 2007, doi 10.5194/hess-11-1645-2007), in channels of
        `hydraulics`. "ddr": Muskingum-Cunge with the trapezoids and the clamps of ddr (Bindas et al. 2024, doi
        10.1029/2023WR035337), which do not.
        "muskingum": constant k and x. "accumulate": the sum of all inflow upstream.
    repeat : int
        Steps that share a row of `lateral`: 24 for daily inflow and hourly steps.
    gauges : sequence of int, optional
        The reaches whose discharge is kept; all if left out.
    initial_state : mapping of str to Tensor ``[N]``, optional
        "discharge", and "storage" where a run has given it. Left out, the network starts in the steady state of the
        first row of inflow.
    substeps : int or integer Tensor ``[N]``, optional
        Of "todini": a fixed number of parts, 1 to 16, that each step is computed in. Left out, each reach and step has
        ``ceil(C)`` of them, 8 at most, C the Courant number of the whole step at the mean of the inflow at its end and
        of the outflow at its begin.
    checkpoint_interval : int, optional
        Steps between the states kept for the gradient; about sqrt(T) if left out. Changes memory, never bits.
    backend : {"auto", "cpu", "cuda", "reference"}
        "auto": "cpu" for CPU tensors, "cuda" for CUDA tensors.

    Returns
    -------
    Routed

    Raises
    ------
    ValueError
        If a name, shape, dtype or value does not fit, or ids differ; one sentence says which, where and what to do.
    NotImplementedError
        If a second derivative is asked for.

    Notes
    -----
    The network's arrays stay on the device while the network lives. A CUDA graph can capture the call once it has run
    outside, with `ids` "network" and all parameters given as tensors; there values are not checked, and a bad inflow
    makes all below it NaN.
    """
    check_network(network)
    check_scheme(scheme)
    n_steps = _check_lateral(network, lateral, dt, repeat)
    lateral = _in_network_order(network, lateral, ids)
    device = lateral.device
    if backend == "auto" and device.type == "cuda":
        backend = "cuda"  # the one that has routing
    if backend == "triton":
        raise ValueError("routing has no kernels in Triton; expected backend 'cpu', 'cuda' or 'reference': name one.")
    backend = backends.choose(backend, device)
    graph = _graph(network, device)
    columns, column = _columns(network, graph, gauges, device)
    names, kernel = SCHEMES[scheme]
    values = _parameters(network, parameters, names, lateral, scheme)

    def run(kernel, constants, rows, state, column, n_outputs, n_steps, repeat):
        sizes = [n_steps, network.n_reaches, network.n_levels, n_outputs, repeat]
        try:
            if backend == "reference":
                return _reference(kernel, graph, column, constants, rows, state, dt, sizes)
            keep = torch.is_grad_enabled() and any(x.requires_grad for x in (constants, rows, state))
            tile = _tile(checkpoint_interval, n_steps, network.n_reaches, keep)
            tile = max(2, tile) if backend == "cuda" else min(tile, n_steps)
            arrays = [graph.level_start, graph.first, graph.downstream, column, graph.level, constants, rows, state]
            return ops.route(f"{backend} {kernel}", arrays, [*sizes, tile if keep else -tile, int(dt)])
        except BadInflow:
            raise ValueError(_explain(network, lateral)) from None

    def accumulate(rows):
        every = torch.arange(network.n_reaches, dtype=torch.int32, device=device)
        return run("linear", _passing(rows[0]), rows, torch.zeros_like(rows[:1]), every, len(every), len(rows), 1)[0]

    if substeps is not None and scheme != "todini":
        raise ValueError(f"substeps belong to scheme 'todini'; found them with '{scheme}': leave them out.")
    given = {} if initial_state is None else mapping(initial_state, "initial_state")
    _check_state(network, given, lateral, scheme)
    discharge = given["discharge"] if "discharge" in given else accumulate(lateral[:1])[0]
    if scheme == "todini":
        constants = todini(values, dt, _check_substeps(network, substeps, lateral))
        padded = discharge.new_zeros(network.n_reaches + 1)  # the last one takes what flows out
        inflow = padded.index_add(0, graph.to, discharge)[:-1]
        storage = given["storage"] if "storage" in given else _storage(constants, dt, inflow, discharge)
        state = torch.stack([discharge, storage])
    elif scheme == "ddr":
        constants, state = ddr(values), discharge.clamp(min=LEAST)[None]
    else:
        constants = linear(values["k"], values["x"], dt) if scheme == "muskingum" else _passing(discharge)
        state = discharge[None]
    series, final = run(kernel, constants, lateral, state.contiguous(), column, len(columns), n_steps, repeat)
    return Routed(series, columns, dict(zip(STATE, final.unbind(0), strict=False)))


# --- The network on a device --------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    """A network's arrays as a device's kernels read them."""

    level_start: Tensor  # stays with the host, which launches the levels
    first: Tensor
    downstream: Tensor
    level: Tensor
    to: Tensor  # the downstream reach, N at an outlet
    columns: dict[bytes, Tensor]  # of the gauges last asked for, and of those that a captured graph goes on reading
    captured: set[bytes]


_graphs: WeakKeyDictionary[RiverNetwork, dict[torch.device, _Graph]] = WeakKeyDictionary()


def _graph(network, device) -> _Graph:
    on = _graphs.setdefault(network, {})
    if device not in on:
        level = np.repeat(np.arange(network.n_levels, dtype=np.int32), np.diff(network.level_start))
        to = np.where(network.downstream < 0, np.int32(network.n_reaches), network.downstream)
        arrays = [_moved(x, device, "the network") for x in (network.first, network.downstream, level, to)]
        on[device] = _Graph(torch.from_numpy(network.level_start), *arrays, {}, set())
    return on[device]


def _moved(array: np.ndarray, device: torch.device, what: str) -> Tensor:
    if compiled.capturing(device):
        raise ValueError(
            f"{what} must be on the card before a CUDA graph is captured; found it in host memory: call route once "
            "outside the capture, with ids 'network' and the parameters as tensors on the card."
        )
    return torch.from_numpy(array).to(device)


# --- What is asked of the inputs -----------------------------------------------------------------------------------


def check_network(network) -> None:
    if not hasattr(network, "level_start"):
        raise ValueError(f"network must be a RiverNetwork; found {type(network).__name__}: make one of its table.")


def check_scheme(scheme) -> None:
    if scheme not in tuple(SCHEMES):
        raise ValueError(f"unknown scheme '{scheme}'; expected one of {', '.join(SCHEMES)}.")


def _check_lateral(network, lateral, dt, repeat) -> int:
    dense(lateral, "lateral")
    if lateral.dim() != 2 or lateral.shape[1] != network.n_reaches or lateral.shape[0] == 0:
        raise ValueError(
            f"lateral must be [T / repeat, {network.n_reaches}] for this network; found {list(lateral.shape)}: reshape "
            "it, time first, or give every reach a column."
        )
    if lateral.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"lateral must be float32 or float64; found {lateral.dtype}: convert it with .to().")
    if isinstance(dt, bool) or not (isinstance(dt, Real) and 0 < dt < 1e9):
        raise ValueError(f"dt must be the seconds of a step, more than 0; found {dt!r}: correct it.")
    if dt != int(dt):
        raise ValueError(f"dt must be whole seconds; found {dt!r}: choose a step that is.")
    return lateral.shape[0] * whole("repeat", repeat, 1)


def _in_network_order(network, lateral, ids):
    if isinstance(ids, str):
        if ids != "network":
            raise ValueError(
                f"ids must be the reach of each column of lateral, or 'network'; found '{ids}': name them."
            )
        return lateral
    given = reach_ids(ids, "ids of the columns of lateral")
    if len(given) != network.n_reaches:
        raise ValueError(
            f"ids must be [{network.n_reaches}], one for each column; found [{len(given)}]: correct it, or prune the "
            "network."
        )
    refuse_duplicates(given, "ids of the columns of lateral")
    order = np.argsort(given)
    at = order[np.searchsorted(given, network.ids, sorter=order).clip(max=len(order) - 1)]
    if (wrong := given[at] != network.ids).any():
        raise ValueError(
            f"lateral has no column of reach {network.ids[wrong][0]}, and {wrong.sum()} reaches of the network lack "
            "one: add them, or prune the network."
        )
    return lateral.index_select(1, _moved(at, lateral.device, "ids of the columns of lateral"))


def _columns(network, graph, gauges, device):
    """The ids of the output's columns, and the column of each reach or -1."""
    if gauges is None:
        ids, at, key = network.ids, slice(None), b""
    else:
        at = network.index(gauges)
        if at.ndim != 1 or not len(at):
            raise ValueError(f"gauges must be a list of reaches; found {gauges!r}: name them, or leave gauges out.")
        ids, key = network.ids[at], at.tobytes()
        refuse_duplicates(ids, "gauges")
    if key not in graph.columns:
        column = np.full(network.n_reaches, -1, np.int32)
        column[at] = np.arange(len(ids))
        column = _moved(column, device, "the place of the gauges")
        for old in graph.columns.keys() - graph.captured:
            del graph.columns[old]
        graph.columns[key] = column
    if compiled.capturing(device):
        graph.captured.add(key)
    return ids, graph.columns[key]


def _parameters(network, given, names, like, scheme) -> dict[str, Tensor]:
    given = {} if given is None else mapping(given, "parameters")
    if unknown := [name for name in given if name not in PARAMETERS]:
        raise ValueError(f"parameters has '{unknown[0]}'; expected {', '.join(PARAMETERS)}: remove or rename it.")
    if scheme in SCHEMES and (unused := [name for name in given if name not in names]):
        raise ValueError(
            f"scheme '{scheme}' takes no parameter '{unused[0]}', only {', '.join(names) or 'none'}: remove it."
        )
    values = {}
    for name in names:
        if name not in given and name not in network.attributes:
            raise ValueError(
                f"scheme '{scheme}' needs '{name}' ({PARAMETERS[name].meaning}), which neither parameters nor the "
                "network's attributes have; add it."
            )
        x = given.get(name)
        if x is None:
            x = _moved(network.attributes[name].astype(str(like.dtype)[6:]), like.device, f"parameter '{name}'")
        values[name] = _of_reaches(network, x, f"parameter '{name}'", like, PARAMETERS[name])
    return values


def _of_reaches(network, x, what, like, row):
    dense(x, what)
    if tuple(x.shape) not in ((network.n_reaches,), (1,)) or x.dtype != like.dtype or x.device != like.device:
        raise ValueError(
            f"{what} must be [{network.n_reaches}] or [1], {like.dtype} on {like.device} as lateral is; found "
            f"{list(x.shape)}, {x.dtype} on {x.device}: correct it."
        )
    x = x.expand(network.n_reaches)
    bad = ~((x >= row.lower) & (x <= row.upper))
    if not compiled.capturing(x.device) and bad.any():
        i = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{what} must lie in [{row.lower:g}, {row.upper:g}] {row.unit}; found {float(x[i]):g} at reach "
            f"{network.ids[i]}: correct, clip or fill it."
        )
    return x


STATE = {
    "discharge": Parameter("discharge", "m3/s", 0.0, 1e30, ""),
    "storage": Parameter("storage", "m3", -1e30, 1e30, ""),
}


def _check_state(network, given, like, scheme) -> None:
    if given.pop("substeps", None) is not None:
        warnings.warn(
            "initial_state's 'substeps' are ignored, since they follow from the state: pass substeps= to fix them.",
            stacklevel=3,
        )
    for name in given:
        if name not in STATE:
            raise ValueError(f"initial_state has '{name}'; expected discharge, storage: remove or rename it.")
    if "discharge" not in given and given:
        raise ValueError("initial_state lacks 'discharge'; expected it beside the others: add it.")
    for name, row in STATE.items():
        if name == "discharge" and scheme == "muskingum":
            row = replace(row, lower=-1e30)  # it dips below zero by itself, where k and x do not fit the step
        if name in given:
            given[name] = _of_reaches(network, given[name], f"initial_state '{name}'", like, row)


def _check_substeps(network, substeps, like) -> Tensor | None:
    if substeps is None:
        return None
    whether = isinstance(substeps, bool) or getattr(substeps, "dtype", None) == torch.bool
    if whether or not isinstance(substeps, Real | Tensor) or np.shape(substeps) not in ((), (1,), (network.n_reaches,)):
        raise ValueError(
            f"substeps must be a whole number, or a tensor [{network.n_reaches}] of them; found {substeps!r}."
        )
    given = torch.as_tensor(substeps).double()  # a number stays in host memory
    bad = (given < 1) | (given > MOST_SUBSTEPS) | (given != given.round())
    if not compiled.capturing(given.device) and bool(bad.any()):
        raise ValueError(
            f"substeps must be whole numbers from 1 to {MOST_SUBSTEPS}; found others: clip and round them."
        )
    if not isinstance(substeps, Tensor):
        return like.new_full((network.n_reaches,), float(substeps))
    return substeps.to(like).expand(network.n_reaches)


def _tile(interval, n_steps, n_reaches, keep) -> int:
    """Steps between checkpoints, or, where none are kept, that a thread takes at a time."""
    if interval is None:
        # The series of a tile lie in the cache, two levels' at a time; in the adjoint all levels' lie in memory.
        interval = min(max(backends.check_interval(n_steps), 16), 64) if keep else 128
        interval = min(interval, 2**31 // (4 * n_reaches) - 1)  # offsets there have 32 bits
    return whole("checkpoint_interval", interval, 1)


def _explain(network, lateral) -> str:
    bad = ~((lateral >= 0) & (lateral <= MOST_INFLOW))
    row, i = (int(v) for v in bad.nonzero()[0])
    return (
        f"lateral must be 0 to {MOST_INFLOW:g} m3/s without gaps; found {float(lateral[row, i]):g} in row {row} of "
        f"reach {network.ids[i]}: fill or correct it."
    )


# --- The constants of a reach: [CONSTANTS, N], in the order of csrc/routing/muskingum.h -----------------------------


def linear(k: Tensor, x: Tensor, dt: float) -> Tensor:
    """Muskingum's coefficients of inflow after and before, outflow before, and lateral inflow."""
    most = k * (1 - x) + dt / 2
    return torch.stack([(dt / 2 - k * x) / most, (dt / 2 + k * x) / most, (k * (1 - x) - dt / 2) / most, dt / most])


def _passing(like: Tensor) -> Tensor:
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
    log2_d = torch.log2(_unit_depth(v))
    f, g = 1 - q1 * e, torch.log2(dt * q1 / (v["p"] * v["length"])) - q1 * log2_d
    h = torch.log2(e * e * q1 / (v["slope"] * v["length"])) + log2_d
    if substeps is None:
        limit = torch.exp2(-(g / f).detach()).clamp(max=1e30)
    else:
        limit = torch.where(substeps > 1, -substeps, 1e30)
    return torch.stack([f, g, e, h, limit])


def _unit_depth(v: Mapping[str, Tensor]) -> Tensor:
    """Depth at 1 m3/s by Manning; that at Q is Q^e times it."""
    q1 = v["q"] + 1
    return (v["n"] * q1 ** (5 / 3) / (v["p"] * v["slope"].sqrt())) ** (3 / (2 + 3 * q1))


def _courant(constants: Tensor, discharge: Tensor) -> Tensor:
    """Of a whole step."""
    f, g, *_ = constants
    return torch.exp2(f * torch.log2(discharge.clamp(min=LEAST)) + g)


def _substeps(constants: Tensor, inflow: Tensor, discharge: Tensor) -> Tensor:
    """Sub-steps of a step with this inflow at its end and this outflow at its begin: the ceiling of C, 1 to 8."""
    limit, q = constants[4], ((inflow + discharge) / 2).detach().clamp(min=LEAST)
    by_state = torch.where(q > limit, _courant(constants, q).detach().ceil().clamp(1, 8), 1)
    return torch.where(limit < 0, -limit, by_state).detach()


def _storage(constants: Tensor, dt: float, inflow: Tensor, discharge: Tensor) -> Tensor:
    """Todini's storage of inflow and outflow, as a step with their sub-steps would leave it."""
    _, _, e, h, _ = constants
    courant = _courant(constants, (inflow + discharge) / 2)
    reynolds = torch.exp2(e * torch.log2(((inflow + discharge) / 2).clamp(min=LEAST)) + h)
    reynolds = torch.maximum(reynolds, (1 - courant / _substeps(constants, inflow, discharge)).abs())
    return dt / (2 * courant) * ((1 - reynolds) * inflow + (1 + reynolds) * discharge)


def hydraulics(network: RiverNetwork, discharge: Tensor, parameters: Mapping[str, Tensor] | None = None, *, ids=None):
    """Depth, top width and velocity of uniform flow in the channel of the default scheme.

    The top width is W = p d^q, and the hydraulic radius that of a wide channel, A / W = d / (q + 1).

    Parameters
    ----------
    discharge : Tensor ``[T, G]``
        m3/s, as `route` gives it.
    parameters : mapping of str to Tensor ``[N]`` or ``[1]``, optional
        As for `route`.
    ids : sequence of int ``[G]``, optional
        The reaches of the columns, `Routed.ids`; all in the network's order if left out.

    Returns
    -------
    dict of str to Tensor ``[T, G]``
        "depth" and "top_width" in m, "velocity" in m/s.
    """
    if dense(discharge, "discharge").dtype not in (torch.float32, torch.float64):
        raise ValueError(f"discharge must be float32 or float64; found {discharge.dtype}: convert it with .to().")
    v = _parameters(network, parameters, CHANNEL, discharge, "hydraulics")
    if ids is not None:
        at = torch.from_numpy(np.atleast_1d(network.index(ids))).to(discharge.device)
        v = {name: x[at] for name, x in v.items()}
    if discharge.dim() != 2 or discharge.shape[1] != len(v["n"]):
        raise ValueError(
            f"discharge must be [T, {len(v['n'])}]; found {list(discharge.shape)}: name its columns' reaches by ids."
        )
    q1 = v["q"] + 1
    flow = discharge.clamp(min=LEAST)
    depth = _unit_depth(v) * flow ** (3 / (2 + 3 * q1))
    width = v["p"] * depth ** v["q"]
    return {"depth": depth, "top_width": width, "velocity": flow * q1 / (width * depth)}


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


def _reference(kernel, graph, column, constants, lateral, state, dt, sizes):
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
