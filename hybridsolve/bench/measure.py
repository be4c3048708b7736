"""Rounds in which implementations take turns, a process each, and the rows that come of them."""

from __future__ import annotations

import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .._extras import MissingPackage
from . import floors, machine
from .cases import MODES, Case
from .implementations import IMPLEMENTATIONS, OURS, OURS_OF
from .machine import Row

FEWEST, MOST = 3, 31  # rounds
SHARE_OF_MEMORY = 0.8  # of what is free


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    seconds : float
        Of one mode of one implementation, about.
    limit : float
        Seconds that one answer of a worker may take; building, compiling and the gate are the first.
    """

    seconds: float
    limit: float


QUICK, FULL = Effort(0.6, 900.0), Effort(5.0, 3600.0)


class WorkerFailed(RuntimeError):
    """Why an implementation has no numbers for a case."""


class Worker:
    """A process that runs one implementation of one case.

    Parameters
    ----------
    case : Case
    name : str
        Of `IMPLEMENTATIONS`.
    limit : float
        Seconds that an answer may take.
    root : Path, optional
        A checkout whose solver is measured, in place of this one's.

    Raises
    ------
    WorkerFailed
        If it does not pass the gate, or ends; the message says why.
    """

    def __init__(self, case: Case, name: str, limit: float, root: Path | None = None) -> None:
        self.limit, modes = limit, MODES if IMPLEMENTATIONS[name].has_gradient else MODES[:1]
        self.errors = tempfile.TemporaryFile("w+")
        package, env = __package__, dict(os.environ)
        if root is not None:
            # This version's way of measuring beside the other's solver: `measuring` is a copy of this package there.
            package, env["PYTHONPATH"] = "measuring", str(root)
        command = [sys.executable, "-W", "ignore", "-m", f"{package}.worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=env, cwd=root, text=True, stdin=pipe, stdout=pipe, stderr=self.errors
        )
        self.name = name
        try:
            found = self.ask(json.dumps(dict(case=asdict(case), implementation=name, modes=modes)))
        except BaseException:
            self.close()
            raise
        self.version, self.peaks = found["version"], found["peaks"]

    def ask(self, line: str) -> Any:
        """The answer to a line."""
        assert self.process.stdin and self.process.stdout
        try:
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerFailed(self._ended()) from None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(self.limit):
                raise WorkerFailed(f"took more than {self.limit:g} s")
        text = self.process.stdout.readline()
        if not text:
            raise WorkerFailed(self._ended())
        found = json.loads(text)
        if isinstance(found, dict) and "missing" in found:
            raise WorkerFailed(str(MissingPackage(self.name, found["missing"])))
        if isinstance(found, dict) and "failed" in found:
            raise WorkerFailed(found["failed"])
        return found

    def _ended(self) -> str:
        self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        return f"its process ended with status {self.process.returncode}" + (f" ({said[-1]})" if said else "")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def memory_needed(case: Case, name: str) -> float:
    """Bytes that a case takes at most, about."""
    implementation = IMPLEMENTATIONS[name]
    return 2 * case.array_bytes + implementation.has_gradient * implementation.keeps * case.itemsize * case.steps


def take_turns(workers: Sequence[Worker], mode: str, effort: Effort) -> list[list[float]]:
    """Seconds of each worker's runs: as many of each, in turns whose order alternates."""
    began = time.perf_counter()
    times: list[list[float]] = [[] for _ in workers]
    order = list(range(len(workers)))
    while len(times[0]) < MOST and (
        len(times[0]) < FEWEST or time.perf_counter() - began < effort.seconds * len(workers)
    ):
        for k in order:
            times[k].append(workers[k].ask(mode))
        order.reverse()
    return times


def measured(plan: Sequence[tuple[Case, list[str]]], effort: Effort, progress: bool) -> Iterator[Row]:
    """The rows of ceilings, cases and exponents.

    Parameters
    ----------
    plan : sequence of (Case, list of str)
        Cases, and of each who computes it, as `implementations.chosen` gives them.
    effort : Effort
    progress : bool
    """
    about = machine.about()
    ceilings: dict[int, dict[str, float]] = {}
    for threads in sorted({case.threads for case, _ in plan}):
        try:
            ceilings[threads] = floors.measure(threads)
        except RuntimeError as error:
            warnings.warn(f"no floors are known: {error}", stacklevel=2)
            break
        for what, value in ceilings[threads].items():
            unit = "bytes/s" if what == "copy" else "s" if what.startswith("latency") else "1/s"
            yield about | dict(kind="ceiling", mode=what, threads=threads, value=f"{value:.4g}", unit=unit)
    rows: list[Row] = []
    with tqdm(total=sum(len(names) for _, names in plan), disable=not progress, dynamic_ncols=True) as bar:
        for case, names in plan:
            for row in of_case(case, names, effort, bar):
                if row["median_s"] and case.threads in ceilings:
                    least, what = floors.floor(case, row["mode"], ceilings[case.threads])
                    row |= dict(floor=what, share_of_floor=f"{least / row['median_s']:.3g}")
                rows.append(about | row)
                yield rows[-1]
    yield from (about | row for row in exponents(rows))


