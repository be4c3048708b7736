"""HBV by backward Euler beside torch loops of the same scheme: `python -m benchmarks.implicit`.

671 basins x 16 components x 365 days in float32 on one thread, forward, and with the gradient of all parameters. Beside
it the same cells in torch over a few days: the oracle, which iterates each cell to the same residual; and six of
Newton's iterations in a step that torch.compile has compiled, converged or not. Times are the thread's own, of whole
calls, and medians. Newton's iterations are those of the oracle: of each cell, all stores at once.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import hybridsolve as hs
from hybridsolve.models import primitives

from . import record

SIZE = (671, 16, 365)  # basins, components, steps
NAME, WATER = "hbv_implicit@backward_euler", "streamflow"
COLUMNS = "date machine cores isa torch python what mode B C T rounds seconds million_cell_steps_s iterations".split()


def inputs(basins: int, components: int, steps: int, dtype: torch.dtype) -> tuple[dict, dict]:
    """A year of weather with frost, thaw, showers and dry weeks; parameters over their whole range."""
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64).to(dtype)  # noqa: E731
    season = torch.cos(2 * torch.pi * torch.arange(steps, dtype=torch.float64) / 365)[:, None].to(dtype)
    forcing = {
        "prcp": (60 * uniform(steps, basins) ** 3 - 20).clamp(min=0),
        "tmean": 8 - 10 * season + 6 * uniform(steps, basins) - 3,
        "pet": 2 - 1.8 * season + 0 * uniform(steps, basins),
    }
    model = hs.models.get(NAME)
    unit = {v.name: uniform(basins, components) for v in model.parameters}
    return forcing, model.parameters_from_unit(unit)


def run(given: tuple, gradient: bool, **options) -> list[torch.Tensor]:
    forcing, values = given
    leaves = {name: x.detach().requires_grad_(gradient) for name, x in values.items()}
    with torch.set_grad_enabled(gradient):
        flow = hs.simulate(NAME, forcing, leaves, **options).fluxes[WATER]
        found = torch.autograd.grad(flow, list(leaves.values()), torch.ones_like(flow)) if gradient else ()
    return [flow.detach(), *found]


def fixed(f: dict, p: dict, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A step ``[B, C, S]`` by six of Newton's iterations, and the gradient at their end."""
    rates, names = hs.models.RATES["hbv_implicit"].reference_step, hs.models.get(NAME).state_names

    def gained(x):
        slopes, fluxes = rates(f, {}, p, dict(zip(names, x.unbind(-1), strict=True)))
        return torch.stack([slopes[n] for n in names], -1), fluxes[WATER]

    def system(x):
        along = torch.eye(5, dtype=x.dtype)[:, None, None].repeat(1, *x.shape[:-1], 1)
        slope, back = torch.func.vjp(lambda x: gained(x)[0], x.repeat(5, 1, 1, 1))
        return x - s - slope[0], torch.eye(5, dtype=x.dtype) - back(along)[0].movedim(0, -2)

    with torch.no_grad():
        x = s
        for _ in range(6):
            r, jacobian = system(x)
            x = x - torch.linalg.solve(jacobian, r)
    r, jacobian = system(x)
    x = x - torch.linalg.solve(jacobian.detach(), r)
    slope, flow = gained(x)
    return s + slope, flow


def run_fixed(step, given: tuple, gradient: bool) -> list[torch.Tensor]:
    forcing, values = given
    leaves = {name: x.detach().requires_grad_(gradient) for name, x in values.items()}
    with torch.set_grad_enabled(gradient):
        s = torch.full((*next(iter(values.values())).shape, 5), 0.001)
        flows = []
        for t in range(len(forcing["prcp"])):
            s, flow = step({n: x[t, :, None] for n, x in forcing.items()}, leaves, s)
            flows.append(flow.mean(-1))
        total = torch.stack(flows)
        found = torch.autograd.grad(total, list(leaves.values()), torch.ones_like(total)) if gradient else ()
    return [total.detach(), *found]


def timed(call, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        begun = time.thread_time()
        call()
        seconds.append(time.thread_time() - begun)
    return statistics.median(seconds[1:])


def iterations(given: tuple) -> float:
    """Newton's iterations of a cell and step, in the mean."""
    made, root = [], primitives._root

    def counted(*args):
        found = root(*args)
        made.append(found[-1].mean())
        return found

    primitives._root = counted
    try:
        run(given, False, backend="reference")
    finally:
        primitives._root = root
    return float(torch.stack(made).mean())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.implicit", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--days", type=int, default=3, help="of the torch loops")
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/implicit-<date>.csv)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = inputs(37, 3, 20, torch.float64)
    for x, y in zip(*(run(small, True, backend=name) for name in ("cpu", "reference")), strict=True):
        if not (x - y).abs().max() <= 1e-9 * y.abs().max():
            raise AssertionError("the kernel differs from its oracle by more than 1e-9; no speed is reported.")
    basins, components, steps = SIZE
    given = inputs(*SIZE, torch.float32)
    short = ({n: x[150 : 150 + options.days] for n, x in given[0].items()}, given[1])
    about = {k: v for k, v in record.about().items() if k in COLUMNS} | dict(isa=hs._cpu.isa())
    mean = iterations(({n: x[::10, ::20] for n, x in given[0].items()}, {n: x[::20] for n, x in given[1].items()}))
    loop = torch.compile(fixed, dynamic=False)
    calls = {
        "kernel": (lambda gradient: run(given, gradient), steps, options.rounds),
        "torch, to the same residual": (lambda gradient: run(short, gradient, backend="reference"), options.days, 1),
        "torch.compile, six iterations": (lambda gradient: run_fixed(loop, short, gradient), options.days, 3),
    }
    rows = []
    for what, (call, days, rounds) in calls.items():
        for gradient, mode in enumerate(("forward", "forward + gradient")):
            seconds = timed(lambda call=call, gradient=gradient: call(bool(gradient)), rounds)
            speed = basins * components * days / seconds / 1e6
            row = dict(what=what, mode=mode, B=basins, C=components, T=days, rounds=rounds, seconds=seconds)
            rows.append(about | row | dict(million_cell_steps_s=f"{speed:.3g}", iterations=f"{mean:.3g}"))
            print(f"{what}, {mode}: {speed:.3g} million cell-steps/s")
    print(f"{mean:.2f} iterations a cell and step")
    print(f"wrote {len(rows)} rows to {record.write(rows, 'implicit', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
