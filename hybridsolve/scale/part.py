"""The loop of a continental run: a range of basins, window by window.

While blocks of basins are computed, one a thread, the next is read and the last is written. At the end of a window the
state is kept and the journal gets its line (journal.py); a run that was killed goes on from there, to the same bits.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from ..cluster import cards, device_of
from ..data.usable import refuse_outside
from ..routing.gauge import simulate_to_gauge
from ..routing.units import Units
from ..solve import faults
from . import store
from .cut import AT_WORK, IN_FLIGHT
from .journal import RECORD, Journal, State
from .rivers import Part, route_members, weights
from .setup import Setup, setup_of_worker

log = logging.getLogger(__name__)


def run_part(part: Part, setup: Setup | None = None, *, progress: bool = False) -> tuple[float, float]:
    """Run one part from where its journal ends; the seconds that it waited for input and for output.

    Raises
    ------
    ValueError
        If the forcing of the last finished window is not what it was, or a value lies out of the model's bounds.
    """
    device_of(part.config.device, cards())  # of a worker: it has what was asked for
    setup = setup_of_worker(part.config) if setup is None else setup
    folder, plan = Path(part.config.out), part.plan
    journal, blocks = Journal(folder, part.number), setup.blocks(plan, part.number)
    lines = journal.lines()
    if lines:
        _refuse_other_past(setup, lines[-1], part, blocks)
    state, done = journal.last(part.segment)
    done += part.rows.start
    paths = [folder / f"{part.segment:04d}{kind}.zarr" for kind in setup.kinds]
    groups = [store.open_arrays(path) for path in paths]
    arrays = {name: (group, array) for group in groups for name, array in group.arrays()}
    states = _States(setup, state, blocks)
    windows = list(plan.windows(part.rows.stop, done))
    n_cells = (blocks[-1].stop - blocks[0].start) * setup.members
    waits = [0.0, 0.0]
    bar = tqdm(
        total=(part.rows.stop - part.rows.start) * n_cells,
        initial=(done - part.rows.start) * n_cells,
        disable=not progress,
        unit="cell-steps",
        unit_scale=True,
        dynamic_ncols=True,
        desc=f"run {setup.model.name}",
    )
    with (
        bar,
        ThreadPoolExecutor(1) as reader,
        _at_work(len(blocks), setup.config.device) as (pool, ahead),
        _Writer() as writer,
    ):
        todo = iter([(rows, cols) for rows in windows for cols in blocks])
        tasks = iter([(rows, i) for rows in windows for i in range(len(blocks))])
        coming: list[Future] = []
        computed: list[Future] = []

        def ask() -> None:
            for rows, cols in todo:
                coming.append(reader.submit(_read, setup, rows, cols))
                return

        def begin() -> None:
            """Have the next block computed, whose state of the window before is there: no more than all are at work."""
            for rows, i in tasks:
                computed.append(pool.submit(_work, setup, coming.pop(0), rows, blocks[i], states.before(i)))
                ask()
                return

        for _ in range(IN_FLIGHT - 1):
            ask()
        for _ in range(ahead):
            begin()
        for rows in windows:
            at = slice(rows.start - part.rows.start, rows.stop - part.rows.start)
            held = _Held(setup, rows, along_rivers=not plan.reaches)
            digests: dict[str, int] = dict.fromkeys(setup.source.series, 0)
            for i, cols in enumerate(blocks):
                series, after, found, waited = computed.pop(0).result()
                waits[0] += waited / ahead
                states.put(i, after)
                begin()
                digests = _chained(digests, found)
                began = time.perf_counter()
                for name, x in held.take(series, cols).items():
                    writer.call(store.write, *arrays[name], (at, ..., cols), x)
                waits[1] += time.perf_counter() - began
                bar.update((rows.stop - rows.start) * (cols.stop - cols.start) * setup.members)
                bar.set_postfix_str("waits for input {:.0%}, output {:.0%}".format(*(w / _elapsed(bar) for w in waits)))
            for name, (x, where) in held.finish(states, at).items():
                writer.call(store.write, *arrays[name], where, x)
            began = time.perf_counter()
            writer.call(
                journal.finish, part.segment, at, states.copy(), digests
            )  # after what is to be written before it
            waits[1] += time.perf_counter() - began
            log.debug(
                "part %d: steps %d to %d of %d basins are computed, waited %.1f s for input, %.1f s for output",
                part.number, rows.start, rows.stop, blocks[-1].stop - blocks[0].start, *waits
            )  # fmt: skip
        began = time.perf_counter()
        writer.wait()
        waits[1] += time.perf_counter() - began
    return waits[0], waits[1]


def _elapsed(bar: tqdm) -> float:
    return max(1e-9, time.time() - bar.start_t) if hasattr(bar, "start_t") else np.inf


def _read(setup: Setup, rows: slice, cols: slice) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The forcing of a block, and the digest of each."""
    forcing = setup.source.read(rows, cols)
    return forcing, {name: digest(x) for name, x in forcing.items()}


