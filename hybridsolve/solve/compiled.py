"""The calls into the compiled extensions `_cpu` and `_cuda`: addresses and strides out of tensors."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ..spec import ModelSpec
from . import faults
from .problem import Problem, axes, strides

MOST_INFLOW = 1e9  # m3/s into a reach, as in csrc/routing/network.h
NEEDS = {"cpu": "a C++17 compiler", "cuda": "nvcc (HYBRIDSOLVE_CUDA=1)"}


@cache
def extension(backend: str) -> ModuleType:
    """The module `_cpu` or `_cuda`, or an error that says how to come by it."""
    try:
        return importlib.import_module(f"hybridsolve._{backend}")
    except ImportError as error:
        raise RuntimeError(
            f"backend '{backend}' needs the compiled extension hybridsolve._{backend}, which cannot be imported "
            f"({error}); reinstall hybridsolve with {NEEDS[backend]} present, or ask for another backend."
        ) from error


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, in which nothing can be asked of the card or copied to it."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _address(x: Tensor | None) -> int:
    return x.data_ptr() if x is not None and x.numel() else 0


def _arguments(backend: str, run: Problem, **more):
    names = _names(backend, run.kernel, run.spec)
    arguments = extension(backend).Arguments()
    fields = dict(
        model=run.kernel,
        is_double=run.state.dtype == torch.float64,
        sizes=list(run.sizes),
        group_size=run.group,
        forcing=[(f.data_ptr(), *strides(f, "tb")) for f in run.forcing],
        forcing_bounds=run.forcing_bounds,
        parameters=[(p.data_ptr(), *strides(p, axes(p))) for p in run.parameters],
        parameter_bounds=run.parameter_bounds,
        parameter_range=run.parameter_range,
        raw=run.raw,
        per_step=run.per_step,
        by_group=[p.shape[-1] == 1 for p in run.parameters],
        weights=(0, 0, 0, 0) if run.weights is None else (run.weights.data_ptr(), *strides(run.weights, "bc")),
        initial_state=run.state.data_ptr(),
        outputs=[names.index(name) for name in run.outputs],
        each=run.each,
        interval=run.interval,
        checkpoints=_address(run.checkpoints),
    )
    for name, value in (fields | more).items():
        setattr(arguments, name, value)
    return arguments


def _adjoint_arguments(backend, run, d_fluxes, d_final_state, d_forcing, d_parameters, d_state, d_weights):
    over_outputs, *rest = d_fluxes.stride()
    return _arguments(
        backend,
        run,
        d_fluxes=(d_fluxes.data_ptr(), *rest, *(() if run.each else (0,))),
        d_fluxes_stride=over_outputs,
        d_final_state=d_final_state.data_ptr(),
        d_forcing=[_address(d) for d in d_forcing],
        d_parameters=[_address(d) for d in d_parameters],
        d_initial_state=d_state.data_ptr(),
        d_weights=_address(d_weights),
    )


def _tangent_arguments(backend, run, forcing, parameters, state, weights, fluxes, final_state):
    """Tangents as the inputs are, None where one does not move."""

    def view(x, names):
        return (0, 0, 0, 0) if x is None else (x.data_ptr(), *strides(x, names))

    return _arguments(
        backend,
        run,
        t_forcing=[view(x, "tb") for x in forcing],
        t_parameters=[view(x, x is not None and axes(x)) for x in parameters],
        t_weights=view(weights, "bc"),
        t_state=_address(state),
        results=[_address(fluxes), _address(final_state), 0],
    )


def _least_squares_arguments(backend, run, observed, transform, exponent, normal, flow=None, jacobian=None, **more):
    """`observed` are the unit hydrograph's a and b, target, weight and shift, each with its axes."""
    return _arguments(
        backend,
        run,
        observed=[(x.data_ptr(), *strides(x, names)) for x, names in observed],
        transform=transform,
        exponent=exponent,
        results=[_address(x) for x in (normal, flow, jacobian)],
        **more,
    )


