"""SAC-SMA as the tests run it."""

from .examples import Example as Generic


class Example(Generic):
    """Floods of fewer than 64 sub-steps."""

    flood = 100.0
