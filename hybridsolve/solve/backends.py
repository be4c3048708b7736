"""The backends: which can run here, and the way into each. Nothing is chosen or replaced in silence.

`cpu` and `cuda` are the compiled extensions (compiled.py), `triton` GPU kernels that need no compiler at the user's
(triton/launch.py), `reference` the plain-torch oracle. The operators in ops.py call `forward` and `adjoint`
here with inputs whose names, shapes, types and devices simulate.py has checked; here is allocated what a kernel fills,
and summed what it leaves in parts.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..compiler.definition import can_generate
from ..spec import ModelSpec
from . import compiled
from .layout import empty_checkpoints, empty_series
from .problem import Problem

log = logging.getLogger(__name__)
Tensors = list[Tensor]
Sizes = Sequence[int]
Operator = Callable[..., Tensors]
NAMES = ("cpu", "triton", "cuda", "reference")
DEVICE = {"cpu": "cpu", "triton": "cuda", "cuda": "cuda"}  # what tensors each serves
WARP, TAPE_BYTES = 32, 24 * 1024  # as in csrc/core/launch.h
# What "auto" is for tensors on each device. On a GPU it is to be the faster one, and neither has been measured yet.
DEFAULT = {"cpu": "cpu", "cuda": "triton"}


class Kernels(Protocol):
    """What launches a backend's kernels: of `compiled.Engine` and of the module triton/launch.py the same functions."""

    def available(self) -> str: ...
    def interpreted(self) -> bool: ...
    def check(self, device: torch.device) -> None: ...
    def kernels(self) -> Iterable[str]: ...
    def group_size(self, n_components: int, n_basins: int, reduced: bool) -> int: ...
    def forward(self, run: Problem, fluxes: Tensor, final_state: Tensor) -> None: ...
    def adjoint(
        self, run: Problem, d_fluxes: Tensor, d_final_state: Tensor, d_forcing: Tensors, d_parameters: Tensors,
        d_networks: Tensors, d_state: Tensor, d_weights: Tensor,
    ) -> None: ...  # fmt: skip
    def convolution_chunks(self, n_steps: int, length: int) -> int: ...
    def convolve(self, inputs: Sequence[Tensor], reverse: bool = False, **arrays: Tensor) -> None: ...
    def sum_middle(self, x: Tensor, out: Tensor, rows: int, n: int, columns: int) -> None: ...


def _compiled(backend: str) -> compiled.Engine:
    compiled.extension(backend)
    return {"cpu": compiled.Cpu, "cuda": compiled.Cuda}[backend]


def _engine(backend: str) -> Kernels:
    if backend != "triton":
        return _compiled(backend)
    try:
        from .triton import launch
    except ImportError as error:
        raise RuntimeError(
            f"backend 'triton' needs the package triton, which cannot be imported ({error}); "
            "pip install triton, or ask for backend='cuda'."
        ) from error
    return launch


def _generates(backend: str) -> bool:
    """Whether a backend makes kernels when they are first asked for: all but the extension that nvcc has built."""
    return backend != "cuda" or not compiled.extension(backend).__name__.endswith("_cuda")


def describe() -> dict[str, str]:
    """Each backend's state on this machine, in a line each; `hybridsolve info` prints it."""
    lines = {}
    for name in DEVICE:
        try:
            lines[name] = f"available: {_engine(name).available()}"
        except RuntimeError as error:
            lines[name] = f"not available: {error}"
    return lines | {"reference": "available: plain torch, for checking"}


_CHECKED: set[tuple] = set()  # engines and kernels of theirs that have been checked


