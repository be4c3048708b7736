"""A continental run beside what it cannot go below: `python -m benchmarks.continental`.

The floor is the larger of two: the disk alone, which is plain reading of the store's files and plain writing of as many
bytes as the run writes, and half the CPU seconds (two cores) of the same reading, unpacking and writing without a model
and of the kernel without files. Files lie in the system's cache. Every run and every floor is a process of its own; the
peak is the system's record of the process's largest footprint.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from hybridsolve.scale import store as stores
from hybridsolve.scale import synthetic_continent, synthetic_parameters
from hybridsolve.scale.config import read_config
from hybridsolve.scale.continental import run, stores_of
from hybridsolve.scale.part import compute
from hybridsolve.scale.setup import make_setup

from . import record

COLUMNS = (
    "date machine cores isa torch python model basins steps store what seconds cpu_s peak_GB read_GB written_GB "
    "ratio_to_floor rounds"
).split()
MODEL = "hbv11p"
STORES = ("float32", "float32-compressed", "packed")


def make(folder: Path, basins: int, period: str, kind: str) -> Path:
    """The forcing and parameters, made once."""
    path = folder / f"{kind}-{basins}.zarr"
    if not path.exists():
        synthetic_continent(path, basins, period=period, model=MODEL, store=kind, network=False)
        with xr.open_zarr(path) as ds:
            synthetic_parameters(ds, MODEL).to_netcdf(folder / f"parameters-{basins}.nc")
    return path


def disk(forcing: Path, out: Path) -> None:
    """Read the store's files, and write as many bytes as the run has written, in pieces of as many."""
    for path in forcing.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(2**24):
                    pass
    copy = out.parent / "copy"
    copy.mkdir()
    for i, path in enumerate(p for p in out.rglob("*") if p.is_file()):
        (copy / str(i)).write_bytes(b"1" * path.stat().st_size)
    shutil.rmtree(copy)


def files(config: dict, out: Path) -> None:
    """Read and unpack all blocks, and write blocks of the same size, without a model."""
    setup = make_setup(read_config(config))
    plan, path = setup.plan(), out.parent / "copy.zarr"
    rows = slice(0, len(setup.source.time))
    stores.create(path, *next(stores_of(setup, plan, rows)), compress=False)
    array = stores.open_arrays(path)["streamflow"]
    for window in plan.windows(rows.stop):
        for cols in plan.blocks:
            x = setup.source.read(window, cols)
            array[window, cols] = x["prcp"]
    shutil.rmtree(path)


def kernel(config: dict) -> None:
    """All blocks computed, of one that is read once."""
    setup = make_setup(read_config(config))
    plan = setup.plan()
    windows = list(plan.windows(len(setup.source.time)))
    x = setup.source.read(windows[0], plan.blocks[0])
    for window in windows:
        for cols in plan.blocks:
            n, m = window.stop - window.start, cols.stop - cols.start
            compute(setup, {name: v[:n, :m] for name, v in x.items()}, cols, window, None)


def one(what: str, config: dict, basins: int) -> None:
    """One measurement, in a process of its own."""
    torch.set_num_threads(1 if what in ("files", "kernel") else 2)
    forcing, out = Path(config["forcing"]), Path(config["out"])
    began, used = time.perf_counter(), time.process_time()
    if what == "run":
        shutil.rmtree(out, ignore_errors=True)
        run(config, progress=False)
    elif what == "disk":
        disk(forcing, out)
    elif what == "files":
        files(config, out)
    else:
        kernel(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps([time.perf_counter() - began, time.process_time() - used, peak]))


