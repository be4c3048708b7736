"""The oracle: a plain loop over a model's reference_step, which judges every kernel in float64.

Slow on purpose: nothing here but the equations and torch's own automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..compiler.tracing import networks_of
from ..models.primitives import noted_passes, weights_of_networks
from ..spec import DAY, DelayLine, ModelSpec
from . import faults
from .layout import is_per_step
from .problem import Problem


def run(problem: Problem) -> tuple[Tensor, Tensor]:
    """What `ops.run` computes, in plain torch: the series ``[n_outputs, T, B]`` or ``[n_outputs, T, B, C]``, the state.

    Raises
    ------
    ValueError
        If a function of the model reads names that are not there, or returns other ones than its table has.
    """
    model, (n_steps, *cells) = problem.spec, problem.sizes
    forcing = {v.name: f.expand(n_steps, -1) for v, f in zip(model.forcings, problem.forcing, strict=True)}
    k: dict[str, Any] = {v.name: x[:, None] for v, x in zip(model.inputs, problem.inputs, strict=True)}
    k["dt"] = problem.step / DAY
    parameters = {v.name: p for v, p in zip(problem.rows, problem.parameters, strict=True)}
    if problem.raw:
        parameters = model.parameters_from_unit({name: torch.sigmoid(p) for name, p in parameters.items()})
    state = problem.named_state(problem.state)
    static = not any(map(is_per_step, parameters.values()))
    networks = {v.name: w for v, w in zip(networks_of(model.key, problem.optional), problem.networks, strict=True)}
    steps = []
    for t in range(n_steps):
        f = {name: x[t, :, None] for name, x in forcing.items()}
        # A graph of torch.compile cannot raise for what its numbers are: such a cell is NaN there.
        noting: AbstractContextManager[list] = nullcontext([]) if torch.compiler.is_compiling() else noted_passes()
        with noting as beyond, weights_of_networks(networks) if networks else nullcontext():
            if t == 0 or not static:
                p = {name: x if x.dim() == 2 else x[min(t, x.shape[0] - 1)] for name, x in parameters.items()}
                p.update(_prepared(model, k, p))
                ordinates = {line.name: _ordinates(model, line, k, p, problem.state) for line in model.lines}
                p |= {name: w[0] for name, w in ordinates.items()}
            lines = {name: state[name] for name in ordinates}
            before = state | {name: content[0] for name, content in lines.items()}
            found = model.called("the step", model.reference_step, f, k, p, before)
        if beyond and faults.counts(faults.PASSES):
            raise ValueError(faults.explain_passes(problem, *_first_beyond(beyond, t, cells)))
        new, fluxes = _checked(model, found, problem.state, cells) if t == 0 else found
        new = {name: x.expand(*cells) for name, x in new.items()}
        for name, w in ordinates.items():
            moved = torch.cat([lines[name][1:], torch.zeros_like(lines[name][:1])])
            new[name] = moved + w[1:] * new[name]
        state = {name: new[name] for name in (*model.state_names, *model.line_names)}
        series_of_step = {**fluxes, **state}
        steps.append(torch.stack([series_of_step[name].expand(*cells) for name in problem.outputs]))
    series = torch.stack(steps, dim=1)
    if not problem.each:
        weights = problem.weights
        if weights is None:
            weights = torch.full((1, 1), 1.0 / cells[1], dtype=series.dtype, device=series.device)
        series = (series * weights).sum(-1)
    final = torch.stack([state[name] for name in model.state_names])
    return series, torch.cat([final, *(state[name] for name in model.line_names)])


def _first_beyond(
    beyond: Sequence[tuple[Tensor, tuple, Tensor | None]], t: int, cells: Sequence[int]
) -> tuple[int, list, float | None]:
    """The first cell that is beyond the passes of a loop, or without a root, as step * B * C + cell; which loops and
    equations those are, and a residual of the latter."""
    where = torch.stack([mask.expand(*cells).flatten() for mask, *_ in beyond])
    cell = int(where.any(0).nonzero()[0])
    failed = [row for mask, row in zip(where, beyond, strict=True) if mask[cell]]
    residuals = [float(x.expand(*cells).flatten()[cell]) for *_, x in failed if x is not None]
    return t * where.shape[1] + cell, [loop for _, loop, _ in failed], min(residuals, default=None)


def _prepared(model: ModelSpec, k: Mapping, p: Mapping) -> Mapping:
    """What the model makes of inputs and parameters alone, under names of its own."""
    if model.prepare is None:
        return {}
    made = model.called("prepare", model.prepare, k, p)
    if not isinstance(made, Mapping):
        raise ValueError(
            f"prepare of model {model.name} must return a mapping of names; found {type(made).__name__}: return a dict."
        )
    if taken := [name for name in made if name in p or name in k]:
        raise ValueError(
            f"prepare of model {model.name} must return names of its own; found '{taken[0]}', which is in the table: "
            "rename it."
        )
    return made


def _ordinates(model: ModelSpec, line: DelayLine, k: Mapping, p: Mapping, like: Tensor) -> Tensor:
    """The ordinates of a delay line ``[n, B, C]``, which the model may give as a list."""
    what = f"the ordinates of delay line '{line.name}'"
    w = model.called(what, line.ordinates, k, p)
    if isinstance(w, Sequence) and w:
        w = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(x).to(like) for x in w)))
        w = w[:, None, None] if w.dim() == 1 else w  # numbers alone
    if not isinstance(w, Tensor) or w.dim() != 3 or len(w) != line.slots:
        found = f"shape {list(w.shape)}" if isinstance(w, Tensor) else type(w).__name__
        raise ValueError(
            f"{what} of model {model.name} must be [{line.slots}, B, C], or a list of {line.slots} values [B, C]; "
            f"found {found}: correct its slots or its function."
        )
    return w


def _checked(model: ModelSpec, found: Any, like: Tensor, cells: Sequence[int]) -> tuple[Mapping, Mapping]:
    """What a step has returned: state and fluxes of the table's names, each a tensor that fits the cells."""
    what = f"the step of model {model.name} must return"
    if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(x, Mapping) for x in found):
        kinds = ", ".join(type(x).__name__ for x in found) if isinstance(found, tuple) else type(found).__name__
        raise ValueError(f"{what} two mappings, state and fluxes; found {kinds}: return a dict of each.")
    for kind, made, expected in zip(
        ("state", "flux"), found, ((*model.state_names, *model.line_names), model.flux_names), strict=True
    ):
        if set(made) != set(expected):
            raise ValueError(
                f"{what} each {kind} of its table, {', '.join(expected)}; found {', '.join(map(str, made))}: make them "
                "agree."
            )
        for name, x in made.items():
            fits = isinstance(x, Tensor) and x.dtype == like.dtype and x.dim() <= 2
            if not fits or any(n not in (1, m) for n, m in zip(x.shape[::-1], cells[::-1], strict=False)):
                given = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else repr(x)
                raise ValueError(
                    f"{what} {kind} '{name}' as a tensor of {like.dtype} that broadcasts to [B, C], here "
                    f"{list(cells)}; found {given}: make it of the forcing, parameters or state."
                )
    new, fluxes = found
    return new, fluxes
