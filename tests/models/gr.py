"""The GR family as the tests run it."""

from .examples import Example as Generic
from .examples import pick

GRID = dict(x1=[128, 256], x2=[-2, 0, 0, 1], x3=[32, 64], x4=[1, 2, 2.5], x5=[0, 0.5, 1], x6=[1, 4])


class Example(Generic):
    """Ties: rain that is the demand, an empty store, no exchange, a hydrograph of whole days."""

    most = {"routing": 20.0}  # mm; where a test shares x3 among cells, not hundreds of times what one's store can hold

    @property
    def years(self):
        """GR6J's exponential store loses by exchange without end, some 1,700 mm a year."""
        return 1 if "exponential" in self.model.state_names else 10

    def steady(self, x):
        """Stores that a wet day does not fill many times over, each time by a power of what is left."""
        for name, least in {"x1": 50.0, "x3": 20.0}.items():
            x.parameters[name] = x.parameters[name].clamp(min=least)

    def apart(self, x):
        """A capacity that falls from step to step: a store far above it exchanges (R/x3)^3.5, beside which all other
        water is rounding."""
        x3 = x.parameters["x3"]
        x.parameters["x3"] = x3[:1].expand(x3.shape).clone() if x3.dim() == 3 else x3

    def ties(self, x):
        T, B, C = x.sizes
        x.forcing["prcp"] = pick([0, 0, 1, 2, 16], T, B, seed=1)
        x.forcing["pet"] = pick([0, 1, 2], T, B, seed=2)
        for i, name in enumerate(x.parameters):
            x.parameters[name] = pick(GRID[name], B, C, seed=3 + i)
        x.initial_state["production"] = x.parameters["x1"] * pick([0, 0.5, 1], B, C, seed=9)
        x.initial_state["routing"] = x.parameters["x3"] * pick([0, 0.5, 1], B, C, seed=10)
        for line in self.model.lines:
            x.initial_state[line.name] = x.initial_state[line.name] * pick([0, 1], B, C, seed=11)
