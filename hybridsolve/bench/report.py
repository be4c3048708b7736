"""A run's rows as Markdown, which the README holds for each machine, and as a figure."""

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
    """The tables of one machine: speed by case and implementation, exponents, ceilings.

    Parameters
    ----------
    rows : sequence of Row
        Of one machine.
    """
    first = rows[0]
    versions = sorted({row["hybridsolve"] for row in rows})
    parts = [
        f"{machine_of(first)}, {first['cores']} cores; hybridsolve {', '.join(versions)}, torch {first['torch']}, "
        f"Python {first['python']}; {first['date'][:10]}. Medians in million cell-steps, of rivers reach-steps, a "
        "second. In brackets, of hybridsolve: the floor's share of its time, and what sets the floor (A arithmetic, M "
        "memory, L latency); of others: how many times as long they take in turns with it."
    ]
    cases: dict[tuple, dict[str, dict[str, Row]]] = {}
    for row in (row for row in rows if row["kind"] == "time" and not row["shape"].startswith("over-")):
        key = tuple(row[k] for k in ("shape", "model", "B", "C", "T", "dtype", "threads"))
        cases.setdefault(key, {}).setdefault(row["implementation"], {})[row["mode"]] = row
    lines = []
    for (shape, model, b, c, t, dtype, threads), found in cases.items():
        size = f"{int(b):,} reaches x {t}" if shape.startswith("rivers") else f"{int(b):,} x {c} x {t}"
        for name, modes in found.items():
            note = modes.get("", {}).get("note", "")
            cells = [note, ""] if note else [_speed(modes.get(mode)) for mode in (FORWARD, GRADIENT)]
            memory = number(modes.get(GRADIENT, modes.get(FORWARD, {})).get("peak_MiB", ""))
            where = f"{model}, {size}, {dtype}, {threads} thread{'s' * (str(threads) != '1')}"
            lines.append([where, name, *cells, memory])
    parts.append(markdown(["case", "by", "forward", "with gradient", "peak MiB"], lines))
    slopes = [row for row in rows if row["kind"] == "exponent" and row["implementation"] == OURS]
    if slopes:
        said = [f"{row['value']} {row['unit']} ({row['model']}, {row['mode']})" for row in slopes]
        parts.append("Time grows with the power " + "; ".join(said) + ".")
    return "\n\n".join(parts)


def _speed(row: Row | None) -> str:
    if not row:
        return "–"
    if row.get("ratio_to_ours"):
        return f"{number(row['value'])} ({number(row['ratio_to_ours'])} x)"
    share = row.get("share_of_floor")
    return number(row["value"]) + (f" ({float(share):.0%} {row['floor'][0].upper()})" if share else "")


def by_machine(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(machine_of(row), []).append(row)
    return found


def into_readme(path: Path, rows: Sequence[Row]) -> Path:
    """Write the tables of each machine between its marks; a machine that is not there yet goes behind the last one.

    Raises
    ------
    ValueError
        If the file has no marks.
    """
    from ..data.files import write_atomic

    text = path.read_text(encoding="utf-8")
    for name, found in by_machine(rows).items():
        begin, made = BEGIN.format(name), f"{BEGIN.format(name)}\n{tables(found)}\n{END}"
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

    from ..plot.style import CYCLE, styled

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
                    marker = "o" if name == OURS else "sD^vPX<>"[k // len(CYCLE) % 8]
                    ax.scatter(*zip(*points, strict=True), label=name, color=CYCLE[k % len(CYCLE)], marker=marker)
            ax.set(xscale="log", xlabel="million steps of a cell or reach a second", title=mode)
            ax.set_yticks(range(len(cases)), cases)
            ax.grid(True, axis="both")
        axes[0].legend(loc="best", fontsize=8)
        if kept:
            figure.suptitle(f"{machine_of(kept[0])}; hybridsolve {kept[0]['hybridsolve']}; {kept[0]['date'][:10]}")
        return figure

    return drawn()
