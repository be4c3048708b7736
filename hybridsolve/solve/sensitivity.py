"""Derivatives carried forward: the Jacobian of routed streamflow, and the normal equations of a calibration.

A catchment has some sixteen parameters, and all its derivatives in one pass forward cost about as much as that many
runs. The kernel is csrc/core/least_squares.h: the model's own step on dual numbers (csrc/core/dual.h), so that the
physics stands once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import models
from ..spec import DAY, ModelSpec
from . import backends, check
from .problem import dense, mapping

TRANSFORMS = ("identity", "root", "logarithm", "box_cox")  # in the order of csrc/core/least_squares.h


@dataclass(frozen=True)
class NormalEquations:
    """Of r = w (g(y) - z) and J = dr/dtheta, summed over time.

    Attributes
    ----------
    matrix : Tensor ``[B, C, N, N]``
        J'J, parameters in the order of `names`.
    gradient : Tensor ``[B, C, N]``
        J'r, half the gradient of the cost.
    cost : Tensor ``[B, C]``
        r'r.
    names : tuple of str
        The model's parameters, and the unit hydrograph's two.
    """

    matrix: Tensor
    gradient: Tensor
    cost: Tensor
    names: tuple[str, ...]


def normal_equations(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    target: Tensor,
    weight: Tensor,
    *,
    transform: str = "identity",
    shift: Tensor | None = None,
    exponent: float = 0.25,
    inputs: Mapping[str, Tensor] | None = None,
    step: int = DAY,
    initial_state: Mapping[str, Tensor] | None = None,
    backend: str = "auto",
) -> NormalEquations:
    """Gauss-Newton's normal equations of routed streamflow against observations, for every basin and start.

    Parameters
    ----------
    model : ModelSpec or str
    forcing : mapping of str to Tensor ``[T, B]``
    parameters : mapping of str to Tensor ``[B, C]``
        In their units; the unit hydrograph's `route_a` and `route_b` among them.
    target : Tensor ``[T, B]``
        The observations, transformed as the flow is; any number where `weight` is 0.
    weight : Tensor ``[T, B]``
        Of the residuals (their square counts in the cost); 0 where there is no observation.
    transform : {"identity", "root", "logarithm", "box_cox"}
        g(y): y, sqrt(y + shift), ln(y + shift), ((y + shift)^exponent - 1) / exponent.
    shift : Tensor ``[B]``, optional
        mm/d; 0 if left out.
    inputs, step, initial_state
        As for `simulate`.
    backend : {"auto", "cpu", "cuda"}
        "auto": "cpu" for CPU tensors, "cuda" for CUDA tensors.

    Raises
    ------
    ValueError
        If a name, shape, dtype or value does not fit.
    RuntimeError
        If the backend is not built.

    Notes
    -----
    On a GPU nobody waits for the run to end, as with `simulate`: a value out of bounds is raised by the next call or by
    `synchronize`, and until then the numbers of its cell are NaN.
    """
    given = (inputs, step, initial_state, target, weight, shift, backend)
    run, views, names = _prepare(model, forcing, parameters, *given)
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transform '{transform}'; expected one of {', '.join(TRANSFORMS)}.")
    _, n_basins, n_components = run.sizes
    n = len(names)
    out = run.state.new_empty(n * (n + 1) // 2 + n + 1, n_basins, n_components)
    backends.least_squares(run, views, TRANSFORMS.index(transform), exponent, out)
    rows, columns = torch.triu_indices(n, n)
    matrix = out.new_empty(n_basins, n_components, n, n)
    upper = out[: len(rows)].permute(1, 2, 0)
    matrix[..., rows, columns] = matrix[..., columns, rows] = upper
    return NormalEquations(matrix, out[len(rows) : -1].permute(1, 2, 0), out[-1], names)


def jacobian(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    names: Sequence[str] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    step: int = DAY,
    initial_state: Mapping[str, Tensor] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Routed streamflow ``[T, B, C]`` and its derivative with respect to every parameter ``[T, B, C]``, by name.

    Other arguments as for `normal_equations`, which takes far less memory where only the sums over time are wanted.
    Along other directions (forcing, initial state, per-step parameters) go `torch.func.jvp` and `jacfwd`.

    Parameters
    ----------
    names : sequence of str, optional
        The parameters whose derivatives are given; all if left out.

    Raises
    ------
    ValueError
        If a name, shape, dtype or value does not fit.
    """
    n_steps = max(len(dense(x, "forcing")) for x in forcing.values())
    like = next(iter(forcing.values()))
    none = like.new_zeros(n_steps, 1)
    given = (inputs, step, initial_state, none, none, None, backend)
    run, views, every = _prepare(model, forcing, parameters, *given)
    for name in names or ():
        if name not in every:
            raise ValueError(
                f"names has '{name}', which is no parameter of this run; expected any of {', '.join(every)}."
            )
    _, n_basins, n_components = run.sizes
    n = len(every)
    normal = like.new_empty(n * (n + 1) // 2 + n + 1, n_basins, n_components)
    flow = backends.empty_series(run.backend, like, 1, run.sizes)[0]
    found = backends.empty_series(run.backend, like, n, run.sizes)
    backends.least_squares(run, views, 0, 1.0, normal, flow, found)
    columns = dict(zip(every, found.unbind(0), strict=True))
    return flow, {name: columns[name] for name in names or every}


def _prepare(model, forcing, parameters, inputs, step, initial_state, target, weight, shift, backend):
    """The run, what is compared with it, each with its axes, and the names of all parameters."""
    model = models.get(model)
    forcing = mapping(forcing, "forcing")
    if backend in ("triton", "reference"):
        raise ValueError(f"backend '{backend}' has no kernels of derivatives carried forward; expected cpu or cuda.")
    if backend == "auto" and any(x.device.type == "cuda" for x in forcing.values() if isinstance(x, Tensor)):
        backend = "cuda"  # the one that has these kernels
    physics = mapping(parameters, "parameters")
    routing = {}
    for name in model.routing_parameter_names:
        if name not in physics:
            raise ValueError(
                f"parameters lacks '{name}' of the unit hydrograph; expected it beside the others: add it."
            )
        routing[name] = dense(physics.pop(name), f"parameter '{name}'")
    run = check.problem(
        model, forcing, physics, inputs, step, initial_state, None, "each", None, None, False, backend
    )  # fmt: skip
    like = run.state
    for v, p in zip(run.rows, run.parameters, strict=True):
        if p.dim() != 2:
            raise ValueError(f"parameter '{v.name}' must be static, [B, C]; found {list(p.shape)}: use the adjoint.")
    n_steps, n_basins, n_components = run.sizes
    shift = like.new_zeros(1) if shift is None else shift
    given = {
        **{f"parameter '{name}'": (p, "bc", (n_basins, n_components)) for name, p in routing.items()},
        "target": (target, "tb", (n_steps, n_basins)),
        "weight": (weight, "tb", (n_steps, n_basins)),
        "shift": (shift, "b", (n_basins,)),
    }
    for name, (tensor, _, shape) in given.items():
        fits = tensor.dim() == len(shape) and all(a in (1, b) for a, b in zip(tensor.shape, shape, strict=True))
        if not fits or tensor.dtype != like.dtype or tensor.device != like.device:
            raise ValueError(
                f"{name} must be {list(shape)} (or 1 on an axis), {like.dtype} on {like.device} as the forcing is; "
                f"found {list(tensor.shape)}, {tensor.dtype} on {tensor.device}: convert it."
            )
    names = (*(v.name for v in run.rows), *model.routing_parameter_names)
    run = run.with_(state=like.contiguous(), interval=0, group=n_components)
    return run, [(tensor, axes) for tensor, axes, _ in given.values()], names