@cache
def _names(backend: str, kernel: str, spec: ModelSpec) -> list[str]:
    """What a compiled kernel can put out, after checking that its header and the table in Python tell one story."""
    compiled = extension(backend).models()[kernel]
    ours = {
        "forcing_names": spec.forcing_names,
        "parameter_names": tuple(v.name for v in spec.present_parameters(compiled["parameter_names"].split())),
        "state_names": spec.state_names,
    }
    for table, names in ours.items():
        if tuple(compiled[table].split()) != names:
            raise RuntimeError(
                f"the compiled {kernel} has {table} '{compiled[table]}', its table in Python "
                f"'{' '.join(names)}'; rebuild hybridsolve."
            )
    return compiled["flux_names"].split() + compiled["state_names"].split()


def _route_arguments(inputs, results, d_outflow, length):
    arrays = [*inputs, *results] if d_outflow is None else [*inputs, None, d_outflow, *results]
    return dict(
        is_double=inputs[0].dtype == torch.float64,
        n_steps=inputs[0].shape[0],
        n_series=inputs[0].shape[1],
        arrays=[*(_address(x) for x in arrays), *[0] * (length - len(arrays))],
        reverse=d_outflow is not None,
    )


def _route_arguments_of(backend, scheme, dt, sizes, arrays, reverse, **more):
    """What routing along a network takes, with `arrays` in the order of csrc/routing/network.h."""
    arguments = extension(backend).RouteArguments()
    fields = dict(
        scheme=scheme,
        is_double=arrays[4].dtype == torch.float64,
        reverse=reverse,
        sizes=list(sizes),
        dt=dt,
        arrays=[*(_address(x) for x in arrays), *[0] * (14 - len(arrays))],
        n_threads=torch.get_num_threads(),
    )
    for name, value in (fields | more).items():
        setattr(arguments, name, value)
    return arguments


