"""Routing along a network: the kernels against the oracle, their gradients and bits, windows, torch's operators."""

import numpy as np
import pytest
import torch
from conftest import assert_close, assert_same_bits, normal, uniform
from river_networks import DT, reaches

from hybridsolve.routing import RiverNetwork, route, schemes
from hybridsolve.routing.schemes import SCHEMES
from hybridsolve.solve import compiled as compiled_calls
from hybridsolve.solve import ops

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def star(n):
    """All flow to one, which has more upstream neighbours than a kernel gathers at once, and that to another."""
    at = {name: np.full(n, v) for name, v in dict(n=0.05, p=20, q=0.5, slope=1e-3, length=3e3, x=0.2, k=5e3).items()}
    return RiverNetwork.from_downstream([-1, 0, *[1] * (n - 2)], **at)


def inputs(net, scheme, rows, seed=0, dtype=torch.float64):
    """Tensors by name: inflow, initial discharge, and the scheme's parameters."""
    tensors = {n: torch.from_numpy(net.attributes[n]).to(dtype) for n in SCHEMES[scheme][0]}
    tensors["lateral"] = 5 * uniform(rows, net.n_reaches, seed=seed, dtype=dtype)
    tensors["discharge"] = 20 * uniform(net.n_reaches, seed=seed + 1, dtype=dtype)
    return tensors


def outputs(net, scheme, tensors, **options):
    x = dict(tensors)
    lateral, state = x.pop("lateral"), {"discharge": x.pop("discharge")}
    run = route(net, lateral, x, ids="network", dt=DT, scheme=scheme, initial_state=state, **options)
    return {"discharge": run.discharge} | {f"final {n}": v for n, v in run.final_state.items()}


def both_ways(net, scheme, tensors, **options):
    """Outputs and all gradients, for a fixed cotangent."""
    leaves = {n: v.detach().requires_grad_() for n, v in tensors.items()}
    found = outputs(net, scheme, leaves, **options)
    d = {n: normal(*v.shape, dtype=v.dtype) for n, v in found.items()}
    gradients = torch.autograd.grad(list(found.values()), list(leaves.values()), list(d.values()), allow_unused=True)
    gradients = {f"d {n}": g for n, g in zip(leaves, gradients, strict=True) if g is not None}
    return {n: v.detach() for n, v in found.items()} | gradients


def fixed(net):
    """Sub-steps of their own for every reach."""
    return torch.arange(net.n_reaches) % 4 + 1


@pytest.fixture
def counted(monkeypatch):
    """Of all steps that the oracle takes, the number of sub-steps and the Courant number of the whole step."""
    found, substeps = [], schemes._substeps

    def count(constants, inflow, discharge):
        n, c = substeps(constants, inflow, discharge), schemes._courant(constants, (inflow + discharge) / 2)
        found.append(torch.stack([n.detach(), c.detach()]))
        return n

    monkeypatch.setattr(schemes, "_substeps", count)
    return found


@pytest.mark.parametrize("scheme, by_state", [*((s, True) for s in SCHEMES), ("todini", False)])
@pytest.mark.parametrize("net", (reaches(), reaches(37, 1), reaches(1), star(60)), ids=("150", "37", "1", "star"))
@pytest.mark.parametrize("rows, repeat", ((17, 1), (5, 4), (1, 1)))
def test_all_gradients_match_the_reference(scheme, by_state, net, rows, repeat):
    x = inputs(net, scheme, rows)
    options = dict(repeat=repeat, substeps=None if by_state else fixed(net))
    found = both_ways(net, scheme, x, **options)
    assert len(found) == len(SCHEMES[scheme][0]) + (5 if scheme == "todini" else 4)
    assert_close(found, both_ways(net, scheme, x, backend="reference", **options), 1e-10)


