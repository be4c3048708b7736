"""Any model over an xarray dataset: in memory, or lazily where the data lie in chunks of Dask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import models
from ..data.dataset import check_dataset, refuse_no_dataset
from ..data.ids import listed, refuse_duplicates, spelled_as, text_ids
from ..data.steps import step_seconds
from ..data.times import carry_days
from ..data.units import unit_at
from ..data.usable import refuse_outside, static_inputs
from ..routing.gauge import simulate_to_gauge
from ..solve import backends
from ..solve.check import output_names
from ..spec import ModelSpec

State = tuple[dict[str, Tensor], Tensor | None]  # the stores, and the memory of the hydrograph


def simulate_dataset(
    data: xr.Dataset,
    parameters: xr.Dataset,
    model: ModelSpec | str | None = None,
    *,
    fluxes: Sequence[str] | None = None,
    backend: str = "auto",
) -> xr.Dataset:
    """Run a model over a dataset; one whose series are lazy gives series that are.

    Of lazy data each chunk is run when it is computed, and its state goes on to the next chunk in time: nothing is
    rechunked, and memory holds a chunk for each thread. The numbers are those of one run, to the bit.

    Parameters
    ----------
    data : xarray.Dataset
        The model's forcings ``[time, basin]`` in the units of its table, as `hybridsolve.data.open_dataset` gives them,
        or as ``xarray.open_zarr`` opens them; its static inputs ``[basin]``. Without gaps.
    parameters : xarray.Dataset
        Of each basin, found by its id: every parameter ``[basin]``, or one number for all; of the result of
        `calibrate`, ``[basin, start]``, the best start. Without those of the hydrograph nothing is routed.
    model : ModelSpec or str, optional
        The one that `parameters` names in its attribute "model" if left out.
    fluxes : sequence of str, optional
        Of the model's fluxes and states; its outflow if left out, which is routed to the gauge. The others are not.
    backend : str
        As for `simulate`.

    Returns
    -------
    xarray.Dataset
        Each flux ``[time, basin]`` with its unit.

    Raises
    ------
    ValueError
        If the data, a parameter or a flux do not fit the model; values of lazy data when they are computed.
    """
    refuse_no_dataset(data)
    if not isinstance(parameters, xr.Dataset):
        raise TypeError(
            f"parameters must be an xarray.Dataset, found {type(parameters).__name__}; give each parameter over basin."
        )
    if model is None and "model" not in parameters.attrs:
        raise ValueError("parameters must name their model in the attribute 'model', found none; give model=.")
    model = models.get(parameters.attrs["model"] if model is None else model)
    names = output_names(model, [model.outflow] if fluxes is None else fluxes)
    backends.choose(backend, torch.device("cpu"))
    forcings = data[list(model.forcing_names)] if set(model.forcing_names) <= set(data.data_vars) else data
    lazy = any(data[name].chunks is not None for name in model.forcing_names if name in data)
    check_dataset(data, model=model, values=not lazy)
    step = step_seconds(data)
    model.check_step(step)
    values = by_basin(parameters, model, text_ids(data["basin"].values, "basins of the data"))
    backends.choose(backend, torch.device("cpu"), model.kernel_name(values))
    inputs = static_inputs(data, model.inputs)
    run = _Run(model, names, step, backend)
    if lazy:
        series = _lazily(run, forcings.unify_chunks(), values, inputs)
    else:
        refuse_outside(data, model)
        series = run(forcings, values, inputs)[0]
    coords = {name: c for name, c in data.coords.items() if set(c.dims) <= {"time", "basin"}}
    out = xr.Dataset(coords=coords)
    routed = any(name in values for name in model.routing_parameter_names)
    for name in names:
        v = model.variable(name)
        meaning = "flow at the gauge" if routed and name == model.outflow else v.meaning
        out[name] = (("time", "basin"), series[name], {"units": unit_at(v.unit, step), "long_name": meaning})
    citation = "; ".join(filter(None, [str(data.attrs.get("citation", "")), model.source]))
    out.attrs.update(Conventions="CF-1.11", model=model.name, title=f"{model.title}, simulated", citation=citation)
    return carry_days(out, data)


@dataclass(frozen=True)
class _Run:
    """One window of some basins; what a task of Dask calls."""

    model: ModelSpec
    names: Sequence[str]
    step: int
    backend: str

    def __call__(
        self,
        forcing: xr.Dataset,
        values: Mapping[str, np.ndarray],
        inputs: Mapping[str, np.ndarray],
        state: State | None = None,
    ) -> tuple[dict[str, np.ndarray], State]:
        """Series ``[T, B]`` by name, and the state after them."""
        x = {n: torch.as_tensor(np.ascontiguousarray(forcing[n].values)) for n in self.model.forcing_names}
        dtype = next(iter(x.values())).dtype

        def column(value: np.ndarray) -> Tensor:
            return torch.as_tensor(np.array(value), dtype=dtype)

        stores, memory = ({}, None) if state is None else state
        with torch.no_grad():
            run = simulate_to_gauge(
                self.model,
                x,
                {name: column(value)[:, None] for name, value in values.items()},
                fluxes=self.names,
                inputs={name: column(value) for name, value in inputs.items()} or None,
                step=self.step,
                initial_state=stores or None,
                memory=memory,
                backend=self.backend,
            )
        return {name: series.numpy() for name, series in run.fluxes.items()}, (run.final_state, run.memory)


def _lazily(run: _Run, forcing: xr.Dataset, values: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of Dask: a task for each chunk, which takes the state from that of the chunk before it in time."""
    import dask.array
    from dask import delayed

    time, basin = forcing["time"].values, forcing["basin"].values
    arrays = {name: forcing[name].data for name in run.model.forcing_names}
    arrays = {n: x if hasattr(x, "dask") else dask.array.from_array(x, chunks="auto") for n, x in arrays.items()}
    _, unified = dask.array.unify_chunks(*(item for x in arrays.values() for item in (x, "tb")))
    arrays = dict(zip(arrays, unified, strict=True))
    first = next(iter(arrays.values()))
    blocks = {name: x.to_delayed() for name, x in arrays.items()}
    task = delayed(_chunk, nout=2, pure=False)
    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in first.chunks]
    found: dict[str, list[list[Any]]] = {name: [[] for _ in first.chunks[0]] for name in run.names}
    for b, n_basins in enumerate(first.chunks[1]):
        cut = slice(edges[1][b], edges[1][b + 1])
        some = [{name: x[cut] for name, x in given.items()} for given in (values, inputs)]
        state = None
        for t, n_steps in enumerate(first.chunks[0]):
            here = {name: x[t, b] for name, x in blocks.items()}
            series, state = task(run, here, time[edges[0][t] : edges[0][t + 1]], basin[cut], *some, state)
            for name in run.names:
                shape = (n_steps, n_basins)
                found[name][t].append(dask.array.from_delayed(series[name], shape=shape, dtype=first.dtype))
    return {name: dask.array.block(rows) for name, rows in found.items()}


