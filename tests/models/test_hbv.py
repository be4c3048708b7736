"""What holds for HBV alone."""

import pytest
import torch
from conftest import (
    VARIANTS,
    assert_matches_reference,
    both_precisions,
    empty,
    random_inputs,
    uniform,
)

from hybridsolve.models.hbv import EPS

every_hbv = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.id.startswith("hbv")])


@every_hbv
def test_saturated_soil_stays_at_field_capacity(variant):
    """With neither water nor evaporation SM == FC for days: each clip of SM/FC and the excess are tied."""
    x = random_inputs(variant, B=40)
    x.forcing["prcp"][:], x.forcing["pet"][:] = 0, 0
    x.initial_state["snowpack"][:], x.initial_state["meltwater"][:] = 0, 0
    x.initial_state["sm"] = x.parameters["fc"] * torch.where(uniform(40, 1) < 0.5, 1.5, 0.5)
    assert_matches_reference(x)


@every_hbv
def test_floors_make_no_more_than_eps_a_step(variant):
    x = empty(random_inputs(variant, T=400, B=20, C=4)).without_water(slice(50, 350))
    run = x.simulate(fluxes=x.model.output_names, components="each")
    made = x.example.made(x, run)
    assert made.max() > 0 and made.min() == 0
    assert made.max() <= (1 + ("capillary" in run.fluxes)) * EPS * (1 + 1e-12)
    assert (run.fluxes["sm"] >= EPS).all()


@every_hbv
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


@every_hbv
def test_states_of_a_year_obey_their_capacities(variant):
    x = random_inputs(variant, T=365, B=20, C=4)
    q = x.simulate(fluxes=x.model.output_names, components="each").fluxes
    p = x.parameters
    assert (q["meltwater"] <= p["cwh"] * q["snowpack"] + 1e-12).all()
    assert (q["percolation"] <= p["perc"]).all()
    room = 0 if "capillary" not in q else q["capillary"]  # which may fill the soil past fc
    assert (q["sm"] <= p["fc"] * (1 + 1e-15) + room + EPS).all()
