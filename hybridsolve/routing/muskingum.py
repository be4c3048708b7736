"""route(): lateral inflow to discharge along a river network, by Muskingum's family of schemes.

The way of a run: `route` checks and orders by id, makes the constants of each reach from its parameters in plain torch
(schemes.py) and calls `ops.route` -> `backends.route` -> csrc/routing/network.h (time steps along the network, and
their adjoint) -> csrc/routing/muskingum.h (one step of one reach).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer
from ..data.ids import refuse_duplicates
from ..solve import backends, compiled, ops
from ..solve.check import dense, mapping
from ..solve.compiled import MOST_INFLOW
from ..solve.faults import BadInflow
from ..spec import Variable
from .checks import reach_ids
from .schemes import (
    CHANNEL,
    LEAST,
    MOST_SUBSTEPS,
    PARAMETERS,
    SCHEMES,
    STATE,
    by_blocks,
    ddr,
    linear,
    passing,
    reference,
    storage_of,
    todini,
    unit_depth,
)

if TYPE_CHECKING:
    from .network import RiverNetwork


@dataclass(frozen=True)
class Boundary:
    """Discharge of reaches at the upstream boundary of a part of a network, see `hybridsolve.routing.parts`.

    Attributes
    ----------
    ids : ndarray ``[K]``
        Of the reaches.
    series : Tensor ``[T, 2, K]``
        Discharge at the end of each step, m3/s; and the scheme's second series of a reach.
    initial : Tensor ``[K]``
        Discharge before the first step.
    """

    ids: np.ndarray
    series: Tensor
    initial: Tensor


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
    boundary : Boundary, optional
        Of the reaches of `exports`.
    """

    discharge: Tensor
    ids: np.ndarray
    final_state: dict[str, Tensor]
    boundary: Boundary | None = None


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
    boundary: Boundary | None = None,
    exports: Sequence[int] | None = None,
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
    boundary : Boundary, optional
        Of reaches without any upstream here, whose steps a part of the network above has taken. Their lateral inflow
        and parameters have no part.
    exports : sequence of int, optional
        Reaches whose discharge a part below needs. Like `boundary` on a CPU, without gradients.

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
        backend = "cuda"  # Triton has no routing
    if backend == "triton":
        raise ValueError("routing has no kernels in Triton; expected backend 'cpu', 'cuda' or 'reference': name one.")
    backend = backends.choose(backend, device)
    graph = _graph(network, device)
    columns, column = _columns(network, graph, gauges, device)
    n_gauges, at_exports = len(columns), np.zeros(0, np.int64)
    if exports is not None:
        below = network.ids[np.atleast_1d(network.index(exports))]
        every = columns if gauges is None else np.concatenate([columns, below[~np.isin(below, columns)]])
        columns, column = _columns(network, graph, None if gauges is None else every.tolist(), device)
        at_exports = np.array([int(np.flatnonzero(columns == i)[0]) for i in below], np.int64)
    received = None if boundary is None else _check_boundary(network, boundary, lateral, n_steps)
    names, kernel = SCHEMES[scheme]
    values = _parameters(network, parameters, names, lateral, scheme)

    def run(
        kernel: str,
        constants: Tensor,
        rows: Tensor,
        state: Tensor,
        column: Tensor,
        n_outputs: int,
        n_steps: int,
        repeat: int,
        part: bool = False,
    ) -> tuple[Tensor, ...]:
        sizes = [n_steps, network.n_reaches, network.n_levels, n_outputs, repeat]
        try:
            if backend == "reference" and not part:
                found: tuple[Tensor, ...] = reference(kernel, graph, column, constants, rows, state, dt, sizes)
                return found
            keep = torch.is_grad_enabled() and any(x.requires_grad for x in (constants, rows, state))
            tile = _tile(checkpoint_interval, n_steps, network.n_reaches, keep)
            tile = max(2, tile) if backend == "cuda" else min(tile, n_steps)
            arrays = [graph.level_start, graph.first, graph.downstream, column, graph.level, constants, rows, state]
            if part:
                if keep or backend != "cpu":
                    raise NotImplementedError(
                        f"a part of a network is routed by backend 'cpu' without gradients; found '{backend}'"
                        f"{' and a gradient' if keep else ''}: route the whole, or under torch.no_grad()."
                    )
                series = None if boundary is None else boundary.series
                return backends.route_part(f"{backend} {kernel}", arrays, [*sizes, -tile, int(dt)], received, series)
            return ops.route(f"{backend} {kernel}", arrays, [*sizes, tile if keep else -tile, int(dt)])
        except BadInflow:
            raise ValueError(_explain(network, lateral)) from None

    def accumulate(rows: Tensor) -> Tensor:
        if boundary is not None:
            rows = rows.clone()
            rows[:, network.index(boundary.ids)] = boundary.initial
        every = torch.arange(network.n_reaches, dtype=torch.int32, device=device)
        return run("linear", passing(rows[0]), rows, torch.zeros_like(rows[:1]), every, len(every), len(rows), 1)[0]

    if substeps is not None and scheme != "todini":
        raise ValueError(f"substeps belong to scheme 'todini'; found them with '{scheme}': leave them out.")
    given = {} if initial_state is None else mapping(initial_state, "initial_state")
    _check_state(network, given, lateral, scheme)
    discharge = given["discharge"] if "discharge" in given else accumulate(lateral[:1])[0]
    if scheme == "todini":
        fixed = _check_substeps(network, substeps, lateral)
        of_each = [*values.values()] + ([] if fixed is None else [fixed])
        constants = by_blocks(lambda *x: todini(dict(zip(values, x, strict=False)), dt, *x[len(values) :]), *of_each)
        padded = discharge.new_zeros(network.n_reaches + 1)  # the last one collects the outlets' flow
        inflow = padded.index_add(0, graph.to, discharge)[:-1]
        storage = given.get("storage")
        if storage is None:
            storage = by_blocks(lambda c, i, o: storage_of(c, dt, i, o), constants, inflow, discharge)
        state = torch.stack([discharge, storage])
    elif scheme == "ddr":
        constants = by_blocks(lambda *x: ddr(dict(zip(values, x, strict=True))), *values.values())
        state = discharge.clamp(min=LEAST)[None]
    else:
        constants = linear(values["k"], values["x"], dt) if scheme == "muskingum" else passing(discharge)
        state = discharge[None]
    part = boundary is not None or exports is not None
    state = state.contiguous()
    series, final, *more = run(kernel, constants, lateral, state, column, len(columns), n_steps, repeat, part)
    found = None
    if exports is not None:
        both = torch.stack([series[:, at_exports], more[0][:, at_exports]], 1)
        found = Boundary(columns[at_exports], both, state[0, network.index(columns[at_exports])])
    final_state = dict(zip(STATE, final.unbind(0), strict=False))
    return Routed(series[:, :n_gauges], columns[:n_gauges], final_state, found)


