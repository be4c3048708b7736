"""Derivatives carried forward: the Jacobian of routed streamflow, and the normal equations of a calibration.

A catchment has some sixteen parameters, and all its derivatives in one pass forward cost about as much as that many
runs. The kernel is csrc/core/least_squares.h: the model's own step on dual numbers (csrc/core/dual.h), so that the
physics stands once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import models
from ..arguments import finite
from ..compiler.tracing import networks_of
from ..spec import DAY, ModelSpec
from . import backends, check, layout
from .check import dense, mapping
from .faults import refuse_values_outside
from .ordinates import ordinates_and_derivatives
from .problem import Problem

MOST_PARAMETERS = 48  # as in csrc/core/run.h
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
        The parameters along which derivatives were taken.
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
    names: Sequence[str] | None = None,
    transform: str = "identity",
    shift: Tensor | None = None,
    exponent: float = 0.25,
    inputs: Mapping[str, Tensor] | None = None,
    networks: Mapping[str, Tensor] | None = None,
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
        In their units, per day; the unit hydrograph's among them.
    target : Tensor ``[T, B]``
        The observations, transformed as the flow is; any number where `weight` is 0.
    weight : Tensor ``[T, B]``
        Of the residuals (their square counts in the cost); 0 where there is no observation.
    names : sequence of str, optional
        The parameters along which derivatives are taken, which is most of the work; all, the unit hydrograph's last, if
        left out.
    transform : {"identity", "root", "logarithm", "box_cox"}
        g(y): y, sqrt(y + shift), ln(y + shift), ((y + shift)^exponent - 1) / exponent.
    shift : Tensor ``[B]``, optional
        mm/d; 0 if left out.
    inputs, networks, step, initial_state
        As for `simulate`; no derivatives are taken along the weights of networks.
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
    given = (inputs, networks, step, initial_state, backend)
    run, every, factors = _prepare(model, forcing, parameters, *given)
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transform '{transform}'; expected one of {', '.join(TRANSFORMS)}: correct it.")
    if finite("exponent", exponent, -math.inf) == 0:
        raise ValueError("exponent must not be 0, where box_cox divides by it; found 0: take transform 'logarithm'.")
    names, carried, along = _directions(run, every, names)
    observed = _observed(run, target, weight, shift)
    _refuse_no_numbers(observed)
    w, dw = _ordinates(run, parameters, carried)
    _, n_basins, n_components = run.sizes
    n = len(carried)
    out = run.state.new_empty(n * (n + 1) // 2 + n + 1, n_basins, n_components)
    backends.least_squares(run, along, w, dw, observed, out, transform=TRANSFORMS.index(transform), exponent=exponent)
    rows, columns = torch.triu_indices(n, n)
    matrix = out.new_empty(n_basins, n_components, n, n)
    upper, gradient = out[: len(rows)].permute(1, 2, 0), out[len(rows) : -1].permute(1, 2, 0)
    matrix[..., rows, columns] = matrix[..., columns, rows] = upper
    if carried != names:
        at = [carried.index(name) for name in names]
        matrix, gradient = matrix[..., at, :][..., at], gradient[..., at]
    if factors is not None:
        factors = torch.stack([factors[name].expand(n_basins, n_components) for name in names], -1)
        matrix, gradient = matrix * factors[..., None] * factors[..., None, :], gradient * factors
    return NormalEquations(matrix, gradient, out[-1], names)


def jacobian(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    names: Sequence[str] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    networks: Mapping[str, Tensor] | None = None,
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
    run, every, factors = _prepare(model, forcing, parameters, inputs, networks, step, initial_state, backend)
    names, carried, along = _directions(run, every, names)
    w, dw = _ordinates(run, parameters, carried)
    n_steps, n_basins, n_components = run.sizes
    like, n = run.state, len(carried)
    none = like.new_zeros(n_steps, 1)
    normal = like.new_empty(n * (n + 1) // 2 + n + 1, n_basins, n_components)
    flow = layout.empty_series(run.backend, like, 1, run.sizes)[0]
    found = layout.empty_series(run.backend, like, n, run.sizes)
    observed = _observed(run, none, none, None)
    backends.least_squares(run, along, w, dw, observed, normal, flow, found, transform=0, exponent=1.0)
    columns = dict(zip(carried, found.unbind(0), strict=True))
    if factors is not None:
        columns = {name: x * factors[name] for name, x in columns.items()}
    return flow, {name: columns[name] for name in names}


def _prepare(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor] | None,
    networks: Mapping[str, Tensor] | None,
    step: int,
    initial_state: Mapping[str, Tensor] | None,
    backend: str,
) -> tuple[Problem, tuple[str, ...], dict[str, Tensor] | None]:
    """The run, and the names of all parameters.

    Last, where the step is no day, the derivatives of the parameters of a step with respect to those of the table.
    """
    model = models.get(model)
    forcing = mapping(forcing, "forcing")
    if backend in ("triton", "reference"):
        raise ValueError(f"backend '{backend}' has no kernels of derivatives carried forward; expected cpu or cuda.")
    if backend == "auto" and any(x.device.type == "cuda" for x in forcing.values() if isinstance(x, Tensor)):
        backend = "cuda"  # the one that has these kernels
    given = mapping(parameters, "parameters")
    physics = {name: x for name, x in given.items() if name not in model.routing_parameter_names}
    for name, p in physics.items():
        if isinstance(p, Tensor) and p.dim() == 3:
            raise ValueError(f"parameter '{name}' must be static, [B, C]; found {list(p.shape)}: use the adjoint.")
    run = check.problem(
        model, forcing, physics, inputs, step, initial_state, None, "each", None, None, False, backend, networks
    )  # fmt: skip
    run = run.with_(state=run.state.contiguous(), interval=0, group=run.sizes[2])
    names = (*(v.name for v in run.rows), *model.routing_parameter_names)
    factors = None
    if step != DAY:
        one = run.state.new_ones(1, 1)
        table = [physics.get(v.name, one * (v.default or 0.0)) for v in run.rows]
        factors = dict.fromkeys(names, one)
        for v, x in zip(run.rows, table, strict=True):
            factors[v.name] = _along_itself(partial(v.at_step, seconds=step), x)
    return run, names, factors


def _directions(
    run: Problem, every: tuple[str, ...], names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...], list[bool]]:
    """The parameters that are asked for, those along which the kernel goes, and of each of the model's if it does."""
    names = every if names is None else (names,) if isinstance(names, str) else names
    if not isinstance(names, Sequence) or not names or len(set(names)) < len(names):
        raise ValueError(f"names must be parameters' names, one or more, each once; found {names!r}: pass a tuple.")
    inside = {network.name: network for network in networks_of(run.spec.key, run.optional)}
    for name in names:
        if name in inside and name not in every:
            raise ValueError(
                f"derivatives are carried forward along at most {MOST_PARAMETERS} parameters; found the network "
                f"'{name}' of {inside[name].weights} weights in names: learn it with hybridsolve.train, by the adjoint."
            )
        if name not in every:
            raise ValueError(
                f"names has '{name}', which is no parameter of this run; expected any of {', '.join(every)}: "
                "correct it."
            )
    carried = tuple(name for name in every if name in names) if run.backend == "cpu" else every
    return tuple(names), carried, [v.name in carried for v in run.rows]


