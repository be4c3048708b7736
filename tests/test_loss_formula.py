"""Weighted sums of losses, of transformed flow too: their text, values, gradients, and both searches by them."""

import numpy as np
import pytest
import torch
from models.toy import toy
from test_calibration_of_any_model import fit, made, period, registered  # noqa: F401 - a fixture
from test_losses import NAN, flows

import hybridsolve as hs
from hybridsolve.calibration import forward
from hybridsolve.calibration.fit import check_arguments
from hybridsolve.calibration.objective import Objective
from hybridsolve.calibration.search import starting_points
from hybridsolve.calibration.space import search_space
from hybridsolve.calibration.windows import window
from hybridsolve.score import losses, metrics
from hybridsolve.score.formula import FLOWS
from hybridsolve.training.batches import loss_of
from hybridsolve.training.config import read_config

pytestmark = pytest.mark.filterwarnings("ignore:after the warm-up", "ignore:the data begin", "ignore:flow does not")
BOTH = "0.5*kge(q)+0.5*kge(sqrt q)"
SUMS = [f"{name}({flow})" for name in ("nse", "kge") for flow in FLOWS] + [BOTH, "nse_log + 2 * kge(1 / q)"]


@pytest.mark.parametrize(
    "text, written, squares",
    [
        ("nse", "nse", "nse"),
        ("kge(q)", "kge", "nse"),
        ("nse(sqrt q)", "nse_sqrt", "nse_sqrt"),
        (" 0.5 * kge( Q ) + .5*kge(sqrt(q)) ", BOTH.replace("(q)", ""), "0.5*nse+0.5*nse_sqrt"),
        ("0.25*nse+0.75*kge", "0.25*nse+0.75*kge", "nse"),
        ("1e-1*kge(1 / q)+rmse_comb", "0.1*kge(1/q)+rmse_comb", "0.1*nse(1/q)+rmse_comb"),
    ],
)
def test_a_loss_is_written_in_one_way(text, written, squares):
    assert losses.written(text) == written == losses.written(written)
    assert losses.squares(text) == squares


@pytest.mark.parametrize(
    "text, message",
    [
        ("0.5*kge(q)+0.5*kgb(q)", r"name must be one of nse, kge, .* found 'kgb' in loss '0\.5\*kge\(q\)\+0\.5\*kgb"),
        ("kge(q)-kge(sqrt q)", r"must be a sum of terms .* found '-kge\(sqrt q\)' where a term or a \+ should be"),
        ("kge(q)+", "found 'nothing' where"),
        ("", "found 'nothing' where"),
        ("0.5kge", "found '0.5kge' where"),
        ("kge(q", r"found '\(q' where"),
        ("kge(q^2)", r"kge in loss 'kge\(q\^2\)' must be of q, sqrt q, log q or 1/q, found 'q\^2'"),
        ("0*kge(q)", "the weight of kge in loss .* must be above 0 and finite, found 0"),
        ("1e999*kge(q)", "the weight of kge in loss .* must be above 0 and finite, found 1e999"),
        ("nse_log(log q)", "nse_log in loss .* must be of q, found 'log q': take one of nse, kge"),
        ("rmse_comb(sqrt q)", "rmse_comb in loss .* must be of q"),
        (3, "a loss must be text, found 3"),
    ],
)
def test_what_is_no_loss_is_refused_by_the_token(text, message):
    with pytest.raises(ValueError, match=message):
        losses.get(text)


@pytest.mark.parametrize("text", SUMS)
def test_a_sum_is_the_weighted_sum_of_the_scores(text):
    sim, obs = flows(200, 5, 3)
    value = losses.get(text)(obs)(sim)
    worth = sum(term.weight for term in losses.terms(text))
    for c in range(3):
        want = metrics.of_loss(sim[..., c].numpy(), obs.numpy(), text)
        np.testing.assert_allclose(worth - value[:, c].numpy(), want, rtol=1e-9, atol=1e-9)
    single = losses.get(text)(obs.float())(sim.float())
    torch.testing.assert_close(single.double(), value, rtol=2e-4, atol=2e-5)


def test_the_parts_are_what_they_say():
    """Against numpy, with the shift of a hundredth of the mean."""
    sim, obs = flows(80, 1)
    seen = ~torch.isnan(obs[:, 0])
    s, o = sim[seen, 0].numpy(), obs[seen, 0].numpy()
    g = lambda x: 1 / (x + o.mean() / 100)  # noqa: E731
    nse = 1 - ((g(s) - g(o)) ** 2).sum() / ((g(o) - g(o).mean()) ** 2).sum()
    root = lambda x: np.sqrt(x + o.mean() / 100)  # noqa: E731
    r = np.corrcoef(root(s), root(o))[0, 1]
    kge = 1 - np.sqrt(
        (r - 1) ** 2 + (root(s).std() / root(o).std() - 1) ** 2 + (root(s).mean() / root(o).mean() - 1) ** 2
    )
    value = losses.get("2*nse(1/q)+0.5*kge(sqrt q)")(obs)(sim)
    np.testing.assert_allclose(value.numpy(), [2 * (1 - nse) + 0.5 * (1 - kge)], rtol=1e-11)


@pytest.mark.parametrize("text", SUMS)
@pytest.mark.parametrize("starts", [None, 2])
def test_gradients_at_flows_of_zero_and_days_without_observation(text, starts):
    sim, obs = flows(12, 2, starts)
    sim[2:4] = 0.0
    obs[5:7] = 0.0
    missing = torch.isnan(obs)
    assert missing.any()
    loss = losses.get(text)(obs)
    assert torch.autograd.gradcheck(loss, (sim.clone().requires_grad_(True),))
    dirty = torch.where(missing if starts is None else missing[..., None], NAN, sim).requires_grad_(True)
    (d,) = torch.autograd.grad(loss(dirty).sum(), dirty)
    assert (d[missing] == 0).all() and torch.isfinite(d).all()


