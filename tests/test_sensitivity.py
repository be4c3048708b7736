"""Derivatives carried forward: against the oracle's forward mode, against the adjoint, and what is summed of them."""

from dataclasses import replace

import pytest
import torch
from conftest import (
    OUTFLOW,
    assert_close,
    assert_same_bits,
    every_variant,
    normal,
    one_of_each,
    random_inputs,
    said,
    ties,
    uniform,
)

import hybridsolve as hs
from hybridsolve.routing.unit_hydrograph import reference_unit_hydrograph
from hybridsolve.solve.ordinates import ordinates
from hybridsolve.solve.sensitivity import TRANSFORMS, jacobian, normal_equations

SIZES = ((1, 1, 1), (33, 5, 3), (41, 19, 2))


def case(inputs, seed=0):
    """Static parameters with those of the routing."""
    b, c = next(iter(inputs.parameters.values())).shape
    like = next(iter(inputs.forcing.values()))
    unit = {n: uniform(b, c, seed=seed + i) for i, n in enumerate(inputs.model.routing_parameter_names)}
    return inputs.parameters | {n: x.to(like) for n, x in inputs.model.parameters_from_unit(unit).items()}


def given(inputs):
    """What a derivative takes beside the forcing and the parameters."""
    return dict(initial_state=inputs.initial_state, inputs=inputs.inputs)


def flow_of(inputs, parameters, backend="auto"):
    p = dict(parameters)
    routing = [p.pop(name).flatten() for name in inputs.model.routing_parameter_names]
    run = replace(inputs, parameters=p).simulate(components="each", backend=backend, **OUTFLOW)
    (q,) = run.fluxes.values()
    if not routing:
        return q
    if inputs.model.routing.kind != "gamma":
        names = inputs.model.routing_parameter_names
        w, flow = ordinates(inputs.model.routing, dict(zip(names, routing, strict=True))), q.flatten(1)
        before = torch.cat([torch.zeros_like(w[1:]), flow])
        return sum(x * before[len(w) - 1 - k :][: len(flow)] for k, x in enumerate(w)).view(q.shape)
    routed = (reference_unit_hydrograph if backend == "reference" else hs.unit_hydrograph)(q.flatten(1), *routing)
    return routed.view(q.shape)


def along_each(function, inputs, tangents):
    """Of a function in plain torch: its derivative along each input alone, all in one pass."""
    alone = {n: torch.stack([t if m == n else torch.zeros_like(t) for m in inputs]) for n, t in tangents.items()}
    found = torch.vmap(lambda along: torch.func.jvp(function, (inputs,), (along,))[1])(alone)
    row = (lambda i: {n: v[i] for n, v in found.items()}) if isinstance(found, dict) else found.__getitem__
    return {name: row(i) for i, name in enumerate(inputs)}


@every_variant
@pytest.mark.parametrize("make", (random_inputs, ties))
@pytest.mark.parametrize("size", SIZES)
def test_every_column_matches_the_oracles_forward_mode(variant, make, size):
    x = make(variant, *size)
    p = case(x)
    flow, found = jacobian(x.model, x.forcing, p, **given(x))
    assert_close({"q": flow}, {"q": flow_of(x, p, "reference")}, 1e-12)
    ones = {n: torch.ones_like(v) for n, v in p.items()}
    for name, expected in along_each(lambda p: flow_of(x, p, "reference"), p, ones).items():
        assert_close({name: found[name]}, {name: expected}, 1e-10)


@every_variant
@pytest.mark.parametrize("make", (random_inputs, ties))
def test_the_adjoint_is_its_transpose(variant, make):
    """<d_q, J v> = <J' d_q, v>."""
    x = make(variant, 70, 9, 3)
    p = {n: v.requires_grad_() for n, v in case(x).items()}
    flow = flow_of(x, p)
    d_q, v = normal(*flow.shape), {n: normal(*t.shape, seed=i) for i, (n, t) in enumerate(p.items())}
    gradients = torch.autograd.grad(flow, list(p.values()), d_q)
    found = jacobian(x.model, x.forcing, {n: t.detach() for n, t in p.items()}, **given(x))[1]
    left = sum((d_q * found[n] * v[n]).sum() for n in p)
    right = sum((g * v[n]).sum() for n, g in zip(p, gradients, strict=True))
    size = sum((d_q * found[n] * v[n]).abs().sum() for n in p)
    assert abs(left - right) <= 1e-12 * size