class Cpu:
    """The functions that every backend has, by `_cpu`."""

    @staticmethod
    def available() -> str:
        """What was built and is chosen here, in a few words; raises if nothing was."""
        _cpu = extension("cpu")
        return f"{_cpu.isa()} of {', '.join(_cpu.isas())}"

    @staticmethod
    def check(device: torch.device) -> None:
        """Raise if the backend cannot run on the device."""
        extension("cpu")

    @staticmethod
    def kernels() -> Iterable[str]:
        """The time loops there are."""
        return extension("cpu").models()

    @staticmethod
    def group_size(n_components: int, n_basins: int, reduced: bool) -> int:
        """How many components the kernel runs behind one another in a lane (see csrc/core/drive.h).

        Where components are summed (`reduced`) this fixes the order of the sum, so it may depend on their number
        alone: a basin's result must not change with the basins beside it. Else a few basins of many components
        spread out.
        """
        if not reduced and n_basins < 16:
            return 1
        return -(-n_components // -(-n_components // 16))

    @staticmethod
    def forward(run: Problem, fluxes: Tensor, final_state: Tensor) -> None:
        """Fill fluxes, final state and checkpoints; raise if a value is out of bounds."""
        arguments = _arguments("cpu", run, fluxes=fluxes.data_ptr(), final_state=final_state.data_ptr())
        if fault := extension("cpu").forward(arguments, torch.get_num_threads()):
            raise ValueError(faults.explain(fault, run))

    @staticmethod
    def adjoint(run: Problem, *cotangents_and_gradients) -> None:
        """Fill the gradients that are not empty."""
        arguments = _adjoint_arguments("cpu", run, *cotangents_and_gradients)
        extension("cpu").adjoint(arguments, torch.get_num_threads())

    @staticmethod
    def tangent(run: Problem, *tangents_and_results) -> None:
        """Fill the derivatives of fluxes and final state along tangents of the inputs."""
        arguments = _tangent_arguments("cpu", run, *tangents_and_results)
        if fault := extension("cpu").tangent(arguments, torch.get_num_threads()):
            raise ValueError(faults.explain(fault, run))

    @staticmethod
    def least_squares(run: Problem, *observed_and_results) -> None:
        """Fill the normal equations and, where given, flow and Jacobian."""
        arguments = _least_squares_arguments("cpu", run, *observed_and_results)
        if fault := extension("cpu").least_squares(arguments, torch.get_num_threads()):
            raise ValueError(faults.explain(fault, run))

    @staticmethod
    def unit_hydrograph_tangent(inputs, tangents, result) -> None:
        """Fill the derivative of the routed series along tangents of the four inputs."""
        arguments = _route_arguments(inputs, [result], None, 10)
        arguments["arrays"] += [_address(x) for x in tangents]
        extension("cpu").unit_hydrograph(**arguments, n_threads=torch.get_num_threads())

    @staticmethod
    def unit_hydrograph(inputs, results, d_outflow=None) -> None:
        """Fill the routed series, or with a cotangent the gradients of the four inputs."""
        arguments = _route_arguments(inputs, results, d_outflow, 14)
        extension("cpu").unit_hydrograph(**arguments, n_threads=torch.get_num_threads())

    @staticmethod
    def route(scheme, graph, inputs, state, final_state, discharge, checkpoints, dt, sizes) -> None:
        """Fill discharge and checkpoints, and make `final_state`, which comes as the initial one, that of the end.

        Raises `faults.BadInflow`.
        """
        arrays = [*graph[:4], *inputs, final_state, discharge, checkpoints]
        if extension("cpu").route(_route_arguments_of("cpu", scheme, dt, sizes, arrays, False)):
            raise faults.BadInflow

    @staticmethod
    def route_adjoint(scheme, graph, inputs, checkpoints, d_discharge, d_state, d_inputs, dt, sizes) -> None:
        """Make `d_state`, which comes as that of the end, that of the begin; add to the gradients of the inputs."""
        d_constants, d_lateral = d_inputs
        arrays = [*graph[:4], *inputs, None, None, checkpoints, d_discharge, d_state, d_constants, d_lateral]
        arrays.append(d_state.new_zeros(d_state.shape[1:]))
        extension("cpu").route(_route_arguments_of("cpu", scheme, dt, sizes, arrays, True))

    @staticmethod
    def sum_middle(x: Tensor, out: Tensor, rows: int, n: int, columns: int) -> None:
        """Sum x, seen as [rows, n, columns], over n in order: the same bits for any number of threads."""
        double = x.dtype == torch.float64
        extension("cpu").sum_middle(double, x.data_ptr(), out.data_ptr(), rows, n, columns, torch.get_num_threads())


class Cuda:
    """The same by `_cuda`, on the stream that torch has current."""

    @staticmethod
    def available() -> str:
        architectures = ", ".join(extension("cuda").architectures())
        extension("cuda").check(torch.cuda.current_device() if torch.cuda.is_available() else 0)
        return f"built for {architectures}, on {torch.cuda.get_device_name()}"

    @staticmethod
    def check(device: torch.device) -> None:
        extension("cuda").check(device.index or 0)

    @staticmethod
    def kernels() -> Iterable[str]:
        return extension("cuda").models()

    @staticmethod
    def group_size(n_components: int, n_basins: int, reduced: bool) -> int:
        """Components that a warp sums, as equal in number over the groups of a basin as can be."""
        return -(-n_components // -(-n_components // 32))

    @staticmethod
    def _where(x: Tensor) -> dict:
        index = x.device.index or 0
        return dict(device=index, stream=torch.cuda.current_stream(index).cuda_stream)

    @classmethod
    def _launch(cls, name: str, x: Tensor, *args, **named) -> None:
        """Call the extension where x is, with that device current in torch, whose runtime is not the extension's."""
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            getattr(extension("cuda"), name)(*args, **named, **cls._where(x))

    @classmethod
    def forward(cls, run: Problem, fluxes: Tensor, final_state: Tensor) -> None:
        watch = faults.Watch(run)
        filled = dict(fluxes=fluxes.data_ptr(), final_state=final_state.data_ptr(), faults=watch.places.data_ptr())
        cls._launch("forward", run.state, _arguments("cuda", run, **filled))
        watch.launched()

    @classmethod
    def adjoint(cls, run: Problem, *cotangents_and_gradients) -> None:
        arguments = _adjoint_arguments("cuda", run, *cotangents_and_gradients)
        tape = run.state.new_empty(extension("cuda").tape_size(arguments))
        arguments.tape = _address(tape)
        cls._launch("adjoint", run.state, arguments)

    @classmethod
    def tangent(cls, run: Problem, *tangents_and_results) -> None:
        arguments = _tangent_arguments("cuda", run, *tangents_and_results)
        cls._launch("tangent", run.state, arguments)

    @classmethod
    def least_squares(cls, run: Problem, *observed_and_results) -> None:
        watch = faults.Watch(run)
        arguments = _least_squares_arguments("cuda", run, *observed_and_results, faults=watch.places.data_ptr())
        cls._launch("least_squares", run.state, arguments)
        watch.launched()

    @classmethod
    def unit_hydrograph_tangent(cls, inputs, tangents, result) -> None:
        arguments = _route_arguments(inputs, [result], None, 11)
        arguments["arrays"] += [_address(x) for x in tangents]
        cls._launch("unit_hydrograph", result, **arguments)

    @classmethod
    def unit_hydrograph(cls, inputs, results, d_outflow=None) -> None:
        arguments = _route_arguments(inputs, results, d_outflow, 15)
        if d_outflow is not None:
            parts = inputs[0].new_empty(extension("cuda").unit_hydrograph_scratch(*inputs[0].shape))
            arguments["arrays"][10] = _address(parts)
        cls._launch("unit_hydrograph", inputs[0], **arguments)

    @classmethod
    def route(cls, scheme, graph, inputs, state, final_state, discharge, checkpoints, dt, sizes) -> None:
        # A graph that is captured cannot wait for an answer: there a bad inflow makes all below it NaN.
        if not capturing(state.device) and not bool(((inputs[1] >= 0) & (inputs[1] <= MOST_INFLOW)).all()):
            raise faults.BadInflow
        if len(checkpoints):
            checkpoints[0, : len(state)] = state
        arrays = [*graph[:4], *inputs, final_state, discharge, checkpoints]
        cls._route_ticks(scheme, dt, sizes, arrays, False, graph[4], state)

    @classmethod
    def route_adjoint(cls, scheme, graph, inputs, checkpoints, d_discharge, d_state, d_inputs, dt, sizes) -> None:
        arrays = [*graph[:4], *inputs, None, None, checkpoints, d_discharge, d_state, *d_inputs]
        cls._route_ticks(scheme, dt, sizes, arrays, True, graph[4], checkpoints[0])

    @classmethod
    def _route_ticks(cls, scheme, dt, sizes, arrays, reverse, level, initial) -> None:
        like = arrays[4]
        arguments = _route_arguments_of(
            "cuda", scheme, dt, sizes, arrays, reverse, level=_address(level), initial=_address(initial)
        )
        scratch = like.new_empty(extension("cuda").route_scratch(arguments), sizes[1])
        arguments.scratch = _address(scratch)
        extension("cuda").route(arguments, **cls._where(like))

    @classmethod
    def sum_middle(cls, x: Tensor, out: Tensor, rows: int, n: int, columns: int) -> None:
        double = x.dtype == torch.float64
        cls._launch("sum_middle", x, double, x.data_ptr(), out.data_ptr(), rows, n, columns)
