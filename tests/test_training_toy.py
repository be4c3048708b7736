"""Networks in front of a model that is as different from HBV as another may be; at a day and at an hour."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models.toy import toy

import hybridsolve as hs
from hybridsolve.data.dataset import assemble
from hybridsolve.nn import MLP, DifferentiableModel, Layout
from hybridsolve.spec import Signature
from hybridsolve.training import diagnostics
from hybridsolve.training import report as training_report
from hybridsolve.training.batches import Basins, Batches
from hybridsolve.training.config import read_config
from hybridsolve.training.experiments import experiment
from hybridsolve.training.inputs import Scaling
from hybridsolve.training.loop import fit_scaling, train
from hybridsolve.training.trained import Trained, chunks, make_module

DAY, HOUR = 86_400, 3_600
CONFIG = dict(
    name="toy",
    model="toy",
    network=dict(kind="mlp", hidden=[8]),
    components=2,
    attributes=["wetness"],
    periods=dict(train="2000-02-01:2000-03-31", validation="2000-04-01:2000-04-30", test="2000-05-01:2000-05-31"),
    warmup_years=0.05,
    batch=dict(basins=4, days=30, warmup=10),
    loss="nse",
    optimiser=dict(name="adam", learning_rate=0.05),
    epochs=2,
    steps_per_epoch=3,
)
QUICK = dict(progress=False, accelerator="cpu", backend="reference")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(hs.models.MODELS, "toy", toy)


def make(step=DAY, days=160, n=4):
    """Flow of the toy's own, whose percolation follows the attribute."""
    draw = np.random.default_rng(0)
    per_day = DAY // step
    rain = draw.gamma(0.4, 25, (days, n)).repeat(per_day, 0) / per_day
    demand = (1 + draw.random((days, n))).repeat(per_day, 0) / per_day
    wetness, slope = draw.uniform(size=n), draw.uniform(0.02, 0.2, n)
    unit = {v.name: torch.full((n, 1), 0.4) for v in toy.free_parameters}
    unit["leak"] = torch.from_numpy(wetness)[:, None].float()
    flow = hs.simulate(
        toy,
        {"rainfall": torch.from_numpy(rain).float(), "demand": torch.from_numpy(demand).float()},
        toy.parameters_from_unit(unit),
        inputs={"slope": torch.from_numpy(slope).float()},
        step=step,
        backend="reference",
    ).fluxes["discharge"]
    return assemble(
        dict(rainfall=rain, demand=demand, qobs=flow.numpy()),
        basin=[f"b{i}" for i in range(n)],
        time=np.datetime64("2000-01-01") + np.arange(days * per_day) * np.timedelta64(step, "s"),
        static=dict(wetness=(wetness, {}), slope=(slope, {"units": "1"})),
        model=toy,
    )


@pytest.fixture(scope="module")
def data():
    return make()


def test_what_is_fixed_is_learned_only_where_it_is_named():
    layout = Layout(toy, 2)
    assert layout.names == tuple(v.name for v in toy.parameters if v.free) and "pumping" not in layout.names
    assert layout.routing_names == () and layout.n_static == 2 * len(layout.names)
    assert Layout(toy, 2, learned=("pumping",)).names == toy.parameter_names
    assert Layout(toy, 2, ("pumping",)).static_names == layout.names
    for options, message in (
        (dict(learned=("fc",)), "model toy has no parameter 'fc' to learn"),
        (dict(learned=("k",), dynamic=("k",)), "'k' is named by dynamic and by learned"),
    ):
        with pytest.raises(ValueError, match=message):
            Layout(toy, 2, **options)
    with pytest.raises(ValueError, match="model toy has no parameter 'fc' to learn"):
        read_config(CONFIG | dict(learned=["fc"]))


def test_the_joined_model_takes_static_inputs(data):
    module = DifferentiableModel(toy, MLP(Layout(toy, 2), 1, [4], 0.0), backend="reference")
    forcing = {name: torch.from_numpy(data[name].values[:60]) for name in toy.forcing_names}
    attributes, slope = torch.rand(4, 1), torch.from_numpy(data["slope"].values).float()
    run = module(forcing, attributes, inputs={"slope": slope}, warmup=20)
    expected = hs.simulate(
        toy, forcing, module.parameters_of(attributes), inputs={"slope": slope}, backend="reference"
    ).fluxes["discharge"][20:]
    assert list(run.fluxes) == ["discharge"] and run.memory is None
    torch.testing.assert_close(run.fluxes["discharge"], expected)
    held = module(forcing, attributes, inputs={"slope": slope}, warmup=20, warmup_gradient=False)
    assert torch.equal(held.fluxes["discharge"], run.fluxes["discharge"])
    other = module(forcing, attributes, inputs={"slope": slope / 10}, warmup=20)
    assert not torch.equal(other.fluxes["discharge"], run.fluxes["discharge"])
    with pytest.raises(ValueError, match="inputs lacks 'slope'"):
        module(forcing, attributes)


