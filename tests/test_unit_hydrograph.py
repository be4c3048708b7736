"""The gamma unit hydrograph against the formula, and its gradients by finite differences."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import assert_close, both_precisions, normal, uniform

import hybridsolve as hs

LENGTH = 15


def ordinates(a, b):
    """t^(a'-1) exp(-t/th) / (Gamma(a') th^a') at t = k + 0.5, normalised: the formula as published."""
    shape, scale = a.clamp(min=0) + 0.1, b.clamp(min=0) + 0.5
    t = torch.arange(LENGTH, dtype=a.dtype)[:, None] + 0.5
    w = t ** (shape - 1) * torch.exp(-t / scale) / (torch.exp(torch.lgamma(shape)) * scale**shape)
    return w / w.sum(0)


def inputs(T=40, B=7, dtype=torch.float64):
    a, b = 2.9 * uniform(B, seed=1, dtype=dtype), 6.5 * uniform(B, seed=2, dtype=dtype)
    a[:2], b[1:3] = torch.tensor([0, 2.9]), torch.tensor([0, 6.5])
    return {
        "q": 9 * uniform(T, B, dtype=dtype),
        "a": a,
        "b": b,
        "memory": 9 * uniform(14, B, seed=3, dtype=dtype),
    }


@pytest.mark.parametrize("T", (1, 2, 14, 15, 16, 100))
def test_convolution_by_numpy(T):
    x = inputs(T)
    for memory in (x["memory"], torch.zeros_like(x["memory"])):
        past = torch.cat([memory, x["q"]]).numpy()
        w = ordinates(x["a"], x["b"]).numpy()
        expected = np.stack([np.convolve(past[:, i], w[:, i])[14 : 14 + T] for i in range(7)], 1)
        found = hs.unit_hydrograph(x["q"], x["a"], x["b"], memory if memory.any() else None)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def test_ordinates_sum_to_one_and_peak_where_the_gamma_density_does():
    a, b = (
        torch.tensor([0.0, 1.4, 2.9], dtype=torch.float64),
        torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64),
    )
    pulse = torch.zeros(30, 3, dtype=torch.float64)
    pulse[0] = 1
    out = hs.unit_hydrograph(pulse, a, b)
    torch.testing.assert_close(out.sum(0), torch.ones(3, dtype=torch.float64), rtol=1e-14, atol=0)
    assert (out[LENGTH:] == 0).all()
    assert out.argmax(0).tolist() == [0] + [math.floor((s - 1) * th) for s, th in ((1.5, 1.5), (3.0, 2.0))]


def test_negative_parameters_stand_at_their_floor_without_gradient():
    x = inputs()
    a, b = torch.full((7,), -1.0, dtype=torch.float64).requires_grad_(), x["b"]
    out = hs.unit_hydrograph(x["q"], a, b)
    assert torch.equal(out, hs.unit_hydrograph(x["q"], torch.zeros_like(b), b))
    assert (torch.autograd.grad(out.sum(), a)[0] == 0).all()


@pytest.mark.parametrize("T", (1, 3, 20))
def test_gradients_match_plain_torch_and_finite_differences(T):
    x = inputs(T, 3)
    x["a"], x["b"] = x["a"] + 0.1, x["b"] + 0.1  # off the kink at 0
    d_out = normal(T, 3)
    leaves = {n: v.requires_grad_() for n, v in x.items()}

    def plain(q, a, b, memory):
        past, w = torch.cat([memory, q]), ordinates(a, b)
        return sum(w[k] * past[14 - k : 14 - k + T] for k in range(LENGTH))

    found, expected = (
        dict(zip(leaves, torch.autograd.grad(f(*leaves.values()), list(leaves.values()), d_out), strict=True))
        for f in (hs.unit_hydrograph, plain)
    )
    assert_close(found, expected, 1e-12)
    torch.autograd.gradcheck(hs.unit_hydrograph, list(leaves.values()), nondet_tol=0.0)


