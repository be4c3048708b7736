"""Windows of data, routed flow of calibrated parameters over them, and their scores under proper names."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import models
from ..arguments import finite
from ..data.dataset import check_dataset, parse_period, period_slice, period_text, refuse_no_dataset
from ..data.ids import listed, refuse_duplicates, spelled_as
from ..data.pet import PET_METHODS
from ..data.times import carry_days
from ..data.usable import refuse_outside, usable_basins, used_days
from ..routing import unit_hydrograph
from ..score import metrics
from ..solve.problem import bounds
from ..solve.simulate import output_names, simulate
from ..spec import ModelSpec

MEMBERS = ("best", "ensemble")
AT_BOUND = 0.01  # share of a parameter's range within which it counts as at a bound
SETTLED = 0.01  # of the mean flow: how far two initial states may still differ after the warm-up


@dataclass(frozen=True)
class Window:
    """A period and the warm-up before it, as the solver takes them.

    Attributes
    ----------
    forcing : dict of str to Tensor ``[T, B]``
    obs : Tensor ``[T, B]``
        mm/d; NaN where missing, and throughout the warm-up.
    n_warmup : int
        Steps of T before the period.
    spun_up : bool
        The data begin less than a year before the period, so that their first year is run twice.
    """

    forcing: dict[str, Tensor]
    obs: Tensor
    n_warmup: int
    spun_up: bool


def window(data: xr.Dataset, model: ModelSpec, period, warmup_years: float) -> Window:
    """Cut a period with its warm-up: as many years as asked for where the data allow, one at least."""
    scored = period_slice(data["time"].values, period)
    available = min(scored.start, round(365.25 * warmup_years))
    days = np.arange(scored.start - available, scored.stop)
    spun_up = available < 365
    if spun_up:
        days = np.concatenate([days[:365], days])
    n_warmup = len(days) - (scored.stop - scored.start)

    def series(name):
        values = data[name].transpose("time", "basin").values
        # A slice is a view: the whole record is in memory once, whatever the number of windows.
        return torch.as_tensor(values[days] if spun_up else values[days[0] : days[-1] + 1])

    obs = series("qobs").clone()
    obs[:n_warmup] = torch.nan
    return Window({name: series(name) for name in model.forcing_names}, obs, n_warmup, spun_up)


def routed_flow(model: ModelSpec, forcing, values, initial_state=None) -> Tensor:
    """Streamflow of every component through its own unit hydrograph, ``[T, B, C]``, mm/d.

    Parameters
    ----------
    values : mapping of str to Tensor ``[B, C]``
        Parameters in their units, the routing ones among them.
    """
    values = dict(values)
    a, b = (values.pop(name) for name in model.routing_parameter_names)
    run = simulate(model, forcing, values, initial_state=initial_state, components="each")
    q = run.fluxes["streamflow"].transpose(1, 2)  # [T, C, B], as the solver lays it: the views below copy nothing
    routed = unit_hydrograph(q.flatten(1), a.T.flatten(), b.T.flatten())
    return routed.view(q.shape).transpose(1, 2)


def flows(model, period: Window, usable, points: Tensor, initial_state=None):
    """Routed flow ``[T, B, S]`` of some usable basins at a time, with their indices into `usable`."""
    names = model.parameter_names + model.routing_parameter_names
    for part in np.array_split(np.arange(len(usable)), -(-len(usable) * points.shape[2] // 4096)):
        forcing = {name: f[:, usable[part]] for name, f in period.forcing.items()}
        values = model.parameters_from_unit(dict(zip(names, points[:, part].unbind(0), strict=True)))
        with torch.no_grad():
            yield part, routed_flow(model, forcing, values, initial_state(values) if initial_state else None)


def evaluate(data, model, windows, periods, usable, points, train_loss, ensemble, settings) -> xr.Dataset:
    """Run the calibrated parameters over all periods, score them, and name everything."""
    n_basins, n_starts = data.sizes["basin"], points.shape[2]
    ds = _named(data, model, periods, usable, points, train_loss, settings["loss"])
    ds.attrs.update(
        ensemble_size=ensemble,
        title=f"{model.title}, calibrated",
        pet_method=str(data["pet"].attrs.get("method", "as in the data")),
        citation="; ".join(filter(None, [data.attrs.get("citation"), model.source])),
        **settings,
    )
    series = []
    for p, (period, w) in enumerate(windows.items()):
        members, start_nse, unsettled = [], [], []
        wet = flows(model, w, usable, points[:, :, :1], _wet_state)
        wet = np.concatenate([flow[w.n_warmup :, :, 0].numpy() for _, flow in wet], 1)
        for part, flow in flows(model, w, usable, points):
            flow = flow[w.n_warmup :]
            obs = w.obs[w.n_warmup :, usable[part]].numpy()
            kept = flow[:, :, :ensemble]
            members.append(torch.stack([flow[:, :, 0], kept.mean(2), kept.amin(2), kept.amax(2)]).numpy())
            unsettled.append(_difference(members[-1][0], wet[:, part]))
            start_nse.append(np.stack([metrics.nse(flow[:, :, i].numpy(), obs) for i in range(n_starts)], 1))
        members = _over_all(np.concatenate(members, 2), usable, n_basins, 2)
        if p == 0:
            ds["nse_start"] = (
                ("period", "basin", "start"),
                np.full((len(windows), n_basins, n_starts), np.nan),
                dict(units="1", long_name="NSE of every start"),
            )
            ds["warmup_difference"] = (
                ("period", "basin"),
                np.full((len(windows), n_basins), np.nan),
                dict(
                    units="1",
                    long_name="flow from empty and from full stores, largest difference "
                    "in the first 30 days scored, over the mean flow",
                ),
            )
        ds["nse_start"][p] = _over_all(np.concatenate(start_nse), usable, n_basins)
        ds["warmup_difference"][p] = _over_all(np.concatenate(unsettled), usable, n_basins)
        late = np.flatnonzero(ds["warmup_difference"][p].values > SETTLED)
        if late.size:
            warnings.warn(
                f"after the warm-up of the {period} period ({w.n_warmup} days), two initial states still differ by "
                f"more than {SETTLED:.0%} of the mean flow in {late.size} of {n_basins} basins "
                f"({listed(data['basin'].values[late])}); "
                "a longer warm-up would settle them.",
                stacklevel=3,
            )
        # What is left out is not scored, and has not failed.
        obs = _over_all(w.obs[w.n_warmup :, usable].numpy(), usable, n_basins, 1)
        for m in range(len(MEMBERS)):
            for score, x in _scores(members[m], obs).items():
                if score not in ds:
                    ds[score] = (
                        ("period", "member", "basin"),
                        np.full((len(windows), len(MEMBERS), n_basins), np.nan),
                        dict(units="1"),
                    )
                ds[score][p, m] = x
        span = period_slice(data["time"].values, periods[period])
        series.append(
            xr.DataArray(
                members,
                dims=("member", "time", "basin"),
                coords={"time": data["time"].values[span], "basin": data["basin"].values},
            )
        )
    # Periods may overlap; the flow of a day is the one of the first period that holds it.
    flow = series[0] if len(series) == 1 else xr.concat(series, "time").drop_duplicates("time").sortby("time")
    ds["flow"] = flow[:2].assign_attrs(units="mm d-1", long_name="routed streamflow")
    for i, name in enumerate(("lowest", "highest"), start=2):
        ds[f"flow_{name}"] = flow[i].assign_attrs(units="mm d-1", long_name=f"{name} flow of the ensemble's starts")
    ds["obs"] = data["qobs"].sel(time=flow["time"])
    ds.attrs.update({f"{name}_period": period_text(period) for name, period in periods.items()})
    return carry_days(ds, data)


def _named(data, model, periods, usable, points, train_loss, loss) -> xr.Dataset:
    """Parameters in their units, training losses and parameters at bounds, with names and units."""
    n_basins, n_starts = data.sizes["basin"], points.shape[2]
    names = model.parameter_names + model.routing_parameter_names
    ds = xr.Dataset(
        coords={
            "basin": data["basin"],
            "start": np.arange(n_starts),
            "member": list(MEMBERS),
            "period": list(periods),
            "parameter": list(names),
        }
    )
    ds = ds.assign_coords({name: data[name] for name in ("lat", "lon") if name in data.coords})
    values = model.parameters_from_unit(dict(zip(names, points.unbind(0), strict=True)))
    for name in names:
        v = model.variable(name)
        ds[name] = (
            ("basin", "start"),
            _over_all(values[name].numpy(), usable, n_basins),
            dict(units=v.unit, long_name=v.meaning, valid_min=v.lower, valid_max=v.upper),
        )
    ds["train_loss"] = (
        ("basin", "start"),
        _over_all(train_loss.numpy(), usable, n_basins),
        dict(units="1", long_name=f"training loss, 1 - {loss}"),
    )
    near = ((points < AT_BOUND) | (points > 1 - AT_BOUND)).numpy()
    ds["at_bound"] = (
        ("parameter", "basin", "start"),
        _over_all(near.astype(np.float32), usable, n_basins, 1),
        dict(units="1", long_name=f"1 where within {AT_BOUND:.0%} of the range of a bound"),
    )
    return ds


def _over_all(values: np.ndarray, usable, n_basins: int, axis: int = 0) -> np.ndarray:
    """Values of the usable basins over all basins, NaN for those left out."""
    shape = list(values.shape)
    if shape[axis] == n_basins:  # none was left out; of many basins a copy is large
        return values
    shape[axis] = n_basins
    out = np.full(shape, np.nan, dtype=values.dtype)
    out[(slice(None),) * axis + (usable,)] = values
    return out


def _scores(sim: np.ndarray, obs: np.ndarray) -> dict[str, np.ndarray]:
    """All scores, a few basins at a time: they are computed in float64, with several arrays of its size."""
    lots = [slice(i, i + 512) for i in range(0, sim.shape[1], 512)]
    parts = [metrics.score(sim[:, lot], obs[:, lot]) for lot in lots]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _wet_state(values) -> dict[str, Tensor]:
    """Stores as full as a wet season leaves them: the other end from the default's empty ones."""
    dry = torch.zeros_like(values["fc"])
    return dict(snowpack=dry, meltwater=dry, sm=values["fc"], suz=values["uzl"], slz=dry + 100)


