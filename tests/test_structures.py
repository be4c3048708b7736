"""Several models on the same basins: weights, intervals, benchmarks, and choices that never see the test years."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.optimize import minimize
from test_plot import texts

import hybridsolve as hs
from hybridsolve import cli, plot
from hybridsolve.calibration import comparison_report, structures
from hybridsolve.calibration.search import LeastSquaresSearch
from hybridsolve.data import write_netcdf
from hybridsolve.score import metrics
from hybridsolve.score.averaging import simplex_weights
from hybridsolve.score.benchmarks import climatology, persistence
from hybridsolve.score.uncertainty import LEAST_YEARS, nse_differences, years_since

pytestmark = pytest.mark.filterwarnings(
    "ignore:after the warm-up", "ignore:the data begin less", "ignore:flow does not respond", "ignore:flow rises"
)
PERIODS = dict(train="2000-10-01:2006-09-30", validation="1994-10-01:2000-09-30", test="2006-10-01:2014-09-30")
TIME = xr.DataArray(pd.date_range("1994-10-01", "2014-09-30"), dims="time", name="time")
NAN = float("nan")


def made(errors, basins=5, seed=0):
    """Observations with gaps, and simulations of several models that err by so much: ``[T, B]`` and ``[M, T, B]``."""
    draw = np.random.default_rng(seed)
    obs = draw.gamma(0.8, 2.0, (len(TIME), basins)).astype(np.float32)
    sim = np.stack([obs + e * draw.normal(size=obs.shape).astype(np.float32) for e in errors])
    obs[draw.random(obs.shape) < 0.05] = np.nan
    return obs, sim


def results(obs, sim, names, **changes):
    """What `calibrate` gives, as far as a comparison reads it."""
    out = {}
    for name, flow in zip(names, sim, strict=True):
        ds = xr.Dataset(coords={"time": TIME, "basin": [f"b{i}" for i in range(obs.shape[1])]})
        ds = ds.assign_coords(lat=("basin", np.linspace(40, 50, obs.shape[1])), lon=("basin", np.arange(obs.shape[1])))
        ds["flow"] = (("member", "time", "basin"), np.stack([flow, flow + 1]), {"units": "mm d-1"})
        ds = ds.assign_coords(member=["best", "ensemble"])
        ds["obs"] = (("time", "basin"), obs.copy(), {"units": "mm d-1"})
        ds["train_loss"] = (("basin", "start"), np.zeros((obs.shape[1], 2)))
        attrs = dict(model=name, citation=f"data; {name}", loss="nse", starts=2, seed=0, warmup_years=1.0)
        out[name] = ds.assign_attrs(attrs | {f"{p}_period": x for p, x in (PERIODS | changes).items()})
    return out


def days(period):
    return ((TIME >= np.datetime64(period[:10])) & (TIME <= np.datetime64(period[11:]))).values


def squared_error(w, sim, obs):
    seen = ~np.isnan(obs)
    return float((((w[:, None] * sim.astype(np.float64)).sum(0) - obs)[seen] ** 2).mean())


def test_weights_are_of_least_squared_error():
    obs, sim = made((0.5, 0.6, 2.0, 0.55))
    sim[3] = 0.7 * sim[0] + 0.3 * sim[3]  # errs as the first does
    weights = simplex_weights(sim, obs)
    assert (weights >= 0).all() and (weights == 0).any() and np.abs(weights.sum(0) - 1).max() < 1e-12
    for b in range(obs.shape[1]):
        error = squared_error(weights[:, b], sim[:, :, b], obs[:, b])
        found = minimize(
            squared_error,
            np.full(4, 0.25),
            (sim[:, :, b], obs[:, b]),
            bounds=[(0, 1)] * 4,
            constraints=dict(type="eq", fun=lambda w: w.sum() - 1),
        )
        assert error <= found.fun * (1 + 1e-9) and abs(error / found.fun - 1) < 1e-4


def test_errors_without_covariance_weigh_by_their_variance():
    """Bates and Granger: by the reciprocals of the variances."""
    even = np.arange(100)[:, None] % 2 == 0
    obs = np.ones((100, 2))
    sim = obs + np.stack([np.where(even, 1.0, 0.0), np.where(even, 0.0, 2.0)])
    np.testing.assert_allclose(simplex_weights(sim, obs), [[0.8, 0.8], [0.2, 0.2]], atol=1e-12)


def test_weights_where_there_is_little_to_go_by():
    obs, sim = made((0.5, 0.6, 0.7), basins=5)
    obs[:, 0] = np.nan  # nothing to fit on
    sim[1, 7, 1], obs[7, 1] = np.inf, 1.0  # one model fails
    sim[:, 7, 2], obs[7, 2] = np.nan, 1.0  # all fail
    sim[:, :, 3] = np.nan_to_num(obs[:, 3])  # none errs
    sim[1, :, 4] = sim[0, :, 4]  # two are one
    weights = simplex_weights(sim, obs)
    np.testing.assert_array_equal(weights[:, [0, 3]], 1 / 3)
    assert weights[1, 1] == 0 and weights[:, 1].sum() == 1
    assert np.isnan(weights[:, 2]).all() and np.isfinite(weights[:, 4]).all()


def test_intervals_are_those_of_the_draws_themselves():
    obs, sim = made((0.5, 0.6, 0.61), basins=3)
    rows = days(PERIODS["test"])
    obs, sim, time = obs[rows], sim[:, rows], TIME[rows]
    years = years_since(time)
    assert np.bincount(years).tolist() == [365, 366, 365, 365, 365, 366, 365, 365]
    difference, lower, upper = nse_differences(sim, obs, years, resamples=200, seed=3)
    nse = np.stack([metrics.nse(x, obs) for x in sim])
    np.testing.assert_allclose(difference, nse[:, None] - nse[None], atol=1e-12)
    draws, found = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), 200), []
    for draw in draws:
        steps = np.concatenate([np.flatnonzero(years == y) for y in range(8) for _ in range(draw[y])])
        found.append(metrics.nse(sim[0][steps], obs[steps]) - metrics.nse(sim[1][steps], obs[steps]))
    tail = 0.005749  # normal probability of sqrt(8/7) times Student's 2.5 % quantile of 7 degrees, -2.3646
    for bound, share in ((lower, tail), (upper, 1 - tail)):
        np.testing.assert_allclose(bound[0, 1], np.quantile(found, share, axis=0), atol=1e-5)
    np.testing.assert_allclose(lower[1, 0], -upper[0, 1])
    assert (lower[0, 1] > 0).all() and (lower[1, 2] < 0).all() and (lower <= upper).all()


def test_models_alike_are_seldom_apart():
    """Of equal errors one interval in twenty lies beside 0, not one in eight as by plain percentiles of ten years."""
    obs, sim = made((0.5, 0.5), basins=400, seed=5)
    rows = slice(0, 3652)
    _, lower, upper = nse_differences(sim[:, rows], obs[rows], years_since(TIME[rows]), resamples=500)
    assert ((lower[0, 1] > 0) | (upper[0, 1] < 0)).mean() < 0.085


def test_no_interval_of_few_years_or_of_what_failed():
    obs, sim = made((0.5, 5.0), basins=3)
    obs[365 * (LEAST_YEARS - 1) :, 0] = np.nan
    sim[1, 5, 1], obs[5, 1] = np.nan, 1.0
    difference, lower, upper = nse_differences(sim, obs, years_since(TIME), resamples=50)
    assert np.isfinite(difference[0, 1, 0]) and np.isnan([lower[0, 1, 0], upper[0, 1, 0]]).all()
    assert np.isnan([difference[0, 1, 1], lower[0, 1, 1]]).all() and lower[0, 1, 2] > 0
    obs[:] = np.where(np.isnan(obs), np.nan, 1.0)
    assert np.isnan(nse_differences(sim, obs, years_since(TIME), resamples=50)[0][0, 1]).all()


def test_what_a_model_must_beat():
    time = xr.DataArray(pd.date_range("2003-01-01", "2005-12-31"), dims="time")
    obs = np.arange(len(time), dtype=float)[:, None]
    obs[365 + 9] = np.nan  # 10 January 2004
    found = climatology(obs, time, (time.dt.year < 2005).values)
    at = {str(day)[:10]: i for i, day in enumerate(time.values)}
    assert found[at["2005-01-09"]] == (8 + 365 + 8) / 2 and found[at["2005-01-10"]] == 9
    assert found[at["2004-02-29"]] == 365 + 59 and found[at["2005-03-01"]] == (59 + 365 + 60) / 2
    assert np.isnan(climatology(obs, time, (time.dt.year < 2004).values)[at["2004-02-29"]])
    hours = xr.DataArray(pd.date_range("2003-01-01", periods=72, freq="h"), dims="time")
    assert climatology(np.arange(72.0)[:, None], hours, np.ones(72, bool))[30] == 30
    np.testing.assert_array_equal(persistence(np.array([[1.0], [NAN], [3.0], [4.0]])), [[NAN], [1], [NAN], [3]])


def test_a_comparison_holds_the_scores_of_all():
    obs, sim = made((0.5, 0.6, 1.2))
    found = hs.compare_structures(results(obs, sim, "abc"), resamples=50)
    test, weight = days(PERIODS["test"]), found["weight"].values
    fitted = days(PERIODS["train"]) | days(PERIODS["validation"])
    np.testing.assert_allclose(weight, simplex_weights(sim[:, fitted], obs[fitted]))
    both = [days(PERIODS["train"]), days(PERIODS["validation"])]
    best = np.mean([[metrics.nse(x[rows], obs[rows]) for x in sim] for rows in both], axis=0).argmax(0)
    assert (found["choice"].values == np.array(list("abc"))[best]).all()
    flows = dict(zip("abc", sim, strict=True)) | {
        "mean": sim.mean(0),
        "weighted": (weight[:, None] * sim).sum(0),
        "chosen": np.take_along_axis(sim, best[None, None], 0)[0],
    }
    for name, flow in flows.items():
        expected = metrics.kge(flow[test], obs[test])
        np.testing.assert_allclose(found["kge"].sel(period="test", candidate=name), expected, atol=1e-6)
    train = days(PERIODS["train"])
    known = climatology(obs, TIME, train)[test]
    expected = metrics.nse(known, np.where(np.isnan(known), np.nan, obs[test]))
    np.testing.assert_allclose(found["nse"].sel(period="test", candidate="climatology"), expected)
    before = np.concatenate([[np.full(5, NAN)], obs[:-1]])[test]
    expected = metrics.nse(before, np.where(np.isnan(before), np.nan, obs[test]))
    np.testing.assert_allclose(found["nse"].sel(period="test", candidate="persistence"), expected)
    assert found.attrs["best_single"] == "a" and found.attrs["citation"] == "data; a; b; c"
    assert (found["winner"] == "a").all() and (
        found["nse"].sel(candidate="mean") > found["nse"].sel(candidate="a")
    ).all()
    other = hs.compare_structures(results(obs, sim, "abc"), member="ensemble", resamples=50)
    assert (other["nse"].sel(candidate="a") < found["nse"].sel(candidate="a")).all()


@pytest.mark.parametrize("overlap", (False, True))
def test_choices_do_not_see_the_test_years(overlap):
    """Nor where the test period shares days with validation, by whose other days the choice then is."""
    shared = dict(test="1999-10-01:2014-09-30", train="1994-10-01:1999-09-30") if overlap else {}
    obs, sim = made((0.5, 0.502, 0.501, 0.5), basins=20)
    before = hs.compare_structures(results(obs, sim, "abcd", **shared), resamples=50)
    test = days((PERIODS | shared)["test"])
    obs[test], sim[:, test] = obs[test][::-1] * 3, sim[::-1, test]
    after = hs.compare_structures(results(obs, sim, "abcd", **shared), resamples=50)
    for name in ("choice", "weight"):
        xr.testing.assert_identical(before[name], after[name])
    assert before.attrs["best_single"] == after.attrs["best_single"]
    assert len(np.unique(before["choice"])) >= 3
    changed = before["nse"].sel(period="test") != after["nse"].sel(period="test")
    assert (
        changed.all()
        and (before["nse"].sel(period="validation") == after["nse"].sel(period="validation")).all() != overlap
    )


def test_what_failed_or_was_left_out():
    obs, sim = made((0.5, 0.6, 0.7), basins=4)
    given = results(obs, sim, "abc")
    given["b"]["train_loss"][0] = np.nan  # left out of one calibration
    late = np.flatnonzero(days(PERIODS["test"]) & ~np.isnan(obs[:, 1]))[0]
    for flow, basin in ((given["a"]["flow"], 1), (given["b"]["flow"], 1)):
        flow[:, late, basin] = np.nan  # two fail in the test period, which no choice sees
    given["a"]["flow"][:, 5, 2] = np.nan
    given["a"]["obs"][5, 2] = given["b"]["obs"][5, 2] = given["c"]["obs"][5, 2] = 1.0  # one fails before
    found = hs.compare_structures(given, resamples=50)
    assert found["left_out"].values.tolist() == [True, False, False, False]
    assert found["choice"].values.tolist() == ["", "a", "b", "a"] and found["winner"].values.tolist()[:2] == ["", "c"]
    assert found["weight"].values[0, 2] == 0 and np.isnan(found["weight"].values[:, 0]).all()
    nse = found["nse"].sel(period="test")
    assert np.isnan(nse.sel(candidate=["mean", "weighted", "chosen"]).values[:, 1]).all()
    assert np.isnan(nse.sel(candidate="mean")[0]) and nse.sel(candidate="weighted")[2] > 0
    assert found["n_nonfinite"].sel(period="test", candidate="mean").values.tolist() == [0, 1, 0, 0]
    said = comparison_report.text(found)
    assert "3 basins (1 left out)" in said


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.pop("b"), "two or more of different names, none called alike; found a"),
        (lambda r: r.update(mean=r["b"]), "none called mean; found a, b, mean"),
        (lambda r: r.update(b=r["b"].isel(basin=[0])), "must have the same basins to be compared; found 5 and 1"),
        (lambda r: r.update(b=r["b"].isel(time=slice(9))), "must have the same times to be compared"),
        (
            lambda r: r["b"].attrs.update(test_period="x"),
            "must have one test_period; found 2006-10-01:2014-09-30 and x",
        ),
        (lambda r: r["b"]["obs"].values.__setitem__((3, 2), 9.0), r"found others in 1 basins \(b2\)"),
    ],
)
def test_what_cannot_be_compared(change, message):
    given = results(*made((0.5, 0.6)), "ab")
    change(given)
    with pytest.raises(ValueError, match=message):
        hs.compare_structures(given)


def test_a_choice_needs_days_of_its_own():
    obs, sim = made((0.5, 0.6))
    with pytest.raises(
        ValueError, match="training or validation.* must have days that the test period has not; found none"
    ):
        hs.compare_structures(results(obs, sim, "ab", test="1994-10-01:2014-09-30"))
    with pytest.raises(ValueError, match="unknown member 'worst'; expected best or ensemble"):
        hs.compare_structures(results(obs, sim, "ab"), member="worst")


def test_the_report_says_what_the_numbers_are(tmp_path):
    obs, sim = made((0.5, 0.6, 1.2))
    found = hs.compare_structures(results(obs, sim, "abc"), resamples=50)
    written = comparison_report.write(found, tmp_path, command="made here")
    assert {path.name for path in written} == set(comparison_report.FILES) - {"test_looks.log"}
    page = (tmp_path / "report.md").read_text()
    median = float(found["nse"].sel(period="test", candidate="weighted").median())
    assert f"| weighted | {median:.3f} |" in page.split("## Scores, test")[1] and "made here" in page
    assert "| c | 0 | 0 |  | 0 |" in page and "![wins](wins.png)" in page and "a 5, b 0, c 0, tie 0" in page
    table = pd.read_csv(tmp_path / "scores.csv", index_col=["basin", "candidate", "period"])
    assert (
        abs(table["nse"]["b2", "mean", "test"] - found["nse"].sel(basin="b2", candidate="mean", period="test")) < 1e-5
    )
    basins = pd.read_csv(tmp_path / "basins.csv", index_col="basin")
    np.testing.assert_allclose(basins["weight_b"], found["weight"].sel(model="b"), atol=1e-5)
    pairs = pd.read_csv(tmp_path / "differences.csv", index_col=["basin", "candidate", "less"])
    expected = found["difference_lower"].sel(compared="a", other="c", basin="b3")
    assert abs(pairs["difference_lower"]["b3", "a", "c"] - expected) < 1e-5 and len(pairs) == 5 * 15
    kept = xr.load_dataset(tmp_path / "comparison.nc")
    np.testing.assert_array_equal(kept["winner"].values, found["winner"].values)
    assert xr.load_dataset(tmp_path / "combined_flow.nc")["flow"].sizes["combination"] == 3
    assert "weighted" in (tmp_path / "test_looks.log").read_text()


def test_a_map_of_wins():
    names = [f"model{i}" for i in range(8)]
    figure = plot.winner_map([1, 2, 3, NAN, 5], [1, 2, 3, 4, 5], ["model0", "tie", "model7", "tie", ""], names)
    said = texts(figure)
    assert "tie, 2" in said and "model7, 1" in said and "model1, 0" in said and "1 not placed" in said
    drawn = [c for c in figure.axes[0].collections if c.get_label().startswith("model")]
    marks = {(c.get_facecolor().tobytes(), c.get_paths()[0].vertices.tobytes()) for c in drawn}
    assert len(marks) == 8, "no two models look alike"
    with pytest.raises(ValueError, match="was compared"):
        plot.winner_map([1.0], [1.0], [""], names)
    with pytest.raises(ValueError, match="winners must have shape"):
        plot.winner_map([1.0], [1.0], ["a", "b"], names)


MODELS = ("gr4j", "hbv11p")
SHORT = dict(train="2002-01-01:2003-12-31", validation="2001-01-01:2001-12-31", test="2004-01-01:2004-12-31")


@pytest.fixture(scope="module")
def data():
    """Three basins whose flow is HBV's own, of other parameters."""
    draw = np.random.default_rng(0)
    time = pd.date_range("2000-01-01", "2004-12-31")
    season = np.sin(2 * np.pi * time.dayofyear.to_numpy() / 365.25)[:, None]
    ds = xr.Dataset(coords={"time": time, "basin": ["a", "b", "c"]})
    for name, units, values in (
        ("prcp", "mm d-1", draw.gamma(0.4, 8.0, (len(time), 3))),
        ("tmean", "degC", 6 + 9 * season + draw.normal(0, 3, (len(time), 3))),
        ("pet", "mm d-1", np.repeat(2 + 1.7 * season, 3, 1)),
        ("qobs", "mm d-1", draw.gamma(0.4, 8.0, (len(time), 3))),
    ):
        ds[name] = (("time", "basin"), values.astype(np.float32), {"units": units})
    ds["qobs"] += 0.3 * ds["prcp"] + 0.2 * ds["prcp"].shift(time=1, fill_value=0)
    ds["qobs"].attrs["units"] = "mm d-1"
    return ds


