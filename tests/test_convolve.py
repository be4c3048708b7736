"""Convolution with ordinates handed in, the ordinates of every kind, and hydrographs at other steps than a day."""

import numpy as np
import pytest
import torch
from conftest import assert_close, assert_same_bits, both_precisions, normal, uniform

import hybridsolve as hs
from hybridsolve.routing.convolve import convolve, reference_convolve
from hybridsolve.solve.ordinates import KINDS, n_ordinates, ordinates, ordinates_and_derivatives
from hybridsolve.spec import DAY, Hydrograph, Parameter

BACKENDS = ("cpu", "triton")


def hydrograph(kind="gamma", **options):
    n = {"gamma": 2, "nash": 2, "lag": 1}[kind]
    return Hydrograph(kind, tuple(Parameter(f"p{i}", "1", "any") for i in range(n)), **options)


def inputs(T, N, L, dtype=torch.float64):
    shapes = {"q": (T, N), "ordinates": (L, N), "memory": (L - 1, N)}
    return {name: uniform(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T, N, L", ((1, 1, 1), (40, 7, 1), (3, 5, 4), (40, 33, 15), (50, 3, 40), (7, 2, 60)))
def test_value_and_gradients(T, N, L, backend):
    x = {name: v.requires_grad_() for name, v in inputs(T, N, L).items()}
    found, expected = convolve(*x.values(), backend=backend), reference_convolve(*x.values())
    sides = []
    for out in (found, expected):
        gradients = torch.autograd.grad(out, list(x.values()), normal(T, N, seed=9))
        sides.append({"out": out} | {n: g for n, g in zip(x, gradients, strict=True) if g.numel()})
    assert_close(*sides, 1e-13)


@pytest.mark.parametrize("size", (1, 4, 15))
def test_tangent_against_the_oracle(size):
    x = inputs(30, 5, size)
    along = tuple(normal(*v.shape, seed=i) for i, v in enumerate(x.values()))
    found = torch.func.jvp(convolve, tuple(x.values()), along)
    expected = torch.func.jvp(reference_convolve, tuple(x.values()), along)
    assert_close(dict(enumerate(found)), dict(enumerate(expected)), 1e-13)


@both_precisions
@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_threads_and_neighbours_keep_the_bits(dtype, backend):
    x = inputs(40, 37, 9, dtype)
    whole, end = convolve(*x.values(), return_memory=True, backend=backend)
    parts, memory = [], x["memory"]
    for start, stop in ((0, 1), (1, 6), (6, 29), (29, 40)):
        out, memory = convolve(x["q"][start:stop], x["ordinates"], memory, return_memory=True, backend=backend)
        parts.append(out)
    assert_same_bits({"q": torch.cat(parts), "memory": memory}, {"q": whole, "memory": end})
    torch.set_num_threads(3)
    alone = convolve(*(v[:, 5:8].contiguous() for v in x.values()), backend=backend)
    assert_same_bits({"q": alone}, {"q": whole[:, 5:8]})


def values(kind, N=6):
    ranges = {"gamma": (2.9, 6.5), "nash": (5.0, 3.0), "lag": (4.0,)}[kind]
    return {f"p{i}": 0.3 + top * uniform(N, seed=i) for i, top in enumerate(ranges)}


@pytest.mark.parametrize("kind", KINDS)
def test_ordinates_are_shares_and_gradients_are_right(kind):
    h, x = hydrograph(kind), values(kind)
    w = ordinates(h, x)
    assert w.shape == (15, 6) and (w >= 0).all()
    torch.testing.assert_close(w.sum(0), torch.ones(6, dtype=torch.float64), rtol=1e-13, atol=0)
    leaves = [v.clone().requires_grad_() for v in x.values()]
    torch.autograd.gradcheck(lambda *v: ordinates(h, dict(zip(x, v, strict=True))), leaves)


@pytest.mark.parametrize("options", ({}, {"normalised": False}, {"at": "end", "cut": -8.0, "days": 30.0}))
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_along_every_parameter_are_those_of_the_adjoint(kind, options):
    h, x = hydrograph(kind, **options), values(kind)
    if "cut" in options:
        assert (ordinates(h, x) == 0).any()
    w, along = ordinates_and_derivatives(h, x)
    assert_same_bits({"w": w}, {"w": ordinates(h, x)})
    for name, found in zip(x, along, strict=True):
        leaf = x[name].clone().requires_grad_()
        rows = ordinates(h, x | {name: leaf})
        expected = [torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0] for row in rows]
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-11, atol=1e-13)
    single = ordinates_and_derivatives(h, {name: v.float() for name, v in x.items()})
    assert {x.dtype for x in (single[0], *single[1])} == {torch.float32}


