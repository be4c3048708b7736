"""A training step of a recipe, and the solver's share of it: `python -m benchmarks.learning [--device cuda]`.

Batch of the recipe dhbv11p: 100 basins x 16 components x 730 days, an LSTM of 256 before the solver, float32. The step
is network, solver, unit hydrograph, loss, their gradients, and the optimiser; the solver's part (with the unit
hydrograph and the loss) is timed alone on the same numbers in the same run, forward and gradient. Random weather: the
work does not depend on it.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from hybridsolve.nn.differentiable import run_parameters
from hybridsolve.score import losses
from hybridsolve.training.config import read_config
from hybridsolve.training.trained import make_module

from . import record
from .routing import seconds

COLUMNS = "date machine cores isa torch python recipe device threads B C T part median_s min_s repeats share".split()


def batch(config, device):
    """Forcing [T, B], scaled attributes and weather, observations of the scored days."""
    size, generator = config.batch, torch.Generator().manual_seed(0)
    n_steps, shape = size.warmup + size.days, (size.basins,)
    rand = lambda *s: torch.rand(*s, generator=generator)  # noqa: E731
    prcp, tmean, pet = 8 * rand(n_steps, *shape), 30 * rand(n_steps, *shape) - 10, 4 * rand(n_steps, *shape)
    forcing = {"prcp": prcp, "tmean": tmean, "pet": pet}
    attributes, weather = rand(size.basins, len(config.attributes)), rand(n_steps, *shape, len(config.weather))
    obs = rand(size.days, *shape)
    move = lambda x: x.to(device)  # noqa: E731
    return {n: move(x) for n, x in forcing.items()}, move(attributes), move(weather), move(obs)


def measure(recipe: str, device: str, repeats: int) -> list[dict]:
    """Rows of the whole step, of the solver and of its forward run."""
    config = read_config(recipe)
    torch.manual_seed(0)
    module = make_module(config).to(device)
    forcing, attributes, weather, obs = batch(config, device)
    weather = weather if config.weather else None
    options = dict(warmup=config.batch.warmup, warmup_gradient=config.batch.warmup_gradient)
    loss = losses.NSEBatch(obs, obs.std(0))
    optimiser = torch.optim.Adadelta(module.parameters())
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def step():
        optimiser.zero_grad()
        loss(module(forcing, attributes, weather, **options).fluxes["streamflow"]).backward()
        optimiser.step()
        wait()

    with torch.no_grad():
        raw = module.raw_parameters(attributes, weather)
    raw = {name: x.detach().requires_grad_() for name, x in raw.items()}

    def solver():
        flow = run_parameters(module.model, forcing, raw, **options).fluxes["streamflow"]
        gradients = torch.autograd.grad(loss(flow), list(raw.values()))
        wait()
        return gradients

    if not all(g.isfinite().all() for g in solver()):
        raise AssertionError("a gradient is not finite; no speed is reported for that.")
    n_steps = len(forcing["prcp"])
    about = dict(recipe=recipe, device=device, threads=torch.get_num_threads(), B=config.batch.basins,
                 C=config.components, T=n_steps, repeats=repeats)  # fmt: skip
    times = {"step": seconds(step, repeats), "solver": seconds(solver, repeats)}
    whole = statistics.median(times["step"])
    return [
        about
        | dict(part=part, median_s=statistics.median(x), min_s=min(x), share=f"{statistics.median(x) / whole:.4f}")
        for part, x in times.items()
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="dhbv11p")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/learning-<date>.csv)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    about = record.about()
    rows = [about | row for row in measure(options.recipe, options.device, options.repeats)]
    for row in rows:
        print(" | ".join(str(row[k]) for k in ("recipe", "device", "threads", "part", "median_s", "share")), flush=True)
    print(f"wrote {len(rows)} rows to {record.write(rows, 'learning', options.csv, COLUMNS)}")


if __name__ == "__main__":
    main()
