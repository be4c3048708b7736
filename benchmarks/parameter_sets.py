"""Losses of many parameter sets: `python -m benchmarks.parameter_sets` takes the NSE of 64 sets of GR4J in each of
1,000 basins over 14,600 days, without and with the gradient, and prints seconds and the memory beyond what was there.

x4 is up to 4 days. The flows, of which nothing is kept, would take 3.5 GiB. Nothing is timed before a small instance
agrees with a run and a loss.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence

import torch

import hybridsolve as hs
from hybridsolve.score import losses

from . import record

COLUMNS = "date machine cores isa torch python threads basins sets days loss mode seconds peak_MiB".split()


def case(n_basins: int, n_sets: int, days: int) -> tuple:
    """Weather, parameters and observations of random basins."""
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=draw)  # noqa: E731
    prcp = rand(days, n_basins).log_().mul_(-8).mul_(rand(days, n_basins) < 0.4)
    forcing = {"prcp": prcp, "pet": 3 * rand(days, n_basins)}
    model = hs.models.get("gr4j")
    unit = {name: rand(n_basins, n_sets) for name in model.parameter_names}
    parameters = model.parameters_from_unit(unit) | {"x4": 0.5 + 3.5 * unit["x4"]}
    return model, forcing, parameters, 2 * rand(days, n_basins)


def check(loss: str) -> None:
    """Raise unless a small instance has the loss of its flow, and its gradient."""
    model, forcing, parameters, obs = case(5, 3, 400)
    leaves = {name: x.requires_grad_() for name, x in parameters.items()}
    flow = hs.simulate(model, forcing, leaves, components="each").fluxes[model.outflow]
    expected = losses.get(loss)(obs)(flow)
    found = hs.loss_of_sets(model, forcing, leaves, obs, loss=loss, memory=1e4)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(x.sum(), list(leaves.values())) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def peak() -> float:
    """The most memory that the process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.partition("`")[0])
    parser.add_argument("--basins", type=int, default=1000)
    parser.add_argument("--sets", type=int, default=64)
    parser.add_argument("--days", type=int, default=14600)
    parser.add_argument("--loss", default="nse")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", help="default: results/parameter_sets-<date>.csv")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    check(given.loss)
    model, forcing, parameters, obs = case(given.basins, given.sets, given.days)
    rows = []
    for mode in ("loss", "loss + gradient"):
        leaves = {name: x.clone().requires_grad_(mode != "loss") for name, x in parameters.items()}
        seconds, before = [], peak()
        for _ in range(given.rounds):
            began = time.perf_counter()
            found = hs.loss_of_sets(model, forcing, leaves, obs, loss=given.loss)
            if mode != "loss":
                found.sum().backward()
            seconds.append(time.perf_counter() - began)
        row = dict(
            threads=given.threads, basins=given.basins, sets=given.sets, days=given.days, loss=given.loss, mode=mode
        )
        rows.append(record.about() | row | dict(seconds=f"{min(seconds):.3g}", peak_MiB=f"{peak() - before:.0f}"))
        print(f"{mode}: {min(seconds):.3g} s, {peak() - before:.0f} MiB more")
    print(f"wrote {record.write(rows, 'parameter_sets', given.csv, COLUMNS)}")
    return rows


if __name__ == "__main__":
    main()
