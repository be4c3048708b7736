"""One run as every backend's kernels take it: the inputs with their rows of the model's table, sizes and options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..spec import ModelSpec, Variable


def spec_of(kernel: str) -> ModelSpec:
    """The model that a kernel of csrc/models.def belongs to."""
    return next(m for m in models.MODELS.values() if kernel == m.name or kernel.startswith(m.name + "_"))


def dense(x, what: str) -> Tensor:
    """The tensor itself; raise if it is none, or not laid out with strides."""
    if not isinstance(x, Tensor):
        how = "torch.as_tensor(x.values)" if hasattr(x, "values") else "torch.as_tensor(x)"
        raise ValueError(f"{what} must be a torch tensor; found {type(x).__name__}: convert it with {how}.")
    if x.layout != torch.strided:
        raise ValueError(f"{what} must be dense; found {x.layout}: convert it with .to_dense().")
    return x


def mapping(x, what: str) -> dict:
    """A copy of a mapping of names; raise if it is none."""
    if hasattr(x, "final_state"):
        raise ValueError(f"{what} must map names to tensors; found a {type(x).__name__}: pass its final_state.")
    if not isinstance(x, Mapping):
        raise ValueError(f"{what} must map names to tensors; found {type(x).__name__}: pass a dict.")
    return dict(x)


def axes(x: Tensor) -> str:
    """The axes of a parameter."""
    return "bc" if x.dim() == 2 else "tbc"


def is_per_step(x: Tensor) -> bool:
    return x.dim() == 3 and x.shape[0] > 1


def strides(x: Tensor, names: str) -> tuple[int, int, int]:
    """Strides over steps, basins and components, 0 where the axis is absent or of size 1."""
    stride = {axis: x.stride(i) if x.shape[i] > 1 else 0 for i, axis in enumerate(names)}
    return stride.get("t", 0), stride.get("b", 0), stride.get("c", 0)


def bounds(variable: Variable, dtype: torch.dtype) -> tuple[float, float]:
    """Bounds that allow one unit in the last place: lo + (hi - lo) * 1 may round past hi."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    down, up = kind(-np.inf), kind(np.inf)
    return float(np.nextafter(kind(variable.lower), down)), float(np.nextafter(kind(variable.upper), up))


@dataclass(frozen=True)
class Problem:
    """A run's inputs; see `ops.run` for what they are.

    Attributes
    ----------
    group : int
        Components that the kernel sums in one go; the sums of a basin's groups are added afterwards, in order.
    checkpoints : Tensor
        To be filled by the forward run, or read by the adjoint; empty if interval is 0.
    """

    kernel: str
    forcing: list[Tensor]
    parameters: list[Tensor]
    state: Tensor
    weights: Tensor | None
    sizes: tuple[int, int, int]
    outputs: list[str]
    each: bool
    interval: int
    raw: bool
    group: int = 1
    checkpoints: Tensor | None = None

    @cached_property
    def spec(self) -> ModelSpec:
        return spec_of(self.kernel)

    @cached_property
    def rows(self) -> tuple[Variable, ...]:
        """The parameters' rows of the model's table, in the kernel's order."""
        present = self.kernel.removeprefix(self.spec.name).split("_")
        return self.spec.present_parameters(self.spec.parameter_names + tuple(present))

    @property
    def n_groups(self) -> int:
        return -(-self.sizes[2] // self.group)

    @property
    def per_step(self) -> list[bool]:
        return [is_per_step(p) for p in self.parameters]

    @property
    def forcing_bounds(self) -> list[tuple[float, float]]:
        return [bounds(v, self.state.dtype) for v in self.spec.forcings]

    @property
    def parameter_bounds(self) -> list[tuple[float, float]]:
        """What the parameters as given must lie within: before the sigmoid they must only be numbers."""
        if self.raw:
            return [(-math.inf, math.inf)] * len(self.rows)
        return [bounds(v, self.state.dtype) for v in self.rows]

    @property
    def parameter_range(self) -> list[tuple[float, float]]:
        return [(v.lower, v.upper) for v in self.rows]
