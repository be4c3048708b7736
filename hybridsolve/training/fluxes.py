"""What networks inside a model's step have learned: the fluxes that they make of what they see, and by formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import models
from ..data.steps import step_seconds
from ..data.units import unit_at
from ..models.primitives import noted_inputs
from ..nn import DifferentiableModel
from ..solve.simulate import simulate
from .trained import Trained, chunks, evaluating, single_precision

SAMPLES = 40  # steps of each basin


def learned_fluxes(trained: Trained, data: xr.Dataset, period: Any) -> xr.Dataset:
    """What the networks inside the step see and what they make of it, in steps drawn from a period ``[basin, sample]``.

    Of the networks that the config's `inside` names, each in one component of each basin. The model of `formulas` is
    run in the same steps, from the same stores and with the same parameters; those that the trained model lacks are
    drawn from their bounds.

    Returns
    -------
    xarray.Dataset
        ``sampled``, the steps; ``seen_<network>_<n>``, labelled by their `long_name`; ``learned_<network>_<flux>`` and
        ``formula_<network>_<flux>``. Empty where the config has no `inside`.
    """
    out = xr.Dataset(coords={"basin": data["basin"]})
    if trained.config.inside is None:
        return out
    data, step = data.drop_vars("gauge", errors="ignore"), step_seconds(data)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad(), single_precision(), evaluating(trained.module):
        parts = [_of_chunk(trained, draw, **arguments) for arguments in chunks(trained, data, period)]
    for name, (_, about) in parts[0].items():
        values = np.concatenate([part[name][0].cpu().numpy().reshape(-1, SAMPLES) for part in parts])
        out[name] = (("basin", "sample"), values, about | {"units": unit_at(about["units"], step)})
    return out


def _of_chunk(
    trained: Trained, draw: torch.Generator, *, forcing, attributes, weather, inputs, step, warmup
) -> dict[str, tuple[Tensor, dict[str, str]]]:
    """Values ``[B * SAMPLES]`` by name, and what is said of them."""
    inside = trained.config.inside
    assert isinstance(trained.module, DifferentiableModel) and inside is not None
    module, model, n = trained.module, trained.module.model, len(attributes)
    raw, weights = module.raw_parameters(attributes, weather), module.weights()
    basin = torch.arange(n)
    raw = {
        name: x[..., basin % x.shape[-2], basin % x.shape[-1], None]  # a component each
        for name, x in raw.items()
        if name not in model.routing_parameter_names
    }
    run = simulate(
        model, forcing, raw, inputs=inputs, networks=weights, step=step, raw=True, fluxes=model.state_names,
        backend=module.backend,
    )  # fmt: skip
    n_steps = len(run.fluxes[model.state_names[0]])
    row = torch.randint(max(warmup, 1), n_steps, (n, SAMPLES), generator=draw)

    def drawn(x: Tensor, rows: Tensor = row) -> Tensor:
        """Of ``[T, B]`` or ``[T, B, 1]`` the steps drawn, each as a basin of its own."""
        return x[rows.clamp(max=len(x) - 1), basin[:, None] % x.shape[1]].reshape(-1, 1)

    state = {name: drawn(x, row - 1) for name, x in run.fluxes.items()}
    raw = {name: drawn(x if x.dim() == 3 else x[None]) for name, x in raw.items()}
    parameters = model.parameters_from_unit({name: torch.sigmoid(x) for name, x in raw.items()})
    lines = {line.name: attributes.new_zeros(line.slots - 1, n * SAMPLES, 1) for line in model.lines}
    given: dict[str, Any] = dict(
        inputs={name: drawn(x[None])[:, 0] for name, x in inputs.items()}, step=step, backend="reference"
    )
    weather_then = {name: drawn(x).T for name, x in forcing.items()}
    wanted = list(dict.fromkeys(flux for named in inside.fluxes.values() for flux in named))
    with noted_inputs() as seen:
        learned = simulate(
            model, weather_then, parameters, networks=weights, initial_state=state | lines, fluxes=wanted, **given
        ).fluxes
    formula = _by_formulas(trained, draw, weather_then, parameters, state, wanted, given)
    found = {"sampled": (row - warmup, dict(units="1", long_name="step of the period"))}
    for network, named in inside.fluxes.items():
        for i, (label, x) in enumerate(seen[network].items()):
            found[f"seen_{network}_{i}"] = (x, dict(units="1", long_name=label))
        for flux in named:
            v = model.variable(flux)
            about = dict(units=v.unit, long_name=v.meaning, network=network)
            for kind, series in (("learned", learned), ("formula", formula)):
                if flux in series:
                    found[f"{kind}_{network}_{flux}"] = (series[flux], about)
    return found


def _by_formulas(
    trained: Trained,
    draw: torch.Generator,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    fluxes: list[str],
    given: Mapping[str, Any],
) -> Mapping[str, Tensor]:
    """The fluxes of the model that has formulas; none where the config names no such."""
    if trained.config.inside is None or trained.config.inside.formulas is None:
        return {}
    model = models.get(trained.config.inside.formulas)
    like = next(iter(state.values()))
    lacking = [v.name for v in model.parameters if v.free and v.name not in parameters]
    unit = {name: torch.rand(like.shape, generator=draw).to(like) for name in lacking}
    known = {v.name: parameters[v.name] for v in model.parameters if v.name in parameters}
    return simulate(
        model,
        {name: forcing[name] for name in model.forcing_names},
        known | model.parameters_from_unit(unit),
        initial_state={name: state[name] for name in model.state_names},
        fluxes=fluxes,
        **{**given, "inputs": {name: given["inputs"][name] for name in model.input_names}},
    ).fluxes
