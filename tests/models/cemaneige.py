"""CemaNeige, alone, in layers and before other models, as the tests run it."""

from .examples import Example as Generic
from .examples import pick


class Example(Generic):
    """Snow that covers all or some, on days at both ends of the range in which rain and snow fall together."""

    def inputs(self, B, draw):
        given = super().inputs(B, draw)
        given["annual_snowfall"] = 300 * draw(B)
        return given | {n: 200 + 3000 * draw(B) for n in given if n.startswith("elev")}

    def ties(self, x):
        super().ties(x)
        T, B, C = x.sizes
        x.forcing["tmean"] = pick([-1, 0, 1, 3], T, B, seed=20)
        x.inputs["annual_snowfall"] = pick([0, 0, 160 / 0.9], B, seed=21)
        for n, s in x.initial_state.items():
            if n.startswith("snow"):
                x.initial_state[n] = pick([0, 4, 160], *s.shape, seed=22)
            if n.startswith("thermal"):
                x.initial_state[n] = 0 * s
            if n.startswith(("cover", "peak")):
                x.initial_state[n] = pick([0, 1], *s.shape, seed=23)
        for n in x.forcing:
            if n.endswith("_lapse"):
                x.forcing[n] = pick([0, 4], T, B, seed=24)
        for i, n in enumerate(x.inputs):
            if n.startswith("elev"):
                x.inputs[n] = pick([0, 1000, 4000], B, seed=30 + i)
