"""The backends: which can run here, and the way into each. Nothing is chosen or replaced in silence.

`cpu` and `cuda` are the compiled extensions (compiled.py), `triton` GPU kernels that need no compiler at the user's
(triton/launch.py), `reference` the plain-torch oracle. The operators in ops.py call `forward` and `adjoint`
here with inputs whose names, shapes, types and devices simulate.py has checked; here is allocated what a kernel fills,
and summed what it leaves in parts.
"""

from __future__ import annotations

import functools
import inspect
import math

import torch

from . import compiled
from .problem import Problem, is_per_step

NAMES = ("cpu", "triton", "cuda", "reference")
DEVICE = {"cpu": "cpu", "triton": "cuda", "cuda": "cuda"}  # what tensors each serves
# What "auto" is for tensors on each device. On a GPU it is to be the faster one, and neither has been measured yet.
DEFAULT = {"cpu": "cpu", "cuda": "triton"}


def _engine(backend: str):
    """What launches a backend's kernels: of all the same functions."""
    if backend != "triton":
        compiled.extension(backend)
        return {"cpu": compiled.Cpu, "cuda": compiled.Cuda}[backend]
    try:
        from .triton import launch
    except ImportError as error:
        raise RuntimeError(
            f"backend 'triton' needs the package triton, which cannot be imported ({error}); "
            "pip install triton, or ask for backend='cuda'."
        ) from error
    return launch


def describe() -> dict[str, str]:
    """Each backend's state on this machine, in a line each; `hybridsolve info` prints it."""
    lines = {}
    for name in DEVICE:
        try:
            lines[name] = f"available: {_engine(name).available()}"
        except RuntimeError as error:
            lines[name] = f"not available: {error}"
    return lines | {"reference": "available: plain torch, for checking"}


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
    if DEVICE[name] != device.type and not (name == "triton" and engine.interpreted()):
        raise ValueError(
            f"backend '{name}' runs on {DEVICE[name]} tensors; found tensors on {device}: "
            f"move them with .to(), or ask for backend='{DEFAULT[device.type]}'."
        )
    engine.check(device)
    if kernel is not None and kernel not in engine.kernels():
        raise RuntimeError(
            f"backend '{name}' has no kernel '{kernel}', only {', '.join(engine.kernels())}; rebuild hybridsolve after "
            "adding it, or ask for backend='reference'."
        )
    return name


# Under torch.compile it is asked once, while the graph is made. This is all that torch.compiler.assume_constant_result
# does, but for loading the compiler, which takes longer than all else here.
choose._dynamo_marked_constant = True


def check_interval(n_steps: int) -> int:
    """The default number of steps between checkpoints: memory and the tape of a segment are about equal there."""
    return max(1, int(n_steps**0.5))


# In arrays over cells basins follow one another on the CPU, where they are a pack's lanes; components on a GPU.


def empty_series(backend: str, like: torch.Tensor, n: int, sizes, each: bool) -> torch.Tensor:
    """Room for n series ``[T, B]``, or ``[T, B, C]``."""
    n_steps, n_basins, n_components = sizes
    if not each:
        return like.new_empty((n, n_steps, n_basins))
    if backend == "cpu":
        return like.new_empty((n, n_steps, n_components, n_basins)).transpose(2, 3)
    return like.new_empty((n, n_steps, n_basins, n_components))


