"""Xinanjiang as the tests run it."""

import torch

from .examples import Example as Generic
from .examples import pick


class Example(Generic):
    """In the first basin all layers dry out, and are filled in part on the last day by what does not run off; in the
    last one it rains on the first day alone, so that its layers depend to the end on what they were.

    Where there is no rain there is a demand, but for the first day of `ties`: else runoff of a full soil has a slope of
    1, and where rounding has left the soil 1e-14 mm from that one of 1 - u^B, with u^0.1 still 0.04. Layers are half
    full at first: where rain fills the others to the brim rounding says whether it raises a full one.
    """

    def forcing(self, T, B, draw):
        series = super().forcing(T, B, draw)
        return series | {"pet": series["pet"].clamp(min=0.1)}

    def smooth(self, x):
        super().smooth(x)
        x.initial_state["fr"] = 0.3 * x.initial_state["fr"]
        x.parameters["lag"] = x.parameters["lag"].floor() + 0.5

    def ties(self, x):
        super().ties(x)
        x.forcing["prcp"][:1, -1], x.forcing["prcp"][1:, -1] = 8.0, 0.0
        for series, value in ((x.forcing["prcp"], 0.0), (x.forcing["pet"], 40.0)):
            series[-9:, 0] = value
        x.forcing["pet"][1:] = torch.where(x.forcing["prcp"] > 0, x.forcing["pet"], x.forcing["pet"].clamp(min=1))[1:]
        x.forcing["prcp"][-1, 0], x.forcing["pet"][-1, 0] = 4.0, 0.0
        for name, value in {"um": 20.0, "k": 1.0, "c": 0.1}.items():
            x.parameters[name][0] = value
        for i, name in enumerate(("ki", "kg")):  # free water that lasts
            x.parameters[name] = pick([0, 0.125, 0.25], *x.parameters[name].shape, seed=30 + i)
        for name in ("wu", "wl", "wd"):
            x.initial_state[name] = x.initial_state[name] / 2
