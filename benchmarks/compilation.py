"""What compiling a model takes: `python -m benchmarks.compilation [first-use] [cpu] [gpu] [--models ..]`.

first-use: a process that defines a model of HBV's or GR4J's size, as a user does, up to its first gradient, with an
empty cache, then again; beside it the package's own kernels of the same model, which are there already. cpu, gpu: each
library that is compiled at first use, of every model, by the system's C++ compiler for this machine's instruction set,
and each kernel by NVRTC for any run, for compute capability 9.0. All are seconds of CPU, user's and system's, of the
process and what it has started, so that what else the machine does matters little; memory is the largest footprint of
a compiler, of NVRTC beyond the process that called it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = "date machine cores isa torch python part model what dtype cpu_s beyond_usual_start_s peak_MiB".split()
MODELS = ("cemaneige+gr4j", "cemaneige-3+gr6j", "snow17+sacsma")  # beside those by name
LIBRARIES = {"forward and adjoint": 1, "tangent": 2, "least squares": 4}
KERNELS = {
    "forward": "forward_kernel<{}, {}, false, true>",
    "adjoint": "adjoint_kernel<{}, {}, false, true, true>",
    "tangent": "tangent_kernel<{}, {}>",
    "least squares": "least_squares_kernel<{}, {}>",
}
PRECISIONS = {"float32": ("float", 1), "float64": ("double", 2)}
CAPABILITY = 90
ASKED = {"hbv11p": 6.0, "gr4j": 8.0}  # seconds up to the first gradient, by the model's size
ASKED_OF_A_KERNEL = 20.0, 512.0  # seconds, MiB
ASKED_AGAIN = 0.2  # seconds beyond the usual start


def up_to_a_gradient(name: str, defines: bool) -> None:
    """Print the seconds of CPU of this process and of what it has started, after one gradient."""
    import torch

    import hybridsolve as hs

    torch.set_num_threads(1)
    model = hs.models.get(name)
    if defines:
        table = {f.name: getattr(model, f.name) for f in fields(model) if f.init}
        step = table.pop("reference_step")
        model = hs.models.define(**table | dict(name="mine", triton=None))(step)
    forcing = {v.name: torch.ones(30, 8) for v in model.forcings}
    unit = {v.name: torch.full((8, 2), 0.5) for v in model.parameters}
    parameters = {n: x.requires_grad_() for n, x in model.parameters_from_unit(unit).items()}
    hs.simulate(model, forcing, parameters).fluxes[model.outflow].sum().backward()
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(x.ru_utime + x.ru_stime for x in spent))


def first_use(rounds: int) -> list[dict]:
    rows = []
    for name, asked in ASKED.items():

        def seconds(defines: bool, cache: str, name: str = name) -> float:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.compilation", "--gradient", name]
            env = os.environ | {"HYBRIDSOLVE_CACHE": cache}
            done = subprocess.run(
                [*command, *(["--defines"] if defines else [])], cwd=ROOT, env=env, check=True, capture_output=True
            )
            return float(done.stdout)

        found: dict[str, list[float]] = {"the package's kernels": [], "first use": [], "second process": []}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                found["the package's kernels"].append(seconds(False, cache))
                found["first use"].append(seconds(True, cache))
                found["second process"].append(seconds(True, cache))
        usual = min(found["the package's kernels"])
        for what, times in found.items():
            row = dict(part="first-use", model=name, what=what, dtype="float32", cpu_s=f"{min(times):.2f}")
            rows.append(row | dict(beyond_usual_start_s=f"{min(times) - usual:.2f}"))
            limits = {"first use": f"; asked {asked:g}", "second process": f"; asked {ASKED_AGAIN:g} beyond"}
            beyond = f"{min(times) - usual:.2f} s beyond the usual start{limits.get(what, '')}"
            print(f"{name} | {what} | {min(times):.2f} s | {beyond}", flush=True)
    return rows


def by_compiler(names: list[str]) -> list[dict]:
    from hybridsolve import _cpu, models
    from hybridsolve.compiler import cache, header

    rows, isa = [], _cpu.isa()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "generated.h")
            file.write_text(header(models.get(name)))
            for (what, part), (dtype, (_, value)) in ((x, y) for x in LIBRARIES.items() for y in PRECISIONS.items()):
                command = [cache.compiler()[0], *cache.FLAGS, *cache.ISAS[isa], "-DHS_PLUGIN", f"-DHS_ISA={isa}"]
                command += [f"-DHS_PARTS={part}", f"-DHS_VALUES={value}", f'-DHS_HEADER="{file}"']
                command += [f"-I{cache.sources()}", str(cache.sources() / "models_cpu.cpp"), "-o", f"{folder}/made.so"]
                child = subprocess.Popen(command)
                _, status, used = os.wait4(child.pid, 0)  # of the driver and the compilers that it starts
                child.returncode = os.waitstatus_to_exitcode(status)
                if child.returncode:
                    raise RuntimeError(f"compiling {name} failed; the compiler says why above.")
                row = dict(part="cpu", model=name, what=what, dtype=dtype)
                rows.append(_shown(row, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))
    return rows


def by_nvrtc(names: list[str]) -> list[dict]:
    rows = []
    for name in names:
        for what in KERNELS:
            for dtype in PRECISIONS:
                command = [sys.executable, "-m", "benchmarks.compilation", "--kernel", name, what, dtype]
                done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
                row = dict(part="gpu", model=name, what=what, dtype=dtype)
                rows.append(_shown(row, *map(float, done.stdout.split())))
    return rows


def kernel(name: str, what: str, dtype: str) -> None:
    """Print the seconds that NVRTC takes for a kernel, and the MiB."""
    from hybridsolve import models
    from hybridsolve.compiler import cache, header, nvrtc

    def footprint(which: str) -> float:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(which))
        return int(line.split()[1]) / 1024

    model, compiler = models.get(name), nvrtc.find(13)
    text, flags = header(model), [f"--gpu-architecture=sm_{CAPABILITY}", *nvrtc.FLAGS, f"-I{cache.sources()}"]
    expression = KERNELS[what].format(f"hs::cuda::model_{model.kernel_name(())}", PRECISIONS[dtype][0])
    before, begun = footprint("VmRSS"), time.process_time()
    compiler.compile(nvrtc.MODEL, text, f"hs::cuda::{expression}", flags)
    print(time.process_time() - begun, footprint("VmHWM") - before)


def _shown(row: dict, seconds: float, mebibytes: float) -> dict:
    over = " OVER" if seconds > ASKED_OF_A_KERNEL[0] or mebibytes > ASKED_OF_A_KERNEL[1] else ""
    print(f"{' | '.join(row.values())} | {seconds:.1f} s | {mebibytes:.0f} MiB{over}", flush=True)
    return row | dict(cpu_s=f"{seconds:.1f}", peak_MiB=f"{mebibytes:.0f}")


def main() -> None:
    parts = {"first-use": first_use, "cpu": by_compiler, "gpu": by_nvrtc}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compilation", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; all")
    parser.add_argument("--models", nargs="+", help="those whose kernels are compiled (default: every model)")
    parser.add_argument("--rounds", type=int, default=3, help="first uses, of which the least counts (%(default)s)")
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/compilation-<date>.csv)")
    parser.add_argument("--gradient", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--defines", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--kernel", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gradient:
        return up_to_a_gradient(options.gradient, options.defines)
    if options.kernel:
        return kernel(*options.kernel)
    if unknown := set(options.parts) - set(parts):
        parser.error(f"a part must be one of {', '.join(parts)}; found {unknown.pop()}: correct it.")
    from hybridsolve import models

    from . import record

    names = options.models or [*models.names(), *MODELS]
    about = {k: v for k, v in record.about().items() if k in COLUMNS}
    rows = []
    for part in options.parts or parts:
        rows += [about | row for row in parts[part](options.rounds if part == "first-use" else names)]
    print(f"wrote {len(rows)} rows to {record.write(rows, 'compilation', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
