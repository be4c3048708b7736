"""Calibration: the searches find what was hidden, stop and resume to the same bits, and say what they refuse."""

import functools
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve.calibration import report, search
from hybridsolve.calibration.fit import calibrate
from hybridsolve.calibration.objective import Objective
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.calibration.space import search_space
from hybridsolve.calibration.windows import window
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.score import metrics

pytestmark = pytest.mark.filterwarnings("ignore:after the warm-up")
TRAIN, TEST = "2002-01-01:2003-12-31", "2004-01-01:2004-12-31"


@pytest.fixture(scope="module")
def data():
    """Four basins whose flow is the model's own, with gaps: calibration can reach NSE 1."""
    random = np.random.default_rng(0)
    time = pd.date_range("2000-01-01", "2004-12-31")
    n = len(time)
    season = np.sin(2 * np.pi * time.dayofyear.to_numpy() / 365.25)[:, None]
    ds = xr.Dataset(coords={"time": time, "basin": ["a", "b", "c", "d"]})
    series = {
        "prcp": ("mm d-1", random.gamma(0.4, 8.0, (n, 4))),
        "tmean": ("degC", 6 + 9 * season + random.normal(0, 3, (n, 4))),
        "pet": ("mm d-1", np.repeat(2 + 1.7 * season, 4, 1)),
    }
    for name, (units, values) in series.items():
        ds[name] = (("time", "basin"), values.astype(np.float32), {"units": units})
    model = hs.models.get("hbv11p")
    truth = torch.as_tensor(random.uniform(0.2, 0.8, (16, 4, 1)), dtype=torch.float32)
    forcing = {name: torch.as_tensor(ds[name].values) for name in model.forcing_names}
    flow = simulate_to_gauge(model, forcing, search_space(model).values(truth)).fluxes[model.outflow].numpy()
    flow[random.random(flow.shape) < 0.05] = np.nan
    ds["qobs"] = (("time", "basin"), flow, {"units": "mm d-1"})
    return ds.assign_coords(lat=("basin", [1.0, 2, 3, 4]), lon=("basin", [5.0, 6, 7, 8]))


@pytest.fixture(scope="module")
def fitted(data):
    return run(data, steps=1, starts=1)


def run(data, **changes):  # also as run_, where a test has a run of its own
    arguments = dict(model="hbv11p", train=TRAIN, starts=4, steps=40, warmup_years=1, progress=False)
    return calibrate(data, **(arguments | changes))


run_ = run


@pytest.mark.parametrize("method, steps", [("lm", 30), ("gradient", 60), ("evolution", 60)])
def test_finds_the_flow_that_the_model_made(data, method, steps):
    result = run(data, method=method, steps=steps, test=TEST)
    assert (result["nse"].sel(period="train", member="best") > 0.93).all()
    assert (result["nse"].sel(period="test", member="best") > 0.85).all()
    assert (np.diff(result["train_loss"].values, axis=1) >= 0).all(), "starts are sorted by their loss"
    np.testing.assert_allclose(1 - result["train_loss"], result["nse_start"].sel(period="train"), atol=1e-4)


@pytest.mark.parametrize("loss", ["kge", "nse_sqrt", "nse_log"])
def test_every_loss_improves_its_own_score(data, loss):
    score = lambda steps: float(run(data, loss=loss, steps=steps)[loss].sel(period="train", member="best").min())  # noqa: E731
    assert score(40) > max(score(1), 0.8)


def test_a_basin_does_not_depend_on_its_neighbours(data):
    """Nor on when the starts of others restart."""
    together, alone = run(data, steps=30), run(data.isel(basin=[2]), steps=30)
    np.testing.assert_array_equal(together["fc"].values[2], alone["fc"].values[0])


