"""The loss of many parameter sets in many basins, as a sensitivity analysis or GLUE needs it, without their flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import models
from ..arguments import integer
from ..routing.gauge import simulate_to_gauge
from ..score import losses
from ..score.losses import UnusableObservations
from ..solve.check import dense, mapping
from ..spec import DAY, ModelSpec

MEMORY = 1.3e8  # bytes of flow that are there at a time; the rest of what a part takes is a few times that

LANES = 16  # basins that a kernel takes at a time, at most
TOGETHER = 16  # sets of a basin that a kernel on a CPU takes together


def loss_of_sets(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    obs: Tensor,
    *,
    loss: str = "nse",
    warmup: int = 0,
    inputs: Mapping[str, Tensor] | None = None,
    step: int = DAY,
    backend: str = "auto",
    memory: float = MEMORY,
) -> Tensor:
    """The loss of every parameter set in every basin: one minus its score.

    Some basins and sets run at a time, and their flow is scored at once and forgotten. Where parameters require a
    gradient, it is made in the same pass, so that `backward` costs nothing more.

    Parameters
    ----------
    model : ModelSpec or str
    forcing : mapping of str to Tensor ``[T, B]``
    parameters : mapping of str to Tensor ``[B, S]``
        S sets of each basin, in the parameters' units, those of the unit hydrograph among them; an axis of size 1 is
        shared.
    obs : Tensor ``[T, B]``
        Observed flow, mm per step; NaN where missing.
    loss : str
        A loss by series; see `hybridsolve.score.losses.get`.
    warmup : int
        Steps at the start that are not scored.
    inputs, step, backend
        As for `simulate`.
    memory : float
        Bytes of flow that are there at a time.

    Returns
    -------
    Tensor ``[B, S]``
        Differentiable with respect to the parameters, once.

    Raises
    ------
    ValueError
        If a name, shape, dtype or value does not fit, or a basin has no observations that can be scored.
    """
    model, kind = models.get(model), losses.get(loss)
    if not kind.per_series:
        known = ", ".join(losses.names(per_series=True))
        raise ValueError(f"loss must be one of a basin, {known} or a sum of these; found {loss!r}: take another.")
    forcing = {name: dense(x, f"forcing '{name}'") for name, x in mapping(forcing, "forcing").items()}
    values = {name: dense(x, f"parameter '{name}'") for name, x in mapping(parameters, "parameters").items()}
    for name, x in forcing.items():
        if x.requires_grad:
            raise ValueError(
                f"forcing '{name}' must not require a gradient, which would be as large as all flows: detach it, or "
                "take simulate and a loss."
            )
    dense(obs, "obs")
    n_steps, n_basins = obs.shape if obs.dim() == 2 else (0, 0)
    if not n_basins or integer("warmup", warmup, 0) >= n_steps:
        raise ValueError(
            f"obs must be [T, B] with more steps than the warm-up's {warmup}; found {list(obs.shape)}: correct it."
        )
    inputs = {name: dense(x, f"input '{name}'") for name, x in mapping(inputs or {}, "inputs").items()}
    n_sets = max((x.shape[-1] for x in values.values() if x.dim() == 2), default=1)
    for what, given, expected in (
        ("forcing", forcing, (n_steps, n_basins)),
        ("parameter", values, (n_basins, n_sets)),
        ("input", inputs, (n_basins,)),
    ):
        for name, x in given.items():
            if x.dim() != len(expected) or any(a not in (1, b) for a, b in zip(x.shape, expected, strict=True)):
                raise ValueError(
                    f"{what} '{name}' must be {list(expected)}, for {n_basins} basins as obs has, or 1 on an axis; "
                    f"found {list(x.shape)}: cut or reshape it."
                )
    obs = obs.clone()
    obs[:warmup] = torch.nan
    run = _Run(model, forcing, tuple(values), obs, kind, dict(inputs=inputs, step=step, backend=backend))
    shape = n_basins, n_sets
    whole = [x.expand(shape) for x in values.values()]
    found, gradients = run.losses(whole, torch.is_grad_enabled(), memory)
    if not gradients:
        return found
    out: Tensor = _WithGradients.apply(found, gradients, *(x for x in whole if x.requires_grad))
    return out


class _Run:
    """What is run, but for the parameters."""

    def __init__(
        self,
        model: ModelSpec,
        forcing: dict[str, Tensor],
        names: tuple[str, ...],
        obs: Tensor,
        kind: Any,
        options: dict[str, Any],
    ):
        self.model, self.forcing, self.names = model, forcing, names
        self.obs, self.kind, self.options = obs, kind, options

    def losses(self, values: list[Tensor], with_gradients: bool, memory: float) -> tuple[Tensor, list[Tensor]]:
        """The losses, and the gradients of those parameters that require one, part by part."""
        wanted = [with_gradients and x.requires_grad for x in values]
        out = values[0].new_empty(values[0].shape)
        gradients = [torch.empty_like(out) for w in wanted if w]
        basins, sets = self.parts(values[0].shape, memory)
        for b in basins:
            loss_of = self.of_basins(b)
            for s in sets:
                leaves = [x[b, s].detach().requires_grad_(w) for x, w in zip(values, wanted, strict=True)]
                with torch.set_grad_enabled(bool(gradients)):
                    loss = loss_of(leaves)
                out[b, s] = loss.detach()
                found = torch.autograd.grad(loss.sum(), [x for x in leaves if x.requires_grad]) if gradients else ()
                for to, gradient in zip(gradients, found, strict=True):
                    to[b, s] = gradient
        return out, gradients

    def parts(self, shape: Sequence[int], memory: float) -> tuple[list[slice], list[slice]]:
        """Slices of basins and of sets, so that the flow of one of each takes so much memory."""
        n_basins, n_sets = shape
        series = max(1, int(memory / (len(self.obs) * self.obs.element_size())))
        sets = min(-(-n_sets // -(-n_sets // TOGETHER)), series)
        basins = max(1, series // sets)
        basins -= basins % LANES if basins > LANES else 0
        return _slices(n_basins, basins), _slices(n_sets, sets)

    def of_basins(self, basins: slice) -> Callable[[list[Tensor]], Tensor]:
        """The loss of some basins as a function of the values of their parameters."""

        def cut(x: Tensor, axis: int) -> Tensor:
            part = x if x.shape[axis] == 1 else x.narrow(axis, basins.start, basins.stop - basins.start)
            return part.contiguous()  # rows of few basins, pages apart, would be read slowly once for every set

        forcing = {name: cut(x, 1) for name, x in self.forcing.items()}
        inputs = {name: cut(x, 0) for name, x in self.options["inputs"].items()}
        options = self.options | dict(inputs=inputs or None, components="each")
        try:
            loss = self.kind(self.obs[:, basins])
        except UnusableObservations as error:
            said = str(error) + (f" Basins are counted from {basins.start}." if basins.start else "")
            raise UnusableObservations(said, [b + basins.start for b in error.basins]) from None

        def of(values: list[Tensor]) -> Tensor:
            flow = simulate_to_gauge(self.model, forcing, dict(zip(self.names, values, strict=True)), **options)
            found: Tensor = loss(flow.fluxes[self.model.outflow])
            return found

        return of


def _slices(n: int, length: int) -> list[slice]:
    return [slice(i, min(i + length, n)) for i in range(0, n, length)]


class _WithGradients(torch.autograd.Function):
    """Losses whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *values: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(d_loss * gradient for gradient in ctx.saved_tensors)
