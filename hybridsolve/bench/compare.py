"""Two runs side by side: two CSVs, or two commits that are built aside and take turns."""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import machine
from .cases import Case
from .machine import CASE, Row
from .measure import Effort, compared

KEY = (*CASE, "implementation")


def is_csv(name: str) -> bool:
    return name.lower().endswith(".csv") or Path(name).is_file()


def of_files(first: str, second: str) -> list[Row]:
    """The rows of the second that the first has too, with the ratio of their times.

    Raises
    ------
    FileNotFoundError, ValueError
        As `machine.read`; or if the two have no case in common.
    """
    before = {tuple(row[k] for k in KEY): row for row in machine.read(first) if row["median_s"]}
    after = machine.read(second)
    machines = [sorted({f"{row['machine']}, {row['isa']}" for row in rows}) for rows in (before.values(), after)]
    if machines[0] != machines[1]:
        here, there = (" and ".join(names) for names in machines)
        warnings.warn(f"{first} is of {here}, {second} of {there}: the ratios are those of machines too.", stacklevel=2)
    found = []
    for row in after:
        other = before.get(tuple(row[k] for k in KEY))
        if other is not None and row["median_s"]:
            found.append(row | dict(ratio_to_ours=f"{float(row['median_s']) / float(other['median_s']):.3f}"))
    if not found:
        raise ValueError(
            f"{first} and {second} must have a case in common; found none: measure the same shapes in both."
        )
    return found


def of_commits(first: str, second: str, cases: Sequence[Case], effort: Effort, progress: bool) -> list[Row]:
    """The rows of two commits, built in temporary folders.

    Raises
    ------
    ValueError
        If this is no checkout, or it has no such commit.
    RuntimeError
        If one cannot be built, or does not pass the gate.
    """
    if not machine.is_checkout():
        raise ValueError(
            "--compare of two commits needs a checkout of hybridsolve's repository; found an installed package: name "
            "two CSVs, or run it in a checkout."
        )
    labels = []
    for name in (first, second):
        found = machine.git("rev-parse", "--verify", "--quiet", "--short", "--end-of-options", f"{name}^{{commit}}")
        if found.returncode != 0:
            raise ValueError(f"--compare takes two CSVs or two commits; found '{name}', which is neither: correct it.")
        labels.append(found.stdout.strip())
    with tempfile.TemporaryDirectory() as folder:
        roots = [(label, Path(folder, f"{k}-{label}")) for k, label in enumerate(labels)]
        for label, root in roots:
            print(f"building {label} takes minutes", file=sys.stderr)
            _build(label, root)
        return list(compared(cases, roots, effort, progress))


def _build(commit: str, root: Path) -> None:
    """The commit's files with its compiled parts, and this version's way of measuring beside them."""
    root.mkdir()
    archive = root / "archive.tar"
    machine.git("archive", "--output", str(archive), commit)
    with tarfile.open(archive) as files:
        files.extractall(root, filter="data")
    archive.unlink()
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise RuntimeError(f"commit {commit} must build by setup.py; found that it fails ({said}): compare another.")
    shutil.copytree(Path(__file__).parent, root / "measuring", ignore=shutil.ignore_patterns("__pycache__"))


def summary(rows: Sequence[Row], second: str) -> Iterator[str]:
    """Lines of the ratios and their geometric mean."""
    ratios = []
    for row in rows:
        if row.get("ratio_to_ours"):
            ratios.append(float(row["ratio_to_ours"]))
            what = f"{row['B']} x {row['C']} x {row['T']}, {row['dtype']}, threads {row['threads']}"
            yield f"{ratios[-1]:6.3f}  {row['shape']}, {row['model']}, {what}, {row['mode']}, {row['implementation']}"
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    yield f"{mean:6.3f}  geometric mean of {len(ratios)}: seconds of {second} over those of the other"
