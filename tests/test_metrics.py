"""Metrics against numbers worked out by hand and against the definitions written out basin by basin."""

import math
import time

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from hybridsolve.score import metrics

NAN = float("nan")


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def flows(days=400, basins=5, missing=0.05, seed=0):
    rng = np.random.default_rng(seed)
    obs = rng.gamma(0.7, 2.0, (days, basins))
    obs[rng.random(obs.shape) < 0.03] = 0.0
    sim = obs * rng.lognormal(0.0, 0.4, obs.shape) + 0.05
    obs[rng.random(obs.shape) < missing] = NAN
    return sim, obs


def test_nse_by_hand():
    # mean(obs) = 2.5, total 5, squared errors 1 + 0 + 1 + 0.
    assert metrics.nse(column(2, 2, 4, 4), column(1, 2, 3, 4))[0] == pytest.approx(1 - 2 / 5)


def test_nse_takes_mean_of_valid_days_only():
    # The valid observations are 1 and 3 (mean 2, total 2); the simulation of the missing day does not count.
    assert metrics.nse(column(1, 99, 2), column(1, NAN, 3))[0] == pytest.approx(1 - 1 / 2)


def test_kge_by_hand():
    obs = column(1, 2, 3, 4)
    # Twice the observations: r = 1, alpha = 2, beta = 2; the ratio of coefficients of variation is 1.
    assert metrics.kge(2 * obs, obs)[0] == pytest.approx(1 - math.sqrt(2))
    assert metrics.kge_2012(2 * obs, obs)[0] == pytest.approx(0.0)
    # Reversed: r = -1, the rest perfect.
    assert metrics.kge(obs[::-1], obs)[0] == pytest.approx(-1.0)
    # Shifted by 2.5: r = alpha = 1, beta = 2, ratio of coefficients of variation 1/2.
    assert metrics.kge(obs + 2.5, obs)[0] == pytest.approx(0.0)
    assert metrics.kge_2012(obs + 2.5, obs)[0] == pytest.approx(1 - math.sqrt(0.25 + 1.0))


def test_constant_simulation_is_the_mean_flow_benchmark():
    obs = column(1, 2, 3, 4)
    mean = np.full_like(obs, 2.5)
    assert metrics.kge(mean, obs)[0] == pytest.approx(1 - math.sqrt(2))
    assert metrics.kge_r(mean, obs)[0] == 0.0
    assert metrics.nse(mean, obs)[0] == pytest.approx(0.0)
    assert metrics.kge_2012(0 * obs, obs)[0] == pytest.approx(1 - math.sqrt(3))


def test_pbias_by_hand():
    assert metrics.pbias(column(1, 50, 5), column(2, NAN, 3))[0] == pytest.approx(20.0)


def test_fhv_by_hand():
    obs, sim = np.arange(1.0, 101.0)[:, None], np.arange(1.0, 101.0)[::-1, None].copy()
    sim[sim == 100] = 130.0
    # Two of a hundred days: 130 + 99 against 100 + 99, wherever in time they stand.
    assert metrics.fhv(sim, obs)[0] == pytest.approx(100 * 30 / 199)
    # With 25 valid days half a day is one: the largest.
    assert metrics.fhv(obs[:25] * 1.5, obs[:25])[0] == pytest.approx(50.0)


def test_flv_by_hand():
    obs = column(*np.arange(1.0, 11.0))
    sim = obs**2
    # The lowest three of ten days are 1, 2, 3 and 1, 4, 9; both get mean(obs)/100 = 0.055 added.
    low_o = sum(math.log((q + 0.055) / 1.055) for q in (1, 2, 3))
    low_s = sum(math.log((q + 0.055) / 1.055) for q in (1, 4, 9))
    assert metrics.flv(sim, obs)[0] == pytest.approx(-100 * (low_s - low_o) / low_o)
    assert metrics.flv(np.full_like(obs, 3.0), obs)[0] == pytest.approx(100.0)


def test_flv_with_zeros_is_defined_and_a_dry_river_has_none():
    assert np.isfinite(metrics.flv(column(*range(10)), column(*range(10)))[0])
    dry = column(*([0.0] * 5 + [1.0] * 5))
    assert np.isnan(metrics.flv(dry, dry)[0])


