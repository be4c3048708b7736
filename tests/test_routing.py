"""Routing along a network: the kernels against the oracle, its mass, its bits, and what it is told wrongly."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_close, assert_same_bits, golden, normal, uniform
from scipy.optimize import brentq

from hybridsolve.routing import RiverNetwork, hydraulics, route, schemes
from hybridsolve.routing.schemes import CHANNEL, SCHEMES
from hybridsolve.solve import compiled as compiled_calls
from hybridsolve.solve import ops

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
DT = 3600.0


def network(n=150, seed=0, **attributes):
    """A random tree with reaches of every kind: steep and flat, short and long, with up to n upstream neighbours."""
    rng = np.random.default_rng(seed)
    downstream = np.array([-1, *(rng.integers(max(0, i - 40), i) for i in range(1, n))])
    made = dict(
        n=rng.uniform(0.02, 0.1, n),
        p=rng.uniform(5, 60, n),
        q=rng.uniform(0.05, 0.9, n),
        slope=10 ** rng.uniform(-4, -1.5, n),
        length=rng.uniform(800, 7000, n),
        x=rng.uniform(0.1, 0.35, n),
        k=rng.uniform(1800, 9000, n),
    )
    return RiverNetwork.from_downstream(downstream, ids=1000 + np.arange(n), **made | attributes)


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
@pytest.mark.parametrize("net", (network(), network(37, 1), network(1), star(60)), ids=("150", "37", "1", "star"))
@pytest.mark.parametrize("rows, repeat", ((17, 1), (5, 4), (1, 1)))
def test_all_gradients_match_the_reference(scheme, by_state, net, rows, repeat):
    x = inputs(net, scheme, rows)
    options = dict(repeat=repeat, substeps=None if by_state else fixed(net))
    found = both_ways(net, scheme, x, **options)
    assert len(found) == len(SCHEMES[scheme][0]) + (5 if scheme == "todini" else 4)
    assert_close(found, both_ways(net, scheme, x, backend="reference", **options), 1e-10)


@pytest.mark.parametrize("scheme, by_state", [*((s, True) for s in SCHEMES), ("todini", False)])
@pytest.mark.parametrize("net", (network(), network(1), star(60)), ids=("150", "1", "star"))
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
    net = network(30, 1)
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
    net = network(20, 1)
    lateral = uniform(4, 20).to(cuda_device)
    lateral[2, 3] = -1
    with pytest.raises(ValueError, match="lateral must be .* found -1 in row 2 of reach"):
        route(net, lateral, ids="network", dt=DT, backend="cuda")


@every_scheme
def test_gauges_alone(scheme):
    net = network()
    x = inputs(net, scheme, 20)
    gauges = net.ids[[149, 3, 70]]
    found = both_ways(net, scheme, x, gauges=gauges)
    assert_close(found, both_ways(net, scheme, x, gauges=gauges, backend="reference"), 1e-10)
    assert_same_bits({"q": found["discharge"]}, {"q": outputs(net, scheme, x)["discharge"][:, [149, 3, 70]]})


def test_the_gradient_of_the_initial_storage(cuda_device):
    """As of a restart, where the storage is given and not made of the discharge."""
    net = network(40, 2)
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
    net = network(5, 3, slope=np.linspace(0.01, 0.05, 5), length=np.linspace(400, 3000, 5))
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
    net = network(60, 4)
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
    net = network()
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
    net, (backend, device) = network(40, 2), every_backend
    x = {n: v.to(device) for n, v in inputs(net, scheme, 24).items()}
    x["lateral"][10:14] *= 40
    cuts = (slice(0, 1), slice(1, 3), slice(3, 11), slice(11, 12), slice(12, 24))
    whole, found, state = windows(net, scheme, x, cuts, backend=backend, checkpoint_interval=5)
    assert_same_bits({"q": found} | state, {"q": whole.discharge} | whole.final_state)


@every_scheme
def test_gradients_chain_over_windows(scheme):
    net = network(40, 2)
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
    net = network()
    x = inputs(net, "todini", 240, dtype=dtype)
    x["lateral"] = x["lateral"] * (0.1 + 30 * torch.exp(-(((torch.arange(240) - 120) / 9) ** 2)))[:, None].to(dtype)
    cuts = [slice(t, t + 24) for t in range(0, 240, 24)]
    whole, found, state = windows(net, "todini", x, cuts)
    assert_same_bits({"q": found} | state, {"q": whole.discharge} | whole.final_state)


@every_scheme
def test_no_step_answers_to_a_later_inflow(scheme, every_backend):
    net, (backend, device) = network(40, 2), every_backend
    lateral = 0.2 * uniform(30, 40).to(device)
    flood = lateral.clone()
    flood[20:] += 50
    dry, wet = (route(net, q, ids="network", dt=DT, scheme=scheme, backend=backend).discharge for q in (lateral, flood))
    assert_same_bits({"q": wet[:20]}, {"q": dry[:20]})
    assert (wet[20] != dry[20]).any()


def test_sub_steps_follow_the_courant_number(counted):
    """They change from step to step within a reach, in the kernel as in the oracle."""
    net = network(60, 6, length=np.geomspace(150, 20_000, 60))
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
    net = network(30, 7)
    lateral = uniform(6, 30)
    runs = {n: route(net, lateral, ids="network", dt=DT, substeps=n).discharge for n in (None, 1, 3, 16)}
    every = route(net, lateral, ids="network", dt=DT, substeps=torch.full((30,), 3))
    assert_same_bits({"q": every.discharge}, {"q": runs[3]})
    for n in (1, 16):
        assert 1e-4 < (runs[n] - runs[3]).abs().max() < 3
    long = network(30, 7, length=np.full(30, 5e5))  # all Courant numbers below 1
    found, one = (route(long, lateral, ids="network", dt=DT, substeps=n).discharge for n in (None, 1))
    assert_same_bits({"q": found}, {"q": one})


def test_the_sub_steps_of_an_old_state_are_ignored():
    net = network(30, 7)
    lateral, state = uniform(6, 30), {"discharge": torch.ones(30, dtype=torch.float64)}
    expected = route(net, lateral, ids="network", dt=DT, initial_state=state)
    assert set(expected.final_state) == {"discharge", "storage"}
    with pytest.warns(UserWarning, match="initial_state's 'substeps' are ignored.*pass substeps="):
        found = route(net, lateral, ids="network", dt=DT, initial_state=state | {"substeps": torch.full((30,), 7)})
    assert_same_bits({"q": found.discharge}, {"q": expected.discharge})


@every_scheme
def test_single_precision_is_near_double(scheme):
    net = network()
    x = inputs(net, scheme, 30)
    found = both_ways(net, scheme, {n: v.float() for n, v in x.items()})
    expected = outputs(net, scheme, x)["discharge"]
    assert found["discharge"].dtype == torch.float32
    assert ((found["discharge"].double() - expected).abs() / expected).max() < 1e-3


def test_ddr_as_published():
    """96 hours on 50 reaches from ddr itself, with the gradient of its loss."""
    file = {n: torch.from_numpy(np.asarray(v)) for n, v in golden("ddr_mc_50").items()}
    raw = {
        n: file[f"raw01_{m}"].clone().requires_grad_() for n, m in (("n", "n"), ("q", "q_spatial"), ("p", "p_spatial"))
    }
    lateral = file["q_prime_m3s"].clone().requires_grad_()
    net = RiverNetwork.from_downstream(
        file["downstream"].numpy(), length=file["length_m"].numpy(), slope=file["slope"].numpy(), x=file["x"].numpy()
    )
    here = torch.from_numpy(net.order)
    low, high = np.log(1 + 1e-6), np.log(200 + 1e-6)
    parameters = {
        "n": 0.015 + (0.25 - 0.015) * raw["n"],
        "q": raw["q"],
        "p": torch.exp(low + (high - low) * raw["p"]),
    }
    run = route(
        net,
        lateral[:-1],
        {n: v[here] for n, v in parameters.items()},
        ids=np.arange(50),
        dt=float(file["dt_s"]),
        scheme="ddr",
        initial_state={"discharge": file["discharge_initial"][here]},
    )
    found = torch.cat([file["discharge_initial"][None], run.discharge[:, torch.from_numpy(net.index(np.arange(50)))]]).T
    assert_close({"q": found.detach()}, {"q": file["discharge_m3s"]}, 1e-8)
    gradients = torch.autograd.grad((found * file["loss_weight"]).sum(), [*raw.values(), lateral])
    expected = [file[f"grad_raw01_{n}"] for n in ("n", "q_spatial", "p_spatial")] + [file["grad_q_prime"]]
    # The initial discharge is the first inflow's; here it is given, so that row is not compared.
    for g, e in zip(gradients[:3], expected, strict=False):
        assert_close({"g": g}, {"g": e}, 1e-8)
    assert_close({"g": gradients[3][1:]}, {"g": expected[3][1:]}, 1e-8)


def in_muskingums_form(section, inflow, lateral, discharge, slope, length, dt):
    """A chain by the three coefficients of equation 7b, each of two Courant and Reynolds numbers: [T, reaches].

    `section` gives wetted area, top width and celerity of uniform flow at a discharge.
    """

    def numbers(q):
        area, width, celerity = section(q)
        beta = celerity * area / q
        return celerity * dt / (length * beta), q / (beta * width * slope * celerity * length)

    o, i0 = discharge.copy(), np.append(inflow[0], discharge[:-1])
    of_begin = [numbers((i + q) / 2) for i, q in zip(i0, o, strict=True)]
    found = np.empty((len(inflow), len(o)))
    for t, i in enumerate(inflow):
        for r, (c0, d0) in enumerate(of_begin):
            q = o[r] + i - i0[r]
            for _ in range(2):
                c1, d1 = numbers((i + q) / 2)
                begin = (1 + c0 - d0) * i0[r] + (1 - c0 + d0) * o[r]
                q = ((c1 + d1 - 1) * i + c1 / c0 * begin + 2 * c1 * lateral[t, r]) / (1 + c1 + d1)
            of_begin[r], i0[r], o[r] = (c1, d1), i, q
            i = q
        found[t] = o
    return found


# hydpy 6.2, application model musk_mct, its base example (its documentation): a flood through 50 reaches of 2 km,
# 15 m wide at the bottom, with banks of 1 in 5. Half hour: discharge of the first reach, of the 25th, of the last.
HYDPY = {
    40: (693.730479, 142.231632, 100.145491),
    60: (640.508365, 718.337956, 216.081698),
    70: (338.536372, 694.800247, 499.956953),
    80: (176.327832, 511.220042, 641.971983),
    100: (103.806634, 214.266261, 459.86077),
    150: (100.000166, 100.250586, 115.214209),
    191: (100.0, 100.000116, 100.092026),
}


def test_todini_as_published():
    """Muskingum's form has hydpy's numbers in hydpy's trapezoid, and those of `route` in the channel of `route`."""
    n, slope, length, dt = 0.035, 2.5e-4, 2000.0, 1800.0
    t = np.arange(192) / 48
    wave = 100 + 800 * (t * np.exp(1 - t)) ** 16
    start, none = np.full(50, 100.0), np.zeros((192, 50))

    def trapezoid(q):
        def area_and_perimeter(depth):
            return depth * (15 + 5 * depth), 15 + 2 * depth * np.sqrt(26)

        def too_much(depth):
            area, perimeter = area_and_perimeter(depth)
            return area ** (5 / 3) * perimeter ** (-2 / 3) * np.sqrt(slope) / n - q

        depth = brentq(too_much, 1e-3, 50, xtol=1e-12)
        area, perimeter = area_and_perimeter(depth)
        width = 15 + 10 * depth
        return area, width, q / width * (5 / 3 * width / area - 4 / 3 * np.sqrt(26) / perimeter)

    found = in_muskingums_form(trapezoid, wave, none, start, slope, length, dt)
    # They iterate to convergence, which two rounds come near.
    np.testing.assert_allclose([found[k, [0, 24, 49]] for k in HYDPY], list(HYDPY.values()), atol=0.006, rtol=0)

    # A power of the depth that has the trapezoid's width at 2 and at 6.5 m.
    q = np.log(80 / 35) / np.log(6.5 / 2)
    p = 35 / 2**q

    def power(flow):
        e = 3 / (5 + 3 * q)
        depth = (n * flow * (q + 1) ** (5 / 3) / (p * np.sqrt(slope))) ** e
        width = p * depth**q
        return width * depth / (q + 1), width, flow / (e * depth * width)

    of_chain = {k: np.full(50, v) for k, v in dict(n=n, p=p, q=q, slope=slope, length=length).items()}
    net = RiverNetwork.from_downstream([*range(1, 50), -1], **of_chain)
    lateral = none + 0.2
    lateral[:, 0] = wave
    start = np.cumsum(lateral[0])
    expected = in_muskingums_form(power, 0 * wave, lateral, start, slope, length, dt)
    run = route(net, torch.from_numpy(lateral), ids="network", dt=dt, substeps=1)
    assert_close({"q": run.discharge}, {"q": torch.from_numpy(expected)}, 1e-12)
    # The section is another than hydpy's, the flood nearly the same: 3 % higher and an hour earlier after 100 km.
    expected = in_muskingums_form(power, wave, none, np.full(50, 100.0), slope, length, dt)
    assert abs(expected[:, -1].max() / found[:, -1].max() - 1) < 0.04
    assert 0 <= found[:, -1].argmax() - expected[:, -1].argmax() <= 3


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_no_water_is_made_or_lost(backend):
    """Inflow = outflow + change of storage, with sub-steps that differ and a flood that comes and goes."""
    net = network(120, 5)
    net.attributes["length"][-1] = 1e5  # so that the outlet has one sub-step: its outflow is the mean of begin and end
    t = torch.arange(400, dtype=torch.float64)[:, None]
    lateral = 0.05 + 3 * torch.exp(-(((t - 60) / 15) ** 2)) * uniform(1, 120)
    start = route(net, lateral[:1], ids="network", dt=DT, backend=backend)
    run = route(net, lateral, ids="network", dt=DT, initial_state=start.final_state, backend=backend)
    outlet = torch.cat([start.final_state["discharge"][-1:], run.discharge[:, -1]])
    out = DT * (outlet[1:] + outlet[:-1]).sum() / 2
    change = (run.final_state["storage"] - start.final_state["storage"]).sum()
    torch.testing.assert_close(out + change, DT * lateral.sum(), rtol=1e-12, atol=0)
    assert run.discharge.min() >= 0


