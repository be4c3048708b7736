"""Values out of bounds, said in one sentence: a kernel only notes of which kind they are, and on a GPU where."""

from __future__ import annotations

import dataclasses
import logging
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from ..compiler.program import loops_of, roots_of
from ..compiler.tracing import networks_of, trace
from ..spec import DAY, State, Variable
from .bounds import bounds_of
from .layout import axes
from .problem import Problem

FORCING, PARAMETER, STATE, WEIGHTS, PASSES = 1, 2, 4, 8, 16  # as in csrc/core/run.h


class BadInflow(ValueError):
    """A lateral inflow is below zero or no number; who called for routing knows the reaches' names."""


_tolerant: ContextVar[bool] = ContextVar("tolerant", default=False)


@contextmanager
def passes_unlimited() -> Iterator[None]:
    """While it lasts, a cell with more passes of a loop than there may be is no fault, but no number from there on.

    For searches, in which a point whose flow is no number is a bad point.
    """
    before = _tolerant.set(True)
    try:
        yield
    finally:
        _tolerant.reset(before)


def tolerant() -> bool:
    """Whether a cell that has no number from some step on is no fault now."""
    return _tolerant.get()


def counts(fault: int) -> int:
    """A sum of faults without those that are none now."""
    return fault & ~PASSES if tolerant() else fault


def explain_passes(
    run: Problem, place: int, loops: Iterable[tuple[int, tuple[str, int]]] = (), residual: float | None = None
) -> str:
    """One sentence on what of the step, of these or of all, has failed at step * B * C + cell: a loop that was to make
    too many passes, or equations that were not solved.

    Each is the most passes or iterations that it may make, with its file and line. The residual, in mm, is that of
    equations, where it is known.
    """
    _, n_basins, n_components = run.sizes
    step, cell = divmod(place, n_basins * n_components)
    where = f"at step {step}, basin {cell // n_components}, component {cell % n_components}"
    programs = trace(run.spec, run.optional)
    equations = roots_of(*programs)
    every = dict.fromkeys(loops or [*equations, *loops_of(*programs)])
    lines = " or ".join(f"at most {most} passes ({file}:{line})" for most, (file, line) in every)
    if set(every) <= set(equations):
        found = "none" if residual is None else f"a residual of {residual:.3g} mm" if residual < 1e30 else "no number"
        return (
            f"the equations of model {run.spec.name} must have a root within {lines}; found {found} {where}: look at "
            "the forcing and the parameters there, or take more sub-steps."
        )
    return (
        f"a loop of model {run.spec.name} may make {lines}; found more, or a number that is none, {where}: look at the "
        "forcing and the parameters there, or raise `most` in the step."
    )


def explain(fault: int, run: Problem) -> str | None:
    """One sentence that names the first value out of bounds, or None if there is none any more."""
    if fault & STATE:
        for v, s, (lower, upper) in zip(run.spec.states, run.state, run.state_bounds, strict=False):
            if (found := _first_outside(s, lower, upper)) is not None:
                place, value = found
                return (
                    f"initial_state '{v.name}' must be {_span(v)}; found {value:g} at basin {place[0]}, component "
                    f"{place[1]}: start from a state that a run has given, or leave it out."
                )
        for s in run.state[len(run.spec.states) :]:
            if (found := _first_outside(s, -1e30, 1e30)) is not None:
                place, value = found
                return (
                    f"the delay lines of initial_state must be finite; found {value:g} at basin {place[0]}, component "
                    f"{place[1]}: start from a state that a run has given, or leave them out."
                )
    if fault & WEIGHTS and run.weights is not None and (found := _first_outside(run.weights, -1e30, 1e30)) is not None:
        place, value = found
        return f"weights must be finite; found {value:g} at {_place(place, 'bc')}: correct that entry."
    if fault & (WEIGHTS | PARAMETER):  # in Triton weights are parameters
        for network, x in zip(networks_of(run.spec.key, run.optional), run.networks, strict=True):
            if (found := _first_outside(x, -1e30, 1e30)) is not None:
                place, value = found
                return (
                    f"network '{network.name}' must have finite weights; found {value:g} at weight {place[-1]}"
                    f"{f' of basin {place[0]}' if len(place) == 2 else ''}: look for it in its training, or make it "
                    "anew."
                )
    if fault & PARAMETER:
        for row, p, bounds in zip(run.rows, run.parameters, run.parameter_bounds, strict=True):
            if (found := _first_outside(p, *bounds)) is not None:
                place, value = found
                value = row.at_step(value, DAY * DAY / run.step)  # as the table has it
                if run.raw:
                    return (
                        f"raw parameter '{row.name}' must be a number; found {value:g} at {_place(place, axes(p))}: "
                        "look for it in what the network was given, or in its weights."
                    )
                lower, upper = row.taken
                return (
                    f"parameter '{row.name}' must lie in [{lower:g}, {upper:g}] {row.unit}; found {value:g} at "
                    f"{_place(place, axes(p))}: clip it, or scale it with model.parameters_from_unit()."
                )
    if fault & FORCING:
        for k_row, k, bounds in zip(run.spec.inputs, run.inputs, run.input_bounds, strict=True):
            if (found := _first_outside(k, *bounds)) is not None:
                place, value = found
                return (
                    f"input '{k_row.name}' must lie in [{k_row.lower:g}, {k_row.upper:g}] {k_row.unit}; found "
                    f"{value:g} at {_place(place, 'b')}: correct it."
                )
        for f_row, f, bounds in zip(run.spec.forcings, run.forcing, run.forcing_bounds, strict=True):
            if (found := _first_outside(f, *bounds)) is not None:
                place, value = found
                return (
                    f"forcing '{f_row.name}' must lie in [{f_row.lower:g}, {f_row.upper:g}] {f_row.unit} without gaps; "
                    f"found {value:g} at {_place(place, 'tb')}: fill, correct or leave out that basin or period."
                )
    return None