def _chunk(
    run: _Run,
    arrays: Mapping[str, np.ndarray],
    time: np.ndarray,
    basin: np.ndarray,
    values: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    state: State | None,
) -> tuple[dict[str, np.ndarray], State]:
    variables = {name: (("time", "basin"), x) for name, x in arrays.items()}
    data = xr.Dataset(variables, coords={"time": time, "basin": basin})
    refuse_outside(data, run.model)
    return run(data, values, inputs, state)


def by_basin(
    parameters: xr.Dataset, model: ModelSpec, ids: np.ndarray, over: str | None = None
) -> dict[str, np.ndarray]:
    """The model's parameters that are given, of the basins in their order.

    Each is ``[B]``, or ``[B, M]`` where it has the dimension `over` besides.
    """
    given = [p.name for p in model.every_parameter if p.name in parameters.variables]
    needed = [p.name for p in model.parameters if p.default is None]
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(
            f"parameters must hold all of {', '.join(needed)} for model {model.name}, found no {listed(missing)}; add "
            "them."
        )
    place = None
    if "basin" in parameters.dims:
        if "basin" not in parameters.coords:
            raise ValueError("parameters must say their basins in a coordinate basin, found none; assign the ids.")
        known = text_ids(parameters["basin"].values, "basins of the parameters")
        refuse_duplicates(known, "basins of the parameters")
        order = np.argsort(known)
        place = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
        absent = ids[known[place] != ids]
        if len(absent):
            other = spelled_as(str(absent[0]), known.tolist())
            remedy = f"there, one is written '{other}': write it alike." if other else "add them, or choose others."
            raise ValueError(f"{len(absent)} basins of the data have no parameters ({listed(absent)}); {remedy}")
    found = {}
    for name in given:
        array = parameters[name]
        if "start" in array.dims:
            array = array.isel(start=0)
        if over in array.dims and "basin" in array.dims:
            array = array.transpose("basin", over)
        if array.dims not in ((), ("basin",), ("basin", over)):
            raise ValueError(
                f"parameter '{name}' must be over basin, or one number, found dimensions {array.dims}; select one of "
                "each other."
            )
        values = array.values.astype(np.float64)
        found[name] = np.broadcast_to(values, ids.shape) if array.ndim == 0 or place is None else values[place]
        blank = np.isnan(found[name]).reshape(len(ids), -1).any(1)
        if blank.any():
            raise ValueError(
                f"parameter '{name}' must have a number for each basin, found none for {listed(ids[blank])}; leave "
                "those basins out."
            )
    return found