@pytest.mark.parametrize("transform", TRANSFORMS)
@every_variant
@pytest.mark.parametrize("size", SIZES)
def test_the_normal_equations_are_those_of_the_jacobian(variant, transform, size):
    x = random_inputs(variant, *size)
    p = case(x)
    shift = 0.1 + uniform(size[1])
    target, weight = normal(*size[:2]), torch.where(uniform(*size[:2]) < 0.3, 0.0, uniform(*size[:2], seed=5))
    weight[:35] = weight[:35] if size[0] < 40 else 0.0  # a whole tile of warm-up
    found = normal_equations(x.model, x.forcing, p, target, weight, transform=transform, shift=shift, exponent=0.3,
                             **given(x))  # fmt: skip
    flow, columns = jacobian(x.model, x.forcing, p, **given(x))
    y = flow.clone().requires_grad_()
    e = y + shift[:, None]
    g = {"identity": y, "root": e.sqrt(), "logarithm": e.log(), "box_cox": (e**0.3 - 1) / 0.3}[transform]
    (slope,) = torch.autograd.grad(g.sum(), y)
    assert found.names == tuple(p)
    j = torch.stack([columns[n] for n in found.names], -1) * (slope * weight[..., None])[..., None]
    r = (g.detach() - target[..., None]) * weight[..., None]
    expected = {
        "matrix": torch.einsum("tbci,tbcj->bcij", j, j),
        "gradient": torch.einsum("tbci,tbc->bci", j, r),
        "cost": r.square().sum(0),
    }
    assert_close({n: getattr(found, n) for n in expected}, expected, 1e-12)


@one_of_each
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_bits_for_threads_and_basins(variant, dtype, threads):
    x = random_inputs(variant, 90, 37, 3, dtype=dtype)
    p, target, weight = case(x), uniform(90, 37, dtype=dtype), uniform(90, 37, seed=1, dtype=dtype)

    def run(cut=slice(None)):
        y, q = x.basins(cut), {n: v[cut] for n, v in p.items()}
        n = normal_equations(y.model, y.forcing, q, target[:, cut], weight[:, cut], **given(y))
        return {name: getattr(n, name) for name in ("matrix", "gradient", "cost")}

    torch.set_num_threads(1)
    one = run()
    torch.set_num_threads(3)
    assert_same_bits(run(), one)
    assert_same_bits(run(slice(5, 23)), {name: v[5:23] for name, v in one.items()})


@one_of_each
def test_single_precision_is_near_double(variant):
    x = random_inputs(variant, 300, 16, 4)
    p, target, weight = case(x), uniform(300, 16), uniform(300, 16, seed=1)
    wide = normal_equations(x.model, x.forcing, p, target, weight, inputs=x.inputs)
    y = x.to(torch.float32)
    q = {n: v.float() for n, v in p.items()}
    narrow = normal_equations(y.model, y.forcing, q, target.float(), weight.float(), inputs=y.inputs)
    for name in ("matrix", "gradient", "cost"):
        a, b = getattr(narrow, name).double(), getattr(wide, name)
        assert ((a - b).abs() / b.abs().clamp(min=1e-3 * b.abs().max())).quantile(0.9) < 1e-3