def test_the_steady_state_is_the_sum_of_what_flows_in():
    net = network(120, 5)
    lateral = 0.1 + uniform(1, 120).expand(50, -1)
    expected = torch.from_numpy(net.accumulate(lateral[0].numpy()))
    for scheme in SCHEMES:
        run = route(net, lateral.contiguous(), ids="network", dt=DT, scheme=scheme)
        assert_close({"q": run.discharge[-1]}, {"q": expected}, 1e-11)


def test_a_flood_wave_travels_at_the_celerity_and_flattens():
    n = 40
    at = dict(n=0.04, p=30, q=0.3, slope=5e-4, length=2000)
    net = RiverNetwork.from_downstream([*range(1, n), -1], **{k: np.full(n, v) for k, v in at.items()})
    t = torch.arange(200, dtype=torch.float64)
    lateral = torch.zeros(200, n, dtype=torch.float64)
    lateral[:, 0] = 50 + torch.exp(-(((t - 40) / 10) ** 2))
    for scheme in ("todini", "ddr"):
        run = route(net, lateral, {"x": torch.tensor([0.2], dtype=torch.float64)} if scheme == "ddr" else None,
                    ids="network", dt=DT, scheme=scheme)  # fmt: skip
        top, end = run.discharge[:, 0], run.discharge[:, -1]
        velocity = hydraulics(net, run.discharge[:1])["velocity"][0, 0]
        q1 = 1 + at["q"]
        celerity = velocity * (2 + 3 * q1) / (3 * q1)
        centre = [((x - 50) * t).sum() / (x - 50).sum() for x in (top, end)]
        travel = (n - 1) * 2000 / (centre[1] - centre[0]) / DT
        assert abs(travel / celerity - 1) < (0.02 if scheme == "todini" else 0.2)
        assert 50.05 < end.max() < top.max()


