"""Batch calibration: all catchments x many starts in one run of the solver, by gradient or by evolution.

A basin's starts are the components of the solver (kept apart), so its forcing is loaded once for all of them. Each
(basin, start) is a problem of its own: nothing is shared between basins but the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from .. import models
from ..api import simulate
from ..data.dataset import check_dataset, parse_period, period_slice
from ..routing import unit_hydrograph
from ..spec import ModelSpec
from . import losses, metrics
from .search import EvolutionSearch, GradientSearch, starting_points

METHODS = ("gradient", "evolution")
MEMBERS = ("best", "ensemble")
AT_BOUND = 0.01  # share of a parameter's range within which it counts as at a bound
SETTLED = 0.01  # of the mean flow: how far two initial states may still differ after the warm-up
SAVE_EVERY = float(os.environ.get("HYBRIDSOLVE_SAVE_EVERY", "20"))  # seconds between checkpoints
CHUNK_BYTES = 3e8  # of one flow series [T, B, S]: more basins than this holds are calibrated one lot after another


@dataclass(frozen=True)
class Window:
    """A period and the warm-up before it, as the solver takes them.

    Attributes
    ----------
    forcing : dict of str to Tensor ``[T, B]``
    obs : Tensor ``[T, B]``
        mm/d; NaN where missing, and throughout the warm-up.
    n_warmup : int
        Steps of T before the period.
    spun_up : bool
        The data begin less than a year before the period, so that their first year is run twice.
    """

    forcing: dict[str, Tensor]
    obs: Tensor
    n_warmup: int
    spun_up: bool


def window(data: xr.Dataset, model: ModelSpec, period, warmup_years: float) -> Window:
    """Cut a period with its warm-up: as many years as asked for where the data allow, one at least."""
    scored = period_slice(data["time"].values, period)
    available = min(scored.start, round(365.25 * warmup_years))
    days = np.arange(scored.start - available, scored.stop)
    spun_up = available < 365
    if spun_up:
        days = np.concatenate([days[:365], days])
    n_warmup = len(days) - (scored.stop - scored.start)

    def series(name):
        values = data[name].transpose("time", "basin").values
        # A slice is a view: the whole record is in memory once, whatever the number of windows.
        return torch.as_tensor(values[days] if spun_up else values[days[0] : days[-1] + 1])

    obs = series("qobs").clone()
    obs[:n_warmup] = torch.nan
    return Window({name: series(name) for name in model.forcing_names}, obs, n_warmup, spun_up)


class Objective:
    """Loss ``[B, S]`` of points ``[P, B, S]`` of the unit cube over one window, for some of its basins."""

    SLICE = 16  # members run at a time where no gradient is asked for: bounds the memory of a large population

    def __init__(self, model: ModelSpec, period: Window, loss: str, basins: slice = slice(None)):
        self.model = model
        self.names = model.parameter_names + model.routing_parameter_names
        self.forcing = {name: f[:, basins] for name, f in period.forcing.items()}
        self.loss = losses.get(loss)(period.obs[:, basins])
        self.n_steps = len(period.obs)

    def __call__(self, points: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.loss(self.flow(points))
        return torch.cat([self.loss(self.flow(part)) for part in points.split(self.SLICE, dim=2)], dim=1)

    def flow(self, points: Tensor, initial_state=None) -> Tensor:
        """Routed streamflow ``[T, B, S]``, mm/d."""
        values = self.model.parameters_from_unit(dict(zip(self.names, points.unbind(0), strict=True)))
        return routed_flow(self.model, self.forcing, values, initial_state)


def routed_flow(model: ModelSpec, forcing, values, initial_state=None) -> Tensor:
    """Streamflow of every component through its own unit hydrograph, ``[T, B, C]``, mm/d.

    Parameters
    ----------
    values : mapping of str to Tensor ``[B, C]``
        Parameters in their units, the routing ones among them.
    """
    values = dict(values)
    a, b = (values.pop(name) for name in model.routing_parameter_names)
    run = simulate(model, forcing, values, initial_state=initial_state, components="each")
    q = run.fluxes["streamflow"].transpose(1, 2)  # [T, C, B], as the solver lays it: the views below copy nothing
    routed = unit_hydrograph(q.flatten(1), a.T.flatten(), b.T.flatten())
    return routed.view(q.shape).transpose(1, 2)


def calibrate(
    data: xr.Dataset,
    model: ModelSpec | str = "hbv11p",
    *,
    train,
    validation=None,
    test=None,
    loss: str = "nse",
    method: str = "gradient",
    starts: int = 10,
    steps: int | None = None,
    ensemble: int | None = None,
    warmup_years: float = 3.0,
    skip_unusable: bool = False,
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
        One minus the score (see `hybridsolve.learn.losses`).
    method : {"gradient", "evolution"}
        Adam from many starts, or differential evolution, which needs no gradient and serves as a check.
    starts : int
        Points a basin starts from; for evolution the members kept, best first, of a population of 6 x as many.
    steps : int, optional
        Iterations or generations; 300 or 250 if left out.
    ensemble : int, optional
        How many starts, the first in rank, are averaged as the "ensemble" (their flows, not their parameters);
        half of them if left out.
    warmup_years : float
        Run before each period unscored, where the data allow; their first year is repeated where they begin less
        than a year before the period.
    skip_unusable : bool
        Leave out basins whose training window has no observation or no variance (their results are NaN), instead of
        raising.
    seed : int
    checkpoint : path, optional
        A file in which the state is kept while the search runs.
    resume : bool
        Go on from `checkpoint`, to the same result as a run that was not stopped.
    progress : bool
        Show a progress bar with throughput and time left.

    Returns
    -------
    xarray.Dataset
        Parameters ``[basin, start]`` by name, `train_loss` ``[basin, start]``, `best_start`, `in_ensemble`, `at_bound`,
        scores ``[period, member, basin]`` by name, `nse_start` ``[period, basin, start]``, `flow` ``[member, time,
        basin]`` over the scored periods.

    Raises
    ------
    ValueError
        If an argument, a unit, a period or a value of the data does not fit; or if basins cannot be fitted and
        `skip_unusable` is not set.
    """
    model = models.get(model) if isinstance(model, str) else model
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}'; expected {' or '.join(METHODS)}.")
    if loss not in losses.names(per_series=True):
        raise ValueError(f"unknown loss '{loss}'; expected one of {', '.join(losses.names(per_series=True))}.")
    steps = steps or {"gradient": 300, "evolution": 250}[method]
    ensemble = ensemble or max(1, starts // 2)
    for name, value, least in (
        ("starts", starts, 1),
        ("steps", steps, 1),
        ("ensemble", ensemble, 1),
        ("warmup_years", warmup_years, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; found {value}.")
    if ensemble > starts:
        raise ValueError(f"ensemble must be at most the number of starts, {starts}; found {ensemble}.")
    check_dataset(data, forcing_names=model.forcing_names, need_qobs=True)
    periods = {name: period for name, period in dict(train=train, validation=validation, test=test).items() if period}
    windows = {name: window(data, model, period, warmup_years) for name, period in periods.items()}
    for name, w in windows.items():
        if w.spun_up:
            warnings.warn(
                f"the data begin less than a year before the {name} period {_text(periods[name])}; their first "
                "year is run twice to warm up.",
                stacklevel=2,
            )
    usable = _usable(data, windows["train"], skip_unusable)

    settings = dict(
        model=model.name,
        train=_text(train),
        loss=loss,
        method=method,
        starts=starts,
        steps=steps,
        warmup_years=warmup_years,
        seed=seed,
    )
    points, train_loss = _search(
        model, windows["train"], usable, settings, _fingerprint(data, usable, settings), checkpoint, resume, progress
    )
    if validation:
        order = _rank(model, windows["validation"], usable, points, train_loss, loss)
        points, train_loss = points.gather(2, order.expand_as(points)), train_loss.gather(1, order)
    settings["starts_ranked_by"] = "training and validation score" if validation else "training score"
    return _result(data, model, windows, periods, usable, points, train_loss, ensemble, settings)


def _rank(model, validation: Window, usable, points: Tensor, train_loss: Tensor, loss: str) -> Tensor:
    """Order of the starts ``[B, S]`` by the mean of training and validation score: equally good fits generalise unequally.

    A basin without observations in the validation period is ranked by training alone.
    """
    scored = slice(validation.n_warmup, None)
    obs = validation.obs[scored].numpy()[:, usable]
    score = getattr(metrics, loss)
    held_out = [
        np.stack([score(flow[scored, :, i].numpy(), obs[:, part]) for i in range(flow.shape[2])], 1)
        for part, flow in _flows(model, validation, usable, points)
    ]
    held_out = torch.as_tensor(np.concatenate(held_out))
    training = 1 - train_loss.double()
    return torch.where(held_out.isnan(), training, (training + held_out) / 2).argsort(1, descending=True, stable=True)


def _flows(model, period: Window, usable, points: Tensor, initial_state=None):
    """Routed flow ``[T, B, S]`` of some usable basins at a time, with their indices into `usable`."""
    names = model.parameter_names + model.routing_parameter_names
    for part in np.array_split(np.arange(len(usable)), -(-len(usable) * points.shape[2] // 4096)):
        forcing = {name: f[:, usable[part]] for name, f in period.forcing.items()}
        values = model.parameters_from_unit(dict(zip(names, points[:, part].unbind(0), strict=True)))
        with torch.no_grad():
            yield part, routed_flow(model, forcing, values, initial_state(values) if initial_state else None)


def _text(period) -> str:
    return ":".join(day.strftime("%Y-%m-%d") for day in parse_period(period))


def _usable(data: xr.Dataset, train: Window, skip: bool) -> np.ndarray:
    """Indices of the basins that can be fitted."""
    obs = train.obs.numpy()
    seen = ~np.isnan(obs)
    low, high = np.where(seen, obs, np.inf).min(0), np.where(seen, obs, -np.inf).max(0)
    bad = ~(high > low)
    if bad.any():
        names = ", ".join(map(str, data["basin"].values[bad][:5])) + (", ..." if bad.sum() > 5 else "")
        if not skip or bad.all():
            raise ValueError(
                f"qobs must vary in the training period; it is missing or constant there in {bad.sum()} of "
                f"{bad.size} basins ({names}): choose another period, or set skip_unusable to leave them "
                "out."
            )
        warnings.warn(
            f"{bad.sum()} of {bad.size} basins have no usable observation in the training period and are left "
            f"out, their results NaN: {names}.",
            stacklevel=3,
        )
    return np.flatnonzero(~bad)


def _fingerprint(data: xr.Dataset, usable: np.ndarray, settings: dict) -> str:
    """What a checkpoint must share with the run that resumes it: settings, basins and data."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(",".join(map(str, data["basin"].values[usable])).encode())
    for name in ("prcp", "tmean", "pet", "qobs"):
        digest.update(np.ascontiguousarray(data[name].values))
    return digest.hexdigest()


def _search(model, train, usable, settings, fingerprint, checkpoint, resume, progress):
    """Best points ``[P, B, S]`` and their losses ``[B, S]``, starts in order of the loss, for the usable basins."""
    n_starts, seed, steps = settings["starts"], settings["seed"], settings["steps"]
    size = n_starts if settings["method"] == "gradient" else max(8, 6 * n_starts)
    # An evolution's population runs in slices, so only one slice of members counts.
    lot = max(1, int(CHUNK_BYTES / (4 * len(train.obs) * min(size, max(n_starts, Objective.SLICE)))))
    lots = [usable[i : i + lot] for i in range(0, len(usable), lot)]
    state = _read_checkpoint(checkpoint, fingerprint) if resume else None
    finished = state["finished"] if state else []
    n_parameters = len(model.parameter_names + model.routing_parameter_names)
    bar = tqdm(
        total=len(lots) * steps,
        initial=0,
        disable=not progress,
        unit="step",
        dynamic_ncols=True,
        desc=f"calibrate {model.name}, {len(usable)} basins x {size}",
    )
    bar.update(len(finished) * steps)
    unfinished = state["search"] if state else None
    for i in range(len(finished), len(lots)):
        basins = lots[i] if len(lots) > 1 or len(usable) < train.obs.shape[1] else slice(None)
        objective = Objective(model, train, settings["loss"], basins)
        start = starting_points(n_parameters, len(lots[i]), size, seed, train.obs.dtype)
        search = (
            GradientSearch(objective, start, steps)
            if settings["method"] == "gradient"
            else EvolutionSearch(objective, start, steps, seed + i)
        )
        if unfinished:
            search.load_state_dict(unfinished)
            bar.update(search.done)
            unfinished = None
        saved = time.monotonic()
        while search.done < steps:
            began = time.perf_counter()
            search.step()
            rate = search.evaluations_per_step * len(lots[i]) * objective.n_steps / (time.perf_counter() - began)
            bar.set_postfix_str(f"median loss {search.best_loss.amin(1).median():.4f}, {rate / 1e6:.0f} M cell-steps/s")
            bar.update()
            if checkpoint and time.monotonic() - saved > SAVE_EVERY:
                _write_checkpoint(checkpoint, fingerprint, finished, search.state_dict())
                saved = time.monotonic()
        order = search.best_loss.argsort(1)[:, :n_starts]
        finished.append((search.best.gather(2, order.expand(n_parameters, -1, -1)), search.best_loss.gather(1, order)))
        if checkpoint:
            _write_checkpoint(checkpoint, fingerprint, finished, None)
    bar.close()
    return torch.cat([p for p, _ in finished], dim=1), torch.cat([x for _, x in finished])


def _write_checkpoint(path, fingerprint: str, finished: list, search: dict | None) -> None:
    temporary = Path(f"{path}.tmp")
    torch.save(dict(fingerprint=fingerprint, finished=finished, search=search), temporary)
    os.replace(temporary, path)


def _read_checkpoint(path, fingerprint: str) -> dict | None:
    if path is None:
        raise ValueError("resume needs the checkpoint's path; found None: give checkpoint=.")
    if not Path(path).exists():
        return None
    state = torch.load(path, weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"checkpoint {path} is of another calibration (settings, basins or data differ); expected the "
            "same: run without resume, or with the arguments of the first run."
        )
    return state


def _result(data, model, windows, periods, usable, points, train_loss, ensemble, settings) -> xr.Dataset:
    """Run the calibrated parameters over all periods, score them, and name everything."""
    n_basins, n_starts = data.sizes["basin"], points.shape[2]
    names = model.parameter_names + model.routing_parameter_names

    def full(values, axis=0):  # over all basins, NaN for those left out
        shape = list(values.shape)
        shape[axis] = n_basins
        out = np.full(shape, np.nan, dtype=values.dtype)
        out[(slice(None),) * axis + (usable,)] = values
        return out

    ds = xr.Dataset(
        coords={
            "basin": data["basin"],
            "start": np.arange(n_starts),
            "member": list(MEMBERS),
            "period": list(periods),
            "parameter": list(names),
        }
    )
    ds = ds.assign_coords({name: data[name] for name in ("lat", "lon") if name in data.coords})
    values = model.parameters_from_unit(dict(zip(names, points.unbind(0), strict=True)))
    for name in names:
        v = model.variable(name)
        ds[name] = (
            ("basin", "start"),
            full(values[name].numpy()),
            dict(units=v.unit, long_name=v.meaning, valid_min=v.lower, valid_max=v.upper),
        )
    ds["train_loss"] = (
        ("basin", "start"),
        full(train_loss.numpy()),
        dict(units="1", long_name=f"training loss, 1 - {settings['loss']}"),
    )
    near = ((points < AT_BOUND) | (points > 1 - AT_BOUND)).numpy()
    ds["at_bound"] = (
        ("parameter", "basin", "start"),
        full(near.astype(np.float32), 1),
        dict(units="1", long_name=f"1 where within {AT_BOUND:.0%} of the range of a bound"),
    )
    ds.attrs.update(
        ensemble_size=ensemble,
        title=f"{model.title}, calibrated",
        pet_method=str(data["pet"].attrs.get("method", "as in the data")),
        citation="; ".join(filter(None, [data.attrs.get("citation"), model.source])),
        **settings,
    )

    flows = []
    for p, (period, w) in enumerate(windows.items()):
        members, start_nse, unsettled = [], [], []
        wet = _flows(model, w, usable, points[:, :, :1], _wet_state)
        wet = np.concatenate([flow[w.n_warmup :, :, 0].numpy() for _, flow in wet], 1)
        for part, flow in _flows(model, w, usable, points):
            flow = flow[w.n_warmup :]
            obs = w.obs[w.n_warmup :, usable[part]].numpy()
            kept = flow[:, :, :ensemble]
            members.append(torch.stack([flow[:, :, 0], kept.mean(2), kept.amin(2), kept.amax(2)]).numpy())
            unsettled.append(_difference(members[-1][0], wet[:, part]))
            start_nse.append(np.stack([metrics.nse(flow[:, :, i].numpy(), obs) for i in range(n_starts)], 1))
        members = full(np.concatenate(members, 2), 2)
        if p == 0:
            ds["nse_start"] = (
                ("period", "basin", "start"),
                np.full((len(windows), n_basins, n_starts), np.nan),
                dict(units="1", long_name="NSE of every start"),
            )
            ds["warmup_difference"] = (
                ("period", "basin"),
                np.full((len(windows), n_basins), np.nan),
                dict(
                    units="1",
                    long_name="flow from empty and from full stores, largest difference "
                    "in the first 30 days scored, over the mean flow",
                ),
            )
        ds["nse_start"][p] = full(np.concatenate(start_nse))
        ds["warmup_difference"][p] = full(np.concatenate(unsettled))
        late = np.flatnonzero(ds["warmup_difference"][p].values > SETTLED)
        if late.size:
            warnings.warn(
                f"after the warm-up of the {period} period ({w.n_warmup} days), two initial states still differ by "
                f"more than {SETTLED:.0%} of the mean flow in {late.size} of {n_basins} basins "
                f"({', '.join(map(str, data['basin'].values[late][:5]))}{', ...' if late.size > 5 else ''}); "
                "a longer warm-up would settle them.",
                stacklevel=3,
            )
        obs = w.obs[w.n_warmup :].numpy()
        for m in range(len(MEMBERS)):
            for score, x in metrics.score(members[m], obs).items():
                if score not in ds:
                    ds[score] = (
                        ("period", "member", "basin"),
                        np.full((len(windows), len(MEMBERS), n_basins), np.nan),
                        dict(units="1"),
                    )
                ds[score][p, m] = x
        span = period_slice(data["time"].values, periods[period])
        flows.append(
            xr.DataArray(
                members,
                dims=("member", "time", "basin"),
                coords={"time": data["time"].values[span], "basin": data["basin"].values},
            )
        )
    # Periods may overlap; the flow of a day is the one of the first period that holds it.
    flow = xr.concat(flows, "time").drop_duplicates("time").sortby("time")
    ds["flow"] = flow[:2].assign_attrs(units="mm d-1", long_name="routed streamflow")
    for i, name in enumerate(("lowest", "highest"), start=2):
        ds[f"flow_{name}"] = flow[i].assign_attrs(units="mm d-1", long_name=f"{name} flow of the ensemble's starts")
    ds["obs"] = data["qobs"].sel(time=flow["time"])
    ds.attrs.update({f"{name}_period": _text(period) for name, period in periods.items()})
    return ds


def _wet_state(values) -> dict[str, Tensor]:
    """Stores as full as a wet season leaves them: the other end from the default's empty ones."""
    dry = torch.zeros_like(values["fc"])
    return dict(snowpack=dry, meltwater=dry, sm=values["fc"], suz=values["uzl"], slz=dry + 100)


def _difference(flow: np.ndarray, wet: np.ndarray) -> np.ndarray:
    return np.abs(flow[:30] - wet[:30]).max(0) / np.maximum(flow.mean(0), 1e-6)


def scores_table(result: xr.Dataset, member: str = "best"):
    """Scores of one member as a table: a row for each basin, a column for each period and score."""
    columns = [name for name in metrics.NAMES if name in result]
    table = {
        f"{period}_{name}": result[name].sel(period=period, member=member).values
        for period in result["period"].values
        for name in columns
    }
    return xr.Dataset({k: ("basin", v) for k, v in table.items()}, coords={"basin": result["basin"]}).to_dataframe()[
        list(table)
    ]


def simulate_calibrated(
    parameters: xr.Dataset,
    data: xr.Dataset,
    *,
    period=None,
    member="best",
    fluxes=("streamflow",),
    warmup_years: float = 3.0,
) -> xr.Dataset:
    """Run stored parameters over a period.

    Parameters
    ----------
    parameters : xarray.Dataset
        Of `calibrate`, as written to calibration.nc.
    data : xarray.Dataset
        Forcing of the same basins, or of some of them.
    period : str or pair of dates, optional
        All of the data if left out; then nothing is left to warm up, and the first year is run twice.
    member : {"best", "ensemble"}
        The start of first rank, or the mean over the ensemble's starts.
    fluxes : sequence of str
        Of the model's fluxes and states; `streamflow` is routed by the unit hydrograph, the others are not.
    warmup_years : float

    Returns
    -------
    xarray.Dataset
        Each flux ``[time, basin]`` with units.

    Raises
    ------
    ValueError
        If a flux, member or period is unknown, or a basin has no stored parameters.
    """
    model = models.get(str(parameters.attrs.get("model", "absent")))
    if member not in MEMBERS:
        raise ValueError(f"unknown member '{member}'; expected {' or '.join(MEMBERS)}.")
    unknown = [name for name in fluxes if name not in model.output_names]
    if unknown:
        raise ValueError(
            f"model {model.name} has no flux '{unknown[0]}'; expected any of {', '.join(model.output_names)}."
        )
    missing = [str(b) for b in data["basin"].values if b not in parameters["basin"].values]
    if missing:
        raise ValueError(
            f"{len(missing)} basins of the data have no stored parameters ({', '.join(missing[:5])}); choose "
            "basins that were calibrated."
        )
    check_dataset(data, forcing_names=model.forcing_names)
    if period is None:
        period = (data["time"].values[0], data["time"].values[-1])
    if "qobs" not in data:
        data = data.assign(qobs=data["prcp"] * np.nan)
    w = window(data, model, period, warmup_years)
    n_starts = 1 if member == "best" else int(parameters.attrs["ensemble_size"])
    stored = parameters.sel(basin=data["basin"].values).isel(start=slice(0, n_starts))
    dtype = w.obs.dtype
    values = {
        n: torch.as_tensor(stored[n].values).to(dtype) for n in model.parameter_names + model.routing_parameter_names
    }
    left_out = [
        str(b) for b, bad in zip(data["basin"].values, np.isnan(stored["fc"].values).any(1), strict=True) if bad
    ]
    if left_out:
        raise ValueError(
            f"{len(left_out)} basins were left out of the calibration ({', '.join(left_out[:5])}); choose others."
        )
    out = xr.Dataset(
        coords={"time": data["time"].values[period_slice(data["time"].values, period)], "basin": data["basin"]}
    )
    with torch.no_grad():
        others = [name for name in fluxes if name != "streamflow"]
        series = {}
        if others:
            only = {n: values[n] for n in model.parameter_names}
            series = simulate(model, w.forcing, only, fluxes=others).fluxes
        if "streamflow" in fluxes:
            series["streamflow"] = routed_flow(model, w.forcing, values).mean(2)
    for name in fluxes:
        v = model.variable(name)
        meaning = "routed streamflow" if name == "streamflow" else v.meaning
        out[name] = (("time", "basin"), series[name][w.n_warmup :].numpy(), dict(units=v.unit, long_name=meaning))
    out.attrs.update(
        model=model.name,
        member=member,
        title=f"{model.title}, simulated",
        pet_method=str(data["pet"].attrs.get("method", "as in the data")),
        citation=str(parameters.attrs.get("citation", "")),
    )
    return out
