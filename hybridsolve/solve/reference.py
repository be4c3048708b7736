"""The oracle: a plain loop over a model's reference_step, which judges every kernel in float64.

Slow on purpose: nothing here but the equations and torch's own automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec import DAY, ModelSpec
from .problem import Problem, is_per_step


def run(problem: Problem) -> tuple[Tensor, Tensor]:
    """What `ops.run` computes, in plain torch: the series ``[n_outputs, T, B]`` or ``[n_outputs, T, B, C]``, the state.

    Raises
    ------
    ValueError
        If the model's step returns other names than its table has.
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
    steps = []
    for t in range(n_steps):
        f = {name: x[t, :, None] for name, x in forcing.items()}
        if t == 0 or not static:
            p = {name: x if x.dim() == 2 else x[min(t, x.shape[0] - 1)] for name, x in parameters.items()}
            p |= model.prepare(k, p) if model.prepare else {}
            ordinates = {line.name: _stacked(line.ordinates(k, p)) for line in model.lines}
            p |= {name: w[0] for name, w in ordinates.items()}
        lines = {name: state[name] for name in ordinates}
        new, fluxes = model.reference_step(f, k, p, state | {name: content[0] for name, content in lines.items()})
        if t == 0:
            _check_names(model, "state", new, (*model.state_names, *model.line_names))
            _check_names(model, "flux", fluxes, model.flux_names)
        new = {name: x.expand(*cells) for name, x in new.items()}
        for name, w in ordinates.items():
            moved = torch.cat([lines[name][1:], torch.zeros_like(lines[name][:1])])
            new[name] = moved + w[1:] * new[name]
        state = {name: new[name] for name in (*model.state_names, *model.line_names)}
        steps.append(torch.stack([(fluxes | state)[name].expand(*cells) for name in problem.outputs]))
    series = torch.stack(steps, dim=1)
    if not problem.each:
        weights = problem.weights
        if weights is None:
            weights = torch.full((1, 1), 1.0 / cells[1], dtype=series.dtype, device=series.device)
        series = (series * weights).sum(-1)
    final = torch.stack([state[name] for name in model.state_names])
    return series, torch.cat([final, *(state[name] for name in model.line_names)])


def _stacked(ordinates: Tensor | Sequence[Tensor | float]) -> Tensor:
    """The ordinates of a delay line ``[n, B, C]``, where the model gives them as a list."""
    if isinstance(ordinates, Tensor):
        return ordinates
    like = next(w for w in ordinates if isinstance(w, Tensor))
    return torch.stack(torch.broadcast_tensors(*(torch.as_tensor(w).to(like) for w in ordinates)))


def _check_names(model: ModelSpec, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    if set(found) != set(expected):
        raise ValueError(
            f"the step of model {model.name} must return each {what} of its table, {', '.join(expected)}; found "
            f"{', '.join(found)}: make them agree."
        )
