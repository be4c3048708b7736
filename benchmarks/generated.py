"""Generated HBV against HBV by hand: `python -m benchmarks.generated [--pairs 21] [--instructions]`.

Both as libraries of their own for this machine's instruction set, -O3, float32, one thread; forward alone and with the
gradients of all parameters. A pair is one run of each, in turn, by process time; printed is the median of the pairs'
ratios, generated over by hand, with the median seconds of both. With --instructions callgrind counts what both take on
the small cases of `benchmarks.instructions`, for AVX2: that does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import hybridsolve as hs
from benchmarks import instructions
from hybridsolve import _cpu
from hybridsolve.compiler import header

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((671, 16, 365), (1000, 1, 3650))  # basins, components, steps
NAMES = ("hbv10", "hbv11p")


def library(text: str, folder: Path, name: str) -> Path:
    """A header compiled as setup.py compiles it."""
    source = folder / f"{name}.h"
    source.write_text(text)
    isa = _cpu.isa()
    flags = {"avx2": ["-mavx2", "-mfma"], "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma".split()}
    command = ["g++", "-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC", "-shared", "-Icsrc"]
    command += [*flags.get(isa, []), "-DHS_PLUGIN", f"-DHS_ISA={isa}", f'-DHS_HEADER="{source}"']
    begun = os.times().children_user
    subprocess.run([*command, "csrc/models_cpu.cpp", "-o", str(folder / f"{name}.so")], cwd=ROOT, check=True)
    print(f"{name}: compiled in {os.times().children_user - begun:.1f} s of CPU")
    return folder / f"{name}.so"


def inputs(model: hs.models.ModelSpec, basins: int, components: int, steps: int) -> tuple[dict, dict]:
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw)  # noqa: E731
    forcing = {
        "prcp": (50 * uniform(steps, basins) - 20).clamp(min=0),
        "tmean": 24 * uniform(steps, basins) - 8,
        "pet": 5 * uniform(steps, basins),
    }
    unit = {v.name: uniform(basins, components) for v in model.parameters}
    return forcing, {n: x.requires_grad_() for n, x in model.parameters_from_unit(unit).items()}


def seconds(model: hs.models.ModelSpec, forcing: dict, parameters: dict, gradient: bool) -> float:
    begun = time.process_time()
    with torch.set_grad_enabled(gradient):
        flow = hs.simulate(model, forcing, parameters).fluxes[model.outflow]
        if gradient:
            torch.autograd.grad(flow, list(parameters.values()), torch.ones_like(flow))
    return time.process_time() - begun


def compare(pairs: int) -> None:
    for name in NAMES:
        model = hs.models.get(name)
        twin = replace(model, name=f"{name}_generated", triton=None)
        for size in SIZES:
            forcing, parameters = inputs(model, *size)
            for gradient in (False, True):
                times = []
                for pair in range(pairs + 1):
                    order = (model, twin) if pair % 2 else (twin, model)
                    taken = {m.name: seconds(m, forcing, parameters, gradient) for m in order}
                    times.append((taken[twin.name], taken[model.name]))
                times = times[1:]
                ratio = statistics.median(a / b for a, b in times)
                made, by_hand = (statistics.median(x) for x in zip(*times, strict=True))
                print(
                    f"{name} {'x'.join(map(str, size))} {'with gradient' if gradient else 'forward'} | {ratio:.3f} | "
                    f"generated {1e3 * made:.1f} ms | by hand {1e3 * by_hand:.1f} ms"
                )


def count() -> None:
    by_hand = {row["case"]: row["instructions"] for row in instructions.count("models/hbv.h")}
    for row in instructions.count():
        if row["instructions"] != by_hand[row["case"]]:
            print(f"{row['case']} | {row['instructions'] / by_hand[row['case']]:.3f} of the instructions by hand")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generated", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--instructions", action="store_true", help="count instructions in place of taking times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = [hs.models.get(name) for name in NAMES]
    with tempfile.TemporaryDirectory() as folder:
        if options.instructions:
            return count()
        twins = [replace(model, name=f"{model.name}_generated", triton=None) for model in models]
        for text, name in ((header(*twins), "generated"), ('#include "models/hbv.h"\n', "by_hand")):
            _cpu.load(str(library(text, Path(folder), name)))
        compare(options.pairs)


if __name__ == "__main__":
    main()
