"""Normal equations and Jacobian of models without kernels: torch's forward mode through the reference.

`hybridsolve.solve.sensitivity` has both for compiled models, in one pass forward along all parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..routing.gauge import simulate_to_gauge
from ..solve.sensitivity import NormalEquations
from ..spec import ModelSpec

# The transforms g(y) of normal equations, y the flow and its shift, and the exponent of the last.
TRANSFORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda y, _: y,
    "root": lambda y, _: y.sqrt(),
    "logarithm": lambda y, _: y.log(),
    "box_cox": lambda y, exponent: (y**exponent - 1) / exponent,
}


def jacobian(
    model: ModelSpec,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    names: Sequence[str],
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `hybridsolve.jacobian`, with a copy of the components for each of the parameters."""
    shape = torch.broadcast_shapes(*(x.shape for x in parameters.values()))
    n = shape[1]
    values = {name: x.expand(shape).repeat(1, len(names)) for name, x in parameters.items()}
    tangents = {name: torch.zeros_like(x) for name, x in values.items()}
    for i, name in enumerate(names):
        tangents[name][:, i * n : (i + 1) * n] = 1
    with torch.no_grad(), forward_ad.dual_level():  # torch.func.jvp takes twice as long
        duals = {name: forward_ad.make_dual(x, tangents[name]) for name, x in values.items()}
        run = simulate_to_gauge(model, forcing, duals, components="each", **options)
        q, columns = forward_ad.unpack_dual(run.fluxes[model.outflow])
    return q[:, :, :n], dict(zip(names, columns.split(n, dim=2), strict=True))


def normal_equations(
    model: ModelSpec,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    target: Tensor,
    weight: Tensor,
    *,
    names: Sequence[str],
    transform: str = "identity",
    shift: Tensor | None = None,
    exponent: float = 0.25,
    **options: Any,
) -> NormalEquations:
    """As `hybridsolve.solve.sensitivity.normal_equations`, along the parameters of `names`."""
    q, columns = jacobian(model, forcing, parameters, names, **options)
    return of_jacobian(q, columns, target, weight, names=names, transform=transform, shift=shift, exponent=exponent)


def of_jacobian(
    q: Tensor,
    columns: Mapping[str, Tensor],
    target: Tensor,
    weight: Tensor,
    *,
    names: Sequence[str],
    transform: str = "identity",
    shift: Tensor | None = None,
    exponent: float = 0.25,
) -> NormalEquations:
    """The normal equations of flow ``[T, B, S]`` whose derivatives are known."""
    shifted = q if shift is None else q + shift[:, None]
    seen = (weight != 0)[..., None]
    shifted = torch.where(seen, shifted, 1.0)  # a step without observation has no part, whatever its flow
    g, slope = torch.func.jvp(lambda y: TRANSFORMS[transform](y, exponent), (shifted,), (torch.ones_like(shifted),))[:2]
    r = weight[..., None] * torch.where(seen, g - target[..., None], 0.0)
    j = torch.stack([columns[name] for name in names]) * torch.where(seen, slope, 0.0) * weight[..., None]
    matrix = torch.einsum("ptbs,qtbs->bspq", j, j)
    return NormalEquations(matrix, torch.einsum("ptbs,tbs->bsp", j, r), r.square().sum(0), tuple(names))