@every_variant
@pytest.mark.parametrize("size", SIZES)
def test_the_gpu_has_the_same_numbers(variant, size, cuda_device):
    x = random_inputs(variant, *size)
    p, target, weight = case(x), uniform(*size[:2]), uniform(*size[:2], seed=1)
    y, q = x.to(cuda_device), {n: v.to(cuda_device) for n, v in p.items()}
    found = jacobian(y.model, y.forcing, q, backend="cuda", **given(y))
    expected = jacobian(x.model, x.forcing, p, **given(x))
    assert_close({"q": found[0].cpu()}, {"q": expected[0]}, 1e-12)
    assert_close({n: v.cpu() for n, v in found[1].items()}, expected[1], 1e-10)
    for transform in TRANSFORMS:
        options = dict(transform=transform, shift=0.1 + uniform(size[1]))
        there = {n: v.to(cuda_device) if isinstance(v, torch.Tensor) else v for n, v in options.items()}
        found = normal_equations(y.model, y.forcing, q, target.to(cuda_device), weight.to(cuda_device),
                                 backend="cuda", **given(y), **there)  # fmt: skip
        expected = normal_equations(x.model, x.forcing, p, target, weight, **given(x), **options)
        names = ("matrix", "gradient", "cost")
        assert_close({n: getattr(found, n).cpu() for n in names}, {n: getattr(expected, n) for n in names}, 1e-10)


@one_of_each
def test_the_gpu_names_what_is_out_of_bounds(variant, cuda_device):
    x = random_inputs(variant, 20, 3, 2)
    p = {n: v.to(cuda_device) for n, v in case(x).items()}
    x, name = x.to(cuda_device), x.model.forcing_names[0]
    x.forcing[name][4, 1] = torch.nan
    none = uniform(20, 3).to(cuda_device)
    with pytest.raises(ValueError, match=f"forcing '{name}' must lie in .* found nan at step 4, basin 1"):
        found = normal_equations(x.model, x.forcing, p, none, none, inputs=x.inputs, backend="cuda")
        hs.synchronize()
    x.forcing[name][4, 1] = 0
    found = normal_equations(x.model, x.forcing, p, none, none, inputs=x.inputs, backend="cuda")
    hs.synchronize()
    assert found.matrix.isfinite().all()


def first(tensors):
    return next(iter(tensors.values()))


def per_step(parameters):
    name = next(iter(parameters))
    parameters[name] = parameters[name].expand(20, 4, 2)


BAD = {
    "a shape": (lambda a: a.update(target=torch.zeros(3, 4).double()), r"target must be \[20, 4\] .* found \[3, 4\]"),
    "a type": (lambda a: a.update(weight=torch.zeros(20, 4)), "weight must be .* found .* torch.float32"),
    "a transform": (lambda a: a.update(transform="cube"), "unknown transform 'cube'; expected one of identity"),
    "a value": (lambda a: first(a["parameters"]).fill_(-9), r"parameter '{p0}' must lie in \["),
    "a gap": (lambda a: first(a["forcing"]).fill_(torch.nan), "forcing '{f0}' must lie in .* found nan"),
    "a step": (lambda a: per_step(a["parameters"]), "parameter '{p0}' must be static"),
}


@one_of_each
def test_chosen_columns(variant):
    x = random_inputs(variant, 20, 4, 2)
    every = jacobian(x.model, x.forcing, case(x), inputs=x.inputs)[1]
    wanted = list(dict.fromkeys((*list(every)[1::9], list(every)[-1])))
    some = jacobian(x.model, x.forcing, case(x), names=wanted, inputs=x.inputs)[1]
    assert list(some) == wanted
    assert_same_bits(some, {n: every[n] for n in some})
    observed = dict(target=uniform(20, 4), weight=uniform(20, 4, seed=1), inputs=x.inputs)
    whole = normal_equations(x.model, x.forcing, case(x), **observed)
    wanted = wanted[::-1]
    part = normal_equations(x.model, x.forcing, case(x), names=wanted, **observed)
    at = [whole.names.index(name) for name in wanted]
    assert part.names == tuple(wanted) and torch.equal(part.cost, whole.cost)
    assert torch.equal(part.matrix, whole.matrix[..., at, :][..., at])
    assert torch.equal(part.gradient, whole.gradient[..., at])
    message = "names has 'nobodys', which is no parameter of this run; expected any of " + next(iter(every))
    with pytest.raises(ValueError, match=message):
        jacobian(x.model, x.forcing, case(x), names=("nobodys",), inputs=x.inputs)


@one_of_each
@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_bad_input(variant, change, message):
    x = random_inputs(variant, 20, 4, 2)
    arguments = dict(forcing=x.forcing, parameters=case(x), target=uniform(20, 4), weight=uniform(20, 4))
    change(arguments)
    with pytest.raises(ValueError, match=said(message, x.model)):
        normal_equations(x.model, inputs=x.inputs, **arguments)


