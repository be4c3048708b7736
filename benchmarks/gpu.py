"""The kernels on a GPU: `python -m benchmarks.gpu [--only GROUP ...] --csv PATH`.

Each group runs for each backend in a process of its own, within a limit of time, and all append to one CSV, row by row:
what crashes or hangs ends its group alone. Nothing is timed before its results agree with the float64 oracle, and come
out the same to the bit twice; what fails that is left out and said. `--rehearse` goes the whole way on the CPU with
small sizes, to try the script where there is no GPU.

`call_s` is the wall time of a whole call, Python included; `kernel_s` that of its kernels alone, from the replay of a
CUDA graph. A time stands beside three floors: the bytes over the copy bandwidth; the instructions over the rate of fp32
instructions; the latency, T times a step's chain of dependent instructions, which one warp alone (32 basins of one
component) shows. Quoted is the share of the largest.

The first thirty minutes on a card, in commands of less than ten minutes each, most wanted first:

1. `HYBRIDSOLVE_CUDA=1 HYBRIDSOLVE_CUDA_ARCHS=90 python setup.py build_ext --inplace`: 3 to 5 minutes on 16 cores. Or
   carry `hybridsolve/_cpu*.so`, `_driver*.so` and `_cuda*.so`, built elsewhere by the same version of Python. No
   install is needed.
2. `python -m pytest -q tests/test_gpu.py -k cuda`, then `-k triton` (`-n 12` where pytest-xdist is: Triton compiles two
   hundred kernels), then `tests/test_routing.py tests/test_sensitivity.py -k gpu`. Then move `_cuda*.so` away, and all
   but Triton's once more: those are the kernels of NVRTC.
3. `python -m benchmarks.gpu --only kernels --csv $OUT/kernels.csv`, then `--only hydrograph routing`.
4. `ncu --set full -k regex:adjoint_kernel -s 2 -c 1 python -m benchmarks.gpu --worker kernels --backend cuda`, and the
   same of `forward_kernel`: two launches of each are the check's, and the next is that of the largest size. Then
   `compute-sanitizer --tool memcheck python -m pytest -q tests/test_gpu.py -k "cuda and not graph"`.
5. `python -m benchmarks.gpu --only scale eager --csv $OUT/scale.csv`.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch
import triton
import triton.language as tl

import hybridsolve as hs
from hybridsolve import scale
from hybridsolve.routing import RiverNetwork, route
from hybridsolve.routing.schemes import SCHEMES
from hybridsolve.solve import backends, faults

from . import record
from . import routing as routing_benchmark
from .cases import BOTH, FORWARD, Case, compare, cotangent, gradient, inputs, leaves

GROUPS = ("kernels", "hydrograph", "routing", "scale", "eager")
COLUMNS = (
    "date device driver torch triton copy_bytes_per_s fp32_instructions_per_s backend model B C T dtype mode "
    "call_s kernel_s repeats million_cell_steps_per_s memory_floor_s arithmetic_floor_s latency_floor_s "
    "share_of_floor bound note"
).split()
SHOWN = "backend model B C T dtype mode call_s kernel_s million_cell_steps_per_s share_of_floor bound note".split()
# Basins, components, steps; the first two fill the card, by memory and by arithmetic.
SIZES = ((3_000_000, 1, 100), (200_000, 16, 100), (671, 16, 730), (1000, 1, 3650), (100, 16, 365))
REHEARSED = ((50, 1, 30), (10, 4, 20))
# Floors, HBV with static parameters, in numbers of the precision. Forward: three forcings in, one flux out. Gradient:
# the forward run, the forcing twice more (states made again, steps reversed) and the flux's cotangent. The states of a
# segment are taken to stay on the chip, and checkpoints, ten numbers over their interval a cell-step, are counted.
NUMBERS = {FORWARD: 4, BOTH: 4 + 7}
# Of a cell-step in float32, counted in machine code: of the forward run, which the gradient makes twice, and of the
# reversal.
INSTRUCTIONS = {"hbv10": (140, 250), "hbv11p": (195, 336)}


@dataclass(frozen=True)
class Card:
    """Where it runs, how time is taken there, and its two ceilings."""

    device: torch.device

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work, most: float = 3.0, repeats: int = 15) -> list[float]:
        """Times of `work` by the device's clock after two warm-ups: up to `repeats`, or as many as `most` allows.

        What takes less than 5 ms on a card is done several times between two events.
        """
        work()
        times, together = [self._once(work)], 1
        if self.device.type == "cuda":
            together = max(1, min(100, round(5e-3 / times[0])))
        times.clear()
        while len(times) < 3 or (len(times) < repeats and together * sum(times) < most):
            times.append(self._once(work, together))
        return times

    def _once(self, work, together: int = 1) -> float:
        if self.device.type != "cuda":
            return self.call(work)
        self.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(together):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / together

    def call(self, work) -> float:
        """Wall time of a call, until its results are there."""
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def calls(self, work, most: float = 3.0, repeats: int = 15) -> list[float]:
        """Wall times after a warm-up: up to `repeats`, or as many as fit into `most` seconds, at least 3."""
        self.call(work)
        times: list[float] = []
        while len(times) < 3 or (len(times) < repeats and sum(times) < most):
            times.append(self.call(work))
        return times

    def kernels(self, work) -> float:
        """Median seconds of the kernels alone: of a CUDA graph's replay, which no Python stands between."""
        if self.device.type != "cuda":
            return statistics.median(self.seconds(work))
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return statistics.median(self.seconds(graph.replay))

    def about(self) -> dict:
        on_card = self.device.type == "cuda"
        return dict(
            date=datetime.now().isoformat(timespec="minutes"),
            device=torch.cuda.get_device_name() if on_card else platform.processor() or "cpu",
            driver=driver() if on_card else "",
            torch=torch.__version__,
            triton=triton.__version__,
        )

    def copy_bandwidth(self) -> float:
        """Bytes read and written a second by a large copy."""
        n = 2**30 if self.device.type == "cuda" else 2**24
        a, b = (torch.rand(n, device=self.device) for _ in range(2))
        return 8 * n / statistics.median(self.seconds(lambda: b.copy_(a)))

    def fp32_rate(self) -> float:
        """Fused multiply-adds a second, one an instruction and lane; 0 where there is no card."""
        if self.device.type != "cuda":
            return 0.0
        blocks, rounds = 132 * 64, 4096
        out = torch.empty(blocks * 256, device=self.device)
        seconds = statistics.median(self.seconds(lambda: chains[(blocks,)](out, rounds, 0.999, CHAINS, num_warps=8)))
        return blocks * 256 * rounds * CHAINS / seconds


