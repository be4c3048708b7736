"""From weather to the gauges of a river, differentiable throughout: catchments, area weighting, rivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..arguments import integer
from ..data.ids import refuse_duplicates, whole_ids
from ..solve.check import dense, mapping
from ..spec import DAY, ModelSpec
from .gauge import simulate_to_gauge
from .muskingum import Routed, check_network, route
from .network import RiverNetwork


@dataclass(frozen=True)
class RiverRun:
    """What `simulate_rivers` gives.

    Attributes
    ----------
    discharge : Tensor ``[T, G]``
        At the gauges, or of all reaches, at the end of each routing step, m3/s.
    ids : ndarray ``[G]``
        The reaches of the columns.
    runoff : Tensor ``[T / repeat, B]``
        Of the catchments, routed as the model's table says, mm per step of the forcing.
    final_state : dict of str to dict of str to Tensor
        Of "catchments", "rivers" and, where runoff is routed, "hydrograph": the `initial_state` of a run that continues
        this one.
    """

    discharge: Tensor
    ids: np.ndarray
    runoff: Tensor
    final_state: dict[str, dict[str, Tensor]]


def lateral_inflow(
    runoff: Tensor,
    network: RiverNetwork,
    *,
    catchment: Sequence[int] | None = None,
    reach: Sequence[int] | None = None,
    area: Tensor | None = None,
    step: int = DAY,
) -> Tensor:
    """Runoff of catchments (mm per step) as lateral inflow of reaches (m3/s), weighted by area.

    Parameters
    ----------
    runoff : Tensor ``[T, B]``
        mm per step, mm/d at a step of a day.
    network : RiverNetwork
    catchment, reach : sequence of int ``[E]``, optional
        Which catchment (its column, 0 to B - 1) drains to which reach (its id), once for every such pair. Left out,
        catchment i is that of ``network.ids[i]``.
    area : Tensor ``[E]``, optional
        Area (m2) of the catchment that drains to the reach; the network's attribute "area" if left out.
    step : int
        Length of a step of `runoff`, s.

    Returns
    -------
    Tensor ``[T, N]``
        In the network's order, m3/s; differentiable in runoff and area.

    Raises
    ------
    ValueError
        If a shape does not fit, a reach is unknown, an area is not 0 or more, or the step is not whole seconds.
    """
    check_network(network)
    if dense(runoff, "runoff").dtype not in (torch.float32, torch.float64):
        raise ValueError(f"runoff must be float32 or float64; found {runoff.dtype}: convert it with .to().")
    if area is not None:
        if dense(area, "area").device != runoff.device:
            raise ValueError(f"area must be on {runoff.device} as runoff is; found {area.device}: move it with .to().")
        area = area.to(runoff.dtype)
    if (catchment is None) != (reach is None):
        raise ValueError("catchment and reach must come together; found one of them alone: give both or neither.")
    pairs = network.n_reaches if reach is None else np.size(reach)
    if area is None:
        if reach is not None or "area" not in network.attributes:
            raise ValueError("area must be given in m2 with pairs of catchment and reach, or be the network's: add it.")
        area = torch.from_numpy(network.attributes["area"]).to(runoff)
    if runoff.dim() != 2 or tuple(area.shape) != (pairs,) or (reach is None and runoff.shape[1] != pairs):
        raise ValueError(
            f"runoff must be [T, B] and area [{pairs}], one catchment or pair a value; found {list(runoff.shape)} and "
            f"{list(area.shape)}: reshape them, or name catchment and reach."
        )
    if not bool(((area >= 0) & (area < 1e15)).all()):
        raise ValueError("area must be 0 m2 or more and finite; found another value: correct or fill it.")
    weight = area / (1000 * integer("step", step, 1))
    if reach is None:
        return runoff * weight
    catchment = whole_ids(catchment, "catchment")
    if len(catchment) != pairs or ((catchment < 0) | (catchment >= runoff.shape[1])).any():
        raise ValueError(
            f"catchment must be columns of runoff, 0 to {runoff.shape[1] - 1}, [{pairs}] as reach is; found others: "
            "correct them."
        )
    to = np.atleast_1d(network.index(reach))
    refuse_duplicates([f"catchment {i} to reach {network.ids[j]}" for i, j in zip(catchment, to, strict=True)], "pairs")
    catchment, to = (torch.from_numpy(x).to(runoff.device) for x in (catchment, to))
    inflow = runoff.new_zeros(runoff.shape[0], network.n_reaches)
    return inflow.index_add(1, to, runoff.index_select(1, catchment) * weight)


def simulate_rivers(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    network: RiverNetwork,
    channel: Mapping[str, Tensor] | None = None,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    catchment: Sequence[int] | None = None,
    reach: Sequence[int] | None = None,
    area: Tensor | None = None,
    forcing_step: float = DAY,
    dt: float = 3600.0,
    scheme: str = "todini",
    gauges: Sequence[int] | None = None,
    initial_state: Mapping[str, Mapping[str, Tensor]] | None = None,
    backend: str = "auto",
) -> RiverRun:
    """Run a model on all catchments and route its runoff to the gauges.

    Parameters
    ----------
    model, forcing, parameters
        As for `hybridsolve.simulate`; with the parameters of the model's hydrograph among `parameters` the runoff is
        routed: the mean of the components by those of ``[B]`` or ``[B, 1]``, each component by its own of ``[B, C]``.
    network : RiverNetwork
    channel : mapping of str to Tensor, optional
        The parameters of `route`.
    inputs : mapping of str to Tensor ``[B]``, optional
        The model's static inputs.
    catchment, reach, area
        As for `lateral_inflow`.
    forcing_step : int
        Length of a step of the forcing, s, one that the model runs at.
    dt : float
        Length of a routing step, s; must divide `forcing_step`.
    scheme, gauges
        As for `route`.
    initial_state : mapping, optional
        ``final_state`` of the run that this one continues.
    backend : str
        Of the model, as for `hybridsolve.simulate`; the rivers' is the device's.

    Returns
    -------
    RiverRun
        Differentiable in forcing, parameters, channel, area and initial state.

    Raises
    ------
    ValueError
        As `hybridsolve.simulate`, `lateral_inflow` and `route`, or if the steps do not divide.
    """
    model = models.get(model)
    if isinstance(forcing_step, float) and forcing_step.is_integer():
        forcing_step = int(forcing_step)
    step = integer("forcing_step", forcing_step, 1)
    model.check_step(step)
    repeat = whole_steps(step, dt)
    before = {} if initial_state is None else mapping(initial_state, "initial_state")
    if unknown := [name for name in before if name not in ("catchments", "hydrograph", "rivers")]:
        raise ValueError(
            f"initial_state has '{unknown[0]}'; expected catchments, hydrograph, rivers: pass a RiverRun's final_state."
        )
    run = simulate_to_gauge(
        model,
        forcing,
        parameters,
        initial_state=before.get("catchments"),
        memory=mapping(before.get("hydrograph", {}), "hydrograph").get("memory"),
        inputs=inputs,
        step=step,
        backend=backend,
    )
    runoff = run.fluxes[model.outflow]
    state = {"catchments": run.final_state}
    if run.memory is not None:
        state["hydrograph"] = {"memory": run.memory}
    lateral = lateral_inflow(runoff, network, catchment=catchment, reach=reach, area=area, step=step)
    routed: Routed = route(
        network,
        lateral,
        channel,
        initial_state=before.get("rivers"),
        ids="network",
        dt=dt,
        scheme=scheme,
        repeat=repeat,
        gauges=gauges,
    )
    return RiverRun(routed.discharge, routed.ids, runoff, state | {"rivers": routed.final_state})


def whole_steps(long: float, dt: float) -> int:
    """How many steps of `dt` make `long`; raise if they do not divide."""
    repeat = round(long / dt) if isinstance(dt, Real) and 0 < dt <= long else 0
    if repeat < 1 or abs(repeat * dt - long) > 1e-6 * long:
        raise ValueError(f"dt must divide the {long:g} s of a row of inflow; found {dt!r} s: choose a part of it.")
    return repeat