def test_log_and_root_variants_by_hand():
    sim, obs = column(0, 2, 3), column(0, 1, 2)
    for function, f in ((metrics.nse_log, np.log), (metrics.nse_sqrt, np.sqrt)):
        s, o = f(sim + 0.01), f(obs + 0.01)
        assert function(sim, obs)[0] == pytest.approx(1 - ((s - o) ** 2).sum() / ((o - o.mean()) ** 2).sum())
        gap = function(np.insert(sim, 1, 9, axis=0), np.insert(obs, 1, NAN, axis=0))
        assert gap[0] == pytest.approx(function(sim, obs)[0], rel=1e-12)
    assert np.isnan(metrics.nse_log(column(-0.01, 2, 3), obs)[0])


def test_score_equals_each_basin_alone_and_each_function():
    sim, obs = flows()
    scores = metrics.score(sim, obs)
    assert tuple(scores) == metrics.NAMES
    for name, values in scores.items():
        assert values.shape == (5,)
        np.testing.assert_array_equal(values, getattr(metrics, name)(sim, obs))
        for b in range(5):
            # Whether a gap is near by matters to peaks; to the others it is as if missing steps were not there.
            keep = slice(None) if name.startswith("peak") else ~np.isnan(obs[:, b])
            alone = metrics.score(sim[keep, b : b + 1], obs[keep, b : b + 1])[name][0]
            np.testing.assert_allclose(values[b], alone, rtol=1e-11)


def test_correlation_equals_numpy():
    sim, obs = flows()
    for b in range(5):
        keep = ~np.isnan(obs[:, b])
        r = np.corrcoef(sim[keep, b], obs[keep, b])[0, 1]
        assert metrics.kge_r(sim, obs)[b] == pytest.approx(r, rel=1e-12)


def test_float32_is_scored_in_float64():
    sim, obs = flows()
    sim, obs = sim.astype(np.float32) + 1000, obs.astype(np.float32) + 1000
    np.testing.assert_array_equal(metrics.nse(sim, obs), metrics.nse(sim.astype(np.float64), obs.astype(np.float64)))


@pytest.mark.parametrize("value", [NAN, np.inf])
def test_a_failed_simulation_is_never_masked(value):
    sim, obs = flows()
    day = np.flatnonzero(~np.isnan(obs[:, 2]))[7]
    sim[day, 2] = value
    for name, values in metrics.score(sim, obs).items():
        if name not in ("n_valid", "n_nonfinite"):
            assert np.isnan(values[2]) and np.isfinite(np.delete(values, 2)).all(), name


def test_nan_on_a_missing_day_does_not_matter():
    sim, obs = flows()
    want = metrics.score(sim, obs)
    sim[np.isnan(obs)] = NAN
    for name, values in metrics.score(sim, obs).items():
        np.testing.assert_array_equal(values, want[name])


def test_no_variance_and_no_observations_give_nan():
    # A mean of 0.1 over 7 days is not 0.1 in binary: the variance comes out as 1e-34, not as zero.
    constant, empty = np.full((7, 1), 0.1), np.full((7, 1), NAN)
    sim = np.random.default_rng(0).random((7, 2))
    with np.errstate(all="raise"):
        scores = metrics.score(sim, np.hstack([constant, empty]))
    for name in ("nse", "kge", "kge_r", "kge_alpha", "kge_2012", "nse_sqrt", "nse_log", "flv"):
        assert np.isnan(scores[name]).all(), name
    assert np.isfinite(scores["pbias"][0]) and np.isnan(scores["pbias"][1])
    assert scores["n_valid"].tolist() == [7, 0]


def test_summary_tells_failed_from_not_scored():
    table = {"nse": [0.5, NAN, 0.7, 0.9, NAN, NAN], "pbias": [1.0, NAN, 3.0, 8.0, NAN, 2.0]}
    counts = {"n_valid": [5, 4, 6, 7, 0, 3], "n_nonfinite": [0, 1, 0, 0, 0, 0]}
    # The failed basin is ranked last: -, 0.5, 0.7, 0.9. One has no observation, and one no variance in them.
    got = metrics.summary(table | counts)
    assert got["nse"] == dict(median=pytest.approx(0.6), median_defined=0.7, n=6, n_failed=1, n_unscored=2)
    assert got["pbias"] == dict(median=2.5, median_defined=2.5, n=6, n_failed=1, n_unscored=1)
    # What is not known is not excused.
    assert metrics.summary({"nse": table["nse"]})["nse"]["n_failed"] == 3
    assert metrics.summary({"nse": table["nse"], "n_valid": counts["n_valid"]})["nse"]["n_unscored"] == 1
    half = metrics.summary({"nse": [NAN, 0.5]})["nse"]
    assert math.isnan(half["median"]) and half["median_defined"] == 0.5
    with pytest.raises(ValueError, match="must hold 2 basins"):
        metrics.summary({"nse": [1, 2], "kge": [1]})


