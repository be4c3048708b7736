"""HBV as rates as the tests run it: the weather and ties of HBV, and no floors that make water."""

from .examples import Example as Generic
from .hbv import Example as Hbv


class Example(Hbv):
    """A lower zone that is empty and gets nothing while water passes above it has its root at the kink of what leaves
    it, where rounding decides."""

    made = Generic.made

    def state(self, parameters, cells, draw):
        state = super().state(parameters, cells, draw)
        state["slz"] += 0.001
        return state

    def ties(self, x):
        super().ties(x)
        x.parameters["perc"] = x.parameters["perc"].clamp(min=1.0)

    def exact(self):
        return ()
