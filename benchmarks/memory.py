"""Peak memory of one forward run with gradient: `python -m benchmarks.memory`.

Each implementation runs in a fresh process, which sets the system's record of its largest footprint (VmHWM)
back just before the call; the inputs and the libraries are no part of the figure. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from hybridsolve import models

from . import implementations, record
from .cases import BOTH, FULL, HEADLINE, PEAK_MEMORY, Case, inputs


def _footprint(which: str) -> float:
    """VmRSS or VmHWM in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(which))
    return int(line.split()[1]) / 1024


def peak(case: Case, implementation: str) -> float:
    """MiB above the footprint just before the call; to be called once, in a fresh process."""
    torch.set_num_threads(case.threads)
    run = implementations.build(implementation, case.model)
    # A run of a few steps compiles the same graphs and loads the same libraries.
    short = replace(case, T=10)
    implementations.gradient(run, *inputs(short), implementations.cotangent(short))
    forcing, parameters = inputs(case)
    cotangent = implementations.cotangent(case)
    # What making the inputs has freed goes back to the system, or the call would reuse it unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before = _footprint("VmRSS")
    implementations.gradient(run, forcing, parameters, cotangent)
    return _footprint("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="ours for all models, sizes and precisions too")
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/memory-<date>.csv)")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "IMPLEMENTATION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    table = {str(case): case for case in HEADLINE + FULL if case.mode == BOTH and case.threads == 1}
    if options.one:
        print(peak(table[options.one[0]], options.one[1]))
        return
    headline = [case for case in HEADLINE if case.mode == BOTH]
    about, rows = record.about(), []
    for case in table.values() if options.full else headline:
        state_bytes = len(models.get(case.model).states) * (8 if case.dtype == "float64" else 4)
        for name in implementations.NAMES if case in headline else [implementations.OURS]:
            call = [sys.executable, "-m", "benchmarks.memory", "--one", str(case), name]
            found = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
            row = {k: getattr(case, k) for k in ("model", "B", "C", "T", "dtype", "threads")}
            # For comparison: the state of every step kept, 20 bytes a cell-step for HBV in float32.
            states = case.million_cell_steps * 1e6 * state_bytes / 2**20
            row |= dict(mode=PEAK_MEMORY, implementation=name)
            rows.append(about | row | dict(peak_MiB=f"{found:.1f}", all_states_MiB=f"{states:.1f}"))
            print(f"{case} {name}: {found:.1f} MiB; all states {states:.1f} MiB", flush=True)
    print(f"wrote {len(rows)} rows to {record.write(rows, 'memory', options.csv)}")


if __name__ == "__main__":
    main()
