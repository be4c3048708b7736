"""Values out of bounds, said in one sentence: a kernel only notes of which kind they are, and on a GPU where."""

from __future__ import annotations

import torch

from .problem import Problem, axes

FORCING, PARAMETER, STATE, WEIGHTS = 1, 2, 4, 8  # as in csrc/core/params.h


def explain(fault: int, run: Problem) -> str:
    """One sentence that names the first value out of bounds."""
    if fault & STATE:
        for name, s in zip(run.spec.state_names, run.state.unbind(0), strict=True):
            if (found := _first_outside(s, 0.0, 1e30)) is not None:
                place, value = found
                return (
                    f"initial_state '{name}' must be 0 mm or more; found {value:g} at basin {place[0]}, "
                    f"component {place[1]}: start from a state that a run has given, or leave it out."
                )
    if fault & WEIGHTS:
        place, value = _first_outside(run.weights, -1e30, 1e30)
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
    raise AssertionError(f"the kernel reported fault {fault}, but no value is out of bounds")


def _first_outside(x: torch.Tensor, lower: float, upper: float):
    bad = ~((x >= lower) & (x <= upper))
    if not bad.any():
        return None
    place = tuple(int(i) for i in bad.nonzero()[0])
    return place, float(x[place])


def _place(place: tuple[int, ...], names: str) -> str:
    words = {"t": "step", "b": "basin", "c": "component"}
    return ", ".join(f"{words[axis]} {i}" for axis, i in zip(names, place, strict=True))


NEVER = 1 << 62  # as in triton_kernels/drive.py


class Watch:
    """A run on a GPU, whose faults are raised at the next synchronisation: by `raise_pending`, which every call asks.

    The kernel writes into `places`, memory of the host that the card sees, the least step * B * C + cell of each kind
    of fault.
    """

    def __init__(self, run: Problem):
        raise_pending()
        on_gpu = run.state.device.type == "cuda"
        self.run = run
        self.places = torch.full((4,), NEVER, dtype=torch.int64, pin_memory=on_gpu)

    def launched(self) -> None:
        """The kernel is on its way; on the CPU, where Triton's interpreter runs it, it is done."""
        self.done = None
        if self.run.state.device.type == "cuda":
            self.done = torch.cuda.Event()
            self.done.record()
        _pending.append(self)
        raise_pending()


_pending: list[Watch] = []


def raise_pending(wait: bool = False) -> None:
    """Raise the first fault of the runs that have ended, or with `wait` of all."""
    while _pending:
        watch = _pending[0]
        if watch.done is not None:
            if wait:
                watch.done.synchronize()
            elif not watch.done.query():
                return
        _pending.pop(0)
        fault = sum(1 << kind for kind, place in enumerate(watch.places.tolist()) if place != NEVER)
        if fault:
            _pending.clear()
            raise ValueError(explain(fault, watch.run))


def synchronize() -> None:
    """Wait for all runs on GPUs, and raise what was wrong with any of them.

    A GPU computes while Python goes on: a value out of bounds shows when the run that met it has ended, and is raised
    by the next call of this package, or by this function. Until then the outputs of that cell are NaN.

    Raises
    ------
    ValueError
        As `simulate` does on the CPU: one sentence that names the input, the place, the value and the remedy.
    """
    raise_pending(wait=True)
