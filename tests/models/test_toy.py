"""That the toy is what the tests need: each kink is met exactly on its grid, and water and ground take both signs."""

import torch
from conftest import random_inputs, ties

from models.toy import BOTTOM, TOP, prepare, toy

VARIANT = (toy, toy.parameter_names)


def test_every_kink_is_met_exactly():
    x = ties(VARIANT)
    p = x.parameters | prepare({n: k[:, None] for n, k in x.inputs.items()}, x.parameters)
    q = x.simulate(fluxes=toy.output_names, components="each", backend="reference").fluxes
    soil, level = (torch.cat([x.initial_state[n][None], q[n][:-1]]) for n in ("soil", "level"))
    rained = soil - q["evaporation"] + x.forcing["rainfall"][..., None]
    kept = torch.minimum(rained, p["capacity"])
    filled = level + q["exchange"] + q["percolation"]
    pumped = (filled - q["pumped"]).clamp(min=BOTTOM)
    met = {
        "slope": 10 * x.inputs["slope"] == 1,
        "wetness": soil * p["dryness"] == 1,
        "dry soil": (soil == 0) & (x.forcing["demand"][..., None] == 0),
        "overflow": rained == p["capacity"],
        "percolation": kept == p["leak"],
        "pumping": (filled - BOTTOM == p["pumping"]) & (filled > BOTTOM),
        "bottom": filled - q["pumped"] == BOTTOM,
        "river": pumped == 0,
        "top": pumped - q["baseflow"] == TOP,
        "spill": pumped - q["baseflow"] > TOP,
        "lag": p["lag"] == p["lag"].round(),
    }
    assert not [name for name, kink in met.items() if not kink.any()]


def test_its_level_and_its_exchange_have_both_signs():
    q = random_inputs(VARIANT, T=200).simulate(fluxes=("level", "exchange"), components="each", backend="reference")
    for series in q.fluxes.values():
        assert series.min() < -0.1 and series.max() > 0.1
