"""What has been finished of a run, in a line of JSON for each window, and the state that it ended with.

A window is finished when its line is there: its output was renamed into place before the state, and the state before
the line. So a process that is killed at any instant leaves a journal that says where to go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.files import write_atomic

RECORD = "run.json"  # beside the journals: what the run is
State = dict[str, np.ndarray]  # by name; the last axis is that of basins, gauges or reaches


class Journal:
    """The journal of one part of a run, in the run's folder."""

    def __init__(self, folder: Path, part: int):
        self.folder, self.part = folder, part
        self.path = folder / f"journal-{part:04d}.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """What is finished, window by window; half a line at the end is of a killed process, and not one."""
        if not self.path.exists():
            return []
        whole = self.path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in whole]

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, on the disk when this returns."""
        kept = sum(len(json.dumps(x)) + 1 for x in self.lines())
        with open(self.path, "ab") as file:
            file.truncate(kept)  # without what a killed process has left
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, segment: int, rows: slice, state: State, forcing: Mapping[str, int]) -> None:
        """Keep the state after a window, then say that the window is finished."""
        name = f"state-{self.part:04d}-{segment:04d}-{rows.stop:08d}.npz"
        write_atomic(self.folder / name, lambda path: _write(state, path))
        self.append(dict(segment=segment, steps=[rows.start, rows.stop], forcing=dict(forcing), state=name))
        for old in self.folder.glob(f"state-{self.part:04d}-*"):  # also what a killed process was writing
            if old.name != name:
                old.unlink()

    def last(self, segment: int) -> tuple[State | None, int]:
        """The state of the last finished window, and how many steps of a segment are finished."""
        lines = self.lines()
        if not lines:
            return None, 0
        return self.state(lines[-1]), lines[-1]["steps"][1] if lines[-1]["segment"] == segment else 0

    def state(self, line: Mapping[str, Any]) -> State:
        """The state that a line names."""
        path = self.folder / str(line["state"])
        if not path.is_file():
            raise ValueError(f"{path} must hold the state that {self.path.name} names, found no file; begin anew.")
        with np.load(path) as arrays:
            return dict(arrays)


def _write(state: State, path: Path) -> None:
    # No NetCDF: HDF5 is not to be called by one thread while others read a forcing with it.
    arrays: dict[str, Any] = dict(state)
    with open(path, "wb") as file:
        np.savez(file, **arrays)