def test_linear_muskingum_goes_on_from_its_own_dips():
    """Where k x is more than half a step a rising inflow is answered by a falling outflow; the scheme has no clamp."""
    net = network(30, 2, k=np.full(30, 20_000.0), x=np.full(30, 0.4))
    lateral = torch.cat([torch.zeros(3, 30), 5 * torch.ones(3, 30)]).double()
    run = route(net, lateral, ids="network", dt=DT, scheme="muskingum")
    assert run.discharge.min() < 0
    on = route(net, lateral, ids="network", dt=DT, scheme="muskingum", initial_state=run.final_state)
    assert on.discharge.isfinite().all()


def test_ids_may_come_in_any_order():
    net = network(30, 7)
    lateral, order = uniform(5, 30), np.random.default_rng(0).permutation(30)
    whole = route(net, lateral, ids="network", dt=DT)
    found = route(net, lateral[:, order], ids=net.ids[order], dt=DT, gauges=[net.ids[4]])
    assert_same_bits({"q": found.discharge}, {"q": whole.discharge[:, 4:5]})
    assert found.ids == [net.ids[4]]
    text = route(net, lateral[:, order], ids=net.ids[order].astype(str), dt=DT, gauges=[b"%d" % net.ids[4]])
    assert_same_bits({"q": text.discharge}, {"q": found.discharge})


