"""Networks inside a step, trained with the parameters: the recipes, cut short, and wherever a trained model runs."""

import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_close, assert_same_bits
from test_training_any_model import CHANGES, PERIODS
from trainings import QUICK, learnable, said_by

import hybridsolve as hs
from hybridsolve import cli, plot, scale
from hybridsolve.data import write_netcdf
from hybridsolve.nn import MLP, DifferentiableModel, Layout
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.scale import stream
from hybridsolve.training import loop
from hybridsolve.training.config import read_config
from hybridsolve.training.experiments import experiment
from hybridsolve.training.fluxes import learned_fluxes
from hybridsolve.training.loop import train
from hybridsolve.training.report import figure_makers, write_experiment
from hybridsolve.training.trained import Trained, make_module

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")
RECIPES = ("hybrid-hbv", "hybrid-exphydro")


@pytest.fixture(scope="module")
def data():
    return learnable()


def recipe(name="hybrid-hbv", *changes):
    return read_config(name, [*CHANGES, "validate_every=1", *changes])


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return train(data, recipe(request.param), out=folder, **QUICK), folder / "trained.pt"


def weights(trained):
    return trained.module.state_dict()


def test_a_training_moves_parameters_and_fluxes(data, trained):
    learned, _ = trained
    torch.manual_seed(learned.config.seed)
    first = Trained.of(make_module(learned.config), learned.config, learned.scaling, data)
    before = weights(first)
    assert {n.split(".")[0] for n in before} == {"network", "fluxes"}
    assert all(not torch.equal(x, before[n]) for n, x in weights(learned).items())

    def error(trained):
        flow = trained.predict(data, PERIODS["train"])["streamflow"]
        return float(((flow - data["qobs"].sel(time=flow["time"])) ** 2).mean())

    assert error(learned) < 0.9 * error(first)


def test_a_run_killed_and_resumed_ends_with_the_same_bits(data, trained, tmp_path, monkeypatch):
    run = loop._Training.training_step

    def killed(self, *x):
        if self.global_step == 8:
            raise MemoryError("killed")
        return run(self, *x)

    with monkeypatch.context() as m:
        m.setattr(loop._Training, "training_step", killed)
        with pytest.raises(MemoryError, match="killed"):
            train(data, trained[0].config, out=tmp_path, **QUICK)
    resumed = train(data, trained[0].config, out=tmp_path, resume=True, **QUICK)
    assert_same_bits(weights(resumed), weights(trained[0]))


def test_a_trained_model_runs_as_its_own_forward(data, trained, tmp_path):
    """Read from its file, from the command line, over a continent, and called by hand with parameters and weights."""
    learned, file = trained
    period = "2004-01-01:2004-12-31"
    expected = learned.predict(data, period)["streamflow"]
    np.testing.assert_array_equal(Trained.load(file).predict(data, period)["streamflow"].values, expected.values)
    write_netcdf(data, tmp_path / "data.nc")
    command = ["simulate", "--trained", str(file), str(tmp_path / "data.nc"), "--period", period]
    assert cli.main([*command, "--out", str(tmp_path / "out.nc")]) == 0
    with xr.open_dataset(tmp_path / "out.nc") as found:
        np.testing.assert_allclose(found["streamflow"].values, expected.values, rtol=1e-5)
    found = learned.parameters(data)
    values = {n: torch.from_numpy(x.values).reshape(12, -1) for n, x in found.data_vars.items()}
    forcing = {n: torch.from_numpy(data[n].values) for n in ("prcp", "tmean", "pet")}
    with torch.no_grad():
        run = simulate_to_gauge(learned.config.model, forcing, values, networks=learned.module.weights())
    settings = dict(
        forcing=str(tmp_path / "data.nc"), trained=str(file), out=str(tmp_path / "run"), window=500, block=5
    )
    scale.run(settings, progress=False)
    continental = scale.open_run(tmp_path / "run").load()["streamflow"].values
    np.testing.assert_array_equal(continental, run.fluxes["streamflow"].numpy())


