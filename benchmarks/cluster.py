"""Calibration on Dask: `python -m benchmarks.cluster` times no worker, one and two of one thread each.

Basins of a synthetic continent whose flow is the model's own with noise; Levenberg and Marquardt's method. Workers are
started, and have loaded torch, before the clock; what that takes is printed. Nothing is timed before all results are
the same to the bit. All three ways take turns, and the fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import dask.system
import numpy as np
import torch
import xarray as xr
from dask.distributed import Client

import hybridsolve as hs
from hybridsolve.scale import connected, synthetic_continent, synthetic_parameters

from . import record

COLUMNS = "date machine cores isa torch python basins starts steps days workers seconds speed overhead start_s".split()


def observed(n_basins: int, years: int) -> xr.Dataset:
    """A continent of that many basins with flow."""
    with tempfile.TemporaryDirectory() as folder:
        period = ("2000-01-01", f"{1999 + years}-12-31")
        store = synthetic_continent(Path(folder) / "c.zarr", n_basins, period=period, network=False)
        data = hs.data.open_dataset(store)
    flow = hs.simulate_dataset(data, synthetic_parameters(data))["streamflow"]
    noise = np.random.default_rng(0).lognormal(0, 0.1, flow.shape).astype(np.float32)
    return data.assign(qobs=flow.copy(data=flow.values * noise))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--basins", type=int, default=2000)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40, help="of the search (default: %(default)s)")
    parser.add_argument("--years", type=int, default=3, help="the first warms up (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/cluster-<date>.csv)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = observed(options.basins, options.years)
    period = f"2001-01-01:{1999 + options.years}-12-31"

    def fitted(client: Client | None, **changes: int) -> tuple[float, xr.Dataset]:
        given = dict(starts=options.starts, steps=options.steps, warmup_years=1, progress=False) | changes
        began = time.perf_counter()
        result = hs.calibrate(data, train=period, cluster=client, **given)
        return time.perf_counter() - began, result

    seconds: dict[int, list[float]] = {0: [], 1: [], 2: []}
    clients: dict[int, Client | None] = {0: None}
    starts = {0: 0.0}
    open_clusters = ExitStack()
    for n in (1, 2):
        began = time.perf_counter()
        dask.system.CPU_COUNT = n
        clients[n] = open_clusters.enter_context(connected("local"))
        fitted(clients[n], steps=1, starts=1)  # each worker imports the package
        starts[n] = time.perf_counter() - began
    for _ in range(options.rounds):
        found = {}
        for n, client in clients.items():
            spent, found[n] = fitted(client)
            seconds[n].append(spent)
            print(f"{n} workers: {spent:.1f} s", flush=True)
        if not all(found[0].equals(other) for other in found.values()):
            raise AssertionError("the results differ; no speed is reported for that.")
    open_clusters.close()
    best = {n: min(x) for n, x in seconds.items()}
    about = record.about() | dict(basins=options.basins, starts=options.starts, steps=options.steps)
    about["days"] = data.sizes["time"]
    rows = [
        about
        | dict(workers=n, seconds=f"{s:.2f}", speed=f"{best[1] / s:.3f}", start_s=f"{starts[n]:.1f}")
        | dict(overhead=f"{best[1] / best[0] - 1:.3f}" if n == 1 else "")
        for n, s in best.items()
    ]
    print(
        f"two workers {best[1] / best[2]:.2f} times one; one worker {best[1] / best[0] - 1:+.1%} against none; started "
        f"in {starts[2]:.1f} s"
    )
    print(f"wrote {record.write(rows, 'cluster', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
