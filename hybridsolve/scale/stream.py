"""simulate() for tensors in host memory that a card cannot hold at once: piece by piece, forward and gradient.

A piece is a range of basins over a window of time; windows of the same basins are chained by the state. While the card
computes one piece, the tensors of the next are copied to it and the results of the last are copied back. Forward
results have the bits of the whole run; so have gradients for pieces of basins, while the sum of windows' gradients
differs from the whole by rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..solve import backends, check, faults, ops, reference
from ..solve.problem import Problem
from ..solve.simulate import Run
from ..spec import DAY, ModelSpec

FILLS_A_CARD = 2**17  # cells: with fewer, multiprocessors idle, and windows of time are the better cut
PIECE = 2**31  # bytes: copied at full speed, and small enough that the first and last copies take little time
SHORTEST = 64  # steps that a window should have
Brought = tuple[list[Tensor], torch.Event | None]  # copies on their way, and the event of their arrival
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How a run is cut: `basins` at a time, over `steps` at a time."""

    basins: int
    steps: int
    sizes: tuple[int, int, int]
    bytes_of_a_piece: int
    memory: int

    def __str__(self) -> str:
        n_steps, n_basins, _ = self.sizes
        return (
            f"{-(-n_basins // self.basins)} x {-(-n_steps // self.steps)} pieces of {self.basins} basins x "
            f"{self.steps} steps, {self.bytes_of_a_piece / 2**30:.3g} GiB of {self.memory / 2**30:.3g} GiB"
        )

    def pieces(self) -> Iterator[tuple[slice, list[slice]]]:
        """The ranges of basins, each with its windows."""
        n_steps, n_basins, _ = self.sizes
        windows = [slice(t, min(t + self.steps, n_steps)) for t in range(0, n_steps, self.steps)]
        for b in range(0, n_basins, self.basins):
            yield slice(b, min(b + self.basins, n_basins)), windows


@dataclass(frozen=True)
class StreamedRun(Run):
    """A `Run` in host memory, and the plan it was made by."""

    plan: Plan


def _device(given: str | torch.device) -> torch.device:
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in backends.DEFAULT:
        raise ValueError(f"device must be 'cuda', 'cuda:<number>' or 'cpu'; found {given!r}: name one of these.")
    return device


def free_memory(device: torch.device) -> int:
    """Bytes that a run may take: four fifths of what the card has free, torch's own cache counted as free."""
    if device.type != "cuda":
        raise ValueError(f"the free memory of {device} is not known; say with memory= how many bytes a piece may take.")
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(0.8 * (torch.cuda.mem_get_info(device)[0] + cached))


