"""Water is neither lost nor made, in any cell and step, but for what the floors of empty stores add."""

import torch
from conftest import both_precisions, every_variant, random_inputs

EPS = 1e-5  # mm, the floor


def balance(x):
    """Per cell and step, in mm: the change of storage, the supply, and what the floors make."""
    run = x.simulate(fluxes=x.model.output_names, components="each")
    q, first = run.fluxes, torch.stack([x.initial_state[n] for n in x.model.state_names])
    stores = torch.stack([q[n] for n in x.model.state_names], 1)
    before = torch.cat([first[None], stores[:-1]])
    change = (stores - before).sum(1)
    supply = x.forcing["prcp"][..., None] - q["aet"] - q["streamflow"]
    old = dict(zip(x.model.state_names, before.unbind(1), strict=True))
    wet = old["sm"] + (q["rain"] + q["infiltration"] - q["recharge"]) - q["excess"]
    made = (EPS - (wet - q["aet"])).clamp(min=0)
    if "capillary" in q:
        made = made + (EPS - (old["slz"] - q["capillary"])).clamp(min=0)
    return change, supply, made, q


@every_variant
def test_ten_years_close_to_rounding(variant):
    change, supply, made, _ = balance(random_inputs(variant, T=3650, B=20, C=4))
    assert (change.sum(0) - supply.sum(0) - made.sum(0)).abs().max() < 1e-9
    assert (change - supply - made).abs().max() < 1e-11


@every_variant
def test_floors_make_no_more_than_eps_a_step(variant):
    x = random_inputs(variant, T=400, B=20, C=4)
    x.forcing["prcp"][50:350] = 0  # a drought empties every store
    x.initial_state = {n: torch.zeros_like(s) for n, s in x.initial_state.items()}
    change, supply, made, q = balance(x)
    floors = 1 + ("capillary" in q)
    assert made.max() > 0 and made.min() == 0
    assert made.max() <= floors * EPS * (1 + 1e-12)
    assert (change - supply).min() > -1e-11 and (change - supply).max() <= floors * EPS + 1e-11
    assert (q["sm"] >= EPS).all()


@every_variant
@both_precisions
def test_parts_make_the_whole_and_stay_positive(variant, dtype):
    x = random_inputs(variant, T=730, B=20, C=4, dtype=dtype)
    q = x.simulate(fluxes=x.model.output_names, components="each").fluxes
    assert torch.equal(q["rain"] + q["snowfall"], x.forcing["prcp"][..., None].expand(q["rain"].shape))
    assert torch.equal(q["swe"], q["snowpack"])
    torch.testing.assert_close(
        q["streamflow"], q["q0"] + q["q1"] + q["q2"], rtol=1e-6 if dtype == torch.float32 else 1e-15, atol=0
    )
    assert all(v.min() >= 0 for v in q.values())
    assert q["evapfactor"].max() <= 1


@every_variant
def test_states_of_a_year_obey_their_capacities(variant):
    x = random_inputs(variant, T=365, B=20, C=4)
    q = x.simulate(fluxes=x.model.output_names, components="each").fluxes
    p = x.parameters
    assert (q["meltwater"] <= p["cwh"] * q["snowpack"] + 1e-12).all()
    assert (q["percolation"] <= p["perc"]).all()
    room = 0 if "capillary" not in q else q["capillary"]  # which may fill the soil past fc
    assert (q["sm"] <= p["fc"] * (1 + 1e-15) + room + EPS).all()