def choose(backend: str, device: torch.device, kernel: str | None = None) -> str:
    """The backend to run on: the one named, or for "auto" the default for the tensors' device.

    Parameters
    ----------
    kernel : str, optional
        The time loop that it is to have.

    Raises
    ------
    ValueError
        If there is no such backend, or it does not serve the device.
    RuntimeError
        If it cannot run here.
    """
    if backend not in ("auto", *NAMES):
        raise ValueError(f"unknown backend '{backend}'; expected auto, {', '.join(NAMES[:-1])} or {NAMES[-1]}.")
    if backend == "reference":
        return backend
    if device.type not in DEFAULT:
        raise ValueError(
            f"backend '{backend}' runs on CPU or CUDA tensors; found tensors on {device}: make them there, or move "
            "them with .to()."
        )
    name = DEFAULT[device.type] if backend == "auto" else backend
    engine = _engine(name)
    if DEVICE[name] != device.type and not engine.interpreted():
        raise ValueError(
            f"backend '{name}' runs on {DEVICE[name]} tensors; found tensors on {device}: "
            f"move them with .to(), or ask for backend='{DEFAULT[device.type]}'."
        )
    engine.check(device)
    if kernel is not None and (engine, kernel) not in _CHECKED and kernel not in engine.kernels():
        if not _generates(name) or not can_generate(kernel, name):
            raise RuntimeError(
                f"backend '{name}' has no kernel '{kernel}', only {', '.join(engine.kernels())}; rebuild hybridsolve "
                "after adding it, or ask for backend='reference'."
            )
    if (engine, kernel) not in _CHECKED:
        log.debug("%s runs on backend %s", kernel or "rivers and hydrographs", name)
    _CHECKED.add((engine, kernel))
    return name


# Under torch.compile it is asked once, while the graph is made. This is all that torch.compiler.assume_constant_result
# does, but for loading the compiler, which takes longer than all else here.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_interval(n_steps: int, most: int | None = None) -> int:
    """The default number of steps between checkpoints: memory and the tape of a segment are about equal there."""
    return max(1, min(int(n_steps**0.5), most or n_steps))


def most_interval(backend: str, model: ModelSpec, itemsize: int) -> int | None:
    """The longest interval for a run; of CUDA kernels that whose tape stays in a multiprocessor's own memory."""
    if backend != "cuda":
        return None
    return 1 + TAPE_BYTES // (WARP * (len(model.states) + len(model.lines)) * itemsize)