def test_a_basin_without_observations_is_no_worst_score():
    sim, obs = flows(60, 5, missing=0)
    want = metrics.summary(metrics.score(sim[:, :3], obs[:, :3]))["nse"]["median"]
    obs[:, 3], obs[:, 4] = NAN, 0.1
    got = metrics.summary(metrics.score(sim, obs))["nse"]
    assert (got["median"], got["n_failed"], got["n_unscored"]) == (want, 0, 2)
    sim[3, 1] = NAN
    got = metrics.summary(metrics.score(sim, obs))["nse"]
    assert got["median"] < want and (got["n_failed"], got["n_unscored"]) == (1, 2)


def test_masked_days_are_missing():
    sim, obs = flows(60, 3, missing=0)
    gaps = obs.copy()
    gaps[5:9, 1] = NAN
    masked = np.ma.masked_array(np.where(np.isnan(gaps), 1e20, gaps), np.isnan(gaps))
    for name, values in metrics.score(sim, masked).items():
        np.testing.assert_array_equal(values, metrics.score(sim, gaps)[name])
    whole = np.ma.masked_equal(np.array([[1], [-99], [3], [4]]), -99)  # whole numbers have no NaN
    assert metrics.nse(column(1, 50, 3, 5), whole)[0] == metrics.nse(column(1, 50, 3, 5), column(1, NAN, 3, 4))[0]
    failed = np.ma.masked_array(sim, np.zeros_like(sim, dtype=bool))
    failed[4, 2] = np.ma.masked
    assert metrics.n_nonfinite(failed, obs).tolist() == [0, 0, 1] and np.isnan(metrics.nse(failed, obs)[2])


def series(values, days=None, basins=None):
    days = pd.date_range("2000-01-01", periods=len(values)) if days is None else days
    basins = [f"b{i}" for i in range(values.shape[1])] if basins is None else basins
    return xr.DataArray(values, coords={"time": days, "basin": basins}, dims=("time", "basin"))


def test_labelled_series_are_turned_round():
    sim, obs = flows(4, 4, missing=0)
    want = metrics.nse(sim, obs)
    a, b = series(sim), series(obs)
    for one in (a, a.T, a.rename(time="date", basin="gauge").T, a.to_pandas(), a.to_pandas().T, sim, torch.tensor(sim)):
        for other in (b, b.T, b.drop_vars(["time", "basin"]).T, b.to_pandas().T, obs):
            np.testing.assert_array_equal(metrics.nse(one, other), want)
    table = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64")})
    assert metrics.n_valid(np.ones((3, 1)), table).tolist() == [2]
    tracked = torch.tensor(sim, requires_grad=True)
    np.testing.assert_array_equal(metrics.nse(tracked, obs), want)
    np.testing.assert_allclose(metrics.nse(tracked.bfloat16(), obs), want, rtol=0.05)


OTHER_LABELS = {
    "basins in another order": (lambda x: x[:, ::-1], "the same basins in the same order, found b0 and b3 at place 0"),
    "days in another order": (lambda x: x[::-1], "the same steps in the same order, found 2000-01-01"),
    "other days": (lambda x: x.assign_coords(time=x.time + np.timedelta64(1, "D")), "the same steps"),
    "other basins": (lambda x: x.assign_coords(basin=list("wxyz")), "found b0 and w at place 0"),
    "a frame of others": (lambda x: x[:, ::-1].to_pandas(), "the same basins"),
    "more than two dims": (lambda x: x.expand_dims("member"), r"obs must be \[T, B\]"),
    "a frame of text": (lambda x: x.to_pandas().astype(str), "obs must hold real numbers, found dtype object"),
    "text": (lambda x: x.astype(str), "must hold real numbers"),
}


