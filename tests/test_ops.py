"""The operators through every door of torch: opcheck, compile, torch.func, vmap; no second derivatives."""

import pytest
import torch
import torch._inductor.config
from conftest import (
    ONE_EACH,
    assert_close,
    assert_same_bits,
    both_precisions,
    every_variant,
    gradients,
    one_of_each,
    random_inputs,
    run_both_ways,
    uniform,
)
from models import example

import hybridsolve as hs
import hybridsolve.solve.ops  # registers the operators
from hybridsolve.solve.problem import Problem

OPS = torch.ops.hybridsolve
pytestmark = pytest.mark.compile
SECOND = pytest.raises(NotImplementedError, match="second derivatives.*differentiate once, or use backend='reference'")


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No graph of another test, nor one that an earlier build left in the compiler's cache."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


def run_arguments(variant, requires_grad=True, each=False, weights=True):
    x = random_inputs(variant, T=7, B=3, C=2, weights=weights and not each, per_step=variant[1][:1])
    leaf = lambda v: v.detach().requires_grad_(requires_grad)  # noqa: E731
    run = Problem(
        "cpu",
        x.model,
        [leaf(v) for v in x.forcing.values()],
        list(x.inputs.values()),
        [leaf(v) for v in x.parameters.values()],
        leaf(torch.cat([v.view(-1, 3, 2) for v in x.initial_state.values()])),
        None if x.weights is None else leaf(x.weights),
        (7, 3, 2),
        (x.model.outflow, x.example.store),
        each=each,
        optional=tuple(n for n in x.model.optional_parameter_names if n in x.parameters),
        interval=3,
    )
    return run.text, run.tensors, run.numbers


def adjoint_arguments(variant, requires_grad=False, each=False):
    text, tensors, numbers = run_arguments(variant, each=each)
    fluxes, final, checkpoints = OPS.run(text, tensors, numbers)
    cotangents = [torch.ones_like(fluxes).requires_grad_(requires_grad), torch.ones_like(final)]
    detached = [v.detach() for v in tensors]
    return text, detached, numbers, [checkpoints.detach()], cotangents, [v.requires_grad for v in tensors]


def route_arguments(requires_grad=True):
    shapes = [(9, 3), (5, 3), (4, 3)]
    inputs = [(1 + uniform(*shape, seed=i)).requires_grad_(requires_grad) for i, shape in enumerate(shapes)]
    return "cpu", inputs, [9, 3, 5]


def route_adjoint_arguments(requires_grad=False):
    outflow = torch.ones(9, 3, dtype=torch.float64).requires_grad_(requires_grad)
    return *route_arguments(False), [], [outflow], [True] * 3


# One scalar function of a dictionary of tensors for each pair of operators, as a user would write it.
def runoff(x):
    fluxes = x.example.pair
    return lambda tensors: sum(v.square().sum() for v in x.with_tensors(tensors).outputs(fluxes=fluxes).values())


def routed(tensors):
    out, memory = hs.unit_hydrograph(tensors["q"], tensors["a"], tensors["b"], tensors["memory"], return_memory=True)
    return out.square().sum() + memory.sum()


ROUTING = pytest.param("unit_hydrograph", id="unit_hydrograph")


def case(variant, T=9, B=4):
    """The function and its tensors, of a run of a model or of the hydrograph."""
    if variant == ROUTING.id:
        series = dict(q=uniform(T, B), a=uniform(B, seed=1), b=uniform(B, seed=2), memory=uniform(14, B, seed=3))
        return routed, series
    x = random_inputs(variant, T=T, B=B, C=2, weights=True)
    x.inputs = {n: k[:1] for n, k in x.inputs.items()}  # no part of what a compiled function is given anew
    return runoff(x), x.tensors()


every_operator = pytest.mark.parametrize("variant", [*ONE_EACH, ROUTING])


def eager_gradient(function, tensors):
    leaves = {n: v.detach().requires_grad_() for n, v in tensors.items()}
    return dict(zip(leaves, torch.autograd.grad(function(leaves), list(leaves.values())), strict=True))


