"""The call into the Triton kernels: the functions that the classes of compiled.py have, for Triton."""

from __future__ import annotations

import contextlib
import functools
from importlib import import_module
from types import ModuleType

import torch
import triton
from torch import Tensor

from ... import models
from ...compiler import cache
from ...compiler.definition import is_generated, refuse_other_equations
from ...compiler.triton import SIGN, source
from ...spec import DAY, ModelSpec
from ..faults import Watch
from ..layout import axes, strides
from ..problem import Problem
from . import convolve as convolution
from . import drive

WARP = 64 if torch.version.hip else 32
# One warp a program: a few cells spread over the whole card, and sums over components never leave a warp. No fused
# multiply-adds but those that are written, so that the adjoint recomputes what the forward run had.
OPTIONS = dict(num_warps=1, enable_fp_fusion=False)
ROUTED = 8  # steps of a short hydrograph that a program takes, one register for each in every array
PROGRAMS = 4096  # that work at a time on an adjoint, each with a tape of its own


def start(kernel, grid, device: torch.device, *args, **kwargs) -> None:
    """Every launch of this package goes through here: Triton launches on torch's current device."""
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **kwargs, **OPTIONS)


def interpreted() -> bool:
    """Whether the environment variable TRITON_INTERPRET makes Triton's interpreter run the kernels, on CPU tensors."""
    return triton.knobs.runtime.interpret


def available() -> str:
    if interpreted():
        return f"triton {triton.__version__}, interpreted on the CPU: for checking"
    if not torch.cuda.is_available():
        raise RuntimeError("triton is installed, but torch finds no GPU")
    return f"triton {triton.__version__} on {torch.cuda.get_device_name()}"


def check(device: torch.device) -> None:
    """Raise if the card is too old."""
    if device.type == "cuda" and torch.version.cuda and torch.cuda.get_device_capability(device) < (8, 0):
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise RuntimeError(
            "backend 'triton' needs a card of compute capability 8.0 or more; "
            f"{torch.cuda.get_device_name(device)} has {found}: "
            "move the tensors to another with .to(), or run on the CPU."
        )


def kernels() -> list[str]:
    """The time loops there are: of models whose table names a module with step and adjoint, and of defined models."""
    return [
        name for spec in models.known() for name in spec.kernel_names if spec.triton or is_generated(name, "triton")
    ]


