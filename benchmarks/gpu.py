"""The kernels on a GPU: `python -m benchmarks.gpu` builds, checks, measures and writes `results/gpu-<date>.csv`.

Ten minutes on one H100. Nothing is timed before its fluxes and gradients agree with the float64 oracle, and come out
the same to the bit twice. Every time is a median after warm-up, by device events, and stands beside its floor: the
larger of the bytes over the copy bandwidth and the instructions over the rate of fp32 instructions, both measured in
the same run. `--rehearse` goes the whole way on the CPU with small sizes, to try the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
import triton
import triton.language as tl

import hybridsolve as hs
from hybridsolve import backends, scale
from hybridsolve.routing import RiverNetwork, route
from hybridsolve.routing.muskingum import SCHEMES

from . import implementations, record
from . import routing as routing_benchmark
from .baselines import StepLoop
from .cases import BOTH, FORWARD, Case, inputs

COLUMNS = (
    "date device driver torch triton copy_bytes_per_s fp32_instructions_per_s backend model B C T dtype mode "
    "median_s min_s repeats million_cell_steps_per_s floor_s share_of_floor bound note"
).split()
# Basins, components, steps; the last two fill the card, by memory and by arithmetic.
SIZES = ((100, 16, 365), (100, 16, 730), (671, 16, 730), (1000, 1, 3650), (3_000_000, 1, 100), (200_000, 16, 100))
REHEARSED = ((10, 4, 20), (50, 1, 30))
# Floors, HBV in float32 with static parameters. Forward: three forcings in, one flux out, and about 140 instructions a
# cell-step. Gradient: the forward run, the forcing twice more (states made again, steps reversed) and the flux's
# cotangent; the instructions of a forward run twice and about 250 of the reversal. The states of a segment are taken
# to stay on the chip, and checkpoints, 40 bytes over their interval a cell-step, are counted.
BYTES = {FORWARD: 16, BOTH: 16 + 28}
INSTRUCTIONS = {FORWARD: 140, BOTH: 140 + 140 + 250}


@dataclass
class Card:
    """Where it runs, how time is taken there, and its two ceilings."""

    device: torch.device

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work, most: float = 3.0, repeats: int = 15) -> list[float]:
        """Times of `work` after two warm-ups: up to `repeats`, or as many as fit into `most` seconds, at least 3.

        What takes less than 5 ms on a card is done several times between two events: the work that is queued hides
        what Python takes to ask for it, as far as it does in a loop of training.
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
        self.synchronize()
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(together):
                work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / together
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

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


CHAINS = 8  # independent ones in a lane: enough to hide an instruction's latency


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


