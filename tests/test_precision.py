"""Single against double precision from the same single-precision inputs: ten years of days."""

import pytest
import torch
from conftest import both_precisions, empty, every_variant, published, random_inputs, uniform

YEARS = "1990-10-01:2000-09-30"


def real_forcing(basins=20):
    from hybridsolve.data import read_camels

    days = read_camels(published("camels_us_671.nc"), period=YEARS).isel(basin=slice(None, None, 671 // basins))
    return {n: torch.from_numpy(days[n].values.copy()) for n in ("prcp", "tmean", "pet")}


def weather(B=20, T=3650):
    """Ten years of made-up weather, for where the published is absent."""
    day, cold = torch.arange(T)[:, None] / 365 * 2 * torch.pi, 10 * uniform(1, B, seed=1)
    tmean = 12 - cold - 10 * torch.cos(day) + 6 * (uniform(T, B, seed=2) - 0.5)
    prcp = torch.where(uniform(T, B, seed=3) < 0.6, 0.0, 50 * uniform(T, B, seed=4) ** 4)
    return {
        "prcp": prcp.float(),
        "tmean": tmean.float(),
        "pet": (2.5 - 2 * torch.cos(day)).expand(T, B).float().clone(),
    }


@pytest.mark.parametrize("source", (real_forcing, weather))
@every_variant
def test_outflow_of_ten_years(variant, source):
    series = source()
    T, B = series["prcp"].shape
    # The parameters are rounded once too, so that a threshold is on the same side in both.
    x = random_inputs(variant, 1, B, 4, dtype=torch.float32)
    x.initial_state = {}
    x.forcing = {ours: series[theirs] for ours, theirs in x.example.dataset.items()}
    # What is neither water nor warmth is a day of the year.
    days = (1 + torch.arange(T) % 365).float()[:, None]
    x.forcing |= {f.name: days for f in x.model.forcings if f.unit == "1"}
    x.example.steady(x)
    (double,) = x.to(torch.float64).simulate().fluxes.values()
    (single,) = x.simulate().fluxes.values()
    error = (single.double() - double).abs()
    assert T > 3600 and (double.mean(0) > 0).all()
    worst = ((error - x.example.rounding).clamp(min=0) / double.mean(0)).max()
    assert worst < 1e-4, f"{worst:.3g} of the mean flow"


@every_variant
@both_precisions
def test_gradients_are_finite_in_an_endless_drought(variant, dtype):
    """Stores that drain for ten years reach denormal numbers; the power laws stand at an empty store."""
    x = random_inputs(variant, T=3650, B=3, C=2, dtype=dtype).without_water()
    for name, source in x.example.dataset.items():
        if source == "pet":
            x.forcing[name].fill_(5)
    for state in ({}, empty(x).initial_state):
        x.initial_state = state
        leaves = {n: v.detach().requires_grad_() for n, v in x.tensors().items()}
        out = x.with_tensors(leaves).simulate(fluxes=(*x.example.pair, x.example.store)).fluxes
        for g in torch.autograd.grad(sum(v.sum() for v in out.values()), list(leaves.values())):
            assert g.isfinite().all()
