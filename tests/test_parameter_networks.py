"""Parameter networks and the module that joins them to the solver."""

import pytest
import torch
from conftest import assert_close, assert_same_bits
from trainings import forcing_of, learnable

import hybridsolve as hs
from hybridsolve.nn import LSTM, MLP, DifferentiableModel, DischargeLSTM, Layout


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
    with pytest.raises(ValueError, match="an LSTM alone gives streamflow; found aet"):
        DischargeLSTM(1, 1, 4)({}, torch.zeros(2, 1), torch.zeros(3, 2, 1), fluxes=("aet",))