def driver() -> int:
    """The CUDA version that the driver speaks, 13000 for 13.0; torch does not tell it."""
    version = ctypes.c_int()
    if failed := ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
        raise RuntimeError(f"cuDriverGetVersion returned {failed}; expected 0: look whether nvidia-smi runs.")
    return version.value


CHAINS = 16  # independent ones in a lane: enough to hide an instruction's latency and the loop's own instructions


@triton.jit
def chains(out, rounds, factor, N: tl.constexpr):
    """Nothing but fused multiply-adds."""
    i = tl.program_id(0) * 256 + tl.arange(0, 256)
    a = i.to(tl.float32) * 1e-9 + factor
    x = ()
    for c in tl.static_range(N):
        x = x + (a + c,)
    for _ in range(rounds):
        y = ()
        for c in tl.static_range(N):
            y = y + (tl.fma(x[c], a, a),)
        x = y
    total = a
    for c in tl.static_range(N):
        total += x[c]
    tl.store(out + i, total)


def on(device, tensors):
    return {n: x.to(device) for n, x in tensors.items()}


def check(card: Card, backend: str, model: str, dtype: str) -> None:
    """Raise unless the kernels agree with the oracle and repeat themselves to the bit."""
    case = Case(model, 37, 5, 60, BOTH, dtype)
    forcing, parameters = inputs(case)
    d_flow = cotangent(case)

    def ours():
        learned = leaves(on(card.device, parameters))
        flow = hs.simulate(model, on(card.device, forcing), learned, backend=backend).fluxes["streamflow"]
        found = torch.autograd.grad(flow, list(learned.values()), d_flow.to(card.device))
        return flow.detach().cpu(), [g.cpu() for g in found]

    def oracle(f, p):
        return hs.simulate(model, f, p, backend="reference").fluxes["streamflow"]

    widened = [{n: x.double() for n, x in given.items()} for given in (forcing, parameters)]
    expected = gradient(oracle, *widened, d_flow.double())
    found, again = ours(), ours()
    compare(found, expected, parameters, case)
    _same_bits(backend, case, (found[0], *found[1]), (again[0], *again[1]))
    hs.synchronize()
    print(f"{model} {dtype} on {backend}: agrees with the oracle, twice the same", flush=True)


