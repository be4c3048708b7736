"""Compile the Triton kernels ahead of time, without a GPU: `python -m benchmarks.ahead_of_time [--full] [--generated]`.

Prints for every kernel, target and precision the registers, the bytes spilled and the shared memory. Fails where a
float32 kernel computes in float64, or spills on sm_80 or sm_90; other spills are only listed. The kernels come through
launch.py with the arguments of real runs, so that what is compiled is what would be launched. With --generated they are
those that the model compiler writes, also of models that have others by hand.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from unittest import mock

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

from hybridsolve import models
from hybridsolve.compiler import definition
from hybridsolve.solve import backends
from hybridsolve.solve.problem import Problem
from hybridsolve.solve.triton import launch

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
PRECISIONS = ("float32", "float64")
NO_SPILLS = ("sm_80", "sm_90")
COLUMNS = "kernel model target precision registers spilled shared".split()


@dataclass
class Compiled:
    """What the compilers say of one kernel; registers and spills are known for NVIDIA alone."""

    kernel: str
    model: str
    target: str
    precision: str
    registers: int | None
    spilled: int | None
    shared: int
    double: bool

    def row(self) -> str:
        return " | ".join(str("-" if getattr(self, c) is None else getattr(self, c)) for c in COLUMNS)


class _Driver:
    """Stands in for a card: Triton asks it what to compile for."""

    def __init__(self, target: str):
        self.target = (
            GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target[3:]), 32)
        )

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch

    def get_current_stream(self, device):
        return 0


def _resources(kernel, target: str) -> tuple[int | None, int | None]:
    """Registers of a thread and bytes spilled, as the compiled kernel states them."""
    if target.startswith("gfx"):
        found = {n: re.search(rf"\.{n}:\s+(\d+)", kernel.asm["amdgcn"]) for n in ("vgpr_count", "vgpr_spill_count")}
        return tuple(int(m[1]) if m else None for m in found.values())
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    # The kernels hold no arrays, so what they have on the stack is spilled.
    return int(re.search(r"REG:(\d+)", said)[1]), int(re.search(r"STACK:(\d+)", said)[1])


def compile_all(models: list[str], targets: list[str], precisions: list[torch.dtype], most: int | None = None):
    """Compile every kernel of every model, and yield what came of it.

    Parameters
    ----------
    models : list of str
        Kernels of the models, or "unit_hydrograph".
    most : int, optional
        Of a model's runs so many, the plainest first; all if left out.
    """
    for model, target, dtype in itertools.product(models, targets, precisions):
        found = []

        def compile_only(kernel, grid, device, *args, _found=found, **kwargs):
            _found.append((kernel.__name__, kernel.warmup(*args, grid=grid, **kwargs, **launch.OPTIONS)))

        driver = _Driver(target)
        with (
            mock.patch.object(triton.runtime.driver, "_active", driver),
            mock.patch.object(launch, "start", compile_only),
            mock.patch.object(launch, "WARP", driver.target.warp_size),
        ):
            _launch_everything(model, dtype, most)
        for name, kernel in found:
            double = dtype == torch.float32 and bool(re.search(r"\.f64|v_\w+_f64", _text(kernel)))
            precision = str(dtype).removeprefix("torch.")
            yield Compiled(name, model, target, precision, *_resources(kernel, target), kernel.metadata.shared, double)


def _text(kernel) -> str:
    return kernel.asm.get("ptx") or kernel.asm["amdgcn"]


def _launch_everything(model: str, dtype: torch.dtype, most: int | None) -> None:
    """The launches of typical runs: streamflow alone, static and per-step parameters, everything at once."""
    meta = dict(dtype=dtype, device="meta")
    if model == "unit_hydrograph":
        series = [torch.empty(shape, **meta) for shape in ((40, 50), (15, 50), (14, 50))]
        (outflow,) = backends.convolve("triton", series, [40, 50, 15])
        backends.convolve_adjoint("triton", series, [40, 50, 15], [], [outflow], [True] * 3)
        return
    spec, optional = _kernels()[model]
    n = len(spec.present_parameters(optional))
    # components, outputs, per-step parameters, kept apart, raw, gradient of the forcing, weights
    cases = [
        (1, (spec.outflow,), (), False, False, False, False),
        (16, (spec.outflow,), (), False, False, False, False),
        (16, (spec.outflow,), (0, 2), False, True, False, False),
        (3, spec.output_names, (0,), False, False, True, True),
        (3, (spec.outflow, spec.state_names[0]), (), True, False, True, False),
    ]
    for C, outputs, moving, each, raw, forcing_gradient, weighted in cases[:most]:
        T, B = 20, 50
        forcing = [torch.empty(T, B, **meta) for _ in spec.forcings]
        parameters = [torch.empty(*((T,) if i in moving else ()), B, C, **meta) for i in range(n)]
        state = torch.empty(len(spec.states), B, C, **meta)
        weights = torch.empty(B, C, **meta) if weighted else None
        inputs = [torch.empty(B, **meta) for _ in spec.inputs]
        run = Problem(
            "triton", spec, forcing, inputs, parameters, state, weights, (T, B, C), outputs, each=each, raw=raw,
            optional=optional, interval=4,
        )  # fmt: skip
        arguments = run.text, run.tensors, run.numbers
        fluxes, final, checkpoints = backends.forward(*arguments)
        needs = [forcing_gradient] * len(forcing) + [False] * len(inputs) + [True] * (n + 1) + [True] * weighted
        backends.adjoint(*arguments, [checkpoints], [fluxes, final], needs)


def _kernels() -> dict[str, tuple]:
    """The models that Triton has, with and without their optional parameters, by the names of their kernels."""
    found = {}
    for spec in models.MODELS.values():
        for optional in dict.fromkeys(((), spec.optional_parameter_names)):
            found[spec.kernel_name(optional)] = spec, optional
    there = launch.kernels()
    return {kernel: of for kernel, of in found.items() if kernel in there}


def main(argv: list[str] | None = None) -> int:
    """Compile, print the table, and return 1 if a kernel breaks what the module promises."""
    there = _kernels()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ahead_of_time", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[*there, "unit_hydrograph"], help="default: those by hand")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="default: sm_90, or with --full all")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="default: float32, or with --full both")
    parser.add_argument("--full", action="store_true", help="every target in both precisions, where none are named")
    parser.add_argument("--generated", action="store_true", help="what the model compiler writes, not what is by hand")
    parser.add_argument("--plain", action="store_true", help="the plainest run alone, of one component and the outflow")
    options = parser.parse_args(argv)
    if launch.interpreted():
        parser.error("TRITON_INTERPRET is set, and then Triton compiles nothing; unset it.")
    if options.generated:
        for spec in list(models.MODELS.values()):
            definition.generate(models.register(replace(spec, triton=None)))
    targets = options.targets or (TARGETS if options.full else TARGETS[1:2])
    precisions = options.precisions or (PRECISIONS if options.full else PRECISIONS[:1])
    print(" | ".join(COLUMNS))
    broken = []
    by_hand = [kernel for kernel, (spec, _) in there.items() if spec.triton]
    most = 1 if options.plain else None
    names = options.models or [*by_hand, "unit_hydrograph"]
    for found in compile_all(names, targets, [getattr(torch, p) for p in precisions], most):
        print(found.row(), flush=True)
        if found.precision == "float32" and (found.double or (found.spilled and found.target in NO_SPILLS)):
            broken.append(found)
    for found in broken:
        what = "computes in float64" if found.double else f"spills {found.spilled} bytes"
        print(f"{found.kernel} of {found.model} for {found.target} {what}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
