"""Generated kernels against those written by hand, and against the oracle: numbers, gradients, tangents, ties."""

import shutil

import generated
import pytest
import test_adjoint as adjoint
import test_sensitivity as sensitivity
from conftest import (
    assert_close,
    assert_same_bits,
    both_precisions,
    empty,
    random_inputs,
    run_both_ways,
    ties,
)

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")

SMALL = "exphydro"  # of the models that nobody wrote by hand, the one that is compiled by day


def variants_of(groups):
    """(model by hand or None, generated model, names of the parameters)."""
    found = []
    for group, models in groups.items():
        hand = generated.BY_HAND.get(group, (None,) * len(models))
        for by_hand, model in zip(hand, models, strict=True):
            for optional in dict.fromkeys(((), model.optional_parameter_names)):
                name = "+".join([model.name.removesuffix("_generated"), *optional])
                # Kernels take a quarter of a minute to compile, and more: those of one small model are enough by day.
                marks = () if group in (*generated.BY_HAND, SMALL) else pytest.mark.nightly
                found.append(
                    pytest.param(group, by_hand, (model, model.parameter_names + optional), id=name, marks=marks)
                )
    return found


TWINS = pytest.mark.parametrize(
    "group, by_hand, twin", variants_of({k: generated.GENERATED[k] for k in generated.BY_HAND})
)
EVERY = pytest.mark.parametrize("group, by_hand, twin", variants_of(generated.GENERATED))


@pytest.fixture
def loaded(request, kernels):
    group = request.node.callspec.params["group"]
    if group not in _LOADED:
        generated.load(generated.GENERATED[group], group, kernels)
        _LOADED.add(group)


_LOADED: set[str] = set()
pytestmark = [pytestmark, pytest.mark.usefixtures("loaded")]


def weather(kind, variant):
    """Random inputs, exact ties, or stores that are empty and stay so for a while."""
    if kind == "ties":
        return ties(variant)
    x = random_inputs(variant, T=41, B=7, C=3, weights=True, per_step=variant[1][::3] if kind == "per step" else ())
    return empty(x).without_water(slice(0, 12)) if kind == "empty" else x


@TWINS
@pytest.mark.parametrize("kind", ("random", "per step", "ties", "empty"))
@pytest.mark.parametrize("fluxes", ("all", "outflow"))
def test_the_kernels_by_hand(group, by_hand, twin, kind, fluxes):
    found, expected = {}, {}
    for into, model in ((found, twin[0]), (expected, by_hand)):
        x = weather(kind, twin)
        x.model = model
        into |= run_both_ways(x, **({"fluxes": model.output_names if fluxes == "all" else None}))
    gradients = [name for name in found if name.startswith("d ")]
    assert_same_bits(*({n: x for n, x in of.items() if n not in gradients} for of in (found, expected)))
    assert_close(*({n: of[n] for n in gradients} for of in (found, expected)), 1e-13)


@TWINS
@both_precisions
def test_the_kernels_by_hand_forward(group, by_hand, twin, dtype):
    for kind in ("random", "ties"):
        x = weather(kind, twin).to(dtype)
        found = x.outputs()
        x.model = by_hand
        assert_same_bits(found, x.outputs())


@EVERY
@pytest.mark.parametrize("options", ({}, {"components": "each"}), ids=("mean", "each"))
def test_the_oracles_numbers_and_gradients(group, by_hand, twin, options):
    adjoint.test_all_gradients_match_the_reference(twin, options, "some")
    adjoint.test_small_and_odd_sizes(twin, (9, 7, 1), options)
    adjoint.test_small_and_odd_sizes(twin, (1, 1, 1), options)
    adjoint.test_exact_ties(twin, options)


@EVERY
def test_dry_empty_and_at_the_bounds(group, by_hand, twin):
    adjoint.test_empty_stores_and_no_water(twin)
    adjoint.test_parameters_at_their_bounds(twin, "either")
    adjoint.test_only_the_final_state(twin)
    adjoint.test_windows_chain(twin, (5, 6, 17))


@EVERY
def test_finite_differences(group, by_hand, twin):
    adjoint.test_finite_differences(twin, {"components": "each"})
    adjoint.test_dot_product(twin, {})


@EVERY
def test_tangents(group, by_hand, twin):
    for make in (random_inputs, adjoint.ties):
        sensitivity.test_forward_mode_matches_the_oracles(twin, make, (33, 5, 3), "each")
        sensitivity.test_every_column_matches_the_oracles_forward_mode(twin, make, (33, 5, 3))
    sensitivity.test_the_normal_equations_are_those_of_the_jacobian(twin, "root", (41, 19, 2))
