"""Batch calibration: all catchments x many starts in one run of the solver, by gradient or by evolution.

A basin's starts are the components of the solver (kept apart), so its forcing is loaded once for all of them. Each
(basin, start) is a problem of its own: nothing is shared between basins but the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from .. import models
from ..arguments import SEEDS, finite, whole
from ..data.dataset import check_dataset, overlap, period_slice, period_text
from ..data.files import write_atomic
from ..data.ids import listed
from ..data.lags import warn_of_early_flow
from ..data.usable import refuse_outside, usable_basins, used_days
from ..score import losses, metrics
from ..solve.sensitivity import jacobian, normal_equations
from ..spec import ModelSpec
from .evaluation import Window, evaluate, flows, routed_flow, window
from .identifiability import linearised
from .search import EvolutionSearch, GradientSearch, LeastSquaresSearch, starting_points

METHODS = {"lm": 40, "gradient": 300, "evolution": 250}  # and the steps each takes if not told
FORMAT = 2  # of a checkpoint; raised when older ones no longer mean the same
SAVE_EVERY = float(os.environ.get("HYBRIDSOLVE_SAVE_EVERY", "20"))  # seconds between checkpoints
CHUNK_BYTES = 3e8  # of one flow series [T, B, S]: more basins than this holds are calibrated one lot after another


class Objective:
    """Loss ``[B, S]`` of points ``[P, B, S]`` of the unit cube over one window, for some of its basins."""

    SLICE = 16  # members run at a time where no gradient is asked for: bounds the memory of a large population

    def __init__(self, model: ModelSpec, period: Window, loss: str, basins: slice = slice(None)):
        self.model = model
        self.names = model.parameter_names + model.routing_parameter_names
        self.forcing = {name: f[:, basins] for name, f in period.forcing.items()}
        self.loss = losses.get(loss)(period.obs[:, basins])
        self.n_steps = len(period.obs)
        # A loss that is no sum of squares is approached by one that is.
        self.is_least_squares = hasattr(self.loss, "least_squares")
        self.squares = self.loss if self.is_least_squares else losses.get("nse")(period.obs[:, basins])
        rows = [model.variable(name) for name in self.names]
        self.span = torch.tensor([v.upper - v.lower for v in rows], dtype=period.obs.dtype)

    def __call__(self, points: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.loss(self.flow(points))
        return torch.cat([self.loss(self.flow(part)) for part in points.split(self.SLICE, dim=2)], dim=1)

    def normal_equations(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """J'J ``[B, S, P, P]``, J'r ``[B, S, P]`` and r'r ``[B, S]`` by points of the unit cube."""
        values = self.model.parameters_from_unit(dict(zip(self.names, points.unbind(0), strict=True)))
        n = normal_equations(self.model, self.forcing, values, **self.squares.least_squares())
        return n.matrix * self.span[:, None] * self.span, n.gradient * self.span, n.cost

    def flow(self, points: Tensor, initial_state=None) -> Tensor:
        """Routed streamflow ``[T, B, S]``, mm/d."""
        values = self.model.parameters_from_unit(dict(zip(self.names, points.unbind(0), strict=True)))
        return routed_flow(self.model, self.forcing, values, initial_state)


