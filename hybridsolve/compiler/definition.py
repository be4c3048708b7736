"""A user's own model: the table, and over its step the decorator that makes a model of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import models
from ..spec import FIRST, ModelSpec
from .cpp import header

_DEFINED: dict[str, ModelSpec] = {}  # by kernel, the models that are compiled when they are first run
_LOADED: dict[tuple[str, str], str] = {}  # by extension and kernel, the key of the model that was loaded


def define(**table: Any) -> Callable[[Callable], ModelSpec]:
    """Make a model of a table and the step below it.

    The model is known by its name from then on: to `simulate`, calibration, training, the command line. Its kernels are
    compiled when it is first run, on the CPU by the system's C++ compiler and on a GPU by NVRTC, and kept (see
    `hybridsolve.compiler.cache`); backend="reference" runs the step as it is.

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
        header(model)  # what is wrong with the step is said here, where it stands
        names = model.optional_parameter_names
        for n in range(len(names) + 1):
            for some in itertools.combinations(names, n):
                _DEFINED[model.kernel_name(some)] = model
        return models.register(model)

    return made


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


def make_ready(kernel: str, extension: ModuleType) -> None:
    """Hand a defined model's kernels to `_cpu`, compiled, or to `_driver`, which compiles them when they are run.

    Nothing is done for another model, or where they are there; `_cuda` has those alone that it was built with.
    """
    where, model = extension.__name__.rpartition(".")[2], _DEFINED.get(kernel)
    if model is None or where == "_cuda" or _LOADED.get((where, kernel)) == model.key:
        return
    kernels = [name for name, other in _DEFINED.items() if other is model]
    if where == "_cpu":
        from .cache import library

        extension.load(str(library(header(model), extension.isa())))
    else:
        from . import nvrtc

        nvrtc.load(header(model), {name: _names(model, name) for name in kernels})
    _LOADED.update(((where, name), model.key) for name in kernels)


def _names(model: ModelSpec, kernel: str) -> dict[str, str | int]:
    """What a model's header says of a kernel, as `models` of a compiled extension gives it."""
    optional = model.optional_parameter_names
    chosen = next(
        c
        for n in range(len(optional) + 1)
        for c in itertools.combinations(optional, n)
        if model.kernel_name(c) == kernel
    )
    texts = dict(
        forcing=model.forcing_names,
        input=model.input_names,
        parameter=[v.name for v in model.present_parameters(chosen)],
        state=model.state_names,
        line=model.line_names,
        flux=model.flux_names,
    )
    found: dict[str, str | int] = {f"{kind}_names": " ".join(names) for kind, names in texts.items()}
    rows = len(model.states) + sum(line.slots - 1 for line in model.lines)
    return found | dict(outflow=model.flux_names.index(model.outflow), rows=rows)
