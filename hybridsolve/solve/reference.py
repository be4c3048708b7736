"""The oracle: a plain loop over a model's reference_step, which judges every kernel in float64.

Slow on purpose: nothing here but the equations and torch's own automatic differentiation.
"""

from __future__ import annotations

import torch

from ..spec import ModelSpec


def run(model: ModelSpec, forcing, parameters, state, weights, sizes, outputs, each):
    """What `ops.run` computes, in plain torch.

    Parameters
    ----------
    model : ModelSpec
    forcing : dict of str to Tensor ``[T, B]``
    parameters : dict of str to Tensor ``[B, C]`` or ``[T, B, C]``
    state : Tensor ``[S, B, C]``
    weights : Tensor ``[B, C]`` or None
    sizes : (T, B, C)
    outputs : sequence of str
        Fluxes, or states at the end of the step.
    each : bool
        Keep the components apart.

    Returns
    -------
    fluxes : Tensor ``[n_outputs, T, B]`` or ``[n_outputs, T, B, C]``
    final_state : Tensor ``[S, B, C]``
    """
    n_steps, n_basins, n_components = sizes
    forcing = {name: f.expand(n_steps, n_basins) for name, f in forcing.items()}
    s = dict(zip(model.state_names, state.unbind(0), strict=True))
    series = []
    for t in range(n_steps):
        f_t = {name: f[t, :, None] for name, f in forcing.items()}
        p_t = {name: p if p.dim() == 2 else p[min(t, p.shape[0] - 1)] for name, p in parameters.items()}
        s, q = model.reference_step(f_t, {"dt": 1.0}, p_t, s)
        s = {name: x.expand(n_basins, n_components) for name, x in s.items()}
        series.append(torch.stack([(q | s)[name].expand(n_basins, n_components) for name in outputs]))
    fluxes = torch.stack(series, dim=1)
    if not each:
        if weights is None:
            weights = torch.full((1, 1), 1.0 / n_components, dtype=fluxes.dtype, device=fluxes.device)
        fluxes = (fluxes * weights).sum(-1)
    return fluxes, torch.stack([s[name] for name in model.state_names])
