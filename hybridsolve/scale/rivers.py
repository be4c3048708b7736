"""Rivers of a continental run: routed window by window with its basins, or apart, system by system, after them.

A run of several parts computes ranges of basins on their own, which know nothing of a river's other basins. So their
runoff is written first; then parts of the network that nothing joins read it, each with a journal and a state of its
own, and what they have routed is put together in the store of discharge.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..routing.muskingum import route
from ..routing.network import RiverNetwork
from ..routing.schemes import SCHEMES
from . import store
from .config import RunConfig
from .cut import Plan
from .journal import Journal, State
from .setup import Setup, make_setup


@dataclass(frozen=True)
class Part:
    """A part of a segment, as a worker takes it: `rows` of the forcing, as it is cut by the plan.

    Attributes
    ----------
    number : int
        From 0 on ranges of blocks of basins, then, where there are several, systems of rivers.
    """

    config: RunConfig
    plan: Plan
    segment: int
    rows: slice
    number: int


def weights(setup: Setup) -> torch.Tensor:
    """What makes mm per step of each reach's catchment m3/s."""
    assert setup.network is not None
    return torch.as_tensor(setup.network.attribute("area")).float() / (1000 * setup.source.step)


def route_members(
    setup: Setup, network: RiverNetwork, lateral: torch.Tensor, before: State | None, gauges: np.ndarray | None
) -> tuple[np.ndarray, State]:
    """Discharge ``[T, G]`` or ``[T, M, G]`` of lateral inflow ``[T, M, N]``, and the state ``[M, N]`` after it."""
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
            )
            for member in range(setup.members)
        ]
    after = {name: torch.stack([x.final_state[name] for x in routed]).numpy() for name in routed[0].final_state}
    discharge = routed[0].discharge if len(routed) == 1 else torch.stack([x.discharge for x in routed], 1)
    return discharge.numpy(), after


# --- Apart --------------------------------------------------------------------------------------------------------


def river_parts(setup: Setup, plan: Plan, segment: int, rows: slice) -> list[Part]:
    """What is routed when all basins are done; nothing where they are one part."""
    if setup.network is None or plan.parts == 1:
        return []
    return [Part(setup.config, plan, segment, rows, plan.parts + i) for i in range(_n_parts(setup, plan))]


def _n_parts(setup: Setup, plan: Plan) -> int:
    assert setup.network is not None
    return min(plan.parts, int((setup.network.downstream < 0).sum()))


def _gauges(setup: Setup) -> np.ndarray:
    assert setup.network is not None
    return setup.network.ids if setup.gauges is None else setup.gauges


def _path(part: Part) -> Path:
    return Path(part.config.out) / f"{part.segment:04d}.rivers-{part.number:04d}.zarr"


def route_part(part: Part, setup: Setup | None = None) -> None:
    """Route some river systems from where their journal ends, from the runoff that the run has written."""
    setup = make_setup(part.config) if setup is None else setup
    folder, plan = Path(part.config.out), part.plan
    assert setup.network is not None
    network = setup.network.parts(_n_parts(setup, plan))[part.number - plan.parts]
    gauges = _gauges(setup)[np.isin(_gauges(setup), network.ids)]
    if not len(gauges):
        return
    members, repeat = [setup.members] if setup.members > 1 else [], setup.repeat
    n_steps, window = part.rows.stop - part.rows.start, min(plan.window, part.rows.stop - part.rows.start)
    sizes, chunks = (n_steps * repeat, *members, len(gauges)), (window * repeat, *(1 for _ in members), len(gauges))
    output = store.Output("discharge", ("time", *(["member"] if members else []), "reach"), sizes, chunks, {})
    store.create(_path(part), [output], {}, {}, setup.config.compress)
    target: Any = store.open_arrays(_path(part))["discharge"]
    runoff: Any = store.open_arrays(folder / f"{part.segment:04d}.zarr")[setup.model.outflow]
    place = np.full(setup.network.n_reaches, -1)
    place[network.order] = np.arange(network.n_reaches)
    weight, to = weights(setup), place[setup.reach]  # of each basin, in the whole network and in the part
    journal = Journal(folder, part.number)
    state, done = journal.last(part.segment)
    for rows in plan.windows(n_steps, done):
        lateral = torch.zeros(rows.stop - rows.start, setup.members, network.n_reaches)
        for cols in plan.blocks:
            here = np.flatnonzero(to[cols] >= 0)
            if len(here):
                x = torch.as_tensor(runoff[(rows, ..., cols)][..., here]).reshape(len(lateral), setup.members, -1)
                lateral[..., to[cols][here]] = x * weight[setup.reach[cols][here]]
        discharge, state = route_members(setup, network, lateral, state, gauges)
        target[rows.start * repeat : rows.stop * repeat] = discharge
        journal.finish(part.segment, rows, state, {})


def put_together(setup: Setup, parts: list[Part]) -> None:
    """Write what parts have routed into the store of discharge, a window at a time."""
    plan, rows = parts[0].plan, parts[0].rows
    group = store.open_arrays(Path(setup.config.out) / f"{parts[0].segment:04d}.rivers.zarr")
    target: Any = group["discharge"]
    networks = setup.network.parts(len(parts))  # type: ignore[union-attr]  # there is one
    at = [np.flatnonzero(np.isin(_gauges(setup), network.ids)) for network in networks]
    found: list[Any] = [
        store.open_arrays(_path(p))["discharge"] if len(i) else None for p, i in zip(parts, at, strict=True)
    ]
    for window in plan.windows(rows.stop - rows.start):
        steps = slice(window.start * setup.repeat, window.stop * setup.repeat)
        x = np.empty((steps.stop - steps.start, *target.shape[1:]), np.float32)
        for array, places in zip(found, at, strict=True):
            if array is not None:
                x[..., places] = array[steps]
        store.write(group, target, (steps, ...), x)


def remove_parts(folder: Path) -> None:
    """Remove what the parts had for themselves."""
    for path in folder.glob("[0-9][0-9][0-9][0-9].rivers-*.zarr"):
        shutil.rmtree(path)
