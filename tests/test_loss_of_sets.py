"""The loss of many parameter sets: as of a run and a loss, however it is cut, with its gradient from the same pass."""

import pytest
import torch

import hybridsolve as hs
from benchmarks import parameter_sets
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.score import losses

T, B, S, WARMUP = 80, 5, 7, 20


def given(name="gr4j", dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64).to(dtype)  # noqa: E731
    model = hs.models.get(name)
    forcing = {"prcp": 20 * rand(T, B) ** 3, "pet": 3 * rand(T, 1), "tmean": 10 * rand(T, B) - 2}
    unit = {v.name: rand(B, S) for v in (*model.parameters, *model.routing_parameters)}
    obs = 3 * rand(T, B)
    obs[rand(T, B) < 0.1] = float("nan")
    return model, {n: forcing[n] for n in model.forcing_names}, model.parameters_from_unit(unit), obs


def plain(model, forcing, parameters, obs, loss):
    flow = simulate_to_gauge(model, forcing, parameters, components="each").fluxes[model.outflow]
    return losses.get(loss)(obs[WARMUP:])(flow[WARMUP:])


@pytest.mark.parametrize("loss", ["nse", "0.5*kge(q)+0.5*kge(sqrt q)"])
@pytest.mark.parametrize("memory", [1e9, 8 * T * S * 2, 8 * T * 3, 1.0])
@pytest.mark.parametrize("name", ["gr4j", "hbv11p"])
def test_it_is_the_loss_of_the_flow_with_its_gradient(name, memory, loss):
    model, forcing, parameters, obs = given(name)
    first = model.parameter_names[0]
    parameters[first] = parameters[first][:1]  # shared by the basins, so that its gradient is their sum
    names = (*model.parameter_names[:3], *model.routing_parameter_names[:1])
    leaves = parameters | {n: parameters[n].clone().requires_grad_(True) for n in names}
    weight = torch.rand(B, S, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = plain(model, forcing, leaves, obs, loss)
    found = hs.loss_of_sets(model, forcing, leaves, obs, loss=loss, warmup=WARMUP, memory=memory)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    wanted = [leaves[n] for n in names]
    for ours, oracle in zip(
        torch.autograd.grad((found * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        again = hs.loss_of_sets(name, forcing, leaves, obs, loss=loss, warmup=WARMUP, memory=memory)
    torch.testing.assert_close(again, found.detach(), rtol=1e-13, atol=1e-13)
    assert not again.requires_grad


def test_parts_give_the_numbers_of_the_whole_in_single_precision():
    model, forcing, parameters, obs = given(dtype=torch.float32)
    whole, cut = (hs.loss_of_sets(model, forcing, parameters, obs, memory=memory) for memory in (1e9, 4 * T * S * 2))
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=0)
    assert whole.dtype == torch.float32


def test_inputs_are_cut_too():
    model = hs.models.get("cemaneige+gr4j")
    _, forcing, parameters, obs = given("cemaneige+gr4j")
    inputs = {"annual_snowfall": torch.linspace(20, 300, B, dtype=torch.float64)}
    found = hs.loss_of_sets(model, forcing, parameters, obs, inputs=inputs, memory=1.0)
    flow = hs.simulate(model, forcing, parameters, inputs=inputs, components="each").fluxes["streamflow"]
    torch.testing.assert_close(found, losses.get("nse")(obs)(flow), rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_refused():
    model, forcing, parameters, obs = given()
    blank = obs.clone()
    blank[:, 3] = float("nan")
    moving = forcing | {"prcp": forcing["prcp"].clone().requires_grad_(True)}
    for change, error, message in (
        (dict(loss="rmse_comb"), ValueError, "loss must be one of a basin, nse, kge, .* found 'rmse_comb'"),
        (dict(forcing=moving), ValueError, "forcing 'prcp' must not require a gradient"),
        (dict(parameters=parameters | {"x1": torch.ones(3)}), ValueError, r"'x1' must be \[5, 7\], .* found \[3\]"),
        (
            dict(parameters=parameters | {"x1": torch.ones(5, 6)}),
            ValueError,
            r"'x1' must be \[5, 7\], .* found \[5, 6\]",
        ),
        (dict(warmup=T), ValueError, "more steps than the warm-up's 80"),
        (dict(obs=obs[:, :2]), ValueError, r"forcing 'prcp' must be \[80, 2\], for 2 basins as obs has"),
        (dict(obs=obs.float()), TypeError, "sim must be torch.float32"),
        (dict(obs=blank), losses.UnusableObservations, "does not hold for basin 1: .* counted from 2"),
    ):
        options = dict(forcing=forcing, parameters=parameters, obs=obs, memory=8 * T * S * 2) | change
        with pytest.raises(error, match=message) as raised:
            hs.loss_of_sets(model, options.pop("forcing"), options.pop("parameters"), options.pop("obs"), **options)
    assert raised.value.basins == [3]


def test_the_benchmark_goes_all_the_way(tmp_path, capsys):
    small = ["--basins", "6", "--sets", "3", "--days", "200", "--csv", str(tmp_path / "rows.csv")]
    rows = parameter_sets.main(small)
    assert [row["mode"] for row in rows] == ["loss", "loss + gradient"] and (tmp_path / "rows.csv").exists()
    assert all(float(row["seconds"]) > 0 and float(row["peak_MiB"]) >= 0 for row in rows)
