"""SAC-SMA as the tests run it."""

from .examples import Example as Generic


class Example(Generic):
    """Floods of fewer than 64 sub-steps; and always a demand, since without it and without rain full tension water is
    at the kink of equation (6), on the side that rounding says."""

    flood = 100.0

    def forcing(self, T, B, draw):
        series = super().forcing(T, B, draw)
        return series | {"pet": series["pet"].clamp(min=0.1)}
