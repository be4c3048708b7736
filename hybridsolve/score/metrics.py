"""Scores of simulated against observed flow, per basin, on numpy arrays.

Everything is computed in float64 whatever comes in. ``sim`` and ``obs`` are ``[T, B]`` in mm per step; NaN in
``obs`` is a missing step and is left out. Masked values (numpy.ma) are NaN. Labelled series (xarray, pandas) are
turned so that time comes first, and must have the same labels. Three rules hold for every score:

* A simulation that is not finite at a step with an observation makes that basin's scores NaN: the basin has
  failed. It is never masked: a model that failed for a step has not been scored on the others.
* A score whose denominator does not exist (no observation, no variance in them, no flow) is NaN: the basin is
  not scored.
* The log and root variants, FLV and FMS add ``mean(obs) / 100`` of the scored steps to both series first, since
  some 3 % of the observed days are zero (Pushpalatha et al. 2012). A flow below ``-mean(obs) / 100`` makes
  them NaN.

Sources: Nash and Sutcliffe 1970 (J. Hydrol. 10:282); Gupta et al. 2009 (J. Hydrol. 377:80); Kling et al. 2012
(J. Hydrol. 424:264); Knoben et al. 2019 (HESS 23:4323); Yilmaz et al. 2008 (Water Resour. Res. 44:W09417);
Pushpalatha et al. 2012 (J. Hydrol. 420:171).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from ..data.values import unmasked
from . import peaks
from .formula import terms

#: Scores for which higher is better, so that a missing score can be ranked: below every number.
EFFICIENCIES = ("nse", "kge", "kge_2012", "nse_sqrt", "nse_log")

#: All scores, in the order in which `score` returns them.
NAMES = (
    "nse",
    "kge",
    "kge_r",
    "kge_alpha",
    "kge_beta",
    "kge_2012",
    "pbias",
    "fhv",
    "flv",
    "nse_sqrt",
    "nse_log",
    "beta_nse",
    "fms",
    "peak_timing",
    "peak_error",
    "n_valid",
    "n_nonfinite",
)

_COUNTS = ("n_valid", "n_nonfinite")


def _labelled(x):
    """``(values, dims, labels)``: time first where it is known; a label is None where the axis has none."""
    if isinstance(x, pd.DataFrame):
        axes = (x.index, x.columns)
        numbers = all(pd.api.types.is_numeric_dtype(dtype) for dtype in x.dtypes)
        x = xr.DataArray(
            x.to_numpy(np.float64, na_value=np.nan) if numbers else x.to_numpy(object),
            dims=("rows", "columns"),
            coords={
                dim: np.asarray(axis)
                for dim, axis in zip(("rows", "columns"), axes, strict=True)
                if not isinstance(axis, pd.RangeIndex)
            },
        )
    if isinstance(x, xr.DataArray):
        times = [d for d in x.dims if d == "time" or (d in x.indexes and _is_time(x.indexes[d]))]
        if x.ndim == 2 and len(times) == 1:
            x = x.transpose(times[0], ...)
        labels = [x.indexes[d].to_numpy() if d in x.indexes else None for d in x.dims]
        return x.values, x.dims if not times else ("time", *x.dims[1:]), labels
    if hasattr(x, "detach"):  # a torch tensor
        x = x.detach().cpu()
        x = (x.double() if x.is_floating_point() else x).numpy()
    return unmasked(x), None, None


def _is_time(index) -> bool:
    return isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex, xr.CFTimeIndex))


def _refuse_other_labels(sim, obs):
    (_, sim_dims, sim_labels), (_, obs_dims, obs_labels) = sim, obs
    if sim_dims is None or obs_dims is None:
        return
    if sim_dims != obs_dims and "time" not in (sim_dims[0], obs_dims[0]):
        raise ValueError(
            f"sim and obs must have the same dims, found {sim_dims} and {obs_dims}: rename those of one, time first."
        )
    for axis, one, other in zip(("steps", "basins"), sim_labels, obs_labels, strict=True):
        if one is None or other is None or len(one) != len(other) or np.array_equal(one, other):
            continue
        at = int(np.flatnonzero(np.asarray(one) != np.asarray(other))[0])
        raise ValueError(
            f"sim and obs must have the same {axis} in the same order, found {one[at]} and {other[at]} at place {at}: "
            "select those of one from the other by label."
        )


class _Pair:
    """The two series of all basins, checked once and laid out for reductions over time.

    Arrays are ``[B, T]``: time contiguous, since sums and above all sorts run along it.
    """

    def __init__(self, sim, obs):
        labelled = _labelled(sim), _labelled(obs)
        sim, obs = (values for values, _, _ in labelled)
        for name, a in (("sim", sim), ("obs", obs)):
            if a.dtype.kind not in "fiu":
                raise TypeError(f"{name} must hold real numbers, found dtype {a.dtype}: convert it to float64.")
            if a.ndim != 2:
                raise ValueError(
                    f"{name} must be [T, B] (steps x basins), found shape {a.shape}: give one basin as [T, 1]."
                )
        if sim.shape != obs.shape:
            raise ValueError(
                f"sim and obs must have the same shape [T, B], found {sim.shape} and {obs.shape}: cut both "
                "to the scored period and order both by the same basins."
            )
        _refuse_other_labels(*labelled)
        if obs.shape[0] == 0:
            raise ValueError("obs must hold at least one step, found T = 0: check the bounds of the scored period.")
        obs = np.ascontiguousarray(obs.T, dtype=np.float64)
        sim = np.ascontiguousarray(sim.T, dtype=np.float64)
        if np.isinf(obs).any():
            b, t = np.argwhere(np.isinf(obs))[0]
            raise ValueError(
                f"obs must be finite or NaN (missing), found {obs[b, t]} in basin {b} on step {t}: mark "
                "missing steps with NaN."
            )
        self.mask = ~np.isnan(obs)
        self.n = self.mask.sum(axis=1)
        # A basin whose simulation failed on a scored step; its scores become NaN at the end, whatever came
        # out.
        self.n_nonfinite = (self.mask & ~np.isfinite(sim)).sum(axis=1)
        self.failed = self.n_nonfinite > 0
        self.obs = np.where(self.mask, obs, 0.0)
        self.sim = np.where(self.mask & ~self.failed[:, None], sim, 0.0)
        self._cache = {}

    def cached(self, key, make):
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def mean(self, x):
        # Masked here and not by the caller: the transform of a missing step's zero is not zero.
        return np.where(self.mask, x, 0.0).sum(axis=1) / self.n

    def centred(self, x):
        return np.where(self.mask, x - self.mean(x)[:, None], 0.0)

    @property
    def offset(self):
        """``mean(obs) / 100`` per basin ``[B, 1]``, mm per step."""
        return self.mean(self.obs)[:, None] / 100.0

    def constant(self, x):
        """Whether a series is constant. By its extremes: rounding leaves a constant a variance of 1e-34."""
        low = np.where(self.mask, x, np.inf).min(axis=1)
        return ~(np.where(self.mask, x, -np.inf).max(axis=1) > low)

    def failures_masked(self, x):
        return np.where(self.failed, np.nan, x)

    def descending(self):
        """Sorted flows ``[B, T]``, each series for itself, largest first, missing steps (NaN) last."""

        def make():
            # Of the negated series, since numpy sorts ascending and puts NaN last.
            return tuple(-np.sort(np.where(self.mask, -x, np.nan), axis=1) for x in (self.sim, self.obs))

        return self.cached("descending", make)

    def moments(self):
        """mean_s, mean_o, sd_s, sd_o, r: what every KGE is made of (population standard deviations)."""

        def make():
            ds, do = self.centred(self.sim), self.centred(self.obs)
            sd_s, sd_o = np.sqrt(self.mean(ds * ds)), np.sqrt(self.mean(do * do))
            sd_s = np.where(self.constant(self.sim), 0.0, sd_s)
            sd_o = np.where(self.constant(self.obs), np.nan, sd_o)
            # A constant simulation explains nothing: r = 0, as in the mean-flow benchmark of Knoben et al.
            # 2019.
            r = np.where(sd_s == 0.0, 0.0 * sd_o, self.mean(ds * do) / (sd_s * sd_o))
            return self.mean(self.sim), self.mean(self.obs), sd_s, sd_o, r

        return self.cached("moments", make)

    def peak_errors(self):
        """Errors of flood peaks in steps and percent; see `score.peaks`."""
        return self.cached("peaks", lambda: peaks.errors(self.sim, self.obs, self.mask))


def _quiet(function):
    """Without warnings of divisions by zero, which give NaN by the rules above."""

    def wrapped(pair):
        with np.errstate(divide="ignore", invalid="ignore"):
            return pair.failures_masked(function(pair))

    return wrapped


def _efficiency(pair, sim, obs):
    do = pair.centred(obs)
    error = np.where(pair.mask, sim - obs, 0.0)
    total = np.where(pair.constant(obs), np.nan, (do * do).sum(axis=1))
    return 1.0 - (error * error).sum(axis=1) / total


@_quiet
def _nse(pair):
    return _efficiency(pair, pair.sim, pair.obs)


@_quiet
def _nse_sqrt(pair):
    return _efficiency(pair, np.sqrt(pair.sim + pair.offset), np.sqrt(pair.obs + pair.offset))


@_quiet
def _nse_log(pair):
    return _efficiency(pair, _log(pair.sim + pair.offset), _log(pair.obs + pair.offset))


def _log(x):
    # log(0) would be -inf and give -inf scores where the definition has none.
    return np.log(np.where(x > 0.0, x, np.nan))


@_quiet
def _kge_r(pair):
    return pair.moments()[4]


@_quiet
def _kge_alpha(pair):
    _, _, sd_s, sd_o, _ = pair.moments()
    return sd_s / sd_o


@_quiet
def _kge_beta(pair):
    mean_s, mean_o, *_ = pair.moments()
    return mean_s / np.where(mean_o == 0.0, np.nan, mean_o)


@_quiet
def _kge(pair):
    r, alpha, beta = _kge_r(pair), _kge_alpha(pair), _kge_beta(pair)
    return 1.0 - np.sqrt((r - 1.0) ** 2 + (alpha - 1.0) ** 2 + (beta - 1.0) ** 2)


@_quiet
def _kge_2012(pair):
    mean_s, mean_o, sd_s, sd_o, r = pair.moments()
    # A simulation of zeros has no coefficient of variation; one of any other constant has 0, so zeros get 0
    # too.
    gamma = np.where(sd_s == 0.0, 0.0 * sd_o, (sd_s / mean_s) / (sd_o / mean_o))
    return 1.0 - np.sqrt((r - 1.0) ** 2 + (gamma - 1.0) ** 2 + (_kge_beta(pair) - 1.0) ** 2)


@_quiet
def _pbias(pair):
    total = pair.obs.sum(axis=1)
    return 100.0 * (pair.sim - pair.obs).sum(axis=1) / np.where(total == 0.0, np.nan, total)


def _count(n, share):
    """Steps in a share of ``n``: rounded half up, at least one."""
    return np.maximum(1, np.floor(share * n + 0.5).astype(np.int64))


def _fhv(pair, top=0.02):
    sim, obs = pair.descending()
    inside = np.arange(obs.shape[1]) < np.minimum(_count(pair.n, top), pair.n)[:, None]
    total = np.where(inside, obs, 0.0).sum(axis=1)
    return 100.0 * np.where(inside, sim - obs, 0.0).sum(axis=1) / np.where(total == 0.0, np.nan, total)


def _flv(pair, bottom=0.3):
    sim, obs = pair.descending()
    rank = np.arange(obs.shape[1])
    inside = (rank < pair.n[:, None]) & (rank >= (pair.n - _count(pair.n, bottom))[:, None])
    last = np.maximum(pair.n - 1, 0)[:, None]

    def depth(x):
        logs = _log(x + pair.offset)
        return np.where(inside, logs - np.take_along_axis(logs, last, axis=1), 0.0).sum(axis=1)

    low_s, low_o = depth(sim), depth(obs)
    return -100.0 * (low_s - low_o) / np.where(low_o == 0.0, np.nan, low_o)


@_quiet
def _beta_nse(pair):
    mean_s, mean_o, _, sd_o, _ = pair.moments()
    return (mean_s - mean_o) / sd_o


@_quiet
def _fms(pair, upper=0.2, lower=0.7):
    def drop(x):
        at = [np.minimum(_count(pair.n, share), np.maximum(pair.n - 1, 0))[:, None] for share in (upper, lower)]
        high, low = (_log(np.take_along_axis(x, i, axis=1) + pair.offset)[:, 0] for i in at)
        return high - low

    drop_s, drop_o = (drop(x) for x in pair.descending())
    return 100.0 * (drop_s - drop_o) / np.where(drop_o == 0.0, np.nan, drop_o)


@_quiet
def _peak_timing(pair):
    return pair.peak_errors()[0]


@_quiet
def _peak_error(pair):
    return pair.peak_errors()[1]


def nse(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Nash-Sutcliffe efficiency, ``1 - sum (sim - obs)^2 / sum (obs - mean(obs))^2``, over the valid steps.

    The mean is that of the observations of the scored steps themselves.

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        Simulated and observed flow, mm per step; NaN in `obs` is a missing step.

    Returns
    -------
    numpy.ndarray, [B], float64
        At most 1; NaN where the observations have no variance or the simulation failed on a scored step.

    Raises
    ------
    TypeError, ValueError
        If a shape, dtype or value is not as stated (every score of this module raises the same).

    Notes
    -----
    Nash and Sutcliffe 1970, J. Hydrol. 10:282.
    """
    return _nse(_Pair(sim, obs))