@pytest.fixture
def no_figures(monkeypatch):
    """Each model's figures take longer than its calibration."""
    monkeypatch.setattr("hybridsolve.plot.style.draw", lambda *of: [])


def calibrated(data, **more):
    options = dict(SHORT, starts=2, steps=6, warmup_years=1, progress=False)
    return hs.calibrate_structures(data, MODELS, **(options | more))


def test_nothing_that_is_chosen_or_calibrated_sees_the_test_years(data, tmp_path, no_figures):
    other = data.copy(deep=True)
    other["qobs"].loc[{"time": slice("2004", "2004")}] *= 7
    found, changed = (calibrated(x, folder=tmp_path / name) for name, x in (("one", data), ("other", other)))
    for name in ("choice", "weight"):
        xr.testing.assert_identical(found[name], changed[name])
    for model in MODELS:
        one, two = (xr.load_dataset(tmp_path / name / model / "calibration.nc") for name in ("one", "other"))
        for name in (v.name for v in hs.models.get(model).parameters):
            np.testing.assert_array_equal(one[name], two[name])
    assert (found["nse"].sel(period="test") != changed["nse"].sel(period="test")).all()
    in_memory = calibrated(lambda model: data[[*model.forcing_names, "qobs"]])
    xr.testing.assert_allclose(in_memory, found)


