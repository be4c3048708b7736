"""The command `hybridsolve bench`; what needs torch is imported where it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def bench_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--full", action="store_true", help="all shapes, peers, precisions and threads: hours")
    sub.add_argument(
        "--shapes", metavar="NAMES", help="these alone, joined by commas, or all (default: those of three minutes)"
    )
    sub.add_argument(
        "--peers",
        metavar="NAMES",
        help="all, none, or names joined by commas (default: the quick ones, with a few shapes)",
    )
    sub.add_argument("--list", action="store_true", help="print shapes and peers, and stop")
    sub.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two CSVs, or two commits of the checkout that take turns"
    )
    sub.add_argument("--table", nargs="+", metavar="CSV", help="print the tables of these in place of measuring")
    sub.add_argument("--readme", metavar="FILE", help="write the summary between its marks in this file too")
    sub.add_argument("--out", metavar="CSV", help="where to write, beside it figure and tables (bench-DATE.csv)")


def bench(arguments: argparse.Namespace) -> None:
    from . import cases, compare, implementations, machine, measure, report

    names = None if arguments.shapes is None else _list(arguments.shapes)
    chosen = cases.plan(names, arguments.full)
    peers = _peers(arguments.peers, arguments.full)
    quick = not arguments.full and arguments.peers is None  # peers are measured with a few shapes alone
    plan = [
        (case, implementations.chosen(case, peers if not quick or case.shape in cases.WITH_PEERS else []))
        for case in chosen
    ]
    if arguments.list:
        return _print_list()
    readme = None if arguments.readme is None else Path(arguments.readme)
    if readme is not None and not readme.is_file():
        raise FileNotFoundError(f"--readme must be a file that has the marks of the tables; found no {readme}.")
    if arguments.table and arguments.compare:
        raise ValueError("--table prints what was measured and --compare two runs; found both: leave one of them out.")
    effort = measure.FULL if arguments.full else measure.QUICK
    if arguments.compare and all(map(compare.is_csv, arguments.compare)):
        for line in compare.summary(compare.of_files(*arguments.compare), arguments.compare[1]):
            print(line)
        return
    if arguments.table:
        _show([row for path in arguments.table for row in machine.read(path)], readme)
        return
    out = _target(arguments.out)
    rows: list[machine.Row]
    if arguments.compare:
        first, second = arguments.compare
        rows = compare.of_commits(first, second, chosen, effort, True)
        lines = list(compare.summary(rows, second))
        print(f"wrote {machine.write(rows, out)}", *lines, sep="\n")
        return
    rows = []
    try:
        for row in measure.measured(plan, effort, True):
            rows.append(row)
    finally:  # what has been measured when it is stopped is kept
        if any(row["kind"] == "time" for row in rows):
            print(f"wrote {machine.write(rows, out)}")
    from ..data.files import write_atomic
    from ..plot.style import save

    print(f"wrote {save(report.figure(rows), out.with_suffix('.png'))}")
    text = "\n\n".join(report.tables(found) for found in report.by_machine(rows).values()) + "\n"
    print(f"wrote {write_atomic(out.with_suffix('.md'), lambda path: path.write_text(text, encoding='utf-8'))}\n")
    _show(rows, readme)


def _list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _peers(text: str | None, full: bool) -> list[str]:
    from .implementations import IMPLEMENTATIONS, OURS

    every = [name for name in IMPLEMENTATIONS if not name.startswith(OURS)]
    if text is None:
        return every if full else [name for name in every if not IMPLEMENTATIONS[name].slow]
    names = {"all": every, "none": []}.get(text.strip())
    if names is None:
        names = _list(text)
        for name in names:
            if name not in every:
                raise ValueError(f"a peer must be all, none, or one of {', '.join(every)}; found '{name}': correct it.")
    return names


def _print_list() -> None:
    from .cases import QUICK, SHAPES
    from .implementations import IMPLEMENTATIONS, OURS

    for name, cases in SHAPES.items():
        sizes = "; ".join(f"{case.model} {case.B} x {case.C} x {case.T}" for case in cases)
        print(f"{name:12} {sizes}{' (quick)' if name in QUICK else ''}")
    print("\npeers: " + ", ".join(name for name in IMPLEMENTATIONS if not name.startswith(OURS)))


def _target(out: str | None) -> Path:
    from datetime import datetime

    from ..data.files import check_target

    path = Path(out or f"bench-{datetime.now():%Y-%m-%dT%H%M}.csv")
    if path.suffix != ".csv":
        raise ValueError(
            f"--out must end in .csv, beside it go figure, .png, and tables, .md; found {path}: rename it."
        )
    for file in (path, path.with_suffix(".png"), path.with_suffix(".md")):
        if file.exists():
            raise FileExistsError(f"{file} is there already and would be replaced: name another by --out.")
        check_target("--out", file)
    return path


def _show(rows: list[Any], readme: Path | None) -> None:
    from . import report

    for found in report.by_machine(rows).values():
        print(report.tables(found) + "\n")
    if readme is not None:
        print(f"wrote {report.into_readme(readme, rows)}", file=sys.stderr)
