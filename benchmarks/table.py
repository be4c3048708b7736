"""CSV to the Markdown that the README shows: `python -m benchmarks.table [CSV ...]`, else the latest."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from .cases import FORWARD, PEAK_MEMORY
from .record import RESULTS

OPERATIONS = {"hbv10": 140}  # vector instructions of one cell-step forward, estimated
BASIN_STEP_BYTES = 16  # three forcings in, streamflow out, float32


def share_of_ceiling(row: dict) -> str:
    """The time the machine needs at least (arithmetic or memory, whichever is more) over the time taken."""
    known = row["model"] in OPERATIONS and row["vector_ops_per_s"]
    if not known or (row["mode"], row["dtype"], row["threads"]) != (FORWARD, "float32", "1"):
        return ""
    basin_steps = int(row["B"]) * int(row["T"])
    instructions = OPERATIONS[row["model"]] * basin_steps * int(row["C"]) / int(row["lanes"])
    arithmetic = instructions / float(row["vector_ops_per_s"])
    memory = BASIN_STEP_BYTES * basin_steps / float(row["copy_bytes_per_s"])
    return f"{max(arithmetic, memory) / float(row['median_s']):.0%} ({'AM'[memory > arithmetic]})"


def case_cells(row: dict) -> list[str]:
    threads = f"{row['threads']} thread" + "s" * (row["threads"] != "1")
    return [
        row["model"],
        f"{row['B']} x {row['C']} x {row['T']}",
        row["mode"],
        f"{row['dtype']}, {threads}",
        row["implementation"],
    ]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render(rows: list[dict]) -> str:
    speed = [row for row in rows if row["mode"] != PEAK_MEMORY]
    memory = [row for row in rows if row["mode"] == PEAK_MEMORY]
    case = ["model", "basins x components x steps", "mode", "precision", "implementation"]
    parts = []
    for r in rows:
        source = f"{r['machine']}, {r['cores']} cores, {r['isa']}; torch {r['torch']}; {r['date'][:10]}."
        parts += [source] if source not in parts else []
    if speed:
        header = [*case, "median s (IQR)", "million cell-steps/s"]
        header += ["times the best compiled loop", "share of ceiling"]
        body = []
        for r in speed:
            time = f"{float(r['median_s']):.3g} ({float(r['iqr_s']):.1g})"
            rate, ratio = r["million_cell_steps_per_s"], r["ratio_to_compiled"]
            body.append([*case_cells(r), time, rate, ratio, share_of_ceiling(r)])
        parts.append(markdown(header, body))
        parts.append(
            "Ceiling, one thread, forward: the larger of arithmetic (A; about 140 vector instructions a "
            "cell-step) and memory traffic (M; 16 bytes a basin-step), both measured in the same run."
        )
    if memory:
        header = [*case, "peak MiB above the footprint before the call", "MiB of all states of all steps"]
        parts.append(markdown(header, [[*case_cells(r), r["peak_MiB"], r["all_states_MiB"]] for r in memory]))
    return "\n\n".join(parts)


def main() -> None:
    paths = [Path(x) for x in sys.argv[1:]]
    if not paths:
        newest = (sorted(RESULTS.glob(f"{kind}-*.csv"))[-1:] for kind in ("solver", "memory"))
        paths = [path for found in newest for path in found]
    if not paths:
        sys.exit(f"no CSV in {RESULTS}: run `pytest benchmarks` first, or name a file.")
    rows = []
    for path in paths:
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    print(render(rows))


if __name__ == "__main__":
    main()
