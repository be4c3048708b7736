"""The models by name. A new model is listed here; tests and benchmarks iterate this table."""

from __future__ import annotations

from ..spec import ModelSpec
from .hbv import hbv10, hbv11p

MODELS: dict[str, ModelSpec] = {model.name: model for model in (hbv10, hbv11p)}


def get(name: str) -> ModelSpec:
    """The model of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}'; expected one of {', '.join(MODELS)}.")
    return MODELS[name]


def names() -> tuple[str, ...]:
    """The names of all models."""
    return tuple(MODELS)
