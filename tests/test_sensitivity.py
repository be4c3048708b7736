"""Derivatives carried forward: against the oracle's forward mode, against the adjoint, and what is summed of them."""

import pytest
import torch
from conftest import VARIANTS, assert_close, assert_same_bits, every_variant, normal, random_inputs, ties, uniform

import hybridsolve as hs
from hybridsolve.routing.unit_hydrograph import reference_unit_hydrograph
from hybridsolve.solve.sensitivity import TRANSFORMS, jacobian, normal_equations

HBV = VARIANTS[-1].values[0]
SIZES = ((1, 1, 1), (33, 5, 3), (41, 19, 2))


def case(inputs, seed=0):
    """Static parameters with those of the unit hydrograph."""
    b, c = next(iter(inputs.parameters.values())).shape
    like = next(iter(inputs.forcing.values()))
    routing = {"route_a": 2.9 * uniform(b, c, seed=seed), "route_b": 6.5 * uniform(b, c, seed=seed + 1)}
    return inputs.parameters | {n: x.to(like) for n, x in routing.items()}


def flow_of(inputs, parameters, backend="auto"):
    p = dict(parameters)
    a, b = p.pop("route_a"), p.pop("route_b")
    state = inputs.initial_state
    run = hs.simulate(inputs.model, inputs.forcing, p, initial_state=state, components="each", backend=backend)
    q = run.fluxes["streamflow"].flatten(1)
    routed = (reference_unit_hydrograph if backend == "reference" else hs.unit_hydrograph)(q, a.flatten(), b.flatten())
    return routed.view(run.fluxes["streamflow"].shape)


@every_variant
@pytest.mark.parametrize("make", (random_inputs, ties))
@pytest.mark.parametrize("size", SIZES)
def test_every_column_matches_the_oracles_forward_mode(variant, make, size):
    x = make(variant, *size)
    p = case(x)
    flow, found = jacobian(x.model, x.forcing, p, initial_state=x.initial_state)
    assert_close({"q": flow}, {"q": flow_of(x, p, "reference")}, 1e-12)
    for name in p:
        along = {n: torch.ones_like(v) if n == name else torch.zeros_like(v) for n, v in p.items()}
        expected = torch.func.jvp(lambda p: flow_of(x, p, "reference"), (p,), (along,))[1]
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
    found = jacobian(x.model, x.forcing, {n: t.detach() for n, t in p.items()}, initial_state=x.initial_state)[1]
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
                             initial_state=x.initial_state)  # fmt: skip
    flow, columns = jacobian(x.model, x.forcing, p, initial_state=x.initial_state)
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


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_bits_for_threads_and_basins(dtype, threads):
    x = random_inputs(HBV, 90, 37, 3, dtype=dtype)
    p, target, weight = case(x), uniform(90, 37, dtype=dtype), uniform(90, 37, seed=1, dtype=dtype)

    def run(cut=slice(None)):
        y, q = x.basins(cut), {n: v[cut] for n, v in p.items()}
        n = normal_equations(y.model, y.forcing, q, target[:, cut], weight[:, cut], initial_state=y.initial_state)
        return {name: getattr(n, name) for name in ("matrix", "gradient", "cost")}

    torch.set_num_threads(1)
    one = run()
    torch.set_num_threads(3)
    assert_same_bits(run(), one)
    assert_same_bits(run(slice(5, 23)), {name: v[5:23] for name, v in one.items()})


def test_single_precision_is_near_double():
    x = random_inputs(HBV, 300, 16, 4)
    p, target, weight = case(x), uniform(300, 16), uniform(300, 16, seed=1)
    wide = normal_equations(x.model, x.forcing, p, target, weight)
    y = x.to(torch.float32)
    narrow = normal_equations(
        y.model, y.forcing, {n: v.float() for n, v in p.items()}, target.float(), weight.float()
    )  # fmt: skip
    for name in ("matrix", "gradient", "cost"):
        a, b = getattr(narrow, name).double(), getattr(wide, name)
        assert ((a - b).abs() / b.abs().clamp(min=1e-3 * b.abs().max())).quantile(0.9) < 1e-3


@every_variant
@pytest.mark.parametrize("size", SIZES)
def test_the_gpu_has_the_same_numbers(variant, size, cuda_device):
    x = random_inputs(variant, *size)
    p, target, weight = case(x), uniform(*size[:2]), uniform(*size[:2], seed=1)
    y, q = x.map(lambda _, v: v.to(cuda_device)), {n: v.to(cuda_device) for n, v in p.items()}
    found = jacobian(y.model, y.forcing, q, initial_state=y.initial_state, backend="cuda")
    expected = jacobian(x.model, x.forcing, p, initial_state=x.initial_state)
    assert_close({"q": found[0].cpu()}, {"q": expected[0]}, 1e-12)
    assert_close({n: v.cpu() for n, v in found[1].items()}, expected[1], 1e-10)
    for transform in TRANSFORMS:
        options = dict(transform=transform, shift=0.1 + uniform(size[1]))
        there = {n: v.to(cuda_device) if isinstance(v, torch.Tensor) else v for n, v in options.items()}
        found = normal_equations(y.model, y.forcing, q, target.to(cuda_device), weight.to(cuda_device),
                                 initial_state=y.initial_state, backend="cuda", **there)  # fmt: skip
        expected = normal_equations(x.model, x.forcing, p, target, weight, initial_state=x.initial_state, **options)
        names = ("matrix", "gradient", "cost")
        assert_close({n: getattr(found, n).cpu() for n in names}, {n: getattr(expected, n) for n in names}, 1e-10)


