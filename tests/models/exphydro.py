"""EXP-HYDRO as the tests run it."""

from .examples import Example as Generic
from .examples import pick


class Example(Generic):
    """Ties: temperatures at both thresholds, a soil that is empty or full."""

    def ties(self, x):
        super().ties(x)
        T, B, C = x.sizes
        x.forcing["tmean"] = pick([-1, 0, 1, 2], T, B, seed=20)
        x.parameters["tmax"] = pick([0, 1], B, C, seed=21)
        x.parameters["tmin"] = pick([-1, 0], B, C, seed=22)
        x.initial_state["soil"] = x.parameters["smax"] * pick([0, 1], B, C, seed=23)