def check_hydrograph(card: Card, backend: str) -> None:
    """The same of the unit hydrograph in float32."""
    case = Case("unit_hydrograph", 37, 1, 60, BOTH)
    series = [torch.rand(60, 37), 2.9 * torch.rand(37), 6 * torch.rand(37)]

    def both(given, backend):
        given = [x.detach().requires_grad_() for x in given]
        flow = hs.unit_hydrograph(*given, backend=backend)
        return flow.detach().cpu(), [g.cpu() for g in torch.autograd.grad(flow.square().sum(), given)]

    expected = both([x.double() for x in series], "reference")
    found, again = (both([x.to(card.device) for x in series], backend) for _ in range(2))
    compare(found, expected, ("inflow", "a", "b"), case)
    _same_bits(backend, case, (found[0], *found[1]), (again[0], *again[1]))
    print(f"unit_hydrograph on {backend}: agrees with the oracle, twice the same", flush=True)


def _same_bits(backend: str, case: Case, found, again) -> None:
    if not all(torch.equal(x, y) for x, y in zip(found, again, strict=True)):
        raise AssertionError(f"{backend} {case}: two runs differ; no speed is reported for what does not repeat.")


def check_route(card: Card, backend: str, scheme: str) -> None:
    routing_benchmark.check(scheme, card.device, backend)
    print(f"route {scheme} on {backend}: agrees with the oracle", flush=True)


def floors(card: Card, backend: str, case: Case, ceilings: dict) -> dict[str, float]:
    """Seconds at least, for each of three reasons."""
    basin_steps, size = case.B * case.T, 8 if case.dtype == "float64" else 4
    numbers = NUMBERS[case.mode] * basin_steps
    if case.mode == BOTH:
        numbers += 10 / backends.check_interval(case.T) * basin_steps * case.C
    found = {"memory": size * numbers / ceilings["copy_bytes_per_s"]}
    if case.dtype == "float32" and ceilings["fp32_instructions_per_s"]:
        forward, reverse = INSTRUCTIONS[case.model]
        instructions = forward if case.mode == FORWARD else 2 * forward + reverse
        found["arithmetic"] = instructions * basin_steps * case.C / ceilings["fp32_instructions_per_s"]
    return found | {"latency": latency(card, backend, replace(case, B=32, C=1))}


@functools.cache
def latency(card: Card, backend: str, case: Case) -> float:
    """What one warp takes, which has nothing to wait for but itself."""
    return card.kernels(work_of(card, backend, case))


def made(case: Case, device) -> tuple[dict, dict]:
    """Inputs on the device; large ones are made there."""
    if case.B * case.T < 10**7:
        return tuple(on(device, x) for x in inputs(case))
    model = hs.models.get(case.model)
    rand = lambda *shape: torch.rand(shape, device=device)  # noqa: E731
    forcing = {"prcp": 20 * rand(case.T, case.B) ** 3, "tmean": 30 * rand(case.T, case.B) - 10}
    forcing["pet"] = 5 * rand(case.T, case.B)
    return forcing, model.parameters_from_unit({n: rand(case.B, case.C) for n in model.parameter_names})


def work_of(card: Card, backend: str, case: Case):
    """A function that runs the case."""
    forcing, parameters = made(case, card.device)
    learned = leaves(parameters)
    cotangent = torch.randn(case.T, case.B, device=card.device, dtype=getattr(torch, case.dtype))

    def forward():
        with torch.no_grad():
            hs.simulate(case.model, forcing, parameters, backend=backend)

    def both():
        flow = hs.simulate(case.model, forcing, learned, backend=backend).fluxes["streamflow"]
        torch.autograd.grad(flow, list(learned.values()), cotangent)

    return forward if case.mode == FORWARD else both


def measure(card: Card, backend: str, case: Case, ceilings: dict):
    """The row of a time loop; of its whole calls alone where the kernels cannot be timed by themselves."""
    work = work_of(card, backend, case)
    calls = card.calls(work)
    try:
        found = row(backend, case, calls, card.kernels(work), floors(card, backend, case, ceilings))
        hs.synchronize()
    except Exception:
        yield row(backend, case, calls, note="kernels not timed")
        raise
    yield found


