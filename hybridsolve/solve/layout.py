"""How arrays lie in memory: the strides by which a kernel reads what it is given, and room for what it fills.

In arrays over cells basins follow one another on the CPU, where they are a pack's lanes; components on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor


def axes(x: Tensor) -> str:
    """The axes of a parameter."""
    return "bc" if x.dim() == 2 else "tbc"


def network_axes(x: Tensor) -> str:
    """The axes of a network's weights, of which those of one network are along "t"."""
    return "bt"[-x.dim() :]


def is_per_step(x: Tensor) -> bool:
    return x.dim() == 3 and x.shape[0] > 1


def strides(x: Tensor, names: str) -> tuple[int, int, int]:
    """Strides over steps, basins and components, 0 where the axis is absent or of size 1."""
    return _strides(x.shape, x.stride(), names)


@lru_cache(4096)  # it takes longer than a small run, and most runs repeat the shapes of another
def _strides(shape: tuple[int, ...], stride: tuple[int, ...], names: str) -> tuple[int, int, int]:
    found = {axis: by for axis, n, by in zip(names, shape, stride, strict=True) if n > 1}
    return found.get("t", 0), found.get("b", 0), found.get("c", 0)


def empty_series(backend: str, like: Tensor, n: int, sizes: Sequence[int]) -> Tensor:
    """Room for n series ``[T, B, C]``."""
    n_steps, n_basins, n_components = sizes
    if backend == "cpu":
        return like.new_empty((n, n_steps, n_components, n_basins)).transpose(2, 3)
    return like.new_empty((n, n_steps, n_basins, n_components))


def empty_checkpoints(backend: str, like: Tensor, sizes: Sequence[int], interval: int) -> Tensor:
    """Room for the state before every interval-th step: ``[.., S, C, B]`` on the CPU, else ``[.., S, B, C]``."""
    n_steps, n_basins, n_components = sizes
    n = -(-n_steps // interval) if interval else 0
    cells = (n_components, n_basins) if backend == "cpu" else (n_basins, n_components)
    return like.new_empty((n, like.shape[0], *cells))
