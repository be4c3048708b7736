"""Calibrated models compared on the same basins: scores, what they give together, and who wins where.

What is chosen, the model of each basin and the weights, follows from the training and validation periods alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ..data.dataset import period_slice
from ..data.ids import listed
from ..data.times import carry_days
from ..score import metrics
from ..score.averaging import simplex_weights
from ..score.benchmarks import climatology, persistence
from ..score.uncertainty import nse_differences, years_since
from .evaluate import MEMBERS

COMBINATIONS = ("mean", "weighted", "chosen")  # of the models' flows
BENCHMARKS = ("climatology", "persistence")
TIE = "tie"
CHUNK = 256  # basins that are compared at a time: bounds the memory of the bootstrap


def compare_structures(
    results: Mapping[str, xr.Dataset],
    *,
    member: str = "best",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Score several calibrated models, climatology, persistence, and what the models give together.

    Parameters
    ----------
    results : mapping of str to xarray.Dataset
        Of `calibrate`, by the model's name, of the same data and periods.
    member : {"best", "ensemble"}
        Which of a model's flows.
    resamples, level, seed
        Of the intervals; see `hybridsolve.score.uncertainty.nse_differences`.

    Returns
    -------
    xarray.Dataset
        Scores ``[period, candidate, basin]`` by name: of the models, of the combinations `mean` (equal weights),
        `weighted` and `chosen`, and of the benchmarks, on the steps for which these are known. `weight`
        ``[model, basin]``: non-negative, of sum one, of least squared error over the training and validation periods,
        each basin for itself (see `hybridsolve.score.averaging`). `choice` ``[basin]``: the model of highest NSE, mean
        of training and validation, by which `calibrate` ranks starts too. Over the last period `difference` of NSE, of
        row less column, `difference_lower` and `difference_upper` ``[compared, other, basin]``, of models and
        combinations; and `winner` ``[basin]``: the model whose intervals with all others lie above 0, else "tie".
        `flow` ``[combination, time, basin]`` and `obs`. The attribute `best_single` is the model of highest median of
        that mean NSE.

    Raises
    ------
    ValueError
        If the results are not of two models or more, of the same basins, observations and periods.

    Notes
    -----
    Days that the test period shares with another play no part in a choice, nor does a period without observations.
    Basins that one model's calibration left out are left out of all.

    Of 531 CAMELS basins and four models, a choice by training and one half of the validation years scored higher on
    the other half than one by that half alone, by 0.003 and 0.013 of the median NSE.
    """
    refuse_member(member)
    names = list(results)
    refuse_names(names)
    results = {n: r if "member" not in r.dims else reduced(r, member) for n, r in results.items()}
    first = results[names[0]]
    for name in names[1:]:
        _refuse_unlike(names[0], first, name, results[name])
    stamps, obs = first["time"], first["obs"].values
    periods = [p for p in ("train", "validation", "test") if f"{p}_period" in first.attrs]
    rows = {p: period_slice(stamps.values, first.attrs[f"{p}_period"]) for p in periods}
    evidence = _evidence(rows, len(stamps))
    left_out = np.any([r["train_loss"].isnull().all("start").values for r in results.values()], axis=0)
    obs = np.where(left_out, np.nan, obs)
    flows = {name: r["flow"].values for name, r in results.items()}
    parts = []
    for basins in np.array_split(np.arange(obs.shape[1]), -(-obs.shape[1] // CHUNK)):
        sim, seen = np.stack([flows[name][:, basins] for name in names]), obs[:, basins]
        known = _benchmarks(seen, stamps, rows["train"])
        weights, choice, by_choice = choose(sim, seen, list(evidence.values()))
        together = _combined(sim, weights, choice)
        scores = [_scores(np.concatenate([sim, together]), known, seen, rows[p]) for p in periods]
        last = rows[periods[-1]]
        compared = np.concatenate([sim, together])[:, last]
        found = nse_differences(compared, seen[last], years_since(stamps[last]), resamples, level, seed)
        parts.append((scores, weights, choice, by_choice, together, *found))
    how = dict(member=member, level=level, chosen_by=" and ".join(evidence), citation=_citations(results))
    return _named(first, names, periods, parts, obs, left_out, how)


def _evidence(rows: Mapping[str, slice], n_steps: int) -> dict[str, np.ndarray]:
    """The steps ``[T]`` of training and validation, by name, without those that the test period has too."""
    found = {}
    for period, name in (("train", "training"), ("validation", "validation")):
        steps = np.zeros(n_steps, bool)
        steps[rows.get(period, slice(0))] = True
        steps[rows.get("test", slice(0))] = False
        if steps.any():
            found[name] = steps
    if not found:
        raise ValueError(
            "training or validation, by which a model is chosen, must have days that the test period has not; found "
            "none: part the periods."
        )
    return found


def choose(
    sim: np.ndarray, obs: np.ndarray, evidence: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights ``[M, B]``, the place of the chosen model ``[B]``, and the mean NSE of all ``[M, B]`` that chooses it.

    Parameters
    ----------
    sim, obs : ndarray ``[M, T, B]``, ``[T, B]``
    evidence : sequence of ndarray of bool ``[T]``
        The steps of each period that may be read. Where nothing can be scored a period does not count.
    """
    fitted = np.any(evidence, axis=0)
    scores = np.stack([[metrics.nse(x[steps], obs[steps]) for x in sim] for steps in evidence])
    scored = ~np.isnan(scores).all(1, keepdims=True)
    failed_last = np.where(scored, np.nan_to_num(scores, nan=-np.inf), 0.0)
    with np.errstate(invalid="ignore"):  # 0/0, a basin without observations
        mean = failed_last.sum(0) / scored.sum(0)
    return simplex_weights(sim[:, fitted], obs[fitted]), np.nan_to_num(mean, neginf=-np.inf).argmax(0), mean


def _combined(sim: np.ndarray, weights: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Flow ``[3, T, B]`` of the combinations, in their order."""
    with np.errstate(invalid="ignore"):  # a model that is not finite, where its weight is 0
        parts = np.where(weights[:, None] == 0, 0.0, sim * weights[:, None])
    chosen = np.take_along_axis(sim, choice[None, None], axis=0)[0]
    return np.stack([sim.mean(0, dtype=np.float64), parts.sum(0), chosen]).astype(sim.dtype)


def _benchmarks(obs: np.ndarray, stamps: xr.DataArray, train: slice) -> np.ndarray:
    known = np.zeros(len(obs), bool)
    known[train] = True
    found = np.stack([climatology(obs, stamps, known), persistence(obs)])
    gap = np.flatnonzero(np.diff(stamps.values) > np.diff(stamps.values).min()) + 1
    found[1, gap] = np.nan  # between two periods the step before is not the row before
    return found


def _scores(sim: np.ndarray, known: np.ndarray, obs: np.ndarray, rows: slice) -> dict[str, np.ndarray]:
    """All scores ``[candidate, B]``."""
    each = [metrics.score(x[rows], obs[rows]) for x in sim]
    each += [metrics.score(x[rows], np.where(np.isnan(x[rows]), np.nan, obs[rows])) for x in known]
    return {name: np.stack([scores[name] for scores in each]) for name in metrics.NAMES}


def _named(
    first: xr.Dataset,
    names: list[str],
    periods: list[str],
    parts: list,
    obs: np.ndarray,
    left_out: np.ndarray,
    how: dict,
) -> xr.Dataset:
    scores, weights, choice, by_choice, together, difference, lower, upper = zip(*parts, strict=True)
    compared = [*names, *COMBINATIONS]
    ds = xr.Dataset(
        coords={
            **{name: first[name] for name in ("time", "basin", "lat", "lon") if name in first.coords},
            "model": names,
            "combination": list(COMBINATIONS),
            "candidate": [*compared, *BENCHMARKS],
            "compared": compared,
            "other": compared,
            "period": periods,
        }
    )
    for name in metrics.NAMES:
        over = [np.concatenate([part[i][name] for part in scores], 1) for i in range(len(periods))]
        ds[name] = (("period", "candidate", "basin"), np.stack(over), dict(units="1"))
    ds["weight"] = (("model", "basin"), np.concatenate(weights, 1), dict(units="1", long_name="weight in the average"))
    ds["weight"] = ds["weight"].where(~left_out)
    chosen = np.where(left_out, "", np.array(names)[np.concatenate(choice)])
    ds["choice"] = ("basin", chosen, dict(long_name=f"best model by {how['chosen_by']}"))
    texts = dict(difference="difference of NSE, of row less column", difference_lower="lower end of its interval",
                 difference_upper="upper end of its interval")  # fmt: skip
    for (name, text), values in zip(texts.items(), (difference, lower, upper), strict=True):
        attrs = dict(units="1", long_name=f"{text}, {periods[-1]}")
        ds[name] = (("compared", "other", "basin"), np.concatenate(values, 2), attrs)
    m = len(names)
    failed = ds["n_nonfinite"].values[-1, :m] > 0
    ahead = (ds["difference_lower"].values[:m, :m] > 0) | (failed & ~failed[:, None])
    wins = (ahead | np.eye(m, dtype=bool)[:, :, None]).all(1)
    winner = np.where(wins.any(0), np.array(names)[wins.argmax(0)], np.where(left_out, "", TIE))
    ds["winner"] = ("basin", winner, dict(long_name=f"model ahead of all others over {periods[-1]}, or {TIE}"))
    ds["left_out"] = ("basin", left_out)
    unit = first["flow"].attrs["units"]
    attrs = dict(units=unit, long_name="flow at the gauge")
    ds["flow"] = (("combination", "time", "basin"), np.concatenate(together, 2), attrs)
    ds["obs"] = (("time", "basin"), obs, first["obs"].attrs)
    mean_nse = np.concatenate(by_choice, 1)
    medians = np.median(mean_nse[:, ~np.isnan(mean_nse).any(0)], axis=1)
    kept = ("loss", "starts", "seed", "warmup_years", "overlap", *(f"{p}_period" for p in periods))
    ds.attrs.update({name: first.attrs[name] for name in kept if name in first.attrs}, **how)
    ds.attrs.update({n: x for n, x in first.attrs.items() if n.endswith("_method")})
    ds.attrs.update(title=f"Comparison of {', '.join(names)}", best_single=names[int(medians.argmax())])
    return carry_days(ds, first)


def _citations(results: Mapping[str, xr.Dataset]) -> str:
    """Those of all data and models, each once."""
    every = "; ".join(str(r.attrs.get("citation", "")) for r in results.values())
    return "; ".join(dict.fromkeys(filter(None, every.split("; "))))


def _refuse_unlike(name: str, one: xr.Dataset, other_name: str, other: xr.Dataset) -> None:
    """Raise unless two calibrations are of the same basins, periods and observations."""
    remedy = "calibrate both on the same data"
    for what in ("basin", "time"):
        a, b = one[what].values, other[what].values
        if len(a) != len(b) or (a != b).any():
            raise ValueError(
                f"'{name}' and '{other_name}' must have the same {what}s to be compared; found {len(a)} and {len(b)} "
                f"that differ: {remedy}."
            )
    for period in ("train_period", "validation_period", "test_period"):
        a, b = one.attrs.get(period), other.attrs.get(period)
        if a != b:
            raise ValueError(f"'{name}' and '{other_name}' must have one {period}; found {a} and {b}: {remedy}.")
    unlike = ~((one["obs"] == other["obs"]) | (one["obs"].isnull() & other["obs"].isnull())).all("time").values
    if unlike.any():
        raise ValueError(
            f"'{name}' and '{other_name}' must be of the same observations; found others in {unlike.sum()} basins "
            f"({listed(one['basin'].values[unlike])}): {remedy}."
        )


def reduced(result: xr.Dataset, member: str | None = None) -> xr.Dataset:
    """What a comparison takes of a calibration, the rest of which need not stay in memory; of one member."""
    bounds = [name for name in ("time_bnds",) if name in result.variables]
    found = result[["flow", "obs", "train_loss", *bounds]].set_coords(bounds)
    found = found if member is None else found.sel(member=member)
    return found.drop_vars(["member", "start"], errors="ignore").assign_attrs(result.attrs)


def refuse_names(names: Sequence[str]) -> None:
    """Raise unless models of these names can be compared."""
    taken = [name for name in names if name in (*COMBINATIONS, *BENCHMARKS, TIE)]
    if len(set(names)) < max(2, len(names)) or taken:
        raise ValueError(
            f"models to compare must be two or more of different names, none called {', '.join(taken) or 'alike'}; "
            f"found {', '.join(names) or 'none'}: correct the list."
        )


def refuse_member(member: str) -> None:
    """Raise unless calibrations have such a member."""
    if member not in MEMBERS:
        raise ValueError(f"unknown member {member!r}; expected {' or '.join(MEMBERS)}.")
