"""What a trained model says of the quantities that it was not trained on: signatures, and the water balance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import models
from ..data.steps import step_seconds
from ..data.units import unit_at
from ..nn.differentiable import of_steps
from ..score import metrics
from ..solve.simulate import simulate
from ..solve.trial import stored
from ..spec import ModelSpec
from .trained import Trained, chunks, evaluating, single_precision

BALANCE = "balance"
HOW = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}


def check_diagnostics(model: ModelSpec) -> None:
    """Raise unless the model's signatures and its water balance are made of what a run takes and gives.

    Raises
    ------
    ValueError
    """
    taken = (BALANCE, "flow", "obs", "fold", *metrics.NAMES)
    for s in model.signatures:
        if s.name in taken:
            raise ValueError(
                f"signature '{s.name}' of model {model.name} has the name of a result, one of {', '.join(taken)}: "
                "rename it in the model's table."
            )


def diagnose(trained: Trained, data: xr.Dataset, period) -> xr.Dataset:
    """The model's signatures and what its water balance leaves over a period, ``[basin]``; those that its table has.

    The outflow counts before its routing. A share of nothing is NaN.
    """
    model = models.get(trained.config.model)
    out = xr.Dataset(coords={"basin": data["basin"]})
    if not model.signatures and model.balance is None:
        return out
    data = data.drop_vars("gauge", errors="ignore")  # units of gauges have each their own
    with torch.no_grad(), single_precision(), evaluating(trained.module):
        parts = [_of_chunk(trained, model, **arguments) for arguments in chunks(trained, data, period)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    step = step_seconds(data)
    for s in model.signatures:
        attributes = dict(units=unit_at(s.unit, step), long_name=f"{s.meaning}, not trained on")
        out[s.name] = ("basin", found[s.name], attributes)
    if model.balance:
        meaning = "water gained that neither left nor was stored, as a share of it"
        out[BALANCE] = ("basin", found[BALANCE], dict(units="1", long_name=meaning))
    return out


def _of_chunk(trained, model, *, forcing, attributes, weather, inputs, step, warmup) -> dict[str, np.ndarray]:
    """Signatures and balance of some basins, float64 ``[B]``."""
    raw = trained.module.raw_parameters(attributes, weather)
    raw = {name: x for name, x in raw.items() if name not in model.routing_parameter_names}
    terms = [name for s in model.signatures for name in (s.of, s.over) if name is not None]
    terms += [*model.balance.gains, *model.balance.losses] if model.balance else []
    outputs = [name for name in dict.fromkeys([model.outflow, *terms]) if name in model.output_names]
    networks = trained.module.weights()
    options = dict(inputs=inputs, networks=networks, step=step, backend=trained.module.backend, raw=True)
    # The state before the period; a run without warm-up begins where the model's table says.
    begin = simulate(model, *of_steps(slice(warmup), forcing, raw), **options).final_state if warmup else None
    here = of_steps(slice(warmup, None), forcing, raw)
    run = simulate(model, *here, initial_state=begin, fluxes=outputs, **options)
    series = {name: x.cpu().numpy().astype(np.float64) for name, x in (here[0] | run.fluxes).items()}

    def share(part, whole):
        return part / np.where(whole > 0, whole, np.nan)

    found = {
        s.name: HOW[s.how](series[s.of]) if s.over is None else share(series[s.of].sum(0), series[s.over].sum(0))
        for s in model.signatures
    }
    if model.balance:
        parameters = model.parameters_from_unit({name: torch.sigmoid(x) for name, x in raw.items()})
        at = [{name: x if x.dim() == 2 else x[i] for name, x in parameters.items()} for i in (max(warmup - 1, 0), -1)]
        if begin is None:
            empty = {line.name: torch.zeros(line.slots - 1, 1, 1, device=attributes.device) for line in model.lines}
            begin = model.initial_state(at[0]) | empty
        states = [begin, run.final_state]
        water = [_stored(model, s, inputs, p) for s, p in zip(states, at, strict=True)]
        gained = sum(series[name].sum(0) for name in model.balance.gains)
        lost = sum(series[name].sum(0) for name in model.balance.losses)
        found[BALANCE] = share(gained - lost - (water[1] - water[0]), gained)
    return found


def _stored(model: ModelSpec, state: Mapping, inputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]):
    """Water stored, mm, the mean over the components ``[B]``."""
    water = stored(model, state, {name: x[:, None] for name, x in inputs.items()}, parameters)
    return water.double().mean(-1).cpu().numpy() if isinstance(water, Tensor) else water