# --- The network on a device --------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    """A network's arrays as a device's kernels read them."""

    level_start: Tensor  # in host memory, from which the levels are launched
    first: Tensor
    downstream: Tensor
    level: Tensor
    to: Tensor  # the downstream reach, N at an outlet
    columns: dict[bytes, Tensor]  # of the last gauges, and of those that a captured graph reads
    captured: set[bytes]


_graphs: WeakKeyDictionary[RiverNetwork, dict[torch.device, _Graph]] = WeakKeyDictionary()


def _graph(network: RiverNetwork, device: torch.device) -> _Graph:
    on = _graphs.setdefault(network, {})
    if device not in on:
        level = np.repeat(np.arange(network.n_levels, dtype=np.int32), np.diff(network.level_start))
        to = np.where(network.downstream < 0, np.int32(network.n_reaches), network.downstream)
        first, downstream, level, to = (
            _moved(x, device, "the network") for x in (network.first, network.downstream, level, to)
        )
        on[device] = _Graph(torch.from_numpy(network.level_start), first, downstream, level, to, {}, set())
    return on[device]


def _moved(array: np.ndarray, device: torch.device, what: str) -> Tensor:
    if compiled.capturing(device):
        raise ValueError(
            f"{what} must be on the card before a CUDA graph is captured; found it in host memory: call route once "
            "outside the capture, with ids 'network' and the parameters as tensors on the card."
        )
    return torch.from_numpy(array).to(device)


# --- Checks of the inputs ------------------------------------------------------------------------------------------


def check_network(network: object) -> None:
    if not hasattr(network, "level_start"):
        raise ValueError(f"network must be a RiverNetwork; found {type(network).__name__}: make one of its table.")


def check_scheme(scheme: object) -> None:
    if scheme not in tuple(SCHEMES):
        raise ValueError(f"unknown scheme '{scheme}'; expected one of {', '.join(SCHEMES)}.")