def empty_checkpoints(backend: str, like: torch.Tensor, sizes, interval: int) -> torch.Tensor:
    """Room for the state before every interval-th step: ``[.., S, C, B]`` on the CPU, else ``[.., S, B, C]``."""
    n_steps, n_basins, n_components = sizes
    n = -(-n_steps // interval) if interval else 0
    cells = (n_components, n_basins) if backend == "cpu" else (n_basins, n_components)
    return like.new_empty((n, like.shape[0], *cells))


def _sum_to(engine, x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Sum the axes that have size 1 in `shape`, last first, each in order."""
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1 and x.shape[axis] != 1:
            rows, n, columns = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
            out = x.new_empty((*x.shape[:axis], 1, *x.shape[axis + 1 :]))
            engine.sum_middle(x, out, rows, n, columns)
            x = out
    return x


def _fits(run: str, remedy: str):
    """Says of memory that is not there how large the run was, and how it would fit."""

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def or_says(*args):
            try:
                return function(*args)
            except torch.OutOfMemoryError as error:
                size = run.format(**signature.bind(*args).arguments)
                raise torch.OutOfMemoryError(
                    f"{size} does not fit into the free memory of the card: {remedy}."
                ) from error

        return or_says

    return decorate


_time_loop_fits = _fits(
    "a run of {sizes[0]} steps x {sizes[1]} basins x {sizes[2]} components",
    "leave the inputs in host memory and call hybridsolve.scale.simulate(), which cuts the run into pieces that fit, "
    "or ask for fewer outputs",
)


@_time_loop_fits
def forward(backend, kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw):
    """Run the model; see `ops.run` for the arguments.

    Returns
    -------
    fluxes, final_state, checkpoints : Tensor
    """
    engine = _engine(backend)
    n_steps, n_basins, n_components = sizes
    state = state.contiguous()
    group = engine.group_size(n_components, n_basins, reduced=not each)
    checkpoints = empty_checkpoints(backend, state, sizes, interval)
    final_state = state.new_empty(state.shape)
    run = Problem(kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw, group, checkpoints)
    if each:
        fluxes = empty_series(backend, state, len(outputs), sizes, each)
    else:
        fluxes = state.new_empty(len(outputs), n_steps, n_basins, run.n_groups)
    engine.forward(run, fluxes, final_state)
    if not each:
        fluxes = _sum_to(engine, fluxes, (*fluxes.shape[:3], 1)).squeeze(-1)
    return fluxes, final_state, checkpoints


_FORWARD_MODE = (
    "derivatives carried forward have kernels in the backends cpu and cuda; found '{}': ask for backend='cuda' or "
    "'reference', or take the adjoint."
)


@_time_loop_fits
def tangent(
    backend,
    kernel,
    forcing,
    parameters,
    state,
    weights,
    t_forcing,
    t_parameters,
    t_state,
    t_weights,
    sizes,
    outputs,
    each,
    raw,
):
    """The derivative of `forward` along tangents of its inputs, None where an input does not move.

    Returns
    -------
    t_fluxes, t_final_state : Tensor
    """
    if backend == "triton":
        raise NotImplementedError(_FORWARD_MODE.format(backend))
    engine = _engine(backend)
    state = state.contiguous()
    group = engine.group_size(sizes[2], sizes[1], reduced=not each)
    run = Problem(kernel, forcing, parameters, state, weights, sizes, outputs, each, 0, raw, group)
    final_state = state.new_empty(state.shape)
    fluxes = empty_series(backend, state, len(outputs), sizes, each)
    if not each:
        fluxes = state.new_empty(len(outputs), *sizes[:2], run.n_groups)
    t_state = None if t_state is None else t_state.contiguous()
    engine.tangent(run, t_forcing, t_parameters, t_state, t_weights, fluxes, final_state)
    if not each:
        fluxes = _sum_to(engine, fluxes, (*fluxes.shape[:3], 1)).squeeze(-1)
    return fluxes, final_state


def least_squares(backend, run, observed, transform, exponent, normal, flow=None, jacobian=None) -> None:
    """Fill the normal equations of a run and, where given, its flow and Jacobian: see `sensitivity`."""
    _engine(backend).least_squares(run, observed, transform, exponent, normal, flow, jacobian)


@_time_loop_fits
def adjoint(
    backend,
    kernel,
    forcing,
    parameters,
    checkpoints,
    weights,
    d_fluxes,
    d_final_state,
    sizes,
    outputs,
    each,
    interval,
    raw,
    needs,
):
    """The adjoint of `forward`: gradients of the inputs, in the order forcing, parameters, state, weights.

    `needs` says for each input whether its gradient is wanted; where it is not, an empty tensor is returned.
    """
    engine = _engine(backend)
    n_steps, n_basins, n_components = sizes
    n_forcing, n_parameters = len(forcing), len(parameters)
    need_forcing, need_parameters = needs[:n_forcing], needs[n_forcing : n_forcing + n_parameters]
    by_group = [is_per_step(p) and p.shape[-1] == 1 for p in parameters]
    summed = (
        not each
        or any(need_forcing)
        or any(need and grouped for need, grouped in zip(need_parameters, by_group, strict=True))
    )
    group = engine.group_size(n_components, n_basins, reduced=summed)
    run = Problem(
        kernel, forcing, parameters, checkpoints[0], weights, sizes, outputs, each, interval, raw, group, checkpoints
    )
    new = checkpoints.new_empty
    d_forcing = [new(n_steps, n_basins, run.n_groups) if need else new(0) for need in need_forcing]
    d_parameters = []
    for p, need, grouped in zip(parameters, need_parameters, by_group, strict=True):
        shape = (n_basins, run.n_groups if grouped else n_components)
        shape = (n_steps, *shape) if is_per_step(p) else shape
        d_parameters.append(new(shape) if need else new(0))
    d_state = new(checkpoints.shape[1], n_basins, n_components)
    d_weights = new(n_basins, n_components) if needs[-1] else new(0)
    engine.adjoint(run, d_fluxes, d_final_state.contiguous(), d_forcing, d_parameters, d_state, d_weights)
    d_forcing = [
        _sum_to(engine, _sum_to(engine, d, (n_steps, n_basins, 1)).squeeze(-1), f.shape) if need else d
        for d, f, need in zip(d_forcing, forcing, need_forcing, strict=True)
    ]
    d_parameters = [
        _sum_to(engine, d, p.shape[-d.dim() :]).view(p.shape) if need else d
        for d, p, need in zip(d_parameters, parameters, need_parameters, strict=True)
    ]
    if needs[-1]:
        d_weights = _sum_to(engine, d_weights, weights.shape)
    return [*d_forcing, *d_parameters, d_state if needs[-2] else new(0), d_weights]


@_fits("the unit hydrograph of {inflow.shape[0]} steps x {inflow.shape[1]} series", "route fewer series at a time")
def unit_hydrograph(backend, inflow, a, b, memory, d_outflow=None):
    """Route `[T, N]` series by their unit hydrographs after a memory `[14, N]`; with a cotangent, the adjoint of it.

    Returns
    -------
    Tensor ``[T, N]``, or with `d_outflow` the gradients of the four inputs.
    """
    inputs = [x.contiguous() for x in (inflow, a, b, memory)]
    results = [x.new_empty(x.shape) for x in (inputs if d_outflow is not None else inputs[:1])]
    _engine(backend).unit_hydrograph(inputs, results, None if d_outflow is None else d_outflow.contiguous())
    return results[0] if d_outflow is None else results


def unit_hydrograph_tangent(backend, inflow, a, b, memory, t_inflow, t_a, t_b, t_memory):
    """The derivative of `unit_hydrograph` along tangents of its inputs, None where one does not move."""
    if backend == "triton":
        raise NotImplementedError(_FORWARD_MODE.format(backend))
    inputs = [x.contiguous() for x in (inflow, a, b, memory)]
    moves = zip(inputs, (t_inflow, t_a, t_b, t_memory), strict=True)
    tangents = [x.new_zeros(x.shape) if t is None else t.contiguous() for x, t in moves]
    result = inflow.new_empty(inflow.shape)
    _engine(backend).unit_hydrograph_tangent(inputs, tangents, result)
    return result


def empty_route_checkpoints(backend: str, like: torch.Tensor, sizes, keep: bool) -> torch.Tensor:
    """Room for what the adjoint of `route` starts from: `[tiles, STORES, N]` on the CPU, else `[segments, 4, N]`."""
    n_steps, n_reaches, n_levels, _, _, tile = sizes
    if backend == "cpu":
        return like.new_empty(((n_steps + tile - 1) // tile if keep else 0, *like.shape))
    return like.new_empty(((n_steps + n_levels - 1 + tile - 1) // tile if keep else 0, 4, n_reaches))


def route(backend, scheme, level_start, first, downstream, column, level, constants, lateral, state, dt, sizes, keep):
    """Route lateral inflow through a network; see `ops.route` for the arguments.

    Returns
    -------
    discharge, final_state, checkpoints : Tensor
    """
    state = state.contiguous()
    discharge = state.new_empty(sizes[0], sizes[3])
    final_state, checkpoints = state.clone(), empty_route_checkpoints(backend, state, sizes, keep)
    graph, inputs = (level_start, first, downstream, column, level), (constants.contiguous(), lateral.contiguous())
    _engine(backend).route(scheme, graph, inputs, state, final_state, discharge, checkpoints, dt, sizes)
    return discharge, final_state, checkpoints


def route_adjoint(
    backend,
    scheme,
    level_start,
    first,
    downstream,
    column,
    level,
    constants,
    lateral,
    checkpoints,
    dt,
    sizes,
    d_discharge,
    d_final_state,
):
    """The adjoint of `route`: gradients of constants, lateral inflow and initial state."""
    graph, inputs = (level_start, first, downstream, column, level), (constants.contiguous(), lateral.contiguous())
    d_state = d_final_state.clone(memory_format=torch.contiguous_format)
    found = [x.new_zeros(x.shape) for x in inputs]
    cotangents = (d_discharge.contiguous(), d_state)
    _engine(backend).route_adjoint(scheme, graph, inputs, checkpoints, *cotangents, found, dt, sizes)
    return [*found, d_state]
