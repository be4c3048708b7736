"""Rivers of a continental run: routed window by window with its basins, or apart, part by part, after them.

A run of several parts computes ranges of basins on their own, which know nothing of a river's other basins; and the
rivers of all basins may not fit the memory. So the runoff is written first; then parts of the network, which is cut at
confluences where a system is too large, read it, each with a journal and a state of its own, and those below read what
flows over the cuts from the files of those above. What they have routed is put together in the store of discharge.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cluster import spread
from ..routing.muskingum import Boundary, route
from ..routing.network import RiverNetwork
from ..routing.parts import RiverPart, cut_parts
from ..routing.schemes import SCHEMES
from . import store
from .config import RunConfig
from .cut import Plan
from .journal import Journal, State
from .setup import Setup, setup_of_worker

if TYPE_CHECKING:
    from distributed import Client

COLUMNS = 1024  # reaches of a chunk of what a part has routed


@dataclass(frozen=True)
class Part:
    """A part of a segment, as a worker takes it: `rows` of the forcing, as it is cut by the plan.

    Attributes
    ----------
    number : int
        From 0 on ranges of blocks of basins, then parts of the rivers.
    river : RiverPart, optional
        Of a part of the rivers.
    above : tuple of int
        Numbers of the parts of the rivers that flow into it.
    """

    config: RunConfig
    plan: Plan
    segment: int
    rows: slice
    number: int
    river: RiverPart | None = None
    above: tuple[int, ...] = ()


def weights(setup: Setup) -> torch.Tensor:
    """What makes mm per step of each reach's catchment m3/s."""
    assert setup.network is not None
    return torch.as_tensor(setup.network.attribute("area")).float() / (1000 * setup.source.step)


def route_members(
    setup: Setup,
    network: RiverNetwork,
    lateral: torch.Tensor,
    before: State | None,
    gauges: np.ndarray | None,
    given: Sequence[Boundary] = (),
    exports: np.ndarray | Sequence[int] = (),
) -> tuple[np.ndarray, State, list[Boundary]]:
    """Discharge ``[T, G]`` or ``[T, M, G]`` of lateral inflow ``[T, M, N]``, and the state ``[M, N]`` after it.

    Of a part of a network also, of each member, what comes from above, and what goes on over the cuts below.
    """
    about = setup.config.rivers
    assert about is not None
    constants = {n: torch.tensor([x]) for n, x in about.constants.items() if n in SCHEMES[about.scheme][0]}
    with torch.no_grad():
        routed = [
            route(
                network,
                lateral[:, member].contiguous(),
                constants,
                initial_state={name: torch.as_tensor(x[member]) for name, x in (before or {}).items()} or None,
                ids="network",
                dt=about.dt,
                scheme=about.scheme,
                repeat=setup.repeat,
                gauges=None if gauges is None else gauges.tolist(),
                boundary=given[member] if given else None,
                exports=[int(i) for i in exports] or None,
            )
            for member in range(setup.members)
        ]
    after = {name: torch.stack([x.final_state[name] for x in routed]).numpy() for name in routed[0].final_state}
    discharge = routed[0].discharge if len(routed) == 1 else torch.stack([x.discharge for x in routed], 1)
    return discharge.numpy(), after, [x.boundary for x in routed if x.boundary is not None]


# --- Apart --------------------------------------------------------------------------------------------------------


def river_parts(setup: Setup, plan: Plan, segment: int, rows: slice) -> list[Part]:
    """What is routed when all basins are done, in an order to route: the parts that flow to a gauge.

    Nothing where rivers are routed along with the basins.
    """
    if setup.network is None or not plan.reaches:
        return []
    rivers, gauges = cut_parts(setup.network, plan.reaches), _gauges(setup)
    source = {int(reach): plan.parts + i for i, river in enumerate(rivers) for reach in river.exports}
    parts, wanted = [], np.empty(0, np.int64)
    for i, river in reversed(list(enumerate(rivers))):
        if np.isin(gauges, _own(river)).any() or np.isin(river.exports, wanted).any():
            above = tuple(sorted({source[int(reach)] for reach in river.receives}))
            parts.append(Part(setup.config, plan, segment, rows, plan.parts + i, river, above))
            wanted = np.concatenate([wanted, river.receives])
    return parts[::-1]


def route_parts(parts: Sequence[Part], setup: Setup, cluster: Client | None) -> Iterator[None]:
    """Route parts, those of one depth at the same time, one depth after another."""
    work = partial(route_part, setup=setup) if cluster is None else route_part
    for _, together in groupby(parts, lambda part: _river(part).depth):
        for _ in spread(work, together, cluster):
            yield


def _river(part: Part) -> RiverPart:
    assert part.river is not None
    return part.river


def _own(river: RiverPart) -> np.ndarray:
    own: np.ndarray = river.network.ids[river.own]
    return own


def _gauges(setup: Setup) -> np.ndarray:
    assert setup.network is not None
    return setup.network.ids if setup.gauges is None else setup.gauges


def _path(part: Part, number: int | None = None) -> Path:
    number = part.number if number is None else number
    return Path(part.config.out) / f"{part.segment:04d}.rivers-{number:04d}.zarr"