@every_variant
@pytest.mark.parametrize("each", (False, True), ids=("mean", "each"))
def test_opcheck_of_the_run_and_its_adjoint(variant, each):
    torch.library.opcheck(OPS.run.default, run_arguments(variant, each=each))
    torch.library.opcheck(OPS.run_adjoint.default, adjoint_arguments(variant, each=each))


def test_opcheck_of_the_convolution_and_its_adjoint():
    torch.library.opcheck(OPS.convolve.default, route_arguments())
    torch.library.opcheck(OPS.convolve_adjoint.default, route_adjoint_arguments())


@one_of_each
@pytest.mark.parametrize("each", (False, True), ids=("mean", "each"))
def test_fakes_have_the_shapes_and_strides_of_the_real(variant, each):
    for op, arguments in (
        (OPS.run, run_arguments(variant, False, each)),
        (OPS.run_adjoint, adjoint_arguments(variant, each=each)),
    ):
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
            fake = op(*arguments)
        for f, r in zip(fake, op(*arguments), strict=True):
            assert (f.shape, f.dtype, f.stride()) == (r.shape, r.dtype, r.stride())


INDUCTOR = [ONE_EACH[-1], ROUTING]  # half a minute of g++: other models by the same operator


@pytest.mark.parametrize(
    "variant, backend",
    [pytest.param(*v.values, "inductor", id=f"{v.id}-inductor", marks=() if v in INDUCTOR else pytest.mark.nightly)
     for v in (*ONE_EACH, ROUTING)]
    + [pytest.param(*v.values, "aot_eager", id=f"{v.id}-aot_eager") for v in (*ONE_EACH, ROUTING)],
)  # fmt: skip
def test_compiled_value_and_gradient_equal_eager(variant, backend):
    function, tensors = case(variant)
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(tensors), function(tensors), rtol=1e-13, atol=0)
    assert_close(eager_gradient(compiled, tensors), eager_gradient(function, tensors), 1e-12)


@every_operator
def test_compiled_with_dynamic_shapes(variant):
    graphs = 0

    def counting(module, examples):
        nonlocal graphs
        graphs += 1
        return module.forward

    function = torch.compile(case(variant)[0], fullgraph=True, dynamic=True, backend=counting)
    for T, B in ((20, 7), (30, 5), (17, 6)):
        eager, tensors = case(variant, T, B)
        assert_close(eager_gradient(function, tensors), eager_gradient(eager, tensors), 1e-12)
    assert graphs == 1


@every_operator
def test_functional_gradient_plain_and_compiled(variant):
    function, tensors = case(variant)
    expected = eager_gradient(function, tensors)
    assert sum(bool(g.any()) for g in expected.values()) > len(expected) / 2
    assert_close(torch.func.grad(function)(tensors), expected, 1e-13)
    compiled = torch.compile(torch.func.grad(function), fullgraph=True, backend="aot_eager")
    assert_close(compiled(tensors), expected, 1e-13)


@every_operator
def test_vmap_and_jacobian(variant):
    function, tensors = case(variant)
    name = "a" if variant == ROUTING.id else f"parameters {example(variant[0]).parameter}"
    scale = torch.linspace(0.8, 1, 3, dtype=torch.float64)
    one = lambda s: tensors | {name: tensors[name] * s}  # noqa: E731
    torch.testing.assert_close(
        torch.vmap(lambda s: function(one(s)))(scale), torch.stack([function(one(s)) for s in scale])
    )
    batched = torch.vmap(lambda s: torch.func.grad(function)(one(s)))(scale)
    for i, s in enumerate(scale):
        assert_close({n: g[i] for n, g in batched.items()}, eager_gradient(function, one(s)), 1e-13)
    # Rows of the Jacobian: the values of the function at three scales, each by its own gradient.
    rows = torch.func.jacrev(lambda t: torch.stack([function(t | {name: t[name] * s}) for s in scale]))(tensors)
    for i, s in enumerate(scale):
        expected = eager_gradient(function, one(s))
        assert_close({n: r[i] for n, r in rows.items()}, expected | {name: expected[name] * s}, 1e-13)


