"""Rivers of a continent: `python -m benchmarks.routing` measures 2.94 million reaches and writes one CSV.

A random dendritic network (`RiverNetwork.random`), 30 days of hours from daily inflow, float32, all threads, kept at
10,000 gauges; in a process of its own, whose peak memory is noted. `hybridsolve bench` has the other sizes, all of
whose discharges are kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from hybridsolve.bench import gate
from hybridsolve.bench.cases import STEP, Case, network_and_inflow
from hybridsolve.bench.rivers import Solver
from hybridsolve.routing import route

from . import record

COLUMNS = (
    "date machine cores isa torch python threads scheme reaches levels steps seconds million_reach_steps_per_s "
    "peak_GiB note"
).split()


def check(scheme: str, device="cpu", backend: str = "auto") -> None:
    """Raise unless the kernel agrees with the float64 oracle in both precisions."""
    wide = Case("", scheme, 200, 1, 20, river=True, dtype="float64")
    judge = Solver(wide, backend="reference")
    d_flow = torch.ones(wide.T, wide.B, dtype=torch.float64)
    expected, slopes = judge.gradient(d_flow)
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-3)):
        ours = Solver(replace(wide, dtype=dtype), backend=backend)
        ours.take(judge, device)
        found, gradients = ours.gradient(d_flow.to(device, ours.inflow.dtype))
        gate.compare(f"{scheme} {dtype}", found.cpu(), expected, tolerance)
        for name, slope in slopes.items():
            gate.compare(f"{scheme} {dtype}: {name}", gradients[name].cpu(), slope, tolerance)


def seconds(work: Callable, repeats: int) -> list[float]:
    """Of each of the repeats, after one to warm."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def continent(scheme: str) -> dict:
    """The row of a scheme; in a process of its own."""
    start = time.perf_counter()
    network, inflow, _ = network_and_inflow(Case("", "accumulate", 2_940_000, 1, 30, river=True))
    made = time.perf_counter() - start
    gauges = network.ids[np.random.default_rng(0).choice(network.n_reaches, 10_000, replace=False)]
    start = time.perf_counter()
    with torch.no_grad():
        run = route(network, inflow, ids="network", dt=STEP, repeat=24, gauges=gauges, scheme=scheme)
    spent = time.perf_counter() - start
    steps = len(run.discharge)
    return dict(
        threads=torch.get_num_threads(), scheme=scheme, reaches=network.n_reaches, levels=network.n_levels, steps=steps,
        seconds=spent, million_reach_steps_per_s=f"{network.n_reaches * steps / spent / 1e6:.4g}",
        peak_GiB=f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}",
        note=f"network made and ordered in {made:.1f} s; the state of the begin is found in that time too",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__.splitlines()[0])
    parser.add_argument("--one", metavar="SCHEME", help=argparse.SUPPRESS)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/routing-<date>.csv)")
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(continent(options.one)))
        return
    rows = []
    for scheme in ("todini", "ddr"):
        check(scheme)
        command = [sys.executable, "-m", "benchmarks.routing", "--one", scheme]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(record.about() | found)
        print(" | ".join(str(x) for x in found.values()), flush=True)
    print(f"wrote {len(rows)} rows to {record.write(rows, 'routing', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
