"""The one tidy CSV: its columns, what each row says of the machine, and how it is read and written."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import __version__

Row = dict[str, Any]
MACHINE = ("date", "hybridsolve", "machine", "cores", "isa", "torch", "python")
CASE = ("shape", "model", "B", "C", "T", "dtype", "threads", "mode")
COLUMNS = (
    *MACHINE, "kind", *CASE, "implementation", "rounds", "median_s", "min_s", "iqr_s", "value", "unit", "ratio_to_ours",
    "floor", "share_of_floor", "peak_MiB", "note",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]  # of a checkout


def is_checkout() -> bool:
    """Whether the package runs where its repository is."""
    return (ROOT / ".git").exists() and (ROOT / "setup.py").exists()


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def about() -> Row:
    """Date, version, machine and the instruction set that the kernels use."""
    import torch

    from ..solve import compiled

    version = __version__
    if is_checkout():
        commit = git("rev-parse", "--short", "HEAD").stdout.strip()
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
        version += f"+{commit}{'-changed' if changed else ''}" if commit else ""
    return dict(
        date=datetime.now().isoformat(timespec="minutes"),
        hybridsolve=version,
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


def memory_available() -> float:
    """Bytes that a new process may take; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    found = [x.split()[1] for x in lines if x.startswith("MemAvailable")]
    return 1024.0 * int(found[0]) if found else float("inf")


def write(rows: Iterable[Row], path: Path) -> Path:
    """Write all rows at once or none."""
    from ..data.files import write_atomic

    def to(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return write_atomic(path, to)


def read(path: str | Path) -> list[Row]:
    """The rows of a CSV of `hybridsolve bench`.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it has other columns, or no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a CSV that `hybridsolve bench` has written; found no such file.")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        found, rows = tuple(reader.fieldnames or ()), list(reader)
    if found != COLUMNS:
        other = [*(c for c in COLUMNS if c not in found), *(c for c in found if c not in COLUMNS)] or ["their order"]
        raise ValueError(
            f"{path} must have the columns of this version of `hybridsolve bench`; found another in {other[0]}: "
            "measure anew."
        )
    if not rows:
        raise ValueError(f"{path} must have a row or more of `hybridsolve bench`; found none: measure anew.")
    return rows
