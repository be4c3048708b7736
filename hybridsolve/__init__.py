"""Differentiable hydrology at the speed of the hardware."""

from importlib.metadata import version as _version

from . import models
from .api import Run, simulate
from .faults import synchronize
from .routing import unit_hydrograph

__all__ = ["Run", "calibrate", "models", "simulate", "synchronize", "unit_hydrograph"]
__version__ = _version("hybridsolve")


def __getattr__(name: str):
    # Calibration brings xarray and pandas, which a training loop on a cluster need not load.
    if name == "calibrate":
        from .learn.calibration import calibrate

        return calibrate
    raise AttributeError(f"module 'hybridsolve' has no attribute '{name}'")
