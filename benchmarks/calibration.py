"""Score against seconds: `python -m benchmarks.calibration` fits 20 CAMELS basins by four methods and draws the curves.

HBV 1.1p with its unit hydrograph, sixteen parameters, NSE over 1999-10-01..2008-09-30 after three years of warm-up,
Priestley-Taylor evapotranspiration. Ours, all basins at once: Levenberg and Marquardt's method and Adam from ten
starts, differential evolution with sixty members. SCE-UA (Duan et al. 1992) is that of spotpy, one basin after another,
on our solver; its own time between two runs of the solver is in its seconds. An evaluation is a run of one basin, with
or without derivatives. Last, what the normal equations cost beside a run. Nothing is timed before they agree with the
adjoint.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from hybridsolve import models, plot
from hybridsolve.calibration.objective import Objective
from hybridsolve.calibration.search import EvolutionSearch, GradientSearch, LeastSquaresSearch, starting_points
from hybridsolve.calibration.space import search_space
from hybridsolve.calibration.windows import window
from hybridsolve.data import read_camels
from hybridsolve.data.camels import data_dir
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.solve.sensitivity import normal_equations

from . import record
from .routing import seconds

COLUMNS = (
    "date machine cores isa torch python threads basins method step evaluations_a_basin seconds median_nse".split()
)
EVERY = 27  # of the 531


def objective_and_ids(every: int):
    ids = (data_dir() / "basins_531.txt").read_text().split()[::every]
    model = models.get("hbv11p")
    data = read_camels(basins=ids, pet="priestley-taylor")
    return Objective(search_space(model), window(data, model, "1999-10-01:2008-09-30", 3.0), "nse"), ids


def check(objective, points) -> None:
    points = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(points).sum(), points)
    with torch.no_grad():
        half = objective.normal_equations(points)[1]
    error = (2 * half.permute(2, 0, 1) - gradient).abs().max() / gradient.abs().max()
    if not error < 1e-2:
        raise AssertionError(f"the two gradients differ by {error:.1e}; no speed is reported for that.")


def ours(objective, n_basins: int):
    """Rows of each method after every step."""
    n = len(objective.space.free)
    few, many = (starting_points(n, n_basins, s, 0) for s in (10, 60))
    check(objective, few)
    makes = {
        "lm": lambda: LeastSquaresSearch(objective, few, 40, 0),
        "gradient": lambda: GradientSearch(objective, few, 300),
        "evolution": lambda: EvolutionSearch(objective, many, 250, 0),
    }
    for name, make in makes.items():
        make().step()  # warm
        search, spent = make(), 0.0
        while search.done < search.n_steps:
            began = time.perf_counter()
            search.step()
            spent += time.perf_counter() - began
            nse = 1 - search.best_loss.amin(1).median().item()
            yield dict(method=name, step=search.done, seconds=spent, median_nse=nse,
                       evaluations_a_basin=search.done * search.evaluations_per_step)  # fmt: skip


def shuffled_complexes(objective, n_basins: int, repetitions: int):
    """Rows of spotpy's SCE-UA, basin after basin: its best score and time after so many evaluations."""
    import spotpy

    n = len(objective.space.free)
    scores, spent = np.empty((n_basins, repetitions)), np.empty((n_basins, repetitions))
    for b in range(n_basins):
        one = Objective(objective.space, objective.period.basins(slice(b, b + 1)), "nse")
        history = []

        class Setup:
            parameters_ = [spotpy.parameter.Uniform(f"x{i}", 0.0, 1.0) for i in range(n)]

            def parameters(self):
                return spotpy.parameter.generate(self.parameters_)

            @torch.no_grad()
            def simulation(self, x):
                loss = float(one(torch.tensor(list(x), dtype=torch.float32)[:, None, None]))  # noqa: B023
                history.append((loss, time.perf_counter()))  # noqa: B023
                return [loss]

            def evaluation(self):
                return [0.0]

            def objectivefunction(self, simulation, evaluation):
                return simulation[0]

        began = time.perf_counter()
        sampler = spotpy.algorithms.sceua(Setup(), dbformat="ram", random_state=b, save_sim=False)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints each of its steps
            sampler.sample(repetitions, ngs=7)
        losses, times = np.array(history).T
        last = np.minimum(np.arange(repetitions), len(losses) - 1)
        scores[b], spent[b] = 1 - np.minimum.accumulate(losses)[last], (times - began)[last]
    for i in range(99, repetitions, 100):
        yield dict(method="SCE-UA (spotpy)", step=i + 1, evaluations_a_basin=i + 1, seconds=spent[:, i].sum(),
                   median_nse=np.median(scores[:, i]))  # fmt: skip


