"""Differentiable hydrology at the speed of the hardware."""

import os as _os
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from ._lazy import attach

if TYPE_CHECKING:
    from . import calibration, data, learn, models, nn, plot, routing, scale, score, training
    from .calibration.comparison import compare_structures
    from .calibration.fit import calibrate
    from .calibration.sets import loss_of_sets
    from .calibration.structures import calibrate_structures
    from .routing.unit_hydrograph import unit_hydrograph
    from .scale.datasets import simulate_dataset
    from .solve.faults import synchronize
    from .solve.sensitivity import jacobian
    from .solve.simulate import Run, simulate
    from .training.experiments import experiment
    from .training.loop import train
    from .training.trained import Trained

_PACKAGES = ("calibration", "data", "learn", "models", "nn", "plot", "routing", "scale", "score", "training")
_PLACES = {
    **{name: f".{name}" for name in _PACKAGES},
    "Run": ".solve.simulate",
    "Trained": ".training.trained",
    "calibrate": ".calibration.fit",
    "calibrate_structures": ".calibration.structures",
    "compare_structures": ".calibration.comparison",
    "experiment": ".training.experiments",
    "jacobian": ".solve.sensitivity",
    "loss_of_sets": ".calibration.sets",
    "simulate": ".solve.simulate",
    "simulate_dataset": ".scale.datasets",
    "synchronize": ".solve.faults",
    "train": ".training.loop",
    "unit_hydrograph": ".routing.unit_hydrograph",
}
__all__ = [
    "Run",
    "Trained",
    "calibrate",
    "calibrate_structures",
    "calibration",
    "compare_structures",
    "data",
    "experiment",
    "jacobian",
    "learn",
    "loss_of_sets",
    "models",
    "nn",
    "plot",
    "routing",
    "scale",
    "score",
    "simulate",
    "simulate_dataset",
    "synchronize",
    "train",
    "training",
    "unit_hydrograph",
]
try:
    __version__ = _version("hybridsolve")
except PackageNotFoundError:  # a checkout that nobody has installed
    __version__ = "0+source"

if _os.environ.get("HYBRIDSOLVE_LOG"):
    from ._log import configure as _configure

    _configure()

__getattr__, __dir__ = attach(__name__, _PLACES)
