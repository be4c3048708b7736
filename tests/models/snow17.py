"""Snow-17 as the tests run it."""

import torch

from hybridsolve.models.snow17 import CURVE

from .examples import Example as Generic
from .examples import pick


class Example(Generic):
    """Days of all seasons, packs with a deficit and ripe ones; in the first cell one that melts and is not full, since
    of full ones, and of dry ones, melt at the ground does not depend on the weather.

    Over an area nothing is held or frozen again in `ties`: a pack that melts and keeps the melt has the same water as
    before, and whether it has less than its largest, where cover jumps, rounding decides.
    """

    flood = 100.0  # also of what may stand behind it
    rounding = 100 * 1000 * 2.0**-24  # a pack leaves at last with the rounding of all the days on which it melted

    def steady(self, x):
        """The curve of practice, which does not rise and fall by half from one tenth to the next."""
        for i, share in enumerate(CURVE, 1):
            if f"adc_{i}" in x.parameters:
                x.parameters[f"adc_{i}"].fill_(share)

    def forcing(self, T, B, draw):
        series = super().forcing(T, B, draw)
        series["tmean"][0, 0] = 3.0
        return series

    def inputs(self, B, draw):
        given = {"elev_mean": 3000 * draw(B), "lat": 40 + 30 * draw(B)}
        return {name: given[name] for name in self.model.input_names}

    def names(self):
        """Ice, liquid water, heat deficit and index of the pack, as the variant calls them."""
        area = "we" in self.model.state_names
        return ("we", "lq", "neg", "ti") if area else ("snow", "held", "deficit", "index")

    def state(self, parameters, cells, draw):
        state = super().state(parameters, cells, draw)
        ice, _, deficit, index = self.names()
        state[deficit] = 0.1 * state[ice] * (draw(*cells) < 0.5)
        state[index] = -5 * draw(*cells) * (state[deficit] > 0)
        for name, value in zip(self.names(), (200.0, 0.0, 0.0, 0.0), strict=True):
            state[name][0, 0] = value
        return state

    def ties(self, x):
        super().ties(x)
        T, B, C = x.sizes
        x.forcing["tmean"] = pick([-2, 0, 1, 2], T, B, seed=20)
        day = "snow_day" if "snow_day" in x.forcing else "day_of_year"
        x.forcing[day] = pick([80, 92, 275], T, B, seed=21)
        x.parameters["pxtemp"] = pick([0, 1], B, C, seed=22)
        grids = ([0, 8], [0, 0.5], [0, 1], [0, -2])
        if "acc" in x.initial_state:
            x.parameters["plwhc"] = torch.zeros(B, C, dtype=torch.float64)
            x.forcing["tmean"] = x.forcing["tmean"].relu()
            grids = ([0, 8], [0, 0.5], [0], [0])
        for i, (name, values) in enumerate(zip(self.names(), grids, strict=True)):
            x.initial_state[name] = pick(values, B, C, seed=23 + i)
