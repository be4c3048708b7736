"""What a continental run writes: the stores of a segment, with their coordinates and attributes of CF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..compiler.identity import identity
from ..data.units import unit_at
from ..routing.files import BELOW_WATERBODY
from ..routing.local_days import daily_means
from ..spec import DAY
from . import store
from .cut import REACHES, Plan
from .setup import Setup


def stores_of(
    setup: Setup, plan: Plan, rows: slice, segment: int = 0
) -> Iterator[tuple[list[store.Output], dict[str, store.Axis], dict]]:
    """Outputs, coordinates and attributes of each store of a segment."""
    source, model = setup.source, setup.model
    n_steps, start = rows.stop - rows.start, source.time[rows]
    about = dict(
        Conventions="CF-1.11",
        title=f"{model.title}, simulated",
        model=model.name,
        definition=identity(model),
        citation="; ".join(filter(None, [str(source.static.attrs.get("citation", "")), model.source])),
    )
    window = min(plan.window, n_steps)
    members = {"member": setup.members} if setup.members > 1 else {}
    of_members = {"member": store.Axis(np.arange(setup.members), {"standard_name": "realization"}, ("member",))}

    def output(name: str, dim: str, size: int, chunk: int, n: int, steps: int, attrs: dict) -> store.Output:
        sizes, chunks = (n, *members.values(), size), (max(1, steps), *(1 for _ in members), min(chunk, size))
        packing, kind = setup.config.pack.get(name), "float32"
        if packing is not None:
            kind = packing.dtype
            attrs |= store.packed_as(kind, packing.scale_factor, packing.add_offset)
        return store.Output(name, ("time", *members, dim), sizes, chunks, attrs, kind)

    outputs, axes = [], store.time_axes("time", start, source.step)
    for name in setup.fluxes:
        v = model.variable(name)
        routed = name == model.outflow and any(p in setup.values for p in model.routing_parameter_names)
        attrs = dict(
            units=unit_at(v.unit, source.step),
            long_name="flow at the gauge" if routed else v.meaning,
            cell_methods="time: point" if name in model.state_names else "time: mean",
        )
        dim, places = setup.kept(name)
        ids = source.basins if dim == "unit" else setup.catchments
        ids = ids if places is None else ids[places]
        axes[dim] = store.Axis(ids, {"long_name": "gauge id", "cf_role": "timeseries_id"}, (dim,))
        if dim == "unit" and setup.units is not None:
            axes["unit"] = store.Axis(ids, {"long_name": "unit of a gauge"}, ("unit",))
            axes["gauge"] = store.Axis(
                setup.catchments[setup.units.gauge[places]], {"long_name": "gauge id"}, ("unit",)
            )
            attrs["coordinates"] = "gauge"
        outputs.append(output(name, dim, len(ids), plan.block if places is None else len(ids), n_steps, window, attrs))
    yield outputs, axes | (of_members if members else {}), about
    if setup.network is None or setup.config.rivers is None:
        return
    gauges = setup.network.ids if setup.gauges is None else setup.gauges
    step = round(setup.config.rivers.dt)
    stamps = start[0] + (np.arange(n_steps * setup.repeat) * np.timedelta64(step, "s"))
    of_reaches = {"reach": store.Axis(np.asarray(gauges, np.int64), {"long_name": "id of the reach"}, ("reach",))}
    if "waterbody" in setup.network.attributes:
        below = setup.network.below_waterbody[setup.network.index(gauges)].astype(np.int8)
        of_reaches["below_waterbody"] = store.Axis(below, BELOW_WATERBODY | dict(flag_values=[0, 1]), ("reach",))
    of_reaches |= of_members if members else {}
    axes = store.time_axes("time", stamps, step, ends=True)
    attrs = dict(units="m3 s-1", long_name="discharge at the end of each step", cell_methods="time: point")
    n = len(gauges)
    yield (
        [output("discharge", "reach", n, REACHES, len(stamps), window * setup.repeat, attrs)],
        axes | of_reaches,
        about,
    )
    if setup.utc_offset is None:
        return
    dates = _dates(setup, rows, segment)
    axes = store.time_axes("time", dates, DAY, long_name="date of the gauge's clock")
    axes["utc_offset"] = store.Axis(setup.utc_offset, {"units": "h", "long_name": "clock ahead of UTC"}, ("reach",))
    attrs = dict(units="m3 s-1", long_name="mean of the local day", cell_methods="time: mean", coordinates="utc_offset")
    chunk = round(window * source.step / DAY)
    yield [output("discharge_daily_mean", "reach", n, REACHES, len(dates), chunk, attrs)], axes | of_reaches, about


def _dates(setup: Setup, rows: slice, segment: int) -> np.ndarray:
    """The local dates of a segment: those that end in it by the clock of every gauge.

    A run begins with the first date that is whole at some gauge; what others lack of it is NaN.
    """
    assert setup.utc_offset is not None and setup.config.rivers is not None
    hours, step = setup.utc_offset.min(), setup.source.step
    begin, end = _later(setup.source.time[rows.start], hours), _later(setup.source.time[rows.stop - 1], hours, step)
    if segment == 0:  # the date of which the first step is the first, or the next
        begin = _later(begin, 0, DAY - round(setup.config.rivers.dt))
    return np.arange(begin.astype("datetime64[D]"), end.astype("datetime64[D]")).astype("datetime64[ns]")


def _later(time: np.datetime64, hours: float, seconds: float = 0) -> np.datetime64:
    return np.datetime64(time + np.timedelta64(round(3600 * hours + seconds), "s"))


def write_days(folder: Path, setup: Setup, segment: int) -> None:
    """Write the means of the local day of a segment from the discharge that its stores hold, which is whole."""
    assert setup.utc_offset is not None
    path, offset = folder / f"{segment:04d}.days.zarr", setup.utc_offset
    group = store.open_arrays(path)
    array: Any = group["discharge_daily_mean"]
    with xr.open_dataset(path, engine="zarr", consolidated=False) as ds:
        dates = ds["time"].values
    discharge = store.open_run(folder, ".rivers")["discharge"]
    for t in range(0, len(dates), array.chunks[0]):
        some = dates[t : t + array.chunks[0]]
        steps = discharge.sel(time=slice(_later(some[0], -offset.max()), _later(some[-1], -offset.min(), 2 * DAY)))
        for b in range(0, discharge.sizes["reach"], array.chunks[-1]):
            part = steps.isel(reach=slice(b, b + array.chunks[-1])).load()
            for member in range(setup.members):
                one = part.isel(member=member) if "member" in part.dims else part
                at = (member,) if "member" in part.dims else ()
                means = daily_means(one, offset[b : b + array.chunks[-1]], some)
                where = (slice(t, t + len(some)), *at, slice(b, b + part.sizes["reach"]))
                store.write(group, array, where, means.values)