def column(n_basins: int = 512, n_starts: int = 10, n_steps: int = 1460):
    """Rows of a forward run with its hydrographs, and of the normal equations along all parameters; one thread."""
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=draw)  # noqa: E731
    model = models.get("hbv11p")
    forcing = {"prcp": 30 * rand(n_steps, n_basins) ** 4, "tmean": 25 * rand(n_steps, n_basins) - 6}
    forcing["pet"] = 4 * rand(n_steps, n_basins)
    names = (*model.parameter_names, *model.routing_parameter_names)
    values = model.parameters_from_unit({name: rand(n_basins, n_starts) for name in names})
    target, weight = rand(n_steps, n_basins), torch.ones(n_steps, n_basins)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        works = {
            "forward run": lambda: simulate_to_gauge(model, forcing, values, components="each"),
            "normal equations": lambda: normal_equations(model, forcing, values, target, weight),
        }
        medians = {name: statistics.median(seconds(work, 7)) for name, work in works.items()}
    torch.set_num_threads(before)
    for name, median in medians.items():
        yield dict(method=name, threads=1, basins=n_basins, step=n_steps, evaluations_a_basin=n_starts, seconds=median)
    share = medians["normal equations"] / medians["forward run"]
    print(
        f"normal equations along {len(names)} parameters: {share:.2f} forward runs, {share / len(names):.2f} a column"
    )


def draw(rows, path) -> Path:
    """Score against seconds, one curve a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows):
        x, y = np.array([(r["seconds"], r["median_nse"]) for r in rows if r["method"] == method]).T
        axes.plot(x, y, lw=2, label=method)
    axes.set(xscale="log", ylim=(0.5, None), xlabel="seconds, all basins", ylabel="median training NSE (–)")
    axes.grid(True, color="#e4e4e4")
    axes.legend(frameon=False)
    axes.set_title(f"{rows[0]['basins']} catchments, {rows[0]['threads']} threads", loc="left")
    return plot.save(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=EVERY, help="every so manieth of the 531 (default: %(default)s)")
    parser.add_argument(
        "--repetitions", type=int, default=5000, help="of SCE-UA a basin, 0: leave it out (default: %(default)s)"
    )
    parser.add_argument("--csv", help="where to write (default: benchmarks/results/calibration-<date>.csv)")
    options = parser.parse_args(argv)
    objective, ids = objective_and_ids(options.every)
    about = record.about() | dict(threads=torch.get_num_threads(), basins=len(ids))
    rows = [about | row for row in ours(objective, len(ids))]
    if options.repetitions:
        rows += [about | row for row in shuffled_complexes(objective, len(ids), options.repetitions)]
    ends = {row["method"]: row for row in rows}  # the last row of each
    for method, end in ends.items():
        cost = f"{end['seconds']:.1f} s and {end['evaluations_a_basin']} evaluations a basin"
        print(f"{method}: {end['median_nse']:.4f} after {cost}")
        for other in (other for other in ends if other != method):
            reached = next(
                (r for r in rows if r["method"] == method and r["median_nse"] >= ends[other]["median_nse"]), None
            )
            if reached:
                print(f"  where {other} ends after {reached['seconds']:.2f} s")
    columns = [about | row for row in column()]
    path = record.write(rows + columns, "calibration", options.csv, COLUMNS)
    print(f"wrote {len(rows)} rows to {path} and {draw(rows, path.with_suffix('.png'))}")


if __name__ == "__main__":
    main()
