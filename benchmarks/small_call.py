"""A call of one basin, one component and one step, nearly all of which is Python's: `python -m benchmarks.small_call`.

Each round is a process of its own, whose median of many calls counts. Under `--beside` another checkout's turn comes
after each of this one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODES = ("forward", "forward + gradient")
MODEL, CALLS, WARMUP = "hbv11p", 500, 30


def works() -> dict:
    """A function without arguments for each mode."""
    import torch

    import hybridsolve as hs

    torch.set_num_threads(1)
    model = hs.models.get(MODEL)
    forcing = {name: torch.full((1, 1), 5.0) for name in model.forcing_names}
    middle = {name: torch.full((1, 1), 0.5) for name in model.parameter_names}
    parameters = {name: x.requires_grad_() for name, x in model.parameters_from_unit(middle).items()}

    def flow():
        return next(iter(hs.simulate(MODEL, forcing, parameters).fluxes.values()))

    return dict(zip(MODES, (torch.no_grad()(flow), lambda: flow().sum().backward()), strict=True))


def serve() -> None:
    """Print the median seconds of a call in each mode."""
    for run in works().values():
        seconds = []
        for _ in range(WARMUP + CALLS):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        print(statistics.median(seconds[WARMUP:]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_call", description=__doc__.splitlines()[0])
    parser.add_argument("--beside", metavar="ROOT", type=Path, help="another checkout, built in place")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each (default: %(default)s)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        return serve()
    roots = [ROOT] + ([options.beside.resolve()] if options.beside else [])
    found: dict[Path, list[list[float]]] = {root: [] for root in roots}
    for _ in range(options.rounds):
        for root in roots:
            command = [sys.executable, "-W", "ignore", __file__, "--serve"]
            answer = subprocess.check_output(command, env=os.environ | {"PYTHONPATH": str(root)}, cwd=root, text=True)
            found[root].append([1e3 * float(x) for x in answer.split()])
    for root in roots:
        for mode, times in zip(MODES, zip(*found[root], strict=True), strict=True):
            print(f"{statistics.median(times):.3f} ms ({min(times):.3f} to {max(times):.3f})  {mode}, {root}")


if __name__ == "__main__":
    main()
