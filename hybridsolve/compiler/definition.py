"""A user's own model: the table, and over its step the decorator that makes a model of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import models
from ..spec import FIRST, ModelSpec
from .cpp import header

_DEFINED: dict[str, ModelSpec] = {}  # by kernel, the models that are compiled when they are first run
_LOADED: dict[str, str] = {}  # by kernel, the key of the model whose library was loaded


def define(**table: Any) -> Callable[[Callable], ModelSpec]:
    """Make a model of a table and the step below it.

    The model is known by its name from then on: to `simulate`, calibration, training, the command line. Its kernels are
    generated when it is first run, and kept (see `hybridsolve.compiler.cache`): for the CPU as C++, which the system's
    compiler compiles; with backend="triton", the default of CUDA tensors, as a module that Triton compiles.
    backend="reference" runs the step as it is.

    Parameters
    ----------
    **table
        What `hybridsolve.spec.ModelSpec` takes but `reference_step`; `title` and `source` may be left out.

    Returns
    -------
    callable
        Takes the step ``(f, k, p, s) -> (state, fluxes)``, written on `hybridsolve.models.primitives`, and returns the
        model.

    Raises
    ------
    StepError
        If the step does what no kernel can, or it and the table differ; the message begins with file and line.
    ValueError
        If the table is wrong in itself.

    Examples
    --------
    >>> @hs.models.define(name="bucket", forcings=(Forcing("rain", "mm d-1", "rain", 0, 1e4),), ...)  # doctest: +SKIP
    ... def bucket(f, k, p, s):
    ...     water = s["store"] + f["rain"]
    ...     flow = p["k"] * water
    ...     return dict(store=water - flow), dict(flow=flow)
    """

    def made(step: Callable) -> ModelSpec:
        filled = {"title": table.get("name", ""), "source": "the user's", **table}
        model = ModelSpec(**filled, reference_step=step)
        return add(model)

    return made


def add(model: ModelSpec) -> ModelSpec:
    """Register a model whose kernels are generated when it is first run.

    Raises
    ------
    StepError
        If the step does what no kernel can, or it and the table differ; the message begins with file and line.
    """
    header(model)  # what is wrong with the step is said here, where it stands
    _DEFINED.update(dict.fromkeys(model.kernel_names, model))
    return models.register(model)


def is_generated(kernel: str) -> bool:
    """Whether a kernel is that of a defined model."""
    return kernel in _DEFINED


def refuse_other_equations(kernel: str, model: ModelSpec) -> None:
    """Raise unless a model's step in Python is the one that its kernel was made of, or written beside.

    Raises
    ------
    ValueError
    """
    if _DEFINED.get(kernel, FIRST[model.name]).equations != model.equations:
        raise ValueError(
            f"the kernel '{kernel}' must be of the model that runs; found one of another definition of '{model.name}', "
            "with another step, prepare or ordinates in Python: rename the model with dataclasses.replace, or ask for "
            "backend='reference'."
        )


def make_ready(kernel: str) -> None:
    """Compile and load the kernels of a defined model, unless they are loaded; of another model nothing is done."""
    model = _DEFINED.get(kernel)
    if model is None or _LOADED.get(kernel) == model.key:
        return
    from .. import _cpu
    from .cache import library

    _cpu.load(str(library(header(model), _cpu.isa())))
    _LOADED.update((name, model.key) for name, other in _DEFINED.items() if other is model)
