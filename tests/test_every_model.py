"""What a model with kernels goes through, in about twenty seconds each.

The toy and HBV go through all of tests/ besides, and the others through tests/test_model_library.py; `.ci/nightly`
sends every model through all of it.
"""

import pytest
import test_adjoint as adjoint
import test_gpu
import test_raw
import test_sensitivity as sensitivity
import test_shapes as shapes
import test_step_length as steps
import test_water_balance as balance
import torch
from conftest import THOROUGH, assert_close, assert_same_bits, random_inputs, uniform, variants

import hybridsolve as hs
from hybridsolve.routing.gauge import simulate_to_gauge

gpu = test_gpu.gpu
every_variant = pytest.mark.parametrize("variant", variants(THOROUGH))
MEAN, EACH = {}, {"components": "each"}


@every_variant
@pytest.mark.parametrize("options", (MEAN, EACH), ids=("mean", "each"))
def test_the_oracles_numbers_and_gradients(variant, options):
    adjoint.test_all_gradients_match_the_reference(variant, options, "some")
    adjoint.test_small_and_odd_sizes(variant, (9, 7, 1), options)
    adjoint.test_exact_ties(variant, options)


@every_variant
def test_dry_empty_and_at_the_bounds(variant):
    adjoint.test_empty_stores_and_no_water(variant)
    adjoint.test_parameters_at_their_bounds(variant, "either")
    adjoint.test_only_the_final_state(variant)


@pytest.mark.oracle
@every_variant
def test_finite_differences(variant):
    adjoint.test_finite_differences(variant, EACH)


@every_variant
def test_tangents(variant):
    for make in (random_inputs, adjoint.ties):
        sensitivity.test_forward_mode_matches_the_oracles(variant, make, (33, 5, 3), "each")
        sensitivity.test_every_column_matches_the_oracles_forward_mode(variant, make, (33, 5, 3))
    sensitivity.test_the_normal_equations_are_those_of_the_jacobian(variant, "root", (41, 19, 2))


@pytest.mark.oracle
@every_variant
def test_windows(variant):
    adjoint.test_windows_chain(variant, (5, 6, 17))
    shapes.test_stores_start_where_the_table_says(variant)


@every_variant
def test_shared_axes_and_raw_parameters(variant):
    shapes.test_a_single_shared_tensor_among_full_ones(variant)
    test_raw.test_all_gradients_match_the_reference(variant, "some", MEAN)


@pytest.mark.oracle
@every_variant
def test_water_and_bounds(variant):
    if variant[0].balance:
        balance.test_years_close_to_rounding(variant)
    balance.test_stores_stay_within_their_bounds(variant, torch.float64)


@pytest.mark.oracle
@every_variant
def test_shorter_steps(variant):
    steps.test_shorter_steps_come_to_an_end(variant)


@pytest.mark.nightly
@pytest.mark.parametrize("variant", variants([name for name in hs.models.names() if name not in THOROUGH]))
def test_the_gpus_kernels(variant, gpu):
    test_gpu.test_all_gradients_match_the_reference(gpu, variant, MEAN, "some")
    test_gpu.test_exact_ties(gpu, variant, EACH)


@pytest.mark.oracle
@every_variant
def test_flow_at_the_gauge(variant):
    """The outflow through the hydrograph that the table names, or the outflow."""
    x = random_inputs(variant, T=40)
    cells = next(iter(x.parameters.values())).shape
    unit = {n: uniform(*cells, seed=i) for i, n in enumerate(x.model.routing_parameter_names)}
    given = x.parameters | x.model.parameters_from_unit(unit)
    options = dict(inputs=x.inputs, initial_state=x.initial_state, components="each", backend="reference")
    flow = simulate_to_gauge(x.model, x.forcing, given, **options).fluxes[x.model.outflow]
    (outflow,) = x.simulate(components="each", backend="reference").fluxes.values()
    if not x.model.routing:
        assert_same_bits({"q": flow}, {"q": outflow})
    late = simulate_to_gauge(x.model, x.forcing, given, **options)
    assert_close({"q": late.fluxes[x.model.outflow]}, {"q": flow}, 0.0)
    assert flow.isfinite().all() and (flow.sum(0) <= outflow.sum(0) * (1 + 1e-12)).all()