def op_arguments(scheme, requires_grad=True):
    net = network(20, 8)
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


@pytest.mark.slow
def test_roughness_is_learned_from_hydrographs_at_a_few_gauges():
    """A field of Manning's n that is smooth over the network, seen at eight gauges alone."""
    net = RiverNetwork.random(400, seed=1)
    depth = torch.from_numpy(np.searchsorted(net.level_start, np.arange(400), side="right") / net.n_levels)
    basis = torch.stack([torch.ones(400, dtype=torch.float64), depth, depth**2, torch.sin(6 * depth)])
    field = lambda c: torch.exp(c @ basis) * 0.05  # noqa: E731
    true = torch.tensor([0.2, -0.7, 0.3, 0.25], dtype=torch.float64)
    t = torch.arange(120, dtype=torch.float64)[:, None]
    lateral = 0.05 + 2 * torch.exp(-(((t - 20 - 20 * uniform(1, 400)) / 6) ** 2)) * uniform(1, 400, seed=1)
    upstream = np.argsort(net.accumulate(np.ones(400)))
    gauges = net.ids[upstream[[-1, -2, -4, -8, -16, -30, -60, -90]]]
    options = dict(ids="network", dt=DT, gauges=gauges, substeps=2)
    observed = route(net, lateral, {"n": field(true)}, **options).discharge
    c = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([c], lr=1, max_iter=60, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def loss():
        optimiser.zero_grad()
        found = (
            ((route(net, lateral, {"n": field(c)}, **options).discharge - observed) / observed.std(0)).square().mean()
        )
        found.backward()
        return found

    optimiser.step(loss)
    with torch.no_grad():
        assert ((field(c) / field(true)) - 1).abs().max() < 0.02
        assert (0.05 / field(true) - 1).abs().max() > 0.2  # where it began


def bad(change, match, error=ValueError, scheme="todini", **options):
    def attempt():
        net = network(12, 9)
        lateral = uniform(4, 12)
        given = dict(network=net, lateral=lateral, parameters={}, ids="network", dt=DT, scheme=scheme)
        change(given)
        route(given.pop("network"), given.pop("lateral"), given.pop("parameters"), **given, **options)

    return attempt, match, error


def attempted(given):
    return route(given["network"], given["lateral"], ids="network", dt=DT)


def put(key, place, value):
    def change(given):
        given[key] = given[key].clone()
        given[key][place] = value

    return change


def named(**values):
    return lambda given: given.update(values)


def parameter(name, place, value):
    def change(given):
        x = torch.from_numpy(given["network"].attributes[name]).clone()
        x[place] = value
        given["parameters"] = {name: x}

    return change


NAN = float("nan")
BAD = {
    "negative inflow": bad(put("lateral", (2, 3), -1.0), r"lateral must be .*; found -1 in row 2 of reach 10\d\d"),
    "a gap": bad(put("lateral", (0, 11), NAN), r"lateral must be .*; found nan in row 0 of reach 10\d\d: fill"),
    "a gap, reference": bad(put("lateral", (0, 11), NAN), "lateral .* found nan in row 0", backend="reference"),
    "n": bad(parameter("n", 3, 0.0), r"parameter 'n' must lie in \[0.0001, 10\] s m-1/3; found 0 at reach 10\d\d"),
    "length": bad(parameter("length", 3, NAN), r"parameter 'length' must lie in .* m; found nan at reach 10\d\d"),
    "slope": bad(parameter("slope", 0, -1e-3), r"parameter 'slope' must lie in .* 1; found -0.001 at reach"),
    "x": bad(parameter("x", 0, 0.7), "parameter 'x' must lie in .*; found 0.7", scheme="muskingum"),
    "a parameter of others": bad(
        named(parameters={"x": torch.ones(1).double()}), "scheme 'todini' takes no parameter 'x', only n, p, q"
    ),
    "an unknown parameter": bad(named(parameters={"manning": 0}), "parameters has 'manning'; expected n, p, q"),
    "a number": bad(named(parameters={"n": 0.03}), "parameter 'n' must be a torch tensor; found float"),
    "a shape": bad(named(parameters={"n": torch.ones(3)}), r"'n' must be \[12\] or \[1\], .*found \[3\]"),
    "a scheme": bad(named(scheme="cunge"), "unknown scheme 'cunge'; expected one of todini, ddr"),
    "columns": bad(named(lateral=torch.ones(4, 11)), r"lateral must be \[T / repeat, 12\] .*; found \[4, 11\]"),
    "integers": bad(named(lateral=torch.ones(4, 12).int()), "lateral must be float32 or float64; found torch.int32"),
    "other ids": bad(named(ids=np.arange(12)), r"lateral has no column of reach 10\d\d, and 12 reaches .* lack one"),
    "too few ids": bad(named(ids=np.arange(5)), r"ids must be \[12\], one for each column; found \[5\]"),
    "a word for ids": bad(named(ids="position"), "ids must be .*, or 'network'; found 'position'"),
    "dt": bad(named(dt=0), "dt must be the seconds of a step, more than 0; found 0"),
    "repeat": bad(named(repeat=1.5), "repeat must be a whole number, 1 or more; found 1.5"),
    "too much inflow": bad(put("lateral", (1, 2), 9.97e36), r"0 to 1e\+09 m3/s .*; found 9.97e\+36 in row 1 of reach"),
    "gauges": bad(named(gauges=[1001, 1001]), "gauges must be unique; found '1001' more than once, in rows 0, 1"),
    "no gauges": bad(named(gauges=[]), r"gauges must be a list of reaches; found \[\]"),
    "a table of gauges": bad(named(gauges=[[1001]]), r"ids must be whole numbers \[N\]; found int64 \[1, 1\]"),
    "words for gauges": bad(named(gauges=["1001", "x"]), "ids must be whole numbers; found 'x' in row 1"),
    "half a gauge": bad(named(gauges=[1001.5]), "ids must be whole numbers.*found 1001.5 in row 0"),
    "masked gauges": bad(named(gauges=np.ma.masked_equal([1001, 1], 1)), "ids must all be there; found masked ones"),
    "short gauges": bad(named(gauges=np.float32([2**24])), r"ids must be .* as float32 below 2\^24"),
    "short ids": bad(named(ids=np.float32(2**24 + np.arange(12))), r"ids of the columns of lateral .* below 2\^24"),
    "masked ids": bad(named(ids=np.ma.masked_equal(1000 + np.arange(12), 1003)), "found masked ones"),
    "ids twice": bad(named(ids=[*range(1000, 1011), 1000]), "ids of the columns .* found '1000' more than once"),
    "an unknown gauge": bad(named(gauges=[7]), "found 7, not in it"),
    "substeps": bad(named(substeps=17), "substeps must be whole numbers from 1 to 16"),
    "substeps of ddr": bad(named(substeps=2, scheme="ddr"), "substeps belong to scheme 'todini'"),
    "true for substeps": bad(named(substeps=True), "substeps must be a whole number"),
    "part of a substep": bad(named(substeps=1.5), "substeps must be whole numbers"),
    "interval": bad(named(checkpoint_interval=0), "checkpoint_interval must be .*; found 0"),
    "state": bad(named(initial_state={"discharge": -torch.ones(12).double()}), "'discharge' must lie .* found -1"),
    "half a state": bad(named(initial_state={"storage": torch.ones(12).double()}), "initial_state lacks 'discharge'"),
    "a state's name": bad(named(initial_state={"depth": 1}), "initial_state has 'depth'; expected discharge, storage"),
    "a DataArray": bad(lambda g: g.update(lateral=xr.DataArray(g["lateral"])), r"lateral must be a torch tensor; found "
                       r"DataArray: convert it with torch.as_tensor\(x.values\)"),
    "a Dataset for state": bad(named(initial_state=xr.Dataset({"discharge": ("reach", np.ones(12))})),
                               "'discharge' must be a torch tensor; found DataArray: convert it with"),
    "a masked array": bad(lambda g: g.update(lateral=np.ma.masked_less(g["lateral"].numpy(), 0.1)),
                          "lateral must be a torch tensor; found MaskedArray"),
    "a device": bad(named(lateral=torch.ones(4, 12, device="meta")), "on CPU or CUDA tensors; found tensors on meta"),
    "a run for its state": bad(lambda g: g.update(initial_state=attempted(g)), "found a Routed: pass its final"),
    "a list for parameters": bad(named(parameters=[1]), "parameters must map names to tensors; found list"),
    "a word for substeps": bad(named(substeps="2"), r"substeps must be a whole number, or a tensor \[12\]"),
    "substeps of others": bad(named(substeps=torch.ones(3)), r"substeps must be a whole number, or a tensor \[12\]"),
    "a list for the scheme": bad(named(scheme=["ddr"]), "unknown scheme"),
    "a list for the network": bad(named(network=[-1, 0]), "network must be a RiverNetwork; found list"),
    "triton": bad(named(backend="triton"), "routing has no kernels in Triton; expected backend 'cpu', 'cuda'"),
}  # fmt: skip


@pytest.mark.parametrize("attempt, match, error", BAD.values(), ids=BAD)
def test_bad_input_is_said(attempt, match, error):
    with pytest.raises(error, match=match) as caught:
        attempt()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message


def test_a_network_without_slopes():
    net = RiverNetwork.from_downstream([-1, 0], **{n: np.ones(2) for n in CHANNEL if n != "slope"})
    with pytest.raises(ValueError, match="scheme 'todini' needs 'slope' .of the bed., which neither parameters nor"):
        route(net, torch.ones(3, 2), ids="network", dt=DT)
