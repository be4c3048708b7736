"""Models that have networks in place of processes, of the recipes of the same names.

Their networks are shared by all basins. What a basin is like reaches them through parameters, `site_1` and others,
which a training makes of the basin's attributes as it makes the others: a layer of the network that is computed once
and not in every step. Outputs are bounded by what is there, so that no weights make water.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import ModelSpec, Parameter
from . import exphydro, hbv
from .primitives import minimum, mlp, relu, sigmoid

SITE = tuple(Parameter(f"site_{n}", "1", "what the basin is like, to the networks", -2.0, 2.0) for n in range(1, 5))


def site(p) -> dict:
    return {v.name: p[v.name] for v in SITE}


def hybrid_exphydro_step(f, k, p, s):
    """One day of EXP-HYDRO whose evaporation and discharge networks give (Hoege et al. 2022)."""
    snowfall = exphydro.smooth(p["tmin"] - f["tmean"]) * f["prcp"]
    rain = f["prcp"] - snowfall
    snow = s["snow"] + snowfall
    melt = minimum(snow, p["df"] * relu(f["tmean"] - p["tmax"]))
    wetness = s["soil"] / p["smax"]
    seen = {"soil / smax": wetness, "pet / 5": f["pet"] / 5, "tmean / 20": f["tmean"] / 20, "snow / 100": snow / 100}
    (demand,) = mlp("evaporation", {**seen, **site(p)})
    water = s["soil"] + rain + melt
    aet = minimum(water, f["pet"] * 2 * sigmoid(demand))
    left = water - aet
    seen = {"soil / smax": wetness, "(rain + melt) / 20": (rain + melt) / 20}
    (share,) = mlp("discharge", {**seen, **site(p)})
    streamflow = left * sigmoid(share - 3)
    state = dict(snow=snow - melt, soil=left - streamflow)
    return state, dict(streamflow=streamflow, aet=aet, rain=rain, snowfall=snowfall, melt=melt)


def hybrid_hbv_step(f, k, p, s):
    """One day of HBV 1.1p with one network in place of what the soil lets through and what it lets evaporate."""
    seen = {
        "sm / fc": s["sm"] / p["fc"],
        "suz / 50": s["suz"] / 50,
        "snowpack / 100": s["snowpack"] / 100,
        "prcp / 20": f["prcp"] / 20,
        "tmean / 20": f["tmean"] / 20,
        "pet / 5": f["pet"] / 5,
    }
    through, allowed = mlp("soil", {**seen, **site(p)}, outputs=2)
    return hbv.reference_step(
        f, k, p, s, wetness=lambda p, sm: sigmoid(through), evapfactor=lambda p, sm: sigmoid(allowed)
    )


def without(rows, *names):
    return tuple(v for v in rows if v.name not in names)


HYBRIDS: dict[str, ModelSpec] = {
    model.name: model
    for model in (
        replace(
            exphydro.exphydro,
            name="hybrid_exphydro",
            title="EXP-HYDRO with networks for evaporation and discharge",
            parameters=(*without(exphydro.exphydro.parameters, "f", "qmax"), *SITE),
            fluxes=without(exphydro.exphydro.fluxes, "baseflow", "spill"),
            reference_step=hybrid_exphydro_step,
        ),
        replace(
            hbv.hbv11p,
            name="hybrid_hbv",
            title="HBV 1.1p with a network for recharge and evaporation",
            parameters=(*without(hbv.hbv11p.parameters, "beta", "lp", "betaet"), *SITE),
            reference_step=hybrid_hbv_step,
            triton=None,
        ),
    )
}
