"""Several models calibrated on the same basins, each in a folder of its own, and then compared."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import models as library
from ..arguments import boolean
from ..compiler.identity import identity
from ..data.files import locked, write_text_atomic
from ..data.netcdf import load_netcdf, open_netcdf
from ..spec import ModelSpec
from . import report
from .comparison import compare_structures, reduced, refuse_member, refuse_names
from .fit import calibrate, check_arguments

FINISHED = "finished.txt"  # in a model's folder: a hash of what it was calibrated on and how

log = logging.getLogger(__name__)


def calibrate_structures(
    data: xr.Dataset | Callable[[ModelSpec], xr.Dataset],
    models: Sequence[ModelSpec | str],
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    member: str = "best",
    fixed: Mapping[str, float] | None = None,
    free: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    write: Callable[[xr.Dataset, Path], Any] = report.write,
    **options: Any,
) -> xr.Dataset:
    """Calibrate several models on the same basins, and compare them with each other and with what they give together.

    Parameters
    ----------
    data : xarray.Dataset, or callable
        As for `calibrate`, with the forcings of all models; or what gives those of a model.
    models : sequence of ModelSpec or str
        Two or more.
    folder : path, optional
        Where each model's calibration is kept, in a folder of its name, while it runs and once it has ended.
    resume : bool
        Go on in `folder`: a model that has ended is read from there, and one that was interrupted goes on.
    overwrite : bool
        Replace other calibrations in `folder`.
    member : {"best", "ensemble"}
        Which flow of a model is compared and averaged: that of its start of first rank, or the mean of several starts.
    fixed, free, ranges : optional
        As for `calibrate`; a parameter need not be of all models, but of one.
    write : callable, optional
        ``(result, folder)``, which writes a model's calibration there; see `hybridsolve.calibration.report.write`.
    **options
        Of `calibrate`, apart from `checkpoint`.

    Returns
    -------
    xarray.Dataset
        Of `compare_structures`.

    Raises
    ------
    ValueError
        As `calibrate`, before any calibration where an argument does not fit; if there are not two models or more of
        different names, or `folder` holds other calibrations.
    """
    given = dict(fixed=fixed, free=free, ranges=ranges)
    check_structures(models, folder, resume=resume, overwrite=overwrite, member=member, **given, **options)
    results = {}
    for model, settings in _plan(models, given, options):
        its_data = data(model) if callable(data) else data
        if folder is None:
            results[model.name] = reduced(calibrate(its_data, model, **settings), member)
        else:
            where = Path(folder) / model.name
            with locked(where):
                _calibrate_in(where, its_data, model, settings, resume, overwrite, write)
            results[model.name] = _read(where, member)
    return compare_structures(results, member=member, seed=options.get("seed", 0))


def check_structures(
    models: Sequence[ModelSpec | str],
    folder: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    member: str = "best",
    **options: Any,
) -> tuple[ModelSpec, ...]:
    """The models, once all of `calibrate_structures` is checked that needs no data; arguments and errors as there."""
    refuse_member(member)
    if boolean("resume", resume) and (folder is None or boolean("overwrite", overwrite)):
        raise ValueError("resume goes on in a folder that it does not overwrite; give folder= and no overwrite.")
    given = {name: options.pop(name, default) for name, default in (("fixed", None), ("free", ()), ("ranges", None))}
    found = tuple(model for model, _ in _plan(models, given, options))
    for model in found if folder is not None else ():
        report.refuse_other_run(Path(str(folder)) / model.name, resume=resume, overwrite=overwrite)
    return found


def _plan(models: Sequence[ModelSpec | str], given: Mapping, options: Mapping) -> list[tuple[ModelSpec, dict]]:
    """The models, each with the options of its calibration, all checked."""
    if isinstance(models, str) or not isinstance(models, Iterable):
        raise ValueError(f"models must be a list of two or more; found {models!r}: write ['{models}', ...].")
    found = [library.get(model) for model in models]
    names = [model.name for model in found]
    refuse_names(names)
    rows = {model.name: {v.name for v in model.every_parameter} | _factors(model) for model in found}
    for what, values in given.items():
        for name in values if isinstance(values, Mapping | list | tuple) else ():
            if not any(name in its for its in rows.values()):
                raise ValueError(
                    f"{what} names '{name}', which is no parameter of {', '.join(names)}; correct it, or leave it out."
                )
    plan = []
    needs_data = ("skip_unusable", "progress", "cluster")
    for model in found:
        its = rows[model.name]
        own = {what: _of(values, its) for what, values in given.items()}
        space, _ = check_arguments(model, **own, **{n: x for n, x in options.items() if n not in needs_data})
        plan.append((space.model, own | dict(options)))  # named by its factors, so that each row of scores says so
    refuse_names([model.name for model, _ in plan])
    return plan


def _factors(model: ModelSpec) -> set[str]:
    """The factors of `hybridsolve.models.factors` that a model can have."""
    found = set()
    for name in library.FACTORS:
        with suppress(ValueError):  # nothing that it multiplies
            library.factored(name, model)
            found.add(name)
    return found


def _of(values: Any, names: set[str]) -> Any:
    """What is given of these parameters; what is neither a mapping nor a list is left for `calibrate` to refuse."""
    if isinstance(values, Mapping):
        return {name: x for name, x in values.items() if name in names}
    return [name for name in values if name in names] if isinstance(values, list | tuple) else values


def _calibrate_in(
    where: Path, data: xr.Dataset, model: ModelSpec, settings: dict, resume: bool, overwrite: bool, write: Callable
) -> None:
    """Calibrate a model in its folder, unless it has been."""
    report.refuse_other_run(where, resume=resume, overwrite=overwrite)
    finished, made_of = where / FINISHED, _digest(data, model, settings)
    if resume and finished.exists():
        if finished.read_text().strip() != made_of:
            raise ValueError(
                f"{where} holds another calibration (settings, basins, data or version differ); resume with the "
                "arguments of the first run, or replace it with overwrite."
            )
        log.info("%s: calibrated before, read from %s", model.name, where)
        return
    finished.unlink(missing_ok=True)
    began = time.perf_counter()
    result = calibrate(data, model, checkpoint=where / "checkpoint.pt", resume=resume, **settings)
    log.info("%s", report.text(result))
    took, threads = time.perf_counter() - began, torch.get_num_threads()
    log.info("%s: calibrated and scored in %.0f s on %d threads", model.name, took, threads)
    write(result, where)
    write_text_atomic(finished, f"{made_of}\n")


def _digest(data: xr.Dataset, model: ModelSpec, settings: Mapping) -> str:
    """What a finished calibration must share with the one that is asked for."""
    apart = ("progress", "cluster")  # of which the result does not depend
    about = sorted((name, repr(x)) for name, x in settings.items() if name not in apart)
    digest = hashlib.sha256(repr((identity(model), about)).encode())
    for name in sorted(map(str, data.variables)):
        values = np.ascontiguousarray(data[name].values)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(repr(values.tolist()).encode() if values.dtype.kind in "OU" else values.tobytes())
    return digest.hexdigest()


def _read(where: Path, member: str) -> xr.Dataset:
    """What a comparison takes of a calibration that was written."""
    loss = load_netcdf(where / "calibration.nc", "calibration.nc of `hybridsolve calibrate`")["train_loss"]
    with open_netcdf(where / "streamflow.nc", "streamflow.nc of `hybridsolve calibrate`") as flows:
        return reduced(flows.assign(train_loss=loss), member).load()
