"""The recipe with static parameters in front of any model: scales, fixed parameters and inputs are its table's."""

import numpy as np
import pytest
import torch
from models.toy import toy
from test_training_toy import CONFIG as TOY
from test_training_toy import make as make_toy
from trainings import QUICK, learnable

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.data import write_netcdf
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.training.config import read_config
from hybridsolve.training.loop import train
from hybridsolve.training.trained import Trained, make_module

PERIODS = dict(train="2002-01-01:2003-12-31", validation="2004-01-01:2004-12-31", test="2005-01-01:2005-12-31")
CHANGES = [
    "attributes=[wetness, height, rock]",
    "fill=[height]",
    "components=2",
    "pet=null",
    "network.hidden=[16]",
    "batch={basins: 6, days: 120, warmup: 90}",
    "warmup_years=1.0",
    "epochs=2",
    "steps_per_epoch=6",
    "optimiser.learning_rate=0.02",
    *(f"periods.{name}={value}" for name, value in PERIODS.items()),
]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(hs.models.MODELS, "toy", toy)


@pytest.fixture(scope="module")
def data():
    """With the elevation and latitude that some models take."""
    found = learnable()
    n = found.sizes["basin"]
    found["elev_mean"] = ("basin", np.linspace(100.0, 1500.0, n).astype(np.float32), {"units": "m"})
    return found


def recipe(model, **changes):
    return read_config("mlp-static", [*CHANGES, f"model={model}", *(f"{k}={v}" for k, v in changes.items())])


@pytest.mark.parametrize("model", ["gr4j", "cemaneige+gr4j", "pet_factor+hbv11p", "snow17+sacsma", "exphydro"])
def test_what_is_learned_is_what_the_table_frees(model):
    config, spec = recipe(model), hs.models.get(model)
    layout = config.layout
    assert layout.names + layout.routing_names == tuple(v.name for v in spec.free_parameters)
    fixed = {v.name for v in spec.parameters} - set(layout.names)
    if model == "snow17+sacsma":
        assert fixed == {"snof", *(f"adc_{i}" for i in range(1, 12)), "side", "riva", "rserv"}
    module = make_module(config)
    with torch.no_grad():
        found = module.parameters_of(torch.randn(50, 3))
    for v in spec.free_parameters:
        assert (found[v.name] >= v.lower * (1 - 1e-5) - 1e-6).all() and (found[v.name] <= v.upper * (1 + 1e-5)).all()
        middle = v.from_unit(0.5)  # on a log scale the geometric mean
        assert abs(found[v.name].median() - middle) < 0.2 * (v.upper - v.lower), v.name
    assert not fixed & set(found)


def test_fixed_parameters_are_the_defaults(data):
    """SAC-SMA behind Snow-17 with what its table fixes given and left out."""
    config, spec = recipe("snow17+sacsma"), hs.models.get("snow17+sacsma")
    module = make_module(config, backend="reference").eval()
    random = np.random.default_rng(0)
    forcing = {"prcp": random.gamma(0.5, 6, (5, 2)), "tmean": random.normal(3, 4, (5, 2)), "pet": np.ones((5, 2))}
    forcing = {n: torch.from_numpy(x).float() for n, x in forcing.items()} | {"snow_day": torch.full((5, 1), 300.0)}
    inputs = {v.name: torch.tensor([40.0, 45.0]) for v in spec.inputs}
    attributes = torch.rand(2, 3)
    with torch.no_grad():
        flow = module(forcing, attributes, inputs=inputs).fluxes["streamflow"]
        values = module.parameters_of(attributes)
        whole = {v.name: torch.full((1, 1), v.default) for v in spec.parameters if not v.free} | values
        run = simulate_to_gauge(spec, forcing, whole, inputs=inputs, backend="reference")
    torch.testing.assert_close(flow, run.fluxes["streamflow"])
    assert {v.name: v.default for v in spec.parameters if not v.free} == {
        "snof": 4.8, "riva": 0.0, "side": 0.0, "rserv": 0.3,
        **{f"adc_{i}": x for i, x in enumerate((0.05, 0.15, 0.26, 0.45, 0.5, 0.56, 0.61, 0.65, 0.69, 0.82, 1.0), 1)},
    }  # fmt: skip


@pytest.mark.parametrize("model", ["gr4j", "cemaneige+gr4j"])
def test_the_recipe_trains_it_from_the_command_line(model, data, tmp_path, capsys):
    write_netcdf(data, tmp_path / "data.nc")
    command = ["train", "mlp-static", str(tmp_path / "data.nc"), "--model", model, "--out", str(tmp_path / "out")]
    command += [part for change in CHANGES for part in ("--set", change)]
    assert cli.main([*command, "--accelerator", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"mlp-static, model {model}, temporal, 12 basins" in said
    (file,) = tmp_path.glob("out/**/trained.pt")
    trained = Trained.load(file)
    assert trained.config.model == model
    flow = trained.predict(data, PERIODS["test"])["streamflow"].values
    assert np.isfinite(flow).all() and flow.std() > 0
    assert (
        cli.main(["simulate", "--trained", str(file), str(tmp_path / "data.nc"), "--out", str(tmp_path / "s.nc")]) == 0
    )


def test_training_moves_the_parameters_of_any_model(data, tmp_path):
    """More epochs fit better than a few, of GR4J and of the toy, whose delay line has a parameter too."""

    def loss_after(epochs, name):
        if name == "toy":
            trained = train(
                toy_data, TOY | dict(epochs=epochs), out=tmp_path / f"{name}{epochs}", backend="reference", **QUICK
            )
            days, observed = TOY["periods"]["train"], toy_data
        else:
            trained = train(data, recipe(name, epochs=epochs), out=tmp_path / f"{name}{epochs}", **QUICK)
            days, observed = PERIODS["train"], data
        found = trained.predict(observed, days)
        flow = found[trained.module.outflow].values
        first, last = days.split(":")
        obs = observed["qobs"].sel(time=slice(first, last)).values
        return np.nanmean((flow - obs) ** 2)

    toy_data = make_toy()
    for name in ("gr4j", "toy"):
        assert loss_after(6, name) < 0.97 * loss_after(1, name), name
