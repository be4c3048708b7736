"""Differentiable hydrology at the speed of the hardware."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from ._lazy import attach

if TYPE_CHECKING:
    from . import data, learn, models, nn, routing, scale
    from .api import Run, simulate
    from .faults import synchronize
    from .learn.calibration import calibrate
    from .routing.unit_hydrograph import unit_hydrograph
    from .sensitivity import jacobian

__all__ = [
    "Run",
    "calibrate",
    "data",
    "jacobian",
    "learn",
    "models",
    "nn",
    "routing",
    "scale",
    "simulate",
    "synchronize",
    "unit_hydrograph",
]
try:
    __version__ = _version("hybridsolve")
except PackageNotFoundError:  # a checkout that nobody has installed
    __version__ = "0+source"

__getattr__, __dir__ = attach(
    __name__,
    {
        **{name: f".{name}" for name in ("data", "learn", "models", "nn", "routing", "scale")},
        "Run": ".api",
        "calibrate": ".learn.calibration",
        "jacobian": ".sensitivity",
        "simulate": ".api",
        "synchronize": ".faults",
        "unit_hydrograph": ".routing.unit_hydrograph",
    },
)
