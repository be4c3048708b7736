"""Parameter networks and the module that joins them to the solver."""

import pytest
import torch
from conftest import assert_close, assert_same_bits
from trainings import forcing_of, learnable

import hybridsolve as hs
from hybridsolve.nn import GRU, LSTM, MLP, DifferentiableModel, DischargeGRU, DischargeLSTM, Layout
from hybridsolve.nn.networks import Corrected


@pytest.fixture(scope="module")
def data():
    return learnable()


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
    with pytest.raises(ValueError, match="a network alone gives streamflow; found aet"):
        DischargeLSTM(1, 1, 4)({}, torch.zeros(2, 1), torch.zeros(3, 2, 1), fluxes=("aet",))
    with pytest.raises(ValueError, match="a GRU corrects dynamic parameters, and the layout has none"):
        GRU(Layout("hbv10", 2), 3, 3)
    with pytest.raises(ValueError, match="n_attributes must be a whole number, 1 or more; found 0"):
        DischargeGRU(0, 3)
    with pytest.raises(ValueError, match="weather must have 3 numbers each, found 2"):
        DischargeGRU(2, 3)({}, torch.zeros(4, 2), torch.zeros(9, 4, 2))


# --- Parameters of attributes that the weather corrects ---------------------------------------------------------------


def corrected(period, **sizes):
    """With corrections, that a training would have made."""
    torch.manual_seed(0)
    network = Corrected(2, 3, 4, 5, hidden=[6], state=7, period=period, **sizes).eval()
    torch.nn.init.normal_(network.correction.weight)
    return network


@pytest.mark.parametrize("steps, period", ((11, 4), (12, 4), (3, 4), (5, 1)))
def test_a_correction_is_that_of_a_plain_loop(steps, period):
    network, attributes, weather = corrected(period), torch.randn(6, 2), torch.randn(steps, 6, 3)
    static, dynamic = network(attributes, weather)

    def latest(t):  # of the `period` steps that end with t, zero before the first
        rows = [weather[i] if i >= 0 else torch.zeros(6, 3) for i in range(t - period + 1, t + 1)]
        return torch.stack(rows, -1).flatten(1)

    state = torch.zeros(6, 7)
    for t in range(steps):
        if t % period == 0:
            entered = torch.relu(network.of_period(torch.cat([latest(t - 1), attributes], -1)))
            gate, candidate = network.gate_and_candidate(entered).chunk(2, -1)
            weight = torch.sigmoid(gate)
            state = (1 - weight) * state + weight * torch.tanh(candidate)
        seen = network.of_state(torch.cat([state, attributes], -1)) + network.of_latest(latest(t))
        expected = network.layers(attributes)[:, 4:] + network.correction(torch.relu(seen))
        assert_close({"dynamic": dynamic[t]}, {"dynamic": expected}, 1e-5)
    assert torch.equal(static, network.layers(attributes)[:, :4])


def test_no_correction_sees_the_weather_to_come():
    network, attributes, weather = corrected(4), torch.randn(6, 2), torch.randn(30, 6, 3)
    whole = network(attributes, weather)[1]
    for t in (0, 7, 8, 17):
        other = weather.clone()
        other[t:] += 1
        changed = (network(attributes, other)[1] != whole).flatten(1).any(1)
        assert not changed[:t].any() and changed[t]
        assert_close({"cut": network(attributes, weather[: t + 1])[1]}, {"cut": whole[: t + 1]}, 1e-5)


def test_a_network_begins_with_the_attributes_alone_and_learns_of_the_days(data):
    layout = Layout("hbv11p", 3, ("beta", "k0"))
    torch.manual_seed(0)
    module = DifferentiableModel("hbv11p", GRU(layout, 2, 3, [8], state=8, dropout=0.0))
    forcing, attributes = forcing_of(data), torch.randn(12, 2)
    weather = torch.stack(list(forcing.values()), -1)
    raw = module.raw_parameters(attributes, weather)
    assert raw["beta"].shape == (120, 12, 3) and torch.equal(raw["beta"], raw["beta"][:1].expand(120, 12, 3))
    static = dict(zip(layout.static_names, module.network.corrected.layers(attributes).split(3, -1), strict=False))
    assert torch.equal(raw["fc"], static["fc"])
    module(forcing, attributes, weather, warmup=30).fluxes["streamflow"].square().mean().backward()
    assert module.network.corrected.correction.weight.grad.abs().amin(1).max() > 0
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert module.raw_parameters(attributes, weather)["k0"].std(0).max() > 0


def test_the_gradient_of_a_correction():
    network = corrected(3).double()
    attributes, weather = torch.randn(2, 2).double(), torch.randn(7, 2, 3).double()
    leaves = [x.requires_grad_() for x in (attributes, weather)]
    assert torch.autograd.gradcheck(lambda *x: network(*x), leaves)


def test_dropout_of_a_state_is_the_same_in_all_steps():
    network = corrected(1, dropout=0.5).train()
    torch.nn.init.zeros_(network.gate_and_candidate.weight)  # states that differ by the step's number alone
    seen = []
    network.of_state.register_forward_hook(lambda _, x, __: seen.append(x[0][..., :7]))
    network(torch.randn(40, 2), torch.randn(9, 40, 3))
    dropped = seen[0] == 0
    assert torch.equal(dropped, dropped[:1].expand_as(dropped)) and 0.3 < dropped[0].float().mean() < 0.7


def test_a_gru_alone_gives_a_flow():
    network = DischargeGRU(2, 3, [6], state=5)
    run = network({}, torch.randn(4, 2), torch.randn(20, 4, 3), warmup=6)
    assert run.fluxes["streamflow"].shape == (14, 4) and (run.fluxes["streamflow"] > 0).all()
