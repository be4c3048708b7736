"""The calls into the compiled extensions: addresses and strides out of tensors. For a GPU these are `_cuda`, of nvcc,
where it is built, else `_driver`, which launches what NVRTC compiles."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ..compiler.definition import make_ready, refuse_other_equations
from ..compiler.identity import identity
from ..compiler.tracing import networks_of
from ..spec import DAY, FIRST
from . import faults
from .layout import axes, network_axes, strides
from .problem import Problem

MOST_INFLOW = 1e9  # m3/s into a reach, as in csrc/routing/network.h
MOST_ORDINATES = 16  # of the normal equations on a GPU, as in csrc/core/cuda.h


@cache
def extension(backend: str) -> ModuleType:
    """The module that has a backend's kernels, or an error that says how to come by it."""
    try:
        return importlib.import_module(f"hybridsolve._{backend}")
    except ImportError as error:
        if backend == "cuda":
            from ..compiler import nvrtc

            return nvrtc.launcher()
        raise RuntimeError(
            f"backend '{backend}' needs the compiled extension hybridsolve._{backend}, which cannot be imported "
            f"({error}); reinstall hybridsolve with a C++17 compiler present, or ask for another backend."
        ) from error


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, in which nothing can be asked of the card or copied to it."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _address(x: Tensor | None) -> int:
    return x.data_ptr() if x is not None and x.numel() else 0


def _view(x: Tensor | None, names: str) -> tuple[int, int, int, int]:
    """Address and strides over steps, basins and components; all 0 where there is none."""
    return (0, 0, 0, 0) if x is None else (x.data_ptr(), *strides(x, names))


def _fill(arguments, fields: dict):
    """The struct with its fields, which are named as in csrc/core/run.h and csrc/routing: a tensor by its address."""
    for name, value in fields.items():
        setattr(arguments, name, _address(value) if value is None or isinstance(value, Tensor) else value)
    return arguments


_CHECKED: dict[tuple[str, str, str], list[str]] = {}  # by backend, kernel and the definition of the model


def _names(backend: str, run: Problem) -> list[str]:
    """What a run can put out, after checking that the kernel's header and the table in Python agree."""
    key = (backend, run.kernel, run.spec.key)
    if key not in _CHECKED:
        compiled = extension(backend).models()[run.kernel]
        fluxes = compiled["flux_names"].split()
        found = {
            kind: compiled[f"{kind}_names"] for kind in ("forcing", "input", "parameter", "state", "line", "network")
        }
        found |= dict(outflow=fluxes[compiled["outflow"]], rows=compiled["rows"])
        spec = run.spec
        names = dict(forcing=spec.forcing_names, input=spec.input_names, parameter=[v.name for v in run.rows])
        names |= dict(state=spec.state_names, line=spec.line_names)
        names["network"] = tuple(network.name for network in networks_of(spec.key, run.optional))
        ours: dict[str, str | int] = {kind: " ".join(words) for kind, words in names.items()}
        ours |= dict(outflow=spec.outflow, rows=len(spec.states) + sum(line.slots - 1 for line in spec.lines))
        for kind, name in ours.items():
            if found[kind] != name:
                raise RuntimeError(
                    f"the compiled {run.kernel} has {kind} '{found[kind]}', its table in Python '{name}'; rebuild "
                    "hybridsolve, or its library."
                )
        # Of a model that was taken from another, with the same equations, the kernel is the other's.
        if compiled["identity"] not in ("", identity(spec), identity(FIRST.get(spec.name, spec))):
            raise RuntimeError(
                f"the compiled {run.kernel} is of another definition of the model than its table and step in Python; "
                "rebuild hybridsolve."
            )
        if missing := set(spec.flux_names) - set(fluxes):
            raise RuntimeError(
                f"the compiled {run.kernel} lacks the flux '{missing.pop()}' of its table in Python; rebuild it."
            )
        _CHECKED[key] = fluxes + compiled["state_names"].split()
    return _CHECKED[key]


_WORDS: dict[tuple, object] = {}  # structs by the words of a run


