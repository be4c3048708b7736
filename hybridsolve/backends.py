"""The backends: which can run here, and the call into each. Nothing is chosen or replaced in silence.

`cpu` is the compiled extension; `reference` is the plain-torch oracle. The operators in ops.py call `forward` and
`adjoint` with inputs whose names, shapes, types and devices api.py has checked.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np
import torch

from . import models

NAMES = ("cpu", "reference")

FAULT_FORCING, FAULT_PARAMETER, FAULT_STATE, FAULT_WEIGHTS = 1, 2, 4, 8  # as in csrc/core/params.h


@cache
def _cpu() -> ModuleType:
    try:
        from . import _cpu as extension
    except ImportError as error:
        raise RuntimeError(
            f"backend 'cpu' needs the compiled extension hybridsolve._cpu, which cannot be imported ({error}); "
            "reinstall hybridsolve with a C++17 compiler present, or ask for backend='reference'."
        ) from error
    return extension


def describe() -> dict[str, str]:
    """Each backend's state on this machine, in a line each; `hybridsolve info` prints it."""
    try:
        cpu = f"available: {_cpu().isa()} of {', '.join(_cpu().isas())}"
    except RuntimeError as error:
        cpu = f"not available: {error}"
    return {"cpu": cpu, "reference": "available: plain torch, for checking"}


def choose(backend: str, device: torch.device) -> str:
    """The backend to run on: the one named, or for "auto" the fastest that serves the tensors' device.

    Raises
    ------
    ValueError
        If there is no such backend, or it does not serve the device.
    RuntimeError
        If it is not built here.
    """
    if backend not in ("auto", *NAMES):
        raise ValueError(f"unknown backend '{backend}'; expected auto, {' or '.join(NAMES)}.")
    if backend == "reference":
        return backend
    if device.type != "cpu":
        raise ValueError(
            f"backend '{backend}' of this version runs on CPU tensors; found tensors on {device}: "
            "move them with .cpu(), or ask for backend='reference'."
        )
    _cpu()
    return "cpu"


def check_interval(n_steps: int) -> int:
    """The default number of steps between checkpoints: memory and the tape of a segment are about equal there."""
    return max(1, int(n_steps**0.5))


