"""The models by name. A new model is listed here; tests and benchmarks iterate this table."""

from __future__ import annotations

from ..spec import ModelSpec
from .hbv import hbv10, hbv11p

MODELS: dict[str, ModelSpec] = {model.name: model for model in (hbv10, hbv11p)}


def get(model: str | ModelSpec) -> ModelSpec:
    """The model of that name; a model of this table itself is handed back.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    name = model.name if isinstance(model, ModelSpec) else model
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(
            f"unknown model {model!r}; expected one of {', '.join(MODELS)}, or a ModelSpec in models.MODELS."
        )
    if isinstance(model, ModelSpec) and model != MODELS[name]:
        raise ValueError(f"this ModelSpec is not the one that models.MODELS has as '{name}'; put it there first.")
    return MODELS[name]


def names() -> tuple[str, ...]:
    """The names of all models."""
    return tuple(MODELS)
