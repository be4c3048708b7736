"""A network inside a step, beside what its operations take at the core's rate of fma: `python -m benchmarks.networks`.

671 basins x 16 components x 365 days in float32 on one thread, forward, and with all gradients: a store whose outflow
is the sigmoid of a network of three inputs and 16 tanh units, and by turns the same store with the sum of the inputs in
its place. The difference of the medians is what the network adds. Counted are, of a run forward, a multiply-add as one
and an activation as csrc/core/elementary.h has it; with gradients the run is made twice, of each weight there is one
fma, one load and one store, of the cotangent of each input of a unit one fma. Beside it the same store and network
over a month, as a loop over days in torch whose day torch.compile has compiled. Times are the thread's own, of whole
calls.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import torch

import hybridsolve as hs
from hybridsolve.bench import floors
from hybridsolve.models.primitives import mlp, sigmoid
from hybridsolve.spec import Forcing, Parameter, State, Variable

from . import record

SIZE = (671, 16, 365)  # basins, components, steps
UNITS, INPUTS = 16, 3
COLUMNS = "date machine cores isa torch python mode units B C T rounds added_s counted counted_s ratio".split()
COLUMNS += ["million_cell_steps_s", "compiled_day"]
DAYS = 30  # of the loop in torch
TABLE = dict(
    forcings=(Forcing("prcp", "mm d-1", "rain", 0.0, 1e5), Forcing("pet", "mm d-1", "demand", 0.0, 1e3)),
    parameters=(Parameter("capacity", "mm", "what the store is measured by", 20.0, 800.0),),
    states=(State("store", "mm", "water", 0.0, 1e30, initial=10.0, wet=100.0),),
    fluxes=(Variable("flow", "mm d-1", "flow"),),
    outflow="flow",
)


def store(name: str, share):
    """A store of which a share leaves."""

    @hs.models.define(name=name, **TABLE)
    def step(f, k, p, s):
        water = s["store"] + f["prcp"]
        flow = water * sigmoid(share([s["store"] / p["capacity"], f["pet"] / 5, f["prcp"] / 20]))
        return dict(store=water - flow), dict(flow=flow)

    return step


def inputs(basins: int, components: int, steps: int, dtype: torch.dtype) -> tuple[dict, dict, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw).to(dtype)  # noqa: E731
    forcing = {"prcp": (40 * uniform(steps, basins) - 20).clamp(min=0), "pet": 5 * uniform(steps, basins)}
    return forcing, {"capacity": 100 + 200 * uniform(basins, components)}, uniform(UNITS * (INPUTS + 2) + 1) - 0.5


def run(model, given: tuple, gradient: bool, **options) -> list[torch.Tensor]:
    forcing, values, weights = given
    leaves = {name: x.detach().requires_grad_() for name, x in values.items()}
    if model.name == "with_network":
        leaves["share"] = weights.detach().requires_grad_()
        options["networks"] = {"share": leaves["share"]}
    with torch.set_grad_enabled(gradient):
        flow = hs.simulate(model, forcing, {n: leaves[n] for n in values}, **options).fluxes["flow"]
        found = torch.autograd.grad(flow, list(leaves.values()), torch.ones_like(flow)) if gradient else ()
    return [flow.detach(), *found]


def day(prcp, pet, capacity, water, weights):
    """The store with the network, as a user of torch writes it."""
    matrix, bias, out = weights.split([UNITS * INPUTS, UNITS, UNITS + 1])
    seen = torch.stack(torch.broadcast_tensors(water / capacity, pet / 5, prcp / 20), -1)
    share = torch.tanh(seen @ matrix.view(UNITS, INPUTS).T + bias) @ out[:-1] + out[-1]
    water = water + prcp
    flow = water * torch.sigmoid(share)
    return water - flow, flow.mean(-1)


def run_days(compiled, given: tuple, gradient: bool) -> list[torch.Tensor]:
    forcing, values, weights = given
    leaves = [x.detach().requires_grad_(gradient) for x in (values["capacity"], weights)]
    with torch.set_grad_enabled(gradient):
        water, flows = torch.full_like(leaves[0], 10.0), []
        for prcp, pet in zip(forcing["prcp"], forcing["pet"], strict=True):
            water, flow = compiled(prcp[:, None], pet[:, None], leaves[0], water, leaves[1])
            flows.append(flow)
        total = torch.stack(flows)
        found = torch.autograd.grad(total, leaves, torch.ones_like(total)) if gradient else ()
    return [total.detach(), *found]


def counted(gradient: bool) -> int:
    """Operations of a cell-step, loads and stores of the weights' gradients among them."""
    cost = {name: sum(x.work) for name, x in floors._cost("float32").items()}
    weights = UNITS * (INPUTS + 2) + 1
    forward = UNITS * (INPUTS + 1) + UNITS * cost["tanh"]
    back = 3 * weights + UNITS * (INPUTS + 1) + UNITS * cost["adj_tanh"]
    return 2 * forward + back if gradient else forward


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/networks-<date>.csv)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = (store("with_network", lambda x: mlp("share", x, (UNITS,))[0]), store("without_network", sum))
    small = inputs(37, 3, 20, torch.float64)
    for x, y in zip(*(run(models[0], small, True, backend=name) for name in ("cpu", "reference")), strict=True):
        if not (x - y).abs().max() <= 1e-10 * y.abs().max():
            raise AssertionError("the network differs from its oracle by more than 1e-10; no speed is reported.")
    rate, rows = floors.measure(1)["fma float32"], []
    basins, components, steps = SIZE
    given = inputs(*SIZE, torch.float32)
    compiled, month = torch.compile(day, dynamic=False), ({n: x[:DAYS] for n, x in given[0].items()}, *given[1:])
    for x, y in zip(run(models[0], month, True), run_days(compiled, month, True), strict=True):
        if not (x - y).abs().max() <= 1e-4 * y.abs().max():
            raise AssertionError("the loop in torch is another model than the kernel's; no speed is reported.")
    about = {k: v for k, v in record.about().items() if k in COLUMNS} | dict(isa=hs._cpu.isa())
    for gradient, mode in enumerate(("forward", "forward + gradient")):
        calls = {model.name: functools.partial(run, model, given) for model in models}
        calls["compiled day"] = functools.partial(run_days, compiled, month)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.rounds + 2):
            for name, call in calls.items():
                begun = time.thread_time()
                call(bool(gradient))
                times[name].append(time.thread_time() - begun)
        with_it, without, loop = (statistics.median(times[name][2:]) for name in calls)
        n = counted(bool(gradient))
        least = n * basins * components * steps / rate
        row = dict(mode=mode, units=UNITS, B=basins, C=components, T=steps, rounds=options.rounds, counted=n)
        row |= dict(added_s=with_it - without, counted_s=least, ratio=f"{(with_it - without) / least:.3g}")
        cells = basins * components / 1e6
        row |= dict(million_cell_steps_s=f"{cells * steps / with_it:.3g}", compiled_day=f"{cells * DAYS / loop:.3g}")
        rows.append(about | row)
        print(
            f"{mode}: a network of {UNITS} units adds {1e3 * (with_it - without):.1f} ms; {n} operations a cell-step "
            f"take {1e3 * least:.1f} ms at the rate of fma: {row['ratio']} times; "
            f"in all {row['million_cell_steps_s']} million cell-steps/s, by torch's compiled day {row['compiled_day']}"
        )
    print(f"wrote {len(rows)} rows to {record.write(rows, 'networks', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
