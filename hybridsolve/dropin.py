"""The name under which `hybridsolve.interop.hydrodl2` was known first; it stays."""

from .interop.hydrodl2 import DEFAULTS, Hbv, Hbv_1_1p

__all__ = ["DEFAULTS", "Hbv", "Hbv_1_1p"]
