"""The search of many basins from many starts, cut into blocks that need nothing of each other.

A block has some basins and some starts, at most `STARTS`; more starts are searches of their own, each with its own
points. How the blocks are cut follows from the data and the settings alone, so that a result has the same bits on one
core and on a cluster, which work on them in any order. What a finished block has found is a file beside the checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..arguments import SEEDS
from ..cluster import spread
from ..data.files import check_target, load_weights_only, write_atomic
from .objective import Objective
from .search import EvolutionSearch, GradientSearch, LeastSquaresSearch, Search, starting_points
from .space import SearchSpace
from .windows import Window

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)
SAVE_EVERY = float(os.environ.get("HYBRIDSOLVE_SAVE_EVERY", "20"))  # seconds between checkpoints of a running search
BLOCK_BYTES, MOST_BYTES = 1e7, 3e8  # of one flow series [T, B, S] of a block: usually, and at most
BLOCK_CELLS = 512  # basins x starts of a block at least, within its most bytes, so that threads have work
BLOCKS = 12  # at least, where there are cells for them: evenly shared by 2, 3, 4 or 6 workers
STARTS = 64  # of a search at most
Found = tuple[Tensor, Tensor, int]  # best points [P, B, S], losses [B, S] in order, steps taken


class Bar(tqdm):
    """Without tqdm's thread, which outlives the bar.

    A NetCDF file that the user has left open is closed by whichever thread collects garbage; where that is not the main
    thread, which may be reading or writing another, the HDF5 library crashes.
    """

    monitor_interval = 0


@dataclass(frozen=True)
class Block:
    """What one search needs, wherever it runs.

    Attributes
    ----------
    period : Window
        Of the block's basins.
    settings : dict
        Of the calibration: method, loss, steps.
    size : int
        Points that each basin starts from; `kept` of them are results.
    """

    space: SearchSpace
    period: Window
    settings: dict[str, Any]
    size: int
    kept: int
    seed: int

    def search(self) -> Search:
        """The search before its first step."""
        settings, n_basins = self.settings, self.period.obs.shape[1]
        objective = Objective(self.space, self.period, settings["loss"])
        start = starting_points(len(self.space.free), n_basins, self.size, self.seed, self.period.obs.dtype)
        if settings["method"] == "lm":
            return LeastSquaresSearch(objective, start, settings["steps"], self.seed)
        if settings["method"] == "gradient":
            return GradientSearch(objective, start, settings["steps"])
        return EvolutionSearch(objective, start, settings["steps"], self.seed)

    def found(self, search: Search) -> Found:
        """What a search that has ended has found."""
        order = search.best_loss.argsort(1)[:, : self.kept]
        best = search.best.gather(2, order.expand(len(self.space.free), -1, -1))
        return best, search.best_loss.gather(1, order), search.steps_taken


def basins_of_a_block(n_basins: int, n_steps: int, n_starts: int) -> int:
    """How many basins a block has at most: few, so that blocks end early, are kept soon, and all workers have some."""
    of_a_basin, least = 4 * n_steps * n_starts, BLOCK_CELLS / n_starts
    usually = min(max(BLOCK_BYTES / of_a_basin, least), MOST_BYTES / of_a_basin)
    return max(1, int(min(usually, max(least, -(-n_basins // BLOCKS)))))


def searched(block: Block) -> Found:
    """A block searched from its first step to its last, as a worker does it."""
    search = block.search()
    while search.done < search.n_steps:
        search.step()
    return block.found(search)


def search_blocks(
    space: SearchSpace,
    train: Window,
    usable: np.ndarray,
    settings: dict,
    fingerprint: str,
    checkpoint: str | Path | None,
    resume: bool,
    progress: bool,
    client: Client | None = None,
) -> Found:
    """Best points and losses of the usable basins, starts in order; and the most steps that a block has taken.

    Parameters
    ----------
    fingerprint : str
        What a checkpoint must share with the run that resumes it.
    client : distributed.Client, optional
        Whose workers search the blocks; None: one after another in this process.
    """
    n_starts, steps = settings["starts"], settings["steps"]
    if settings["method"] == "evolution":  # whose population is one
        groups, size = [n_starts], max(8, 6 * n_starts)
    else:
        groups = [len(part) for part in np.array_split(np.arange(n_starts), -(-n_starts // STARTS))]
        size = max(groups)
    # Where no gradient is taken, points run in slices, and only one slice of them counts.
    at_once = min(size, max(n_starts, Objective.SLICE))
    basins = np.array_split(usable, -(-len(usable) // basins_of_a_block(len(usable), len(train.obs), at_once)))
    places = [(b, g) for b in range(len(basins)) for g in range(len(groups))]
    saved = Checkpoint(checkpoint, f"{fingerprint} {len(basins)} {groups}", resume)

    def block(i: int) -> Block:
        b, g = places[i]
        whole = client is None and len(basins) == 1 and len(usable) == train.obs.shape[1]
        period = train if whole else train.basins(basins[b])
        kept = groups[g]
        points = size if settings["method"] == "evolution" else kept
        return Block(space, period, settings, points, kept, (settings["seed"] + g) % (SEEDS + 1))

    with Bar(
        total=len(places) * steps,
        disable=not progress,
        unit="step",
        miniters=1,
        dynamic_ncols=True,
        desc=f"calibrate {space.model.name}, {len(usable)} basins x {sum(groups) if len(groups) > 1 else size}",
    ) as bar:
        bar.update(len(saved.finished) * steps)
        todo = [i for i in range(len(places)) if i not in saved.finished]
        if client is None:
            for i in todo:
                part = block(i)
                search = part.search()
                if saved.running is not None and saved.running[0] == i:
                    search.load_state_dict(saved.running[1])
                    bar.update(search.done)
                _run(search, bar, partial(saved.keep_running, i))
                saved.keep(i, part.found(search))
        else:
            for place, found in spread(searched, map(block, todo), client):
                saved.keep(todo[place], found)
                workers = len(client.nthreads())
                bar.set_postfix_str(f"median loss {found[1].amin(1).median():.4f}, {workers} workers", refresh=False)
                bar.update(steps)
    return _together([saved.finished[i] for i in range(len(places))], len(groups))


def _together(found: list[Found], n_groups: int) -> Found:
    """The blocks' results as one: groups of starts beside each other and in order, then basins."""
    all_points, all_losses = [], []
    for i in range(0, len(found), n_groups):
        best = torch.cat([points for points, _, _ in found[i : i + n_groups]], dim=2)
        loss = torch.cat([loss for _, loss, _ in found[i : i + n_groups]], dim=1)
        if n_groups > 1:
            order = loss.argsort(dim=1, stable=True)
            best, loss = best.gather(2, order.expand(len(best), -1, -1)), loss.gather(1, order)
        all_points.append(best)
        all_losses.append(loss)
    return torch.cat(all_points, dim=1), torch.cat(all_losses), max(steps for _, _, steps in found)