def test_the_gpu_names_what_is_out_of_bounds(cuda_device):
    x = random_inputs(HBV, 20, 3, 2)
    p = {n: v.to(cuda_device) for n, v in case(x).items()}
    forcing = {n: v.to(cuda_device) for n, v in x.forcing.items()}
    forcing["prcp"][4, 1] = torch.nan
    none = uniform(20, 3).to(cuda_device)
    with pytest.raises(ValueError, match="forcing 'prcp' must lie in .* found nan at step 4, basin 1"):
        found = normal_equations(HBV[0], forcing, p, none, none, backend="cuda")
        hs.synchronize()
    forcing["prcp"][4, 1] = 0
    found = normal_equations(HBV[0], forcing, p, none, none, backend="cuda")
    hs.synchronize()
    assert found.matrix.isfinite().all()


BAD = {
    "no hydrograph": (lambda a: a["parameters"].pop("route_a"), "parameters lacks 'route_a' of the unit hydrograph"),
    "a shape": (lambda a: a.update(target=torch.zeros(3, 4).double()), r"target must be \[20, 4\] .* found \[3, 4\]"),
    "a type": (lambda a: a.update(weight=torch.zeros(20, 4)), "weight must be .* found .* torch.float32"),
    "a transform": (lambda a: a.update(transform="cube"), "unknown transform 'cube'; expected one of identity"),
    "a value": (lambda a: a["parameters"]["fc"].fill_(9), r"parameter 'fc' must lie in \[50, 1000\]"),
    "a gap": (lambda a: a["forcing"]["prcp"].fill_(torch.nan), "forcing 'prcp' must lie in .* found nan"),
    "a step": (lambda a: a["parameters"].update(k0=a["parameters"]["k0"].expand(20, 4, 2)), "must be static"),
}


def test_chosen_columns():
    x = random_inputs(HBV, 20, 4, 2)
    every = jacobian(x.model, x.forcing, case(x))[1]
    some = jacobian(x.model, x.forcing, case(x), names=("fc", "route_b"))[1]
    assert list(some) == ["fc", "route_b"]
    assert_same_bits(some, {n: every[n] for n in some})
    with pytest.raises(ValueError, match="names has 'alpha', which is no parameter of this run; expected any of beta"):
        jacobian(x.model, x.forcing, case(x), names=("alpha",))


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_bad_input(change, message):
    x = random_inputs(HBV, 20, 4, 2)
    arguments = dict(forcing=x.forcing, parameters=case(x), target=uniform(20, 4), weight=uniform(20, 4))
    change(arguments)
    with pytest.raises(ValueError, match=message):
        normal_equations(x.model, **arguments)


# --- Forward mode: torch.func.jvp, jacfwd, dual tensors ---------------------------------------------------------------


def tangents_of(inputs):
    return {n: normal(*x.shape, seed=i, dtype=x.dtype) for i, (n, x) in enumerate(inputs.tensors().items())}


@every_variant
@pytest.mark.parametrize("raw", (False, True))
@pytest.mark.parametrize("components", ("mean", "each"))
def test_forward_mode_on_the_gpu(variant, raw, components, cuda_device):
    x = random_inputs(variant, 30, 5, 3, per_step=("beta",), weights=components == "mean")
    if raw:
        x.parameters = {n: normal(*p.shape, seed=i) for i, (n, p) in enumerate(x.parameters.items())}
    t, options = tangents_of(x), dict(raw=raw, components=components)
    expected = forward_mode(x, t, **options)[1]
    y = x.map(lambda _, v: v.to(cuda_device))
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
    if size == (33, 5, 3):
        for name in t:
            one = {name: t[name]}
            assert_close(
                forward_mode(x, one, **options)[1], forward_mode(x, one, backend="reference", **options)[1], 1e-10
            )


@every_variant
@pytest.mark.parametrize("raw", (False, True))
def test_forward_mode_of_steps_weights_and_shared_axes(variant, raw):
    x = random_inputs(variant, 40, 9, 3, per_step=("beta", "k0"), weights=True)
    x.parameters["fc"], x.forcing["pet"] = x.parameters["fc"][:1], x.forcing["pet"][:, :1]
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


def test_jacfwd_is_jacrev():
    x = random_inputs(HBV, 20, 2, 2)
    p = case(x)

    def flow(name, v):
        return flow_of(x, p | {name: v})

    for name in ("fc", "beta", "route_b"):
        forward = torch.func.jacfwd(lambda v: flow(name, v))(p[name])  # noqa: B023
        assert_close({"j": forward}, {"j": torch.func.jacrev(lambda v: flow(name, v))(p[name])}, 1e-9)  # noqa: B023


def test_dual_tensors_and_what_is_refused():
    x = random_inputs(HBV, 20, 3, 2)
    with torch.autograd.forward_ad.dual_level():
        fc = torch.autograd.forward_ad.make_dual(x.parameters["fc"], torch.ones(3, 2, dtype=torch.float64))
        out = x.with_tensors({"parameters fc": fc}).simulate().fluxes["streamflow"]
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    ones = {"parameters fc": torch.ones(3, 2, dtype=torch.float64)}
    assert_same_bits({"q": tangent}, {"q": forward_mode(x, ones)[1]["streamflow"]})

    def loss(v):
        return x.with_tensors({"parameters fc": v}).simulate().fluxes["streamflow"].square().sum()

    v, one = x.parameters["fc"], ones["parameters fc"]
    with pytest.raises(RuntimeError, match="jvp"):  # forward over reverse: torch's own word
        torch.func.jvp(torch.func.grad(loss), (v,), (one,))
    with pytest.raises(NotImplementedError, match="second derivatives of hybridsolve are not implemented"):
        torch.func.grad(lambda v: torch.func.jvp(loss, (v,), (one,))[1])(v)  # reverse over forward