def test_gradients_chain_over_windows():
    x = {n: v.requires_grad_() for n, v in inputs().items()}
    whole, end = hs.unit_hydrograph(*x.values(), return_memory=True)
    windows, memory = [], x["memory"]
    for start, stop in ((0, 3), (3, 20), (20, 21), (21, 40)):
        out, memory = hs.unit_hydrograph(x["q"][start:stop], x["a"], x["b"], memory, return_memory=True)
        windows.append(out)
    chained = torch.cat(windows)
    assert torch.equal(chained, whole) and torch.equal(memory, end)
    d_out = normal(40, 7)
    found, expected = (
        dict(zip(x, torch.autograd.grad([y, m], list(x.values()), [d_out, m.detach()]), strict=True))
        for y, m in ((chained, memory), (whole, end))
    )
    assert_close(found, expected, 1e-12)


@both_precisions
def test_strided_and_expanded_inputs(dtype):
    x = inputs(dtype=dtype)
    expected = hs.unit_hydrograph(*x.values())
    stored = [v.T.contiguous().T if v.dim() == 2 else torch.stack([v, v], 1)[:, 0] for v in x.values()]
    assert torch.equal(hs.unit_hydrograph(*stored), expected)
    a = x["a"][:1].requires_grad_()
    out = hs.unit_hydrograph(x["q"], a.expand(7), x["b"])
    assert torch.autograd.grad(out.sum(), a)[0].isfinite().all()


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda x: x | {"q": x["q"][0]}, r"q must be \[T, B\].*found \[7\]: reshape"),
        (lambda x: x | {"q": x["q"][:0]}, r"q must be \[T, B\] with at least one step.*found \[0, 7\]"),
        (lambda x: x | {"q": x["q"][:, :0]}, r"q must be \[T, B\].*one basin; found \[40, 0\]"),
        (lambda x: x | {"a": x["a"][:3]}, r"a must be \[7\] for q \[40, 7\]; found \[3\]"),
        (lambda x: x | {"b": x["b"][:, None]}, r"b must be \[7\].*found \[7, 1\]"),
        (lambda x: x | {"memory": x["memory"][1:]}, r"memory must be \[14, 7\].*found \[13, 7\]"),
        (lambda x: x | {"a": x["a"].float()}, r"a must be torch.float64 on cpu as q is; found torch.float32"),
        (lambda x: x | {"b": x["b"].to("meta")}, r"b must be torch.float64 on cpu as q is; found .* on meta"),
        (
            lambda x: {n: v.int() for n, v in x.items()},
            r"q must be float32 or float64; found torch.int32: convert",
        ),
        (
            lambda x: {n: v.half() for n, v in x.items()},
            r"q must be float32 or float64; found torch.float16: convert",
        ),
    ],
    ids=range(10),
)
def test_bad_input(change, match):
    with pytest.raises(ValueError, match=match):
        hs.unit_hydrograph(**change(inputs()))


@pytest.mark.parametrize("name, at", (("q", "[39, 6]"), ("a", "[6]"), ("b", "[6]"), ("memory", "[13, 6]")))
@pytest.mark.parametrize("value", (math.nan, math.inf))
def test_a_gap_is_said_where_it_can_be(name, at, value):
    x = inputs()
    x[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=re.escape(f"{name} must be finite; found {value:g} at {at}: fill or correct")):
        hs.unit_hydrograph(**x)
    if name == "q":  # under torch.func nothing can be asked of a value, and a NaN stays one
        out = torch.func.vmap(hs.unit_hydrograph)(*(v[None] for v in x.values()))[0]
        assert not out[:, -1].isfinite().all() and out[:, :-1].isfinite().all()


def test_a_sum_that_overflows_is_no_gap():
    q = torch.full((20, 3), 1e308, dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    assert hs.unit_hydrograph(q, one, one)[-1].isfinite().all()
