"""Routing along a river network: `python -m benchmarks.routing [--large]` checks, measures and writes one CSV.

A random dendritic network (`RiverNetwork.random`), hourly steps, float32, one thread, the discharge of all reaches
kept. Nothing is timed before discharge and gradients agree with the float64 oracle on a small network. The baseline is
a loop over steps and reaches in order, compiled by numba, for linear Muskingum: it does what a C code for that does.
`--large` adds 2.94 million reaches, 30 days of hours from daily inflow, on all threads, kept at 10,000 gauges, in a
process of its own whose peak memory is noted. The ceiling is memory: four bytes of inflow in and four of discharge out.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from numba import njit

from hybridsolve.routing import RiverNetwork, route
from hybridsolve.routing.schemes import SCHEMES, linear

from . import ceiling, record
from .cases import BOTH, FORWARD

COLUMNS = (
    "date machine cores isa copy_bytes_per_s torch python threads scheme implementation reaches levels steps mode "
    "median_s min_s repeats million_reach_steps_per_s share_of_memory peak_GiB note"
).split()
DT = 3600.0


def network(n: int) -> RiverNetwork:
    """With Muskingum's k, which is the travel time at 1 m/s."""
    made = RiverNetwork.random(n)
    made.attributes["k"] = made.attributes["length"].copy()
    return made


def inflow(net: RiverNetwork, rows: int, dtype=torch.float32) -> torch.Tensor:
    """m3/s, about 1 mm a day."""
    area = torch.from_numpy(net.attributes["area"]).to(dtype)
    return torch.rand(rows, net.n_reaches, dtype=dtype, generator=torch.Generator().manual_seed(0)) * area * 2e-8


def parameters(net: RiverNetwork, scheme: str, dtype=torch.float32) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(net.attributes[name]).to(dtype) for name in SCHEMES[scheme][0]}


def gradient(net, scheme, lateral, given, state, **options):
    """Discharge, and the gradient of its sum with respect to every parameter, or of accumulation to the inflow."""
    leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
    lateral = lateral if leaves else lateral.detach().requires_grad_()
    run = route(net, lateral, leaves, ids="network", dt=DT, scheme=scheme, initial_state=state, **options)
    return run.discharge.detach(), torch.autograd.grad(run.discharge.sum(), list(leaves.values()) or [lateral])


def check(scheme: str, device="cpu", backend: str = "auto") -> None:
    """Raise unless the kernel agrees with the float64 oracle in both precisions."""
    net = network(200)
    wide, state = inflow(net, 20, torch.float64), {"discharge": torch.ones(200, dtype=torch.float64)}
    expected = gradient(net, scheme, wide, parameters(net, scheme, torch.float64), state, backend="reference")
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        begin = {name: x.to(device, dtype) for name, x in state.items()}
        given = {name: x.to(device) for name, x in parameters(net, scheme, dtype).items()}
        found = gradient(net, scheme, wide.to(device, dtype), given, begin, backend=backend)
        for x, e in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
            error = ((x.double().cpu() - e).abs().max() / e.abs().max()).item()
            if not error < tolerance:
                raise AssertionError(f"{scheme} {dtype}: {error:.1e} from the oracle; no speed is reported for that.")


def seconds(work, repeats: int) -> list[float]:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


@njit(fastmath=True)
def loop(downstream, constants, lateral, state, discharge):
    """Linear Muskingum, reach by reach in every step; the baseline."""
    n = len(downstream)
    before, now = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for t in range(len(lateral)):
        before[:] = 0
        for i in range(n):
            if downstream[i] >= 0:
                before[downstream[i]] += state[i]
        now[:] = 0
        for i in range(n):
            q = constants[0, i] * now[i] + constants[1, i] * before[i] + constants[2, i] * state[i]
            q += constants[3, i] * lateral[t, i]
            if downstream[i] >= 0:
                now[downstream[i]] += q
            state[i] = discharge[t, i] = q