def _sum_to(engine: Kernels, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum the axes that have size 1 in `shape`, last first, each in order."""
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1 and x.shape[axis] != 1:
            rows, n, columns = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
            out = x.new_empty((*x.shape[:axis], 1, *x.shape[axis + 1 :]))
            engine.sum_middle(x, out, rows, n, columns)
            x = out
    return x


def _fits(size: str, remedy: str) -> Callable[[Operator], Operator]:
    """Says of memory that is not there how large the run was, and how it would fit."""

    def decorate(function: Operator) -> Operator:
        @functools.wraps(function)
        def or_says(what: str, inputs: Tensors, sizes: Sizes, *more: Any) -> Tensors:
            try:
                return function(what, inputs, sizes, *more)
            except torch.OutOfMemoryError as error:
                raise torch.OutOfMemoryError(
                    f"{size.format(*sizes)} does not fit into the free memory of the card: {remedy}."
                ) from error

        return or_says

    return decorate


_time_loop_fits = _fits(
    "a run of {} steps x {} basins x {} components",
    "leave the inputs in host memory and call hybridsolve.scale.simulate(), which cuts the run into pieces that fit, "
    "or ask for fewer outputs",
)
_convolution_fits = _fits("the unit hydrograph of {} steps x {} series", "route fewer series at a time")
_FORWARD_MODE = (
    "derivatives carried forward have kernels in the backends cpu and cuda; found '{}': ask for backend='cuda' or "
    "'reference', or take the adjoint."
)


def forward_fake(what: str, inputs: Tensors, sizes: Sizes) -> Tensors:
    """Empty tensors as `forward` gives them."""
    run = Problem.of(what, inputs, sizes)
    fluxes = run.state.new_empty(len(run.outputs), *run.sizes[:2])
    return [
        empty_series(run.backend, run.state, len(run.outputs), run.sizes) if run.each else fluxes,
        run.state.new_empty(run.state.shape),
        empty_checkpoints(run.backend, run.state, run.sizes, run.interval),
    ]


def _prepared(run: Problem, reduced: bool, **changes: Any) -> tuple[Problem, Kernels]:
    """A run with the groups in which its engine sums components, and that engine."""
    log.debug(
        "%s on %s: %d steps x %d basins x %d components, %s", run.kernel, run.backend, *run.sizes, run.state.dtype
    )
    engine = _engine(run.backend)
    group = engine.group_size(run.sizes[2], run.sizes[1], reduced)
    return run.with_(**{"state": run.state.contiguous()} | changes, group=group), engine


def _empty_fluxes(run: Problem) -> Tensor:
    if run.each:
        return empty_series(run.backend, run.state, len(run.outputs), run.sizes)
    return run.state.new_empty(len(run.outputs), *run.sizes[:2], run.n_groups)


def _over_groups(engine: Kernels, run: Problem, fluxes: Tensor) -> Tensor:
    return fluxes if run.each else _sum_to(engine, fluxes, (*fluxes.shape[:3], 1)).squeeze(-1)


@_time_loop_fits
def forward(what: str, inputs: Tensors, sizes: Sizes) -> Tensors:
    """Run the model: fluxes, final state and checkpoints."""
    run = Problem.of(what, inputs, sizes)
    checkpoints = empty_checkpoints(run.backend, run.state, run.sizes, run.interval)
    run, engine = _prepared(run, not run.each, checkpoints=checkpoints)
    fluxes, final_state = _empty_fluxes(run), run.state.new_empty(run.state.shape)
    engine.forward(run, fluxes, final_state)
    return [_over_groups(engine, run, fluxes), final_state, checkpoints]


@_time_loop_fits
def tangent(what: str, inputs: Tensors, sizes: Sizes, tangents: list[Tensor | None]) -> Tensors:
    """The derivative of fluxes and final state along tangents of the inputs, None where one does not move."""
    run = Problem.of(what, inputs, sizes)
    if run.backend == "triton":
        raise NotImplementedError(_FORWARD_MODE.format(run.backend))
    run, engine = _prepared(run, not run.each, interval=0)
    fluxes, final_state = _empty_fluxes(run), run.state.new_empty(run.state.shape)
    forcing, _, parameters, networks, (state, *weights) = run.split(tangents)
    state = None if state is None else state.contiguous()
    _compiled(run.backend).tangent(
        run, forcing, parameters, networks, state, weights[0] if weights else None, fluxes, final_state
    )
    return [_over_groups(engine, run, fluxes), final_state]


def least_squares(
    run: Problem,
    along: list[bool],
    ordinates: Tensor,
    d_ordinates: Sequence[Tensor],
    observed: Mapping[str, tuple[Tensor, str]],
    normal: Tensor,
    flow: Tensor | None = None,
    jacobian: Tensor | None = None,
    **how: float,
) -> None:
    """Fill the normal equations of a run and, where given, its flow and Jacobian: see `sensitivity`."""
    _compiled(run.backend).least_squares(run, along, ordinates, d_ordinates, observed, normal, flow, jacobian, **how)


@_time_loop_fits
def adjoint(what: str, inputs: Tensors, sizes: Sizes, kept: Tensors, cotangents: Tensors, needs: list[bool]) -> Tensors:
    """The gradients of the inputs; where `needs` says that one is not wanted, an empty tensor."""
    (checkpoints,), (d_fluxes, d_final_state) = kept, cotangents
    run = Problem.of(what, inputs, sizes)
    need_forcing, need_inputs, need_parameters, need_networks, (need_state, *need_weights) = run.split(needs)
    grouped = [varies and p.shape[-1] == 1 for p, varies in zip(run.parameters, run.per_step, strict=True)]
    reduced = not run.each or any(need_forcing) or any(n and g for n, g in zip(need_parameters, grouped, strict=True))
    run, engine = _prepared(run, reduced, checkpoints=checkpoints, state=checkpoints[0])
    n_steps, n_basins, n_components = run.sizes
    new = checkpoints.new_empty
    d_forcing = [new(n_steps, n_basins, run.n_groups) if need else new(0) for need in need_forcing]
    d_parameters = []
    for varies, need, by_group in zip(run.per_step, need_parameters, grouped, strict=True):
        shape = (n_basins, run.n_groups if by_group else n_components)
        d_parameters.append(new((n_steps, *shape) if varies else shape) if need else new(0))
    d_state = new(checkpoints.shape[1], n_basins, n_components)
    d_weights = new(n_basins, n_components) if any(need_weights) else new(0)
    d_networks = [
        new(n_basins, run.n_groups, x.shape[-1]) if need else new(0)
        for x, need in zip(run.networks, need_networks, strict=True)
    ]
    engine.adjoint(run, d_fluxes, d_final_state.contiguous(), d_forcing, d_parameters, d_networks, d_state, d_weights)
    found = [
        _sum_to(engine, _sum_to(engine, d, (n_steps, n_basins, 1)).squeeze(-1), f.shape) if need else d
        for d, f, need in zip(d_forcing, run.forcing, need_forcing, strict=True)
    ]
    found += [new(0) for _ in need_inputs]
    found += [
        _sum_to(engine, d, p.shape[-d.dim() :]).view(p.shape) if need and d.shape != p.shape else d
        for d, p, need in zip(d_parameters, run.parameters, need_parameters, strict=True)
    ]
    for d, x, need in zip(d_networks, run.networks, need_networks, strict=True):
        d = _sum_to(engine, d, (n_basins, 1, x.shape[-1])) if need else d
        found.append(_sum_to(engine, d, (x.shape[0] if x.dim() == 2 else 1, *d.shape[1:])).view(x.shape) if need else d)
    found.append(d_state if need_state else new(0))
    if run.weights is not None:
        found.append(_sum_to(engine, d_weights, run.weights.shape) if need_weights[0] else d_weights)
    return found


@_convolution_fits
def convolve(backend: str, inputs: Tensors, sizes: Sizes) -> Tensors:
    """Convolve ``[T, N]`` series with ordinates ``[L, N]`` after a memory ``[L - 1, N]``."""
    inputs = [x.contiguous() for x in inputs]
    outflow = inputs[0].new_empty(inputs[0].shape)
    _engine(backend).convolve(inputs, outflow=outflow)
    return [outflow]


@_convolution_fits
def convolve_adjoint(
    backend: str, inputs: Tensors, sizes: Sizes, kept: Tensors, cotangents: Tensors, needs: list[bool]
) -> Tensors:
    """The gradients of inflow, ordinates and memory."""
    engine = _engine(backend)
    inputs = inflow, ordinates, memory = [x.contiguous() for x in inputs]
    parts = ordinates.new_empty(engine.convolution_chunks(len(inflow), len(ordinates)), *ordinates.shape)
    d_inflow, d_memory = inflow.new_empty(inflow.shape), memory.new_empty(memory.shape)
    results = dict(d_inflow=d_inflow, d_ordinates=parts, d_memory=d_memory)
    engine.convolve(inputs, True, d_outflow=cotangents[0].contiguous(), **results)
    found = (d_inflow, _sum_to(engine, parts, (1, *ordinates.shape)).squeeze(0), d_memory)
    return [d if need else d.new_empty(0) for d, need in zip(found, needs, strict=True)]


@_convolution_fits
def convolve_tangent(backend: str, inputs: Tensors, sizes: Sizes, tangents: list[Tensor | None]) -> Tensors:
    """The derivative of `convolve` along tangents of its inputs, None where one does not move."""
    if backend == "triton":
        raise NotImplementedError(_FORWARD_MODE.format(backend))
    inputs = [x.contiguous() for x in inputs]
    moving = [x.new_zeros(x.shape) if t is None else t.contiguous() for x, t in zip(inputs, tangents, strict=True)]
    result = inputs[0].new_empty(inputs[0].shape)
    moves = dict(zip(("t_inflow", "t_ordinates", "t_memory"), moving, strict=True))
    _engine(backend).convolve(inputs, False, outflow=result, **moves)
    return [result]


# Along a river network the words are the backend and the scheme; the inputs are level_start, first, downstream, column
# and level of the network (see csrc/routing/network.h), then constants, lateral inflow and state; the sizes are steps,
# reaches, levels, outputs, repeat, tile (steps between checkpoints; negative where none are kept) and dt in s.


def _route_checkpoints(backend: str, like: Tensor, sizes: Sizes) -> Tensor:
    """Room for what the adjoint of `route` starts from: `[tiles, STORES, N]` on the CPU, else `[segments, 4, N]`."""
    n_steps, n_reaches, n_levels, _, _, tile, _ = sizes
    shape = like.shape if backend == "cpu" else (4, n_reaches)
    n_ticks = n_steps if backend == "cpu" else n_steps + n_levels - 1
    return like.new_empty((n_ticks + tile - 1) // tile if tile > 0 else 0, *shape)


def _route_parts(what: str, inputs: Tensors, sizes: Sizes) -> tuple[Any, ...]:
    *sizes, tile, dt = sizes
    *network, constants, lateral, state = (x.contiguous() for x in inputs)
    return *what.split(" "), network, (constants, lateral), state, float(dt), [*sizes, abs(tile)]


def route_fake(what: str, inputs: Tensors, sizes: Sizes) -> Tensors:
    """Empty tensors as `route` gives them."""
    state = inputs[-1]
    checkpoints = _route_checkpoints(what.split(" ")[0], state, sizes)
    return [state.new_empty(sizes[0], sizes[3]), state.new_empty(state.shape), checkpoints]


def route(what: str, inputs: Tensors, sizes: Sizes) -> Tensors:
    """Route lateral inflow through a network: discharge, final state and checkpoints; may raise faults.BadInflow."""
    backend, scheme, network, rows, state, dt, counts = _route_parts(what, inputs, sizes)
    discharge, final_state = state.new_empty(sizes[0], sizes[3]), state.clone()
    checkpoints = _route_checkpoints(backend, state, sizes)
    _compiled(backend).route(scheme, network, rows, state, final_state, discharge, checkpoints, dt, counts)
    return [discharge, final_state, checkpoints]


def route_part(
    what: str, inputs: Tensors, sizes: Sizes, given: Tensor | None, series: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `route`, of a part of a network on a CPU: discharge, final state, and what is published besides, of outputs.

    Parameters
    ----------
    given : Tensor of int32 ``[N]``, optional
        The column of `series` ``[T, 2, K]`` of each reach whose steps are given, or -1.
    """
    backend, scheme, network, rows, state, dt, counts = _route_parts(what, inputs, sizes)
    discharge, final_state = state.new_empty(sizes[0], sizes[3]), state.clone()
    more: dict[str, Any] = dict(published=torch.zeros_like(discharge))
    if given is not None and series is not None:
        series = series.contiguous()
        more |= dict(given=given, given_series=series, n_given=series.shape[2])
    none = state.new_empty(0, *state.shape)
    _compiled(backend).route(scheme, network, rows, state, final_state, discharge, none, dt, counts, **more)
    return discharge, final_state, more["published"]


def route_adjoint(
    what: str, inputs: Tensors, sizes: Sizes, kept: Tensors, cotangents: Tensors, needs: list[bool]
) -> Tensors:
    """The gradients of constants, lateral inflow and initial state."""
    backend, scheme, network, rows, _, dt, counts = _route_parts(what, inputs, sizes)
    d_discharge, d_state = cotangents[0].contiguous(), cotangents[1].clone(memory_format=torch.contiguous_format)
    (checkpoints,), found = kept, [x.new_zeros(x.shape) for x in rows]
    _compiled(backend).route_adjoint(scheme, network, rows, checkpoints, d_discharge, d_state, found, dt, counts)
    found = [*network, *found, d_state]
    return [d if need else d.new_empty(0) for d, need in zip(found, needs, strict=True)]