def routing(card: Card, backend: str, n_steps: int, n_series: int, ceilings: dict):
    """Rows of the unit hydrograph: inflow read, outflow written; for the gradient the cotangent and the inflow too."""
    series = [torch.rand(n_steps, n_series), 2.9 * torch.rand(n_series), 6 * torch.rand(n_series)]
    leaves = [x.to(card.device).requires_grad_() for x in series]
    cotangent = torch.rand(n_steps, n_series, device=card.device)

    def forward():
        with torch.no_grad():
            hs.unit_hydrograph(*leaves, backend=backend)

    def both():
        torch.autograd.grad(hs.unit_hydrograph(*leaves, backend=backend), leaves, cotangent)

    for mode, work, moved in ((FORWARD, forward, 8), (BOTH, both, 20)):
        memory = {"memory": moved * n_steps * n_series / ceilings["copy_bytes_per_s"]}
        case = Case("unit_hydrograph", n_series, 1, n_steps, mode)
        yield row(backend, case, card.calls(work), card.kernels(work), memory)


@functools.cache
def network(n_reaches: int) -> RiverNetwork:
    return RiverNetwork.random(n_reaches)


def rivers(card: Card, backend: str, scheme: str, n_reaches: int, n_days: int, ceilings: dict):
    """Rows of hours of a river network from daily inflow, kept at a thousandth of the reaches; a cell is a reach.

    Its floor: a step moves at least 60 bytes of a reach's constants, indices, inflow, discharge, storage and what it
    publishes; the gradient does that twice, and moves another 110 of cotangents and sums.
    """
    net = network(n_reaches)
    lateral = torch.rand(n_days, n_reaches, device=card.device)
    parameters = {n: torch.from_numpy(net.attributes[n]).float().to(card.device) for n in SCHEMES[scheme][0]}
    learned = leaves(parameters)
    options = dict(ids="network", dt=3600.0, scheme=scheme, repeat=24, gauges=net.ids[::1000], backend=backend)
    state = {"discharge": torch.ones(n_reaches, device=card.device)}
    options |= {"substeps": 1} if scheme == "todini" else {}

    def forward():
        with torch.no_grad():
            route(net, lateral, parameters, initial_state=state, **options)

    def both():
        run = route(net, lateral, learned, initial_state=state, **options)
        torch.autograd.grad(run.discharge.sum(), list(learned.values()))

    for mode, work, moved in ((FORWARD, forward, 60), (BOTH, both, 60 + 60 + 110)):
        calls = card.calls(work, most=10, repeats=5)
        case = Case(f"route {scheme}", n_reaches, 1, 24 * n_days, mode)
        note = f"{net.n_levels} levels, {1e3 * statistics.median(calls) / case.T:.3g} ms a step"
        memory = {"memory": moved * n_reaches * case.T / ceilings["copy_bytes_per_s"]}
        yield row(backend, case, calls, floors=memory, note=note)


def row(backend: str, case: Case, calls: list[float], kernels=None, floors=None, note: str = "") -> dict:
    """What the CSV holds of a case; rates and shares are those of the kernels alone where they are known."""
    median = statistics.median(calls)
    seconds = median if kernels is None else kernels
    found = {k: getattr(case, k) for k in ("model", "B", "C", "T", "dtype", "mode")} | dict(
        backend=backend,
        call_s=median,
        kernel_s="" if kernels is None else kernels,
        repeats=len(calls),
        million_cell_steps_per_s=f"{case.million_cell_steps / seconds:.4g}",
        note=note,
    )
    if floors:
        bound = max(floors, key=floors.get)
        found |= {f"{name}_floor_s": least for name, least in floors.items()}
        found |= dict(share_of_floor=f"{floors[bound] / seconds:.3f}", bound=bound)
    return found


def eager(card: Card, case: Case):
    """The row of the oracle's step in a loop over days on the same device."""
    forcing, parameters = made(case, card.device)
    learned = leaves(parameters)
    d_flow = torch.randn(case.T, case.B, device=card.device)

    def both():
        flow = hs.simulate(case.model, forcing, learned, backend="reference").fluxes["streamflow"]
        torch.autograd.grad(flow, list(learned.values()), d_flow)

    calls = card.calls(both, most=10, repeats=5)
    yield row("eager", case, calls, note="the oracle's step in a loop")


