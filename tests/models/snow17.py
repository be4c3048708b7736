"""Snow-17 as the tests run it."""

from .examples import Example as Generic
from .examples import pick


class Example(Generic):
    """Days of all seasons, packs with a deficit and ripe ones."""

    flood = 100.0  # also of what may stand behind it

    def inputs(self, B, draw):
        return {name: 3000 * draw(B) for name in self.model.input_names}

    def state(self, parameters, cells, draw):
        state = super().state(parameters, cells, draw)
        state["deficit"] = 0.1 * state["snow"] * (draw(*cells) < 0.5)
        state["index"] = -5 * draw(*cells) * (state["deficit"] > 0)
        return state

    def ties(self, x):
        super().ties(x)
        T, B, C = x.sizes
        x.forcing["tmean"] = pick([-2, 0, 1, 2], T, B, seed=20)
        x.forcing["day_of_year"] = pick([80, 172, 355], T, B, seed=21)
        x.parameters["pxtemp"] = pick([0, 1], B, C, seed=22)
        for name, values in {"snow": [0, 8], "held": [0, 0.5], "deficit": [0, 1], "index": [0, -2]}.items():
            x.initial_state[name] = pick(values, B, C, seed=23 + len(name))
