"""Continental runs: any model over a forcing that no memory holds, window by window, to a store that is never half.

`run` checks everything (setup.py), makes the plan (cut.py) and the stores (store.py), and gives the parts to
`run_part`, the loop (part.py), here or on workers of Dask.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..cluster import connected, spread
from ..compiler.identity import identity
from ..data.files import locked, write_text_atomic
from ..data.units import unit_at
from . import store
from .config import RunConfig, read_config
from .cut import Plan
from .journal import RECORD
from .part import Part, compute, run_part
from .setup import Setup, make_setup

REACHES = 8192  # of a chunk of discharge


def run(
    config: str | Path | Mapping | RunConfig,
    changes: Sequence[str] = (),
    *,
    further: bool = False,
    cluster: Any = None,
    dry_run: bool = False,
    progress: bool = True,
) -> str:
    """Run a model over a continent, from a forcing on disk to Zarr stores.

    Called again with the same settings, a run that was stopped goes on where its journal ends, and a finished one does
    nothing.

    Parameters
    ----------
    config : path, mapping or RunConfig
        A YAML file, or what it would hold; see `RunConfig` for the keys.
    changes : sequence of str
        ``"memory=4"``: values in place of the config's.
    further : bool
        Append the days that the forcing has gained to a finished run, from its last state, as a new segment.
    cluster : optional
        As for `connected`: the parts of the plan are spread over the workers of Dask.
    dry_run : bool
        Check everything, print the plan, and stop.
    progress : bool
        Show a bar with the throughput and the share of time waiting for input and output.

    Returns
    -------
    str
        What was planned, and what was done.

    Raises
    ------
    ValueError
        If a file does not fit the model or the others, or the folder holds a run of other settings.
    OSError
        If a file cannot be read or written; what was finished is kept, and the same call goes on.
    """
    setup = make_setup(read_config(config, changes))
    folder = Path(setup.config.out)
    old = _read_record(folder)
    plan = setup.plan() if old is None else Plan(**old["plan"])
    planned = describe(setup, plan)
    if dry_run:
        return f"{planned}\n{_estimate(setup, plan)}"
    with locked(folder):
        segments = _segments(folder, setup, plan, further)
        number, rows = len(segments) - 1, segments[-1]
        paths = [folder / f"{number:04d}{kind}.zarr" for kind in setup.kinds]
        if all(store.is_complete(path) for path in paths):
            return f"{planned}\n{folder} is finished to {setup.source.end}; nothing was done."
        for path, content in zip(paths, stores_of(setup, plan, rows), strict=True):
            store.create(path, *content, compress=setup.config.compress)
        parts = [Part(setup.config, plan, number, rows, i) for i in range(plan.parts)]
        began = time.perf_counter()
        if cluster is None:
            waits = [run_part(part, setup, progress=progress) for part in parts]
        else:
            with connected(cluster) as client:
                waits = [
                    wait for _, wait in tqdm(spread(run_part, parts, client), total=len(parts), disable=not progress)
                ]
        for path in paths:
            store.complete(path)
    seconds = time.perf_counter() - began
    cells = (rows.stop - rows.start) * plan.n_basins * setup.members
    shares = (sum(wait[i] for wait in waits) / len(waits) / seconds for i in range(2))
    return (
        f"{planned}\nran {cells / 1e6:.4g} million cell-steps in {seconds:.1f} s, {cells / seconds / 1e6:.3g} million "
        "a second, waiting for input {:.0%} and for output {:.0%} of the time; wrote {}".format(
            *shares, ", ".join(map(str, paths))
        )
    )


def describe(setup: Setup, plan: Plan) -> str:
    """The plan of a run in words: how it is cut, what it takes and writes."""
    source = setup.source
    n_steps, n_basins, cells = len(source.time), len(source.basins), setup.members
    windows, blocks = len(list(plan.windows(n_steps))), len(plan.blocks)
    bytes_in = sum(s.stored.dtype.itemsize * s.stored.size for s in source.series.values())
    n_out = n_basins if setup.chosen is None else len(setup.chosen)
    bytes_out = 4 * n_steps * (len(setup.fluxes) * n_out * cells + setup.repeat * setup.n_gauges)
    lines = [
        f"{setup.model.name}: {n_basins} basins x {n_steps} steps of {source.step} s from {str(source.time[0])[:10]}"
        + (f" x {cells} members" if cells > 1 else ""),
        f"{windows} windows of {plan.window} steps x {blocks} blocks of {plan.block} basins in {plan.parts} parts, "
        f"{plan.memory / 1e9:.2g} GB of arrays each",
        f"reads {bytes_in / 1e9:.3g} GB before compression, in chunks of {source.chunk[0]} steps x {source.chunk[1]} "
        f"basins; writes {bytes_out / 1e9:.3g} GB: {', '.join(setup.fluxes)}"
        + (f", discharge of {setup.n_gauges} reaches" if setup.network is not None else ""),
    ]
    rows = min(source.chunk[0], n_steps)
    if plan.window % rows and plan.window < n_steps:
        lines.append(f"each chunk of the forcing is read {-(-rows // plan.window)} times or more: windows cut it")
    return "\n".join(lines)


def _estimate(setup: Setup, plan: Plan) -> str:
    """What one block takes, and from it the run."""
    rows = next(plan.windows(len(setup.source.time)))
    cols = plan.blocks[0]
    began = time.perf_counter()
    x = setup.source.read(rows, cols)
    read = time.perf_counter() - began
    began = time.perf_counter()
    compute(setup, x, cols, rows, None)
    computed = time.perf_counter() - began
    whole = len(setup.source.time) * plan.n_basins / ((rows.stop - rows.start) * (cols.stop - cols.start))
    return (
        f"a block takes {read:.2g} s to read and {computed:.2g} s to compute: about {max(read, computed) * whole:.3g} "
        "s in all, and the writing"
    )


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        if record["format"] != 1:
            raise ValueError(
                f"{path} is of another version of hybridsolve, found format {record['format']}; use that one."
            )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} must be that of a run, found something else ({error}); name another folder."
        ) from error
    return dict(record)


def _segments(folder: Path, setup: Setup, plan: Plan, further: bool) -> list[slice]:
    """The rows of the forcing that each segment has, the one to run at the end; kept in the run's record."""
    source, old, record = setup.source, _read_record(folder), setup.record
    if old is None:
        if further:
            raise ValueError(
                f"{folder} must hold a finished run to append to, found none; run without --continue first."
            )
        if left := [path.name for path in folder.iterdir() if not path.name.startswith(".lock")]:
            raise ValueError(f"{folder} must be empty, or hold a run, found {left[0]} in it; name another folder.")
        spans = [[str(source.time[0]), str(source.end)]]
    else:
        for what, value in record.items():
            if old[what] != json.loads(json.dumps(value)):
                raise ValueError(
                    f"the {what} of the run in {folder} must stay as they were, found others; give those of its begin, "
                    "or name another folder."
                )
        spans = old["segments"]
        begin, end = (np.datetime64(x) for x in spans[-1])
        if source.end < end or source.time[0] > begin and source.time[0] != end:
            raise ValueError(
                f"the forcing must hold {begin} to {end} as the run in {folder} has it, or go on from there, found "
                f"{source.time[0]} to {source.end}; add what lacks."
            )
        finished = all(store.is_complete(folder / f"{len(spans) - 1:04d}{kind}.zarr") for kind in setup.kinds)
        if source.end > end and finished:
            if not further:
                raise ValueError(
                    f"the forcing goes on to {source.end}, found the run in {folder} finished to {end}; append the "
                    "rest by --continue."
                )
            spans = [*spans, [str(end), str(source.end)]]
        elif further and finished:
            raise ValueError(f"the forcing must have steps after {end}, where the run in {folder} ends; found none.")
    rows = [slice(source.row_of(np.datetime64(a)), source.row_of(np.datetime64(b))) for a, b in spans]
    text = json.dumps(dict(format=1, **record, plan=plan.to_dict(), segments=spans), indent=1)
    write_text_atomic(folder / RECORD, text + "\n")
    return rows