def route_part(part: Part, setup: Setup | None = None) -> None:
    """Route a part of the rivers from where its journal ends.

    It reads the runoff that the run has written, and what the parts above it have left in their stores, which are whole
    by then; it leaves the discharge at its gauges and what flows over the cuts to the parts below.
    """
    setup = setup_of_worker(part.config) if setup is None else setup
    folder, plan, river = Path(part.config.out), part.plan, _river(part)
    assert setup.network is not None
    network, members, repeat = river.network, setup.members, setup.repeat
    gauges = _gauges(setup)[np.isin(_gauges(setup), _own(river))]
    n_steps, window = part.rows.stop - part.rows.start, min(plan.window, part.rows.stop - part.rows.start)
    _create(part, len(gauges), n_steps * repeat, window * repeat, members)
    target: Any = store.open_arrays(_path(part))
    runoff: Any = store.open_arrays(folder / f"{part.segment:04d}.zarr")[setup.model.outflow]
    place = np.full(setup.network.n_reaches, -1)
    place[network.order[river.own]] = river.own
    weight, to = weights(setup), place[setup.reach]  # of each basin, in the whole network and in the part
    received = np.flatnonzero(np.isin(network.ids, river.receives))
    journal = Journal(folder, part.number)
    state, done = journal.last(part.segment)
    for rows in plan.windows(n_steps, done):
        steps = slice(rows.start * repeat, rows.stop * repeat)
        lateral = torch.zeros(rows.stop - rows.start, members, network.n_reaches)
        for cols in plan.blocks:
            here = np.flatnonzero(to[cols] >= 0)
            if len(here):
                x = torch.as_tensor(runoff[(rows, ..., cols)][..., here]).reshape(len(lateral), members, -1)
                lateral[..., to[cols][here]] = x * weight[setup.reach[cols][here]]
        shown, given = gauges if len(gauges) else _own(river)[:1], _received(part, steps, members)
        discharge, state, over = route_members(setup, network, lateral, state, shown, given, river.exports)
        if "storage" in state:
            state["storage"][:, received] = 0  # which nothing reads: theirs are in the part above
        if len(gauges):
            target["discharge"][steps] = discharge
        if over:
            target["over_cuts"][steps] = torch.stack([x.series for x in over], 1).numpy()
            if rows.start == 0:
                target["at_begin"][...] = torch.stack([x.initial for x in over]).numpy()
        journal.finish(part.segment, rows, state, {})


def _create(part: Part, n_gauges: int, n_steps: int, window: int, members: int) -> None:
    """The store of a part of the rivers, for itself."""
    outputs, exports = [], _river(part).exports
    if n_gauges:
        of_members, n = [members] if members > 1 else [], min(n_gauges, COLUMNS)
        dims = ("time", *(["member"] if of_members else []), "reach")
        sizes, chunks = (n_steps, *of_members, n_gauges), (window, *(1 for _ in of_members), n)
        outputs.append(store.Output("discharge", dims, sizes, chunks, {}))
    if n := len(exports):
        sizes = (n_steps, members, 2, n)
        outputs.append(
            store.Output("over_cuts", ("time", "member", "series", "export"), sizes, (window, *sizes[1:]), {})
        )
        outputs.append(store.Output("at_begin", ("member", "export"), (members, n), (members, n), {}))
    store.create(_path(part), outputs, {"export": store.Axis(exports, {}, ("export",))}, {}, part.config.compress)


def _received(part: Part, steps: slice, members: int) -> list[Boundary]:
    """What the parts above have left for this one, of each member; nothing where it has none above."""
    ids = _river(part).receives
    series = np.empty((steps.stop - steps.start, members, 2, len(ids)), np.float32)
    initial = np.empty((members, len(ids)), np.float32)
    for number in part.above:
        given: Any = store.open_arrays(_path(part, number))
        _, here, there = np.intersect1d(ids, given["export"][...], return_indices=True)
        series[..., here] = given["over_cuts"][steps][..., there]
        initial[:, here] = given["at_begin"][...][:, there]
    if not len(ids):
        return []
    return [
        Boundary(ids, torch.as_tensor(series[:, m]).contiguous(), torch.as_tensor(initial[m])) for m in range(members)
    ]


def put_together(setup: Setup, parts: Sequence[Part]) -> None:
    """Write what parts have routed into the store of discharge, a chunk at a time."""
    plan, rows, gauges = parts[0].plan, parts[0].rows, _gauges(setup)
    group = store.open_arrays(Path(setup.config.out) / f"{parts[0].segment:04d}.rivers.zarr")
    target: Any = group["discharge"]
    found: list[tuple[np.ndarray, Any]] = []
    for part in parts:
        at = np.flatnonzero(np.isin(gauges, _own(_river(part))))
        if len(at):
            found.append((at, store.open_arrays(_path(part))["discharge"]))
    for window in plan.windows(rows.stop - rows.start):
        steps = slice(window.start * setup.repeat, window.stop * setup.repeat)
        for b in range(0, len(gauges), target.chunks[-1]):
            cols = slice(b, min(b + target.chunks[-1], len(gauges)))
            for members in [(slice(m, m + 1),) for m in range(setup.members)] if setup.members > 1 else [()]:
                x = np.empty((steps.stop - steps.start, *(1 for _ in members), cols.stop - b), np.float32)
                for at, array in found:
                    first, last = np.searchsorted(at, [cols.start, cols.stop])
                    if last > first:
                        x[..., at[first:last] - b] = array[(steps, *members, slice(first, last))]
                store.write(group, target, (steps, *members, cols), x)


def remove_parts(folder: Path) -> None:
    """Remove what the parts had for themselves."""
    for path in folder.glob("[0-9][0-9][0-9][0-9].rivers-*.zarr"):
        shutil.rmtree(path)