def _difference(flow: np.ndarray, wet: np.ndarray) -> np.ndarray:
    return np.abs(flow[:30] - wet[:30]).max(0) / np.maximum(flow.mean(0), 1e-6)


def scores_table(result: xr.Dataset, member: str = "best"):
    """Scores of one member as a table: a row for each basin, a column for each period and score."""
    columns = [name for name in metrics.NAMES if name in result]
    table = {
        f"{period}_{name}": result[name].sel(period=period, member=member).values
        for period in result["period"].values
        for name in columns
    }
    return xr.Dataset({k: ("basin", v) for k, v in table.items()}, coords={"basin": result["basin"]}).to_dataframe()[
        list(table)
    ]


def check_request(
    parameters: xr.Dataset, *, period=None, member="best", fluxes=("streamflow",), warmup_years: float = 3.0
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
    output_names(model, fluxes)
    if period is not None:
        parse_period(period)
    finite("warmup_years", warmup_years, 0)
    return model


def _check_stored(parameters: xr.Dataset, where) -> ModelSpec:
    """The model of a dataset of parameters, if it is whole."""
    what = f"{where} must be calibration.nc of `hybridsolve calibrate`, found"
    for name in ("model", "ensemble_size", "pet_method"):
        if name not in parameters.attrs:
            raise ValueError(f"{what} no attribute '{name}'; give that file as it was written.")
    if str(parameters.attrs["model"]) not in models.MODELS:
        raise ValueError(
            f"{what} one of the model '{parameters.attrs['model']}'; this version has {', '.join(models.names())}."
        )
    model = models.get(str(parameters.attrs["model"]))
    names = model.parameter_names + model.routing_parameter_names
    for name in names:
        if name not in parameters or parameters[name].dims != ("basin", "start"):
            raise ValueError(f"{what} no variable {name}(basin, start); give that file as it was written.")
        if parameters[name].dtype.kind != "f":
            raise ValueError(f"{what} '{name}' as {parameters[name].dtype}; give that file as it was written.")
    if "basin" not in parameters.coords:
        raise ValueError(f"{what} no ids of the basins; give that file as it was written.")
    refuse_duplicates(parameters["basin"].values, f"basins of {where}")
    size = parameters.attrs["ensemble_size"]
    if np.ndim(size) or not isinstance(size, Integral) or not 1 <= size <= parameters.sizes["start"]:
        raise ValueError(f"{what} an ensemble_size of {size} from {parameters.sizes['start']} starts; calibrate anew.")
    for name in names:
        v, values = model.variable(name), parameters[name].values
        lower, upper = bounds(v, torch.float64 if values.dtype.itemsize == 8 else torch.float32)
        outside = (values < lower) | (values > upper)
        if outside.any():
            b, start = np.argwhere(outside)[0]
            raise ValueError(
                f"'{name}' of {where} must lie in [{v.lower:g}, {v.upper:g}] {v.unit}, found {values[b, start]:g} in "
                f"basin {parameters['basin'].values[b]}; calibrate anew."
            )
    return model


def simulate_calibrated(
    parameters: xr.Dataset,
    data: xr.Dataset,
    *,
    period=None,
    member="best",
    fluxes=("streamflow",),
    warmup_years: float = 3.0,
    skip_unusable: bool = False,
    allow_other_pet: bool = False,
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
    fluxes : sequence of str
        Of the model's fluxes and states; `streamflow` is routed by the unit hydrograph, the others are not.
    warmup_years : float
        0 or more.
    skip_unusable : bool
        Leave out basins whose forcing has gaps in the days that are run, or that were left out of the calibration,
        instead of raising.
    allow_other_pet : bool
        Take data whose potential evapotranspiration is made by another method than that of the calibration; the
        result says so, in its title too.

    Returns
    -------
    xarray.Dataset
        Each flux ``[time, basin]`` with units.

    Raises
    ------
    ValueError
        If the parameters are not whole; if a flux, member or period is unknown; if the data do not fit, or a basin has
        no stored parameters.
    """
    model = check_request(parameters, period=period, member=member, fluxes=fluxes, warmup_years=warmup_years)
    fluxes = output_names(model, fluxes)
    refuse_no_dataset(data)
    check_dataset(data, forcing_names=model.forcing_names, values=False)
    fitted, found = str(parameters.attrs["pet_method"]), str(data["pet"].attrs.get("method", "as in the data"))
    if fitted != found and not allow_other_pet:
        method = f"pet='{fitted}' (--pet {fitted})" if fitted in PET_METHODS else "their own (without pet=, --pet)"
        raise ValueError(
            f"the parameters were calibrated with potential evapotranspiration '{fitted}', found '{found}' in the "
            f"data; open them with {method}, or set allow_other_pet, which the result will say."
        )
    stored = parameters.assign_coords(basin=parameters["basin"].values.astype(str))
    ids = [str(b) for b in data["basin"].values]
    there = set(stored["basin"].values.tolist())
    missing = [b for b in ids if b not in there]
    if missing:
        other = spelled_as(missing[0], sorted(there))
        raise ValueError(
            f"{len(missing)} basins of the data have no stored parameters ({listed(missing)}); "
            + (f"there, one is written '{other}': write it alike." if other else "choose basins that were calibrated.")
        )
    if period is None:
        period = (data["time"].values[0], data["time"].values[-1])
    data = used_days(data, [period], warmup_years)
    usable = usable_basins(data, model.forcing_names, skip=skip_unusable)
    if len(usable) < data.sizes["basin"]:  # of many basins a copy is large
        data = data.isel(basin=usable)
    n_starts = 1 if member == "best" else int(parameters.attrs["ensemble_size"])
    names = model.parameter_names + model.routing_parameter_names
    stored = stored[[*names]].sel(basin=data["basin"].values.astype(str)).isel(start=slice(0, n_starts))
    blank = np.any([np.isnan(stored[n].values).any(1) for n in names], axis=0)
    if blank.any():
        left_out = f"{blank.sum()} basins were left out of the calibration ({listed(data['basin'].values[blank])})"
        if not skip_unusable or blank.all():
            raise ValueError(f"{left_out}; choose others, or leave them out with skip_unusable.")
        warnings.warn(f"{left_out} and are left out here.", stacklevel=2)
        data, stored = data.isel(basin=~blank), stored.isel(basin=~blank)
    check_dataset(data, forcing_names=model.forcing_names)
    refuse_outside(data, model)
    if "qobs" not in data:
        data = data.assign(qobs=data["prcp"] * np.nan)
    w = window(data, model, period, warmup_years)
    values = {n: torch.as_tensor(stored[n].values).to(w.obs.dtype) for n in names}
    out = xr.Dataset(
        coords={"time": data["time"].values[period_slice(data["time"].values, period)], "basin": data["basin"]}
    )
    with torch.no_grad():
        others = [name for name in fluxes if name != "streamflow"]
        series = {}
        if others:
            only = {n: values[n] for n in model.parameter_names}
            series = simulate(model, w.forcing, only, fluxes=others).fluxes
        if "streamflow" in fluxes:
            series["streamflow"] = routed_flow(model, w.forcing, values).mean(2)
    for name in fluxes:
        v = model.variable(name)
        meaning = "routed streamflow" if name == "streamflow" else v.meaning
        out[name] = (("time", "basin"), series[name][w.n_warmup :].numpy(), dict(units=v.unit, long_name=meaning))
    other_pet = f"; evapotranspiration '{found}', calibrated with '{fitted}'" if found != fitted else ""
    out.attrs.update(
        model=model.name,
        member=member,
        title=f"{model.title}, simulated{other_pet}",
        pet_method=found,
        calibrated_pet_method=fitted,
        citation=str(parameters.attrs.get("citation", "")),
    )
    return carry_days(out, data)