class Checkpoint:
    """What is finished, a file for each block in a folder, and the state of the search that runs, in a file beside it.

    Attributes
    ----------
    finished : dict of int to Found
        By block.
    running : (int, dict), optional
        A block and its search's state.

    Raises
    ------
    ValueError
        If what is resumed is damaged, or is of another calibration.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, resume: bool):
        self.path = None if path is None else Path(path)
        self.fingerprint = fingerprint
        self.finished: dict[int, Found] = {}
        self.running: tuple[int, dict] | None = None
        if self.path is None:
            return
        self.folder = self.path.with_suffix(".blocks")
        files = sorted(self.folder.glob("*.pt"))
        if resume and self.path.exists():
            state = self._read(self.path, {"block", "search"})
            self.running = None if state["search"] is None else (state["block"], state["search"])
            for file in files:
                content = self._read(file, {"points", "loss", "steps"})
                self.finished[int(file.stem)] = content["points"], content["loss"], content["steps"]
            return
        check_target("checkpoint", self.path)
        self._write(self.path, block=0, search=None)  # first, so that a kill leaves no finished blocks of another run
        for file in files:
            file.unlink()

    def keep_running(self, block: int, search: dict) -> None:
        """Save the state of a search that is not at its end."""
        if self.path is not None:
            self._write(self.path, block=block, search=search)

    def keep(self, block: int, found: Found) -> None:
        """Save what a block has found."""
        self.finished[block] = found
        log.debug("block %d: %d basins searched, median loss %.4f", block, len(found[1]), found[1].amin(1).median())
        if self.path is not None:
            self.folder.mkdir(exist_ok=True)
            points, loss, steps = found
            self._write(self.folder / f"{block}.pt", points=points, loss=loss, steps=steps)

    def _write(self, path: Path, **content: Any) -> None:
        content["fingerprint"] = self.fingerprint
        write_atomic(path, lambda temporary: torch.save(content, temporary))

    def _read(self, path: Path, names: set[str]) -> dict:
        what, remedy = "a checkpoint of `hybridsolve calibrate`", "remove it and calibrate anew, without resume"
        state = load_weights_only(path, what, remedy)
        if not names | {"fingerprint"} <= state.keys():
            raise ValueError(f"{path} is not {what}: {remedy}.")
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"checkpoint {path} is of another calibration (settings, basins, data or version differ); resume with "
                "the arguments of the first run, or calibrate anew, without resume."
            )
        return state


def _run(search: Search, bar: Bar, save: Callable[[dict], None]) -> None:
    """Run a search to its end, with its state saved from time to time and where it is interrupted."""
    objective: Any = search.objective
    saved = time.monotonic()
    try:
        while search.done < search.n_steps:
            before, began = search.done, time.perf_counter()
            with _postponed_signals():
                search.step()
            rate = search.evaluations_per_step * objective.period.obs.numel()
            rate /= 1e6 * (time.perf_counter() - began)
            median = search.best_loss.amin(1).median()
            bar.set_postfix_str(f"median loss {median:.4f}, {rate:.0f} M cell-steps/s", refresh=False)
            bar.update(search.done - before)
            if time.monotonic() - saved > SAVE_EVERY:
                save(search.state_dict())
                saved = time.monotonic()
    except KeyboardInterrupt:
        if search.done:
            save(search.state_dict())
        raise


@contextmanager
def _postponed_signals() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until a step has ended, so that the state is consistent and can be saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    caught = []
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in caught[:1]:
        handlers[number](number, frame)
