"""HBV 1.0, 1.1p and 2.0 as the tests run them."""

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
    "ndc": [0.5, 0.75],
    "rt": [0, 1, 8],
    "ac": [0, 500, 1500],
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

    def inputs(self, B, draw):
        """Small basins and large ones, low ones and high ones."""
        given = dict(area_km2=5000 * draw(B), elev_mean=4000 * draw(B))
        return {name: given[name] for name in self.model.input_names}

    def exact(self):
        return self.melt, self.recession

    def melt(self, x):
        """A pack that outlasts the run melts at its rate, and holds what it can of it."""
        self.without_rain(x)
        x.initial_state["snowpack"] += 500
        return "snowpack", "meltwater", "swe", "melt", "infiltration"

    def recession(self, x):
        """No water passes the soil; q0 and q1 take turns, so that of the upper zone only the rest is exact."""
        self.without_rain(x)
        for name in ("snowpack", "meltwater"):
            x.initial_state[name].zero_()
        for name in {"perc", "uzl", "c", "rt"} & x.parameters.keys():
            x.parameters[name].zero_()
        for name in ("suz", "slz"):
            x.initial_state[name] += 40
        return "suz", "slz", "q2"

    def without_rain(self, x):
        for name, value in {"prcp": 0.0, "tmean": 3.0, "pet": 0.0}.items():
            x.forcing[name].fill_(value)

    def made(self, x, run):
        """What the floors of the soil and the lower zone add to stores that evaporation or capillary rise empty."""
        q = run.fluxes
        old = {n: torch.cat([x.initial_state[n][None], q[n][:-1]]) for n in ("sm", "slz")}
        wet = old["sm"] + (q["rain"] + q["infiltration"] - q["recharge"]) - q["excess"]
        if "floors" in q:
            return super().made(x, run)
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
