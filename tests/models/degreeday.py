"""HBV's snow alone, or before another model, as the tests run it."""

from .examples import Example as Generic
from .examples import pick, uniform
from .hbv import GRID


class Example(Generic):
    """A pack that holds all it can is at a tie where nothing melts, which rounding decides unless numbers are round."""

    def ties(self, x):
        super().ties(x)
        T, B, C = x.sizes
        x.forcing["prcp"] = pick([0, 0, 0, 8, 16], T, B, seed=1)
        x.forcing["tmean"] = pick([-1, 0, 0, 1, 2], T, B, seed=2)
        for i, name in enumerate(("tt", "cfmax", "cfr", "cwh")):
            x.parameters[name] = pick(GRID[name], B, C, seed=3 + i)
        for i, (name, s) in enumerate(x.initial_state.items()):
            if name.startswith(("snowpack", "meltwater")):
                x.initial_state[name] = (uniform(B, C, seed=9 + i) < 0.5) * s.round()
        for name in x.forcing:
            if name.endswith("_lapse"):
                x.forcing[name] = 0 * x.forcing[name]