def of_case(case: Case, names: Sequence[str], effort: Effort, bar: tqdm) -> Iterator[Row]:
    """Ours alone, then each other beside ours."""
    ours: Worker | None = None
    other: Worker | None = None
    try:
        for name in names:
            bar.set_description_str(f"{case.shape} {case.model}, {name}")
            try:
                needed, free = memory_needed(case, name), SHARE_OF_MEMORY * machine.memory_available()
                if needed > free:
                    raise WorkerFailed(f"needs about {needed / 2**30:.0f} GiB; found {free / 2**30:.0f} GiB to be used")
                other = Worker(case, name, effort.limit)
                pair = [other] if ours is None else [other, ours]
                yield from (_row(case, mode, other, take_turns(pair, mode, effort)) for mode in other.peaks)
            except WorkerFailed as error:
                yield _row(case, "", other, [], name) | dict(note=str(error))
            if name == OURS_OF[case.river]:
                ours, other = other, None
            if other is not None:
                other.close()
                other = None
            bar.update()
    finally:
        for worker in (ours, other):
            if worker is not None:
                worker.close()


def _row(case: Case, mode: str, worker: Worker | None, times: list[list[float]], name: str = "") -> Row:
    name = worker.name if worker else name
    row = {key: getattr(case, key) for key in ("shape", "model", "B", "C", "T", "dtype", "threads")}
    row |= dict(kind="time", mode=mode, implementation=OURS if name.startswith(OURS) else name)
    row |= dict.fromkeys(("median_s", "value", "ratio_to_ours", "floor", "share_of_floor", "peak_MiB"), "")
    if not times or worker is None:
        return row
    median, quarters = statistics.median(times[0]), statistics.quantiles(times[0], n=4)
    peak = worker.peaks[mode]
    row |= dict(
        rounds=len(times[0]),
        median_s=median,
        min_s=min(times[0]),
        iqr_s=quarters[2] - quarters[0],
        value=f"{case.steps / median / 1e6:.4g}",
        unit="million reach-steps/s" if case.river else "million cell-steps/s",
        peak_MiB="" if peak is None else f"{peak:.1f}",
        note=worker.version,
    )
    if len(times) > 1:
        row["ratio_to_ours"] = f"{statistics.median(a / b for a, b in zip(*times, strict=True)):.3g}"
    return row


AXES = {"T": 3, "B": 3, "threads": 2}  # columns that a time may grow with, and how many values a fit needs


def exponents(rows: Sequence[Row]) -> Iterator[Row]:
    """The powers of T, of B at one C (so of N) and of the threads that fit the times best, where only those differ."""
    for axis, fewest in AXES.items():
        groups: dict[tuple, list[Row]] = {}
        for row in rows:
            if row["median_s"]:
                # Rivers of other numbers of reaches are other shapes, of other numbers of steps.
                rest = [k for k in ("model", "C", "dtype", "threads", "mode", "implementation") if k != axis]
                is_river = axis == "B" and str(row["shape"]).startswith("rivers")
                rest += [k for k in ("B", "T", "shape") if k != axis and not is_river]
                groups.setdefault(tuple((k, row[k]) for k in rest), []).append(row)
        for key, group in groups.items():
            x = np.array([float(row[axis]) for row in group])
            if len(set(x)) < fewest:
                continue
            y = np.array([float(row["median_s"]) for row in group])
            if ("T" not in dict(key)) and axis == "B":  # seconds of a step
                y = y / [float(row["T"]) for row in group]
            slope = np.polyfit(np.log(x), np.log(y), 1)[0]
            span = f"{x.min():g} to {x.max():g}"
            yield dict(key) | dict(kind="exponent", value=f"{slope:.3f}", unit=f"of {axis}, {span}")


def compared(cases: Sequence[Case], roots: Sequence[tuple[str, Path]], effort: Effort, progress: bool) -> Iterator[Row]:
    """Rows of two checkouts that take turns; the ratio is that to the first."""
    about = machine.about()
    with tqdm(cases, disable=not progress, dynamic_ncols=True) as bar:
        for case in bar:
            bar.set_description_str(f"{case.shape} {case.model}")
            workers: list[Worker] = []
            try:
                for _, root in roots:
                    workers.append(Worker(case, OURS_OF[case.river], effort.limit, root=root))
                for mode in MODES:
                    times = take_turns(workers, mode, replace(effort, seconds=2 * effort.seconds))
                    for k, (label, _) in enumerate(roots):
                        found = [times[k]] if k == 0 else [times[k], times[0]]
                        yield about | _row(case, mode, workers[k], found) | dict(hybridsolve=label, note="")
            except WorkerFailed as error:
                raise RuntimeError(f"the two commits cannot be compared on {case}: {error}.") from None
            finally:
                for worker in workers:
                    worker.close()
