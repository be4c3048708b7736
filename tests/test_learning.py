"""Settings of a training, what a network sees, and how it is trained, resumed and chosen."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import assert_same_bits
from trainings import CORRECTED, RECURRENT, SMALL, learnable, small

import hybridsolve as hs
from hybridsolve.data.camels import CAMELS_DISCHARGE_SIGNATURES
from hybridsolve.score import metrics
from hybridsolve.training import loop as training
from hybridsolve.training.config import read_config, recipes
from hybridsolve.training.inputs import NEVER_INPUTS, Scaling
from hybridsolve.training.trained import Trained


@pytest.fixture(scope="module")
def data():
    return learnable()


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
    "a loss": (["loss=mse"], "'loss': a loss's name must be one of nse"),
    "a test year seen": (["periods.test=2003-06-01:2005-01-01"], "the test period .* overlaps the train period"),
    "no date": (["periods.train=2003"], "'periods.train'.* does not fit"),
    "weather for an mlp": (["weather=[prcp]"], "weather must be empty for a network of this kind"),
    "dynamic in an mlp": (["dynamic=[beta]"], "an mlp sees no weather"),
    "fill of a stranger": (["fill=[depth]"], "fill names 'depth', which is not among the attributes"),
    "twice": (["attributes=[wetness, wetness]", "fill=[]"], "attributes names something twice"),
    "validation seen": (["periods.validation=2003-06-01:2004-01-01"], "the validation period .* overlaps the train"),
    "no choice": (["periods.validation=null", "patience=3"], "patience needs periods.validation"),
    "a last epoch not looked at": (["validate_every=2"], "epochs must be a multiple of validate_every"),
    "no period": (["network.kind=gru", "weather=[prcp]"], "network.state belongs to a gru, and a gru needs it"),
    "a period of an mlp": (["network.period=7"], "network.period belongs to a gru, and a gru needs it"),
    "nothing to correct": (
        ["network={kind: gru, state: 4, period: 7}", "weather=[prcp]"],
        "a gru corrects dynamic parameters; found none",
    ),
    "no attribute to begin with": (
        ["network={kind: gru, state: 4, period: 7}", "weather=[prcp]", "dynamic=[k0]", "attributes=[]", "fill=[]"],
        "attributes must name one at least for a gru",
    ),
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


@pytest.mark.parametrize(
    "settings, step",  # at the end of an epoch, and within one
    ((SMALL, 4), (SMALL, 6), (RECURRENT, 6), (CORRECTED, 6), (RECURRENT | dict(model="none", dynamic=[]), 4)),
    ids=("mlp, whole epoch", "mlp", "lstm", "gru", "no model, whole epoch"),
)
def test_a_run_killed_and_resumed_ends_with_the_same_bits(data, tmp_path, monkeypatch, settings, step):
    settings = settings | dict(epochs=2, optimiser=dict(name="adam", learning_rate=0.02, schedule="cosine"))
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


def test_a_training_of_a_version_with_fewer_settings_is_known_again(data, tmp_path):
    whole = hs.learn.train(data, small(epochs=1), out=tmp_path, progress=False)
    kept = tmp_path / "training.yaml"
    record = yaml.safe_load(kept.read_text())
    del record["learned"], record["network"]["state"], record["network"]["period"]
    kept.write_text(yaml.safe_dump(record))
    (tmp_path / "trained.pt").unlink()
    resumed = hs.learn.train(data, small(epochs=1), out=tmp_path, progress=False, resume=True)
    assert_same_bits(weights(resumed), weights(whole))
    del record["network"]["hidden"]  # which was another than the default
    kept.write_text(yaml.safe_dump(record))
    with pytest.raises(ValueError, match="holds a training of another 'network'"):
        hs.learn.train(data, small(epochs=1), out=tmp_path, progress=False, resume=True)


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
        def of(config, backend):
            module = make(config, backend)
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
def test_two_processes_train_together(data, files, tmp_path):
    """By DDP over gloo, each with batches of its own: other weights than of one process."""
    command = [sys.executable, "-m", "hybridsolve.cli", "train", str(files / "config.yaml"), str(files / "data.nc")]
    command += ["--accelerator", "cpu", "--set", "epochs=1", "--devices", "2", "--threads", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path / "2")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    two = Trained.load(tmp_path / "2" / "seed0" / "trained.pt")
    one = hs.learn.train(data, small(epochs=1), out=tmp_path / "1", progress=False, accelerator="cpu")
    assert any(not torch.equal(x, y) for x, y in zip(weights(one).values(), weights(two).values(), strict=True))
    assert (tmp_path / "2" / "report.md").exists()