def _check_lateral(network: RiverNetwork, lateral: Tensor, dt: float, repeat: int) -> int:
    dense(lateral, "lateral")
    if lateral.dim() != 2 or lateral.shape[1] != network.n_reaches or lateral.shape[0] == 0:
        raise ValueError(
            f"lateral must be [T / repeat, {network.n_reaches}] for this network; found {list(lateral.shape)}: reshape "
            "it, time first, or give every reach a column."
        )
    if lateral.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"lateral must be float32 or float64; found {lateral.dtype}: convert it with .to().")
    if isinstance(dt, bool) or not (isinstance(dt, Real) and 0 < float(dt) < 1e9):
        raise ValueError(f"dt must be the seconds of a step, more than 0; found {dt!r}: correct it.")
    if not float(dt).is_integer():
        raise ValueError(f"dt must be whole seconds; found {dt!r}: choose a step that is.")
    return len(lateral) * integer("repeat", repeat, 1)


def _check_boundary(network: RiverNetwork, boundary: Boundary, like: Tensor, n_steps: int) -> Tensor:
    """Of each reach the column of what is given for it, or -1."""
    at, (series, initial) = network.index(boundary.ids), (boundary.series, boundary.initial)
    if tuple(series.shape) != (n_steps, 2, len(at)) or tuple(initial.shape) != (len(at),) or series.dtype != like.dtype:
        raise ValueError(
            f"boundary must hold series [{n_steps}, 2, {len(at)}] and initial [{len(at)}] of {like.dtype}, as lateral "
            f"has; found {list(series.shape)} and {list(initial.shape)} of {series.dtype}: route the parts alike."
        )
    if (network.first[at] < network.first[at + 1]).any():
        raise ValueError(
            "boundary must be of reaches without any upstream here; found others: take parts of cut_parts."
        )
    received = np.full(network.n_reaches, -1, np.int32)
    received[at] = np.arange(len(at))
    return torch.from_numpy(received)


def _in_network_order(network: RiverNetwork, lateral: Tensor, ids: Sequence[int] | str) -> Tensor:
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


def _columns(
    network: RiverNetwork, graph: _Graph, gauges: Sequence[int] | None, device: torch.device
) -> tuple[np.ndarray, Tensor]:
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


def _parameters(
    network: RiverNetwork, given: Mapping[str, Tensor] | None, names: Sequence[str], like: Tensor, scheme: str
) -> dict[str, Tensor]:
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


def _of_reaches(network: RiverNetwork, x: Tensor, what: str, like: Tensor, row: Variable) -> Tensor:
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


def _check_state(network: RiverNetwork, given: dict[str, Any], like: Tensor, scheme: str) -> None:
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
            row = replace(row, lower=-1e30)  # the scheme may go below zero where k and x do not fit the step
        if name in given:
            given[name] = _of_reaches(network, given[name], f"initial_state '{name}'", like, row)


def _check_substeps(network: RiverNetwork, substeps: Any, like: Tensor) -> Tensor | None:
    if substeps is None:
        return None
    whether = isinstance(substeps, bool) or getattr(substeps, "dtype", None) == torch.bool
    shape = getattr(substeps, "shape", ())
    if whether or not isinstance(substeps, Real | Tensor) or shape not in ((), (1,), (network.n_reaches,)):
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
        number: Tensor = like.new_full((network.n_reaches,), float(substeps))
        return number
    return substeps.to(like).expand(network.n_reaches)


def _tile(interval: int | None, n_steps: int, n_reaches: int, keep: bool) -> int:
    """Steps between checkpoints; without checkpoints those that a thread takes at a time."""
    if interval is None:
        # The series of two levels of a tile fit the cache; the adjoint keeps those of all levels in memory.
        interval = min(max(backends.check_interval(n_steps), 16), 64) if keep else 128
        interval = min(interval, 2**31 // (4 * n_reaches) - 1)  # its offsets have 32 bits
    return integer("checkpoint_interval", interval, 1)


def _explain(network: RiverNetwork, lateral: Tensor) -> str:
    bad = ~((lateral >= 0) & (lateral <= MOST_INFLOW))
    row, i = (int(v) for v in bad.nonzero()[0])
    return (
        f"lateral must be 0 to {MOST_INFLOW:g} m3/s without gaps; found {float(lateral[row, i]):g} in row {row} of "
        f"reach {network.ids[i]}: fill or correct it."
    )


def hydraulics(
    network: RiverNetwork,
    discharge: Tensor,
    parameters: Mapping[str, Tensor] | None = None,
    *,
    ids: Sequence[int] | np.ndarray | None = None,
) -> dict[str, Tensor]:
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
    depth = unit_depth(v) * flow ** (3 / (2 + 3 * q1))
    width = v["p"] * depth ** v["q"]
    return {"depth": depth, "top_width": width, "velocity": flow * q1 / (width * depth)}
