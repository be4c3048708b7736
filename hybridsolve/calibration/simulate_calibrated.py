"""Parameters of a calibration run over any period."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import models
from ..arguments import boolean, finite
from ..climate import stored_climate
from ..compiler.identity import refuse_another
from ..data.dataset import check_dataset, parse_period, period_slice, refuse_no_dataset
from ..data.ids import listed, refuse_duplicates, spelled_as
from ..data.methods import AS_IN_DATA, forcing_methods, opened_with
from ..data.steps import step_seconds
from ..data.times import carry_days
from ..data.units import unit_at
from ..data.usable import refuse_outside, usable_basins, used_days
from ..routing.gauge import simulate_to_gauge
from ..routing.units import units_of
from ..solve import backends
from ..solve.bounds import bounds
from ..solve.check import output_names
from ..spec import ModelSpec
from .evaluate import MEMBERS
from .windows import window


def simulate_calibrated(
    parameters: xr.Dataset,
    data: xr.Dataset,
    *,
    period: Any = None,
    member: str = "best",
    fluxes: Sequence[str] | None = None,
    warmup_years: float = 3.0,
    skip_unusable: bool = False,
    allow_other_method: bool = False,
    backend: str = "auto",
) -> xr.Dataset:
    """Run stored parameters over a period.

    Parameters
    ----------
    parameters : xarray.Dataset
        Of `calibrate`, as written to calibration.nc.
    data : xarray.Dataset
        Forcing of the same basins, or of some of them.
    period : str or pair of dates, optional
        All of the data if left out; then nothing is left to warm up, and the first year is run twice.
    member : {"best", "ensemble"}
        The start of first rank, or the mean over the ensemble's starts.
    fluxes : sequence of str, optional
        Of the model's fluxes and states; its outflow if left out. The outflow is routed to the gauge, the others are
        not.
    warmup_years : float
        0 or more.
    skip_unusable : bool
        Leave out basins whose forcing has gaps in the days that are run, or that were left out of the calibration,
        instead of raising.
    allow_other_method : bool
        Take data with a forcing that is made by another method, such as another formula of potential
        evapotranspiration, than that of the calibration; the result says so, in its title too.
    backend : str
        As for `simulate`.

    Returns
    -------
    xarray.Dataset
        Each flux ``[time, basin]`` with units. Where the basins of the data are units of gauges (see `calibrate`), the
        basins are the gauges, and fluxes other than the outflow are ``[time, unit]``.

    Raises
    ------
    ValueError
        If the parameters are not whole; if a flux, member or period is unknown; if the data do not fit, or a basin has
        no stored parameters.
    """
    model = check_request(
        parameters, period=period, member=member, fluxes=fluxes, warmup_years=warmup_years, backend=backend
    )
    boolean("skip_unusable", skip_unusable), boolean("allow_other_method", allow_other_method)
    fluxes = output_names(model, [model.outflow] if fluxes is None else fluxes)
    refuse_no_dataset(data)
    check_dataset(data, model=model, values=False)
    model.check_step(step_seconds(data))
    methods = _methods(parameters, data, model, allow_other_method)
    if period is None:
        period = (data["time"].values[0], data["time"].values[-1])
    _refuse_unknown_basins(parameters, data)
    data = stored_climate(used_days(data, [period], warmup_years), model, parameters)
    n_starts = 1 if member == "best" else int(parameters.attrs["ensemble_size"])
    data, stored = _usable(parameters, data, model, n_starts, skip_unusable)
    check_dataset(data, model=model)
    refuse_outside(data, model)
    w = window(data, model, period, warmup_years, backend)
    values = {name: torch.as_tensor(x).to(w.obs.dtype) for name, x in stored.items()}
    with torch.no_grad():
        values = w.of_units(model, values)
        series = simulate_to_gauge(model, w.forcing, values, fluxes=fluxes, units=w.units, **w.options).fluxes
    days = data["time"].values[period_slice(data["time"].values, period)]
    out = xr.Dataset(coords={"time": days, "basin": data["basin"] if w.units is None else list(w.units.ids)})
    for name in fluxes:
        v = model.variable(name)
        meaning = "flow at the gauge" if name == model.outflow else v.meaning
        attrs = dict(units=unit_at(v.unit, w.step), long_name=meaning)
        of_units = w.units is not None and name != model.outflow
        out[name] = (("time", "unit" if of_units else "basin"), series[name][w.n_warmup :].numpy(), attrs)
    if "unit" in out.dims:
        out = out.assign_coords(unit=data["basin"].values, gauge=("unit", data["gauge"].values))
    title = f"{model.title}, simulated"
    for name, (found, fitted) in methods.items():
        out.attrs.update({f"{name}_method": found, f"calibrated_{name}_method": fitted})
        if found != fitted:
            title += f"; {model.variable(name).meaning} '{found}', calibrated with '{fitted}'"
    out.attrs.update(model=model.name, member=member, title=title, citation=str(parameters.attrs.get("citation", "")))
    return carry_days(out, data)


def check_request(
    parameters: xr.Dataset,
    *,
    period: Any = None,
    member: str = "best",
    fluxes: Sequence[str] | None = None,
    warmup_years: float = 3.0,
    backend: str = "auto",
) -> ModelSpec:
    """Check all of `simulate_calibrated` that needs no data, with its arguments and errors, and give the model."""
    if not isinstance(parameters, xr.Dataset):
        raise TypeError(
            f"parameters must be the dataset that calibrate gives, found {type(parameters).__name__}; open "
            "calibration.nc with xarray.open_dataset."
        )
    model = _check_stored(parameters, parameters.encoding.get("source", "the dataset of parameters"))
    if member not in list(MEMBERS):
        raise ValueError(f"unknown member {member!r}; expected {' or '.join(MEMBERS)}.")
    output_names(model, [model.outflow] if fluxes is None else fluxes)
    if period is not None:
        parse_period(period)
    finite("warmup_years", warmup_years, 0)
    backends.choose(backend, torch.device("cpu"), model.kernel_name(_stored_names(parameters, model)))
    return model


def _stored_names(parameters: xr.Dataset, model: ModelSpec) -> list[str]:
    """The parameters that a calibration of this model has written: all but optional ones that it left out."""
    optional = [name for name in model.optional_parameter_names if name in parameters]
    return [*model.parameter_names, *optional, *model.routing_parameter_names]


def _check_stored(parameters: xr.Dataset, where: str) -> ModelSpec:
    """The model of a dataset of parameters, if it is whole."""
    what = f"{where} must be calibration.nc of `hybridsolve calibrate`, found"
    for name in ("model", "ensemble_size"):
        if name not in parameters.attrs:
            raise ValueError(f"{what} no attribute '{name}'; give that file as it was written.")
    try:
        model = models.get(str(parameters.attrs["model"]))
    except ValueError:
        raise ValueError(
            f"{what} one of the model '{parameters.attrs['model']}', which is none of {', '.join(models.names())}: run "
            "the file that defines it, by models.load or --define."
        ) from None
    refuse_another(model, parameters.attrs.get("definition"), where)
    names = _stored_names(parameters, model)
    for name in names:
        if name not in parameters or parameters[name].dims != ("basin", "start"):
            raise ValueError(f"{what} no variable {name}(basin, start); give that file as it was written.")
        if parameters[name].dtype.kind != "f":
            raise ValueError(f"{what} '{name}' as {parameters[name].dtype}; give that file as it was written.")
    if "basin" not in parameters.coords:
        raise ValueError(f"{what} no ids of the basins; give that file as it was written.")
    refuse_duplicates(parameters["basin"].values, f"basins of {where}")
    size = parameters.attrs["ensemble_size"]
    if np.ndim(size) or not isinstance(size, Integral) or not 1 <= int(size) <= parameters.sizes["start"]:
        raise ValueError(f"{what} an ensemble_size of {size} from {parameters.sizes['start']} starts; calibrate anew.")
    rows = {v.name: v for v in model.every_parameter}
    for name in names:
        v, values = rows[name], parameters[name].values
        lower, upper = bounds(v, torch.float64 if values.dtype.itemsize == 8 else torch.float32)
        outside = (values < lower) | (values > upper)
        if outside.any():
            b, start = np.argwhere(outside)[0]
            least, most = v.taken
            raise ValueError(
                f"'{name}' of {where} must lie in [{least:g}, {most:g}] {v.unit}, found {values[b, start]:g} in "
                f"basin {parameters['basin'].values[b]}; calibrate anew."
            )
    return model


def _methods(
    parameters: xr.Dataset, data: xr.Dataset, model: ModelSpec, allow_other: bool
) -> dict[str, tuple[str, str]]:
    """Of the forcings that are made by a method: that of these data, and that of the calibration."""
    here = forcing_methods(data, model.forcing_names)
    stored = {name: parameters.attrs.get(f"{name}_method") for name in model.forcing_names}
    out = {}
    for name in model.forcing_names:
        if name not in here and stored[name] is None:
            continue
        found, fitted = here.get(name, AS_IN_DATA), str(stored[name] or AS_IN_DATA)
        if found != fitted and not allow_other:
            raise ValueError(
                f"the parameters were calibrated with {model.variable(name).meaning} '{fitted}', found '{found}' in "
                f"the data; open them with {opened_with(fitted)}, or set allow_other_method, which the result will say."
            )
        out[name] = found, fitted
    return out


def _refuse_unknown_basins(parameters: xr.Dataset, data: xr.Dataset) -> None:
    """Raise if a basin of the data has no stored parameters."""
    there = set(parameters["basin"].values.astype(str).tolist())
    units = units_of(data)
    missing = [str(b) for b in (data["basin"].values if units is None else units.ids) if str(b) not in there]
    if missing:
        other = spelled_as(missing[0], sorted(there))
        raise ValueError(
            f"{len(missing)} basins of the data have no stored parameters ({listed(missing)}); "
            + (f"there, one is written '{other}': write it alike." if other else "choose basins that were calibrated.")
        )


def _usable(
    parameters: xr.Dataset, data: xr.Dataset, model: ModelSpec, n_starts: int, skip: bool
) -> tuple[xr.Dataset, dict[str, np.ndarray]]:
    """The data of the basins that can be run, and their parameters ``[B, S]`` of the first starts."""
    usable = usable_basins(data, model.forcing_names, skip=skip)
    if len(usable) < data.sizes["basin"]:  # of many basins a copy is large
        data = data.isel(basin=usable)
    names = _stored_names(parameters, model)
    stored = parameters[names].assign_coords(basin=parameters["basin"].values.astype(str))
    units = units_of(data)
    ids = data["basin"].values.astype(str) if units is None else np.array(units.ids)
    stored = stored.sel(basin=ids).isel(start=slice(0, n_starts))
    blank = np.any([np.isnan(stored[n].values).any(1) for n in names], axis=0)
    if blank.any():
        left_out = f"{blank.sum()} basins were left out of the calibration ({listed(ids[blank])})"
        if not skip or blank.all():
            raise ValueError(f"{left_out}; choose others, or leave them out with skip_unusable.")
        warnings.warn(f"{left_out} and are left out here.", stacklevel=3)
        kept = ~blank if units is None else ~blank[units.gauge]
        data, stored = data.isel(basin=kept), stored.isel(basin=~blank)
    return data, {name: stored[name].values for name in names}
