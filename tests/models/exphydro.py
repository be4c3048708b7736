"""EXP-HYDRO as the tests run it."""

import torch

from .examples import Example as Generic
from .examples import pick


class Example(Generic):
    """Ties: temperatures at both thresholds, a soil that is empty or full."""

    rounding = 100 * 1500 * 2.0**-24  # a full soil spills the rounding of all the days on which it filled

    def steady(self, x):
        """Of an almost empty soil a day takes next to nothing; else it takes more than there is, and from there on the
        step is a map whose small differences grow."""
        x.parameters["f"] = torch.maximum(x.parameters["f"], 12 / x.parameters["smax"])

    def ties(self, x):
        super().ties(x)
        T, B, C = x.sizes
        x.forcing["tmean"] = pick([-1, 0, 1, 2], T, B, seed=20)
        x.parameters["tmax"] = pick([0, 1], B, C, seed=21)
        x.parameters["tmin"] = pick([-1, 0], B, C, seed=22)
        x.initial_state["soil"] = x.parameters["smax"] * pick([0, 1], B, C, seed=23)