def check_values(run: Problem) -> None:
    """Raise what is out of bounds, for a backend without kernels; inside torch.func values cannot be read."""
    if torch._C._functorch.maybe_current_level() is None and not torch.compiler.is_compiling():
        if said := explain(FORCING | PARAMETER | STATE | WEIGHTS, run):
            raise ValueError(said)


def refuse_values_outside(what: str, x: torch.Tensor, row: Variable) -> None:
    """Raise the first value of a tensor ``[B]`` or ``[B, C]`` that is outside its row's bounds, where values are there.

    On a GPU nothing waits for them, and in a graph or torch.func they cannot be read.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if torch._C._functorch.maybe_current_level() is not None or x.dim() not in (1, 2) or not x.is_floating_point():
        return
    ((lower, upper),) = bounds_of((row,), x.dtype)
    least, most = torch.aminmax(x.detach()) if x.numel() else (lower, upper)  # NaN where there is one
    if float(least) >= lower and float(most) <= upper:
        return
    if (found := _first_outside(x, lower, upper)) is not None:
        place, value = found
        raise ValueError(
            f"{what} must lie in [{row.lower:g}, {row.upper:g}] {row.unit}; found {value:g} at "
            f"{_place(place, 'bc'[: x.dim()])}: clip it, or scale it with model.parameters_from_unit()."
        )


def _span(v: State) -> str:
    return f"{v.lower:g} {v.unit} or more" if v.upper >= 1e30 else f"in [{v.lower:g}, {v.upper:g}] {v.unit}"


def _first_outside(x: torch.Tensor, lower: float, upper: float) -> tuple[tuple[int, ...], float] | None:
    bad = ~((x >= lower) & (x <= upper))
    if not bad.any():
        return None
    place = tuple(int(i) for i in bad.nonzero()[0])
    return place, float(x.detach()[place])


def _place(place: tuple[int, ...], names: str) -> str:
    words = {"t": "step", "b": "basin", "c": "component"}
    return ", ".join(f"{words[axis]} {i}" for axis, i in zip(names, place, strict=True))


# --- On a GPU, where nobody waits for a kernel's answer ------------------------------------------------------------

log = logging.getLogger(__name__)
NEVER = 1 << 62  # as in triton/drive.py
BLOCK = 256  # runs that memory is allocated for at a time
KINDS = ("forcing", "parameter", "initial_state", "weights", "passes")  # in the order of the bits above


class Watch:
    """A run on a GPU, whose faults are raised at the next synchronisation: by `raise_pending`, which every call asks.

    The kernel writes into `places`, memory of the host that the card sees, the least step * B * C + cell of each kind
    of fault; of the initial state, store * B * C + cell. The inputs are held weakly, so that a run does not keep alive
    what its caller has let go.
    """

    def __init__(self, run: Problem):
        raise_pending()
        self.device = run.state.device
        self.places = _take_places(self.device).fill_(NEVER)
        self.asked = counts(~0)
        nothing = torch.empty(0, dtype=run.state.dtype)
        none: dict = dict(forcing=[], parameters=[], networks=[], state=nothing, weights=None, checkpoints=nothing)
        self.run = dataclasses.replace(run, **none)
        given = dict(forcing=run.forcing, parameters=run.parameters, networks=run.networks, weights=run.weights)
        self.inputs = {name: _weakly(x) for name, x in given.items()}
        self.done: torch.cuda.Event | None = None  # None where there is none to wait for

    def launched(self) -> None:
        """The kernel is on its way; on the CPU, where Triton's interpreter runs it, it is done."""
        if self.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            self.done = torch.cuda.Event()
            self.done.record(torch.cuda.current_stream(self.device))
        elif self.device.type == "cuda":
            _captured.append(self)  # a graph may run it at any time, and as often as it likes
            return
        _pending.append(self)
        raise_pending()

    def fault(self) -> str | None:
        """One sentence of the first value out of bounds, if one was met."""
        places = self.places.tolist()
        found = [kind for kind, place in enumerate(places) if place != NEVER and self.asked >> kind & 1]
        if not found:
            return None
        self.places.fill_(NEVER)
        if found == [PASSES.bit_length() - 1]:  # else it may come of the other
            return explain_passes(self.run, places[-1])
        found = [kind for kind in found if KINDS[kind] != "passes"]
        _, n_basins, n_components = self.run.sizes
        step, cell = divmod(places[found[-1]], n_basins * n_components)
        basin, component = divmod(cell, n_components)
        kind = KINDS[found[-1]]
        if kind == "initial_state":
            states = self.run.spec.states
            what = f"'{states[step].name}' must be {_span(states[step])}" if step < len(states) else "must be finite"
            return (
                f"initial_state {what}; found another value at basin {basin}, component {component}: start from a "
                "state that a run has given, or leave it out."
            )
        inputs = {name: _strongly(x) for name, x in self.inputs.items()}
        if all(x is not GONE for x in inputs.values()):
            if said := explain(1 << found[-1], dataclasses.replace(self.run, **inputs)):
                return said
        return (
            f"a {kind} of an earlier run of {self.run.kernel} was out of bounds at step {step}, "
            f"basin {basin}, component {component}, and its tensors are gone or changed: call "
            "hybridsolve.synchronize() right after that run to learn which."
        )