def measure(n: int, n_steps: int, repeats: int):
    """Rows of every scheme, forward and with gradient, and of the baseline."""
    net = network(n)
    lateral = inflow(net, n_steps)
    about = dict(reaches=n, levels=net.n_levels, steps=n_steps, threads=torch.get_num_threads())
    for scheme in SCHEMES:
        check(scheme)
        given = parameters(net, scheme)
        with torch.no_grad():
            options = dict(ids="network", dt=DT, scheme=scheme)
            state = route(net, lateral, given, **options).final_state
        forward = torch.no_grad()(functools.partial(route, net, lateral, given, initial_state=state, **options))
        both = functools.partial(gradient, net, scheme, lateral, given, state)
        for mode, work in ((FORWARD, forward), (BOTH, both)):
            yield (
                about
                | dict(scheme=scheme, implementation="hybridsolve", mode=mode)
                | rate(seconds(work, repeats), about)
            )
        if scheme == "muskingum":
            constants = linear(given["k"], given["x"], DT).numpy()
            out = np.empty((n_steps, n), np.float32)
            given = (net.downstream, constants, lateral.numpy())
            times = seconds(lambda: loop(*given, state["discharge"].numpy().copy(), out), repeats)  # noqa: B023
            if not np.allclose(out, forward().discharge, rtol=1e-3):
                raise AssertionError("the baseline's discharge is another; no speed is reported for that.")
            row = dict(scheme=scheme, implementation="numba loop", mode=FORWARD)
            yield about | row | rate(times, about)


def rate(times: list[float], about: dict) -> dict:
    median = statistics.median(times)
    million = about["reaches"] * about["steps"] / median / 1e6
    return dict(median_s=median, min_s=min(times), repeats=len(times), million_reach_steps_per_s=f"{million:.4g}")


def large(scheme: str) -> dict:
    """Daily inflow of 2.94 million reaches to hours at 10,000 gauges; in a process of its own."""
    import resource

    start = time.perf_counter()
    net = RiverNetwork.random(2_940_000)
    made = time.perf_counter() - start
    lateral = inflow(net, 30)
    gauges = net.ids[np.random.default_rng(0).choice(net.n_reaches, 10_000, replace=False)]
    start = time.perf_counter()
    with torch.no_grad():
        run = route(net, lateral, ids="network", dt=DT, repeat=24, gauges=gauges, scheme=scheme)
    about = dict(reaches=net.n_reaches, levels=net.n_levels, steps=len(run.discharge), threads=torch.get_num_threads())
    return about | rate([time.perf_counter() - start], about) | dict(
        scheme=scheme,
        implementation="hybridsolve",
        mode=FORWARD,
        peak_GiB=f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}",
        note=f"network made and ordered in {made:.1f} s; the state of the begin is found in that time too",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__.splitlines()[0])
    parser.add_argument("--reaches", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", action="store_true", help="2.94 million reaches too: a minute more")
    parser.add_argument("--only-large", metavar="SCHEME", help=argparse.SUPPRESS)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/routing-<date>.csv)")
    options = parser.parse_args(argv)
    if options.only_large:
        print(json.dumps(large(options.only_large)))
        return
    torch.set_num_threads(1)
    machine = record.about() | {k: v for k, v in ceiling.measure().items() if k == "copy_bytes_per_s"}
    rows = []

    def keep(row: dict) -> None:
        moved = (8 if not row.get("peak_GiB") else 4 / 24) * row["reaches"] * row["steps"] / row["median_s"]
        if "copy_bytes_per_s" in machine:
            row["share_of_memory"] = f"{moved / float(machine['copy_bytes_per_s']):.3f}"
        rows.append(machine | row)
        show = "scheme implementation reaches steps threads mode median_s million_reach_steps_per_s share_of_memory"
        print(" | ".join(str(row.get(k, "")) for k in (*show.split(), "peak_GiB", "note")), flush=True)

    for row in measure(options.reaches, options.steps, options.repeats):
        keep(row)
    if options.large:
        for scheme in ("todini", "ddr"):
            command = [sys.executable, "-m", "benchmarks.routing", "--only-large", scheme]
            keep(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"wrote {len(rows)} rows to {record.write(rows, 'routing', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
