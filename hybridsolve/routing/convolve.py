"""convolve(): runoff of a catchment, delayed and spread on its way to the gauge by a unit hydrograph's ordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from ..solve import backends, ops
from ..solve.check import dense
from ..solve.faults import tolerant

Shapes = dict[str, tuple[Tensor, tuple[int, ...]]]  # of what stands beside the series


def reference_convolve(q: Tensor, ordinates: Tensor, memory: Tensor) -> Tensor:
    """The oracle: what `convolve` computes, in plain torch (equations in csrc/routing/convolve.h)."""
    length, inflow = len(ordinates), torch.cat([memory, q])
    return sum((ordinates[k] * inflow[length - 1 - k : len(inflow) - k] for k in range(length)), torch.zeros_like(q))


def convolve(
    q: Tensor, ordinates: Tensor, memory: Tensor | None = None, return_memory: bool = False, backend: str = "auto"
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve series with the ordinates of their unit hydrographs.

    Parameters
    ----------
    q : Tensor ``[T, N]``
        Runoff in any unit; the result has the same.
    ordinates : Tensor ``[L, N]``
        The k-th is the share that arrives k steps later; of `hybridsolve.solve.ordinates`, or any other.
    memory : Tensor ``[L - 1, N]``, optional
        The runoff of the steps before the first, oldest first; zero if left out.
    return_memory : bool
        Also return the memory after the last step, from which the next window continues: a run cut into windows
        gives the same bits as the whole.
    backend : {"auto", "cpu", "triton", "cuda", "reference"}
        As for `hybridsolve.simulate`.

    Returns
    -------
    Tensor ``[T, N]``, or that and the memory ``[L - 1, N]``
        Differentiable in q, ordinates and memory.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or, on the CPU and outside of `torch.compile` and `torch.func`, a value is not
        finite; elsewhere that makes NaN of the series it is in.
    """
    check_series(q)
    if dense(ordinates, "ordinates").dim() != 2 or len(ordinates) == 0:
        raise ValueError(f"ordinates must be [L, N] with one at least; found {list(ordinates.shape)}: reshape them.")
    length, n_series = len(ordinates), q.shape[1]
    expected: Shapes = {"ordinates": (ordinates, (length, n_series))}
    if memory is not None:
        expected["memory"] = (memory, (length - 1, n_series))
    check_beside(q, expected)
    return convolved(q, ordinates, memory, return_memory, backend)


def convolved(
    q: Tensor, ordinates: Tensor, memory: Tensor | None, return_memory: bool, backend: str
) -> Tensor | tuple[Tensor, Tensor]:
    """`convolve` of what has been checked."""
    past = len(ordinates) - 1
    if memory is None:
        memory = q.new_zeros(past, q.shape[1])
    backend = backends.choose(backend, q.device)
    if backend == "reference":
        routed = reference_convolve(q, ordinates, memory)
    else:
        (routed,) = ops.convolve(backend, [q, ordinates, memory], [*q.shape, len(ordinates)])
    if not return_memory:
        return routed
    return routed, torch.cat([memory, q])[len(q) :] if len(q) < past else q[len(q) - past :]


def check_series(q: Tensor) -> None:
    """Raise unless q is a float tensor ``[T, N]``."""
    dense(q, "q")
    if q.dim() != 2 or q.shape[0] == 0 or q.shape[1] == 0:
        raise ValueError(
            f"q must be [T, B] with at least one step and one basin; found {list(q.shape)}: reshape it, time first."
        )
    if q.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"q must be float32 or float64; found {q.dtype}: convert it with .to().")


def check_beside(q: Tensor, expected: Shapes) -> None:
    """Raise unless tensors have the shapes beside them, the dtype and device of q, and finite values, as q has."""
    for name, (x, shape) in expected.items():
        dense(x, name)
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} for q {list(q.shape)}; found {list(x.shape)}: reshape it.")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} must be {q.dtype} on {q.device} as q is; found {x.dtype} on {x.device}: convert it with .to()."
            )
    for name, x in {"q": q, **{name: x for name, (x, _) in expected.items()}}.items():
        _refuse_gaps(x, name)


def _refuse_gaps(x: Tensor, name: str) -> None:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return
    if tolerant():
        return
    x = x.detach()
    # A sum of finite values may overflow, a finite sum has no other.
    if not bool(x.sum().isfinite()) and not bool((finite := x.isfinite()).all()):
        at = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite; found {float(x[tuple(at)]):g} at {at}: fill or correct it.")
