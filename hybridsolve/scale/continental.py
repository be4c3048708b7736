"""Continental runs: any model over a forcing that no memory holds, window by window, to a store that is never half.

`run` checks everything (setup.py), makes the plan (cut.py) and the stores (outputs.py, store.py), and gives the parts
to `run_part`, the loop (part.py), here or on workers of Dask.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..cluster import cards, connected, device_of, spread
from ..data.files import locked, write_text_atomic
from . import store
from .config import RunConfig, read_config
from .cut import Plan
from .journal import RECORD
from .outputs import stores_of, write_days
from .part import compute, run_part, verify_past
from .rivers import Part, put_together, remove_parts, river_parts, route_parts
from .setup import Setup, make_setup

FORMAT = 3  # of the record and the journals
_MANY = {"basin": "basins", "unit": "units", "reach": "reaches"}


def run(
    config: str | Path | Mapping | RunConfig,
    changes: Sequence[str] = (),
    *,
    further: bool = False,
    cluster: Any = None,
    dry_run: bool = False,
    verify: bool = False,
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
    verify : bool
        Compare the forcing of every window that is finished with what the run has read; otherwise that of the last
        one, when a run goes on.
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
    given = read_config(config, changes)
    elsewhere = cluster is not None and not (isinstance(cluster, str) and cluster == "local")
    device = device_of(given.device, None if elsewhere else cards())
    setup = make_setup(given.model_copy(update={"device": device}))
    folder = Path(setup.config.out)
    old = _read_record(folder)
    plan = setup.plan() if old is None else Plan(**old["plan"])
    planned = describe(setup, plan)
    if dry_run:
        return f"{planned}\n{_estimate(setup, plan)}"
    with connected(cluster, gpus=device == "cuda") as client, locked(folder), _full_disk(folder):
        segments = _segments(folder, setup, plan, further)
        number, rows = len(segments) - 1, segments[-1]
        paths = [folder / f"{number:04d}{kind}.zarr" for kind in setup.kinds]
        parts = [Part(setup.config, plan, number, rows, i) for i in range(plan.parts)]
        if verify:
            read = sum(verify_past(part, setup) for part in parts)
            planned += f"\nthe forcing of {read} finished windows is what the run has read"
        if all(store.is_complete(path) for path in paths):
            remove_parts(folder)
            return f"{planned}\n{folder} is finished to {setup.source.end}; nothing was done."
        for left in folder.glob("*.zarr.tmp-*"):  # of a process that was killed
            shutil.rmtree(left)
        for path, content in zip(paths, stores_of(setup, plan, rows, number), strict=True):
            store.create(path, *content, compress=setup.config.compress)
            store.clean(path)
        began = time.perf_counter()
        rivers = river_parts(setup, plan, number, rows)
        if client is None:
            waits = [run_part(part, setup, progress=progress) for part in parts]
        else:
            waits = [wait for _, wait in tqdm(spread(run_part, parts, client), total=len(parts), disable=not progress)]
        if rivers:
            list(tqdm(route_parts(rivers, setup, client), "rivers", len(rivers), disable=not progress))
            put_together(setup, rivers)
        if setup.utc_offset is not None:
            write_days(folder, setup, number)
        for path in paths:
            store.complete(path)
        remove_parts(folder)
    seconds = time.perf_counter() - began
    cells = (rows.stop - rows.start) * plan.n_basins * setup.members
    shares = (sum(wait[i] for wait in waits) / len(waits) / seconds for i in range(2))
    return (
        f"{planned}\nran {cells / 1e6:.4g} million cell-steps in {seconds:.1f} s, {cells / seconds / 1e6:.3g} million "
        "a second, waiting for input {:.0%} and for output {:.0%} of the time; wrote {}".format(
            *shares, ", ".join(map(str, paths))
        )
    )


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Say in a sentence that a write has found no space."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"{folder} must have space for what the run writes, found none ({os.strerror(error.errno)}); free some and "
            "call it again: what is finished is kept."
        ) from error


def describe(setup: Setup, plan: Plan) -> str:
    """The plan of a run in words: how it is cut, what it takes and writes."""
    source = setup.source
    n_steps, n_basins, cells = len(source.time), len(source.basins), setup.members
    windows, blocks = len(list(plan.windows(n_steps))), len(plan.blocks)
    bytes_in = sum(s.stored.dtype.itemsize * s.stored.size for s in source.series.values())
    written = [x for outputs, _, _ in stores_of(setup, plan, slice(0, n_steps)) for x in outputs]
    bytes_out = sum(np.dtype(x.dtype).itemsize * math.prod(x.sizes) for x in written)
    lines = [
        f"{setup.model.name}: {n_basins} basins x {n_steps} steps of {source.step} s from {str(source.time[0])[:10]}"
        + (f" x {cells} members" if cells > 1 else "")
        + ("" if setup.units is None else f", units of {len(setup.units.ids)} gauges")
        + f", on {setup.config.device}",
        f"{windows} windows of {plan.window} steps x {blocks} blocks of {plan.block} basins in {plan.parts} parts, "
        f"{plan.memory / 1e9:.2g} GB of arrays each",
        f"reads {bytes_in / 1e9:.3g} GB before compression, in chunks of {source.chunk[0]} steps x {source.chunk[1]} "
        f"basins; writes {bytes_out / 1e9:.3g} GB: "
        + ", ".join(f"{x.name} of {x.sizes[-1]} {_MANY[x.dims[-1]]}" for x in written),
    ]
    if setup.network is not None:
        lines.append(_rivers(setup, plan))
    rows = min(source.chunk[0], n_steps)
    if plan.window % rows and plan.window < n_steps:
        lines.append(f"each chunk of the forcing is read {-(-rows // plan.window)} times or more: windows cut it")
    return "\n".join(lines)


def _rivers(setup: Setup, plan: Plan) -> str:
    assert setup.network is not None
    of = f"routes {setup.network.n_reaches} reaches"
    if not plan.reaches:
        return f"{of} along with the basins of each window"
    parts = river_parts(setup, plan, 0, slice(0, len(setup.source.time)))
    depths = [0 if part.river is None else part.river.depth for part in parts]
    cuts = sum(0 if part.river is None else len(part.river.receives) for part in parts)
    return (
        f"{of} when all runoff is written, in {len(parts)} parts of at most {plan.reaches}, cut at {cuts} confluences: "
        + ", then ".join(str(depths.count(depth)) for depth in sorted(set(depths)))
        + " at a time"
    )


def _estimate(setup: Setup, plan: Plan) -> str:
    """What one block takes, and from it the run."""
    if setup.config.device == "cuda" and not cards():
        return "no estimate of the time: the GPUs are those of workers elsewhere"
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
        if record["format"] != FORMAT:
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
                    f"the {what} of the run in {folder} must be as at its begin, found otherwise; give what it began "
                    "with, or name another folder."
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
    text = json.dumps(dict(format=FORMAT, **record, plan=plan.to_dict(), segments=spans), indent=1)
    write_text_atomic(folder / RECORD, text + "\n")
    return rows
