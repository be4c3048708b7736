"""Calibrated parameters run over all periods, scored, and named: the dataset that `calibrate` gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from ..data.dataset import period_slice, period_text
from ..data.ids import listed
from ..data.methods import forcing_methods
from ..data.steps import rows_of_days
from ..data.times import carry_days
from ..data.units import unit_at
from ..score import losses, metrics
from ..spec import ModelSpec
from .space import SearchSpace
from .windows import Window, flows

MEMBERS = ("best", "ensemble")
AT_BOUND = 0.01  # share of a parameter's range within which it counts as at a bound
MEMORY_LEFT = 0.01  # of the mean flow: how far two initial states may still differ after the warm-up


def evaluate(
    data: xr.Dataset,
    space: SearchSpace,
    windows: Mapping[str, Window],
    periods: Mapping,
    usable: np.ndarray,
    points: Tensor,
    train_loss: Tensor,
    ensemble: int,
    settings: Mapping,
) -> xr.Dataset:
    """Run the calibrated parameters over all periods, score them, and name everything.

    Parameters
    ----------
    usable : ndarray of int
        Indices of the basins that were calibrated, to which points ``[P, B, S]`` and train_loss ``[B, S]`` belong.
    ensemble : int
        Starts, the first in rank, whose flows are averaged.
    settings : mapping
        Of the calibration, kept as attributes.
    """
    model, step = space.model, next(iter(windows.values())).step
    ds = _named(data, space, periods, usable, points, train_loss, settings["loss"])
    ds.attrs.update(
        ensemble_size=ensemble,
        title=f"{model.title}, calibrated",
        citation="; ".join(filter(None, [data.attrs.get("citation"), model.source])),
        **{f"{name}_method": method for name, method in forcing_methods(data, model.forcing_names).items()},
        **settings,
    )
    time, found = data["time"].values, []
    rows = {name: np.arange(len(time))[period_slice(time, period)] for name, period in periods.items()}
    every = np.unique(np.concatenate(list(rows.values())))
    # Of many basins the largest array by far: made once, and filled a few basins at a time.
    flow = np.full((4, len(every), data.sizes["basin"]), np.nan, next(iter(windows.values())).obs.numpy().dtype)
    written = np.zeros(len(every), bool)
    for name, w in windows.items():
        at = np.searchsorted(every, rows[name])
        # Periods may overlap; the flow of a step is the one of the first period that holds it.
        found.append(_over_period(data, space, w, name, usable, points, ensemble, flow, at, ~written[at]))
        written[at] = True
    for name, (dims, attrs) in _SCORED.items():
        values = np.stack([f[name] for f in found])
        ds[name] = (("period", *dims), values, attrs)
    for score in metrics.NAMES:
        ds[score] = (("period", "member", "basin"), np.stack([f["scores"][score] for f in found]), dict(units="1"))
    unit = unit_at(model.variable(model.outflow).unit, step)
    ds = ds.assign_coords(time=data["time"].isel(time=every))
    ds["flow"] = (("member", "time", "basin"), flow[:2], dict(units=unit, long_name="flow at the gauge"))
    for i, name in enumerate(("lowest", "highest"), start=2):
        attrs = dict(units=unit, long_name=f"{name} flow of the ensemble's starts")
        ds[f"flow_{name}"] = (("time", "basin"), flow[i], attrs)
    ds["obs"] = data["qobs"].isel(time=every)
    ds.attrs.update({f"{name}_period": period_text(period) for name, period in periods.items()})
    return carry_days(ds, data)


_SCORED = {
    "nse_start": (("basin", "start"), dict(units="1", long_name="NSE of every start")),
    "warmup_difference": (
        ("basin",),
        dict(
            units="1",
            long_name="flow from the dry and from the wet initial state, largest difference in the first 30 days "
            "scored, over the mean flow",
        ),
    ),
}


def _over_period(
    data: xr.Dataset,
    space: SearchSpace,
    w: Window,
    period: str,
    usable: np.ndarray,
    points: Tensor,
    ensemble: int,
    flow: np.ndarray,
    at: np.ndarray,
    new: np.ndarray,
) -> dict:
    """Scores over one period; flow of the members and the extremes of the ensemble go into ``flow [4, time, basin]``.

    Parameters
    ----------
    at : ndarray of int ``[T]``
        Rows of `flow` that the period's steps have.
    new : ndarray of bool ``[T]``
        Which of them no other period has filled.
    """
    n_basins, n_starts, n_first = data.sizes["basin"], points.shape[2], rows_of_days(data, 30)
    first = slice(w.n_warmup, w.n_warmup + n_first)
    wet = flows(space, w, usable, points[:, :, :1], lambda values: _wet_state(space.model, values))
    wet = np.concatenate([q[first, :, 0].numpy().copy() for _, q in wet], 1)
    start_nse, differences, scores = [], [], []
    for part, q in flows(space, w, usable, points):
        q = q[w.n_warmup :]
        obs = w.obs[w.n_warmup :, usable[part]].numpy()
        kept = q[:, :, :ensemble]
        members = torch.stack([q[:, :, 0], kept.mean(2), kept.amin(2), kept.amax(2)]).numpy()
        flow[np.ix_(np.arange(4), at[new], usable[part])] = members[:, new]
        start_nse.append(np.stack([metrics.nse(q[:, :, i].numpy(), obs) for i in range(n_starts)], 1))
        differences.append(_difference(members[0], wet[:, part], n_first))
        scores.append([_scores(member, obs) for member in members[: len(MEMBERS)]])
    difference = _over_all(np.concatenate(differences), usable, n_basins)
    late = np.flatnonzero(difference > MEMORY_LEFT)
    if late.size:
        days = w.n_warmup / rows_of_days(data, 1)
        warnings.warn(
            f"after the warm-up of the {period} period ({days:g} days), two initial states still differ by more than "
            f"{MEMORY_LEFT:.0%} of the mean flow in {late.size} of {n_basins} basins "
            f"({listed(data['basin'].values[late])}); take a longer warm-up.",
            stacklevel=4,
        )

    def over_members(name: str) -> np.ndarray:
        over_all = np.repeat(np.asarray(blank[name], np.float64), n_basins)[None].repeat(len(MEMBERS), 0)
        over_all[:, usable] = np.concatenate([[member[name] for member in part] for part in scores], 1)
        return over_all

    # A basin that was left out has no observations here: it is not scored, and has not failed.
    nothing = np.full((len(at), 1), np.nan)
    blank = _scores(nothing, nothing)
    return dict(
        nse_start=_over_all(np.concatenate(start_nse), usable, n_basins),
        warmup_difference=difference,
        scores={name: over_members(name) for name in metrics.NAMES},
    )


def _named(
    data: xr.Dataset,
    space: SearchSpace,
    periods: Iterable[str],
    usable: np.ndarray,
    points: Tensor,
    train_loss: Tensor,
    loss: str,
) -> xr.Dataset:
    """Parameters in their units, training losses and parameters at bounds, with names and units."""
    n_basins, n_starts = data.sizes["basin"], points.shape[2]
    ds = xr.Dataset(
        coords={
            "basin": data["basin"],
            "start": np.arange(n_starts),
            "member": list(MEMBERS),
            "period": list(periods),
            "parameter": list(space.names),
        }
    )
    ds = ds.assign_coords({name: data[name] for name in ("lat", "lon") if name in data.coords})
    rows = {v.name: v for v in (*space.model.every_parameter, *space.free)}  # those searched with their bounds
    for name, values in space.values(points).items():
        v = rows[name]
        values = values.expand(points.shape[1:]).numpy()
        attrs = dict(units=v.unit, long_name=v.meaning, valid_min=v.lower, valid_max=v.upper)
        ds[name] = (("basin", "start"), _over_all(values, usable, n_basins), attrs)
    ds["train_loss"] = (
        ("basin", "start"),
        _over_all(train_loss.numpy(), usable, n_basins),
        dict(units="1", long_name=f"training loss{', 1 -' if loss in metrics.NAMES else ' of'} {loss}"),
    )
    near = ((points < AT_BOUND) | (points > 1 - AT_BOUND)).numpy()
    ds["at_bound"] = (
        ("parameter", "basin", "start"),
        _over_all(near.astype(np.float32), usable, n_basins, 1),
        dict(units="1", long_name=f"1 where within {AT_BOUND:.0%} of the range of a bound"),
    )
    return ds


def rank(
    space: SearchSpace, validation: Window, usable: np.ndarray, points: Tensor, train_loss: Tensor, loss: str
) -> Tensor:
    """Order of the starts ``[B, S]`` by the mean of training and validation score: equal fits generalise unequally.

    A basin without observations in the validation period is ranked by training alone.
    """
    scored = slice(validation.n_warmup, None)
    obs = validation.obs[scored].numpy()[:, usable]
    held_out = [
        np.stack([metrics.of_loss(flow[scored, :, i].numpy(), obs[:, part], loss) for i in range(flow.shape[2])], 1)
        for part, flow in flows(space, validation, usable, points)
    ]
    held_out = torch.as_tensor(np.concatenate(held_out))
    training = sum(term.weight for term in losses.terms(loss)) - train_loss.double()
    mean = torch.where(held_out.isnan(), training, (training + held_out) / 2)
    return mean.argsort(dim=1, descending=True, stable=True)


def _over_all(values: np.ndarray, usable: np.ndarray, n_basins: int, axis: int = 0) -> np.ndarray:
    """Values of the usable basins over all basins, NaN for those left out."""
    shape = list(values.shape)
    if shape[axis] == n_basins:  # none was left out; of many basins a copy is large
        return values
    shape[axis] = n_basins
    out = np.full(shape, np.nan, dtype=values.dtype)
    out[(slice(None),) * axis + (usable,)] = values
    return out


def _scores(sim: np.ndarray, obs: np.ndarray) -> dict[str, np.ndarray]:
    """All scores, a few basins at a time: they are computed in float64, with several arrays of its size."""
    chunks = [slice(i, i + 512) for i in range(0, sim.shape[1], 512)]
    parts = [metrics.score(sim[:, chunk], obs[:, chunk]) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _wet_state(model: ModelSpec, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The wet end of what a season can leave, as the model's table has it."""
    like = next(iter(values.values()))
    state = model.initial_state(values, wet=True)
    return {name: x if isinstance(x, Tensor) else like.new_full((1, 1), x) for name, x in state.items()}


def _difference(flow: np.ndarray, wet: np.ndarray, n_first: int) -> np.ndarray:
    """The largest difference of two flows ``[T, B]`` in their first steps, over the mean flow."""
    share: np.ndarray = np.abs(flow[:n_first] - wet[:n_first]).max(0) / np.maximum(flow.mean(0), 1e-6)
    return share


def scores_table(result: xr.Dataset, member: str = "best") -> pd.DataFrame:
    """Scores of one member as a table: a row for each basin, a column for each period and score.

    The last column names the factors of `hybridsolve.models.factors` that were searched.
    """
    columns = [name for name in metrics.NAMES if name in result]
    table = {
        f"{period}_{name}": result[name].sel(period=period, member=member).values
        for period in result["period"].values
        for name in columns
    }
    scores = xr.Dataset({k: ("basin", v) for k, v in table.items()}, coords={"basin": result["basin"]}).to_dataframe()
    return scores[list(table)].assign(free_factors=result.attrs.get("free_factors", "none"))
