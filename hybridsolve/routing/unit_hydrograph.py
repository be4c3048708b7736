"""The gamma unit hydrograph of 15 steps: `convolve` with the ordinates that HBV's table names.

Sources: Nash (1957) for the gamma form; Feng et al. (2022, doi 10.1029/2022WR032404) for 15 ordinates and the bounds.
"""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from ..solve.ordinates import ordinates
from ..spec import Hydrograph, Parameter
from .convolve import Shapes, check_beside, check_series, convolved, reference_convolve

GAMMA = Hydrograph("gamma", (Parameter("a", "1", "shape"), Parameter("b", "d", "scale")), days=15)
LENGTH = 15  # ordinates


def reference_unit_hydrograph(q: Tensor, a: Tensor, b: Tensor, memory: Tensor | None = None) -> Tensor:
    """The oracle: what `unit_hydrograph` computes, in plain torch."""
    memory = q.new_zeros(LENGTH - 1, q.shape[1]) if memory is None else memory
    return reference_convolve(q, ordinates(GAMMA, dict(a=a, b=b)), memory)


@overload
def unit_hydrograph(
    q: Tensor,
    a: Tensor,
    b: Tensor,
    memory: Tensor | None = None,
    return_memory: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def unit_hydrograph(
    q: Tensor,
    a: Tensor,
    b: Tensor,
    memory: Tensor | None = None,
    *,
    return_memory: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def unit_hydrograph(
    q: Tensor, a: Tensor, b: Tensor, memory: Tensor | None = None, return_memory: bool = False, backend: str = "auto"
) -> Tensor | tuple[Tensor, Tensor]:
    """Route runoff by a gamma unit hydrograph of 15 steps.

    Parameters
    ----------
    q : Tensor ``[T, B]``
        Runoff, mm/d or any unit; the result has the same.
    a, b : Tensor ``[B]``
        The hydrograph's shape (1) and scale (steps), as published: before ``max(a, 0) + 0.1``, ``max(b, 0) + 0.5``.
    memory : Tensor ``[14, B]``, optional
        The runoff of the 14 steps before the first, oldest first; zero if left out.
    return_memory : bool
        Also return the memory after the last step, from which the next window continues: a run cut into windows
        gives the same bits as the whole.
    backend : {"auto", "cpu", "triton", "cuda", "reference"}
        As for `simulate`.

    Returns
    -------
    Tensor ``[T, B]``, or that and the memory ``[14, B]``
        Differentiable in q, a, b and the memory.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or, on the CPU and outside of `torch.compile` and `torch.func`, a value is not
        finite; elsewhere that makes NaN of the series it is in.
    """
    check_series(q)
    n_basins = q.shape[1]
    expected: Shapes = {"a": (a, (n_basins,)), "b": (b, (n_basins,))}
    if memory is not None:
        expected["memory"] = (memory, (LENGTH - 1, n_basins))
    check_beside(q, expected)
    return convolved(q, ordinates(GAMMA, dict(a=a, b=b)), memory, return_memory, backend)
