"""A user's own model: the table, and over its step the decorator that makes a model of both."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from .. import models
from ..spec import FIRST, ModelSpec
from .cpp import header
from .identity import identity
from .singular import doubtful
from .tracing import networks_of, trace
from .unused import unused

PARTS = {"Run": 1, "Tangent": 2, "LeastSquares": 4}  # of a library (models_cpu.cpp), by what its kernels take
BACKENDS = ("cpu", "cuda", "triton")
_GENERATED: set[tuple[str, str]] = set()  # backend and kernel, of kernels that are made when they are asked for
_LOADED: dict[tuple[str, str, str, bool], str] = {}  # by backend, kernel, struct and precision, the model's key


def define(**table: Any) -> Callable[[Callable], ModelSpec]:
    """Make a model of a table and the step below it.

    The model is known by its name from then on: to `simulate`, calibration, training, the command line. Its kernels are
    made when it is first run, and kept (see `hybridsolve.compiler.cache`): on the CPU by the system's C++ compiler, on
    a GPU by NVRTC, or as a module by Triton. backend="reference" runs the step as it is.

    Parameters
    ----------
    **table
        What `hybridsolve.spec.ModelSpec` takes but `reference_step`; `title` and `source` may be left out.

    Returns
    -------
    callable
        Takes the step ``(f, k, p, s) -> (state, fluxes)``, written on `hybridsolve.models.primitives`, and returns the
        model. With ``rates=True`` it takes rates ``(f, k, p, s) -> (derivatives, fluxes)``, and the model runs by a
        scheme (`hybridsolve.models.schemes`).

    Raises
    ------
    StepError
        If the step does what no kernel can, or it and the table differ; the message begins with file and line.
    ValueError
        If the table is wrong in itself.

    Warns
    -----
    UserWarning
        Where the step takes a root, a logarithm or a power of what may be 0 and has no finite derivative there, and
        where it makes nothing of a row of the table, or of what a network puts out.

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
        if model.rates:
            trace(model, model.optional_parameter_names)
        else:
            generate(model)  # what is wrong with the step is said here, where it stands
        for doubt in (*doubtful(model), *unused(model)):
            warnings.warn(doubt, stacklevel=2)
        return models.register(model)

    return made


@functools.cache
def _header(model: ModelSpec, outputs: frozenset[str] | None = None) -> str:
    return header(model, outputs=outputs)


def generate(model: ModelSpec, backends: Sequence[str] = BACKENDS) -> None:
    """Have the kernels of a model generated when they are first asked for, in place of any others of their names.

    Raises
    ------
    StepError
        If the step does what no kernel can, or it and the table differ; the message begins with file and line.
    """
    _header(model)
    _GENERATED.update((backend, kernel) for backend in backends for kernel in model.kernel_names)


def is_generated(kernel: str, backend: str) -> bool:
    """Whether a backend's kernel is generated, and not one that was written or built."""
    return (backend, kernel) in _GENERATED


def can_generate(kernel: str, backend: str) -> bool:
    """Whether a kernel is or can be generated: that of a model which was defined, registered, or asked to run.

    Raises
    ------
    StepError
        If the step does what no kernel can.
    """
    if not is_generated(kernel, backend):
        for model in (*models.MODELS.values(), *reversed(models.known())):
            if kernel in model.kernel_names:
                generate(model, [backend])
                break
        else:
            return False
    return True


def refuse_other_equations(kernel: str, backend: str, model: ModelSpec) -> None:
    """Raise unless a model's step in Python is the one that its kernel was written or built beside.

    Raises
    ------
    ValueError
    """
    if not is_generated(kernel, backend) and FIRST[model.name].equations != model.equations:
        raise ValueError(
            f"the kernel '{kernel}' must be of the model that runs; found one of another definition of '{model.name}', "
            "with another step, prepare or ordinates in Python: rename the model with dataclasses.replace, or ask for "
            "backend='reference'."
        )


def make_ready(kernel: str, model: ModelSpec, extension: ModuleType, struct: str, is_double: bool) -> None:
    """Hand a generated model's kernels, unless they are there, to `_cpu`, compiled, or to `_driver`, as their header.

    On the CPU it is those alone that take this struct in this precision. `_cuda` has those that it was built with. Of
    models with one name the one that runs is handed over anew.
    """
    backend = {"_cpu": "cpu", "_driver": "cuda"}.get(extension.__name__.rpartition(".")[2])
    if backend is None or not is_generated(kernel, backend):
        return
    if _LOADED.get((backend, kernel, struct, is_double)) == model.key:
        return
    if backend == "cpu":
        from .cache import library

        extension.load(str(library(_header(model), extension.isa(), PARTS[struct], 2 if is_double else 1)))
    else:
        from . import nvrtc

        names = {model.kernel_name(c): _names(model, c) for c in model.choices}
        nvrtc.load(_header(model), names, functools.partial(_header, model))
    _LOADED.update({(backend, name, struct, is_double): model.key for name in model.kernel_names})


def _names(model: ModelSpec, optional: tuple[str, ...]) -> dict[str, str | int]:
    """What a model's header says of a kernel, as `models` of a compiled extension gives it."""
    texts = dict(
        forcing=model.forcing_names,
        input=model.input_names,
        parameter=[v.name for v in model.present_parameters(optional)],
        state=model.state_names,
        line=model.line_names,
        flux=model.flux_names,
        network=[network.name for network in networks_of(model.key, optional)],
    )
    found: dict[str, str | int] = {f"{kind}_names": " ".join(names) for kind, names in texts.items()}
    rows = len(model.states) + sum(line.slots - 1 for line in model.lines)
    return found | dict(outflow=model.flux_names.index(model.outflow), rows=rows, identity=identity(model))
