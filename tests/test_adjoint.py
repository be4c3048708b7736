"""Every gradient in float64, three ways: the oracle's autograd, finite differences, the dot-product test."""

import pytest
import torch
from conftest import (
    assert_close,
    assert_matches_reference,
    assert_same_bits,
    cotangents,
    empty,
    every_variant,
    normal,
    random_inputs,
    run_both_ways,
    ties,
    uniform,
)

OPTIONS = [{}, {"components": "each"}]
either = pytest.mark.parametrize("options", OPTIONS, ids=("mean", "each"))


@every_variant
@either
@pytest.mark.parametrize("per_step", ("none", "some", "all"))
def test_all_gradients_match_the_reference(variant, options, per_step):
    names = variant[1]
    moving = {"none": (), "some": names[::3], "all": names}[per_step]
    assert_matches_reference(
        random_inputs(variant, per_step=moving, weights=per_step == "some" and not options), **options
    )


@every_variant
@pytest.mark.parametrize("seed", range(1, 5))
def test_other_seeds(variant, seed):
    assert_matches_reference(random_inputs(variant, T=33, B=7, C=2, seed=seed, weights=True))


@every_variant
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (9, 1, 1), (9, 1, 5), (9, 7, 1), (2, 131, 1)], ids=str)
@either
def test_small_and_odd_sizes(variant, shape, options):
    assert_matches_reference(random_inputs(variant, *shape), **options)


@every_variant
@either
def test_exact_ties(variant, options):
    assert_matches_reference(ties(variant), **options)


@every_variant
def test_empty_stores_and_no_water(variant):
    x = random_inputs(variant)
    assert_matches_reference(empty(x).without_water(slice(0, 12)))


@every_variant
@pytest.mark.parametrize("end", ("lower", "upper", "either"))
def test_parameters_at_their_bounds(variant, end):
    x = random_inputs(variant)
    for i, (name, p) in enumerate(x.parameters.items()):
        lower, upper = (torch.full_like(p, b) for b in (x.model.variable(name).lower, x.model.variable(name).upper))
        at_lower = {"lower": True, "upper": False, "either": uniform(*p.shape, seed=i) < 0.5}[end]
        x.parameters[name] = torch.where(torch.as_tensor(at_lower), lower, upper)
    assert_matches_reference(x)


@every_variant
@either
def test_each_output_alone(variant, options):
    x = random_inputs(variant, T=9, B=3, C=2)
    for name in x.model.output_names:
        assert_matches_reference(x, fluxes=[name], **options)


@every_variant
def test_one_input_at_a_time(variant):
    x = random_inputs(variant, weights=True, per_step=variant[1][:2])
    for fluxes in (x.model.output_names, None):
        together = run_both_ways(x, fluxes=fluxes)
        for name in x.tensors():
            alone = run_both_ways(x, only=[name], fluxes=fluxes)
            assert_close(alone, {n: together[n] for n in alone}, 1e-13)


@every_variant
def test_only_the_final_state(variant):
    x = random_inputs(variant)
    zero = {n: (0 if n in x.model.output_names else 1) * d for n, d in cotangents(x.outputs()).items()}
    assert_close(run_both_ways(x, zero), run_both_ways(x, zero, backend="reference"), 1e-10)


@pytest.mark.oracle
@every_variant
@either
def test_finite_differences(variant, options):
    x = random_inputs(variant, T=5, B=2, C=2, seed=3, weights=not options, per_step=variant[1][::2][:2])
    x.example.smooth(x)
    names = list(x.tensors())
    leaves = [v.requires_grad_() for v in x.tensors().values()]

    def outputs(*values):
        return tuple(x.with_tensors(dict(zip(names, values, strict=True))).outputs(**options).values())

    torch.autograd.gradcheck(outputs, leaves, eps=1e-6, atol=1e-6, rtol=1e-6, nondet_tol=0.0)


@every_variant
@either
def test_dot_product(variant, options):
    """<d_y, J v> with the oracle's forward-mode J equals <J' d_y, v> with the kernel's adjoint."""
    x = random_inputs(variant, weights=not options, per_step=variant[1][1:3])
    tangents = {n: normal(*v.shape, seed=i) for i, (n, v) in enumerate(x.tensors().items())}
    outputs, pushed = torch.func.jvp(
        lambda values: x.with_tensors(values).outputs(backend="reference", **options),
        (x.tensors(),),
        (tangents,),
    )
    d_outputs = cotangents(outputs)
    pulled = run_both_ways(x, d_outputs, **options)
    forward = [(d_outputs[n] * pushed[n]).sum() for n in pushed]
    reverse = [(pulled[f"d {n}"] * v).sum() for n, v in tangents.items()]
    size = sum(abs(v) for v in forward + reverse)
    assert abs(sum(forward) - sum(reverse)) <= 1e-10 * size


@pytest.mark.oracle
@every_variant
@pytest.mark.parametrize("cuts", [(1, 24), (5, 6, 17), tuple(range(1, 24))], ids=str)
def test_windows_chain(variant, cuts):
    """Runs joined by the state equal one run: the forward bits, and the gradients to rounding."""
    x = random_inputs(variant, T=25, weights=True, per_step=variant[1][:2])
    whole = run_both_ways(x)
    leaves = {n: v.requires_grad_() for n, v in x.tensors().items()}
    series, part = [], x.with_tensors(leaves)
    state = part.initial_state
    for start, end in zip((0, *cuts), (*cuts, 25), strict=True):
        window = part.steps(slice(start, end))
        window.initial_state = state
        run = window.simulate(fluxes=x.model.output_names)
        state = run.final_state
        series.append(run.fluxes)
    joined = {n: torch.cat([s[n] for s in series]) for n in x.model.output_names}
    joined |= {f"final {n}": s for n, s in state.items()}
    assert_same_bits({n: v.detach() for n, v in joined.items()}, {n: whole[n] for n in joined})
    d_outputs = cotangents(joined)
    found = torch.autograd.grad(
        list(joined.values()), list(leaves.values()), list(d_outputs.values()), materialize_grads=True
    )
    assert_close(dict(zip(leaves, found, strict=True)), {n: whole[f"d {n}"] for n in leaves}, 1e-12)