def group_size(n_components: int, n_basins: int, reduced: bool) -> int:
    """Components that a warp sums, as equal in number over the groups of a basin as can be."""
    return -(-n_components // -(-n_components // 32))


def _width(run: Problem) -> int:
    return triton.next_power_of_2(run.group)


def _module(run: Problem) -> ModuleType:
    """The module with the model's step and adjoint: that which its table names, or of a defined model the generated."""
    refuse_other_equations(run.kernel, "triton", run.spec)
    if not run.rows:
        raise RuntimeError(
            f"model {run.spec.name} must have a parameter for backend 'triton', found none: add one, or ask for "
            "another backend."
        )
    if run.spec.triton is None and is_generated(run.kernel, "triton"):
        return _generated(run.spec, run.optional, frozenset(run.spec.flux_names).intersection(run.outputs))
    where = f"the step of model {run.spec.name} for backend 'triton' must be in the module that its table names"
    if run.spec.triton is None:
        raise RuntimeError(f"{where}, found none: name it, or ask for another backend.")
    try:
        return import_module(run.spec.triton)
    except ImportError as error:
        raise RuntimeError(
            f"{where}, '{run.spec.triton}', which cannot be imported ({error}): correct it, or ask for another backend."
        ) from error


@functools.cache
def _generated(model: ModelSpec, optional: tuple[str, ...], fluxes: frozenset[str]) -> ModuleType:
    """What the model compiler writes for a run with these fluxes, run from the text and not from the file, which Triton
    reads alone."""
    text = source(model, optional, fluxes)
    file = cache.module(text)
    module = ModuleType(f"hybridsolve_{file.stem}")
    exec(compile(text, file, "exec"), vars(module))
    return module


def _common(run: Problem, n_programs: int) -> dict:
    """The arguments that both kernels take."""
    model = _module(run)
    names = [*model.FLUXES, *run.spec.state_names]
    present = [v.name for v in run.rows]
    slots = tuple(line.slots for line in run.spec.lines)
    weights = _weights(run)
    n = len(weights)
    ranges = [(*ends, v.octaves) for v, ends in zip(run.rows, run.parameter_range, strict=True)]
    return dict(
        step=model.step,
        prepare=getattr(model, "prepare", None),
        ordinates=getattr(model, "ordinates", None),
        inputs=tuple(run.inputs) or None,
        input_strides=tuple(strides(k, "b")[1:2] for k in run.inputs) or None,
        lines=run.state.new_empty(n_programs * 4 * sum(slots) * WARP) if slots else None,
        K=len(run.inputs),
        D=len(getattr(model, "DERIVED", ())),
        SLOTS=slots,
        DT=run.step / DAY,
        OPTIONS=tuple(name in present for name in model.OPTIONS),
        forcing=tuple(run.forcing),
        forcing_strides=tuple(strides(f, "tb")[:2] for f in run.forcing),
        parameters=(*run.parameters, *weights),
        parameter_strides=tuple(strides(p, axes(p)) for p in (*run.parameters, *weights)),
        weights=run.weights,
        weight_strides=(0, 0) if run.weights is None else strides(run.weights, "bc")[1:],
        checkpoints=run.checkpoints if run.interval else None,
        n_steps=run.sizes[0],
        n_basins=run.sizes[1],
        n_components=run.sizes[2],
        n_groups=run.n_groups,
        group_size=run.group,
        interval=run.interval,
        OUTPUTS=tuple(names.index(name) for name in run.outputs),
        EACH=run.each,
        S=len(run.spec.states),
        RANGE=(*ranges, *n * ((0.0, 1.0, 0.0),)),
        PER_STEP=(*run.per_step, *n * (False,)),
        MOVING=any(run.per_step),
        STATIC=(*(not moves for moves in run.per_step), *n * (True,)),
        RAW=run.raw,
        WIDTH=_width(run),
        BLOCK=WARP,
    )


def _weights(run: Problem) -> list[Tensor]:
    """Each weight of the networks inside the step as a static parameter, which it is here: ``[B, 1]`` or ``[1, 1]``."""
    return [w[:, None] for x in run.networks for w in (x[None] if x.dim() == 1 else x).unbind(-1)]


def _blocks(run: Problem) -> int:
    return triton.cdiv(run.sizes[1] * run.n_groups * _width(run), WARP)


def forward(run: Problem, fluxes: Tensor, final_state: Tensor) -> None:
    """Fill fluxes, final state and checkpoints."""
    watch = Watch(run)
    start(
        drive.forward,
        (_blocks(run),),
        run.state.device,
        initial_state=run.state,
        fluxes=fluxes,
        final_state=final_state,
        faults=watch.places,
        INPUT_BOUNDS=tuple(run.input_bounds),
        STATE_BOUNDS=tuple(run.state_bounds),
        FORCING_BOUNDS=tuple(run.forcing_bounds),
        PARAMETER_BOUNDS=(*run.parameter_bounds, *len(_weights(run)) * ((-1e30, 1e30),)),
        BEYOND=_module(run).FLUXES.index(SIGN) if SIGN in _module(run).FLUXES else -1,
        **_common(run, _blocks(run)),
    )
    watch.launched()


def adjoint(run: Problem, d_fluxes, d_final_state, d_forcing, d_parameters, d_networks, d_state, d_weights) -> None:
    """Fill the gradients that are not empty."""
    n_programs = min(_blocks(run), PROGRAMS)
    model = _module(run)
    wanted = lambda d: d if d.numel() else None  # noqa: E731
    over_outputs, *within = d_fluxes.stride()
    of_cells = [
        d_state.new_empty(x.shape[-1], *d_state.shape[1:]) if d.numel() else None
        for x, d in zip(run.networks, d_networks, strict=True)
    ]
    d_each: list[Tensor | None] = []
    for x, of in zip(run.networks, of_cells, strict=True):
        d_each += x.shape[-1] * [None] if of is None else of.unbind(0)
    if len(run.outputs) == 1:
        over_outputs = 0  # or the number of steps would be in it, and choose another kernel
    start(
        drive.adjoint,
        (n_programs,),
        d_state.device,
        step_adj=model.step_adj,
        prepare_adj=getattr(model, "prepare_adj", None),
        ordinates_adj=getattr(model, "ordinates_adj", None),
        tape=d_state.new_empty(n_programs * run.interval * (len(run.spec.states) + 2 * len(run.spec.lines)) * WARP),
        d_fluxes=d_fluxes,
        d_flux_strides=(over_outputs, *within, *(() if run.each else (0,))),
        d_final_state=d_final_state,
        d_forcing=tuple(wanted(d) for d in d_forcing),
        d_parameters=(*map(wanted, d_parameters), *d_each),
        d_initial_state=d_state,
        d_weights=wanted(d_weights),
        n_blocks=_blocks(run),
        Q=len(model.FLUXES),
        BY_GROUP=(*(p.shape[-1] == 1 for p in run.parameters), *len(d_each) * (False,)),
        FORCING=tuple(d.numel() > 0 for d in d_forcing),
        **_common(run, n_programs),
    )
    _, n_basins, n_components = run.sizes
    for d, of in zip(d_networks, of_cells, strict=True):
        if of is not None:
            sums = of.new_empty(len(of), n_basins)
            sum_middle(of, sums, len(of) * n_basins, n_components, 1)
            d.zero_()[:, 0] = sums.T


def convolution_chunks(n_steps: int, length: int) -> int:
    """Parts in which `convolve` in reverse leaves the cotangents of the ordinates."""
    return triton.cdiv(n_steps + length - 1, _span(length))


def _span(length: int) -> int:
    """Steps that a program takes: of long hydrographs more, so that the parts do not outgrow the series."""
    return max(ROUTED, triton.next_power_of_2(length // 2))


def convolve(inputs, reverse: bool = False, **arrays) -> None:
    """Fill the outflow of inflow, ordinates and memory, or in reverse their gradients."""
    inflow, ordinates, _ = inputs
    (n_steps, n_series), length = inflow.shape, len(ordinates)
    tile, across = dict(STEPS=_span(length), SERIES=WARP), triton.cdiv(n_series, WARP)
    n_chunks = convolution_chunks(n_steps, length) if reverse else triton.cdiv(n_steps, _span(length))
    kernel = convolution.adjoint if reverse else convolution.forward
    sizes = dict(n_steps=n_steps, n_series=n_series, length=length)
    start(kernel, (across * n_chunks,), inflow.device, *inputs, **arrays, **sizes, **tile)


def sum_middle(x: Tensor, out: Tensor, rows: int, n: int, columns: int) -> None:
    """Sum x, seen as [rows, n, columns], over n in order."""
    start(drive.sum_middle, (triton.cdiv(rows * columns, WARP),), x.device, x, out, rows, n, columns, BLOCK=WARP)
