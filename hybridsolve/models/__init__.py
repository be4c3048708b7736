"""The models by name. Every module here that holds a `ModelSpec` is found; nothing lists them by hand."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..spec import DEFINITIONS as _DEFINITIONS
from ..spec import ModelSpec

DEFAULT = "hbv11p"  # what is calibrated unless a model is named
MODELS: dict[str, ModelSpec] = {}


def register(model: ModelSpec) -> ModelSpec:
    """Make a model known by its name, in place of another of that name.

    Raises
    ------
    TypeError
        If it is no ModelSpec.
    """
    if not isinstance(model, ModelSpec):
        raise TypeError(f"a model to register must be a ModelSpec; found {type(model).__name__}: make one.")
    MODELS[model.name] = model
    return model


def __getattr__(name: str) -> Any:
    if name == "define":  # the compiler is above the tables, and stands here by the name that users know
        from ..compiler.definition import define

        return define
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get(model: str | ModelSpec) -> ModelSpec:
    """The model of that name; a ModelSpec is handed back, registered or not.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    if isinstance(model, ModelSpec):
        _DEFINITIONS.setdefault(model.key, model)  # a copy from another process is not made anew
        return model
    if not isinstance(model, str) or model not in MODELS:
        raise ValueError(f"unknown model {model!r}; expected one of {', '.join(MODELS)}, or a ModelSpec.")
    return MODELS[model]


def by_key(key: str) -> ModelSpec:
    """The model of a `ModelSpec.key`, which a graph of torch.compile holds in its place."""
    return _DEFINITIONS[key]


def known() -> tuple[ModelSpec, ...]:
    """All models that were registered or that a run was asked of."""
    return tuple(_DEFINITIONS.values())


def names() -> tuple[str, ...]:
    """The names of all registered models."""
    return tuple(MODELS)


for _module in sorted(module.name for module in iter_modules(__path__)):
    for _value in vars(import_module(f".{_module}", __name__)).values():
        if isinstance(_value, ModelSpec):
            register(_value)