def group_size(n_components: int, n_basins: int, reduced: bool) -> int:
    """How many components the CPU kernel runs behind one another in a lane (see csrc/core/drive.h).

    Where components are summed (`reduced`) this fixes the order of the sum, so it may depend on their number alone:
    a basin's result must not change with the basins beside it. Else a few basins of many components spread out.
    """
    if not reduced and n_basins < 16:
        return 1
    return -(-n_components // -(-n_components // 16))


def _step_strides(x: torch.Tensor, axes: str) -> tuple[int, int, int]:
    """Strides over steps, basins and components, 0 where the axis is absent or of size 1."""
    stride = {axis: x.stride(i) if x.shape[i] > 1 else 0 for i, axis in enumerate(axes)}
    return stride.get("t", 0), stride.get("b", 0), stride.get("c", 0)


def _bounds(variable, dtype: torch.dtype) -> tuple[float, float]:
    """Bounds that allow one unit in the last place: lo + (hi - lo) * 1 may round past hi."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    down, up = kind(-np.inf), kind(np.inf)
    return float(np.nextafter(kind(variable.lower), down)), float(np.nextafter(kind(variable.upper), up))


def _axes(x: torch.Tensor) -> str:
    return "bc" if x.dim() == 2 else "tbc"


def _is_per_step(x: torch.Tensor) -> bool:
    return x.dim() == 3 and x.shape[0] > 1


class _Call:
    """The arguments that forward and adjoint share, and the rows of the model's table they belong to."""

    def __init__(
        self, kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw, checkpoints, group
    ):
        self.spec, self.parameter_rows = _rows(kernel)
        self.raw = raw
        dtype = state.dtype
        self.arguments = _cpu().Arguments()
        self.set(
            model=kernel,
            is_double=dtype == torch.float64,
            sizes=list(sizes),
            group_size=group,
            forcing=[(f.data_ptr(), *_step_strides(f, "tb")) for f in forcing],
            forcing_bounds=[_bounds(v, dtype) for v in self.spec.forcings],
            parameters=[(p.data_ptr(), *_step_strides(p, _axes(p))) for p in parameters],
            parameter_bounds=[self.parameter_bounds(v, dtype) for v in self.parameter_rows],
            parameter_range=[(v.lower, v.upper) for v in self.parameter_rows],
            raw=raw,
            per_step=[_is_per_step(p) for p in parameters],
            by_group=[p.shape[-1] == 1 for p in parameters],
            weights=(0, 0, 0, 0) if weights is None else (weights.data_ptr(), *_step_strides(weights, "bc")),
            initial_state=state.data_ptr(),
            outputs=_output_indices(kernel, outputs),
            each=each,
            interval=interval,
            checkpoints=checkpoints.data_ptr(),
        )

    def set(self, **fields) -> None:
        for name, value in fields.items():
            setattr(self.arguments, name, value)

    def parameter_bounds(self, variable, dtype) -> tuple[float, float]:
        """What a parameter as given must lie within: a value before the sigmoid must only be a number."""
        return (-math.inf, math.inf) if self.raw else _bounds(variable, dtype)


@cache
def _rows(kernel: str):
    """The spec and the parameters' rows of a compiled kernel, after checking that both tell the same story."""
    spec = next(m for m in models.MODELS.values() if kernel == m.name or kernel.startswith(m.name + "_"))
    compiled = _cpu().models()[kernel]
    rows = spec.present_parameters(compiled["parameter_names"].split())
    ours = {
        "forcing_names": spec.forcing_names,
        "parameter_names": tuple(v.name for v in rows),
        "state_names": spec.state_names,
    }
    for table, names in ours.items():
        if tuple(compiled[table].split()) != names:
            raise RuntimeError(
                f"the compiled {kernel} has {table} '{compiled[table]}', its table in Python "
                f"'{' '.join(names)}'; rebuild hybridsolve."
            )
    return spec, rows


def _output_indices(kernel: str, outputs: tuple[str, ...]) -> list[int]:
    compiled = _cpu().models()[kernel]
    names = compiled["flux_names"].split() + compiled["state_names"].split()
    return [names.index(name) for name in outputs]


def _sum_middle(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Sum x, seen as [rows, n, columns], over n in order: the same bits for any number of threads."""
    out = x.new_empty(rows * columns)
    middle = x.numel() // max(rows * columns, 1)
    double = x.dtype == torch.float64
    _cpu().sum_middle(double, x.data_ptr(), out.data_ptr(), rows, middle, columns, torch.get_num_threads())
    return out


def _sum_to(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Sum the axes that have size 1 in `shape`, last first."""
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1 and x.shape[axis] != 1:
            rows, columns = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
            x = _sum_middle(x, rows, columns).view(*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return x


def forward(kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw):
    """Run the model on the CPU; see `ops.run` for the arguments.

    Returns
    -------
    fluxes, final_state, checkpoints : Tensor
        Checkpoints ``[ceil(T / interval), S, C, B]``, empty for interval 0.
    """
    n_steps, n_basins, n_components = sizes
    state = state.contiguous()
    group = group_size(n_components, n_basins, reduced=not each)
    n_groups = -(-n_components // group)
    n_checkpoints = -(-n_steps // interval) if interval else 0
    checkpoints = state.new_empty(n_checkpoints, len(state), n_components, n_basins)
    final_state = torch.empty_like(state)
    fluxes = state.new_empty(len(outputs), n_steps, *((n_components, n_basins) if each else (n_basins, n_groups)))
    call = _Call(kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw, checkpoints, group)
    call.set(fluxes=fluxes.data_ptr(), final_state=final_state.data_ptr())
    fault = _cpu().forward(call.arguments, torch.get_num_threads())
    if fault:
        raise ValueError(_explain(fault, call, forcing, parameters, state, weights))
    # Basins are contiguous in memory in either case, as in the forcing.
    fluxes = fluxes.transpose(2, 3) if each else _sum_to(fluxes, (*fluxes.shape[:3], 1)).squeeze(-1)
    return fluxes, final_state, checkpoints


def adjoint(
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
    n_steps, n_basins, n_components = sizes
    d_final_state = d_final_state.contiguous()
    n_forcing, n_parameters = len(forcing), len(parameters)
    need_forcing, need_parameters = needs[:n_forcing], needs[n_forcing : n_forcing + n_parameters]
    by_group = [_is_per_step(p) and p.shape[-1] == 1 for p in parameters]
    summed = (
        not each
        or any(need_forcing)
        or any(need and grouped for need, grouped in zip(need_parameters, by_group, strict=True))
    )
    group = group_size(n_components, n_basins, reduced=summed)
    n_groups = -(-n_components // group)

    new = checkpoints.new_empty
    d_forcing = [new(n_steps, n_basins, n_groups) if need else new(0) for need in need_forcing]
    d_parameters = []
    for p, need, grouped in zip(parameters, need_parameters, by_group, strict=True):
        shape = (n_basins, n_groups if grouped else n_components)
        shape = (n_steps, *shape) if _is_per_step(p) else shape
        d_parameters.append(new(shape) if need else new(0))
    d_state = new(checkpoints.shape[1], n_basins, n_components)
    d_weights = new(n_basins, n_components) if needs[-1] else new(0)
    address = lambda x: x.data_ptr() if x.numel() else 0  # noqa: E731
    call = _Call(
        kernel, forcing, parameters, checkpoints[0], weights, sizes, outputs, each, interval, raw, checkpoints, group
    )
    output_stride, *strides = d_fluxes.stride()
    call.set(
        d_fluxes=(d_fluxes.data_ptr(), *strides, *(() if each else (0,))),
        d_fluxes_stride=output_stride,
        d_final_state=d_final_state.data_ptr(),
        d_forcing=[address(d) for d in d_forcing],
        d_parameters=[address(d) for d in d_parameters],
        d_initial_state=d_state.data_ptr(),
        d_weights=address(d_weights),
    )
    _cpu().adjoint(call.arguments, torch.get_num_threads())
    d_forcing = [
        _sum_to(_sum_to(d, (n_steps, n_basins, 1)).squeeze(-1), f.shape) if need else d
        for d, f, need in zip(d_forcing, forcing, need_forcing, strict=True)
    ]
    d_parameters = [
        _sum_to(d, p.shape[-d.dim() :]).view(p.shape) if need else d
        for d, p, need in zip(d_parameters, parameters, need_parameters, strict=True)
    ]
    if needs[-1]:
        d_weights = _sum_to(d_weights, weights.shape)
    return [*d_forcing, *d_parameters, d_state if needs[-2] else new(0), d_weights]


def unit_hydrograph(inflow, a, b, memory, d_outflow=None):
    """Route `[T, N]` series by their unit hydrographs after a memory `[14, N]`; with a cotangent, the adjoint of it.

    Returns
    -------
    Tensor ``[T, N]``, or with `d_outflow` the gradients of the four inputs.
    """
    inputs = [x.contiguous() for x in (inflow, a, b, memory)]
    if d_outflow is None:
        results = [torch.empty_like(inputs[0])]
        arrays = [*inputs, *results]
    else:
        results = [torch.empty_like(x) for x in inputs]
        arrays = [*inputs, None, d_outflow.contiguous(), *results]
    arrays += [None] * (10 - len(arrays))
    _cpu().unit_hydrograph(
        is_double=inflow.dtype == torch.float64,
        n_steps=inflow.shape[0],
        n_series=inflow.shape[1],
        arrays=[0 if x is None else x.data_ptr() for x in arrays],
        reverse=d_outflow is not None,
        n_threads=torch.get_num_threads(),
    )
    return results[0] if d_outflow is None else results


def _explain(fault, call, forcing, parameters, state, weights) -> str:
    """One sentence that names the first value out of bounds: the kernel only says of which kind it is."""
    if fault & FAULT_STATE:
        lower, upper = 0.0, 1e30
        for name, s in zip(call.spec.state_names, state.unbind(0), strict=True):
            if (found := _first_outside(s, lower, upper)) is not None:
                place, value = found
                return (
                    f"initial_state '{name}' must be 0 mm or more; found {value:g} at basin {place[0]}, "
                    f"component {place[1]}: start from a state that a run has given, or leave it out."
                )
    if fault & FAULT_WEIGHTS:
        place, value = _first_outside(weights, -1e30, 1e30)
        return f"weights must be finite; found {value:g} at {_place(place, 'bc')}: correct that entry."
    if fault & FAULT_PARAMETER:
        for v, p in zip(call.parameter_rows, parameters, strict=True):
            if (found := _first_outside(p, *call.parameter_bounds(v, p.dtype))) is not None:
                place, value = found
                if call.raw:
                    return (
                        f"raw parameter '{v.name}' must be a number; found {value:g} at {_place(place, _axes(p))}: "
                        "look for it in what the network was given, or in its weights."
                    )
                return (
                    f"parameter '{v.name}' must lie in [{v.lower:g}, {v.upper:g}] {v.unit}; found {value:g} at "
                    f"{_place(place, _axes(p))}: clip it, or scale it with model.parameters_from_unit()."
                )
    for v, f in zip(call.spec.forcings, forcing, strict=True):
        if (found := _first_outside(f, *_bounds(v, f.dtype))) is not None:
            place, value = found
            return (
                f"forcing '{v.name}' must lie in [{v.lower:g}, {v.upper:g}] {v.unit} without gaps; found {value:g} "
                f"at {_place(place, 'tb')}: fill, correct or leave out that basin or period."
            )
    raise AssertionError(f"the kernel reported fault {fault}, but no value is out of bounds")


def _first_outside(x: torch.Tensor, lower: float, upper: float):
    bad = ~((x >= lower) & (x <= upper))
    if not bad.any():
        return None
    place = tuple(int(i) for i in bad.nonzero()[0])
    return place, float(x[place])


def _place(place: tuple[int, ...], axes: str) -> str:
    words = {"t": "step", "b": "basin", "c": "component"}
    return ", ".join(f"{words[axis]} {i}" for axis, i in zip(axes, place, strict=True))
