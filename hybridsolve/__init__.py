"""Differentiable hydrology at the speed of the hardware."""

from importlib import import_module
from importlib.metadata import version as _version

from . import models
from .api import Run, simulate
from .faults import synchronize
from .routing import unit_hydrograph
from .sensitivity import jacobian

__all__ = ["Run", "calibrate", "jacobian", "learn", "models", "nn", "simulate", "synchronize", "unit_hydrograph"]
__version__ = _version("hybridsolve")


def __getattr__(name: str):
    # Calibration and training bring xarray and pandas, which a loop of one's own on a cluster need not load.
    if name == "calibrate":
        from .learn.calibration import calibrate

        return calibrate
    if name in ("learn", "nn"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'hybridsolve' has no attribute '{name}'")
