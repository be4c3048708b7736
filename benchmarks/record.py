"""What each row says of the machine, and how a CSV is written."""

from __future__ import annotations

import csv
from pathlib import Path

from hybridsolve.bench import machine

RESULTS = Path(__file__).parent / "results"


def about() -> dict:
    """Date, machine and versions."""
    return {name: x for name, x in machine.about().items() if name != "hybridsolve"}


def write(rows: list[dict], kind: str, path: str | None, columns) -> Path:
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