def test_least_squares_are_the_loss(data):
    """The normal equations' cost and gradient, of every loss that is a sum of squares; KGE is approximated by NSE."""
    model = hs.models.get("hbv11p")
    period = window(data, model, TRAIN, 1)
    points = search.starting_points(16, 4, 3, 0).requires_grad_()
    for loss in ("nse", "nse_sqrt", "nse_log"):
        objective = Objective(search_space(model), period, loss)
        value = objective(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
        with torch.no_grad():
            matrix, half, cost = objective.normal_equations(points)
        torch.testing.assert_close(cost, value.detach(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(
            2 * half.permute(2, 0, 1), gradient, rtol=0.02, atol=2e-3 * float(gradient.abs().max())
        )
        assert (torch.linalg.eigvalsh(matrix.double()) > -1e-4 * matrix.abs().max()).all()
    assert not Objective(search_space(model), period, "kge").is_least_squares


@pytest.mark.parametrize("loss", ["nse", "0.5*nse+0.25*nse(1/q)"])
def test_normal_equations_of_some_cells_are_those_of_all(data, loss):
    """To the bit, with the rest of the basins and starts away."""
    model = hs.models.get("hbv11p")
    objective = Objective(search_space(model, {"lp": 0.5}), window(data, model, TRAIN, 1), loss)
    points = search.starting_points(15, 4, 18, 0)
    cells = torch.rand(4, 18, generator=torch.Generator().manual_seed(0)) < 0.4
    whole, some = objective.normal_equations(points), objective.normal_equations(points, cells)
    for a, b in zip(whole, some, strict=True):
        assert torch.equal(a[cells], b)
    torch.testing.assert_close(objective.cost(points), whole[2], rtol=1e-3, atol=1e-5)


def test_lm_needs_far_fewer_steps(data):
    lm, adam = (run(data, steps=12, method=m)["train_loss"].min("start") for m in ("lm", "gradient"))
    assert (lm < 0.2 * adam).all()


def test_a_warm_basin_says_nothing_of_snow_and_does_not_stop_the_rest(data):
    warm = data.copy(deep=True)
    warm["tmean"].values[:, 1] = 20
    with pytest.warns(UserWarning, match="flow does not respond to 'cfmax' in 1 of 4 basins .*b"):
        result = run(warm, steps=15)
    assert np.isinf(result["standard_error"].sel(parameter="cfmax").values[1])
    assert (result["train_loss"].min("start").values[[0, 2, 3]] < 0.1).all()


def test_too_few_observations(data):
    few = data.copy(deep=True)
    few["qobs"].values[:-8, 2] = np.nan
    few["qobs"].values[-400:-390, 2] = np.arange(10)
    with pytest.raises(ValueError, match="basin c cannot be used: qobs has 10 values, fewer than 16, in the training"):
        run(few)


def test_what_the_curvature_tells(data):
    """Linearised: by the Jacobian itself, in a basin whose parameters lie within the bounds."""
    result = run(data, steps=30)
    model, period = hs.models.get("hbv11p"), window(data, hs.models.get("hbv11p"), TRAIN, 1)
    names = [str(n) for n in result["parameter"].values]
    values = {n: torch.from_numpy(result[n].values[:, :1]) for n in names}
    flow, columns = hs.jacobian(model, period.forcing, values)
    seen = period.obs.isfinite()
    for b in range(4):
        span = np.array([model.variable(n).upper - model.variable(n).lower for n in names])
        free = ~np.isnan(result["standard_error"].values[:, b])
        j = np.stack([columns[n][seen[:, b], b, 0].double().numpy() for n in names], 1)[:, free] * span[free]
        r = (flow[:, b, 0] - period.obs[:, b])[seen[:, b]].double().numpy()
        eigenvalues = np.linalg.eigvalsh(j.T @ j / np.var(period.obs[seen[:, b], b].double().numpy()) / len(r))
        found = result["curvature"].values[:, b][::-1]
        np.testing.assert_allclose(found[~np.isnan(found)], eigenvalues[::-1], rtol=0.05, atol=1e-4 * eigenvalues[-1])
        if eigenvalues[0] > 1e-4 * eigenvalues[-1]:  # else the inverse is of what single precision has rounded
            covariance = np.linalg.inv(j.T @ j) * (r @ r) / (len(r) - free.sum())
            error = np.sqrt(np.diag(covariance)) * span[free]
            np.testing.assert_allclose(result["standard_error"].values[free, b], error, rtol=0.1)
    month = np.abs(columns["fc"][:, 2, 0].numpy())[period.n_warmup :]
    january = data["time"].sel(time=slice(*TRAIN.split(":"))).dt.month.values == 1
    expected = month[january].mean() * (1000 - 50)
    np.testing.assert_allclose(result["sensitivity"].sel(parameter="fc", month=1).values[2], expected, rtol=1e-4)
    r = result["correlation"].values
    assert np.nanmax(np.abs(r)) <= 1 + 1e-6
    np.testing.assert_allclose(r, r.transpose(1, 0, 2), atol=1e-12)


def test_chunks_of_basins_give_the_same_result(data, monkeypatch):
    whole = run(data, steps=5)
    monkeypatch.setattr("hybridsolve.calibration.blocks.basins_of_a_block", lambda *of: 1)
    xr.testing.assert_allclose(whole, run(data, steps=5), rtol=1e-4)  # torch's own exp rounds by place in memory


@pytest.mark.parametrize("method", ["lm", "gradient", "evolution"])
def test_a_search_whose_basins_have_converged_ends(method):
    """Nor are they moved by what their neighbours go on with."""
    random = torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(0))

    class Bowl:
        """Loss of distance from the middle; of the second basin only from a plain that is wider."""

        is_least_squares = True
        floor = torch.tensor([[0.0], [0.02]])

        def __call__(self, points):
            return ((points - 0.5) ** 2).sum(0).clamp(min=1e-4) + self.floor

        cost = __call__

        def normal_equations(self, points, cells=None):
            r = (points - 0.5).permute(1, 2, 0)
            found = torch.eye(3).expand(*r.shape[:2], 3, 3).contiguous(), r, self(points)
            return found if cells is None else tuple(x[cells] for x in found)

    make = {
        "lm": lambda points: search.LeastSquaresSearch(Bowl(), points, 400, 0),
        "gradient": lambda points: search.GradientSearch(Bowl(), points, 400),
        "evolution": lambda points: search.EvolutionSearch(Bowl(), points, 400, 0),
    }[method](random)
    bests = []
    while make.done < 400:
        make.step()
        bests.append((make.converged.clone(), make.best.clone()))
    assert make.steps_taken == len(bests) < 300 and make.converged.all()
    assert (make.best_loss.amin(1) < torch.tensor([2e-4, 0.021])).all()
    assert len({int(torch.tensor([converged[b] for converged, _ in bests]).sum()) for b in (0, 1)}) == 2, (
        "at other steps"
    )
    for (converged, before), (_, after) in zip(bests, bests[1:], strict=False):
        assert torch.equal(before[:, converged], after[:, converged])


def test_an_early_end_is_the_same_alone_and_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(search.LeastSquaresSearch, "PATIENCE", 3)
    whole = run(data, steps=200)
    assert 4 <= whole.attrs["steps_taken"] < 200 and "of 200 steps" in report.text(whole)
    for b in range(4):
        np.testing.assert_array_equal(run(data.isel(basin=[b]), steps=200)["fc"].values[0], whole["fc"].values[b])
    step, checkpoint = search.LeastSquaresSearch.step, tmp_path / "checkpoint.pt"

    def stops(self):
        if self.done == whole.attrs["steps_taken"] - 2:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(search.LeastSquaresSearch, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            run(data, steps=200, checkpoint=checkpoint)
    resumed = run(data, steps=200, checkpoint=checkpoint, resume=True)
    xr.testing.assert_identical(whole, resumed)


class Killed(Exception):
    pass


@pytest.mark.parametrize("method, loss", [("lm", "nse"), ("lm", "kge"), ("gradient", "nse"), ("evolution", "nse")])
@pytest.mark.parametrize("chunks", [False, True])
def test_a_killed_run_resumes_to_the_same_bits(data, method, loss, chunks, tmp_path, monkeypatch):
    if chunks:
        monkeypatch.setattr("hybridsolve.calibration.blocks.basins_of_a_block", lambda *of: 1)
    monkeypatch.setattr(search.LeastSquaresSearch, "WINDOW", 1)
    monkeypatch.setattr(search.LeastSquaresSearch, "TOLERANCE", 0.2)  # starts restart at once
    run = functools.partial(run_, loss=loss)
    whole = run(data, method=method, steps=8)
    kind = {"lm": search.LeastSquaresSearch, "gradient": search.GradientSearch, "evolution": search.EvolutionSearch}[
        method
    ]
    step, calls = kind.step, []

    def dies(self):
        if len(calls) == 13:
            raise Killed
        calls.append(1)
        step(self)

    checkpoint = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", dies)
        patch.setattr("hybridsolve.calibration.blocks.SAVE_EVERY", 0)
        if chunks:
            with pytest.raises(Killed):
                run(data, method=method, steps=8, checkpoint=checkpoint)
        else:
            calls.extend([1] * 8)
            with pytest.raises(Killed):
                run(data, method=method, steps=8, checkpoint=checkpoint)
    counted = []
    monkeypatch.setattr(kind, "step", lambda self: (counted.append(1), step(self))[1])
    resumed = run(data, method=method, steps=8, checkpoint=checkpoint, resume=True)
    xr.testing.assert_equal(whole, resumed)
    assert len(counted) < (32 if chunks else 8), "it went on, and did not begin again"
    with pytest.raises(ValueError, match="another calibration"):
        run(data, method=method, steps=9, checkpoint=checkpoint, resume=True)


def test_gradient_of_the_objective(data):
    model = hs.models.get("hbv11p")
    double = data.astype(np.float64)
    for name in ("prcp", "tmean", "pet", "qobs"):
        double[name].attrs = data[name].attrs
    objective = Objective(search_space(model), window(double, model, "2001-01-01:2001-06-30", 1), "nse")
    points = search.starting_points(16, 4, 2, 1, torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(points).sum(), points)
    torch.manual_seed(0)
    direction, h = torch.randn_like(points), 1e-7
    with torch.no_grad():
        slope = (objective(points + h * direction) - objective(points - h * direction)).sum() / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=0)


def test_warm_up_is_taken_from_before_the_period_or_run_twice(data):
    model = hs.models.get("hbv11p")
    long = window(data, model, TEST, 3)
    assert long.n_warmup == 1096 and not long.spun_up and long.obs[: long.n_warmup].isnan().all()
    short = window(data, model, "2000-03-01:2001-12-31", 3)
    assert short.spun_up and short.n_warmup == 365 + 60
    torch.testing.assert_close(short.forcing["prcp"][:365], torch.as_tensor(data["prcp"].values[:365]))


def test_unusable_basins_stop_the_run_or_are_left_out_by_name(data):
    gap = data.copy(deep=True)
    gap["qobs"].loc[dict(basin="b")] = np.nan
    with pytest.raises(
        ValueError, match=f"basin b cannot be used: qobs has 0 values, fewer than 16, in the training period {TRAIN}"
    ):
        run(gap)
    with pytest.warns(UserWarning, match=r"1 of 4 basins are left out \(b\): basin b cannot be used"):
        result = run(gap, steps=3, skip_unusable=True)
    assert result["nse"].sel(basin="b").isnull().all() and result["nse"].drop_sel(basin="b").notnull().all()
    np.testing.assert_array_equal(result["fc"].sel(basin="d"), run(data, steps=3)["fc"].sel(basin="d"))


@pytest.mark.filterwarnings("ignore:after the warm-up", "ignore:flow does not respond")
def test_days_that_no_run_needs_may_be_missing(data):
    short = data.copy(deep=True)  # a record from 2001 to 2003, beside longer ones
    for name in ("prcp", "tmean", "pet"):
        short[name].loc[dict(basin="b", time=slice(None, "2000-12-31"))] = np.nan
        short[name].loc[dict(basin="c", time=slice("2004-01-01", None))] = np.nan
    options = dict(steps=2, starts=2, warmup_years=1)
    result, whole = run(short, **options), run(data, **options)
    xr.testing.assert_identical(result, whole)
    flow = simulate_calibrated(result, short, period=TRAIN, warmup_years=1)
    xr.testing.assert_identical(flow, simulate_calibrated(whole, data, period=TRAIN, warmup_years=1))
    for again in (lambda **more: run(short, **more), lambda **more: simulate_calibrated(result, short, **more)):
        with pytest.raises(ValueError, match="basin b cannot be used: prcp is missing on 36. days from 2000-01-0"):
            again(warmup_years=2)
    with pytest.raises(ValueError, match="basin c cannot be used: prcp is missing on 366 days from 2004-01-01"):
        run(short, test=TEST)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("end", (0, 1))
def test_parameters_at_their_bounds_are_simulated(data, fitted, dtype, end):
    """Where lower + (upper - lower) * 1 rounds past the upper bound, too."""
    model = hs.models.get("hbv11p")
    names = model.parameter_names + model.routing_parameter_names
    found = model.parameters_from_unit({name: torch.full((4, 1), end, dtype=dtype) for name in names})
    stored = fitted.assign({name: (("basin", "start"), x.numpy()) for name, x in found.items()})
    past = [n for n in names if (stored[n].values > stored[n].values.dtype.type(model.variable(n).upper)).any()]
    assert bool(past) == (end == 1 and dtype == torch.float32), past
    assert simulate_calibrated(stored, data, warmup_years=1)["streamflow"].notnull().all()


def test_what_is_left_out_has_not_failed(data):
    gap = data.copy(deep=True)
    gap["prcp"].loc[dict(basin="b", time="2001-03-01")] = np.nan
    with pytest.warns(UserWarning, match=r"1 of 4 basins are left out \(b\): basin b cannot be used: prcp"):
        result = run(gap, steps=3, skip_unusable=True)
    scores = result.sel(period="train", member="best")
    found = metrics.summary({name: scores[name].values for name in ("nse", "n_valid", "n_nonfinite")})["nse"]
    assert found["n_unscored"] == 1 and found["n_failed"] == 0
    assert result["obs"].sel(basin="b").notnull().any()


def test_a_bar_leaves_no_thread(data, capsys):
    before = set(threading.enumerate())
    run(data, steps=2, progress=True)
    assert set(threading.enumerate()) == before and "calibrate hbv11p" in capsys.readouterr().err


def test_numbers_are_written_without_the_package_of_figures(fitted, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("hybridsolve.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(hs, "plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(
        UserWarning, match=r"no figure is drawn, all .*: a figure needs matplotlib, .*hybridsolve\[plot\]'"
    ):
        written = report.write(fitted, tmp_path)
    assert {path.suffix for path in written} == {".nc", ".csv"}


@pytest.mark.filterwarnings("ignore:after the warm-up")
def test_report_writes_what_it_says_and_simulate_repeats_it(data, tmp_path):
    result = run(data, steps=10, test=TEST)
    written = report.write(result, tmp_path, basin="c", command="test")
    assert {p.name for p in written} >= {
        "calibration.nc",
        "streamflow.nc",
        "scores_best.csv",
        "scores_ensemble.csv",
        "map.png",
        "starts.png",
        "parameters.png",
        "hydrograph.png",
        "scores.png",
    }
    assert not list(tmp_path.glob("*.tmp*"))
    table = pd.read_csv(tmp_path / "scores_best.csv", index_col="basin")
    np.testing.assert_allclose(table["test_nse"], result["nse"].sel(period="test", member="best"), atol=1e-5)
    stored = xr.load_dataset(tmp_path / "calibration.nc")
    assert stored["fc"].attrs["units"] == "mm" and stored.attrs["seed"] == 0 and stored.attrs["command"] == "test"
    for member in ("best", "ensemble"):
        again = simulate_calibrated(
            stored, data, period=TEST, member=member, fluxes=["streamflow", "sm"], warmup_years=1
        )
        expected = result["flow"].sel(member=member, time=again["time"])
        np.testing.assert_allclose(again["streamflow"], expected, rtol=1e-5, atol=1e-6)
    assert "test NSE" in (tmp_path / "test_looks.log").read_text()
    report.write(result, tmp_path)
    assert len((tmp_path / "test_looks.log").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(method="magic"), "unknown method 'magic'"),
        (dict(loss="rmse_comb"), "unknown loss 'rmse_comb'"),
        (dict(model="hbv12"), "unknown model 'hbv12'"),
        (dict(starts=True), "starts must be a whole number, 1 or more; found True"),
        (dict(steps=0), "steps must be a whole number, 1 or more; found 0"),
        (dict(steps=2.0), "steps must be a whole number, 1 or more; found 2.0"),
        (dict(ensemble=0), "ensemble must be a whole number, 1 or more; found 0"),
        (dict(seed=-1), "seed must be a whole number, 0 to 9223372036854775807; found -1"),
        (dict(seed=2**63), "seed must be a whole number, 0 to 9223372036854775807; found 9223372036854775808"),
        (dict(seed=0.5), "seed must be a whole number"),
        (dict(warmup_years=-1), "warmup_years must be a finite number, 0 or more; found -1"),
        (dict(warmup_years=float("nan")), "warmup_years must be a finite number, 0 or more; found nan"),
        (dict(warmup_years=float("inf")), "warmup_years must be a finite number, 0 or more; found inf"),
        (dict(warmup_years="1"), "warmup_years must be a finite number, 0 or more; found '1'"),
        (dict(test=""), "period is malformed"),
        (dict(test=TRAIN), "the test period .* overlaps the train period"),
        (dict(test="2003-12-31:2004-06-30"), "overlaps the train period .* from 2003-12-31 to 2003-12-31, and its"),
        (dict(starts=0), "starts must be a whole number, 1 or more; found 0"),
        (dict(ensemble=9), "ensemble must be at most the number of starts, 4; found 9"),
        (dict(train="2003-01-01:2002-01-01"), "end after it starts"),
        (dict(train="1990-01-01:2002-01-01"), "outside the data"),
        (dict(resume=True), "resume needs the checkpoint's path"),
    ],
)
def test_bad_arguments_are_refused_by_name(data, changes, message, monkeypatch):
    monkeypatch.setattr("hybridsolve.calibration.fit.search_blocks", None)
    with pytest.raises(ValueError, match=message):
        run(data, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(warmup_years=-1), "warmup_years must be a finite number, 0 or more; found -1"),
        (dict(warmup_years=float("nan")), "warmup_years must be a finite number, 0 or more; found nan"),
        (dict(warmup_years=float("inf")), "warmup_years must be a finite number, 0 or more; found inf"),
        (dict(fluxes=[]), "fluxes is empty"),
        (dict(fluxes=["q0", "q0"]), "fluxes names a series twice"),
        (dict(fluxes=["fog"]), "has no flux 'fog'"),
        (dict(member=None), "unknown member None"),
        (dict(period="2002"), "period is malformed"),
    ],
)
def test_simulate_calibrated_refuses_what_means_nothing(data, fitted, changes, message):
    with pytest.raises(ValueError, match=message):
        simulate_calibrated(fitted, data, **changes)


def test_simulate_calibrated_tells_basins_by_id(data, fitted):
    other = data.assign_coords(basin=["a", "b", "c", "0d"])
    with pytest.raises(ValueError, match=r"1 basins .* no stored parameters \(0d\); there, one is written 'd'"):
        simulate_calibrated(fitted, other)
    hot = data.copy(deep=True)
    hot["tmean"].values[17, 3] = 151
    with pytest.raises(
        ValueError, match=r"forcing 'tmean' must lie in \[-150, 150\] degC; found 151 in basin d on 2000-01-18"
    ):
        simulate_calibrated(fitted, hot)
    with pytest.raises(
        ValueError, match=r"forcing 'tmean' must lie in \[-150, 150\] degC; found 151 in basin d on 2000-01-18"
    ):
        run(hot, warmup_years=2)
    with pytest.raises(ValueError, match="variable 'pet' is missing"):
        simulate_calibrated(fitted, data.drop_vars("pet"))


def test_the_hydrograph_is_of_a_basin_that_has_a_score():
    assert report.median_basin(np.array([np.nan, 0.9, np.nan, 0.1, 0.5])) == 4
    assert report.median_basin(np.array([np.nan, np.nan])) == 0
