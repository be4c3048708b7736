"""A run by each instruction set of this build, and of another: `python -m benchmarks.instruction_sets [--beside ROOT]`.

HBV 1.1p in float32 on one thread: forward, forward + gradient, and the normal equations of a calibration. ROOT is
another checkout, built in place, say that of an earlier commit. Every build and set has a process of its own; they take
turns, one run at a time, so that what else the machine does is seen by all alike, and the time is the thread's own.
Quoted are medians of whole calls, and their ratio to the other build's, if both builds give the same bits.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "date machine cores isa torch python build mode B C T rounds median_s million_cell_steps_per_s ratio_to_other"
).split()
SIZES = {"forward": (671, 16, 365), "forward + gradient": (671, 16, 365), "normal equations": (64, 2, 730)}


def works():
    """For each mode a function that runs it and returns its results, as tensors."""
    import torch

    from hybridsolve import models, simulate
    from hybridsolve.solve.sensitivity import normal_equations

    torch.set_num_threads(1)
    model, draw = models.get("hbv11p"), torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=draw)  # noqa: E731

    def inputs(n_basins, n_components, n_steps, names):
        forcing = {"prcp": 30 * rand(n_steps, n_basins) ** 4, "tmean": 25 * rand(n_steps, n_basins) - 6}
        forcing["pet"] = 4 * rand(n_steps, n_basins)
        return forcing, model.parameters_from_unit({name: rand(n_basins, n_components) for name in names})

    forcing, values = inputs(*SIZES["forward"], model.parameter_names)
    leaves = {name: x.clone().requires_grad_() for name, x in values.items()}
    b, c, t = SIZES["normal equations"]
    names = (*model.parameter_names, *model.routing_parameter_names)
    observed = (*inputs(b, c, t, names), rand(t, b), torch.ones(t, b))

    def forward():
        with torch.no_grad():
            return [simulate(model, forcing, values).fluxes["streamflow"]]

    def both():
        flow = simulate(model, forcing, leaves).fluxes["streamflow"]
        return torch.autograd.grad(flow.sum(), list(leaves.values()))

    def least_squares():
        found = normal_equations(model, *observed)
        return [found.matrix, found.gradient, found.cost]

    return dict(zip(SIZES, (forward, both, least_squares), strict=True))


def serve() -> None:
    """Answer every mode read from stdin by the thread's seconds of a run and a digest of its results."""
    import hashlib
    import time

    from hybridsolve import _cpu

    runs = works()
    print(_cpu.isa(), *_cpu.isas(), flush=True)
    for line in sys.stdin:
        start = time.thread_time()
        found = runs[line.strip()]()
        spent = time.thread_time() - start
        print(spent, hashlib.sha256(b"".join(x.numpy().tobytes() for x in found)).hexdigest(), flush=True)


class Build:
    """A process that runs one instruction set of the build in `root`."""

    def __init__(self, root: Path, isa: str):
        env = os.environ | {"PYTHONPATH": str(root), "HYBRIDSOLVE_ISA": isa}
        command, pipe = [sys.executable, "-W", "ignore", __file__, "--serve"], subprocess.PIPE
        self.process = subprocess.Popen(command, env=env, cwd=root, text=True, stdin=pipe, stdout=pipe)
        self.isa, *self.isas = self._answer()
        self.bits: dict[str, set[str]] = {mode: set() for mode in SIZES}
        self.times: dict[str, list[float]] = {mode: [] for mode in SIZES}

    def _answer(self) -> list[str]:
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the process of {' '.join(self.process.args)} ended; it says why above.")
        return line.split()

    def run(self, mode: str) -> None:
        print(mode, file=self.process.stdin, flush=True)
        seconds, bits = self._answer()
        self.times[mode].append(float(seconds))
        self.bits[mode].add(bits)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instruction_sets", description=__doc__.splitlines()[0])
    parser.add_argument("--beside", metavar="ROOT", type=Path, help="another checkout, built in place")
    parser.add_argument("--rounds", type=int, default=21, help="runs of each, after one to warm (default: %(default)s)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/instruction_sets-<date>.csv)")
    options = parser.parse_args(argv)
    if options.serve:
        return serve()
    from . import record

    roots = {"this": ROOT} | ({"other": options.beside.resolve()} if options.beside else {})
    first = Build(ROOT, "")
    first.close()
    rows = []
    for isa in first.isas:
        builds = {name: Build(root, isa) for name, root in roots.items()}
        for mode, (b, c, t) in SIZES.items():
            for _ in range(options.rounds + 1):
                for build in builds.values():
                    build.run(mode)
            if len(set.union(*(build.bits[mode] for build in builds.values()))) != 1:
                raise AssertionError(f"{isa} {mode}: the results differ; no speed is reported for that.")
            medians = {name: statistics.median(build.times[mode][1:]) for name, build in builds.items()}
            for name, median in medians.items():
                ratio = f"{medians['other'] / median:.2f}" if "other" in medians else ""
                row = dict(isa=isa, build=name, mode=mode, B=b, C=c, T=t, rounds=options.rounds, median_s=median)
                row |= dict(million_cell_steps_per_s=f"{b * c * t / median / 1e6:.4g}", ratio_to_other=ratio)
                rows.append({k: v for k, v in record.about().items() if k in COLUMNS} | row)
                show = ("isa", "build", "mode", "median_s", "million_cell_steps_per_s", "ratio_to_other")
                print(" | ".join(str(row[k]) for k in show), flush=True)
        for build in builds.values():
            build.close()
    print(f"wrote {len(rows)} rows to {record.write(rows, 'instruction_sets', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
