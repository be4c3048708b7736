"""Values out of bounds, said in one sentence: a kernel only notes of which kind they are, and on a GPU where."""

from __future__ import annotations

import dataclasses
import weakref

import torch

from .problem import Problem, axes

FORCING, PARAMETER, STATE, WEIGHTS = 1, 2, 4, 8  # as in csrc/core/params.h


def explain(fault: int, run: Problem) -> str | None:
    """One sentence that names the first value out of bounds, or None if there is none any more."""
    if fault & STATE:
        for name, s in zip(run.spec.state_names, run.state.unbind(0), strict=True):
            if (found := _first_outside(s, 0.0, 1e30)) is not None:
                place, value = found
                return (
                    f"initial_state '{name}' must be 0 mm or more; found {value:g} at basin {place[0]}, "
                    f"component {place[1]}: start from a state that a run has given, or leave it out."
                )
    if fault & WEIGHTS and run.weights is not None and (found := _first_outside(run.weights, -1e30, 1e30)) is not None:
        place, value = found
        return f"weights must be finite; found {value:g} at {_place(place, 'bc')}: correct that entry."
    if fault & PARAMETER:
        for v, p, bounds in zip(run.rows, run.parameters, run.parameter_bounds, strict=True):
            if (found := _first_outside(p, *bounds)) is not None:
                place, value = found
                if run.raw:
                    return (
                        f"raw parameter '{v.name}' must be a number; found {value:g} at {_place(place, axes(p))}: "
                        "look for it in what the network was given, or in its weights."
                    )
                return (
                    f"parameter '{v.name}' must lie in [{v.lower:g}, {v.upper:g}] {v.unit}; found {value:g} at "
                    f"{_place(place, axes(p))}: clip it, or scale it with model.parameters_from_unit()."
                )
    for v, f, bounds in zip(run.spec.forcings, run.forcing, run.forcing_bounds, strict=True):
        if (found := _first_outside(f, *bounds)) is not None:
            place, value = found
            return (
                f"forcing '{v.name}' must lie in [{v.lower:g}, {v.upper:g}] {v.unit} without gaps; found {value:g} "
                f"at {_place(place, 'tb')}: fill, correct or leave out that basin or period."
            )
    return None


def _first_outside(x: torch.Tensor, lower: float, upper: float):
    bad = ~((x >= lower) & (x <= upper))
    if not bad.any():
        return None
    place = tuple(int(i) for i in bad.nonzero()[0])
    return place, float(x[place])


def _place(place: tuple[int, ...], names: str) -> str:
    words = {"t": "step", "b": "basin", "c": "component"}
    return ", ".join(f"{words[axis]} {i}" for axis, i in zip(names, place, strict=True))


# --- On a GPU, where nobody waits for a kernel's answer ------------------------------------------------------------

NEVER = 1 << 62  # as in triton_kernels/drive.py
KINDS = ("forcing", "parameter", "initial_state", "weights")  # in the order of the bits above


class Watch:
    """A run on a GPU, whose faults are raised at the next synchronisation: by `raise_pending`, which every call asks.

    The kernel writes into `places`, memory of the host that the card sees, the least step * B * C + cell of each kind
    of fault. The inputs are held weakly, so that a run does not keep alive what its caller has let go.
    """

    def __init__(self, run: Problem):
        raise_pending()
        self.device = run.state.device
        self.places = _take_places(self.device).fill_(NEVER)
        self.run = dataclasses.replace(run, forcing=[], parameters=[], weights=None, checkpoints=run.state[:0])
        given = {"forcing": run.forcing, "parameters": run.parameters, "weights": run.weights}
        self.inputs = {name: _weakly(x) for name, x in given.items()}
        self.done = None  # an event; None where there is none to wait for

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
        found = [kind for kind, place in enumerate(places) if place != NEVER]
        if not found:
            return None
        self.places.fill_(NEVER)
        inputs = {name: _strongly(x) for name, x in self.inputs.items()}
        if all(x is not GONE for x in inputs.values()):
            if said := explain(1 << found[-1], dataclasses.replace(self.run, **inputs)):
                return said
        step, cell = divmod(places[found[-1]], self.run.sizes[1] * self.run.sizes[2])
        basin, component = divmod(cell, self.run.sizes[2])
        return (
            f"a {KINDS[found[-1]]} of an earlier run of {self.run.kernel} was out of bounds at step {step}, "
            f"basin {basin}, component {component}, and its tensors are gone or changed: call "
            "hybridsolve.synchronize() right after that run to be told which."
        )


GONE = object()


def _weakly(x):
    if isinstance(x, list):
        return [_weakly(v) for v in x]
    return (lambda: None) if x is None else weakref.ref(x)


def _strongly(x):
    if isinstance(x, list):
        values = [_strongly(v) for v in x]
        return GONE if any(v is GONE for v in values) else values
    value = x()
    return GONE if value is None and isinstance(x, weakref.ref) else value


_pending: list[Watch] = []
_captured: list[Watch] = []
_free: dict[torch.device, list[torch.Tensor]] = {}


def _take_places(device: torch.device) -> torch.Tensor:
    if not _free.get(device):
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a CUDA graph cannot begin with the first run of hybridsolve, which allocates memory that a capture "
                "forbids; run once before the capture."
            )
        block = torch.full((256, len(KINDS)), NEVER, dtype=torch.int64, pin_memory=device.type == "cuda")
        _free[device] = list(block.unbind(0))
    return _free[device].pop()


def raise_pending(wait: bool = False) -> None:
    """Raise the first fault of the runs that have ended, or with `wait` of all."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return  # nothing may be asked of the card now
    faults = [watch.fault() for watch in _captured]
    while _pending and (_pending[0].done is None or wait or _pending[0].done.query()):
        watch = _pending.pop(0)
        if watch.done is not None:
            watch.done.synchronize()
        faults.append(watch.fault())
        _free[watch.device].append(watch.places)
    for fault in faults:
        if fault:
            raise ValueError(fault)


def synchronize() -> None:
    """Wait for all runs on GPUs, and raise what was wrong with any of them.

    A GPU computes while Python goes on: a value out of bounds shows when the run that met it has ended, and is raised
    by the next call of this package, or by this function. Until then the outputs of that cell are NaN.

    Raises
    ------
    ValueError
        As `simulate` does on the CPU: one sentence that names the input, the place, the value and the remedy.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    raise_pending(wait=True)
