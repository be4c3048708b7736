"""benchmarks/gpu.py goes all the way where there is no GPU too, with small sizes on the CPU."""

import csv
import subprocess
import sys

from conftest import ROOT


def rehearse(*options):
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_rehearsal_writes_every_kind_of_row(tmp_path):
    done = rehearse("--rehearse", "--csv", str(tmp_path / "gpu.csv"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "gpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["model"] for r in rows} == {"hbv10", "unit_hydrograph", "route todini", "route ddr"}
    assert {r["mode"] for r in rows} == {"forward", "forward + gradient"}
    assert sum("streamed" in r["note"] for r in rows) == sum("synthetic" in r["note"] for r in rows) == 1
    assert sum("ms a step" in r["note"] for r in rows) == 4
    timed = [r for r in rows if not r["note"]]
    assert len(timed) == 6 and all(float(r["floor_s"]) > 0 and float(r["median_s"]) > 0 for r in timed)


def test_where_it_cannot_write_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    done = rehearse("--rehearse", "--csv", str(tmp_path / "file" / "gpu.csv"))
    assert done.returncode != 0 and "agrees" not in done.stdout
