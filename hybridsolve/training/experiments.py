"""experiment(): train and test in time, in ungauged basins or in ungauged regions, and score the basins held out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import models
from ..arguments import integer
from ..data.dataset import period_slice
from ..data.methods import forcing_methods
from ..data.netcdf import open_netcdf
from ..data.usable import varies
from ..routing.units import units_of
from ..score import metrics
from .checkpoints import alone_in, check_folder, is_first
from .config import Config, read_config
from .diagnostics import check_diagnostics, diagnose
from .fluxes import learned_fluxes
from .loop import check_model, check_options, fit_scaling, train, usable
from .trained import METHOD, Trained

logger = logging.getLogger(__name__)
KINDS = ("temporal", "pub", "pur")


def experiment(
    data: xr.Dataset,
    config: str | Path | Config,
    *,
    out: str | Path,
    kind: str = "temporal",
    folds: int = 10,
    only: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    skip_unusable: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    log: str = "csv",
    progress: bool = True,
    backend: str = "auto",
    changes: Sequence[str] = (),
) -> xr.Dataset | None:
    """Train by folds and seeds, predict the test period of the basins held out, and score them.

    Parameters
    ----------
    data, config, out, resume, overwrite, skip_unusable, accelerator, devices, log, progress, backend :
        As for `train`; each training has a folder of its own in `out`.
    kind : {"temporal", "pub", "pur"}
        All basins in another time; ungauged basins, `folds` of them drawn at random; or ungauged regions, the
        values of the attribute `huc_02` spread over `folds` folds of neighbours. Weights, scaling and the choice of the
        epoch do not depend on the basins held out.
    folds : int
        2 or more.
    only : sequence of int, optional
        The folds that are held out, from 0 on: the result has their basins alone; all folds if left out.
    seeds : sequence of int, optional
        Trainings of each fold, whose flows are averaged as the "ensemble"; the config's one seed if left out.
    changes : sequence of str
        ``"epochs=10"``, in place of the config's values.

    Returns
    -------
    xarray.Dataset, or None in a helper process of a training on several devices
        Scores by name ``[member, basin]``, NaN where a basin has no observations in the test period; `flow` (the
        ensemble's) and `obs` ``[time, basin]``; `fold` ``[basin]``; of the first seed the learned parameters and,
        where the model's table has them, its signatures and what its water balance leaves over.

    Raises
    ------
    ValueError
        As `train`; or if the config has no test period, `folds` does not fit, or a signature or the balance of the
        model is of something that it does not have.
    """
    config = read_config(config, changes)
    seeds = [config.seed] if seeds is None else list(seeds)
    numbers = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not seeds or not numbers or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different whole numbers, one at least; found {seeds}: correct them.")
    configs = [read_config(config, [f"seed={seed}"]) for seed in seeds]
    if kind not in KINDS:
        raise ValueError(f"unknown experiment '{kind}'; expected one of {', '.join(KINDS)}.")
    if only is not None and kind == "temporal":
        raise ValueError("only names folds, and an experiment in time has none: leave it out, or take pub or pur.")
    if config.periods.test is None:
        raise ValueError("an experiment needs periods.test in the config; found none: add it, or use train().")
    if config.model != "none":
        check_diagnostics(models.get(config.model))
    check_options(accelerator, devices, log, resume, overwrite)
    check_model(config, backend, accelerator)
    integer("folds", folds, 2)
    out = Path(out)
    check_folder(out, "experiment", resume, overwrite)
    data = usable(data, config, skip_unusable)
    if units_of(data) is not None:
        raise ValueError(
            "an experiment takes basins that are gauged each, found units of gauges; use train(), whose loss is at the "
            "gauges, or drop the coordinate gauge."
        )
    if not varies(data, config.periods.test).any():
        raise ValueError(f"no basin has varying observations in the test period {config.periods.test}: choose another.")
    fold = _folds(data, kind, folds)
    named = np.unique(fold) if only is None else _named(only, fold)
    # What is missing in all basins together is found before the first training.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training repeats it
        fit_scaling(data, config)
    if resume and (out / "experiment.nc").exists():
        _refuse_another(out / "experiment.nc", config, kind, fold)
    options: dict[str, Any] = dict(
        resume=resume,
        overwrite=overwrite,
        accelerator=accelerator,
        devices=devices,
        log=log,
        progress=progress,
        backend=backend,
    )
    held_out = []
    with alone_in(out):
        for k in named:
            inside = np.flatnonzero(fold == k)
            others = inside if kind == "temporal" else np.flatnonzero(fold != k)
            members = []
            for seed, this in zip(seeds, configs, strict=True):
                folder = out / (f"seed{seed}" if kind == "temporal" else f"fold{k}-seed{seed}")
                if is_first():
                    logger.info("training %s on %d basins, seed %d", config.name, len(others), seed)
                trained = train(data.isel(basin=others), this, out=folder, **options)
                if is_first():
                    members.append(_predict(trained, data.isel(basin=inside)))
            held_out.append(members)
    if not is_first():
        return None
    joined = [xr.concat([fold[m] for fold in held_out], "basin") for m in range(len(seeds))]
    kept = np.flatnonzero(np.isin(fold, named))
    data, n_folds = data.isel(basin=kept), int(fold.max()) + 1
    joined = [member.sel(basin=data["basin"].values) for member in joined]
    return _score(data, config, kind, fold[kept], n_folds, seeds, joined)


def _refuse_another(path: Path, config: Config, kind: str, fold: np.ndarray) -> None:
    """Raise if the result that a resumed experiment replaces is not of the same one; it may have other seeds."""
    with open_netcdf(path, "experiment.nc of `hybridsolve train`") as before:
        found = before.attrs
    for name, value in dict(config=config.name, kind=kind, n_folds=int(fold.max()) + 1).items():
        if found.get(name) != value:
            raise ValueError(
                f"{path} is of an experiment with {name} {found.get(name)}, and this one has {value}: resume the "
                "same, name another folder, or set overwrite."
            )


def _folds(data: xr.Dataset, kind: str, folds: int) -> np.ndarray:
    """The fold of each basin."""
    n = data.sizes["basin"]
    if kind == "temporal":
        return np.zeros(n, int)
    if n < 2:
        raise ValueError(f"experiment '{kind}' holds basins out and needs two at least, found {n}: take 'temporal'.")
    if kind == "pur" and "huc_02" not in data:
        raise ValueError("ungauged regions need the attribute 'huc_02' of every basin; the data have none: add it.")
    if kind == "pur" and (data["huc_02"].isnull() | (data["huc_02"].astype(str).str.strip() == "")).any():
        raise ValueError("ungauged regions need the attribute 'huc_02' of every basin; some have none: add it.")
    units = n if kind == "pub" else len(np.unique(data["huc_02"].values))
    if folds > units:
        raise ValueError(f"folds must be from 2 to {units} here; found {folds}: correct it.")
    if kind == "pub":
        # The same split for every config and seed, so that they can be compared.
        return np.random.default_rng(0).permutation(n) % folds
    # Hydrologic units are numbered along coasts and rivers: neighbours in number are neighbours.
    region, count = np.unique(data["huc_02"].values, return_counts=True)
    middle = np.cumsum(count) - count / 2
    of_region = dict(zip(region, np.minimum((middle / n * folds).astype(int), folds - 1), strict=True))
    # A large region can leave a fold empty; the rest are numbered anew.
    return np.unique([of_region[r] for r in data["huc_02"].values], return_inverse=True)[1]


def _named(only: Sequence[int], fold: np.ndarray) -> np.ndarray:
    """The folds that `only` names, sorted."""
    known = range(int(fold.max()) + 1)
    whole = all(isinstance(k, int) and not isinstance(k, bool) for k in only)
    if not only or not whole or len(set(only)) < len(only) or not set(only) <= set(known):
        raise ValueError(f"only must name different folds from 0 to {known[-1]}; found {list(only)}: correct it.")
    return np.array(sorted(only))


def _predict(trained: Trained, data: xr.Dataset) -> xr.Dataset:
    """The `flow` at the gauge, what was not trained on, and the learned parameters, of a process model."""
    period = trained.config.periods.test
    kept = trained.predict(data, period).rename({trained.module.outflow: "flow"})
    if trained.config.model == "none":
        return kept
    model = models.get(trained.config.model)
    kept = kept.assign(diagnose(trained, data, period)).assign(learned_fluxes(trained, data, period))
    learned = trained.parameters(data, period)
    for name, x in learned.items():
        v, mean = model.variable(str(name)), x.mean("component") if "component" in x.dims else x
        kept[f"parameter_{name}"] = mean.assign_attrs(
            units=v.unit, long_name=f"{v.meaning}, mean over components and time"
        )
    return kept


def _score(
    data: xr.Dataset,
    config: Config,
    kind: str,
    fold: np.ndarray,
    n_folds: int,
    seeds: Sequence[int],
    members: list[xr.Dataset],
) -> xr.Dataset:
    period = period_slice(data["time"].values, config.periods.test)
    obs = data["qobs"].values[period]
    flows = [member["flow"].values for member in members]
    names = [f"seed {seed}" for seed in seeds]
    if len(seeds) > 1:
        names.append("ensemble")
    out = members[0].drop_vars("flow").copy()
    out = out.assign_coords(member=names)
    out = out.assign_coords({name: data[name] for name in ("lat", "lon") if name in data.coords})
    ensemble = np.mean(flows, 0)
    scores = [metrics.score(flow, obs) for flow in [*flows, ensemble][: len(names)]]
    for name in scores[0]:
        out[name] = (("member", "basin"), np.stack([s[name] for s in scores]), dict(units="1"))
    about = members[0]["flow"].attrs
    out["flow"] = (("time", "basin"), ensemble, about | dict(long_name=f"{about['long_name']}, ensemble mean"))
    out["obs"] = data["qobs"].isel(time=period)
    out["fold"] = ("basin", fold, dict(units="1", long_name="fold whose training did not see this basin"))
    for signature in () if config.model == "none" else models.get(config.model).signatures:
        if signature.observed in data:
            out[f"observed_{signature.observed}"] = data[signature.observed]
    out.attrs.update(
        config=config.name,
        model=config.model,
        kind=kind,
        seeds=", ".join(map(str, seeds)),
        n_folds=n_folds,
        folds_held_out=", ".join(map(str, np.unique(fold))),
        train_period=config.periods.train,
        validation_period=config.periods.validation or "none",
        test_period=config.periods.test,
        forcing=str(data.attrs.get("title", "as in the data")),
        citation=str(data.attrs.get("citation", "")),
        **{name + METHOD: x for name, x in forcing_methods(data, config.forcing_names).items()},
    )
    return out