def digest(x: np.ndarray) -> int:
    """A CRC-32 that a value changes which is another or has moved: of sums of the bits, five times as fast as of all.

    The values as they lie in memory, in pairs, make tables of 128 rows; the sums are along both sides of each.
    """
    words = np.ascontiguousarray(x).reshape(-1)
    whole = len(words) // 2048 * 2048
    rows = words[:whole].view(np.uint64).reshape(-1, 1024)
    found = zlib.crc32(words[whole:].data)
    for i in range(0, len(rows), 128):  # which the cache of a core holds
        some = rows[i : i + 128]
        found = zlib.crc32(np.add.reduce(some, 1).data, zlib.crc32(np.add.reduce(some, 0).data, found))
    return found


@contextmanager
def _at_work(n_blocks: int, device: str) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that compute blocks, and how many: they share torch's threads, one each where there are blocks enough.

    Threads that torch shares among several operations at once spin while they wait for one another. A GPU has one block
    at a time, so that what is wrong with a value is known of its block.
    """
    threads = torch.get_num_threads()
    ahead = 1 if device == "cuda" else min(threads, n_blocks, AT_WORK)
    try:
        with ThreadPoolExecutor(ahead, initializer=torch.set_num_threads, initargs=(threads // ahead,)) as pool:
            yield pool, ahead
    finally:
        torch.set_num_threads(threads)  # which threads to come begin with


def _work(
    setup: Setup, coming: Future, rows: slice, cols: slice, before: State | None
) -> tuple[dict[str, torch.Tensor], State, dict[str, int], float]:
    """A block's series, state and digests of its forcing, and the seconds that it waited for input."""
    began = time.perf_counter()
    forcing, digests = coming.result()
    waited = time.perf_counter() - began
    series, after = compute(setup, forcing, cols, rows, before)
    return {name: x.contiguous() for name, x in series.items()}, after, digests, waited


def _chained(digests: Mapping[str, int], of_block: Mapping[str, int]) -> dict[str, int]:
    """Digests of a window's forcing, CRC-32 of those of its blocks one after another."""
    return {name: zlib.crc32(of_block[name].to_bytes(4, "little"), x) for name, x in digests.items()}


def verify_past(part: Part, setup: Setup) -> int:
    """Read the forcing of all finished windows of a part again, and give how many there are.

    Raises
    ------
    ValueError
        If one is not there, or is not what it was.
    """
    lines, blocks = Journal(Path(part.config.out), part.number).lines(), setup.blocks(part.plan, part.number)
    for line in lines:
        if not _refuse_other_past(setup, line, part, blocks):
            raise ValueError(
                f"the forcing must hold all that the run in {part.config.out} has read to be verified, found it to "
                f"begin at {setup.source.time[0]}; give the whole, without a period."
            )
    return len(lines)


def _refuse_other_past(setup: Setup, line: Mapping[str, Any], part: Part, blocks: Sequence[slice]) -> bool:
    """Raise if the forcing of a finished window has changed since; False where it is not there any more."""
    first, last = line["steps"]
    start = json.loads((Path(part.config.out) / RECORD).read_text())["segments"][line["segment"]][0]
    begin = setup.source.row_of(np.datetime64(start))
    if begin + first < 0:
        return False
    rows, digests = slice(begin + first, begin + last), dict.fromkeys(setup.source.series, 0)
    for cols in blocks:
        digests = _chained(digests, _read(setup, rows, cols)[1])
    if changed := [name for name, x in digests.items() if x != line["forcing"][name]]:
        raise ValueError(
            f"the forcing's past must stay as it was, found another {changed[0]} in the steps from "
            f"{setup.source.time[rows.start]} to {setup.source.time[rows.stop - 1]} than the run in {part.config.out} "
            "has read; begin anew in another folder."
        )
    return True


