"""Where `hybridsolve.learn` went: its functions are `hybridsolve.calibrate`, `train` and `experiment`.

Its modules are in `hybridsolve.score`, `hybridsolve.calibration` and `hybridsolve.training`; the names that the README
showed still lead there.
"""

from ._lazy import attach

__getattr__, __dir__ = attach(
    "hybridsolve.learn",
    {
        "Trained": "..training.trained",
        "calibrate": "..calibration.fit",
        "experiment": "..training.experiments",
        "train": "..training.loop",
    },
)