def _size(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9


def timed(what: str, config: dict, folder: Path) -> list[float]:
    """Seconds, CPU seconds and peak of one measurement in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.continental", "--folder", str(folder), "--one", what, json.dumps(config)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def growth(folder: Path, basins: int, years: int, rounds: int) -> list[dict]:
    """A run of an eighth, a quarter, half and all of the basins, and of the years; the exponents are fitted."""
    sizes = {
        "basins": [(basins // k, years) for k in (8, 4, 2, 1)],
        "steps": [(basins, years // k) for k in (8, 4, 2, 1)],
    }
    cases = list(dict.fromkeys(case for along in sizes.values() for case in along))
    seconds: dict[tuple, list] = {case: [] for case in cases}
    steps = {}
    for _ in range(rounds):
        for n, y in cases:
            place = folder / f"{n}x{y}"
            place.mkdir(exist_ok=True)
            forcing = make(place, n, f"2001-01-01:{2000 + y}-12-31", "float32")
            with xr.open_zarr(forcing) as ds:
                steps[n, y] = ds.sizes["time"]
            config = dict(forcing=str(forcing), parameters=str(place / f"parameters-{n}.nc"), out=str(place / "out"))
            seconds[n, y].append(timed("run", config, folder))
    rows = []
    for n, y in cases:
        middle, cpu, peak = (statistics.median(x) for x in zip(*seconds[n, y], strict=True))
        rows.append(record.about() | dict(model=MODEL, basins=n, steps=steps[n, y], store="float32", what="growth"))
        rows[-1] |= dict(seconds=f"{middle:.2f}", cpu_s=f"{cpu:.2f}", peak_GB=f"{peak:.2f}", rounds=rounds)
        print(f"{n} basins x {steps[n, y]} steps: {middle:.2f} s, peak {peak:.2f} GB", flush=True)
    for name, along in sizes.items():
        size = [n if name == "basins" else steps[n, y] for n, y in along]
        cost = [statistics.median(x[0] for x in seconds[case]) for case in along]
        print(f"exponent in {name}: {np.polyfit(np.log(size), np.log(cost), 1)[0]:.2f}")
    return rows


def rivers(folder: Path, basins: int, rounds: int) -> list[dict]:
    """A year of days, routed by the hour, with discharge kept at a hundredth of the reaches."""
    forcing, parameters, gauges = folder / "rivers.zarr", folder / "rivers-parameters.nc", folder / "gauges.txt"
    if not forcing.exists():
        synthetic_continent(forcing, basins, period="2000-01-01:2000-12-31", model=MODEL)
        with xr.open_zarr(forcing) as ds:
            synthetic_parameters(ds, MODEL).to_netcdf(parameters)
            gauges.write_text("\n".join(map(str, ds["basin"].values[::100])))
    network = dict(network=str(folder / "rivers.network.nc"), dt=3600, gauges=str(gauges))
    config = dict(forcing=str(forcing), parameters=str(parameters), out=str(folder / "out"), rivers=network)
    found = [timed("run", config, folder) for _ in range(rounds)]
    seconds, cpu, peak = (statistics.median(x) for x in zip(*found, strict=True))
    print(f"{basins} basins and reaches: {seconds:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GB")
    row = record.about() | dict(model=MODEL, basins=basins, steps=366, store="float32", what="rivers", rounds=rounds)
    return [row | dict(seconds=f"{seconds:.2f}", cpu_s=f"{cpu:.2f}", peak_GB=f"{peak:.2f}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--basins", type=int, default=180_000)
    parser.add_argument("--period", default="2000-01-01:2009-12-31")
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rivers", action="store_true", help="a year of hourly rivers instead, a reach a basin")
    parser.add_argument("--growth", action="store_true", help="how the cost grows, to these basins and 8 years")
    parser.add_argument("--folder", required=True, help="where the data are made and kept; some 15 GB of the default")
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/continental-<date>.csv)")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one[0], json.loads(options.one[1]), options.basins)
    folder, about, rows = Path(options.folder), record.about(), []
    if options.growth or options.rivers:
        rows = (
            rivers(folder, options.basins, options.rounds)
            if options.rivers
            else growth(folder, options.basins, 8, options.rounds)
        )
        return print(f"wrote {len(rows)} rows to {record.write(rows, 'continental', options.csv, COLUMNS)}")
    for kind in options.stores.split(","):
        forcing = make(folder, options.basins, options.period, kind)
        with xr.open_zarr(forcing) as ds:
            steps = ds.sizes["time"]
        config = dict(
            forcing=str(forcing), parameters=str(folder / f"parameters-{options.basins}.nc"), out=str(folder / "out")
        )
        found: dict[str, list] = {what: [] for what in ("run", "disk", "files", "kernel")}
        for _ in range(options.rounds):
            for what, values in found.items():
                values.append(timed(what, config, folder))
        middle = {what: [statistics.median(x) for x in zip(*values, strict=True)] for what, values in found.items()}
        floor = max(middle["disk"][0], (middle["files"][1] + middle["kernel"][1]) / 2)
        for what, (seconds, cpu, peak) in middle.items():
            row = dict(model=MODEL, basins=options.basins, steps=steps, store=kind, what=what, rounds=options.rounds)
            row |= dict(seconds=f"{seconds:.2f}", cpu_s=f"{cpu:.2f}", peak_GB=f"{peak:.2f}")
            row |= dict(read_GB=f"{_size(forcing):.2f}", written_GB=f"{_size(folder / 'out'):.2f}")
            row |= dict(ratio_to_floor=f"{seconds / floor:.2f}" if what == "run" else "")
            rows.append(about | row)
            print(f"{kind} {what}: {seconds:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GB", flush=True)
        print(f"{kind}: {middle['run'][0] / floor:.2f} times the floor of {floor:.1f} s", flush=True)
    print(f"wrote {len(rows)} rows to {record.write(rows, 'continental', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
