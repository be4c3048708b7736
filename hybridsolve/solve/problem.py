"""One run as one object: made once by `simulate`, carried through the operators as a text, tensors and sizes.

A graph of torch.compile can hold a text, a list of tensors and a list of sizes that may be symbolic; so `text` holds
the words of a run (what is computed by which backend), `tensors` its arrays, and `numbers` whatever has a value that
another run may have differently: a number in the text would make a graph anew at its second value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from .. import models
from ..compiler.tracing import networks_of
from ..spec import DAY, ModelSpec, Parameter
from .bounds import bounds_of
from .layout import is_per_step


@dataclass(frozen=True)
class Problem:
    """What a run computes, and from what.

    Attributes
    ----------
    backend : str
    spec : ModelSpec
    forcing : list of Tensor ``[T, B]``
    inputs : list of Tensor ``[B]``
        Static; nobody asks for their gradient.
    parameters : list of Tensor ``[B, C]`` or ``[T, B, C]``
        In the kernel's order, those of a step of `step` seconds; `optional` names the optional ones among them.
    state : Tensor ``[S, B, C]``
        And behind the states the contents of the delay lines.
    networks : list of Tensor ``[W]`` or ``[B, W]``
        The weights of the networks inside the step, in the order in which that calls them.
    weights : Tensor ``[B, C]`` or None
        None: the mean over components.
    sizes : (T, B, C)
    outputs : tuple of str
    each : bool
        Keep the components apart.
    raw : bool
        The parameters come before the sigmoid, and the kernel scales them to their bounds.
    step : int
        s.
    interval : int
        Steps between checkpoints; 0 keeps none, and then there is no gradient.
    group : int
        Components that the kernel sums in one go; the sums of a basin's groups are added afterwards, in order.
    checkpoints : Tensor
        To be filled by the forward run, or read by the adjoint; empty if interval is 0.
    """

    backend: str
    spec: ModelSpec
    forcing: list[Tensor]
    inputs: list[Tensor]
    parameters: list[Tensor]
    state: Tensor
    weights: Tensor | None
    sizes: Sequence[int]
    outputs: tuple[str, ...]
    each: bool = False
    raw: bool = False
    optional: tuple[str, ...] = ()
    step: int = DAY
    interval: int = 0
    group: int = 1
    checkpoints: Tensor | None = None
    networks: list[Tensor] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The words: backend, model and its definition, optional parameters, outputs, flags."""
        flags = [word for word in ("each", "raw") if getattr(self, word)]
        return " ".join((self.backend, self.spec.key, *(",".join(x) for x in (self.optional, self.outputs, flags))))

    @property
    def tensors(self) -> list[Tensor]:
        weights = [] if self.weights is None else [self.weights]
        return [*self.forcing, *self.inputs, *self.parameters, *self.networks, self.state, *weights]

    @property
    def numbers(self) -> list[int]:
        return [*self.sizes, self.interval, self.step]

    @classmethod
    def of(cls, text: str, tensors: Sequence[Tensor], numbers: Sequence[int], **more: Any) -> Problem:
        """The run of an operator's arguments."""
        backend, key, optional, outputs, flags = text.split(" ")
        spec, present = models.by_key(key), tuple(filter(None, optional.split(",")))
        forcing, inputs, parameters, networks, rest = _split(tensors, spec, present)
        state, weights = rest if len(rest) == 2 else (rest[0], None)
        *sizes, interval, step = numbers
        more |= dict(each="each" in flags, raw="raw" in flags, optional=present, step=step, interval=interval)
        more["networks"] = networks
        given = (forcing, inputs, parameters, state, weights)
        return cls(backend, spec, *given, sizes=sizes, outputs=tuple(outputs.split(",")), **more)

    def split(self, of_tensors: Sequence) -> list[list]:
        """What belongs to each of `tensors`: of the forcing, inputs, parameters and networks; of the state and any
        weights."""
        return _split(of_tensors, self.spec, self.optional)

    def named_state(self, final: Tensor) -> dict[str, Tensor]:
        """The parts of a final state by name."""
        n, names = len(self.spec.states), self.spec.state_names
        named = dict(zip(names, final[:n].unbind(0) if self.spec.lines else final.unbind(0), strict=True))
        for line in self.spec.lines:
            named[line.name] = final[n : n + line.slots - 1]
            n += line.slots - 1
        return named

    def with_(self, **changes: Any) -> Problem:
        other = object.__new__(Problem)  # dataclasses.replace checks every field, which takes longer than a small run
        other.__dict__.update(self.__dict__, **changes)
        return other

    @cached_property
    def kernel(self) -> str:
        """The name of the compiled time loop."""
        return self.spec.kernel_name(self.optional)

    @property
    def rows(self) -> tuple[Parameter, ...]:
        """The parameters' rows of the model's table, in the kernel's order."""
        return self.spec.present_parameters(self.optional)

    @property
    def outflow(self) -> int:
        """The index of the outflow among the fluxes."""
        return self.spec.flux_names.index(self.spec.outflow)

    @property
    def n_groups(self) -> int:
        return -(-self.sizes[2] // self.group)

    @cached_property
    def per_step(self) -> list[bool]:
        return [is_per_step(p) for p in self.parameters]

    @property
    def forcing_bounds(self) -> list[tuple[float, float]]:
        return bounds_of(self.spec.forcings, self.state.dtype)

    @property
    def input_bounds(self) -> list[tuple[float, float]]:
        return bounds_of(self.spec.inputs, self.state.dtype)

    @property
    def state_bounds(self) -> list[tuple[float, float]]:
        return [(max(v.lower, -1e30), min(v.upper, 1e30)) for v in self.spec.states]

    @property
    def parameter_bounds(self) -> list[tuple[float, float]]:
        """What the parameters as given must lie within: before the sigmoid they must only be numbers."""
        if self.raw:
            return [(-math.inf, math.inf)] * len(self.rows)
        return bounds_of(self.rows, self.state.dtype, self.step)

    @property
    def parameter_range(self) -> list[tuple[float, float]]:
        return [(v.lower, v.upper) for v in self.rows]


def _split(of_tensors: Sequence, spec: ModelSpec, optional: Sequence[str]) -> list[list]:
    parts, rest = [], list(of_tensors)
    networks = len(networks_of(spec.key, tuple(optional)))
    for n in (len(spec.forcings), len(spec.inputs), len(spec.parameters) + len(optional), networks):
        parts.append(rest[:n])
        rest = rest[n:]
    return [*parts, rest]
