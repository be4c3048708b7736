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
    at_bounds = x.model.parameters_from_unit({n: torch.sigmoid(p.detach()) for n, p in x.parameters.items()})
    scaled = {f"parameters {n}": p.requires_grad_() for n, p in at_bounds.items()}
    slopes = gradients(x.with_tensors(scaled).outputs(), scaled)
    for name, g in gradients(outputs, leaves).items():
        row = x.model.variable(name.removeprefix("d parameters "))
        # A kernel's sigmoid ends at e^-83, 9e-37.
        most = (1e-36 * (row.upper - row.lower) * slopes[name].abs()).clamp(min=1e-30)
        assert (g.abs() <= most).all(), name


@every_variant
@raw_parameters
def test_a_nan_is_named(variant, per_step):
    x = raw_inputs(variant, per_step)
    inside = all(x.model.variable(name).scale == "linear" for name in x.parameters)  # a kernel scales no other way
    for name, p in x.parameters.items():
        place = (7, 4, 2) if p.dim() == 3 else (4, 2)
        bad = p.clone()
        bad[place] = NAN
        where = ("step 7, " if p.dim() == 3 else "") + "basin 4, component 2"
        said = "raw parameter '{}' must be a number; found nan at {}: look" if inside else "parameter '{}' .* nan at {}"
        with pytest.raises(ValueError, match=said.format(name, where)):
            x.with_tensors({f"parameters {name}": bad}).simulate(raw=True)
