"""Losses, scores, calibration of every basin for itself, and networks that learn from all of them."""

__all__ = ["Trained", "experiment", "train"]


def __getattr__(name: str):
    # Training brings Lightning, which a calibration need not load.
    if name == "Trained":
        from .trained import Trained

        return Trained
    if name == "train":
        from .training import train

        return train
    if name == "experiment":
        from .experiments import experiment

        return experiment
    raise AttributeError(f"module 'hybridsolve.learn' has no attribute '{name}'")
