"""GR4J by each instruction set of this build, hydrographs short and long: `python -m benchmarks.gr4j`.

671 basins x 16 components x 365 days in float32 on one thread, forward, and with the gradients of all parameters, with
the time base x4 up to 4 days and up to 15: the delay lines have 20 + 40 slots, of which so many are in use. Before that
all is held against the oracle in float64. Times are the thread's own, of whole calls; quoted is the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import hybridsolve as hs
from hybridsolve import _cpu

from . import record

ROOT = Path(__file__).resolve().parents[1]
SIZE = (671, 16, 365)  # basins, components, steps
COLUMNS = "date machine cores isa torch python model x4 mode B C T rounds median_s million_cell_steps_per_s".split()
ASKED = {4: (150, 40), 15: (100, 28)}  # million cell-steps/s with AVX2 by the longest x4: forward, with gradient


def inputs(sizes: tuple[int, int, int], longest: float) -> tuple[dict, dict]:
    basins, components, steps = sizes
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw)  # noqa: E731
    forcing = {"prcp": (50 * uniform(steps, basins) - 20).clamp(min=0), "pet": 5 * uniform(steps, basins)}
    model = hs.models.get("gr4j")
    values = model.parameters_from_unit({v.name: uniform(basins, components) for v in model.parameters})
    values["x4"] = 0.5 + (longest - 0.5) * uniform(basins, components)
    return forcing, values


def run(forcing: dict, values: dict, gradient: bool, **options) -> list[torch.Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in values.items()}
    with torch.set_grad_enabled(gradient):
        flow = hs.simulate("gr4j", forcing, leaves, **options).fluxes["streamflow"]
        found = torch.autograd.grad(flow, list(leaves.values()), torch.ones_like(flow)) if gradient else ()
    return [flow.detach(), *found]


def check(longest: float) -> None:
    """Raise unless flow and gradients are right: a speed is reported only behind this gate."""
    forcing, values = ({n: x.double() for n, x in given.items()} for given in inputs((37, 3, 20), longest))
    ours, oracle = (run(forcing, values, True, backend=name) for name in ("cpu", "reference"))
    for x, y in zip(ours, oracle, strict=True):
        if not (x - y).abs().max() <= 1e-10 * y.abs().max():
            raise AssertionError("GR4J differs from its oracle by more than 1e-10; no speed is reported for that.")


def measure(rounds: int) -> None:
    """Print the medians of this process's instruction set."""
    torch.set_num_threads(1)
    for longest in ASKED:
        check(longest)
        given = inputs(SIZE, longest)
        for gradient in (False, True):
            times = []
            for _ in range(rounds + 2):
                begun = time.thread_time()
                run(*given, gradient)
                times.append(time.thread_time() - begun)
            print(longest, int(gradient), statistics.median(times[2:]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gr4j", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/gr4j-<date>.csv)")
    options = parser.parse_args()
    if options.one:
        return measure(options.rounds)
    rows, (basins, components, steps) = [], SIZE
    about = {k: v for k, v in record.about().items() if k in COLUMNS}
    for isa in _cpu.isas():
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gr4j", "--one", "--rounds", str(options.rounds)]
        env = os.environ | {"HYBRIDSOLVE_ISA": isa}
        done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            longest, gradient, seconds = int(line.split()[0]), int(line.split()[1]), float(line.split()[2])
            mode, speed = ("forward", "forward + gradient")[gradient], basins * components * steps / seconds / 1e6
            row = dict(isa=isa, model="gr4j", x4=f"up to {longest}", mode=mode, B=basins, C=components, T=steps)
            row |= dict(rounds=options.rounds, median_s=seconds, million_cell_steps_per_s=f"{speed:.4g}")
            rows.append(about | row)
            asked = f", asked {ASKED[longest][gradient]}" if isa == "avx2" else ""
            print(f"{isa} | x4 up to {longest} | {mode} | {1e3 * seconds:.1f} ms | {speed:.0f} million/s{asked}")
    print(f"wrote {len(rows)} rows to {record.write(rows, 'gr4j', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
