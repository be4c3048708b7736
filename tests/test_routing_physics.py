"""What a river does, of each scheme of routing: published floods, no water lost, the wave's speed, its learning."""

import numpy as np
import pytest
import torch
from conftest import assert_close, golden, uniform
from river_networks import DT, reaches
from scipy.optimize import brentq

from hybridsolve.routing import RiverNetwork, hydraulics, route
from hybridsolve.routing.schemes import SCHEMES


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
    net = reaches(120, 5)
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
    net = reaches(120, 5)
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
    net = reaches(30, 2, k=np.full(30, 20_000.0), x=np.full(30, 0.4))
    lateral = torch.cat([torch.zeros(3, 30), 5 * torch.ones(3, 30)]).double()
    run = route(net, lateral, ids="network", dt=DT, scheme="muskingum")
    assert run.discharge.min() < 0
    on = route(net, lateral, ids="network", dt=DT, scheme="muskingum", initial_state=run.final_state)
    assert on.discharge.isfinite().all()


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
