"""A run's rows as Markdown, whole and in short, which the README holds for each machine, and as a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cases import FORWARD, GRADIENT
from .implementations import OURS
from .machine import Row

BEGIN, END = "<!-- bench: {} -->", "<!-- end of bench -->"


def number(text: Any) -> str:
    """A number to three digits, without an exponent."""
    return f"{float(f'{float(text):.3g}'):,.10g}" if text not in ("", None) else ""


def machine_of(row: Row) -> str:
    return f"{row['machine']}, {row['isa']}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(rows: Sequence[Row]) -> str:
    """Speed by case and mode, who has none and why, and the exponents.

    Parameters
    ----------
    rows : sequence of Row
        Of one machine.
    """
    parts = [
        f"{_head(rows)} Share: of the time that the floor is, and what sets the floor (A arithmetic, M memory, L "
        "latency). Others take turns with hybridsolve; in brackets how many times as long they take."
    ]
    lines = []
    for (case, mode), (ours, others) in _timed(rows).items():
        share = [_share(row) for row in ours if row["share_of_floor"]]
        cells = [" ".join(number(r[name]) for r in ours) for name in ("value", "peak_MiB")]
        lines.append([case, mode, cells[0], *(share or [""]), cells[1], "; ".join(map(_beside, others))])
    parts.append(markdown(["case", "mode", "hybridsolve", "share", "peak MiB", "others"], lines))
    absent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if _is_time(row) and not row["median_s"]:
            absent.setdefault((row["implementation"], row["note"]), []).append(_case(row))
    parts += [f"{name} is not timed on {'; '.join(where)}: {note}." for (name, note), where in absent.items()]
    slopes = [row for row in rows if row["kind"] == "exponent" and row["implementation"] == OURS]
    if slopes:
        said = [f"{r['value']} {r['unit']} ({r.get('shape') or 'rivers'}, {r['model']}, {r['mode']})" for r in slopes]
        parts.append("Time grows with the power " + "; ".join(said) + ".")
    return "\n\n".join(parts)


def summary(rows: Sequence[Row]) -> str:
    """A line for each case: forward, with gradient, and of all others the fastest.

    Parameters
    ----------
    rows : sequence of Row
        Of one machine.
    """
    lines: dict[str, list[str]] = {}
    for (case, mode), (ours, others) in _timed(rows).items():
        line, at = lines.setdefault(case, [case, "", "", "", ""]), 1 + 2 * (mode == GRADIENT)
        line[at] = " ".join(number(r["value"]) + (f" ({_share(r)})" if r["share_of_floor"] else "") for r in ours)
        line[at + 1] = _beside(others[0]) if others else ""
    header = ["case", "forward", "fastest other", "forward + gradient", "fastest other"]
    said = (
        f"{_head(rows)} In brackets the share that the floor has of the time, by arithmetic, memory or latency; of "
        "others, how many times as long they take."
    )
    return f"{said}\n\n{markdown(header, list(lines.values()))}"


def _head(rows: Sequence[Row]) -> str:
    first, versions = rows[0], ", ".join(sorted({row["hybridsolve"] for row in rows}))
    return (
        f"{machine_of(first)}, {first['cores']} cores; hybridsolve {versions}, "
        f"torch {first['torch']}, Python {first['python']}; {first['date'][:10]}. Medians in million cell-steps, of "
        "rivers reach-steps, a second."
    )


def _is_time(row: Row) -> bool:
    return row["kind"] == "time" and not row["shape"].startswith("over-")


def _timed(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[list[Row], list[Row]]]:
    """By case and mode: hybridsolve's, and the others', the fastest first."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if _is_time(row) and row["median_s"]:
            cases.setdefault((_case(row), row["mode"]), []).append(row)
    return {
        key: (
            [row for row in found if row["implementation"] == OURS],
            sorted((r for r in found if r["implementation"] != OURS), key=lambda r: float(r["median_s"])),
        )
        for key, found in cases.items()
    }


def _share(row: Row) -> str:
    return f"{float(row['share_of_floor']):.0%} {row['floor'][0].upper()}"


def _case(row: Row) -> str:
    size = f"{int(row['B']):,} x {row['C']} x {row['T']}"
    if row["shape"].startswith("rivers"):
        size = f"{int(row['B']):,} reaches x {row['T']}"
    return f"{row['model']}, {size}, {row['dtype']}, {row['threads']} thread{'s' * (str(row['threads']) != '1')}"


def _beside(row: Row) -> str:
    ratio = f" ({number(row['ratio_to_ours'])} x)" if row["ratio_to_ours"] else ""
    return f"{row['implementation']} {number(row['value'])}{ratio}"


def by_machine(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(machine_of(row), []).append(row)
    return found


def into_readme(path: Path, rows: Sequence[Row]) -> Path:
    """Write the summary of each machine between its marks; a machine that is not there yet goes behind the last one.

    Raises
    ------
    ValueError
        If the file has no marks.
    """
    from ..data.files import write_atomic

    text = path.read_text(encoding="utf-8")
    for name, found in by_machine(rows).items():
        begin, made = BEGIN.format(name), f"{BEGIN.format(name)}\n{summary(found)}\n{END}"
        if begin in text:
            text = re.sub(f"{re.escape(begin)}.*?{re.escape(END)}", lambda _: made, text, count=1, flags=re.DOTALL)  # noqa: B023
        elif END in text:
            head, _, tail = text.rpartition(END)
            text = f"{head}{END}\n\n{made}{tail}"
        else:
            raise ValueError(
                f"{path} must have the line '{END}' where the tables go; found none: add '{BEGIN.format('none')}' and "
                "it."
            )
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def figure(rows: Sequence[Row]) -> Any:
    """Speed by case, a point an implementation, forward and with gradient; one precision, one thread."""
    from matplotlib.figure import Figure

    from ..plot.style import colour, styled

    @styled
    def drawn() -> Figure:
        kept = [r for r in rows if r["kind"] == "time" and r["value"] and not r["shape"].startswith("over-")]
        label = lambda r: f"{r['shape']}, {r['model']}, {r['dtype'][-2:]}, {r['threads']}"  # noqa: E731
        cases = list(dict.fromkeys(map(label, kept)))[::-1]
        names = list(dict.fromkeys(r["implementation"] for r in kept))
        size = (12.0, 2.2 + 0.32 * max(len(cases), 1))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, mode in zip(axes, (FORWARD, GRADIENT), strict=True):
            for k, name in enumerate(names):
                points = [(float(r["value"]), cases.index(label(r))) for r in kept
                          if (r["implementation"], r["mode"]) == (name, mode)]  # fmt: skip
                if points:
                    marker = "o" if name == OURS else "sD^vPX<>"[k % 8]
                    ax.scatter(*zip(*points, strict=True), label=name, color=colour(k), marker=marker)
            ax.set(xscale="log", xlabel="million steps of a cell or reach a second", title=mode)
            ax.set_yticks(range(len(cases)), cases)
            ax.grid(True, axis="both")
        axes[0].legend(loc="best", fontsize=8)
        if kept:
            figure.suptitle(f"{machine_of(kept[0])}; hybridsolve {kept[0]['hybridsolve']}; {kept[0]['date'][:10]}")
        return figure

    return drawn()