@pytest.mark.parametrize("step", (3600, 10_800, 43_200, DAY))
@pytest.mark.parametrize("kind, at", [*((kind, "midpoint") for kind in KINDS), ("nash", "end")])
def test_the_centroid_of_a_hydrograph_does_not_depend_on_the_step(kind, at, step):
    """Its centre of mass in days, of the ordinates where their rule takes them, for hydrographs that a day resolves."""
    h = hydrograph(kind, days=60.0, at=at)
    x = {"gamma": (2.5, 2.0), "nash": (3.0, 2.0), "lag": (3.25,)}[kind]
    w = ordinates(h, {f"p{i}": torch.full((1,), v, dtype=torch.float64) for i, v in enumerate(x)}, step)
    assert len(w) == n_ordinates(h, step) == 60 * DAY // step
    k = torch.arange(len(w), dtype=torch.float64)[:, None]
    centre = float((w * (k + {"midpoint": 0.5, "end": 1.0}[at] * (kind != "lag"))).sum()) * step / DAY
    exact = {"gamma": 2.6 * 2.5, "nash": 3.0 * 2.0, "lag": 3.25}[kind]
    assert abs(centre - exact) < 0.01 * exact


def test_a_density_that_is_not_normalised_keeps_what_the_length_leaves_out():
    x = {"p0": torch.tensor([3.0], dtype=torch.float64), "p1": torch.tensor([2.0], dtype=torch.float64)}
    w = ordinates(hydrograph("nash", days=5.0, normalised=False), x, 3600)
    from scipy.stats import gamma

    assert abs(float(w.sum()) - gamma.cdf(5.0, 3.0, scale=2.0)) < 1e-4


def test_a_cut_hydrograph_ends_where_its_density_is_small():
    """As the NWS has it: at k dt, cut where the log of the density is below -8, normalised."""
    x = {"p0": torch.tensor([2.0], dtype=torch.float64), "p1": torch.tensor([1.0], dtype=torch.float64)}
    w = ordinates(hydrograph("nash", days=30.0, at="end", cut=-8.0), x)[:, 0].numpy()
    t = np.arange(1, 31.0)
    ln = np.log(t) - t
    expected = np.where((ln < -8) & (t > 1), 0, np.exp(ln))
    np.testing.assert_allclose(w, expected / expected.sum(), rtol=1e-13)
    assert 0 < np.count_nonzero(w) < 15


def test_an_hourly_run_has_a_hydrograph_of_days():
    """The same runoff, constant through each day, by the hour and by the day: the sums of days agree."""
    model = hs.models.get("hbv10")
    q = uniform(40, 3)
    daily = {"route_a": torch.full((3,), 2.0).double(), "route_b": torch.full((3,), 1.5).double()}
    by_day = convolve(q, ordinates(model.routing, daily))
    by_hour = convolve(q.repeat_interleave(24, 0) / 24, ordinates(model.routing, daily, 3600))
    sums = by_hour.view(40, 24, 3).sum(1)
    assert n_ordinates(model.routing, 3600) == 360
    # A day's ordinate is taken at its middle; that runoff comes evenly through the day is what an hour resolves.
    assert (sums[20:].sum(0) / by_day[20:].sum(0) - 1).abs().max() < 0.02
    assert (sums - by_day).abs().max() < 0.2 * q.max()


def test_bad_input():
    x = inputs(9, 3, 4)
    for change, match in (
        (dict(ordinates=x["ordinates"][:, :2]), r"ordinates must be \[4, 3\] for q \[9, 3\]; found \[4, 2\]"),
        (dict(ordinates=x["ordinates"][:0]), r"ordinates must be \[L, N\] with one at least; found \[0, 3\]"),
        (dict(memory=x["memory"][:2]), r"memory must be \[3, 3\] for q"),
        (dict(q=x["q"].float()), "ordinates must be torch.float32 on cpu as q is"),
    ):
        with pytest.raises(ValueError, match=match):
            convolve(**(x | change))
    with pytest.raises(ValueError, match="unknown hydrograph 'beta'; expected one of gamma, nash, lag"):
        ordinates(Hydrograph("beta", ()), {})