def test_other_networks_are_refused(data, trained, tmp_path, capsys):
    learned, file = trained
    content = torch.load(file, weights_only=True)
    name = next(n for n in content["weights"] if n.startswith("fluxes."))
    for change, message in (
        (lambda w: w[:3], f"'{name}' must have shape"),
        (lambda w: w.double(), f"'{name}' must be torch.float32, found torch.float64: take the file"),
        (lambda w: w * torch.nan, f"not finite, in '{name}'"),
    ):
        changed = content | {"weights": content["weights"] | {name: change(content["weights"][name])}}
        torch.save(changed, tmp_path / "changed.pt")
        with pytest.raises(ValueError, match=message):
            Trained.load(tmp_path / "changed.pt")
    module = make_module(learned.config)
    attributes, forcing = torch.rand(12, 3), {n: torch.from_numpy(data[n].values[:9]) for n in ("prcp", "tmean", "pet")}
    first = next(iter(module.fluxes))
    module.fluxes[first] = module.fluxes[first].double()
    with pytest.raises(ValueError, match=f"networks '{first}' must be torch.float32 .*; found torch.float64"):
        module(forcing, attributes)
    module.fluxes[first] = hs.nn.FluxNetwork(learned.config.model, first, basins=7)
    with pytest.raises(ValueError, match=f"networks '{first}' has B = 7, but forcing 'prcp' has 12"):
        module(forcing, attributes)
    write_netcdf(data, tmp_path / "data.nc")
    learned.parameters(data).isel(component=0).assign_attrs(model=learned.config.model).to_netcdf(tmp_path / "p.nc")
    command = ["run", "--forcing", tmp_path / "data.nc", "--parameters", tmp_path / "p.nc", "--out", tmp_path / "run"]
    assert "calls the network" in (said := said_by(capsys, command)) and "give trained in place of" in said


def test_gradients_that_are_no_longer_finite_are_named(data, tmp_path, monkeypatch):
    for of, change, message in (
        (DifferentiableModel, lambda w: {"soil": w["soil"] + (w["soil"] - w["soil"].detach()).sqrt()}, "the gradient"),
        (hs.nn.FluxNetwork, lambda w: w * torch.nan, "the weights"),
    ):
        name = "weights" if of is DifferentiableModel else "forward"
        made = getattr(of, name)
        monkeypatch.setattr(of, name, lambda self, made=made, change=change: change(made(self)))
        with pytest.raises(
            FloatingPointError, match=f"{message} of the network 'soil' inside the step is no longer fin"
        ):
            train(data, recipe(), out=tmp_path, overwrite=True, **QUICK)


# --- What was learned ---------------------------------------------------------------------------------------------