def _along_itself(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of a function that takes every value for itself."""
    derivative: Tensor = torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]
    return derivative


def _ordinates(run: Problem, given: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """The ordinates ``[L, B, C]`` of the model's hydrograph, 1 without, and their derivatives along `names`."""
    routing, like = run.spec.routing, run.state
    if routing is None:
        return like.new_ones(1, 1, 1), []
    values, cells = {}, tuple(run.sizes[1:])
    for v in routing.parameters:
        if v.name in given:
            x = dense(given[v.name], f"parameter '{v.name}'")
        elif v.default is not None:
            x = like.new_full((1, 1), v.default)
        else:
            raise ValueError(
                f"parameters lacks '{v.name}' of the unit hydrograph; expected it beside the others: add it."
            )
        _refuse_unfit(f"parameter '{v.name}'", x, cells, like)
        refuse_values_outside(f"parameter '{v.name}'", x, v)
        values[v.name] = x
    shape = torch.broadcast_shapes(*(x.shape for x in values.values()))
    columns = {name: x.expand(shape).flatten() for name, x in values.items()}

    w, along = ordinates_and_derivatives(routing, columns, run.step)
    return w.view(-1, *shape), [d.view(-1, *shape) for name, d in zip(values, along, strict=True) if name in names]


def _observed(run: Problem, target: Tensor, weight: Tensor, shift: Tensor | None) -> dict[str, tuple[Tensor, str]]:
    """What a run is compared with, each with its axes."""
    n_steps, n_basins, _ = run.sizes
    shift = run.state.new_zeros(1) if shift is None else shift
    given = {
        "target": (target, "tb", (n_steps, n_basins)),
        "weight": (weight, "tb", (n_steps, n_basins)),
        "shift": (shift, "b", (n_basins,)),
    }
    for name, (x, _, shape) in given.items():
        _refuse_unfit(name, x, shape, run.state)
    return {name: (x, axes) for name, (x, axes, _) in given.items()}


def _refuse_no_numbers(observed: Mapping[str, tuple[Tensor, str]]) -> None:
    """Raise if a weight or shift is no number from 0 on, or a target no number where it counts; a GPU is not asked."""
    target, weight, shift = (observed[name][0] for name in ("target", "weight", "shift"))
    if weight.device.type != "cpu":
        return
    wrong = {name: ~((x >= 0) & x.isfinite()) for name, x in (("weight", weight), ("shift", shift))}
    for name, bad in (wrong | {"target": (weight != 0) & ~target.isfinite()}).items():
        if bad.any():
            place = bad.nonzero()[0].tolist()
            value = observed[name][0].expand(bad.shape)[tuple(place)]
            least = "finite" if name == "target" else "finite and 0 or more"
            remedy = "give that step the weight 0" if name == "target" else "correct it"
            raise ValueError(f"{name} must be {least}; found {value:g} at {place}: {remedy}.")


def _refuse_unfit(name: str, x: Tensor, shape: Sequence[int], like: Tensor) -> None:
    dense(x, name)
    fits = x.dim() == len(shape) and all(a in (1, b) for a, b in zip(x.shape, shape, strict=True))
    if not fits or x.dtype != like.dtype or x.device != like.device:
        raise ValueError(
            f"{name} must be {list(shape)} (or 1 on an axis), {like.dtype} on {like.device} as the forcing is; found "
            f"{list(x.shape)}, {x.dtype} on {x.device}: convert it."
        )