def test_weather_is_transformed_as_the_table_says(data):
    def fit(names, model):
        return Scaling.fit(data.assign(prcp=data["rainfall"]), [], [], names, CONFIG["periods"]["train"], model)

    scaling = fit(["rainfall", "demand", "prcp"], "toy")
    assert scaling.transforms == {"rainfall": "log"}  # prcp is no forcing of the toy
    rain = data["rainfall"].sel(time=slice(*CONFIG["periods"]["train"].split(":"))).values.astype(float)
    expected = [np.log10(np.sqrt(rain) + 0.1).mean(), rain.mean()]
    np.testing.assert_allclose([scaling.weather_mean[0], scaling.weather_mean[2]], expected)
    assert fit(["rainfall", "prcp"], "hbv10").transforms == {"prcp": "log"}
    assert fit(["rainfall", "prcp"], "none").transforms == {"rainfall": "log", "prcp": "log"}
    negative = data.assign(rainfall=data["rainfall"] - 1)
    with pytest.raises(ValueError, match="weather 'rainfall' must be 0 or more, since its logarithm is taken; found -"):
        Scaling.fit(negative, [], [], ["rainfall"], CONFIG["periods"]["train"], "toy")


@pytest.mark.parametrize("step", (DAY, HOUR))
def test_a_training_and_its_experiment(tmp_path, step):
    """By the hour a window has as many days, and the files say amounts by the hour."""
    days = 160 if step == DAY else 45
    periods = CONFIG["periods"]
    if step == HOUR:
        periods = dict(train="2000-01-08:2000-01-27", test="2000-01-29:2000-02-02")
    config = CONFIG | dict(periods=periods, batch=dict(basins=4, days=5, warmup=3), loss="nse_batch", warmup_years=0.01)
    data = make(step, days)
    result = experiment(data, config, out=tmp_path, **QUICK)
    per_day = DAY // step
    unit = "mm d-1" if step == DAY else "mm h-1"
    assert result["flow"].attrs["units"] == unit and np.isfinite(result["flow"].values).all()
    assert result.sizes["time"] == per_day * (31 if step == DAY else 5)
    assert {"evaporated", "balance", "parameter_capacity"} <= set(result.data_vars)
    assert "parameter_pumping" not in result and "aet" not in result
    assert np.abs(result["balance"].values).max() < 1e-4
    assert ((result["evaporated"] > 0) & (result["evaporated"] < 1.5)).all()
    said = training_report.text(result)
    assert "water balance: at most" in said
    trained = Trained.load(tmp_path / "seed0" / "trained.pt", "reference")
    run = trained.predict(data, periods["test"], ("discharge", "soil", "evaporation"))
    assert run["evaporation"].attrs["units"] == unit and run["soil"].attrs["units"] == "mm"
    np.testing.assert_array_equal(run["discharge"].values, result["flow"].values)
    # What was not trained on, of one run of the same parameters.
    flow = run["evaporation"].values.astype(float).sum(0)
    rain = data["rainfall"].sel(time=run["time"]).values.astype(float).sum(0)
    np.testing.assert_allclose(result["evaporated"].values, flow / rain, rtol=1e-5)


def test_training_learns_the_toy(data, tmp_path):
    first = train(data, CONFIG | dict(epochs=1, steps_per_epoch=1), out=tmp_path / "first", **QUICK)
    last = train(data, CONFIG | dict(epochs=6, steps_per_epoch=8, loss="nse_batch"), out=tmp_path / "last", **QUICK)

    def error(trained):
        flow = trained.predict(data, CONFIG["periods"]["test"])["discharge"]
        return float(((flow - data["qobs"].sel(time=flow["time"])) ** 2).mean())

    assert error(last) < 0.8 * error(first)


