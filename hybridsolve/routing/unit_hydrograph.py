"""The gamma unit hydrograph: runoff of a catchment, delayed and spread on its way to the gauge.

Sources: Nash (1957) for the gamma form; Feng et al. (2022, doi 10.1029/2022WR032404) for 15 ordinates and the bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..solve import backends, ops
from ..solve.problem import dense

LENGTH = 15  # ordinates


def reference_unit_hydrograph(q: Tensor, a: Tensor, b: Tensor, memory: Tensor | None = None) -> Tensor:
    """The oracle: what `unit_hydrograph` computes, in plain torch (equations in csrc/routing/unit_hydrograph.h)."""
    zero = torch.zeros_like(a)
    shape = torch.where(a < 0, zero, a) + 0.1
    scale = torch.where(b < 0, zero, b) + 0.5
    t = torch.arange(LENGTH, dtype=a.dtype, device=a.device)[:, None] + 0.5
    ordinates = torch.softmax((shape - 1) * t.log() - t / scale, dim=0)
    inflow = torch.cat([q.new_zeros(LENGTH - 1, q.shape[1]) if memory is None else memory, q])
    return sum(ordinates[k] * inflow[LENGTH - 1 - k : len(inflow) - k] for k in range(LENGTH))


def _refuse_gaps(x: Tensor, name: str) -> None:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return
    x = x.detach()
    # A sum of finite values may overflow, a finite sum has no other.
    if not bool(x.sum().isfinite()) and not bool((finite := x.isfinite()).all()):
        at = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite; found {float(x[tuple(at)]):g} at {at}: fill or correct it.")


def unit_hydrograph(
    q: Tensor, a: Tensor, b: Tensor, memory: Tensor | None = None, return_memory: bool = False, backend: str = "auto"
):
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
    dense(q, "q")
    if q.dim() != 2 or q.shape[0] == 0 or q.shape[1] == 0:
        raise ValueError(
            f"q must be [T, B] with at least one step and one basin; found {list(q.shape)}: reshape it, time first."
        )
    n_basins = q.shape[1]
    expected = {"a": (a, (n_basins,)), "b": (b, (n_basins,))}
    if memory is not None:
        expected["memory"] = (memory, (LENGTH - 1, n_basins))
    for name, (x, shape) in expected.items():
        dense(x, name)
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} for q {list(q.shape)}; found {list(x.shape)}: reshape it.")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} must be {q.dtype} on {q.device} as q is; found {x.dtype} on {x.device}: convert it with .to()."
            )
    if q.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"q must be float32 or float64; found {q.dtype}: convert it with .to().")
    for name, x in {"q": q, **{name: x for name, (x, _) in expected.items()}}.items():
        _refuse_gaps(x, name)
    if memory is None:
        memory = q.new_zeros(LENGTH - 1, n_basins)
    backend = backends.choose(backend, q.device)
    if backend == "reference":
        routed = reference_unit_hydrograph(q, a, b, memory)
    else:
        (routed,) = ops.unit_hydrograph(backend, [q, a, b, memory], list(q.shape))
    if not return_memory:
        return routed
    return routed, torch.cat([memory, q[-(LENGTH - 1) :]])[-(LENGTH - 1) :]