def test_a_flow_that_has_no_transform_has_no_score():
    sim, obs = flows(20, 2)
    sim[~torch.isnan(obs[:, 0]), 0] = -1e3
    for text in SUMS:
        if any(term.flow != "q" or term.name == "nse_log" for term in losses.terms(text)):
            value = losses.get(text)(obs)(sim)
            assert torch.isnan(value).tolist() == [True, False], text
            assert np.isnan(metrics.of_loss(sim.numpy(), obs.numpy(), text)).tolist() == [True, False], text
    with pytest.raises(losses.UnusableObservations, match=r"above -mean\(obs\)/100 \(1/q of it is needed\)"):
        losses.get("kge(1/q)")(obs - 100)


def test_normal_equations_are_those_of_the_sum():
    text = "0.3*nse(1/q)+nse_log+0.5*nse"
    data, _ = made(n=40)
    space = search_space(toy)
    objective = Objective(space, window(data, toy, period(data), 0, "reference"), text)
    assert objective.is_least_squares and not Objective(space, objective.period, BOTH).is_least_squares
    points = starting_points(len(space.free), 2, 2, 5, torch.float64)
    with torch.no_grad():
        matrix, half, cost = objective.normal_equations(points)
        torch.testing.assert_close(cost, objective(points))
        for i in range(len(space.free)):
            step = torch.zeros_like(points)
            step[i] = 1e-6
            difference = (objective(points + step) - objective(points - step)) / 2e-6
            torch.testing.assert_close(2 * half[..., i], difference, rtol=1e-4, atol=1e-6)
    assert (torch.linalg.eigvalsh(matrix) > -1e-10).all()


def test_the_kernels_sum_squares_of_the_reciprocal():
    model = hs.models.get("hbv11p")
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    forcing = {"prcp": 20 * rand(30, 2), "tmean": 10 * rand(30, 2) - 3, "pet": 3 * rand(30, 2)}
    space = search_space(model)
    values = space.values(0.2 + 0.6 * rand(16, 2, 3))
    obs = rand(30, 2).where(rand(30, 2) < 0.7, torch.tensor(NAN))
    squares = losses.get("nse(1/q)")(obs).least_squares()
    found = hs.solve.sensitivity.normal_equations(model, forcing, values, **squares)
    q, columns = forward.jacobian(model, forcing, values, space.names, backend="reference")
    expected = forward.of_jacobian(q, columns, names=space.names, **squares)
    torch.testing.assert_close(found.cost, losses.get("nse(1/q)")(obs)(q), rtol=1e-9, atol=1e-9)
    for name in ("matrix", "gradient", "cost"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method, steps", [("lm", 6), ("gradient", 5)])
def test_calibration_by_a_sum(method, steps):
    data, _ = made(n=60)
    first, last = str(data["time"].values[0])[:10], str(data["time"].values[-1])[:10]
    middle = str(data["time"].values[40])[:10]
    before = str(data["time"].values[39])[:10]
    periods = dict(train=f"{first}:{before}", validation=f"{middle}:{last}")
    result = fit(data, method=method, steps=steps, loss="0.5*kge(q) + 0.5*kge(sqrt q)", starts=2, **periods)
    assert result.attrs["loss"] == "0.5*kge+0.5*kge(sqrt q)"
    assert result["train_loss"].attrs["long_name"] == "training loss of 0.5*kge+0.5*kge(sqrt q)"
    flow = result["flow"].sel(member="best", time=slice(first, before)).values
    obs = result["obs"].sel(time=slice(first, before)).values
    np.testing.assert_allclose(1 - result["train_loss"][:, 0], metrics.of_loss(flow, obs, BOTH), rtol=1e-6)


def test_a_calibration_takes_scores_of_a_basin_alone():
    with pytest.raises(ValueError, match="unknown loss 'rmse_comb' of a basin; expected one of nse, kge, nse_sqrt"):
        check_arguments(toy, train="2001-01-01:2001-02-01", loss="kge+rmse_comb")


def test_a_network_is_trained_by_a_sum():
    sim, obs = flows(60, 3)
    obs[:50, 1] = NAN  # of which a score by series is not taken
    sigma = torch.full((3,), 2.0, dtype=torch.float64)
    found = loss_of("0.5*nse_batch+0.25*kge(sqrt q)+rmse_comb", sim, obs, sigma, 30)
    some = torch.tensor([True, False, True])
    expected = 0.5 * losses.NSEBatch(obs, sigma)(sim) + losses.RmseComb(obs)(sim)
    expected = expected + 0.25 * losses.get("kge(sqrt q)")(obs[:, some])(sim[:, some]).mean()
    torch.testing.assert_close(found, expected)
    change = "loss=0.5*kge(q)+0.5*kge(sqrt q)"
    assert read_config("mlp-static", [change]).loss == "0.5*kge+0.5*kge(sqrt q)"
    with pytest.raises(ValueError, match="needs batch.days of 30 or more"):
        read_config("mlp-static", ["loss=nse_batch+kge", "batch.days=10"])
    with pytest.raises(ValueError, match="'loss': a loss's name must be one of .* found 'kgb' in loss"):
        read_config("mlp-static", ["loss=nse_batch+kgb"])