@pytest.mark.parametrize("scheme, by_state", [*((s, True) for s in SCHEMES), ("todini", False)])
@pytest.mark.parametrize("net", (reaches(), reaches(1), star(60)), ids=("150", "1", "star"))
@pytest.mark.parametrize("rows, repeat", ((17, 1), (3, 4), (1, 1)))
def test_the_gpu_has_the_same_numbers(scheme, by_state, net, rows, repeat, cuda_device):
    """And the same bits for any interval between its checkpoints, which lie between ticks, not steps."""
    x = {n: v.to(cuda_device) for n, v in inputs(net, scheme, rows).items()}
    options = dict(repeat=repeat, gauges=net.ids[-2:], backend="cuda", substeps=None if by_state else fixed(net))
    found = both_ways(net, scheme, x, **options)
    expected = both_ways(net, scheme, inputs(net, scheme, rows), **options | {"backend": "reference"})
    assert_close({n: v.cpu() for n, v in found.items()}, expected, 1e-10)
    for interval in (2, 5, 100):
        assert_same_bits(both_ways(net, scheme, x, checkpoint_interval=interval, **options), found)


def test_what_a_captured_graph_may_ask(cuda_device, monkeypatch):
    """After a first run nothing is copied to the card and nothing asked of it; before it, one sentence says so."""
    net = reaches(30, 1)
    x = {n: v.to(cuda_device) for n, v in inputs(net, "todini", 5).items()}
    lateral, state = x.pop("lateral"), {"discharge": x.pop("discharge")}
    run = lambda **o: route(net, lateral, x, **dict(ids="network", dt=DT, backend="cuda", initial_state=state) | o)  # noqa: E731
    gauges = net.ids[[3, 7]]
    expected = {n: run(gauges=gauges, **o) for n, o in (("given", {}), ("steady", dict(initial_state=None)))}

    def asked(*_):
        raise AssertionError("the card was asked, or data copied to it")

    monkeypatch.setattr(compiled_calls, "capturing", lambda device: True)
    monkeypatch.setattr(torch, "from_numpy", asked)
    for name in ("__bool__", "__float__", "__int__", "item", "nonzero", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    found = {n: run(gauges=gauges, **o) for n, o in (("given", {}), ("steady", dict(initial_state=None)))}
    refused = dict(gauges=net.ids[:3]), dict(ids=net.ids), dict(parameters=None)
    for options in refused:
        with pytest.raises(ValueError, match="must be on the card before a CUDA graph is captured.*call route once"):
            route(net, lateral, **dict(parameters=x, ids="network", dt=DT, backend="cuda") | options)
    monkeypatch.undo()
    for n in expected:
        assert_same_bits({"q": found[n].discharge}, {"q": expected[n].discharge})


def test_the_gpu_names_bad_inflow_too(cuda_device):
    net = reaches(20, 1)
    lateral = uniform(4, 20).to(cuda_device)
    lateral[2, 3] = -1
    with pytest.raises(ValueError, match="lateral must be .* found -1 in row 2 of reach"):
        route(net, lateral, ids="network", dt=DT, backend="cuda")


@every_scheme
def test_gauges_alone(scheme):
    net = reaches()
    x = inputs(net, scheme, 20)
    gauges = net.ids[[149, 3, 70]]
    found = both_ways(net, scheme, x, gauges=gauges)
    assert_close(found, both_ways(net, scheme, x, gauges=gauges, backend="reference"), 1e-10)
    assert_same_bits({"q": found["discharge"]}, {"q": outputs(net, scheme, x)["discharge"][:, [149, 3, 70]]})


def test_the_gradient_of_the_initial_storage(cuda_device):
    """As of a restart, where the storage is given and not made of the discharge."""
    net = reaches(40, 2)
    x = inputs(net, "todini", 9)
    found = {}
    for backend, device in (("cpu", "cpu"), ("reference", "cpu"), ("cuda", cuda_device)):
        state = {"discharge": x["discharge"], "storage": 2e4 * x["discharge"]}
        state = {n: v.detach().double().to(device).clone() for n, v in state.items()}
        leaves = {n: state[n].requires_grad_() for n in ("discharge", "storage")}
        run = route(net, x["lateral"].to(device), ids="network", dt=DT, initial_state=state, backend=backend)
        loss = run.discharge.square().sum() + (run.final_state["storage"] / 1e4).square().sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        found[backend] = {n: g.cpu() for n, g in zip(leaves, gradients, strict=True)}
    assert found["reference"]["storage"].abs().min() > 0
    for backend in ("cpu", "cuda"):
        assert_close(found[backend], found["reference"], 1e-10)


def far_from_whole(counted):
    """All Courant numbers, of which none comes so near a whole number that a small change adds a sub-step."""
    n, c = torch.cat(counted, dim=1)
    near = c[c < 8.01]
    assert (near - near.round()).abs()[near > 0.9].min() > 1e-3
    return n


@pytest.mark.parametrize("scheme", ("todini", "ddr", "muskingum"))
def test_gradcheck(scheme, counted):
    # No number so small that a difference quotient is coarse.
    net = reaches(5, 3, slope=np.linspace(0.01, 0.05, 5), length=np.linspace(400, 3000, 5))
    x = inputs(net, scheme, 3)
    outputs(net, scheme, x, backend="reference")
    if scheme == "todini":
        assert len(far_from_whole(counted).unique()) > 2

    def function(*v):
        found = outputs(net, scheme, dict(zip(x, v, strict=True)))
        # Storage in thousands of m3, for the same reason.
        return tuple(o / 1000 if name == "final storage" else o for name, o in found.items())

    leaves = [v.requires_grad_() for v in x.values()]
    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("scheme", ("todini", "ddr", "muskingum"))
def test_the_adjoint_is_that_of_the_tangent(scheme):
    """<d, J v> of the oracle's forward mode and <J' d, v> of the kernel."""
    net = reaches(60, 4)
    x = inputs(net, scheme, 12)
    v = {n: normal(*t.shape, seed=i) * t for i, (n, t) in enumerate(x.items())}
    with torch.autograd.forward_ad.dual_level():
        dual = {n: torch.autograd.forward_ad.make_dual(t, v[n]) for n, t in x.items()}
        tangents = {
            n: torch.autograd.forward_ad.unpack_dual(o).tangent
            for n, o in outputs(net, scheme, dual, backend="reference").items()
        }
    forward = sum((normal(*t.shape) * t).sum() for t in tangents.values())
    found = both_ways(net, scheme, x)
    torch.testing.assert_close(sum((found[f"d {n}"] * v[n]).sum() for n in x), forward, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@every_scheme
def test_bits_for_intervals_threads_and_windows(scheme, dtype, threads):
    net = reaches()
    x = inputs(net, scheme, 48, dtype=dtype)
    whole = both_ways(net, scheme, x)
    for interval, n in ((1, 1), (5, 3), (16, 2), (48, 1)):
        torch.set_num_threads(n)
        assert_same_bits(both_ways(net, scheme, x, checkpoint_interval=interval), whole)


def windows(net, scheme, x, cuts, **options):
    """Discharge of a run, and of the same one cut into windows that hand on the state."""
    x = dict(x)
    lateral, discharge = x.pop("lateral"), x.pop("discharge")
    options |= dict(ids="network", dt=DT, scheme=scheme)
    whole = route(net, lateral, x, initial_state={"discharge": discharge}, **options)
    state, parts = {"discharge": discharge}, []
    for cut in cuts:
        run = route(net, lateral[cut], x, initial_state=state, **options)
        parts, state = [*parts, run.discharge], run.final_state
    return whole, torch.cat(parts), state


@pytest.fixture(params=("cpu", "reference", "cuda"))
def every_backend(request):
    """Its name, and the device of its tensors."""
    return request.param, request.getfixturevalue("cuda_device") if request.param == "cuda" else "cpu"


@every_scheme
def test_windows_are_the_run(scheme, every_backend):
    """Of one step, of two and of many, in and out of a flood: the same bits."""
    net, (backend, device) = reaches(40, 2), every_backend
    x = {n: v.to(device) for n, v in inputs(net, scheme, 24).items()}
    x["lateral"][10:14] *= 40
    cuts = (slice(0, 1), slice(1, 3), slice(3, 11), slice(11, 12), slice(12, 24))
    whole, found, state = windows(net, scheme, x, cuts, backend=backend, checkpoint_interval=5)
    assert_same_bits({"q": found} | state, {"q": whole.discharge} | whole.final_state)


@every_scheme
def test_gradients_chain_over_windows(scheme):
    net = reaches(40, 2)
    x = {n: v.requires_grad_() for n, v in inputs(net, scheme, 24).items()}
    cuts = (slice(0, 1), slice(1, 11), slice(11, 24))
    whole, found, state = windows(net, scheme, x, cuts)
    d_q, d_state = normal(24, 40), {n: normal(40, seed=1) for n in state}

    def gradients(q, final):
        loss = (q * d_q).sum() + sum((v * d_state[n]).sum() for n, v in final.items())
        return {n: g for n, g in zip(x, torch.autograd.grad(loss, list(x.values()), retain_graph=True), strict=True)}

    assert_close(gradients(found, state), gradients(whole.discharge, whole.final_state), 1e-12)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_a_day_at_a_time(dtype):
    net = reaches()
    x = inputs(net, "todini", 240, dtype=dtype)
    x["lateral"] = x["lateral"] * (0.1 + 30 * torch.exp(-(((torch.arange(240) - 120) / 9) ** 2)))[:, None].to(dtype)
    cuts = [slice(t, t + 24) for t in range(0, 240, 24)]
    whole, found, state = windows(net, "todini", x, cuts)
    assert_same_bits({"q": found} | state, {"q": whole.discharge} | whole.final_state)


@every_scheme
def test_no_step_answers_to_a_later_inflow(scheme, every_backend):
    net, (backend, device) = reaches(40, 2), every_backend
    lateral = 0.2 * uniform(30, 40).to(device)
    flood = lateral.clone()
    flood[20:] += 50
    dry, wet = (route(net, q, ids="network", dt=DT, scheme=scheme, backend=backend).discharge for q in (lateral, flood))
    assert_same_bits({"q": wet[:20]}, {"q": dry[:20]})
    assert (wet[20] != dry[20]).any()


def test_sub_steps_follow_the_courant_number(counted):
    """They change from step to step within a reach, in the kernel as in the oracle."""
    net = reaches(60, 6, length=np.geomspace(150, 20_000, 60))
    x = inputs(net, "todini", 12)
    x["lateral"][4:7] *= 300
    expected = both_ways(net, "todini", x, backend="reference")
    n, c = torch.cat(counted, dim=1)
    assert n.unique().tolist() == [1, 2, 3, 4, 5, 6, 7, 8] and (n == c.ceil().clamp(1, 8)).all() and c.max() > 8
    assert_close(both_ways(net, "todini", x), expected, 1e-10)
    of_steps = n[-12 * 60 :].view(12, 60)  # the first ones are of the initial storage
    assert (of_steps.amax(0) - of_steps.amin(0)).max() > 2


def test_a_reach_does_not_depend_on_those_beside_it():
    """Where the Courant number is 1 but for rounding, and a neighbour in the pack has more sub-steps."""
    n = 2000
    rng = np.random.default_rng(0)
    at = dict(n=rng.uniform(0.02, 0.1, n), p=rng.uniform(5, 60, n), q=rng.uniform(0.05, 0.9, n))
    at |= dict(slope=10 ** rng.uniform(-4, -1.5, n), length=rng.uniform(800, 7000, n))
    net = RiverNetwork.from_downstream([-1] * n, **at)
    values = {name: torch.from_numpy(x).float() for name, x in net.attributes.items()}
    limit = schemes.todini(values, DT)[4]
    alone, beside = 2 * limit, 2 * limit
    beside[::16] *= 50
    runs = [
        route(net, torch.zeros(2, n), values, ids="network", dt=DT, initial_state={"discharge": o, "storage": 3e3 * o})
        for o in (alone, beside)
    ]
    others = torch.arange(n) % 16 > 0
    assert_same_bits({"q": runs[1].discharge[:, others]}, {"q": runs[0].discharge[:, others]})


def test_a_fixed_number_of_sub_steps():
    net = reaches(30, 7)
    lateral = uniform(6, 30)
    runs = {n: route(net, lateral, ids="network", dt=DT, substeps=n).discharge for n in (None, 1, 3, 16)}
    every = route(net, lateral, ids="network", dt=DT, substeps=torch.full((30,), 3))
    assert_same_bits({"q": every.discharge}, {"q": runs[3]})
    for n in (1, 16):
        assert 1e-4 < (runs[n] - runs[3]).abs().max() < 3
    long = reaches(30, 7, length=np.full(30, 5e5))  # all Courant numbers below 1
    found, one = (route(long, lateral, ids="network", dt=DT, substeps=n).discharge for n in (None, 1))
    assert_same_bits({"q": found}, {"q": one})


def test_the_sub_steps_of_an_old_state_are_ignored():
    net = reaches(30, 7)
    lateral, state = uniform(6, 30), {"discharge": torch.ones(30, dtype=torch.float64)}
    expected = route(net, lateral, ids="network", dt=DT, initial_state=state)
    assert set(expected.final_state) == {"discharge", "storage"}
    with pytest.warns(UserWarning, match="initial_state's 'substeps' are ignored.*pass substeps="):
        found = route(net, lateral, ids="network", dt=DT, initial_state=state | {"substeps": torch.full((30,), 7)})
    assert_same_bits({"q": found.discharge}, {"q": expected.discharge})


@every_scheme
def test_single_precision_is_near_double(scheme):
    net = reaches()
    x = inputs(net, scheme, 30)
    found = both_ways(net, scheme, {n: v.float() for n, v in x.items()})
    expected = outputs(net, scheme, x)["discharge"]
    assert found["discharge"].dtype == torch.float32
    assert ((found["discharge"].double() - expected).abs() / expected).max() < 1e-3


def test_ids_may_come_in_any_order():
    net = reaches(30, 7)
    lateral, order = uniform(5, 30), np.random.default_rng(0).permutation(30)
    whole = route(net, lateral, ids="network", dt=DT)
    found = route(net, lateral[:, order], ids=net.ids[order], dt=DT, gauges=[net.ids[4]])
    assert_same_bits({"q": found.discharge}, {"q": whole.discharge[:, 4:5]})
    assert found.ids == [net.ids[4]]
    text = route(net, lateral[:, order], ids=net.ids[order].astype(str), dt=DT, gauges=[b"%d" % net.ids[4]])
    assert_same_bits({"q": text.discharge}, {"q": found.discharge})


def op_arguments(scheme, requires_grad=True):
    net = reaches(20, 8)
    n = {"linear": 4, "ddr": 7, "todini": 5}[scheme]
    constants = 0.2 + 0.1 * uniform(n, 20)
    if scheme == "todini":
        constants[4] = -2  # sub-steps
    state = 1 + uniform(1 + (scheme == "todini"), 20)
    tensors = [x.requires_grad_(requires_grad) for x in (constants, uniform(3, 20), state)]
    graph = [torch.from_numpy(x) for x in (net.level_start, net.first, net.downstream)]
    column, level = torch.arange(20, dtype=torch.int32), torch.zeros(20, dtype=torch.int32)
    return f"cpu {scheme}", [*graph, column, level, *tensors], [6, 20, net.n_levels, 20, 2, 4, int(DT)]


@pytest.mark.parametrize("scheme", ("linear", "ddr", "todini"))
def test_the_operators_are_well_behaved(scheme):
    torch.library.opcheck(torch.ops.hybridsolve.route.default, op_arguments(scheme))
    arguments = op_arguments(scheme, False)
    _, final, checkpoints = torch.ops.hybridsolve.route(*arguments)
    adjoint = (*arguments, [checkpoints], [normal(6, 20), final], [False] * 5 + [True] * 3)
    torch.library.opcheck(
        torch.ops.hybridsolve.route_adjoint.default, adjoint, test_utils=("test_schema", "test_faketensor")
    )


def test_through_the_doors_of_torch():
    what, (*before, lateral, state), sizes = op_arguments("todini")

    def loss(lateral):
        discharge, final = ops.route(what, [*before, lateral, state], sizes)
        return discharge.square().sum() + final.sum()

    (expected,) = torch.autograd.grad(loss(lateral), lateral)
    (compiled,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(lateral), lateral)
    batch = torch.vmap(torch.func.grad(loss))(torch.stack([lateral.detach(), 2 * lateral.detach()]))
    for g in (compiled, torch.func.grad(loss)(lateral.detach()), batch[0]):
        torch.testing.assert_close(g, expected, rtol=1e-13, atol=0)
    (d,) = torch.autograd.grad(loss(lateral), lateral, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives of hybridsolve are not implemented"):
        d.sum().backward()