def test_what_the_networks_have_learned(data, trained):
    """The fluxes of the networks at what they see, by their chains, and those of the formulas by hand."""
    learned, _ = trained
    found = learned_fluxes(learned, data, PERIODS["test"])
    draws = {n: torch.from_numpy(x.values) for n, x in found.data_vars.items()}

    def outputs(network):
        seen = [x for n, x in draws.items() if n.startswith(f"seen_{network}_")]
        with torch.no_grad():
            return torch.sigmoid(learned.module.fluxes[network].chains[0](torch.stack(seen, -1))).unbind(-1)

    if learned.config.name == "hybrid-hbv":
        assert_close({"x": draws["learned_soil_evapfactor"]}, {"x": outputs("soil")[1]}, 1e-5)
        fill = draws["seen_soil_0"]
        assert fill.std() > 0.01 and found["seen_soil_0"].attrs["long_name"] == "sm / fc"
        formula = draws["formula_soil_evapfactor"]
        assert ((formula > 0) & (formula <= 1)).all() and (formula[fill > 0.9] > 0.5).all()
    else:
        pet = 5 * draws["seen_evaporation_1"]
        wetness = draws["seen_evaporation_0"]
        part = (wetness > 0.15) & (wetness < 0.97)  # of a capacity of 100 mm at least: neither empty nor full
        assert part.sum() > 20
        learned_there, expected = draws["learned_evaporation_aet"][part], (2 * pet * outputs("evaporation")[0])[part]
        assert_close({"x": learned_there}, {"x": expected}, 1e-5)
        assert_close({"x": draws["formula_evaporation_aet"][part]}, {"x": (pet * wetness)[part]}, 1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_they_are_those_of_the_run(data, name):
    """Of one component, at the steps that were drawn."""
    config = recipe(name, "components=1")
    untrained = Trained.of(make_module(config).eval(), config, loop.fit_scaling(data, config), data)
    found, (network, fluxes) = (
        learned_fluxes(untrained, data, PERIODS["test"]),
        next(iter(config.inside.fluxes.items())),
    )
    series = untrained.predict(data, PERIODS["test"], fluxes)
    steps = found["sampled"].values
    assert steps.min() >= 0 and len(np.unique(steps)) > 100
    for flux in fluxes:
        expected = torch.from_numpy(series[flux].values[steps, np.arange(12)[:, None]])
        assert_close({flux: torch.from_numpy(found[f"learned_{network}_{flux}"].values)}, {flux: expected}, 1e-4)


def test_the_report_draws_it(data, tmp_path):
    result = experiment(data, recipe("hybrid-hbv", "epochs=1"), out=tmp_path, **QUICK)
    assert np.abs(result["balance"].values).max() < 1e-5
    write_experiment(result.drop_vars(["lat", "lon"]), tmp_path)  # maps are slow
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for name in ("learned_soil_recharge", "learned_soil_evapfactor"):
        assert (tmp_path / f"{name}.png").exists() and f"![{name}]({name}.png)" in text
        assert name.replace("_", " ") in page
    figure = figure_makers(result)["learned_soil_evapfactor"]()
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[0] == "sm / fc" and "site_1" in labels
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["network", "formula"]
    alone = result.drop_vars([n for n in result.data_vars if str(n).startswith("formula_")])
    figure = figure_makers(alone)["learned_soil_evapfactor"]()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["network"]


def test_a_flux_is_drawn_by_its_medians():
    x, no = np.random.default_rng(0).permutation(1000) / 1000, np.zeros(1000)
    figure = plot.learned_flux({"x": x, "y": -x}, 3 * x, 2 * x, "aet", "evapotranspiration", "mm d-1")
    for axes, sign in zip(figure.axes, (1, -1), strict=True):
        for line, slope in zip(axes.get_lines(), (3, 2), strict=True):
            assert len(line.get_xdata()) == 20
            np.testing.assert_allclose(line.get_ydata(), slope * sign * np.asarray(line.get_xdata()), atol=1e-2)
    dry = plot.learned_flux({"x": x}, 1.0 * (x > 0.5), None, "aet", "evapotranspiration")
    assert "499 steps" in dry.get_suptitle() and dry.axes[0].get_lines()[0].get_xdata().min() > 0.5
    with pytest.raises(ValueError, match="aet must have inputs and be above 0 somewhere"):
        plot.learned_flux({"x": x}, no, None, "aet", "evapotranspiration")
    with pytest.raises(ValueError, match="formula must have shape"):
        plot.learned_flux({"x": x}, x, x[:9], "aet", "evapotranspiration")


WRONG = {
    "no network": ("inside.fluxes={rain: [aet]}", "the network 'rain', which the step of hybrid_hbv does not call"),
    "no flux": ("inside.fluxes={soil: [melting]}", "'melting', which is no flux of hybrid_hbv"),
    "no formula": ("inside.formulas=gr4j", "'recharge', which is no flux of gr4j"),
    "other stores": ("inside={formulas: shm, fluxes: {soil: [aet]}}", "a model of the same stores and weather"),
    "networks": ("inside.formulas=hybrid_hbv", "a model without networks and delay lines; found hybrid_hbv"),
}


@pytest.mark.fast
@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_what_is_to_be_drawn_must_be_there(change, message):
    with pytest.raises(ValueError, match=message):
        recipe("hybrid-hbv", change)


# --- In pieces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_basins", [False, True])
def test_pieces_give_the_numbers_of_the_whole(of_basins, monkeypatch):
    monkeypatch.setattr(stream, "FILLS_A_CARD", 6)
    model, draw = hs.models.get("hybrid_hbv"), torch.Generator().manual_seed(0)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    T, B, C = 23, 7, 2
    forcing = dict(prcp=20 * uniform(T, B), tmean=20 * uniform(T, B) - 5, pet=5 * uniform(T, B))
    parameters = model.parameters_from_unit({v.name: uniform(B, C) for v in model.parameters})
    size = hs.nn.FluxNetwork(model).network.weights
    networks = {"soil": (2 * uniform(B, size) - 1 if of_basins else 2 * uniform(size) - 1).requires_grad_()}
    leaves = [networks["soil"], parameters["fc"].requires_grad_()]

    def both_ways(run):
        flow = run.fluxes["streamflow"]
        d = torch.autograd.grad((flow * flow.detach()).sum(), leaves)
        return {"flow": flow.detach()}, {"weights": d[0], "fc": d[1]}

    flow, gradients = both_ways(hs.simulate(model, forcing, parameters, networks=networks))
    run = scale.simulate(model, forcing, parameters, networks=networks, device="cpu", memory=9_000)
    assert run.plan.basins < B and run.plan.steps < T
    found = both_ways(run)
    assert_same_bits(found[0], flow)
    assert_close(found[1], gradients, 1e-12)


def test_the_oracle_compiles():
    model = hs.models.get("hybrid_hbv")
    forcing = {v.name: torch.full((1, 1), 5.0) for v in model.forcings}
    parameters = model.parameters_from_unit({v.name: torch.full((1, 1), 0.4) for v in model.parameters})

    def loss(weights):
        run = hs.simulate(model, forcing, parameters, networks={"soil": weights}, backend="reference")
        return sum(x.sum() for x in run.final_state.values())

    leaf = hs.nn.FluxNetwork(model)().detach().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    both = [(y, *torch.autograd.grad(y, leaf)) for y in (compiled(leaf), loss(leaf))]
    assert_close(*({"loss": x.detach(), "gradient": d} for x, d in both), 1e-6)


@pytest.mark.fast
def test_the_joined_model_has_the_networks_of_its_step():
    module = DifferentiableModel("hybrid_exphydro", MLP(Layout("hybrid_exphydro", 2), 3, [4]))
    assert {name: len(w) for name, w in module.weights().items()} == {"evaporation": 161, "discharge": 129}
    assert not DifferentiableModel("hbv10", MLP(Layout("hbv10", 2), 3, [4])).fluxes
