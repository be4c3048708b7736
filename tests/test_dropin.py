"""`Hbv` and `Hbv_1_1p` against what hydrodl2 1.4.0 has given, and every key of its config."""

import pytest
import torch
from conftest import assert_close, assert_same_bits, golden, normal

from hybridsolve.interop.hydrodl2 import DEFAULTS, Hbv, Hbv_1_1p

DYNAMIC = {"Hbv_1_1p": ["parBETA", "parBETAET", "parK0"]}


def inputs(module, n_steps=60, n_basins=4, seed=0):
    rain = 4 * torch.rand(n_steps, n_basins, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    air = 8 * normal(n_steps, n_basins, seed=seed + 1)
    x = torch.stack([rain, air, 0 * rain + 2], -1)
    return {"x_phy": x}, normal(n_steps, n_basins, module.learnable_param_count, seed=seed + 2)


@pytest.mark.parametrize(
    "kind, name, dynamic", ((Hbv, "hydrodl2_hbv10_static", []), (Hbv_1_1p, "hydrodl2_hbv11p_dynamic", DYNAMIC))
)
def test_their_numbers(kind, name, dynamic):
    file = golden(name)
    published = {n: torch.from_numpy(v) for n, v in file.items() if v.dtype.kind == "f"}
    module = kind({"nmul": 2, "dynamic_params": dynamic or {}})
    assert module.phy_param_names == list(file["param_names"])
    raw = published["par_raw"].clone().requires_grad_()
    forcing = published["forcing_P_T_PET"].clone().requires_grad_()
    out = module({"x_phy": forcing}, raw)
    expected = {n.removeprefix("f64/flux/"): v for n, v in published.items() if n.startswith("f64/flux/")}
    assert set(out) == set(module.flux_names) == set(expected)
    assert_close({n: v.detach() for n, v in out.items()}, expected, 1e-9)
    states = dict(zip(module.state_names, module.get_states(), strict=True))
    assert_close(states, {n: published[f"f64/final_state/{n}"] for n in states}, 1e-9)
    loss = sum((published[f"loss_weight/{n}"] * out[n]).sum() for n in
               ("streamflow", "AET_hydro", "SWE", "gwflow_no_rout"))  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, [raw])
    assert_close({"g": gradient}, {"g": published["f64/grad/par_raw"]}, 1e-9)


def test_what_a_framework_reads():
    module = Hbv_1_1p({"nmul": 16, "dynamic_params": DYNAMIC})
    assert module.learnable_param_count == 14 * 16 + 2 and len(module.phy_param_names) == 14
    assert module.parameter_bounds["parFC"] == [50.0, 1000.0]
    assert module.routing_parameter_bounds == {"route_a": [0.0, 2.9], "route_b": [0.0, 6.5]}
    assert module.state_names == ["SNOWPACK", "MELTWATER", "SM", "SUZ", "SLZ"]
    assert Hbv({"nmul": 4}).learnable_param_count == 12 * 4 + 2
    assert Hbv({"nmul": 4, "dynamic_params": {"Hbv": ["parBETAET"]}}).learnable_param_count == 13 * 4 + 2
    assert Hbv({"routing": False}).learnable_param_count == 12
    assert list(module.parameters()) == []


def test_both_ways_to_warm_up():
    with_gradient = Hbv_1_1p({"warmup": 20, "warmup_states": False, "nmul": 3})
    without = Hbv_1_1p({"warmup": 20, "nmul": 3})
    x, raw = inputs(without)
    a, b = with_gradient(x, raw), without(x, raw)
    for name in ("streamflow_no_rout", "AET_hydro", "SWE"):  # static parameters: the same states either way
        assert a[name].shape == (40, 4, 1)
        assert_same_bits({name: a[name]}, {name: b[name]})
    assert not torch.equal(a["streamflow"][0], b["streamflow"][0])  # the unit hydrograph begins empty
    assert torch.allclose(a["streamflow"][15:], b["streamflow"][15:])
    leaf = x["x_phy"].clone().requires_grad_()
    for module, reaches in ((with_gradient, True), (without, False)):
        (g,) = torch.autograd.grad(module({"x_phy": leaf}, raw)["streamflow"].sum(), leaf)
        assert bool(g[:20].abs().sum() > 0) is reaches