class Engine:
    """The functions that every backend has, by `_cpu`, or by `_cuda` on the stream that torch has current."""

    def __init__(self, name: str):
        self.name = name
        self.on_gpu = name == "cuda"

    def available(self) -> str:
        """What was built and is chosen here, in a few words; raises if nothing was."""
        built = extension(self.name)
        if not self.on_gpu:
            return f"{built.isa()} of {', '.join(built.isas())}"
        built.check(torch.cuda.current_device() if torch.cuda.is_available() else 0)
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"backend 'cuda' needs torch built for CUDA; found torch {torch.__version__}: install one of "
                "pytorch.org's for your driver, or run on the CPU."
            )
        if built.__name__.endswith("._driver"):
            from ..compiler import nvrtc

            how = f"compiled at first use by {nvrtc.of_driver()}, as hybridsolve._cuda of nvcc is not built"
        else:
            how = f"hybridsolve._cuda, built by nvcc for {', '.join(built.architectures())}"
        return f"{how}, on {torch.cuda.get_device_name()}"

    def interpreted(self) -> bool:
        """Whether it runs on the CPU in place of a GPU, which Triton alone can."""
        return False

    def check(self, device: torch.device) -> None:
        """Raise if the backend cannot run on the device."""
        built = extension(self.name)
        if self.on_gpu:
            built.check(device.index or 0)

    def kernels(self) -> Iterable[str]:
        """The time loops there are."""
        return extension(self.name).models()

    def group_size(self, n_components: int, n_basins: int, reduced: bool) -> int:
        """How many components the kernel sums in one go, in groups as equal in number as can be.

        On a GPU what a warp holds. On a CPU those that run behind one another in a lane (see csrc/core/drive.h): where
        components are summed (`reduced`) this fixes the order of the sum, so it may depend on their number alone: a
        basin's result must not change with the basins beside it. Else a few basins of many components spread out.
        """
        if not self.on_gpu and not reduced and n_basins < 16:
            return 1
        return -(-n_components // -(-n_components // (32 if self.on_gpu else 16)))

    def _where(self, x: Tensor) -> dict:
        """What the extension's functions take beside their arguments: where and on how many threads."""
        if not self.on_gpu:
            return dict(n_threads=torch.get_num_threads())
        index = x.device.index or 0
        return dict(device=index, stream=torch.cuda.current_stream(index).cuda_stream)

    def call(self, name: str, x: Tensor, *arguments):
        """Call the extension where x is, with that device current in torch, whose runtime is not the extension's."""
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            return getattr(extension(self.name), name)(*arguments, **self._where(x))

    def _struct(self, kind: str, run: Problem, **more):
        """A run as its kernels take it, or what derives from it: Run, Tangent, LeastSquares."""
        refuse_other_equations(run.kernel, self.name, run.spec)
        make_ready(run.kernel, run.spec, extension(self.name), kind, run.state.dtype == torch.float64)
        model = (run.spec.key, run.optional, run.state.dtype, run.step)
        words = (extension(self.name), kind, *model, run.outputs, run.each, run.raw)
        if words not in _WORDS:
            _WORDS[words] = self._of_words(kind, run)
        n_steps, n_basins, n_components = run.sizes
        fields = dict(
            n_steps=n_steps,
            n_basins=n_basins,
            n_components=n_components,
            group_size=run.group,
            n_groups=run.n_groups,
            forcing=[_view(f, "tb") for f in run.forcing],
            parameter=[_view(p, axes(p)) for p in run.parameters],
            initial_state=run.state,
            interval=run.interval,
            checkpoints=run.checkpoints,
        )
        if run.networks:
            fields["network"] = [_view(x, network_axes(x)) for x in run.networks]
        if run.inputs:
            fields["input"] = [_view(k, "b") for k in run.inputs]
        if run.weights is not None:
            fields["weights"] = _view(run.weights, "bc")
        if any(per_step := run.per_step):
            fields |= dict(per_step=per_step, by_group=[p.shape[-1] == 1 for p in run.parameters])
        # A copy: most of a struct is the same for every run of a model, and takes longer to fill than a small run.
        return _fill(getattr(extension(self.name), kind)(_WORDS[words]), fields | more)

    def _of_words(self, kind: str, run: Problem):
        """A struct with all that depends on the model and the words of a run, not on its tensors and sizes."""
        names = _names(self.name, run)
        fields = dict(
            is_double=run.state.dtype == torch.float64,
            dt=run.step / DAY,
            forcing_bounds=run.forcing_bounds,
            input_bounds=run.input_bounds,
            state_bounds=run.state_bounds,
            parameter_bounds=run.parameter_bounds,
            parameter_range=run.parameter_range,
            octaves=[v.octaves for v in run.rows],
            raw=run.raw,
            n_outputs=len(run.outputs),
            output=[names.index(name) for name in run.outputs],
            each=run.each,
        )
        return _fill(getattr(extension(self.name), kind)(), fields)

    def _call_checked(self, name: str, run: Problem, arguments) -> None:
        """Call a kernel that looks for values out of bounds: on a GPU nobody waits for what it finds."""
        if self.on_gpu:
            watch = faults.Watch(run)
            arguments.faults = watch.places.data_ptr()
        if fault := faults.counts(self.call(name, run.state, run.kernel, arguments)):
            raise ValueError(faults.explain(fault, run) or self._passes(name, run, arguments))
        if self.on_gpu:
            watch.launched()

    def _passes(self, name: str, run: Problem, arguments) -> str:
        """One sentence on too many passes of a loop, whose place a kernel on the CPU notes in a run of its own."""
        places = torch.full((len(faults.KINDS) + 1,), faults.NEVER)
        arguments.faults = places.data_ptr()
        for _ in range(2):  # once the place is there, what is noted of it is that place's
            self.call(name, run.state, run.kernel, arguments)
        return faults.explain_passes(run, int(places[-2]), residual=float(places[-1:].view(torch.float64)))

    def forward(self, run: Problem, fluxes: Tensor, final_state: Tensor) -> None:
        """Fill fluxes, final state and checkpoints; raise if a value is out of bounds."""
        self._call_checked("forward", run, self._struct("Run", run, fluxes=fluxes, final_state=final_state))

    def adjoint(
        self, run: Problem, d_fluxes, d_final_state, d_forcing, d_parameters, d_networks, d_state, d_weights
    ) -> None:
        """Fill the gradients that are not empty."""
        over_outputs, *over_axes = d_fluxes.stride()
        arguments = self._struct(
            "Run",
            run,
            d_fluxes=(d_fluxes.data_ptr(), *over_axes, *(() if run.each else (0,))),
            d_fluxes_stride=over_outputs,
            d_final_state=d_final_state,
            d_forcing=[_address(d) for d in d_forcing],
            d_parameter=[_address(d) for d in d_parameters],
            d_network=[_address(d) for d in d_networks],
            d_initial_state=d_state,
            d_weights=d_weights,
        )
        if self.on_gpu:
            tape = run.state.new_empty(extension(self.name).tape_size(run.kernel, arguments))
            arguments.tape = _address(tape)
        self.call("adjoint", run.state, run.kernel, arguments)

    def tangent(self, run: Problem, forcing, parameters, networks, state, weights, fluxes, final_state) -> None:
        """Fill the derivatives of fluxes and final state along tangents of the inputs, None where one does not move."""
        arguments = self._struct(
            "Tangent",
            run,
            t_forcing=[_view(x, "tb") for x in forcing],
            t_parameter=[_view(x, "" if x is None else axes(x)) for x in parameters],
            t_network=[_view(x, "" if x is None else network_axes(x)) for x in networks],
            t_weights=_view(weights, "bc"),
            t_initial_state=state,
            t_fluxes=fluxes,
            t_final_state=final_state,
        )
        # A GPU says nothing here: the run along which the derivative goes has been made, and has said what is wrong.
        if fault := self.call("tangent", run.state, run.kernel, arguments):
            raise ValueError(faults.explain(fault, run))

    def least_squares(
        self, run: Problem, along, ordinates, d_ordinates, observed, normal, flow, jacobian, **how
    ) -> None:
        """Fill the normal equations and, where given, flow and Jacobian.

        `along` says of every parameter whether derivatives are carried along it. The ordinates are ``[L, B, C]``;
        `observed` are target, weight and shift by name, each with its axes.
        """
        if self.on_gpu and len(ordinates) > MOST_ORDINATES:
            raise ValueError(
                f"backend 'cuda' has normal equations for hydrographs of at most {MOST_ORDINATES} ordinates; found "
                f"{len(ordinates)}: run on the CPU, or at a longer step."
            )
        arguments = self._struct(
            "LeastSquares",
            run,
            along=along,
            length=len(ordinates),
            n_routing=len(d_ordinates),
            ordinates=_view(ordinates, "tbc"),
            d_ordinates=[_view(d, "tbc") for d in d_ordinates],
            normal=normal,
            flow=flow,
            jacobian=jacobian,
            **{name: _view(x, names) for name, (x, names) in observed.items()},
            **how,
        )
        self._call_checked("least_squares", run, arguments)

    def _typed(self, kind: str, x: Tensor, **fields):
        """A struct that is one for each type of number."""
        return _fill(getattr(extension(self.name), f"{kind}{8 * x.element_size()}")(), fields)

    def convolution_chunks(self, n_steps: int, length: int) -> int:
        """Parts in which `convolve_adjoint` leaves the cotangents of the ordinates."""
        return extension(self.name).convolution_chunks(n_steps, length) if self.on_gpu else 1

    def convolve(self, inputs, reverse: bool = False, **more) -> None:
        """Fill the outflow, or in reverse the gradients of the inputs; with tangents the derivative along them."""
        inflow, ordinates, memory = inputs
        arguments = self._typed(
            "Convolution",
            inflow,
            n_steps=inflow.shape[0],
            n_series=inflow.shape[1],
            length=ordinates.shape[0],
            inflow=inflow,
            ordinates=ordinates,
            memory=memory,
            **more,
        )
        self.call("convolve", inflow, arguments, reverse)

    def _route(self, scheme, reverse, graph, inputs, initial, dt, sizes, **more):
        constants, lateral = inputs
        n_steps, n_reaches, n_levels, n_outputs, repeat, tile = sizes
        names = ("level_start", "first", "downstream", "column", "level")
        arguments = self._typed(
            "Reaches",
            constants,
            n_steps=n_steps,
            n_reaches=n_reaches,
            n_levels=n_levels,
            n_outputs=n_outputs,
            repeat=repeat,
            tile=tile,
            dt=dt,
            constants=constants,
            lateral=lateral,
            initial=initial,
            **dict(zip(names, graph, strict=True)),
            **more,
        )
        if self.on_gpu:
            scratch = constants.new_empty(extension(self.name).route_scratch(scheme, arguments, reverse), n_reaches)
            arguments.scratch = _address(scratch)
        return self.call("route", constants, scheme, arguments, reverse)

    def route(self, scheme, graph, inputs, state, final_state, discharge, checkpoints, dt, sizes, **part) -> None:
        """Fill discharge and checkpoints, and make `final_state`, which comes as the initial one, that of the end.

        Raises `faults.BadInflow`.
        """
        # A graph that is captured cannot wait for an answer: there a bad inflow makes all below it NaN.
        if self.on_gpu and not capturing(state.device):
            if not bool(((inputs[1] >= 0) & (inputs[1] <= MOST_INFLOW)).all()):
                raise faults.BadInflow
        if self.on_gpu and len(checkpoints):
            checkpoints[0, : len(state)] = state
        results = dict(state=final_state, discharge=discharge, checkpoints=checkpoints, **part)
        if self._route(scheme, False, graph, inputs, state, dt, sizes, **results):
            raise faults.BadInflow

    def route_adjoint(self, scheme, graph, inputs, checkpoints, d_discharge, d_state, d_inputs, dt, sizes) -> None:
        """Make `d_state`, which comes as that of the end, that of the begin; add to the gradients of the inputs."""
        given = dict(checkpoints=checkpoints, d_discharge=d_discharge, d_state=d_state)
        given |= dict(zip(("d_constants", "d_lateral"), d_inputs, strict=True))
        if not self.on_gpu:
            given["d_inflow"] = d_state.new_zeros(d_state.shape[1:])
        self._route(scheme, True, graph, inputs, checkpoints[0], dt, sizes, **given)

    def sum_middle(self, x: Tensor, out: Tensor, rows: int, n: int, columns: int) -> None:
        """Sum x, seen as [rows, n, columns], over n in order: the same bits for any number of threads."""
        double = x.dtype == torch.float64
        self.call("sum_middle", x, double, x.data_ptr(), out.data_ptr(), rows, n, columns)


Cpu, Cuda = Engine("cpu"), Engine("cuda")
