"""A user's own model: the table, and over its step the decorator that makes a model of both."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from .. import models
from ..spec import FIRST, ModelSpec
from .cpp import header
from .singular import doubtful

PARTS = {
    "Run": 1,
    "Tangent": 2,
    "LeastSquares": 4,
}  # of a library (models_cpu.cpp), by the struct that its kernels take
_GENERATED: dict[str, ModelSpec] = {}  # by kernel, the models whose kernels are compiled when they are first asked for
_LOADED: dict[tuple[str, str, bool], str] = {}  # by kernel, struct and precision, the key of the model that was loaded


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

    Warns
    -----
    UserWarning
        Where the step takes a root, a logarithm or a power of what may be 0 and has no finite derivative there.

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
        generate(model)  # what is wrong with the step is said here, where it stands
        for doubt in doubtful(model):
            warnings.warn(doubt, stacklevel=2)
        return models.register(model)

    return made


@functools.cache
def _header(model: ModelSpec) -> str:
    return header(model)


def generate(model: ModelSpec) -> None:
    """Have the kernels of a model generated when they are first asked for, in place of any others of their names.

    Raises
    ------
    StepError
        If the step does what no kernel can, or it and the table differ; the message begins with file and line.
    """
    _header(model)
    _GENERATED.update(dict.fromkeys(model.kernel_names, model))


def generates(kernel: str) -> bool:
    """Whether a kernel can be generated: that of a model which was defined, registered, or asked to run.

    Raises
    ------
    StepError
        If the step does what no kernel can.
    """
    if kernel not in _GENERATED:
        for model in (*models.MODELS.values(), *reversed(models.known())):
            if kernel in model.kernel_names:
                generate(model)
                break
        else:
            return False
    return True


def refuse_other_equations(kernel: str, model: ModelSpec) -> None:
    """Raise unless a model's step in Python is the one that its kernel was made of, or written beside.

    Raises
    ------
    ValueError
    """
    if _GENERATED.get(kernel, FIRST[model.name]).equations != model.equations:
        raise ValueError(
            f"the kernel '{kernel}' must be of the model that runs; found one of another definition of '{model.name}', "
            "with another step, prepare or ordinates in Python: rename the model with dataclasses.replace, or ask for "
            "backend='reference'."
        )


def make_ready(kernel: str, struct: str, is_double: bool) -> None:
    """Compile and load what of a generated model takes this struct, unless it is loaded."""
    model = _GENERATED.get(kernel)
    if model is None or _LOADED.get((kernel, struct, is_double)) == model.key:
        return
    from .. import _cpu
    from .cache import library

    _cpu.load(str(library(_header(model), _cpu.isa(), PARTS[struct], 2 if is_double else 1)))
    _LOADED.update({(name, struct, is_double): model.key for name in model.kernel_names})
