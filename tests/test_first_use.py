"""The kernels that a user gets of a model which the build has none of, compiled when it is first run, by the oracle.

tests/test_compiler.py does more of them every night.
"""

import pytest
import torch
from conftest import assert_close, is_built, random_inputs, run_both_ways

import hybridsolve as hs

# A snow routine before a body is compiled of both.
JOINED = ("cemaneige+xinanjiang", "snow17_point+hymod")
MODELS = [*hs.models.MODELS.values(), *map(hs.models.get, JOINED)]
FIRST_USE = [pytest.param((m, m.parameter_names), id=m.name) for m in MODELS if not is_built(m, m.parameter_names)]


@pytest.mark.compile
@pytest.mark.oracle
@pytest.mark.parametrize("variant", FIRST_USE)
def test_flow_and_gradients_are_the_oracles(variant):
    # Ten basins and three components: more units than one, and lanes that are not filled.
    inputs = random_inputs(variant, T=12, B=10, C=3, seed=1)
    expected = run_both_ways(inputs, backend="reference", fluxes=(variant[0].outflow,))
    found = run_both_ways(inputs, backend="cpu", fluxes=(variant[0].outflow,))
    assert_close(found, expected, 1e-10)


@pytest.mark.compile
@pytest.mark.oracle
def test_all_fluxes_in_single_precision():
    variant = next(p.values[0] for p in FIRST_USE if p.id == "shm")
    inputs = random_inputs(variant, T=12, B=10, C=3)
    expected = inputs.outputs(backend="reference")
    found = inputs.to(torch.float32).outputs(backend="cpu")
    assert_close({n: x.double() for n, x in found.items()}, expected, 1e-5)