def test_the_water_balance_counts_from_the_first_step_where_nothing_warms_up(data, tmp_path):
    trained = train(data, CONFIG | dict(warmup_years=0.0), out=tmp_path, **QUICK)
    found = diagnostics.diagnose(trained, data, "2000-01-01:2000-03-31")
    assert np.abs(found["balance"].values).max() < 1e-4


NEEDS = {
    "no input": (lambda x: x.drop_vars("slope"), "input 'slope' must be a variable of the data"),
    "an input out of bounds": (
        lambda x: x.assign(slope=("basin", [0.1, 2.0, 0.1, 0.1], {"units": "1"})),
        r"input 'slope' must lie in \[0, 1\] 1, found 2 in basin b1",
    ),
    "no forcing": (lambda x: x.drop_vars("demand"), "variable 'demand' is missing"),
}


@pytest.mark.parametrize("change, message", NEEDS.values(), ids=NEEDS)
def test_what_the_data_lack_is_said_before_the_training(data, tmp_path, change, message):
    for run in (train, experiment):
        with pytest.raises(ValueError, match=message):
            run(change(data), CONFIG, out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_step_that_the_model_cannot_run_at(tmp_path, monkeypatch):
    monkeypatch.setitem(hs.models.MODELS, "toy", replace(toy, steps=(DAY,)))
    with pytest.raises(ValueError, match="model toy runs at steps of 86400 s; found 3600 s"):
        train(make(HOUR, 40), CONFIG, out=tmp_path, **QUICK)


def test_a_signature_named_as_a_score_is_refused_at_the_start(data, tmp_path, monkeypatch):
    changed = replace(toy, signatures=(Signature("nse", "mm", "x", "discharge"),))
    monkeypatch.setitem(hs.models.MODELS, "toy", changed)
    with pytest.raises(ValueError, match="has the name of a result"):
        experiment(data, CONFIG, out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_model_without_balance_and_signatures_has_fewer_columns(data, tmp_path, monkeypatch):
    monkeypatch.setitem(hs.models.MODELS, "toy", replace(toy, balance=None, signatures=()))
    result = experiment(data, CONFIG | dict(epochs=1), out=tmp_path, **QUICK)
    assert "balance" not in result and "evaporated" not in result and "nse" in result
    assert "water balance" not in training_report.text(result)


@pytest.mark.parametrize("step", (DAY, HOUR))
def test_windows_and_warm_up_count_in_time(tmp_path, step):
    periods = dict(train="2000-01-11:2000-01-25", test="2000-01-28:2000-01-30")
    changes = dict(periods=periods, batch=dict(basins=3, days=5, warmup=3), warmup_years=0.02, loss="nse_batch")
    config = read_config(CONFIG | changes)
    data = make(step, 30)
    basins = Basins.of(data, config, fit_scaling(data, config))
    per_day = DAY // step
    batch = Batches(basins, config, 0, 0)[0]
    assert batch["forcing"]["rainfall"].shape == (8 * per_day, 3) and batch["obs"].shape == (5 * per_day, 3)
    assert batch["inputs"]["slope"].shape == (3,) and basins.step == step
    assert basins.starts == (7 * per_day, 17 * per_day) and basins.least == 30 * per_day
    trained = Trained(make_module(config, "reference"), config, fit_scaling(data, config), list(data["basin"].values))
    (arguments,) = chunks(trained, data, periods["test"])
    assert arguments["warmup"] == round(0.02 * 365.25 * per_day)
    assert arguments["forcing"]["demand"].shape == (arguments["warmup"] + 3 * per_day, 4)
    long = config.model_copy(update=dict(batch=config.batch.model_copy(update=dict(days=16))))
    with pytest.raises(ValueError, match="batch.days is 16, and the training period has 15: shorten it"):
        Basins.of(data, long, fit_scaling(data, config))


def test_water_on_its_way_is_stored(data, tmp_path, monkeypatch):
    """Also where the table does not say what is stored, and all states and delay lines in mm are."""
    trained = train(data, CONFIG, out=tmp_path, **QUICK)
    expected = diagnostics.diagnose(trained, data, CONFIG["periods"]["test"])["balance"]
    spec = replace(toy, balance=replace(toy.balance, storage=None))
    monkeypatch.setitem(hs.models.MODELS, "toy", spec)
    found = diagnostics.diagnose(trained, data, CONFIG["periods"]["test"])["balance"]
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert np.abs(found.values).max() < 1e-4