def test_runs_go_on_from_states_and_tails():
    x, raw = inputs(Hbv({"nmul": 3}))
    raw = raw[-1:].expand_as(raw)
    whole = Hbv({"nmul": 3})(x, raw)["streamflow"]
    first, second = Hbv({"nmul": 3}), Hbv({"nmul": 3, "cache_states": True})
    begin = first({"x_phy": x["x_phy"][:25]}, raw[:25])["streamflow"]
    second.load_states(first.get_states())
    second.load_routing_state(first.get_routing_state())
    rest = {"x_phy": x["x_phy"][25:]}, raw[25:]
    assert_same_bits({"q": torch.cat([begin, second(*rest)["streamflow"]])}, {"q": whole})
    second.load_states(first.get_states())  # and no tails: as from a fresh one
    third = Hbv({"nmul": 3, "cache_states": True})
    third.load_states(first.get_states())
    assert_same_bits({"q": second(*rest)["streamflow"]}, {"q": third(*rest)["streamflow"]})


def test_order_weights_and_dropped_dynamics():
    module = Hbv_1_1p({"nmul": 2, "dynamic_params": DYNAMIC, "variables": ["tmean", "pet", "prcp"], "dy_drop": 1.0})
    plain = Hbv_1_1p({"nmul": 2})
    x, raw = inputs(plain)
    turned = {"x_phy": x["x_phy"][..., [1, 2, 0]]}
    assert_same_bits({"q": module(turned, raw)["SWE"]}, {"q": plain(x, raw)["SWE"]})
    module.eval()  # nothing is dropped
    assert not torch.equal(module(turned, raw)["streamflow"], plain(x, raw)["streamflow"])
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(4, 2)
    single = plain(x | {"muwts": one}, raw)["SWE"]
    assert not torch.allclose(single, plain(x, raw)["SWE"])


BAD = {
    "a key": ({"n_mul": 3}, "config has the key 'n_mul'; expected any of warmup"),
    "comprout": ({"comprout": True}, "comprout asks for a unit hydrograph of each component"),
    "nearzero": ({"nearzero": 1e-3}, "nearzero must be 1e-05"),
    "variables": ({"variables": ["prcp", "tmean"]}, "variables must order prcp, tmean and pet"),
    "nmul": ({"nmul": 0}, "nmul must be a whole number, 1 or more; found 0"),
    "dy_drop": ({"dy_drop": 2}, "dy_drop must be a probability; found 2"),
    "a class": ({"dynamic_params": {"HBV": []}}, "dynamic_params must map Hbv to a list of parameters"),
    "a flag": ({"warmup_states": "False"}, "warmup_states must be true or false; found 'False'"),
    "a parameter": ({"dynamic_params": {"Hbv": ["BETA"]}}, "dynamic_params names 'BETA', which Hbv does not have"),
}


@pytest.mark.parametrize("config, message", BAD.values(), ids=BAD)
def test_config_is_honoured_or_refused(config, message):
    assert set(config) <= set(DEFAULTS) or "n_mul" in config
    with pytest.raises(ValueError, match=message):
        Hbv(config)


def test_bad_calls():
    module = Hbv({"nmul": 2, "warmup": 60})
    x, raw = inputs(module)
    with pytest.raises(ValueError, match="warmup is 60 and x_phy has 60 steps"):
        module(x, raw)
    with pytest.raises(ValueError, match="parameters must have 26 numbers for each basin; found 25"):
        module(x, raw[..., 1:])
    with pytest.raises(ValueError, match="parameters must have the steps and basins of x_phy"):
        module(x, raw[:7])
    with pytest.raises(ValueError, match=r"x_dict must have 'x_phy' \[T, B, 3\]"):
        module({"x_phy": x["x_phy"][..., :2]}, raw)
    with pytest.raises(ValueError, match="load_states needs cache_states"):
        module.load_states(())