def nse_sqrt(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """NSE of ``sqrt(flow + mean(obs)/100)``, [B]; otherwise as `nse`."""
    return _nse_sqrt(_Pair(sim, obs))


def nse_log(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """NSE of ``ln(flow + mean(obs)/100)``, [B]; otherwise as `nse` (Pushpalatha et al. 2012)."""
    return _nse_log(_Pair(sim, obs))


def kge(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Kling-Gupta efficiency of 2009, ``1 - sqrt((r-1)^2 + (alpha-1)^2 + (beta-1)^2)``.

    ``r`` is Pearson's correlation, ``alpha`` the ratio of standard deviations, ``beta`` that of means (sim /
    obs). A constant simulation has ``r = 0`` and ``alpha = 0``, so that the observed mean scores ``1 -
    sqrt(2)`` (Knoben et al. 2019).

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        Simulated and observed flow, mm per step; NaN in `obs` is a missing step.

    Returns
    -------
    numpy.ndarray, [B], float64
        At most 1; NaN where the observations have no variance or zero mean, or the simulation failed.

    Notes
    -----
    Gupta et al. 2009, J. Hydrol. 377:80.
    """
    return _kge(_Pair(sim, obs))


def kge_r(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Pearson's correlation, [B]; 0 for a constant simulation, NaN for constant observations."""
    return _kge_r(_Pair(sim, obs))


def kge_alpha(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Ratio of standard deviations sim / obs, [B]; NaN for constant observations."""
    return _kge_alpha(_Pair(sim, obs))


def kge_beta(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Ratio of means sim / obs, [B]; NaN where the mean of the observations is zero."""
    return _kge_beta(_Pair(sim, obs))


def kge_2012(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Kling-Gupta efficiency of 2012: as `kge` with the ratio of coefficients of variation in place of alpha.

    A simulation of zeros, which has no coefficient of variation, is given the ratio 0 of any other constant.
    Kling et al. 2012, J. Hydrol. 424:264.
    """
    return _kge_2012(_Pair(sim, obs))


def pbias(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Bias of volume, ``100 sum(sim - obs) / sum(obs)``, percent, [B]; positive if too much is simulated."""
    return _pbias(_Pair(sim, obs))


def fhv(sim: ArrayLike, obs: ArrayLike, top: float = 0.02) -> np.ndarray:
    """Bias of the high-flow segment of the flow duration curve, percent, [B].

    ``100 sum_h (QS_h - QO_h) / sum_h QO_h`` over ``h = 1..H``, with both series sorted, each for itself,
    largest first, and ``H`` the number of valid steps times `top` (rounded, at least one). Yilmaz et al. 2008,
    Water Resour. Res. 44:W09417 (there %BiasFHV, exceedance probability below 0.02).

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        mm per step.
    top : float
        Share of the steps, in (0, 1].

    Returns
    -------
    numpy.ndarray, [B], float64
        NaN where the observed sum is zero or the simulation failed.
    """
    _share("top", top)
    return _quiet(lambda pair: _fhv(pair, top))(_Pair(sim, obs))


def flv(sim: ArrayLike, obs: ArrayLike, bottom: float = 0.3) -> np.ndarray:
    """Bias of the low-flow segment of the flow duration curve in log space, percent, [B].

    ``-100 (sum_l [ln QS_l - ln QS_L] - sum_l [ln QO_l - ln QO_L]) / sum_l [ln QO_l - ln QO_L]`` over the
    lowest `bottom` of the valid steps (rounded, at least one), both series sorted, each for itself, ``L`` the
    index of the lowest flow. Yilmaz et al. 2008, Water Resour. Res. 44:W09417 (there %BiasFLV, exceedance 0.7
    to 1).

    Zeros: ``mean(obs) / 100`` is added to both series before the logarithm, as in `nse_log`; no step is
    dropped. With zeros in the record the value depends on that choice, so compare it only with scores made
    the same way.

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        mm per step.
    bottom : float
        Share of the steps, in (0, 1].

    Returns
    -------
    numpy.ndarray, [B], float64
        Positive where the simulated low flows vary less than the observed ones. NaN where the observed low
        flows are all equal (a river dry for 30 % of the time) or the simulation failed.
    """
    _share("bottom", bottom)
    return _quiet(lambda pair: _flv(pair, bottom))(_Pair(sim, obs))


def fms(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Bias of the slope of the flow duration curve's middle, percent, [B].

    ``100 (DS - DO) / DO`` with ``D = ln Q_20 - ln Q_70``, flows that are exceeded in 20 and 70 % of the steps, and with
    ``mean(obs) / 100`` added as in `flv`. Yilmaz et al. 2008, Water Resour. Res. 44:W09417 (there %BiasFMS).

    Returns
    -------
    numpy.ndarray, [B], float64
        Positive where the simulated curve is steeper: a flashier river. NaN where the observed one is flat there.
    """
    return _fms(_Pair(sim, obs))


def beta_nse(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Bias over the observed standard deviation, ``(mean s - mean o) / sd o``, [B]: with `kge_alpha` and `kge_r` the
    parts of NSE, ``2 alpha r - alpha^2 - beta_nse^2`` (Gupta et al. 2009)."""
    return _beta_nse(_Pair(sim, obs))


def peak_timing(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Mean absolute error of the time of flood peaks, steps, [B]; NaN without a peak.

    Observed peaks are those of `score.peaks`; the simulated one is at the same step where the simulation has a peak
    there, else where it is largest within 3 steps on either side. Kratzert et al. 2021, doi
    10.5194/hess-25-2685-2021.
    """
    return _peak_timing(_Pair(sim, obs))


def peak_error(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Mean absolute error at the observed flood peaks over their height, percent, [B]; NaN without a peak.

    The peaks are those of `peak_timing`; the simulation is taken at the step of the observed peak.
    """
    return _peak_error(_Pair(sim, obs))


def n_valid(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Number of scored steps, [B], int64."""
    return _Pair(sim, obs).n.astype(np.int64)


def n_nonfinite(sim: ArrayLike, obs: ArrayLike) -> np.ndarray:
    """Number of scored steps on which the simulation is not finite, [B], int64: where not 0, the basin has failed."""
    return _Pair(sim, obs).n_nonfinite.astype(np.int64)


_FLOWS: dict[str, Callable] = {"sqrt q": np.sqrt, "log q": _log, "1/q": lambda x: 1.0 / np.where(x > 0.0, x, np.nan)}


def of_loss(sim: ArrayLike, obs: ArrayLike, loss: str) -> np.ndarray:
    """The weighted sum of scores of a loss such as ``"0.5*kge(q)+0.5*kge(sqrt q)"``, [B]; see `score.formula`.

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        As for `nse`.
    loss : str
        Of "nse", "kge", "nse_sqrt" and "nse_log".

    Raises
    ------
    ValueError
        If it is no such sum.
    """
    functions = {"nse": _nse, "kge": _kge, "nse_sqrt": _nse_sqrt, "nse_log": _nse_log}
    pair = _Pair(sim, obs)
    return sum(
        term.weight * functions[term.name](_of_flow(pair, term.flow))
        for term in terms(loss, tuple(functions), ("nse", "kge"))
    )


def _of_flow(pair, flow):
    """The pair of transformed flows."""
    if flow == "q":
        return pair
    other = copy.copy(pair)
    with np.errstate(invalid="ignore"):  # a root of what is below 0
        other.obs, other.sim = (np.where(pair.mask, _FLOWS[flow](x + pair.offset), 0.0) for x in (pair.obs, pair.sim))
    other._cache = {}
    return other


def _share(name, value):
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name} must be a share of the steps in (0, 1], found {value}: two percent are 0.02.")


def score(sim: ArrayLike, obs: ArrayLike) -> dict[str, np.ndarray]:
    """All scores of every basin.

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        Simulated and observed flow over the scored period (without warm-up), mm per step; NaN in `obs` is a missing
        step.

    Returns
    -------
    dict of str to numpy.ndarray
        For each of `NAMES` an array [B]: float64, the counts int64. See the functions of the same names.

    Raises
    ------
    TypeError, ValueError
        If shapes differ or are not [T, B], a dtype is not real, or `obs` holds an infinite value.
    """
    pair = _Pair(sim, obs)
    functions = {
        "nse": _nse,
        "kge": _kge,
        "kge_r": _kge_r,
        "kge_alpha": _kge_alpha,
        "kge_beta": _kge_beta,
        "kge_2012": _kge_2012,
        "pbias": _pbias,
        "fhv": _quiet(_fhv),
        "flv": _quiet(_flv),
        "nse_sqrt": _nse_sqrt,
        "nse_log": _nse_log,
        "beta_nse": _beta_nse,
        "fms": _fms,
        "peak_timing": _peak_timing,
        "peak_error": _peak_error,
    }
    out = {name: function(pair) for name, function in functions.items()}
    out["n_valid"], out["n_nonfinite"] = pair.n.astype(np.int64), pair.n_nonfinite.astype(np.int64)
    return out


def unscored(scores: Mapping[str, ArrayLike] | xr.Dataset, name: str = "nse") -> np.ndarray:
    """Whether each basin has no score for want of observations, or of variance in them, ``[B]`` bool.

    Parameters
    ----------
    scores : mapping of str to array_like, [B]
        As `score` returns them. Without `n_nonfinite`, a basin without score that has observations counts as failed;
        without `n_valid` too, every basin without score does.
    name : str
        Of the score.
    """
    missing = np.isnan(np.asarray(scores[name], dtype=np.float64))
    if "n_nonfinite" in scores:
        return missing & ~(np.asarray(scores["n_nonfinite"]) > 0)
    return missing & (np.asarray(scores["n_valid"]) == 0) if "n_valid" in scores else np.zeros_like(missing)


def summary(scores: Mapping[str, ArrayLike]) -> dict[str, dict[str, float]]:
    """Medians of a table of scores, with the numbers of basins that have none, by why.

    Parameters
    ----------
    scores : mapping of str to array_like, [B]
        As `score` returns them; `n_valid` and `n_nonfinite` tell why a basin has no score (see `unscored`), and are
        not summarised themselves.

    Returns
    -------
    dict of str to dict
        For each score: ``median``, ``median_defined``, ``n`` (basins asked for), ``n_failed`` (the simulation is not
        finite on a scored step) and ``n_unscored`` (the observations have no such score). For the efficiencies
        (`EFFICIENCIES`) ``median`` ranks a failed basin below every number, so that failures cannot raise it, and is
        NaN if half of the basins or more failed; biases and ratios have no worst end, there it equals
        ``median_defined``. Basins that are not scored have no part in either. ``median_defined`` is over the basins
        that have the score: it is never to be quoted without ``n_failed``.

    Raises
    ------
    ValueError
        If the arrays are not one-dimensional, are empty or differ in length.
    """
    out, length = {}, None
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    for name, values in columns.items():
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"scores[{name!r}] must be [B] with B >= 1, found shape {values.shape}: one per basin.")
        if length is not None and values.size != length:
            raise ValueError(
                f"scores[{name!r}] must hold {length} basins like the scores before it, found "
                f"{values.size}: keep the basins that failed, as NaN."
            )
        length = values.size
    for name, values in columns.items():
        if name in _COUNTS:
            continue
        missing, apart = np.isnan(values), unscored(columns, name)
        failed = missing & ~apart
        defined = float(np.median(values[~missing])) if not missing.all() else float("nan")
        median = defined
        if name in EFFICIENCIES and failed.any():
            median = float(np.median(np.where(failed, -np.inf, values)[~apart]))
            median = median if np.isfinite(median) else float("nan")
        out[name] = {
            "median": median,
            "median_defined": defined,
            "n": values.size,
            "n_failed": int(failed.sum()),
            "n_unscored": int(apart.sum()),
        }
    return out