def calibrate(
    data: xr.Dataset,
    model: ModelSpec | str = "hbv11p",
    *,
    train,
    validation=None,
    test=None,
    loss: str = "nse",
    method: str = "lm",
    starts: int = 10,
    steps: int | None = None,
    ensemble: int | None = None,
    warmup_years: float = 3.0,
    skip_unusable: bool = False,
    allow_overlap: bool = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Calibrate every basin of a dataset from many starts at once, and score the result.

    Parameters
    ----------
    data : xarray.Dataset
        Of `hybridsolve.data.open_dataset`: `prcp`, `tmean`, `pet` and `qobs`, ``[time, basin]``.
    model : ModelSpec or str
    train, validation, test : str or pair of dates
        ``"1999-10-01:2008-09-30"``, both days included. Only `train` is fitted. With a `validation` period, a basin's
        starts are ranked by the mean of both scores, else by training alone; `test` is scored once, at the end.
    loss : {"nse", "kge", "nse_sqrt", "nse_log"}
        One minus the score (see `hybridsolve.score.losses`).
    method : {"lm", "gradient", "evolution"}
        Levenberg and Marquardt's from many starts; Adam from many starts; or differential evolution, which needs no
        gradient and serves as a check.
    starts : int
        Points a basin starts from; for evolution the members kept, best first, of a population of 6 x as many.
    steps : int, optional
        Iterations or generations at most; 40, 300 or 250 if left out. A search ends before, once every basin's best
        loss has stopped falling (see `hybridsolve.calibration.search`).
    ensemble : int, optional
        How many starts, the first in rank, are averaged as the "ensemble" (their flows, not their parameters);
        4 if left out.
    warmup_years : float
        Run before each period unscored, where the data allow; their first year is repeated where they begin less
        than a year before the period.
    skip_unusable : bool
        Leave out basins whose forcing has gaps in the days that are run, or whose observations in the training period
        are fewer than the parameters or do not vary (their results are NaN), instead of raising.
    allow_overlap : bool
        Take periods that share days; the result says so, in its title too.
    seed : int
        0 or more.
    checkpoint : path, optional
        A file in which the state is kept while the search runs.
    resume : bool
        Go on from `checkpoint`, to the same result as a run that was not stopped.
    progress : bool
        Show a progress bar with throughput and time left.

    Returns
    -------
    xarray.Dataset
        Parameters ``[basin, start]`` by name, starts in rank order; `train_loss` ``[basin, start]``, `at_bound`
        ``[parameter, basin, start]``; scores ``[period, member, basin]`` by name; `nse_start`
        ``[period, basin, start]``, `warmup_difference` ``[period, basin]``; `flow` ``[member, time, basin]`` and `obs`
        over the scored periods. Of every basin's best start, linearised (see identifiability.py):
        `standard_error` ``[parameter, basin]``, `correlation` ``[parameter, other, basin]``, `curvature`
        ``[direction, basin]``, and `sensitivity` ``[parameter, month, basin]``.

    Raises
    ------
    ValueError
        If an argument, a unit, a period or a value of the data does not fit; or if basins cannot be fitted and
        `skip_unusable` is not set.
    """
    model, settings = check_arguments(
        model,
        train=train,
        validation=validation,
        test=test,
        loss=loss,
        method=method,
        starts=starts,
        steps=steps,
        ensemble=ensemble,
        warmup_years=warmup_years,
        allow_overlap=allow_overlap,
        seed=seed,
    )
    ensemble, shared = settings.pop("ensemble"), settings.pop("overlap")
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint's path; found None: give checkpoint=.")
    check_dataset(data, forcing_names=model.forcing_names, need_qobs=True, values=False)
    periods = {n: p for n, p in dict(train=train, validation=validation, test=test).items() if p is not None}
    data = used_days(data, periods.values(), settings["warmup_years"])
    n_parameters = len(model.parameter_names + model.routing_parameter_names)
    usable = usable_basins(data, model.forcing_names, train, least=n_parameters, skip=skip_unusable)
    kept = data if len(usable) == data.sizes["basin"] else data.isel(basin=usable)  # of many basins a copy is large
    check_dataset(kept, forcing_names=model.forcing_names, need_qobs=True)
    refuse_outside(kept, model)
    warn_of_early_flow(kept, train)
    windows = {name: window(data, model, period, warmup_years) for name, period in periods.items()}
    for name, w in windows.items():
        if w.spun_up:
            warnings.warn(
                f"the data begin less than a year before the {name} period {period_text(periods[name])}; their first "
                "year is run twice to warm up.",
                stacklevel=2,
            )
    points, train_loss, settings["steps_taken"] = _search(
        model, windows["train"], usable, settings, _fingerprint(data, usable, settings), checkpoint, resume, progress
    )
    if validation is not None:
        order = _rank(model, windows["validation"], usable, points, train_loss, loss)
        points, train_loss = points.gather(2, order.expand_as(points)), train_loss.gather(1, order)
    settings["starts_ranked_by"] = "training score" if validation is None else "training and validation score"
    result = evaluate(data, model, windows, periods, usable, points, train_loss, ensemble, settings)
    if shared:
        result.attrs.update(overlap=shared, title=f"{result.attrs['title']}; {shared}")
    return result.merge(_curvature(data, model, train, windows["train"], loss, usable, points))


def check_arguments(
    model,
    *,
    train,
    validation=None,
    test=None,
    loss="nse",
    method="lm",
    starts=10,
    steps=None,
    ensemble=None,
    warmup_years=3.0,
    allow_overlap=False,
    seed=0,
) -> tuple[ModelSpec, dict]:
    """The model and the settings of a calibration, before any data are read; arguments and errors of `calibrate`."""
    model = models.get(model)
    for what, value, known in (
        ("method", method, list(METHODS)),
        ("loss", loss, list(losses.names(per_series=True))),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; expected one of {', '.join(known)}.")
    starts = whole("starts", starts, 1)
    settings = dict(
        model=model.name,
        train=period_text(train),
        loss=loss,
        method=method,
        starts=starts,
        steps=METHODS[method] if steps is None else whole("steps", steps, 1),
        warmup_years=finite("warmup_years", warmup_years, 0),
        seed=whole("seed", seed, 0, SEEDS),
        ensemble=min(starts, 4) if ensemble is None else whole("ensemble", ensemble, 1),
    )
    if settings["ensemble"] > starts:
        raise ValueError(f"ensemble must be at most the number of starts, {starts}; found {ensemble}.")
    shared = overlap(dict(train=train, validation=validation, test=test))
    if shared and not allow_overlap:
        raise ValueError(
            f"{shared}, and its scores would not be of days that were held out; part the periods, or set "
            "allow_overlap, which the result will say."
        )
    return model, settings | dict(overlap=shared)


def _by_month(objective: Objective, best: Tensor, month: np.ndarray) -> np.ndarray:
    """Mean sensitivity of flow ``[P, 12, B]``."""
    values = objective.model.parameters_from_unit(dict(zip(objective.names, best.unbind(0), strict=True)))
    columns = jacobian(objective.model, objective.forcing, values)[1]
    j = torch.stack([columns[n][-len(month) :, :, 0] for n in objective.names]).abs()
    return (torch.stack([j[:, month == m].mean(1) for m in range(1, 13)], 1) * objective.span[:, None, None]).numpy()


def _curvature(data, model, period, train: Window, loss: str, usable, points: Tensor) -> xr.Dataset:
    """The linearised errors of every basin's best point; of a loss that is no sum of squares those of NSE."""
    month = data["time"].dt.month.values[period_slice(data["time"].values, period)]
    parts, silent = [], []
    for lot in np.array_split(np.arange(len(usable)), -(-len(usable) // 64)):  # a Jacobian over all days is large
        objective = Objective(model, train, loss, usable[lot])
        best = points[:, lot, :1].contiguous()
        matrix, _, cost = objective.normal_equations(best)
        silent.append((matrix[:, 0].diagonal(dim1=1, dim2=2) == 0).numpy())
        n_days = objective.squares.n
        found = linearised(objective.names, matrix[:, 0], cost[:, 0], best[..., 0], n_days, objective.span)
        found["sensitivity"] = (("parameter", "month", "basin"), _by_month(objective, best, month))
        parts.append(found)
    found = xr.concat(parts, "basin")
    found["sensitivity"].attrs.update(
        units="mm d-1", long_name="mean over the days of a month of |dQ/dp| times the parameter's range, linearised"
    )
    for name, basins in zip(objective.names, np.concatenate(silent).T, strict=True):
        if basins.any():
            warnings.warn(
                f"flow does not respond to '{name}' in {basins.sum()} of {len(basins)} basins over the training period "
                f"({listed(data['basin'].values[usable][basins])}); its value there is that of a starting point.",
                stacklevel=3,
            )
    found = found.assign_coords(month=np.arange(1, 13), basin=data["basin"].values[usable])
    return found.reindex(basin=data["basin"].values)


def _rank(model, validation: Window, usable, points: Tensor, train_loss: Tensor, loss: str) -> Tensor:
    """Order of the starts ``[B, S]`` by the mean of training and validation score: equal fits generalise unequally.

    A basin without observations in the validation period is ranked by training alone.
    """
    scored = slice(validation.n_warmup, None)
    obs = validation.obs[scored].numpy()[:, usable]
    score = getattr(metrics, loss)
    held_out = [
        np.stack([score(flow[scored, :, i].numpy(), obs[:, part]) for i in range(flow.shape[2])], 1)
        for part, flow in flows(model, validation, usable, points)
    ]
    held_out = torch.as_tensor(np.concatenate(held_out))
    training = 1 - train_loss.double()
    return torch.where(held_out.isnan(), training, (training + held_out) / 2).argsort(
        dim=1, descending=True, stable=True
    )


def _fingerprint(data: xr.Dataset, usable: np.ndarray, settings: dict) -> str:
    """What a checkpoint must share with the run that resumes it: settings, basins and data."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode())
    digest.update(",".join(map(str, data["basin"].values[usable])).encode())
    for name in ("time", "prcp", "tmean", "pet", "qobs"):
        digest.update(np.ascontiguousarray(data[name].values))
    return digest.hexdigest()


class Bar(tqdm):
    """Without tqdm's thread, which outlives the bar.

    A NetCDF file that the user has left open is closed by whichever thread collects garbage; where that is not the main
    thread, which may be reading or writing another, the HDF5 library crashes.
    """

    monitor_interval = 0


def _search(model, train, usable, settings, fingerprint, checkpoint, resume, progress):
    """Best points ``[P, B, S]`` and losses ``[B, S]``, starts in order, of the usable basins; and the steps taken."""
    n_starts, seed, steps = settings["starts"], settings["seed"], settings["steps"]
    size = max(8, 6 * n_starts) if settings["method"] == "evolution" else n_starts
    # An evolution's population runs in slices, so only one slice of members counts.
    lot = max(1, int(CHUNK_BYTES / (4 * len(train.obs) * min(size, max(n_starts, Objective.SLICE)))))
    lots = [usable[i : i + lot] for i in range(0, len(usable), lot)]
    state = _read_checkpoint(checkpoint, fingerprint) if resume else None
    finished = state["finished"] if state else []
    unfinished = state["search"] if state else None
    n_parameters = len(model.parameter_names + model.routing_parameter_names)
    with Bar(
        total=len(lots) * steps,
        disable=not progress,
        unit="step",
        miniters=1,
        dynamic_ncols=True,
        desc=f"calibrate {model.name}, {len(usable)} basins x {size}",
    ) as bar:
        bar.update(len(finished) * steps)
        for i in range(len(finished), len(lots)):
            basins = lots[i] if len(lots) > 1 or len(usable) < train.obs.shape[1] else slice(None)
            objective = Objective(model, train, settings["loss"], basins)
            start = starting_points(n_parameters, len(lots[i]), size, seed, train.obs.dtype)
            if settings["method"] == "lm":
                search = LeastSquaresSearch(objective, start, steps, seed)
            elif settings["method"] == "gradient":
                search = GradientSearch(objective, start, steps)
            else:
                search = EvolutionSearch(objective, start, steps, seed + i)
            if unfinished:
                search.load_state_dict(unfinished)
                bar.update(search.done)
                unfinished = None
            saved = time.monotonic()
            try:
                while search.done < steps:
                    before, began = search.done, time.perf_counter()
                    with _postponed_signals():
                        search.step()
                    rate = search.evaluations_per_step * len(lots[i]) * objective.n_steps
                    rate /= 1e6 * (time.perf_counter() - began)
                    median = search.best_loss.amin(1).median()
                    bar.set_postfix_str(f"median loss {median:.4f}, {rate:.0f} M cell-steps/s", refresh=False)
                    bar.update(search.done - before)
                    if checkpoint and time.monotonic() - saved > SAVE_EVERY:
                        _write_checkpoint(checkpoint, fingerprint, finished, search.state_dict())
                        saved = time.monotonic()
            except KeyboardInterrupt:
                if checkpoint and search.done:
                    _write_checkpoint(checkpoint, fingerprint, finished, search.state_dict())
                raise
            order = search.best_loss.argsort(1)[:, :n_starts]
            best = search.best.gather(2, order.expand(n_parameters, -1, -1))
            finished.append((best, search.best_loss.gather(1, order), search.taken))
            if checkpoint:
                _write_checkpoint(checkpoint, fingerprint, finished, None)
    points, loss, taken = zip(*finished, strict=True)
    return torch.cat(points, dim=1), torch.cat(loss), max(taken)


@contextmanager
def _postponed_signals():
    """Ctrl-C and SIGTERM wait until a step has ended: what it changes is whole, and can be saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals meet the main thread alone
        return
    met = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: met.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in met[:1]:
        handlers[number](number, frame)


def _write_checkpoint(path, fingerprint: str, finished: list, search: dict | None) -> None:
    content = dict(fingerprint=fingerprint, finished=finished, search=search)
    write_atomic(path, lambda temporary: torch.save(content, temporary))


def _read_checkpoint(path, fingerprint: str) -> dict | None:
    if not Path(path).exists():
        return None
    from ..training.trained import load_weights_only

    what, remedy = "a checkpoint of `hybridsolve calibrate`", "remove it and calibrate anew, without resume"
    state = load_weights_only(Path(path), what, remedy)
    if not {"fingerprint", "finished", "search"} <= state.keys():
        raise ValueError(f"{path} is not {what}: {remedy}.")
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"checkpoint {path} is of another calibration (settings, basins, data or version differ); resume with the "
            "arguments of the first run, or calibrate anew, without resume."
        )
    return state