def compute(
    setup: Setup, forcing: Mapping[str, np.ndarray], cols: slice, rows: slice, before: State | None
) -> tuple[dict[str, torch.Tensor], State]:
    """Series ``[T, B]`` or ``[T, M, B]`` of a block over a window, and the state after it.

    A state is ``[.., C, M, B]``: of each component, member and basin. With units the outflow and the memory of the
    hydrograph are of gauges.
    """
    model, n, at = setup.model, cols.stop - cols.start, setup.catchments_of(cols)
    device = torch.device(setup.config.device)
    in_forcing, n_at, units = setup.source.members or 1, at.stop - at.start, None
    if setup.units is not None:  # those of each member of the forcing are gauges of their own
        here, _ = setup.units.of_gauges(np.arange(at.start, at.stop))
        of_member = np.repeat(np.arange(in_forcing), n)
        units = Units(
            here.ids * in_forcing, np.tile(here.gauge, in_forcing) + n_at * of_member, np.tile(here.share, in_forcing)
        )

    def column(x: np.ndarray, places: slice = cols) -> torch.Tensor:
        chosen = torch.as_tensor(x[places].astype(np.float32))
        return chosen.reshape(len(chosen), -1).repeat(in_forcing, 1).to(device)

    def cells(x: np.ndarray) -> torch.Tensor:  # [.., C, M, B] as [.., M B, C]
        return torch.as_tensor(x).movedim(-3, -1).flatten(-3, -2).to(device)

    state = {name: cells(x) for name, x in (before or {}).items() if name != "hydrograph"}
    memory = None
    if before is not None and "hydrograph" in before:
        memory = torch.as_tensor(before["hydrograph"]).flatten(1).to(device)
    try:
        with torch.no_grad():
            run = simulate_to_gauge(
                model,
                {name: torch.as_tensor(x.reshape(len(x), -1)).to(device) for name, x in forcing.items()},
                {
                    name: column(x, at if name in model.routing_parameter_names else cols)
                    for name, x in setup.values.items()
                },
                fluxes=setup.needed,
                components="each" if setup.apart else "mean",
                inputs={name: column(x)[:, 0] for name, x in setup.inputs.items()} or None,
                networks={name: torch.as_tensor(x).to(device) for name, x in setup.weights.items()},
                step=setup.source.step,
                initial_state=state or None,
                memory=memory,
                units=units,
                backend=setup.config.backend,
            )
            if device.type == "cuda":
                faults.synchronize()
    except ValueError:
        variables = {name: (("time", "basin"), x) for name, x in forcing.items() if x.ndim == 2}
        coords = {"time": setup.source.time[rows], "basin": setup.source.basins[cols]}
        if len(variables) == len(forcing):
            refuse_outside(xr.Dataset(variables, coords=coords), model)  # names the basin and the date
        raise
    after = {
        name: x.cpu().unflatten(-2, (in_forcing, n)).movedim(-1, -3).contiguous().numpy()
        for name, x in run.final_state.items()
    }
    if run.memory is not None:
        after["hydrograph"] = run.memory.cpu().reshape(len(run.memory), -1, in_forcing, n_at).numpy()
    series = {}
    for name, on_device in run.fluxes.items():
        x = on_device.cpu()
        if setup.apart:
            series[name] = x.transpose(1, 2)
        else:
            series[name] = x.unflatten(1, (in_forcing, -1)) if setup.source.members else x
    return series, after