@one_of_each
def test_the_routing_is_part_of_the_run(variant):
    x = random_inputs(variant, 20, 4, 2)
    for name in x.model.routing_parameter_names:
        p = case(x)
        del p[name]
        with pytest.raises(ValueError, match=f"parameters lacks '{name}' of the unit hydrograph"):
            normal_equations(x.model, x.forcing, p, uniform(20, 4), uniform(20, 4), inputs=x.inputs)


# --- Forward mode: torch.func.jvp, jacfwd, dual tensors ---------------------------------------------------------------


def tangents_of(inputs):
    return {n: normal(*x.shape, seed=i, dtype=x.dtype) for i, (n, x) in enumerate(inputs.tensors().items())}


@every_variant
@pytest.mark.parametrize("raw", (False, True))
@pytest.mark.parametrize("components", ("mean", "each"))
def test_forward_mode_on_the_gpu(variant, raw, components, cuda_device):
    x = random_inputs(variant, 30, 5, 3, per_step=variant[1][:1], weights=components == "mean")
    if raw:
        x.parameters = {n: normal(*p.shape, seed=i) for i, (n, p) in enumerate(x.parameters.items())}
    t, options = tangents_of(x), dict(raw=raw, components=components)
    expected = forward_mode(x, t, **options)[1]
    y = x.to(cuda_device)
    found = forward_mode(y, {n: v.to(cuda_device) for n, v in t.items()}, backend="cuda", **options)[1]
    assert_close({n: v.cpu() for n, v in found.items()}, expected, 1e-11)


@pytest.mark.parametrize("size", ((1, 3), (14, 20), (140, 37)))
def test_forward_mode_of_the_unit_hydrograph_on_the_gpu(size, cuda_device):
    t, n = size
    inputs = uniform(t, n), 2.9 * uniform(n, seed=1), 6.5 * uniform(n, seed=2), uniform(14, n, seed=3)
    along = tuple(normal(*x.shape, seed=i) for i, x in enumerate(inputs))
    expected = torch.func.jvp(hs.unit_hydrograph, inputs, along)[1]
    there = [tuple(x.to(cuda_device) for x in part) for part in (inputs, along)]
    found = torch.func.jvp(lambda *x: hs.unit_hydrograph(*x, backend="cuda"), *there)[1]
    assert_close({"q": found.cpu()}, {"q": expected}, 1e-12)


def forward_mode(inputs, tangents, **options):
    moving = {n: inputs.tensors()[n] for n in tangents}
    function = lambda moved: inputs.with_tensors(moved).outputs(**options)  # noqa: E731
    return torch.func.jvp(function, (moving,), (tangents,))


@every_variant
@pytest.mark.parametrize("make", (random_inputs, ties))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("components", ("mean", "each"))
def test_forward_mode_matches_the_oracles(variant, make, size, components):
    """Along all inputs at once, and along each alone."""
    x = make(variant, *size)
    t = tangents_of(x)
    options = dict(components=components)
    found, expected = forward_mode(x, t, **options), forward_mode(x, t, backend="reference", **options)
    assert_close(found[1], expected[1], 1e-10)
    assert_same_bits(found[0], x.outputs(**options))
    if size == (33, 5, 3) and components == "each":  # whose means are tested along all inputs at once
        plain = lambda values: x.with_tensors(values).outputs(backend="reference", **options)  # noqa: E731
        for name, expected in along_each(plain, x.tensors(), t).items():
            assert_close(forward_mode(x, {name: t[name]}, **options)[1], expected, 1e-10)


@every_variant
@pytest.mark.parametrize("raw", (False, True))
def test_forward_mode_of_steps_weights_and_shared_axes(variant, raw):
    x = random_inputs(variant, 40, 9, 3, per_step=variant[1][::2][:2], weights=True)
    name, series = variant[1][1], x.model.forcing_names[-1]
    x.parameters[name], x.forcing[series] = x.parameters[name][:1], x.forcing[series][:, :1]
    if raw:
        x.parameters = {n: normal(*p.shape, seed=i) for i, (n, p) in enumerate(x.parameters.items())}
    t = tangents_of(x)
    expected = forward_mode(x, t, backend="reference", raw=raw)[1]
    assert_close(forward_mode(x, t, raw=raw)[1], expected, 1e-10)