def streamed(card: Card, backend: str, case: Case):
    """The row of forcing in host memory, forty years: one of them over and over, since only the copying is measured."""
    model = hs.models.get(case.model)
    year = {n: torch.rand(min(case.T, 365), case.B) for n in model.forcing_names}
    forcing = {n: x.repeat(-(-case.T // len(x)), 1)[: case.T] for n, x in year.items()}
    parameters = model.parameters_from_unit({n: torch.rand(case.B, case.C) for n in model.parameter_names})
    memory = None if card.device.type == "cuda" else 10**6
    for _ in range(2):  # the first time pins memory of the host, which is kept
        start = time.perf_counter()
        run = scale.simulate(model, forcing, parameters, device=card.device, memory=memory, backend=backend)
        seconds = time.perf_counter() - start
    yield row(backend, case, [seconds], note=f"streamed from host memory, second time: {run.plan}")


def synthetic(card: Card, backend: str, case: Case, window: int = 100):
    """The row of forcing made on the card, window by window, chained by the state."""
    model = hs.models.get(case.model)
    rand = lambda *shape: torch.rand(shape, device=card.device)  # noqa: E731
    parameters = model.parameters_from_unit({n: rand(case.B, case.C) for n in model.parameter_names})
    state, total = None, torch.zeros(case.B, device=card.device)
    card.synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        for t in range(0, case.T, window):
            n = min(window, case.T - t)
            forcing = {"prcp": 10 * rand(n, case.B), "tmean": 30 * rand(n, case.B) - 10, "pet": 5 * rand(n, case.B)}
            run = hs.simulate(model, forcing, parameters, initial_state=state, backend=backend)
            state = run.final_state
            total += run.fluxes["streamflow"].sum(0)
    hs.synchronize()
    seconds = time.perf_counter() - start
    assert total.isfinite().all()
    yield row(backend, case, [seconds], note=f"synthetic forcing, windows of {window} steps")


def winners(rows: list[dict]) -> list[str]:
    """Which backend was fastest, case by case: what `backends.DEFAULT` should say."""
    cases: dict[tuple, list[tuple[float, str]]] = {}
    for r in rows:
        if r["share_of_floor"]:
            key = tuple(r[k] for k in ("model", "B", "C", "T", "dtype", "mode"))
            cases.setdefault(key, []).append((float(r["kernel_s"] or r["call_s"]), r["backend"]))
    lines = []
    for case, found in cases.items():
        found.sort()
        ahead = f", {found[1][0] / found[0][0]:.2f} times {found[1][1]}" if found[1:] else ""
        lines.append(f"{' '.join(case)}: {found[0][1]}{ahead}")
    return lines


class Report:
    """Where a group's rows go, and how many of its parts failed."""

    def __init__(self, path: str | None, common: dict):
        self.path, self.common, self.failed = path, common, 0

    def keep(self, part, *args) -> bool:
        """Run a part, and write each of its rows at once; what fails, of memory say, does not take the rest with it."""
        try:
            for found in part(*args) or ():
                self.write(self.common | found)
        except Exception as error:
            faults.drain()  # or the next part would be told
            self.failed += 1
            said = str(error).strip().splitlines() or [""]
            print(f"not measured: {part.__name__} {args[1:3]}: {type(error).__name__}: {said[0]}", flush=True)
            return False
        return True

    def write(self, row: dict) -> None:
        print(" | ".join(str(row.get(k, "")) for k in SHOWN), flush=True)
        if self.path:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)


def work(group: str, backend: str, card: Card, report: Report, ceilings: dict) -> None:
    """All parts of a group, each behind its check."""
    keep, small = report.keep, card.device.type != "cuda"
    if group == "kernels":
        for model in ("hbv10", "hbv11p"):
            if keep(check, card, backend, model, "float32"):
                for size in REHEARSED if small else SIZES:
                    for mode in (FORWARD, BOTH):
                        keep(measure, card, backend, Case(model, *size, mode), ceilings)
        if keep(check, card, backend, "hbv11p", "float64"):
            for mode in (FORWARD, BOTH):
                size = REHEARSED[1] if small else (671, 16, 730)
                keep(measure, card, backend, Case("hbv11p", *size, mode, "float64"), ceilings)
    if group == "hydrograph" and keep(check_hydrograph, card, backend):
        keep(routing, card, backend, *((30, 50) if small else (365, 500_000)), ceilings)
    if group == "routing":
        for scheme in ("todini", "ddr"):
            if keep(check_route, card, backend, scheme):
                keep(rivers, card, backend, scheme, *((300, 2) if small else (2_940_000, 30)), ceilings)
    if group == "scale" and keep(check, card, backend, "hbv10", "float32"):
        large = ((50, 4, 60), (50, 1, 150)) if small else ((180_000, 4, 14_600), (3_000_000, 1, 14_600))
        keep(synthetic, card, backend, Case("hbv10", *large[1], FORWARD))
        keep(streamed, card, backend, Case("hbv10", *large[0], FORWARD))
    if group == "eager":
        keep(eager, card, Case("hbv10", *(REHEARSED[1] if small else (100, 16, 730)), BOTH))


def opening(card: Card) -> dict:
    """Say what is here; return the backends that can run, and the ceilings."""
    about = dict(python=platform.python_version(), setuptools=metadata.version("setuptools"), **card.about())
    for name, state in (about | backends.describe()).items():
        print(f"{name}: {state}", flush=True)
    names = [name for name in ("cuda", "triton") if backends.describe()[name].startswith("available")]
    names = names if card.device.type == "cuda" else ["cpu"]
    return dict(
        names=names, ceilings=dict(copy_bytes_per_s=card.copy_bandwidth(), fp32_instructions_per_s=card.fp32_rate())
    )


def command(*arguments: str) -> list[str]:
    """What runs a part of this benchmark in a process of its own."""
    return [sys.executable, "-m", "benchmarks.gpu", *arguments]


def apart(arguments: list[str], limit: float, **options) -> tuple[str, str | None]:
    """Run a part, stopped after `limit` seconds; return how it failed, empty if it did not, and what was captured."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(command(*arguments), cwd=root, timeout=max(limit, 0), text=True, **options)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s", None
    said = {0: "", FAILED: "measured in part; see above"}.get(done.returncode, f"ended with status {done.returncode}")
    return said, done.stdout


FAILED = 3  # a group's status where some of its parts failed


def begin(path: Path) -> None:
    """Make the CSV with its header; one that is there is added to, if it has the same."""
    if path.exists():
        with path.open(newline="") as file:
            if next(csv.reader(file), []) != COLUMNS:
                raise SystemExit(f"{path} must be a CSV of this benchmark; found another: name another by --csv.")
    else:
        record.write([], "gpu", path, COLUMNS)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--csv", help="where rows are added (default: benchmarks/results/gpu-<date>.csv)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="these groups, in this order")
    parser.add_argument("--seconds", type=float, default=540, help="of all groups (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=240, help="seconds of one group (default: %(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small sizes")
    parser.add_argument("--worker", choices=("opening", *GROUPS), help="one group in this process")
    parser.add_argument("--backend", help="of the worker")
    parser.add_argument("--ceilings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not options.rehearse and not torch.cuda.is_available():
        parser.exit(2, "torch finds no GPU; install a GPU build of torch, or try the script with --rehearse.\n")
    card = Card(torch.device("cpu" if options.rehearse else "cuda"))
    if options.worker == "opening":
        print(json.dumps(opening(card)))
        return 0
    if options.worker:
        ceilings = options.ceilings or opening(card)["ceilings"]
        report = Report(options.csv, card.about() | ceilings)
        work(options.worker, options.backend, card, report, ceilings)
        return FAILED if report.failed else 0

    end = time.monotonic() + options.seconds
    path = Path(options.csv or record.RESULTS / f"gpu-{datetime.now():%Y-%m-%dT%H%M}.csv").resolve()
    begin(path)  # what cannot be written is said now
    rehearse = ["--rehearse"] * options.rehearse
    failed, said = apart(["--worker", "opening", *rehearse], options.limit, stdout=subprocess.PIPE)
    print(said or "", end="", flush=True)
    if failed:
        raise SystemExit(f"the ceilings were not measured ({failed}), and without them nothing is.")
    found = json.loads(said.splitlines()[-1])
    failures = []
    for group in options.only:
        for backend in ["eager"] if group == "eager" else found["names"]:
            if group == "routing" and backend == "triton":
                continue  # which has none
            given = ["--worker", group, "--backend", backend, "--csv", str(path), *rehearse]
            given += ["--ceilings", json.dumps(found["ceilings"])]
            limit = min(options.limit, end - time.monotonic())
            failure = apart(given, limit)[0] if limit > 0 else f"no time was left of {options.seconds:.0f} s"
            if failure:
                failures.append(f"{group} on {backend}: {failure}")
                print(failures[-1], flush=True)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for line in (*winners(rows), *failures, f"{len(rows)} rows in {path}"):
        print(line)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