def plan(
    sizes: Sequence[int],
    *,
    n_forcings: int,
    n_states: int,
    n_static: int,
    n_per_step: int,
    n_outputs: int,
    each: bool,
    gradient: bool,
    itemsize: int,
    memory: int,
    interval: int | None = None,
    most_interval: int | None = None,
) -> Plan:
    """Cut a run so that what is on the card at a time takes no more than `memory` bytes.

    Parameters
    ----------
    sizes : (T, B, C)
    n_forcings, n_states, n_static, n_per_step, n_outputs : int
        How many tensors there are of each kind.
    each, gradient : bool
        Whether components are kept apart, and whether gradients are wanted.
    itemsize : int
        Bytes of a number.
    memory : int
        Bytes.
    interval, most_interval : int, optional
        Steps between checkpoints, and how many there are at most where that is left out.

    Returns
    -------
    Plan
        For a gradient whole series of as many basins as fit, else windows of time of as many basins as fit; if those
        do not fill the card, windows short enough that as many fit as do.

    Raises
    ------
    ValueError
        If not even one step of one basin fits.
    """
    counts = dict(n_forcings=n_forcings, n_states=n_states, n_static=n_static, n_per_step=n_per_step)
    counts |= dict(n_outputs=n_outputs, itemsize=itemsize, memory=memory)
    for name, number in (*zip("TBC", sizes, strict=True), *counts.items()):
        if isinstance(number, bool) or not isinstance(number, int) or number < (name in "TBC" or name == "itemsize"):
            raise ValueError(f"{name} must be a whole number, none below 0; found {number!r}: correct it.")
    n_steps, n_basins, n_components = sizes
    series = n_outputs * (n_components if each else 1)
    moving = n_forcings + n_per_step * n_components

    def size(basins: int, steps: int) -> int:
        every = interval or backends.check_interval(steps, most_interval)
        held = 2 * (moving + series) * steps  # the piece at work, and the next or the last
        held += (n_static + 4 * n_states) * n_components
        if gradient:
            held += (moving + series) * steps + n_static * n_components
            held += n_states * n_components * (-(-steps // every) + every)
        return held * basins * itemsize

    def most(low: int, high: int, fits: Callable[[int], bool]) -> int:
        """The largest number in low..high that fits, by halving; low - 1 if none does."""
        while low <= high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if fits(middle) else (low, middle - 1)
        return high

    wanted = min(n_basins, -(-FILLS_A_CARD // n_components))
    if gradient:  # windows need a second run, for the states between them
        basins, steps = most(1, n_basins, lambda n: size(n, n_steps) <= memory), n_steps
    else:  # a window of all basins is contiguous in memory
        shortest = min(n_steps, SHORTEST)
        basins = most(1, n_basins, lambda n: size(n, shortest) <= memory)
        largest = min(memory, max(PIECE, size(basins, shortest)))
        steps = max(shortest, most(1, n_steps, lambda n: size(basins, n) <= largest))
    if basins < wanted:
        basins, steps = wanted, most(1, n_steps, lambda n: size(wanted, n) <= memory)
        if steps < 1:
            basins, steps = most(1, n_basins, lambda n: size(n, 1) <= memory), 1
    if basins < 1:
        raise ValueError(
            f"one step of one basin with {n_components} components takes {size(1, 1)} bytes on the card, but memory is "
            f"{memory}: give more, or keep fewer components or outputs."
        )
    # Pieces of about equal size, so that the last is not much smaller.
    basins, steps = (-(-n // -(-n // piece)) for n, piece in ((n_basins, basins), (n_steps, steps)))
    return Plan(basins, steps, (n_steps, n_basins, n_components), size(basins, steps), memory)


def simulate(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cuda",
    memory: int | None = None,
    initial_state: Mapping[str, Tensor] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    step: int = DAY,
    fluxes: Sequence[str] | None = None,
    components: str = "mean",
    weights: Tensor | None = None,
    checkpoint_interval: int | None = None,
    raw: bool = False,
    backend: str = "auto",
    networks: Mapping[str, Tensor] | None = None,
) -> StreamedRun:
    """Run a model on a card from tensors in host memory, of any size; results and gradients are in host memory.

    Parameters
    ----------
    model, forcing, parameters, initial_state, inputs, step, fluxes, components, weights, checkpoint_interval, raw
    networks
        As for `hybridsolve.simulate`; the tensors are on the CPU. Pinned ones are copied faster.
    device : torch.device
        Where to compute; "cpu" bounds the memory of a gradient there.
    memory : int, optional
        Bytes to take on the card at a time; four fifths of what is free if left out.

    Returns
    -------
    StreamedRun
        Its `plan` says how the run was cut.

    Raises
    ------
    ValueError
        As `hybridsolve.simulate`, if a tensor is not on the CPU, or if nothing fits.
    RuntimeError
        Inside the capture of a CUDA graph, since the host takes part.
    """
    device = _device(device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU; run on the CPU with device='cpu', or install a GPU build of torch.")
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a streamed run cannot be captured in a CUDA graph; capture hybridsolve.simulate instead."
            )
    problem = check.problem(
        model, forcing, parameters, inputs, step, initial_state, fluxes, components, weights, checkpoint_interval, raw,
        "reference", networks,
    )  # fmt: skip
    if problem.state.device.type != "cpu":
        raise ValueError(
            f"a streamed run takes tensors in host memory; found them on {problem.state.device}: move with .cpu()."
        )
    problem = problem.with_(backend=backends.choose(backend, device, problem.kernel))
    if problem.backend == "triton" and problem.networks and problem.raw:
        raise ValueError(
            f"Triton's kernels of {problem.spec.name}, which has networks inside, take parameters in their units; "
            "found raw=True: scale them by parameters_from_unit(sigmoid(..))."
        )
    most = backends.most_interval(problem.backend, problem.spec, problem.state.element_size())
    cut = plan(
        problem.sizes,
        n_forcings=len(problem.forcing),
        n_states=len(problem.state),
        n_static=problem.per_step.count(False),
        n_per_step=problem.per_step.count(True),
        n_outputs=len(problem.outputs),
        each=problem.each,
        gradient=torch.is_grad_enabled() and any(x.requires_grad for x in problem.tensors),
        itemsize=problem.state.element_size(),
        memory=free_memory(device) if memory is None else memory,
        interval=checkpoint_interval,
        most_interval=most,
    )
    series, final = _Streamed.apply(_Stream(problem, device, cut, checkpoint_interval, most), *problem.tensors)
    return StreamedRun(dict(zip(problem.outputs, series.unbind(0), strict=True)), problem.named_state(final), cut)


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: _Stream, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.stream = stream
        ctx.save_for_backward(*tensors)
        faults.synchronize()  # faults of earlier runs are not reported as this one's
        try:
            return stream.with_memory_hint(stream.forward, [x.detach() for x in tensors])
        except ValueError as error:
            faults.drain()  # pieces that are still running may have the same fault
            # A piece counts basins and steps from its own first; the whole run locates the bad value.
            raise ValueError(stream.explain(tensors) or str(error)) from None

    @staticmethod
    def backward(ctx: Any, d_series: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_StreamedAdjoint.apply(
            ctx.stream, ctx.needs_input_grad[1:], d_series, d_final, *ctx.saved_tensors
        )


class _StreamedAdjoint(torch.autograd.Function):
    """The adjoint as a function whose derivative is refused."""

    @staticmethod
    def forward(
        ctx: Any, stream: _Stream, needs: Sequence[bool], d_series: Tensor, d_final: Tensor, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        return tuple(stream.with_memory_hint(stream.backward, [x.detach() for x in tensors], needs, d_series, d_final))

    backward = staticmethod(ops.refuse)


class _Stream:
    """One streamed run, whose tensors are those of its `Problem`, in their order."""

    def __init__(self, run: Problem, device: torch.device, plan: Plan, interval: int | None, most: int | None):
        # The text and the sizes of the whole run; every call passes its tensors.
        self.text, self.step, self.each = run.text, run.step, run.each
        self.weighted = run.weights is not None
        self.n_forcings, self.n_inputs, self.n_outputs = len(run.forcing), len(run.inputs), len(run.outputs)
        self.state_at = len(run.tensors) - 1 - self.weighted
        self.networks_at = self.state_at - len(run.networks)
        self.device, self.plan, self.interval, self.most_interval = device, plan, interval, most

    def axes(self, i: int, x: Tensor) -> str:
        """The axes of the i-th tensor."""
        if i < self.n_forcings:
            return "tb"
        if i < self.n_forcings + self.n_inputs:
            return "b"
        if self.networks_at <= i < self.state_at:
            return "bw" if x.dim() == 2 else "w"
        return "sbc" if i == self.state_at else "bc" if x.dim() == 2 else "tbc"

    def explain(self, tensors: Sequence[Tensor]) -> str | None:
        """The message on a value out of bounds, if there is one."""
        problem = Problem.of(self.text, tensors, [*self.plan.sizes, 0, self.step])
        return faults.explain(faults.FORCING | faults.PARAMETER | faults.STATE | faults.WEIGHTS, problem)

    def run(self, tensors: Sequence[Tensor], state: Tensor) -> tuple[Tensor, ...]:
        tensors = [*tensors[: self.state_at], state, *tensors[self.state_at + 1 :]]
        n_steps = max([1, *(x.shape[0] for i, x in enumerate(tensors) if self.axes(i, x)[0] == "t")])
        interval = self.interval or backends.check_interval(n_steps, self.most_interval)
        interval = min(interval, n_steps) if torch.is_grad_enabled() else 0
        numbers = [n_steps, *state.shape[1:], interval, self.step]
        piece = Problem.of(self.text, tensors, numbers)
        return reference.run(piece) if piece.backend == "reference" else ops.run(self.text, tensors, numbers)

    def with_memory_hint(self, work: Callable[..., T], *args: Any) -> T:
        """Do the work; an error for lack of memory says how to ask for less."""
        try:
            return work(*args)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(
                f"{self.device} has no room for a run in {self.plan}: call with memory= and fewer bytes, or free some "
                "there."
            ) from error

    def forward(self, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
        n_steps, n_basins, n_components = self.plan.sizes
        each = (n_components,) if self.each else ()
        series = tensors[0].new_empty(self.n_outputs, n_steps, n_basins, *each)
        final = torch.empty_like(tensors[self.state_at])
        card = _Card(self.device)
        pieces = [(b, t) for b, windows in self.plan.pieces() for t in windows]
        ahead = self.bring(card, tensors, *pieces[0])
        state: Tensor  # that the piece starts from
        for i, (b, t) in enumerate(pieces):
            here = card.arrived(ahead)
            if t.start == 0:
                state = here[self.state_at]
            out, state = self.run(here, state)
            card.wait()
            if i + 1 < len(pieces):
                ahead = self.bring(card, tensors, *pieces[i + 1])
            card.send(out, series[:, t, b])
            if t.stop == n_steps:
                card.send(state, final[:, b])
        card.finish()
        return series, final

    def backward(
        self, tensors: list[Tensor], needs: Sequence[bool], d_series: Tensor, d_final: Tensor
    ) -> list[Tensor | None]:
        gradients = {k: torch.zeros_like(x) for k, x in enumerate(tensors) if needs[k]}
        wanted = [k for k, need in enumerate(needs) if need or k == self.state_at]
        card = _Card(self.device)
        for b, windows in self.plan.pieces():
            # The state before each window, then the windows from the last, each run again with its gradient.
            states = self.states_before(card, tensors, b, windows)
            d_state = card.arrived(card.bring([d_final[:, b]]))[0]
            ahead = self.bring(card, [*tensors, d_series], b, windows[-1], states[-1])
            for i in reversed(range(len(windows))):
                *here, d_out = card.arrived(ahead)
                leaves = [x.requires_grad_(k in wanted) for k, x in enumerate(here)]
                with torch.enable_grad():
                    outputs = self.run(leaves, leaves[self.state_at])
                found = torch.autograd.grad(outputs, [leaves[k] for k in wanted], (d_out, d_state))
                card.wait()
                if i:
                    ahead = self.bring(card, [*tensors, d_series], b, windows[i - 1], states[i - 1])
                for k, g in zip(wanted, found, strict=True):
                    if k == self.state_at:
                        d_state = g
                    else:
                        card.add(g, self.cut(k, gradients[k], b, windows[i]))
            if needs[self.state_at]:
                card.add(d_state, gradients[self.state_at][:, b])
        card.finish()
        return [gradients.get(k) for k in range(len(tensors))]

    def states_before(self, card: _Card, tensors: list[Tensor], b: slice, windows: list[slice]) -> list[Tensor]:
        """The state before each window, in host memory."""
        first = tensors[self.state_at][:, b]
        states = [first, *(torch.empty_like(first) for _ in windows[1:])]
        state = None
        with torch.no_grad():
            for t, target in zip(windows, states[1:], strict=False):
                here = card.arrived(self.bring(card, tensors, b, t))
                _, state = self.run(here, here[self.state_at] if state is None else state)
                card.wait()
                card.send(state, target)
        card.wait()
        return states

    def cut(self, i: int, x: Tensor, b: slice, t: slice) -> Tensor:
        """The part of the i-th tensor that a piece needs: an axis of size 1 is whole in every piece."""
        axes = "otbc" if i == self.state_at + 1 + self.weighted else self.axes(i, x)
        parts = {"t": t, "b": b}
        uncut = slice(None)
        index = [parts.get(a, uncut) if n > 1 else uncut for a, n in zip(axes, x.shape, strict=False)]
        return x[tuple(index)]

    def bring(self, card: _Card, tensors: list[Tensor], b: slice, t: slice, state: Tensor | None = None) -> Brought:
        """Start to copy what a piece needs, with `state`, where given, in place of the initial one."""
        here = [self.cut(i, x, b, t) for i, x in enumerate(tensors)]
        if state is not None:
            here[self.state_at] = state
        return card.bring(here)


class _Card:
    """Copies to and from a device beside its computing. On the CPU a piece is a view, and nothing is copied."""

    def __init__(self, device: torch.device):
        self.device = device
        self.on_card = device.type == "cuda"
        self.waiting: deque = deque()  # pending results: event, pinned copy, target, and whether to add
        if self.on_card:
            self.computing = torch.cuda.current_stream(device)
            self.copying, self.returning = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def bring(self, tensors: list[Tensor]) -> Brought:
        """Start to copy to the device; return the copies and the event of their arrival."""
        if not self.on_card:
            return [x.detach() for x in tensors], None
        with torch.cuda.stream(self.copying):
            # torch reuses pinned memory once the copies from it are done.
            here = [self.pinned(x).to(self.device, non_blocking=True) for x in tensors]
            return here, self.copying.record_event()

    @staticmethod
    def pinned(x: Tensor) -> Tensor:
        if x.is_pinned() and x.is_contiguous():
            return x
        return torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True).copy_(x)

    def arrived(self, brought: Brought) -> list[Tensor]:
        here, event = brought
        if event is not None:
            self.computing.wait_event(event)
            for x in here:
                x.record_stream(self.computing)
        return here

    def send(self, x: Tensor, target: Tensor) -> None:
        """Copy a result into host memory, at the latest when `wait` returns."""
        self._return(x, target, False)

    def add(self, x: Tensor, target: Tensor) -> None:
        """Add a result to what is in host memory, in the order of the calls."""
        self._return(x, target, True)

    def _return(self, x: Tensor, target: Tensor, adding: bool) -> None:
        x = x.detach()
        event = None
        if self.on_card:
            self.returning.wait_event(self.computing.record_event())
            with torch.cuda.stream(self.returning):
                here = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True)
                here.copy_(x, non_blocking=True)
                x.record_stream(self.returning)
                event, x = self.returning.record_event(), here
        self.waiting.append((event, x, target, adding))
        if not self.on_card:
            self.wait()

    def wait(self) -> None:
        """Wait until what was sent has arrived: its piece is done then, and the card has room for another."""
        while self.waiting:
            event, x, target, adding = self.waiting.popleft()
            if event is not None:
                event.synchronize()
            target.add_(x) if adding else target.copy_(x)

    def finish(self) -> None:
        self.wait()
        if self.on_card:
            faults.synchronize()
