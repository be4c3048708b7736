"""HBV 1.0 and 1.1p as the tests run them."""

import torch

from hybridsolve.models.hbv import EPS

from .examples import Example as Generic
from .examples import normal, pick, uniform

GRID = {
    "tt": [-1, 0, 1],
    "uzl": [0, 4],
    "perc": [0, 1, 2],
    "cfmax": [1, 2],
    "cfr": [0, 0.0625],
    "cwh": [0, 0.125],
    "fc": [64, 128],
    "lp": [0.5, 1],
    "beta": [1, 2],
    "betaet": [1, 2],
    "c": [0, 0.25, 1],
}


class Example(Generic):
    """Two things stand apart: T == tt in `ties`, since a pack that holds all it can is then at a tie that rounding
    decides unless the numbers are round; and a soil without water, whose gradients can be so large that they hide all
    others."""

    parameter, store = "fc", "sm"
    most = {"sm": 300, "snowpack": 30, "meltwater": 3, "suz": 30, "slz": 60}

    def state(self, parameters, cells, draw):
        state = super().state(parameters, cells, draw)
        state["sm"] += 0.001
        return state

    def exact(self, x):
        """Melt and recession: the snow outlasts the run, no water passes the soil, and each zone loses fractions
        alone; q0 and q1 take turns, so that only their sum, the rest of the upper zone, is exact."""
        for name, value in {"prcp": 0.0, "tmean": 3.0, "pet": 0.0}.items():
            x.forcing[name].fill_(value)
        for name, value in {"perc": 0.0, "uzl": 0.0, "c": 0.0, "beta": 6.0}.items():
            if name in x.parameters:
                x.parameters[name].fill_(value)
        x.initial_state = {n: 40 + s for n, s in x.initial_state.items()}
        x.initial_state["snowpack"] += 500
        x.initial_state["sm"].fill_(0.0)
        return ("snowpack", "meltwater", "swe", "melt", "infiltration", "slz", "q2")

    def made(self, x, run):
        """What the floors of the soil and the lower zone add to stores that evaporation or capillary rise empty."""
        q = run.fluxes
        old = {n: torch.cat([x.initial_state[n][None], q[n][:-1]]) for n in ("sm", "slz")}
        wet = old["sm"] + (q["rain"] + q["infiltration"] - q["recharge"]) - q["excess"]
        made = (EPS - (wet - q["aet"])).clamp(min=0)
        if "capillary" in q:
            made = made + (EPS - (old["slz"] - q["capillary"])).clamp(min=0)
        return made

    def apart(self, x):
        """Off T == tt, where rounding would decide between rain and snow."""
        x.forcing["tmean"] = x.forcing["tmean"].round() + 0.25
        tt = x.parameters["tt"]
        x.parameters["tt"] = torch.where(tt < 0, -1.0, 0.2).to(tt.dtype)

    def smooth(self, x):
        T, B, C = x.sizes
        x.forcing["prcp"] = 1 + 20 * uniform(T, B, seed=6)
        x.forcing["tmean"] = 4 * normal(T, B, seed=5)
        x.forcing["pet"] = 0.5 + uniform(T, B, seed=7)
        x.parameters["tt"] = 0.1 + 0.1 * uniform(B, C, seed=8)
        x.initial_state = {n: 1 + s for n, s in x.initial_state.items()}

    def ties(self, x):
        T, B, C = x.sizes
        x.forcing["prcp"] = pick([0, 0, 0, 8, 16], T, B, seed=1)
        x.forcing["tmean"] = pick([-1, 0, 0, 1, 2], T, B, seed=2)
        x.forcing["pet"] = pick([0, 0, 1, 2], T, B, seed=3)
        for i, (name, values) in enumerate(GRID.items()):
            if name in x.parameters:
                x.parameters[name] = pick(values, B, C, seed=i)
        x.initial_state = {
            n: torch.where(uniform(B, C, seed=9) < 0.5, 0.0, s.round()) for n, s in x.initial_state.items()
        }
        x.initial_state["sm"] = torch.where(uniform(B, C, seed=8) < 0.5, x.parameters["fc"], 0.0)
