"""HBV as rates as the tests run it: the weather and ties of HBV, and no floors that make water."""

from .examples import Example as Generic
from .hbv import Example as Hbv


class Example(Hbv):
    made = Generic.made

    def exact(self):
        return ()
