"""The one tidy CSV: its columns, what each row says of the machine, and how it is written."""

from __future__ import annotations

import csv
import os
import platform
from datetime import datetime
from pathlib import Path

import torch

from hybridsolve.solve import compiled

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "date machine cores isa vector_ops_per_s lanes copy_bytes_per_s torch python "
    "model B C T dtype threads mode implementation "
    "median_s min_s iqr_s rounds million_cell_steps_per_s ratio_to_compiled peak_MiB all_states_MiB"
).split()


def about() -> dict:
    """Date, machine and versions."""
    return dict(
        date=datetime.now().isoformat(timespec="minutes"),
        machine=_processor(),
        cores=os.cpu_count(),
        isa=compiled.extension("cpu").isa(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor()


def add_ratios(rows: list[dict]) -> None:
    """How often faster each row is than the FASTEST compiled loop of its case, where there is one."""
    keys = ("model", "B", "C", "T", "dtype", "threads", "mode")
    best: dict[tuple, float] = {}
    for row in rows:
        if row["implementation"].startswith("compiled"):
            case = tuple(row[k] for k in keys)
            best[case] = min(best.get(case, float("inf")), row["median_s"])
    for row in rows:
        if (case := tuple(row[k] for k in keys)) in best:
            row["ratio_to_compiled"] = f"{best[case] / row['median_s']:.3g}"


def write(rows: list[dict], kind: str, path: str | None = None, columns=COLUMNS) -> Path:
    """Write all rows at once or none; return where to (by default ``results/<kind>-<date>.csv``)."""
    target = Path(path) if path else RESULTS / f"{kind}-{rows[0]['date'].replace(':', '')}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(target)
    return target
