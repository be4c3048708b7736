"""Batch calibration: all catchments x many starts in one run of the solver.

A basin's starts are the components of the solver (kept apart), so its forcing is loaded once for all of them. Each
(basin, start) is a problem of its own, whose result does not depend on the other basins.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import models
from ..arguments import SEEDS, boolean, finite, integer
from ..climate import of_climate, with_climate
from ..cluster import connected
from ..compiler.identity import identity
from ..compiler.tracing import networks_of
from ..data.dataset import check_dataset, overlap, period_slice, period_text
from ..data.ids import listed
from ..data.lags import warn_of_early_flow
from ..data.steps import step_seconds
from ..data.units import unit_at
from ..data.usable import refuse_outside, usable_basins, used_days
from ..routing.units import at_gauges, units_of
from ..score import losses
from ..solve import backends
from ..solve.trial import try_model
from ..spec import ModelSpec
from .blocks import search_blocks
from .evaluate import evaluate, rank
from .objective import Objective
from .space import SearchSpace, search_space
from .windows import Window, window

METHODS = {"lm": 40, "gradient": 300, "evolution": 250}  # and the steps that each takes unless asked otherwise
FORMAT = 4  # of a checkpoint; raised when older ones no longer mean the same


def calibrate(
    data: xr.Dataset,
    model: ModelSpec | str = models.DEFAULT,
    *,
    train: Any,
    validation: Any = None,
    test: Any = None,
    loss: str = "nse",
    method: str = "lm",
    starts: int = 10,
    steps: int | None = None,
    ensemble: int | None = None,
    warmup_years: float = 3.0,
    skip_unusable: bool = False,
    allow_overlap: bool = False,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    free: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    backend: str = "auto",
    cluster: Any = None,
) -> xr.Dataset:
    """Calibrate every basin of a dataset from many starts at once, and score the result.

    Parameters
    ----------
    data : xarray.Dataset
        Of `hybridsolve.data.open_dataset`: the model's forcings and `qobs`, ``[time, basin]``, at any step that the
        model can run at; its static inputs, ``[basin]``. Where the coordinate `gauge` ``[basin]`` names the gauge of
        each, the basins are its units, with areas `area_km2`: they share the gauge's parameters, their outflow is
        summed before the hydrograph, and the basins of the result are the gauges (see docs/grids-and-units.md).
    model : ModelSpec or str
    train, validation, test : str or pair of dates
        ``"1999-10-01:2008-09-30"``, both days included. Only `train` is fitted. With a `validation` period, a basin's
        starts are ranked by the mean of both scores, else by training alone; `test` is scored once, at the end.
    loss : str
        "nse", "kge", "nse_sqrt" or "nse_log": one minus the score (see `hybridsolve.score.losses`). Or a weighted sum,
        of transformed flow too, such as "0.5*kge(q)+0.5*kge(sqrt q)" (see `hybridsolve.score.formula`).
    method : {"lm", "gradient", "evolution"}
        Levenberg and Marquardt's from many starts, with a run for each flow that a loss is of; Adam from many starts;
        or differential evolution, which needs no gradient and serves as a check.
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
    fixed : mapping of str to float, optional
        Parameters that are not calibrated, and their values in all basins.
    free : sequence of str, optional
        Parameters to calibrate that the model's table fixes at their defaults, or has as optional ones; of any model
        "pet_factor" and "snow_factor" (see `hybridsolve.models.factors`).
    ranges : mapping of str to (lower, upper), optional
        Bounds to search within, in place of the table's.
    checkpoint : path, optional
        A file in which the state is kept while the search runs; finished blocks of basins lie in a folder beside it.
    resume : bool
        Go on from `checkpoint`, to the same result as a run that was not stopped.
    progress : bool
        Show a progress bar with throughput and time left.
    backend : str
        As for `simulate`.
    cluster : "local", str, or a cluster or client of Dask, optional
        Whose workers search blocks of basins and starts, to the same bits as this process does on one thread:
        "local" starts one worker a core, see `hybridsolve.scale.connected`. None: in this process.

    Returns
    -------
    xarray.Dataset
        Parameters ``[basin, start]`` by name, the fixed ones too, starts in rank order; `train_loss`
        ``[basin, start]``, `at_bound` ``[parameter, basin, start]``; scores ``[period, member, basin]`` by name;
        `nse_start` ``[period, basin, start]``, `warmup_difference` ``[period, basin]``; over the scored periods `flow`
        ``[member, time, basin]`` and `obs`. Of every basin's best start, linearised (see identifiability.py):
        `standard_error` ``[parameter, basin]``, `correlation` ``[parameter, other, basin]``, `curvature`
        ``[direction, basin]``, and `sensitivity` ``[parameter, month, basin]``.

    Raises
    ------
    ValueError
        If an argument, a unit, a period or a value of the data does not fit; or if basins cannot be fitted and
        `skip_unusable` is not set.
    """
    space, settings = check_arguments(
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
        fixed=fixed,
        free=free,
        ranges=ranges,
        backend=backend,
    )
    model = space.model
    ensemble, shared = settings.pop("ensemble"), settings.pop("overlap")
    if boolean("resume", resume) and checkpoint is None:
        raise ValueError("resume needs the checkpoint's path; found None: give checkpoint=.")
    boolean("skip_unusable", skip_unusable)
    if not isinstance(checkpoint, str | PathLike | None):
        raise ValueError(f"checkpoint must be a path; found {checkpoint!r}: name a file.")
    check_dataset(data, model=model, need_qobs=True, values=False)
    model.check_step(step_seconds(data))
    periods = {n: p for n, p in dict(train=train, validation=validation, test=test).items() if p is not None}
    data = with_climate(used_days(data, periods.values(), settings["warmup_years"]), model, train)
    units = units_of(data)
    usable = usable_basins(data, model.forcing_names, train, least=len(space.free), skip=skip_unusable)
    kept = data if len(usable) == data.sizes["basin"] else data.isel(basin=usable)  # of many basins a copy is large
    check_dataset(kept, model=model, need_qobs=True)
    refuse_outside(kept, model)
    kept_units = units_of(kept)
    warn_of_early_flow(kept if kept_units is None else at_gauges(kept, kept_units), train)
    windows = {name: window(data, model, period, warmup_years, backend) for name, period in periods.items()}
    for name, w in windows.items():
        if w.spun_up:
            warnings.warn(
                f"the data begin less than a year before the {name} period {period_text(periods[name])}; their first "
                "year is run twice to warm up.",
                stacklevel=2,
            )
    about = windows["train"].inputs
    if units is not None:
        about = about | {"gauge": torch.from_numpy(units.gauge), "share": torch.from_numpy(units.share)}
    fingerprint = _fingerprint(data, usable, model, about, settings)
    if units is not None:
        data, usable = at_gauges(data, units), np.unique(units.gauge[usable])
    with connected(cluster) as client:
        points, train_loss, settings["steps_taken"] = search_blocks(
            space, windows["train"], usable, settings, fingerprint, checkpoint, resume, progress, client
        )
    if validation is not None:
        order = rank(space, windows["validation"], usable, points, train_loss, loss)
        points, train_loss = points.gather(2, order.expand_as(points)), train_loss.gather(1, order)
    settings["starts_ranked_by"] = "training score" if validation is None else "training and validation score"
    result = evaluate(data, space, windows, periods, usable, points, train_loss, ensemble, settings)
    if shared:
        result.attrs.update(overlap=shared, title=f"{result.attrs['title']}; {shared}")
    result = result.assign({row.name: data[row.name] for row in of_climate(model) if units is None})
    return result.merge(_curvature(data, space, train, windows["train"], loss, usable, points))


def check_arguments(
    model: ModelSpec | str,
    *,
    train: Any,
    validation: Any = None,
    test: Any = None,
    loss: str = "nse",
    method: str = "lm",
    starts: int = 10,
    steps: int | None = None,
    ensemble: int | None = None,
    warmup_years: float = 3.0,
    allow_overlap: bool = False,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    free: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    backend: str = "auto",
) -> tuple[SearchSpace, dict]:
    """What is searched, and the settings of a calibration, before any data are read; as for `calibrate`."""
    space = search_space(models.get(model), fixed, free, ranges)
    model = _registered(space.model)
    for network in networks_of(model.key, model.optional_parameter_names):
        raise ValueError(
            f"a calibration searches parameters of the table; model {model.name} calls the network '{network.name}' of "
            f"{network.weights} weights in its step: learn it with hybridsolve.train, by the adjoint."
        )
    if backend == "triton":
        raise ValueError("backend 'triton' has no kernels of derivatives, which a calibration needs; take cpu or auto.")
    backends.choose(backend, torch.device("cpu"))
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}.")
    by_series = losses.names(per_series=True)
    for term in losses.terms(loss):
        if term.name not in by_series:
            raise ValueError(
                f"unknown loss {term.name!r} of a basin; expected one of {', '.join(by_series)}, or a weighted sum."
            )
    starts = integer("starts", starts, 1)
    settings: dict[str, Any] = dict(
        model=model.name,
        definition=identity(model),
        train=period_text(train),
        loss=losses.written(loss),
        method=method,
        starts=starts,
        steps=METHODS[method] if steps is None else integer("steps", steps, 1),
        warmup_years=finite("warmup_years", warmup_years, 0),
        seed=integer("seed", seed, 0, SEEDS),
        ensemble=min(starts, 4) if ensemble is None else integer("ensemble", ensemble, 1),
    )
    backends.choose(backend, torch.device("cpu"), model.kernel_name(space.every_name))
    try_model(model)
    if ranges:
        settings["ranges"] = ", ".join(f"{name}={lower:g}:{upper:g}" for name, (lower, upper) in ranges.items())
    if space.fixed:
        settings["fixed"] = ", ".join(f"{name}={value!r}" for name, value in space.fixed.items())
    if factors := [name for name in models.FACTORS if name in space.names]:
        settings["free_factors"] = ", ".join(factors)
    if settings["ensemble"] > starts:
        raise ValueError(f"ensemble must be at most the number of starts, {starts}; found {ensemble}.")
    shared = overlap(dict(train=train, validation=validation, test=test))
    if not boolean("allow_overlap", allow_overlap) and shared:
        raise ValueError(
            f"{shared}, and its scores would not be of days that were held out; part the periods, or set "
            "allow_overlap (--allow-overlap), which the result will say."
        )
    return space, settings | dict(overlap=shared)


def _registered(model: ModelSpec) -> ModelSpec:
    """The model, registered if it was not: results name it, and are read by that name.

    Raises
    ------
    ValueError
        If another model has its name.
    """
    other = models.MODELS.setdefault(model.name, model)
    if other.key != model.key:
        raise ValueError(
            f"the model to calibrate must be the registered one of its name, or have a name of its own; found another "
            f"definition of '{model.name}': rename it with dataclasses.replace, or register it with models.register."
        )
    return model


def _curvature(
    data: xr.Dataset, space: SearchSpace, period: Any, train: Window, loss: str, usable: np.ndarray, points: Tensor
) -> xr.Dataset:
    """The linearised errors of every basin's best point; see `Objective.curvature`."""
    month = data["time"].dt.month.values[period_slice(data["time"].values, period)]
    parts, without_response = [], []
    for chunk in np.array_split(np.arange(len(usable)), -(-len(usable) // 64)):  # a Jacobian over all steps is large
        objective = Objective(space, train.basins(usable[chunk]), loss)
        found, silent = objective.curvature(points[:, chunk, :1].contiguous(), month)
        parts.append(found)
        without_response.append(silent)
    found = xr.concat(parts, "basin")
    found["sensitivity"].attrs.update(
        units=unit_at(space.model.variable(space.model.outflow).unit, train.step),
        long_name="mean over the steps of a month of |dQ/dp| times the parameter's range, linearised",
    )
    for name, basins in zip(space.names, np.concatenate(without_response).T, strict=True):
        if basins.any():
            warnings.warn(
                f"flow does not respond to '{name}' in {basins.sum()} of {len(basins)} basins over the training period "
                f"({listed(data['basin'].values[usable][basins])}); its value there is that of a starting point.",
                stacklevel=3,
            )
    found = found.assign_coords(month=np.arange(1, 13), basin=data["basin"].values[usable])
    return found.reindex(basin=data["basin"].values)


def _fingerprint(data: xr.Dataset, usable: np.ndarray, model: ModelSpec, inputs: dict, settings: dict) -> str:
    """What a checkpoint must share with the run that resumes it: settings, the model's definition, basins and data."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True).encode())
    digest.update(",".join(map(str, data["basin"].values[usable])).encode())
    for name in ("time", *model.forcing_names, "qobs"):
        digest.update(np.ascontiguousarray(data[name].values))  # type: ignore[arg-type]  # a buffer, as all arrays are
    for x in inputs.values():
        digest.update(x.numpy())
    return digest.hexdigest()