def stores_of(
    setup: Setup, plan: Plan, rows: slice
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
    ids = source.basins if setup.chosen is None else source.basins[setup.chosen]
    chunk = plan.block if setup.chosen is None else len(ids)
    outputs = []
    for name in setup.fluxes:
        v = model.variable(name)
        routed = name == model.outflow and any(p in setup.values for p in model.routing_parameter_names)
        attrs = dict(
            units=unit_at(v.unit, source.step),
            long_name="flow at the gauge" if routed else v.meaning,
            cell_methods="time: point" if name in model.state_names else "time: mean",
        )
        sizes, chunks = (n_steps, *members.values(), len(ids)), (window, *(1 for _ in members), min(chunk, len(ids)))
        outputs.append(store.Output(name, ("time", *members, "basin"), sizes, chunks, attrs))
    axes = store.time_axes("time", start, source.step)
    axes["basin"] = store.Axis(ids, {"long_name": "gauge id", "cf_role": "timeseries_id"}, ("basin",))
    if members:
        axes["member"] = store.Axis(np.arange(setup.members), {"standard_name": "realization"}, ("member",))
    yield outputs, axes, about
    if setup.network is None or setup.config.rivers is None:
        return
    gauges = setup.network.ids if setup.gauges is None else setup.gauges
    dt = setup.config.rivers.dt
    stamps = start[0] + (np.arange(n_steps * setup.repeat) * round(dt * 1e9)).astype("timedelta64[ns]")
    axes = store.time_axes("time", stamps, round(dt), ends=True)
    axes["reach"] = store.Axis(np.asarray(gauges, np.int64), {"long_name": "id of the reach"}, ("reach",))
    sizes, chunks = (len(stamps), len(gauges)), (window * setup.repeat, min(REACHES, len(gauges)))
    attrs = dict(units="m3 s-1", long_name="discharge at the end of each step", cell_methods="time: point")
    yield [store.Output("discharge", ("time", "reach"), sizes, chunks, attrs)], axes, about