GONE = object()


def _weakly(x: Any) -> Any:
    if isinstance(x, list):
        return [_weakly(v) for v in x]
    return (lambda: None) if x is None else weakref.ref(x)


def _strongly(x: Any) -> Any:
    if isinstance(x, list):
        values = [_strongly(v) for v in x]
        return GONE if any(v is GONE for v in values) else values
    value = x()
    return GONE if value is None and isinstance(x, weakref.ref) else value


_lock = threading.RLock()  # of the three below: torch may run forward passes again in threads of its own
_pending: list[Watch] = []
_captured: list[Watch] = []
_free: dict[torch.device, list[torch.Tensor]] = {}


def _take_places(device: torch.device) -> torch.Tensor:
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    with _lock:
        free = _free.setdefault(device, [])
        if len(free) < BLOCK and not capturing:
            # Not of inference mode even inside it: written to by runs that are not.
            with torch.inference_mode(False):
                shape = (BLOCK, len(KINDS))
                block = torch.full(shape, NEVER, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
                free += block.unbind(0)
        if not free:
            raise RuntimeError(
                "a captured run found no memory to report faults into, which the capture of a CUDA graph cannot "
                f"allocate: run once outside before it, and capture at most {BLOCK} runs at a time."
            )
        return free.pop()


def raise_pending(wait: bool = False) -> None:
    """Raise the first fault of the runs that have ended, or with `wait` of all; later ones stay to be raised."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return  # nothing may be asked of the card now
    with _lock:
        for watch in _captured:
            if fault := watch.fault():
                raise ValueError(fault)
        while _pending and (_pending[0].done is None or wait or _pending[0].done.query()):
            watch = _pending.pop(0)
            if watch.done is not None:
                watch.done.synchronize()
            fault = watch.fault()
            _free[watch.device].append(watch.places)
            if fault:
                raise ValueError(fault)


def drain() -> None:
    """Wait for all runs on GPUs, without raising what was wrong with them."""
    while True:
        try:
            return synchronize()
        except ValueError as fault:
            log.info("not raised, since another error is: %s", fault)


def synchronize() -> None:
    """Wait for all runs on GPUs, and raise what was wrong with any of them.

    A GPU computes while Python goes on: a value out of bounds shows when the run that met it has ended, and is raised
    by the next call of this package, or by this function; of several runs one at each call. Until then the outputs of
    that cell are NaN.

    Raises
    ------
    ValueError
        As `simulate` does on the CPU: one sentence that names the input, the place, the value and the remedy.
    """
    if torch.cuda.is_available():
        for device in {w.device for w in (*_pending, *_captured) if w.device.type == "cuda"}:
            torch.cuda.synchronize(device)
    raise_pending(wait=True)
