"""Networks in front of the solver: what they see, how they are trained, resumed and tested, what they leave."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import assert_close, assert_same_bits, published

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.data.camels import CAMELS_DISCHARGE_SIGNATURES, read_camels
from hybridsolve.data.dataset import assemble
from hybridsolve.nn import LSTM, MLP, DifferentiableModel, DischargeLSTM, Layout
from hybridsolve.score import metrics
from hybridsolve.training import loop as training
from hybridsolve.training import report as training_report
from hybridsolve.training.config import read_config, recipes
from hybridsolve.training.inputs import NEVER_INPUTS, Scaling
from hybridsolve.training.trained import Trained

SMALL = dict(
    name="small",
    model="hbv11p",
    components=2,
    network=dict(kind="mlp", hidden=[16], dropout=0.1),
    attributes=["wetness", "height", "rock"],
    fill=["height"],
    periods=dict(train="2002-01-01:2003-12-31", validation="2004-01-01:2004-12-31", test="2005-01-01:2005-12-31"),
    batch=dict(basins=6, days=90, warmup=60),
    loss="nse_batch",
    optimiser=dict(name="adam", learning_rate=0.02),
    epochs=3,
    steps_per_epoch=4,
)
RECURRENT = SMALL | dict(
    network=dict(kind="lstm", hidden=[8], dropout=0.1), weather=["prcp", "tmean", "pet"], dynamic=["beta", "k0"]
)


@pytest.fixture(scope="module")
def data():
    """Twelve basins, six years: flow of HBV whose parameters follow the attributes."""
    draw = np.random.default_rng(0)
    n, days = 12, 2192
    time = np.datetime64("2000-01-01") + np.arange(days)
    season = np.cos(2 * np.pi * (np.arange(days) - 200) / 365.25)[:, None]
    wetness, height = draw.uniform(size=n), draw.uniform(size=n)
    prcp = draw.gamma(0.3, 12, (days, n)) * (0.5 + wetness)
    tmean = 8 + 10 * season + 3 * draw.standard_normal((days, n)) - 6 * height
    pet = np.maximum(0, 2 + 2 * season + 0 * prcp)
    unit = {v.name: torch.full((n, 1), 0.4) for v in hs.models.get("hbv11p").parameters}
    unit["fc"] = torch.from_numpy(0.1 + 0.8 * wetness)[:, None].float()
    unit["cfmax"] = torch.from_numpy(0.2 + 0.6 * height)[:, None].float()
    forcing = {name: torch.from_numpy(x).float() for name, x in dict(prcp=prcp, tmean=tmean, pet=pet).items()}
    model = hs.models.get("hbv11p")
    flow = hs.simulate(model, forcing, model.parameters_from_unit(unit)).fluxes["streamflow"]
    qobs = hs.unit_hydrograph(flow, torch.full((n,), 1.0), torch.full((n,), 1.0)).numpy()
    qobs[draw.uniform(size=qobs.shape) < 0.02] = np.nan
    height = np.where(np.arange(n) == 3, np.nan, height)
    return assemble(
        dict(prcp=prcp, tmean=tmean, pet=pet, qobs=qobs),
        basin=[f"b{i:02d}" for i in range(n)],
        time=time,
        lat=draw.uniform(30, 48, n),
        lon=draw.uniform(-120, -70, n),
        static=dict(
            wetness=(wetness, {}),
            height=(height, {}),
            flat=(np.ones(n), {}),
            rock=(np.array(["lime", "sand"] * 6), {}),
            huc_02=(np.arange(n) // 3, {}),
        ),
    )


def forcing_of(data, steps=slice(0, 120)):
    return {n: torch.from_numpy(data[n].values[steps]) for n in ("prcp", "tmean", "pet")}


def small(**changes):
    return read_config(SMALL | changes)


# --- Networks and the joined model ------------------------------------------------------------------------------------


def test_the_joined_model_is_the_solver_with_the_networks_parameters(data):
    layout = Layout("hbv11p", 3, ("beta", "betaet"))
    torch.manual_seed(0)
    module = DifferentiableModel("hbv11p", LSTM(layout, 2, 3, hidden=8)).eval()
    forcing, attributes = forcing_of(data), torch.randn(12, 2)
    weather = torch.stack(list(forcing.values()), -1)
    run = module(forcing, attributes, weather, warmup=30, fluxes=("streamflow", "aet"))
    values = module.parameters_of(attributes, weather)
    assert values["beta"].shape == (120, 12, 3) and values["fc"].shape == (12, 3) and values["route_a"].shape == (12, 1)
    a, b = (values.pop(name)[:, 0] for name in ("route_a", "route_b"))
    expected = hs.simulate("hbv11p", forcing, values, fluxes=("streamflow", "aet"))
    routed = hs.unit_hydrograph(expected.fluxes["streamflow"], a, b)[30:]
    assert_close(dict(run.fluxes), {"streamflow": routed, "aet": expected.fluxes["aet"][30:]}, 1e-4)


@pytest.mark.parametrize("dynamic", ((), ("beta", "k0")))
def test_warm_up_without_gradient_has_the_same_numbers(data, dynamic):
    layout = Layout("hbv11p", 3, dynamic)
    module = DifferentiableModel("hbv11p", LSTM(layout, 2, 3, hidden=8)).eval()
    forcing, attributes = forcing_of(data), torch.randn(12, 2)
    weather = torch.stack(list(forcing.values()), -1)
    leaf = {name: x.clone().requires_grad_() for name, x in forcing.items()}
    runs = [module(leaf, attributes, weather, warmup=40, warmup_gradient=g).fluxes for g in (True, False)]
    assert_same_bits(runs[0], runs[1])
    gradients = [torch.autograd.grad(r["streamflow"].sum(), leaf["prcp"])[0] for r in runs]
    assert gradients[0][:40].abs().sum() > 0 and gradients[1][:40].abs().sum() == 0


def test_a_loop_of_ones_own(data):
    torch.manual_seed(0)
    module = DifferentiableModel("hbv10", MLP(Layout("hbv10", 4), 2, [16], 0.0))
    attributes = torch.from_numpy(data[["wetness", "huc_02"]].to_array().values.T).float()
    forcing, obs = forcing_of(data, slice(0, 400)), torch.from_numpy(data["qobs"].values[100:400]).nan_to_num()
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss = (module(forcing, attributes, warmup=100).fluxes["streamflow"] - obs).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_dynamics_are_dropped_in_training_only(data):
    layout = Layout("hbv11p", 2, ("beta",))
    module = DifferentiableModel("hbv11p", LSTM(layout, 2, 3, 8, 0.0), dynamic_dropout=1.0)
    attributes, weather = torch.randn(12, 2), torch.randn(50, 12, 3)
    dropped = module.raw_parameters(attributes, weather)["beta"]
    assert torch.equal(dropped, dropped[-1:].expand(50, -1, -1))
    kept = module.eval().raw_parameters(attributes, weather)["beta"]
    assert not torch.equal(kept[0], kept[-1]) and torch.equal(kept[-1], dropped[-1])


def test_mixed_precision_is_the_networks_alone(data):
    layout = Layout("hbv11p", 2)
    net = MLP(layout, 2, [16], 0.0)
    rough = DifferentiableModel("hbv11p", net, precision="bfloat16")
    seen = []
    net.layers.register_forward_hook(lambda *x: seen.append(x[-1].dtype))
    attributes = torch.randn(12, 2)
    flow = rough(forcing_of(data), attributes).fluxes["streamflow"]
    exact = DifferentiableModel("hbv11p", net)(forcing_of(data), attributes).fluxes["streamflow"]
    assert seen == [torch.bfloat16, torch.float32] and flow.dtype == torch.float32
    assert 0 < (flow - exact).abs().max() < 0.05 * exact.abs().max()
    flow.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_networks_refuse():
    with pytest.raises(ValueError, match="no parameter 'alpha' to vary by step"):
        Layout("hbv10", 2, ("alpha",))
    with pytest.raises(ValueError, match="components must be a whole number, 1 or more; found 0"):
        Layout("hbv10", 0)
    with pytest.raises(ValueError, match="an MLP sees no weather, and dynamic names beta"):
        MLP(Layout("hbv10", 2, ("beta",)), 3)
    with pytest.raises(ValueError, match="precision must be 'float32' or 'bfloat16'"):
        DifferentiableModel("hbv10", MLP(Layout("hbv10", 2), 3), precision="half")
    with pytest.raises(ValueError, match="an LSTM alone gives streamflow; found aet"):
        DischargeLSTM(1, 1, 4)({}, torch.zeros(2, 1), torch.zeros(3, 2, 1), fluxes=("aet",))


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes())
def test_recipes_are_sound(name):
    config = read_config(name)
    assert config.name == name and config.periods.train == "1999-10-01:2008-09-30"
    assert not set(config.attributes + config.weather) & set(NEVER_INPUTS) and len(config.attributes) == 35
    training.make_module(config)


def test_the_published_recipes_are_as_published():
    one, two = read_config("dhbv10"), read_config("dhbv11p")
    assert one.dynamic == ["beta", "betaet"] and two.dynamic == ["beta", "k0", "betaet"]
    assert one.loss == "rmse_comb" and two.loss == "nse_batch"
    assert not one.batch.warmup_gradient and two.batch.warmup_gradient
    for c in (one, two):
        assert c.components == 16 and c.network.hidden == [256] and c.network.dropout == 0.5
        assert (c.batch.basins, c.batch.days, c.batch.warmup) == (100, 365, 365)
        assert c.optimiser.name == "adadelta" and c.optimiser.learning_rate == 1.0 and c.seed == 111111


BAD_CONFIGS = {
    "an unknown key": (["batch.dayz=3"], "the key 'batch.dayz' is unknown: remove or rename it"),
    "a type": (["epochs=many"], "the key 'epochs' does not fit: .* found 'many'"),
    "a section": (["batch=3"], "the key 'batch' does not fit"),
    "a model": (["model=hbv9"], "'model': unknown model 'hbv9'"),
    "a loss": (["loss=mse"], "'loss': name must be one of nse"),
    "a test year seen": (["periods.test=2003-06-01:2005-01-01"], "the test period .* overlaps the train period"),
    "no date": (["periods.train=2003"], "'periods.train'.* does not fit"),
    "weather for an mlp": (["weather=[prcp]"], "weather must be empty for a network of this kind"),
    "dynamic in an mlp": (["dynamic=[beta]"], "an mlp sees no weather"),
    "fill of a stranger": (["fill=[depth]"], "fill names 'depth', which is not among the attributes"),
    "twice": (["attributes=[wetness, wetness]", "fill=[]"], "attributes names something twice"),
    "validation seen": (["periods.validation=2003-06-01:2004-01-01"], "the validation period .* overlaps the train"),
    "no choice": (["periods.validation=null", "patience=3"], "patience needs periods.validation"),
    "a last epoch not looked at": (["validate_every=2"], "epochs must be a multiple of validate_every"),
    "short windows": (["loss=kge", "batch.days=20"], "loss 'kge' needs batch.days of 30 or more; found 20"),
    "infinity": (["warmup_years=.inf"], "the key 'warmup_years' does not fit"),
    "no YAML": (["epochs=[1"], "the value of 'epochs=.1' is not YAML"),
    "no value": (["epochs"], "a change of the config must be key=value; found 'epochs'"),
}


@pytest.mark.parametrize("changes, message", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_config_is_refused_by_key(tmp_path, changes, message):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    assert read_config(file).epochs == 3
    with pytest.raises(ValueError, match=message) as caught:
        read_config(file, changes)
    assert "\n" not in str(caught.value)


def test_yaml_as_people_write_it(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    assert read_config(file, ["optimiser.learning_rate=1e-3"]).optimiser.learning_rate == 0.001
    file.write_text(yaml.safe_dump(SMALL) + "epochs: 77\n")
    with pytest.raises(ValueError, match="the key 'epochs' is given twice: correct it"):
        read_config(file)
    given = {**SMALL, "batch": dict(SMALL["batch"])}
    read_config(given, ["batch.days=30"])
    assert given == SMALL


def test_a_config_that_is_not_there():
    with pytest.raises(
        ValueError, match="config 'dhbv99' is neither a file nor a recipe; expected a path, or one of dhbv"
    ):
        read_config("dhbv99")
    with pytest.raises(ValueError, match="the key 'epochs' is missing: add it"):
        read_config({k: v for k, v in SMALL.items() if k != "epochs"})


# --- What a network sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CAMELS_DISCHARGE_SIGNATURES, "gauge_id", "gauge_lat", "lon", "qobs", "huc_02"])
def test_what_is_made_of_the_discharge_is_never_an_input(data, name):
    config = small(attributes=["wetness", name], fill=[])
    with pytest.raises(ValueError, match=f"'{name}' .* must never be an input of a network"):
        hs.learn.train(data, config, out="unused")


def scaling(data, config=None):
    c = config or read_config(RECURRENT)
    return Scaling.fit(data, c.attributes, c.fill, c.weather, c.periods.train)


def test_scaling_knows_the_training_basins_and_days_alone(data):
    some = data.isel(basin=slice(0, 8))
    before = scaling(some)
    other = data.copy(deep=True)
    other["prcp"].values[:, 8:] *= 5
    other["wetness"].values[8:] *= 5
    late = other["time"].values >= np.datetime64("2004-01-01")
    other["prcp"].values[late] *= 5
    assert scaling(other.isel(basin=slice(0, 8))) == before
    other["prcp"].values[800] *= 5
    assert scaling(other.isel(basin=slice(0, 8))) != before
    x = before.scaled_attributes(some)
    assert x.mean(0).abs().max() < 0.1 and (x.std(0, correction=0) - 1).abs().max() < 0.1  # the filled one is not exact
    assert before.scaled_weather(data).shape == (2192, 12, 3)


def test_a_gap_is_filled_with_the_training_median_and_logged(data, caplog):
    found = scaling(data)
    with caplog.at_level(logging.INFO, "hybridsolve"):
        x = found.scaled_attributes(data)
    assert "attribute height is missing in 1 of 12 basins (b03)" in caplog.text
    median = float(np.nanmedian(data["height"].values))
    assert x[3, 1] == pytest.approx((median - found.attribute_mean[1]) / found.attribute_std[1])
    gone = data.assign(rock=("basin", np.array(["lime", "", None, np.nan, *["sand"] * 8], object)))
    with pytest.raises(ValueError, match="attribute 'rock' is missing in 3 of 12 basins"):
        scaling(gone)
    percent = data.assign(wetness=(100 * data["wetness"]).assign_attrs(units="%"))
    with pytest.raises(ValueError, match="'wetness' must be in '' as in training; found '%'"):
        found.scaled_attributes(percent)
    strange = data.isel(basin=[0, 1]).assign(rock=("basin", ["lime", "basalt"]))
    with pytest.raises(ValueError, match=r"attribute 'rock' is missing in 1 of 2 basins \(b01\): list it in fill"):
        found.scaled_attributes(strange)


BAD_INPUTS = {
    "a missing attribute": (dict(attributes=["depth"], fill=[]), "attribute 'depth' is not in the data"),
    "a constant one": (dict(attributes=["flat"], fill=[]), "attribute 'flat' is constant over the 12 training basins"),
    "an unlisted gap": (dict(fill=[]), r"attribute 'height' is missing in 1 of 12 basins \(b03\): list it in fill"),
    "early": (dict(periods={"train": "1999-01-01:2003-12-31"}), "asks for days outside the data"),
    "no room to warm up": (dict(batch={"days": 90, "warmup": 900}), "needs 900 days of warm-up before it"),
    "long windows": (dict(batch={"days": 900, "warmup": 9}), "batch.days is 900, and the training period has 730"),
}


@pytest.mark.parametrize("changes, message", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_said(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        hs.learn.train(data, small(**changes), out=tmp_path, progress=False)


def test_basins_that_cannot_be_used_are_named(data, tmp_path):
    blind = data.copy(deep=True)
    blind["qobs"].values[:, 5] = np.nan
    blind["prcp"].values[400:403, 7] = np.nan
    with pytest.raises(ValueError, match=r"basin b05 cannot be used: qobs has 0 values.*, and 1 more basins likewise"):
        hs.learn.train(blind, small(), out=tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="basin b07 .* prcp is missing on 3 days from 2001-02-04 to 2001-02-06"):
        hs.learn.train(blind.isel(basin=[1, 7]), small(), out=tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    with pytest.warns(UserWarning, match=r"2 of 12 basins are left out \(b05, b07\)"):
        result = hs.learn.experiment(blind, small(epochs=1), out=tmp_path / "b", progress=False, skip_unusable=True)
    trained = Trained.load(tmp_path / "b" / "seed0" / "trained.pt")
    assert len(trained.basins) == 10 and not {"b05", "b07"} & set(trained.basins)
    assert list(result["basin"].values) == trained.basins


def test_days_that_no_run_needs_may_be_missing(data, tmp_path):
    short = data.copy(deep=True)
    for name in ("prcp", "tmean", "pet"):
        short[name].values[:300, 4] = np.nan
        short[name].values[-200:, 6] = np.nan
    early = dict(train="2002-01-01:2003-12-31", validation="2004-01-01:2004-12-31", test="2005-01-01:2005-05-31")
    config = small(epochs=1, warmup_years=1.0, periods=early)
    results = [
        hs.learn.experiment(d, config, out=tmp_path / name, progress=False)
        for name, d in (("whole", data), ("short", short))
    ]
    xr.testing.assert_identical(*results)
    trained = Trained.load(tmp_path / "short" / "seed0" / "trained.pt")
    one, other = (trained.predict(d, "2004-01-01:2004-12-31") for d in (data, short))
    xr.testing.assert_identical(one, other)
    with pytest.raises(ValueError, match="basin b04 cannot be used: prcp is missing on 300 days from 2000-01-01"):
        trained.predict(short)
    with pytest.warns(UserWarning, match=r"2 of 12 basins are left out \(b04, b06\)"):
        assert trained.predict(short, skip_unusable=True).sizes["basin"] == 10


# --- Training ---------------------------------------------------------------------------------------------------------


def weights(trained):
    return {name: x.clone() for name, x in trained.module.state_dict().items()}


def median_nse(trained, data, period):
    flow = trained.predict(data, period)["streamflow"]
    return np.median(metrics.nse(flow.values, data["qobs"].sel(time=flow["time"]).values))


def test_training_learns(data, tmp_path):
    config = small(epochs=12, steps_per_epoch=12)
    trained = hs.learn.train(data, config, out=tmp_path / "long", progress=False, log="tensorboard")
    short = hs.learn.train(data, small(epochs=1, steps_per_epoch=1), out=tmp_path / "short", progress=False)
    long_run, one_step = (median_nse(t, data, config.periods.test) for t in (trained, short))
    assert long_run > 0.75 and long_run > one_step + 0.05
    assert list((tmp_path / "long" / "logs").rglob("events.*")) and list((tmp_path / "short").rglob("metrics.csv"))


@pytest.mark.parametrize("settings", (SMALL, RECURRENT, RECURRENT | dict(model="none", dynamic=[])))
@pytest.mark.parametrize("step", (4, 6))  # at the end of an epoch, and within one
def test_a_run_killed_and_resumed_ends_with_the_same_bits(data, tmp_path, monkeypatch, settings, step):
    settings = settings | dict(optimiser=dict(name="adam", learning_rate=0.02, schedule="cosine"))
    whole = hs.learn.train(data, settings, out=tmp_path / "whole", progress=False)
    run = training._Training.training_step

    def killed(self, *x):
        if self.global_step == step:
            raise MemoryError("killed")
        return run(self, *x)

    with monkeypatch.context() as m:
        m.setattr(training._Training, "training_step", killed)
        with pytest.raises(MemoryError, match="killed"):
            hs.learn.train(data, settings, out=tmp_path / "killed", progress=False)
    torch.manual_seed(999)
    resumed = hs.learn.train(data, settings, out=tmp_path / "killed", progress=False, resume=True)
    assert_same_bits(weights(resumed), weights(whole))
    assert hs.learn.train(data, settings, out=tmp_path / "killed", resume=True).basins == resumed.basins  # it is read
    other = hs.learn.train(data, settings | dict(seed=1), out=tmp_path / "other", progress=False)
    name = next(iter(weights(whole)))
    assert not torch.equal(weights(other)[name], weights(whole)[name])


def test_a_folder_belongs_to_one_training(data, tmp_path):
    hs.learn.train(data, small(epochs=1), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds a training already: set resume"):
        hs.learn.train(data, small(epochs=1), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds a training of another 'loss': resume with the config and data"):
        hs.learn.train(data, small(epochs=1, loss="rmse_comb"), out=tmp_path, progress=False, resume=True)
    turned = data.assign(wetness=("basin", data["wetness"].values[::-1]))
    with pytest.raises(ValueError, match="holds a training of another 'data'"):
        hs.learn.train(turned, small(epochs=1), out=tmp_path, progress=False, resume=True)
    with pytest.raises(ValueError, match="holds a training of another 'data'"):
        hs.learn.train(data.assign(pet=data["pet"].copy(data=2 * data["pet"].values)),
                       small(epochs=1), out=tmp_path, progress=False, resume=True)  # fmt: skip


@pytest.mark.parametrize("loss", ("rmse_comb", "nse", "kge"))
@pytest.mark.parametrize("optimiser", (dict(name="adadelta", learning_rate=1.0, clip=None), dict(name="adamw")))
def test_losses_and_optimisers(data, tmp_path, loss, optimiser):
    config = small(loss=loss, optimiser=optimiser, epochs=1, periods={"train": SMALL["periods"]["train"]})
    trained = hs.learn.train(data, config, out=tmp_path, progress=False)
    assert all(x.isfinite().all() for x in weights(trained).values())


def test_the_best_epoch_is_found_again_in_a_moved_folder(data, tmp_path, monkeypatch):
    """And when a run that has stopped early is resumed before its model was written."""
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.1, 0.1, 0.1])

    def scored(trained, data, period, attributes):
        obs = np.array([[0.0], [1.0], [2.0], [3.0]])
        return obs + np.sqrt((1 - next(scores)) * 1.25), obs

    monkeypatch.setattr(training, "predict_flow", scored)
    config = small(epochs=6, patience=2)
    trained = hs.learn.train(data, config, out=tmp_path / "here", progress=False)
    (tmp_path / "here" / "trained.pt").unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    again = hs.learn.train(data, config, out=tmp_path / "there", progress=False, resume=True)
    assert_same_bits(weights(again), weights(trained))
    assert torch.load(tmp_path / "there" / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1
    assert next(scores) == 0.1  # four epochs, none after


def test_the_choice_is_made_by_basins_that_have_a_score(data, tmp_path, caplog):
    gaps = data.copy(deep=True)
    late = (data["time"].dt.year == 2004).values
    gaps["qobs"].values[np.ix_(late, range(7))] = np.nan
    with caplog.at_level(logging.WARNING, "hybridsolve"):
        hs.learn.train(gaps, small(epochs=2), out=tmp_path / "a", progress=False)
    assert "7 of 12 basins have no varying observation in the validation period" in caplog.text
    table = next((tmp_path / "a").rglob("metrics.csv")).read_text()
    assert "nan" not in table
    gaps["qobs"].values[late] = np.nan
    with pytest.raises(ValueError, match="no basin has varying observations in the validation period"):
        hs.learn.train(gaps, small(epochs=2), out=tmp_path / "b", progress=False)


def test_early_stopping_looks_at_the_validation_period(data, tmp_path, monkeypatch):
    seen = []

    def worse(trained, data, period, attributes):
        seen.append(period)
        flow = np.full((3, 2), float(len(seen)))
        return flow, np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])

    monkeypatch.setattr(training, "predict_flow", worse)
    hs.learn.train(data, small(epochs=9, patience=2), out=tmp_path, progress=False)
    assert seen == ["2004-01-01:2004-12-31"] * 3


@pytest.mark.parametrize("settings", (SMALL, RECURRENT))
def test_a_nan_is_named(data, tmp_path, monkeypatch, settings):
    """A value, and a gradient, of one parameter in one basin."""
    make = training.make_module

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            g = g.clone()
            g[..., 2, :] = torch.nan
            return g

    def breaks(how):
        def of(config):
            module = make(config)
            split = module.network.layout.split

            def broken(*x):
                named = split(*x)
                if how == "value":
                    named["fc"] = named["fc"].index_fill(0, torch.tensor([2]), torch.nan)
                return named

            object.__setattr__(module.network, "layout", type("L", (), {"split": staticmethod(broken)}))
            if how == "gradient":
                # Behind the hook that watches, as the solver is.
                module.network.register_forward_hook(lambda *_: None)
                run = module.raw_parameters
                module.raw_parameters = lambda *x: {
                    n: Broken.apply(v) if n == "beta" else v for n, v in run(*x).items()
                }
            return module

        return of

    for how, name in (("value", "fc"), ("gradient", "beta")):
        monkeypatch.setattr(training, "make_module", breaks(how))
        message = rf"the {how} of parameter '{name}' is no longer finite in step 0 for basin b\d\d:"
        with pytest.raises(FloatingPointError, match=message):
            hs.learn.train(data, settings, out=tmp_path / how, progress=False)


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """A config and its data as files."""
    folder = tmp_path_factory.mktemp("files")
    data.to_netcdf(folder / "data.nc")
    (folder / "config.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


@pytest.mark.slow
def test_two_processes_train_together(files, tmp_path):
    """By DDP over gloo, each with batches of its own: other weights than of one process."""
    command = [sys.executable, "-m", "hybridsolve.cli", "train", str(files / "config.yaml"), str(files / "data.nc")]
    command += ["--accelerator", "cpu", "--set", "epochs=2"]
    for n in (1, 2):
        done = subprocess.run([*command, "--devices", str(n), "--out", str(tmp_path / str(n)), "--threads", "1"],
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (Trained.load(tmp_path / str(n) / "seed0" / "trained.pt") for n in (1, 2))
    assert any(not torch.equal(x, y) for x, y in zip(weights(one).values(), weights(two).values(), strict=True))
    assert (tmp_path / "2" / "report.md").exists()


# --- A trained model, and what it is tested with ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return hs.learn.train(data.isel(basin=slice(0, 9)), RECURRENT, out=folder, progress=False), folder / "trained.pt"


def test_a_trained_model_travels(data, trained, files, tmp_path):
    module, file = trained
    read = Trained.load(file)
    assert read.basins == [f"b{i:02d}" for i in range(9)] and read.versions["hybridsolve"] == hs.__version__
    assert read.config == module.config and read.scaling == module.scaling
    others, period = data.isel(basin=slice(7, 12)), "2004-03-01:2005-02-28"
    run = read.predict(others, period, ("streamflow", "aet", "swe"))
    assert_same_bits(
        {"q": torch.from_numpy(run["streamflow"].values)},
        {"q": torch.from_numpy(module.predict(others, period)["streamflow"].values)},
    )
    assert run["aet"].attrs["units"] == "mm d-1" and run["swe"].attrs["units"] == "mm" and run.sizes["time"] == 365
    out = tmp_path / "simulated.nc"
    assert cli.main(["simulate", "--trained", str(file), str(files / "data.nc"), "--basins", "b07,b11", "--period",
                     period, "--out", str(out)]) == 0  # fmt: skip
    with xr.open_dataset(out) as written:
        same = run["streamflow"].sel(basin=["b07", "b11"])
        np.testing.assert_allclose(written["streamflow"].values, same.values, rtol=1e-5)


def test_a_file_of_another_kind_is_refused(trained, tmp_path, monkeypatch):
    content = torch.load(trained[1], weights_only=True)
    with pytest.raises(FileNotFoundError, match="does not exist; expected trained.pt"):
        Trained.load(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="is damaged or not a trained model: give trained.pt"):
        Trained.load(tmp_path / "text.pt")
    for change, message in (
        (dict(format=99), "has format 99, written by hybridsolve"),
        (dict(bounds=content["bounds"] | {"fc": [0.0, 1.0]}), r"was trained with 'fc' in \[0.0, 1.0\]"),
        (dict(config=content["config"] | {"speed": 1}), "the key 'speed' is unknown"),
    ):
        torch.save(content | change, tmp_path / "changed.pt")
        with pytest.raises(ValueError, match=message):
            Trained.load(tmp_path / "changed.pt")


def test_predictions_refuse(data, trained):
    with pytest.raises(ValueError, match="asks for days outside the data"):
        trained[0].predict(data, "2005-01-01:2009-01-01")
    with pytest.raises(ValueError, match="attribute 'wetness' is not in the data"):
        trained[0].predict(data.drop_vars("wetness"))
    other = data.assign(pet=data["pet"].assign_attrs(method="oudin"))
    with pytest.raises(
        ValueError, match="'as in the data', found 'oudin' in the data; open them with their own"
    ):
        trained[0].predict(other)
    with pytest.raises(ValueError, match="has no flux 'snow'"):
        trained[0].predict(data, fluxes=("snow",))


@pytest.mark.parametrize("kind, folds", (("pub", 3), ("pur", 2)))
def test_held_out_basins_are_not_seen(data, tmp_path, kind, folds):
    result = hs.learn.experiment(
        data, SMALL, out=tmp_path, kind=kind, folds=folds, changes=["epochs=1"], seeds=[3, 4], progress=False
    )
    for k in range(folds):
        inside = set(data["basin"].values[result["fold"].values == k])
        trained = Trained.load(tmp_path / f"fold{k}-seed4" / "trained.pt")
        assert inside and not inside & set(trained.basins) and len(inside) + len(trained.basins) == 12
        alone = trained.predict(data.sel(basin=sorted(inside)), SMALL["periods"]["test"])["streamflow"].values
        other = Trained.load(tmp_path / f"fold{k}-seed3" / "trained.pt")
        both = (
            alone + other.predict(data.sel(basin=sorted(inside)), SMALL["periods"]["test"])["streamflow"].values
        ) / 2
        np.testing.assert_allclose(result["flow"].sel(basin=sorted(inside)).values, both, rtol=1e-5)
    with pytest.raises(ValueError, match="holds a training of another 'basins'"):  # it would know those held out
        hs.learn.experiment(data, SMALL, out=tmp_path, kind=kind, folds=folds + 1, changes=["epochs=1"], seeds=[3],
                            resume=True, progress=False)  # fmt: skip
    if kind == "pur":  # a region is whole in one fold
        for region in range(4):
            assert len(set(result["fold"].values[data["huc_02"].values == region])) == 1
    assert list(result["member"].values) == ["seed 3", "seed 4", "ensemble"]
    obs = result["obs"].values
    np.testing.assert_allclose(result["nse"].sel(member="ensemble").values, metrics.nse(result["flow"].values, obs))


def test_experiments_refuse(data, tmp_path):
    for options, message in (
        (dict(kind="time"), "unknown experiment 'time'; expected one of temporal, pub, pur"),
        (dict(kind="pub", folds=13), "folds must be from 2 to 12 here; found 13"),
        (dict(kind="pur", folds=9), "folds must be from 2 to 4 here; found 9"),
        (dict(changes=["periods.test=null"]), "an experiment needs periods.test"),
        (dict(seeds=[1, 1]), "seeds must be different whole numbers, one at least"),
        (dict(kind="pub", folds=2.5), "folds must be a whole number, 2 or more; found 2.5"),
        (dict(changes=["fill=[]"]), "attribute 'height' is missing in 1 of 12 basins"),
    ):
        with pytest.raises(ValueError, match=message):
            hs.learn.experiment(data, SMALL, out=tmp_path, **options)


def test_the_command_trains_tests_and_reports(files, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", str(files / "config.yaml"), str(files / "data.nc"), "--out", str(out), "--seeds", "0,1",
               "--set", "epochs=2"]  # fmt: skip
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"ensemble +-?\d\.\d{3}", printed) and "begin with report.md" in printed
    report = (out / "report.md").read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (out / name).stat().st_size > 5000
    assert "| LSTM | 531 | Maurer |" in report and "water balance" in report and "2 | **" in report
    with xr.open_dataset(out / "experiment.nc") as result:
        assert result["parameter_fc"].attrs["units"] == "mm" and result["aet"].attrs["units"] == "mm d-1"
        assert np.abs(result["balance"].values).max() < 1e-5
        flow = result["runoff"].values * data_mean(files, "prcp")
        np.testing.assert_allclose(flow, result["flow"].mean("time").values, rtol=0.25)  # of one seed, of both
    assert (out / "test_looks.log").read_text().count("\n") == 1
    assert cli.main([*command, "--resume"]) == 0  # nothing to train, the same report
    assert (out / "report.md").read_text().split("##")[2:] == report.split("##")[2:]
    assert cli.main([*command, "--resume", "--reference", "scores.csv"]) == 2
    assert "the reference scores belong to a training over" in capsys.readouterr().err


def data_mean(files, name):
    with xr.open_dataset(files / "data.nc") as data:
        return data[name].sel(time=slice("2005-01-01", "2005-12-31")).mean("time").values


@pytest.mark.slow
def test_real_catchments(tmp_path):
    """Sixty of CAMELS, by the recipe cut short; the long run's numbers stand in the README."""
    ids = Path(published("basins_531.txt")).read_text().split()[::9]
    data = read_camels(published("camels_us_671.nc"), basins=ids, pet="hargreaves")
    changes = ["epochs=3", "steps_per_epoch=60", "batch.basins=59"]
    result = hs.learn.experiment(data, "mlp-static", out=tmp_path, changes=changes, progress=False)
    assert float(result["nse"].median()) > 0.55
    assert np.abs(result["balance"].values).max() < 1e-4
    assert set(training_report.figure_makers(result)) >= {
        "scores",
        "map",
        "flow_duration",
        "bfi",
        "runoff",
        "parameter_fc",
    }
