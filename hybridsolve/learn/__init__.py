"""Losses, scores, calibration of every basin for itself, and networks that learn from all of them."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .calibration import calibrate
    from .experiments import experiment
    from .trained import Trained
    from .training import train

__all__ = ["Trained", "calibrate", "experiment", "train"]

__getattr__, __dir__ = attach(
    __name__,
    {"Trained": ".trained", "calibrate": ".calibration", "experiment": ".experiments", "train": ".training"},
)