class Killed(Exception):
    pass


def test_what_has_ended_is_not_repeated_and_what_was_stopped_goes_on(data, tmp_path, monkeypatch, no_figures):
    whole, step, calls = calibrated(data, folder=tmp_path / "whole"), LeastSquaresSearch.step, []

    def dies(self):
        calls.append(1)
        if len(calls) == 10:
            raise Killed
        step(self)

    monkeypatch.setattr("hybridsolve.calibration.blocks.SAVE_EVERY", 0)
    with monkeypatch.context() as patch:
        patch.setattr(LeastSquaresSearch, "step", dies)
        with pytest.raises(Killed):
            calibrated(data, folder=tmp_path / "killed")
    assert (tmp_path / "killed" / "gr4j" / structures.FINISHED).exists() and len(calls) == 10
    monkeypatch.setattr(LeastSquaresSearch, "step", lambda self: (calls.append(1), step(self))[1])
    with pytest.raises(ValueError, match="gr4j holds another run .*; go on with it by --resume"):
        calibrated(data, folder=tmp_path / "killed")
    resumed = calibrated(data, folder=tmp_path / "killed", resume=True)
    assert len(calls) == 10 + 3, "of the second model the steps that it had not taken"
    xr.testing.assert_identical(resumed, whole)
    with monkeypatch.context() as patch:
        patch.setattr(structures, "calibrate", None)
        xr.testing.assert_identical(calibrated(data, folder=tmp_path / "killed", resume=True), whole)
    other = data.assign(prcp=data["prcp"] * 1.01)
    other["prcp"].attrs = data["prcp"].attrs
    for changes in (dict(steps=7), dict(data=other)):
        with pytest.raises(ValueError, match="gr4j holds another calibration .*; resume with the arguments"):
            calibrated(**(dict(data=data) | changes), folder=tmp_path / "killed", resume=True)
    again = calibrated(other, folder=tmp_path / "killed", overwrite=True)
    assert (again["nse"].sel(candidate="gr4j") != whole["nse"].sel(candidate="gr4j")).any()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(models="gr4j"), r"must be a list of two or more; found 'gr4j': write \['gr4j'"),
        (dict(models=["gr4j"]), "two or more of different names"),
        (dict(models=["gr4j", "gr4j"]), "none called alike; found gr4j, gr4j"),
        (dict(models=["gr4j", "gr99"]), "unknown model 'gr99'"),
        (dict(fixed={"x9": 1.0}), "fixed names 'x9', which is no parameter of gr4j, hbv11p; correct it"),
        (dict(fixed={"x2": 99e9}), "fixed parameter 'x2' must lie in"),
        (dict(free="x2"), "free must be a list of parameters' names; found 'x2'"),
        (dict(member="all"), "unknown member 'all'"),
        (dict(resume=True), "resume goes on in a folder that it does not overwrite; give folder="),
        (dict(loss="r2"), "r2"),
    ],
)
def test_refused_before_anything_is_calibrated(data, changes, message, monkeypatch):
    monkeypatch.setattr(structures, "calibrate", None)
    with pytest.raises(ValueError, match=message):
        hs.calibrate_structures(data, **(dict(models=list(MODELS), **SHORT) | changes))