class _States:
    """The states of a part's basins, from window to window; those of the rivers beside them."""

    def __init__(self, setup: Setup, whole: State | None, blocks: Sequence[slice]):
        self.blocks, self.catchments = blocks, [setup.catchments_of(cols) for cols in blocks]
        self.arrays: State = {} if whole is None else dict(whole)
        self.known = set(range(len(blocks))) if whole is not None else set()

    def before(self, i: int) -> State | None:
        if i not in self.known:
            return None
        of_basins = {name: x for name, x in self.arrays.items() if not name.startswith("rivers.")}
        return {name: x[..., self._places(name)[i]] for name, x in of_basins.items()}

    def put(self, i: int, after: State) -> None:
        for name, x in after.items():
            places = self._places(name)
            if name not in self.arrays:
                self.arrays[name] = np.empty((*x.shape[:-1], places[-1].stop), x.dtype)
            self.arrays[name][..., places[i]] = x
        self.known.add(i)

    def copy(self) -> State:
        return {name: x.copy() for name, x in self.arrays.items()}

    def rivers(self) -> State:
        return {name.removeprefix("rivers."): x for name, x in self.arrays.items() if name.startswith("rivers.")}

    def put_rivers(self, after: State) -> None:
        self.arrays.update({f"rivers.{name}": x for name, x in after.items()})

    def _places(self, name: str) -> list[slice]:
        """Of each block, along the last axis of an array."""
        places = self.catchments if name == "hydrograph" else self.blocks
        return [slice(x.start - places[0].start, x.stop - places[0].start) for x in places]


class _Held:
    """What a window gives only when all its blocks are done: chosen basins, gauges of units, discharge of rivers."""

    def __init__(self, setup: Setup, rows: slice, along_rivers: bool):
        self.setup, n_steps = setup, rows.stop - rows.start
        members = [setup.members] if setup.members > 1 else []
        self.places = {name: places for name in setup.fluxes if (places := setup.kept(name)[1]) is not None}
        self.held = {name: np.empty((n_steps, *members, len(x)), np.float32) for name, x in self.places.items()}
        self.lateral = None
        if setup.network is not None and along_rivers:
            self.lateral = torch.zeros(n_steps, setup.members, setup.network.n_reaches)
            self.weight = weights(setup)

    def take(self, series: Mapping[str, torch.Tensor], cols: slice) -> dict[str, np.ndarray]:
        """What of a block is written at once."""
        at, outflow = self.setup.catchments_of(cols), self.setup.model.outflow
        if self.lateral is not None:
            reach = torch.as_tensor(self.setup.reach[at])
            runoff = series[outflow].reshape(len(self.lateral), self.setup.members, -1)
            self.lateral[..., reach] = runoff * self.weight[reach]
        for name, x in self.held.items():
            here = at if name == outflow else cols
            first, last = np.searchsorted(self.places[name], [here.start, here.stop])
            x[..., first:last] = series[name][..., self.places[name][first:last] - here.start].numpy()
        return {name: series[name].numpy() for name in self.setup.fluxes if name not in self.held}

    def finish(self, states: _States, at: slice) -> dict[str, tuple[np.ndarray, tuple]]:
        """What of the window is left to write, by name, and where."""
        left: dict[str, tuple[np.ndarray, tuple]] = {name: (x, (at, ...)) for name, x in self.held.items()}
        if self.lateral is None or self.setup.network is None:
            return left
        discharge, after, _ = route_members(
            self.setup, self.setup.network, self.lateral, states.rivers(), self.setup.gauges
        )
        states.put_rivers(after)
        left["discharge"] = discharge, (slice(at.start * self.setup.repeat, at.stop * self.setup.repeat), ...)
        return left


class _Writer:
    """One thread that writes, one thing after another, and a few blocks that wait for it."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.pending: list[Future] = []
        self.failed = False

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=kind is not None)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function when all before it are done, unless one has failed; raises what one of them has raised."""
        while len(self.pending) >= IN_FLIGHT:
            self.pending.pop(0).result()
        self.pending.append(self.pool.submit(self._next, function, *arguments))

    def _next(self, function: Callable[..., object], *arguments: Any) -> None:
        if self.failed:  # a window is not said to be finished of which something could not be written
            return
        try:
            function(*arguments)
        except BaseException:
            self.failed = True
            raise

    def wait(self) -> None:
        for future in self.pending:
            future.result()
        self.pending.clear()