@one_of_each
def test_vmap_over_every_kind_of_input_at_once(variant):
    x = random_inputs(variant, T=6, B=2, C=2, weights=True)
    batch = {n: torch.stack([v, v, v], dim=v.dim()) for n, v in x.tensors().items()}
    outputs = torch.vmap(lambda t: x.with_tensors(t).outputs(), in_dims=-1)(batch)
    assert_same_bits({n: v[1] for n, v in outputs.items()}, x.outputs())


@every_operator
def test_second_derivatives_are_refused(variant):
    function, tensors = case(variant)
    leaves = {n: v.detach().requires_grad_() for n, v in tensors.items()}
    first = torch.autograd.grad(function(leaves), list(leaves.values()), create_graph=True)
    with SECOND:
        torch.autograd.grad(sum(g.sum() for g in first), list(leaves.values()))
    total = lambda t: sum(g.sum() for g in torch.func.grad(function)(t).values())  # noqa: E731
    with SECOND:
        torch.func.grad(total)(tensors)
    with SECOND:
        torch.func.jacrev(torch.func.grad(function))(tensors)
    with SECOND:
        total(leaves).backward()


@one_of_each
def test_second_derivatives_are_refused_at_the_operators(variant):
    arguments = run_arguments(variant)
    fluxes, _, _ = OPS.run(*arguments)
    (first,) = torch.autograd.grad(fluxes.sum(), arguments[1][0], create_graph=True)
    with SECOND:
        first.sum().backward()
    with SECOND:
        sum(g.sum() for g in OPS.run_adjoint(*adjoint_arguments(variant, requires_grad=True))).backward()
    inputs = route_arguments()
    (outflow,) = OPS.convolve(*inputs)
    (first,) = torch.autograd.grad(outflow.square().sum(), inputs[1][1], create_graph=True)
    with SECOND:
        first.sum().backward()
    with SECOND:
        sum(g.sum() for g in OPS.convolve_adjoint(*route_adjoint_arguments(True))).backward()


@every_operator
def test_forward_mode_is_right_or_refused_not_zero(variant):
    """Right through the Functions (tests/test_sensitivity.py); an operator alone has none, nor has a compiled graph."""
    function, tensors = case(variant)
    ones = {n: torch.ones_like(v) for n, v in tensors.items()}
    out, along = torch.func.jvp(function, (tensors,), (ones,))
    assert_same_bits({"q": out}, {"q": function(tensors)})
    assert along.isfinite().all() and along.abs().max() > 0
    torch._dynamo.reset()
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.func.jvp(torch.compile(function, fullgraph=True), (tensors,), (ones,))


@one_of_each
def test_operator_gradient_equals_the_functions(variant):
    arguments = run_arguments(variant)
    leaves = {str(i): v for i, v in enumerate(arguments[1]) if v.requires_grad}
    by_op = gradients({"fluxes": OPS.run(*arguments)[0]}, leaves)
    by_function = gradients({"fluxes": hs.solve.ops.run(*arguments)[0]}, leaves)
    assert_same_bits(by_op, by_function)


@every_variant
def test_without_gradient(variant):
    x = random_inputs(variant, weights=True)
    expected = run_both_ways(x)
    leaves = x.map(lambda _, v: v.detach().requires_grad_())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = leaves.outputs()
        assert not any(v.requires_grad for v in found.values())
        assert_same_bits(found, {n: expected[n] for n in found})


@every_variant
@both_precisions
def test_results_keep_the_precision(variant, dtype):
    x = random_inputs(variant, dtype=dtype, weights=True)
    found = run_both_ways(x)
    assert {v.dtype for v in found.values()} == {dtype}
    assert_close(
        {n: v.double() for n, v in found.items()},
        run_both_ways(x.to(torch.float64)),
        {torch.float32: 1e-3, torch.float64: 0}[dtype],
    )