def on_gpu(card: Card) -> list[str]:
    """The GPU's backends, `_cuda` built first where nvcc is and it is not built yet."""
    if importlib.util.find_spec("hybridsolve._cuda") is None and shutil.which("nvcc"):
        root = Path(__file__).resolve().parents[1]
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        start = time.perf_counter()
        wish = os.environ | {"HYBRIDSOLVE_CUDA": "1"}
        done = subprocess.run(command, cwd=root, env=wish, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        seconds = f"{time.perf_counter() - start:.0f} s"
        print(f"built in {seconds}" if done.returncode == 0 else f"the build failed after {seconds}: {done.stderr}")
        importlib.invalidate_caches()
    names = []
    for name in ("triton", "cuda"):
        try:
            names.append(backends.choose(name, card.device))
        except RuntimeError as error:
            print(f"not measured: {error}")
    return names


def on(device, tensors):
    return {n: x.to(device) for n, x in tensors.items()}


def check(card: Card, backend: str, model: str) -> None:
    """Raise unless the kernels agree with the oracle in both precisions and repeat themselves to the bit."""
    for dtype in ("float64", "float32"):
        case = Case(model, 37, 5, 60, BOTH, dtype)
        forcing, parameters = inputs(case)
        cotangent = implementations.cotangent(case)

        def ours(f, p, d=cotangent):
            learned = implementations.leaves(on(card.device, p))
            run = hs.simulate(model, on(card.device, f), learned, backend=backend)
            flow = run.fluxes["streamflow"]
            return flow.detach().cpu(), [
                g.cpu() for g in torch.autograd.grad(flow, list(learned.values()), d.to(card.device))
            ]

        def oracle(f, p):
            return hs.simulate(model, f, p, backend="reference").fluxes["streamflow"]

        widened = [{n: x.double() for n, x in given.items()} for given in (forcing, parameters)]
        expected = implementations.gradient(oracle, *widened, cotangent.double())
        found, again = ours(forcing, parameters), ours(forcing, parameters)
        implementations.compare(found, expected, parameters, case)
        if not all(torch.equal(x, y) for x, y in zip((found[0], *found[1]), (again[0], *again[1]), strict=True)):
            raise AssertionError(f"{backend} {case}: two runs differ; no speed is reported for what does not repeat.")
    hs.synchronize()


def floor(case: Case, ceilings: dict, interval: int) -> tuple[float, str]:
    """Seconds at least, and by what: memory or arithmetic."""
    basin_steps = case.B * case.T
    moved = BYTES[case.mode] * basin_steps
    if case.mode == BOTH:
        moved += 40 / interval * basin_steps * case.C
    memory = moved / ceilings["copy_bytes_per_s"]
    rate = ceilings["fp32_instructions_per_s"]
    arithmetic = INSTRUCTIONS[case.mode] * basin_steps * case.C / rate if rate else 0.0
    return max(memory, arithmetic), "memory" if memory > arithmetic else "arithmetic"


def made(case: Case, device) -> tuple[dict, dict]:
    """Inputs on the device; large ones are made there."""
    if case.B * case.T < 10**7:
        return tuple(on(device, x) for x in inputs(case))
    model = hs.models.get(case.model)
    rand = lambda *shape: torch.rand(shape, device=device)  # noqa: E731
    forcing = {"prcp": 20 * rand(case.T, case.B) ** 3, "tmean": 30 * rand(case.T, case.B) - 10}
    forcing["pet"] = 5 * rand(case.T, case.B)
    return forcing, model.parameters_from_unit({n: rand(case.B, case.C) for n in model.parameter_names})


def measure(card: Card, backend: str, case: Case, ceilings: dict) -> dict:
    """One row."""
    forcing, parameters = made(case, card.device)
    learned = implementations.leaves(parameters)
    cotangent = torch.randn(case.T, case.B, device=card.device)

    def forward():
        with torch.no_grad():
            hs.simulate(case.model, forcing, parameters, backend=backend)

    def both():
        flow = hs.simulate(case.model, forcing, learned, backend=backend).fluxes["streamflow"]
        torch.autograd.grad(flow, list(learned.values()), cotangent)

    times = card.seconds(forward if case.mode == FORWARD else both)
    hs.synchronize()
    least, bound = floor(case, ceilings, backends.check_interval(case.T))
    median = statistics.median(times)
    return row(backend, case, times) | dict(floor_s=least, share_of_floor=f"{least / median:.3f}", bound=bound)


def routing(card: Card, backend: str, n_steps: int, n_series: int, ceilings: dict) -> list[dict]:
    """The unit hydrograph: inflow read and outflow written; for the gradient the cotangent and the inflow too."""
    series = [torch.rand(n_steps, n_series), 2.9 * torch.rand(n_series), 6 * torch.rand(n_series)]
    leaves = [x.to(card.device).requires_grad_() for x in series]
    cotangent = torch.rand(n_steps, n_series, device=card.device)

    def forward():
        with torch.no_grad():
            hs.unit_hydrograph(*leaves, backend=backend)

    def both():
        torch.autograd.grad(hs.unit_hydrograph(*leaves, backend=backend), leaves, cotangent)

    rows = []
    for mode, work, moved in ((FORWARD, forward, 8), (BOTH, both, 20)):
        times = card.seconds(work)
        least = moved * n_steps * n_series / ceilings["copy_bytes_per_s"]
        found = row(backend, Case("unit_hydrograph", n_series, 1, n_steps, mode), times)
        share = f"{least / statistics.median(times):.3f}"
        rows.append(found | dict(floor_s=least, share_of_floor=share, bound="memory"))
    return rows


def rivers(card: Card, backend: str, scheme: str, n_reaches: int, n_days: int, ceilings: dict) -> list[dict]:
    """Hours of a river network from daily inflow, kept at a thousandth of the reaches; a cell is a reach.

    Its floor: a step moves at least 60 bytes of a reach's constants, indices, inflow, discharge, storage and what it
    publishes; the gradient does that twice, and moves another 110 of cotangents and sums.
    """
    network = RiverNetwork.random(n_reaches)
    lateral = torch.rand(n_days, n_reaches, device=card.device)
    parameters = {n: torch.from_numpy(network.attributes[n]).float().to(card.device) for n in SCHEMES[scheme][0]}
    leaves = implementations.leaves(parameters)
    options = dict(ids="network", dt=3600.0, scheme=scheme, repeat=24, gauges=network.ids[::1000], backend=backend)
    state = {"discharge": torch.ones(n_reaches, device=card.device)}
    options |= {"substeps": 1} if scheme == "todini" else {}

    def forward():
        with torch.no_grad():
            route(network, lateral, parameters, initial_state=state, **options)

    def both():
        run = route(network, lateral, leaves, initial_state=state, **options)
        torch.autograd.grad(run.discharge.sum(), list(leaves.values()))

    rows = []
    for mode, work, moved in ((FORWARD, forward, 60), (BOTH, both, 60 + 60 + 110)):
        times = card.seconds(work, most=10, repeats=5)
        case = Case(f"route {scheme}", n_reaches, 1, 24 * n_days, mode)
        least = moved * n_reaches * case.T / ceilings["copy_bytes_per_s"]
        note = f"{network.n_levels} levels, {1e3 * statistics.median(times) / case.T:.3g} ms a step"
        share = f"{least / statistics.median(times):.3f}"
        rows.append(row(backend, case, times, note) | dict(floor_s=least, share_of_floor=share, bound="memory"))
    return rows


def row(backend: str, case: Case, times: list[float], note: str = "") -> dict:
    median = statistics.median(times)
    return {k: getattr(case, k) for k in ("model", "B", "C", "T", "dtype", "mode")} | dict(
        backend=backend,
        median_s=median,
        min_s=min(times),
        repeats=len(times),
        million_cell_steps_per_s=f"{case.million_cell_steps / median:.4g}",
        note=note,
    )


def eager(card: Card, case: Case) -> dict:
    """The oracle's step in a loop over days on the same device."""
    forcing, parameters = made(case, card.device)
    learned = implementations.leaves(parameters)
    loop = StepLoop(case.model, 0)
    cotangent = torch.randn(case.T, case.B, device=card.device)
    times = card.seconds(
        lambda: torch.autograd.grad(loop(forcing, learned), list(learned.values()), cotangent), most=10, repeats=5
    )
    return row("eager", case, times, "the oracle's step in a loop")


def streamed(card: Card, backend: str, case: Case) -> dict:
    """Forcing in host memory, forty years: one of them over and over, since only the copying is measured."""
    model = hs.models.get(case.model)
    year = {n: torch.rand(min(case.T, 365), case.B) for n in model.forcing_names}
    forcing = {n: x.repeat(-(-case.T // len(x)), 1)[: case.T] for n, x in year.items()}
    parameters = model.parameters_from_unit({n: torch.rand(case.B, case.C) for n in model.parameter_names})
    memory = None if card.device.type == "cuda" else 10**6
    for _ in range(2):  # the first time pins memory of the host, which is kept
        start = time.perf_counter()
        run = scale.simulate(model, forcing, parameters, device=card.device, memory=memory, backend=backend)
        seconds = time.perf_counter() - start
    return row(backend, case, [seconds], f"streamed from host memory, second time: {run.plan}")


def synthetic(card: Card, backend: str, case: Case, window: int = 100) -> dict:
    """Forcing made on the card, window by window, chained by the state."""
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
    return row(backend, case, [seconds], f"synthetic forcing, windows of {window} steps")


def winners(rows: list[dict]) -> list[str]:
    """Which backend was fastest, case by case: what `backends.DEFAULT` should say."""
    cases: dict[tuple, list[dict]] = {}
    for r in rows:
        if "share_of_floor" in r:
            cases.setdefault(tuple(r[k] for k in ("model", "B", "C", "T", "mode")), []).append(r)
    lines = []
    for case, found in cases.items():
        found.sort(key=lambda r: r["median_s"])
        ahead = f", {found[1]['median_s'] / found[0]['median_s']:.2f} times {found[1]['backend']}" if found[1:] else ""
        lines.append(f"{' '.join(map(str, case))}: {found[0]['backend']}{ahead}")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/gpu-<date>.csv)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small sizes")
    options = parser.parse_args(argv)
    if not options.rehearse and not torch.cuda.is_available():
        parser.exit(2, "torch finds no GPU; install a GPU build of torch, or try the script with --rehearse.\n")
    card = Card(torch.device("cpu" if options.rehearse else "cuda"))
    about = card.about()
    path = options.csv or record.RESULTS / f"gpu-{about['date'].replace(':', '')}.csv"
    record.write([], "gpu", path, COLUMNS)  # what cannot be written is said now
    names = ["cpu"] if options.rehearse else on_gpu(card)
    for model in hs.models.names():
        for backend in names:
            check(card, backend, model)
            print(f"{model} on {backend}: agrees with the oracle, twice the same", flush=True)
    for backend in [name for name in names if name != "triton"]:
        for scheme in SCHEMES:
            routing_benchmark.check(scheme, card.device, backend)
            print(f"route {scheme} on {backend}: agrees with the oracle", flush=True)
    ceilings = dict(copy_bytes_per_s=card.copy_bandwidth(), fp32_instructions_per_s=card.fp32_rate())
    print(", ".join(f"{name} {value:.3g}" for name, value in ceilings.items()), flush=True)
    rows, failed = [], []

    def keep(measured, *args) -> None:
        """Measure, print and write; what fails, of memory that is not there say, does not take the rest with it."""
        try:
            found = measured(card, *args)
        except RuntimeError as error:
            failed.append(f"not measured: {measured.__name__} {args[:2]}: {error}")
            print(failed[-1], flush=True)
            return
        for r in found if isinstance(found, list) else [found]:
            rows.append(about | ceilings | r)
            show = "backend model B C T mode median_s million_cell_steps_per_s share_of_floor bound note".split()
            print(" | ".join(str(r.get(k, "")) for k in show), flush=True)
        record.write(rows, "gpu", path, COLUMNS)

    sizes = REHEARSED if options.rehearse else SIZES
    for size in sizes:
        for mode in (FORWARD, BOTH):
            for backend in names:  # one after another: a ratio compares neighbours in time
                keep(measure, backend, Case("hbv10", *size, mode), ceilings)
    for backend in names:
        keep(routing, backend, *((30, 50) if options.rehearse else (365, 500_000)), ceilings)
    for scheme in ("todini", "ddr"):
        for backend in [name for name in names if name != "triton"]:  # which has no routing
            keep(rivers, backend, scheme, *((300, 2) if options.rehearse else (2_940_000, 30)), ceilings)
    keep(eager, Case("hbv10", *sizes[min(1, len(sizes) - 1)], BOTH))
    for backend in names:
        large = ((50, 4, 60), (50, 1, 150)) if options.rehearse else ((180_000, 4, 14_600), (3_000_000, 1, 14_600))
        keep(streamed, backend, Case("hbv10", *large[0], FORWARD))
        keep(synthetic, backend, Case("hbv10", *large[1], FORWARD))
    for line in (*winners(rows), *failed, f"wrote {len(rows)} rows to {path}"):
        print(line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
