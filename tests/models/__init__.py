"""What the tests know of each model, one file a model; `example` hands it out."""

from importlib import import_module
from pkgutil import iter_modules

from hybridsolve.spec import ModelSpec

from . import examples

_FILES = sorted((m.name for m in iter_modules(__path__) if not m.name.startswith("test_")), key=len, reverse=True)


def example(model: ModelSpec) -> examples.Example:
    """By the file whose name the model's begins with, or from its table alone."""
    for name in _FILES:
        if model.name.startswith(name):
            return getattr(import_module(f".{name}", __name__), "Example", examples.Example)(model)
    return examples.Example(model)