@every_variant
@pytest.mark.parametrize("make", (random_inputs, ties))
def test_forward_mode_is_the_transpose_of_the_adjoint(variant, make):
    x = make(variant, 50, 7, 3)
    t = tangents_of(x)
    leaves = {n: v.clone().requires_grad_() for n, v in x.tensors().items()}
    out = x.with_tensors(leaves).outputs()
    d = {n: normal(*v.shape, seed=i) for i, (n, v) in enumerate(out.items())}
    gradients = torch.autograd.grad(list(out.values()), list(leaves.values()), list(d.values()), materialize_grads=True)
    along = forward_mode(x, t)[1]
    left = sum((d[n] * along[n]).sum() for n in d)
    right = sum((g * t[n]).sum() for n, g in zip(leaves, gradients, strict=True))
    size = sum((d[n] * along[n]).abs().sum() for n in d) + sum(
        (g * t[n]).abs().sum() for n, g in zip(t, gradients, strict=True)
    )
    assert abs(left - right) <= 1e-12 * size


@pytest.mark.parametrize("size", ((1, 3), (14, 20), (40, 37)))
def test_forward_mode_of_the_unit_hydrograph(size):
    t, n = size
    inputs = uniform(t, n), 2.9 * uniform(n, seed=1), 6.5 * uniform(n, seed=2), uniform(14, n, seed=3)
    along = tuple(normal(*x.shape, seed=i) for i, x in enumerate(inputs))
    found = torch.func.jvp(hs.unit_hydrograph, inputs, along)
    expected = torch.func.jvp(reference_unit_hydrograph, inputs, along)
    assert_close(dict(enumerate(found)), dict(enumerate(expected)), 1e-12)
    only_a = torch.func.jvp(lambda a: hs.unit_hydrograph(inputs[0], a, *inputs[2:]), inputs[1:2], along[1:2])[1]
    expected = torch.func.jvp(lambda a: reference_unit_hydrograph(inputs[0], a, *inputs[2:]), inputs[1:2], along[1:2])[
        1
    ]
    assert_close({"q": only_a}, {"q": expected}, 1e-12)


@one_of_each
def test_jacfwd_is_jacrev(variant):
    x = random_inputs(variant, 20, 2, 2)
    p = case(x)

    def flow(name, v):
        return flow_of(x, p | {name: v})

    for name in (*variant[1][:2], list(p)[-1]):
        forward = torch.func.jacfwd(lambda v: flow(name, v))(p[name])  # noqa: B023
        assert_close({"j": forward}, {"j": torch.func.jacrev(lambda v: flow(name, v))(p[name])}, 1e-9)  # noqa: B023


@one_of_each
def test_dual_tensors_and_what_is_refused(variant):
    x = random_inputs(variant, 20, 3, 2)
    name, outflow = x.example.parameter, x.model.outflow
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.parameters[name], torch.ones(3, 2, dtype=torch.float64))
        out = x.with_tensors({f"parameters {name}": dual}).simulate().fluxes[outflow]
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    ones = {f"parameters {name}": torch.ones(3, 2, dtype=torch.float64)}
    assert_same_bits({"q": tangent}, {"q": forward_mode(x, ones)[1][outflow]})

    def loss(v):
        return x.with_tensors({f"parameters {name}": v}).simulate().fluxes[outflow].square().sum()

    v, one = x.parameters[name], ones[f"parameters {name}"]
    with pytest.raises(RuntimeError, match="jvp"):  # forward over reverse: torch's own word
        torch.func.jvp(torch.func.grad(loss), (v,), (one,))
    with pytest.raises(NotImplementedError, match="second derivatives of hybridsolve are not implemented"):
        torch.func.grad(lambda v: torch.func.jvp(loss, (v,), (one,))[1])(v)  # reverse over forward