def test_options_go_to_the_models_that_have_the_parameter(data, tmp_path, no_figures):
    found = calibrated(data, fixed={"x2": 0.0}, ranges={"fc": (100, 200), "x1": (50, 60)}, folder=tmp_path)
    gr4j, hbv = (xr.load_dataset(tmp_path / name / "calibration.nc") for name in MODELS)
    assert (gr4j["x2"] == 0).all() and ((gr4j["x1"] >= 50) & (gr4j["x1"] <= 60)).all()
    assert ((hbv["fc"] >= 100) & (hbv["fc"] <= 200)).all() and found.sizes["model"] == 2


def test_a_factor_is_of_the_models_that_can_have_it(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(structures, "calibrate", lambda data, model, **x: seen.update({model.name: x}) or 1 / 0)
    found = structures.check_structures(MODELS, **SHORT, free=["snow_factor"])
    assert [model.name for model in found] == ["gr4j", "snow_factor+hbv11p"]
    with pytest.raises(ValueError, match="free names 'snow_factor', which is no parameter of gr4j, hymod"):
        structures.check_structures(("gr4j", "hymod"), **SHORT, free=["snow_factor"])
    with pytest.raises(ZeroDivisionError):
        calibrated(data, free=["pet_factor", "snow_factor"])
    assert list(seen) == ["pet_factor+gr4j"] and seen["pet_factor+gr4j"]["free"] == ["pet_factor"]


def test_the_command_line(data, tmp_path, capsys):
    file = write_netcdf(data, tmp_path / "data.nc")
    periods = [text for name in SHORT for text in (f"--{name}", SHORT[name])]
    out = tmp_path / "out"
    command = ["calibrate", str(file), "--model", "gr4j,hbv11p", *periods, "--out", str(out)]
    command += ["--starts", "2", "--steps", "4", "--warmup-years", "1"]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert "best single model by training and validation: " in said.out and "gr4j: calibrated and scored in" in said.err
    assert (out / "report.md").exists() and (out / "hbv11p" / "calibration.nc").exists()
    assert cli.main(command) == 2
    assert "holds another run" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert f"gr4j: calibrated before, read from {out / 'gr4j'}" in capsys.readouterr().err
    alone = ["calibrate", str(file), "--model", "gr4j", *periods, "--out", str(out), "--member", "best"]
    assert cli.main(alone) == 2 and "--member is of several models" in capsys.readouterr().err
    assert cli.main([*command, "--hydrograph", "z", "--overwrite"]) == 2
    assert "basin 'z' of the hydrograph" in capsys.readouterr().err
