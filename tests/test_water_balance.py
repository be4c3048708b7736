"""Water is neither lost nor made, in any cell and step, but for what a model's floors of empty stores add."""

from dataclasses import replace

import pytest
from conftest import VARIANTS, both_precisions, random_inputs
from models import example

pytestmark = pytest.mark.oracle
balanced = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.values[0][0].balance])


def storage(x, state):
    """What the model's balance says is stored, mm per cell."""
    how = x.model.balance.storage
    if how is None:
        return sum(s for n, s in state.items() if x.model.variable(n).unit == "mm")
    return how(state, {n: k[:, None] for n, k in x.inputs.items()}, x.parameters)


def windows(x, length):
    """Of each window: the change of storage per cell, what came in by the balance, and what the floors made."""
    state = x.initial_state
    for start in range(0, x.sizes[0], length):
        window = replace(x.steps(slice(start, start + length)), initial_state=state)
        run = window.simulate(fluxes=x.model.output_names, components="each")
        terms = {n: f[..., None] for n, f in window.forcing.items()} | run.fluxes
        balance = x.model.balance
        supply = sum(terms[n] for n in balance.gains) - sum(terms[n] for n in balance.losses)
        state = run.final_state
        change = storage(x, state) - storage(x, window.initial_state)
        yield change, supply.sum(0), x.example.made(window, run).sum(0)


@balanced
def test_years_close_to_rounding(variant):
    x = random_inputs(variant, T=365 * example(variant[0]).years, B=20, C=4)
    change, supply, made = (sum(terms) for terms in zip(*windows(x, 365), strict=True))
    assert (change - supply - made).abs().max() < 1e-9


@balanced
def test_every_step_closes_to_rounding(variant):
    for change, supply, made in windows(random_inputs(variant, T=60, B=20, C=4), 1):
        assert (change - supply - made).abs().max() < 1e-11


@balanced
@both_precisions
def test_stores_stay_within_their_bounds(variant, dtype):
    """So that a run can start where another has ended; in a drought and in a flood."""
    x = random_inputs(variant, T=400, B=20, C=4, dtype=dtype).without_water(slice(50, 200))
    for name in x.example.water:
        x.forcing[name][300:] += x.example.flood
    series = x.simulate(fluxes=x.model.state_names, components="each").fluxes
    for name, s in series.items():
        assert s.min() >= x.model.variable(name).lower and s.max() <= x.model.variable(name).upper
