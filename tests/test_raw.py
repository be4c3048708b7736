"""Parameters before the sigmoid: the kernel scales them, with the numbers of scaling outside."""

import pytest
import torch
from conftest import (
    assert_close,
    assert_matches_reference,
    both_precisions,
    every_variant,
    gradients,
    normal,
    random_inputs,
)

NAN = float("nan")
raw_parameters = pytest.mark.parametrize("per_step", ("none", "some", "all"))


def raw_inputs(variant, per_step="none", dtype=torch.float64, **options):
    moving = {"none": (), "some": variant[1][::3], "all": variant[1]}[per_step]
    x = random_inputs(variant, per_step=moving, dtype=dtype, **options)
    x.parameters = {n: 2 * normal(*p.shape, seed=i, dtype=dtype) for i, (n, p) in enumerate(x.parameters.items())}
    return x


@every_variant
@raw_parameters
@pytest.mark.parametrize("options", ({}, {"components": "each"}), ids=("mean", "each"))
def test_all_gradients_match_the_reference(variant, per_step, options):
    assert_matches_reference(raw_inputs(variant, per_step), raw=True, **options)


@every_variant
@raw_parameters
@both_precisions
def test_inside_is_outside(variant, per_step, dtype):
    """The kernel that scales and the kernel that is given scaled values differ by rounding alone."""
    x = raw_inputs(variant, per_step, dtype, T=9)
    x.example.apart(x)
    leaves = {n: v.requires_grad_() for n, v in x.tensors().items()}
    inside = x.with_tensors(leaves)
    outside = x.with_tensors(leaves)
    outside.parameters = x.model.parameters_from_unit({n: torch.sigmoid(p) for n, p in inside.parameters.items()})
    found, expected = ({**o, **gradients(o, leaves)} for o in (inside.outputs(raw=True), outside.outputs()))
    tolerance = {torch.float32: 2e-3, torch.float64: 1e-11}[dtype]
    assert_close({n: v.detach() for n, v in found.items()}, {n: v.detach() for n, v in expected.items()}, tolerance)


@every_variant
@pytest.mark.parametrize("shape", [(24, 5, 1), (1, 5, 3), (24, 1, 3), (1, 1, 1), (5, 1), (1, 3)], ids=str)
def test_shared_axes(variant, shape):
    x = raw_inputs(variant)
    x.parameters = {n: normal(*shape, seed=i) for i, n in enumerate(x.parameters)}
    assert_matches_reference(x, raw=True)


@every_variant
def test_far_out_is_at_the_bound_without_gradient(variant):
    x = raw_inputs(variant)
    x.parameters = {n: torch.where(p < 0, -1e4, 1e4).to(p.dtype) for n, p in x.parameters.items()}
    leaves = {n: v.requires_grad_() for n, v in x.tensors().items() if n.startswith("parameters")}
    outputs = x.with_tensors(leaves).outputs(raw=True)
    assert all(v.isfinite().all() for v in outputs.values())
    assert all((g.abs() < 1e-30).all() for g in gradients(outputs, leaves).values())


@every_variant
@raw_parameters
def test_a_nan_is_named(variant, per_step):
    x = raw_inputs(variant, per_step)
    for name, p in x.parameters.items():
        place = (7, 4, 2) if p.dim() == 3 else (4, 2)
        bad = p.clone()
        bad[place] = NAN
        where = ("step 7, " if p.dim() == 3 else "") + "basin 4, component 2"
        with pytest.raises(ValueError, match=f"raw parameter '{name}' must be a number; found nan at {where}: look"):
            x.with_tensors({f"parameters {name}": bad}).simulate(raw=True)