@pytest.mark.parametrize(("change", "words"), OTHER_LABELS.values(), ids=OTHER_LABELS)
def test_series_of_other_labels_are_refused(change, words):
    sim, obs = flows(4, 4, missing=0)
    with pytest.raises((TypeError, ValueError), match=words):
        metrics.nse(series(sim), change(series(obs)))


def test_dims_that_nobody_can_order_are_refused():
    values = np.ones((3, 3))
    with pytest.raises(ValueError, match="must have the same dims"):
        metrics.nse(xr.DataArray(values, dims=("a", "b")), xr.DataArray(values, dims=("b", "a")))


@pytest.mark.parametrize(
    ("sim", "obs", "words"),
    [
        (np.ones((3, 2)), np.ones((3, 1)), "same shape"),
        (np.ones(3), np.ones(3), r"sim must be \[T, B\]"),
        (np.ones((0, 2)), np.ones((0, 2)), "at least one step"),
        (np.ones((2, 2)), np.array([[1, 1], [1, np.inf]]), "basin 1 on step 1"),
    ],
)
def test_errors_name_the_thing(sim, obs, words):
    with pytest.raises(ValueError, match=words):
        metrics.score(sim, obs)


def test_speed_of_all_camels_basins():
    sim, obs = flows(3653, 671)
    start = time.process_time()
    metrics.score(sim, obs)
    assert time.process_time() - start < 3.0


def storms(*heights, apart=120, late=0):
    """Triangles of these heights, and the same some steps later."""
    x = np.zeros(apart * (len(heights) + 1))
    for i, height in enumerate(heights, 1):
        x[i * apart + late - 2 : i * apart + late + 3] = height * np.array([0.3, 0.6, 1.0, 0.6, 0.3])
    return x[:, None]


def test_peaks_by_hand():
    obs = storms(10, 8, 9)
    assert metrics.peak_timing(obs, obs)[0] == 0 and metrics.peak_error(obs, obs)[0] == 0
    # Two steps late: at the observed peaks the simulation has 0.3 of its own.
    late = storms(10, 8, 9, late=2)
    assert metrics.peak_timing(late, obs)[0] == 2
    assert metrics.peak_error(late, obs)[0] == pytest.approx(70)
    # Later than the window: what is largest within it is its end.
    assert metrics.peak_timing(storms(10, 8, 9, late=4), obs)[0] == 3
    assert metrics.peak_error(storms(5, 8, 18), obs)[0] == pytest.approx((50 + 0 + 100) / 3)
    # A peak with a missing day beside it does not count, nor do three that are one flood, nor ripples.
    gap = obs.copy()
    gap[122] = NAN
    assert metrics.peak_error(storms(5, 8, 18), gap)[0] == pytest.approx((0 + 100) / 2)
    assert np.isnan(metrics.peak_timing(late, np.ones_like(obs))[0])
    assert np.isnan(metrics.peak_timing(np.where(obs == 10, NAN, obs), obs)[0])
    close = storms(10, 8, 9, apart=40)
    assert metrics.peak_error(storms(20, 1, 9, apart=40), close)[0] == pytest.approx(100)


def test_middle_slope_and_bias_by_hand():
    obs = np.exp(np.linspace(0, -3, 101))[:, None]
    e = obs.mean() / 100
    drop = np.log(obs[20, 0] + e) - np.log(obs[71, 0] + e)  # 0.7 * 101 rounds to 71
    assert metrics.fms(obs, obs)[0] == 0
    steep = np.exp(np.linspace(0, -6, 101))[:, None]
    expected = np.log(steep[20, 0] + e) - np.log(steep[71, 0] + e)
    assert metrics.fms(steep[::-1], obs)[0] == pytest.approx(100 * (expected / drop - 1))
    assert np.isnan(metrics.fms(obs, np.where(obs > 0.9, obs, 0.1))[0])  # one flow from a tenth of the steps on
    sim, obs = flows()
    alpha, r, beta = (getattr(metrics, name)(sim, obs) for name in ("kge_alpha", "kge_r", "beta_nse"))
    np.testing.assert_allclose(2 * alpha * r - alpha**2 - beta**2, metrics.nse(sim, obs))
