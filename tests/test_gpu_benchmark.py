"""benchmarks/gpu.py goes all the way where there is no GPU too, and what fails on the way ends nothing but itself."""

import contextlib
import csv
import io
import json
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("triton", reason="triton is not installed")
from benchmarks import gpu  # noqa: E402


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_rehearsal_writes_every_kind_of_row(tmp_path, monkeypatch):
    def here(arguments, limit, **options):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = gpu.main(arguments)
        return "" if status == 0 else said.getvalue(), said.getvalue()

    monkeypatch.setattr(gpu, "apart", here)
    assert gpu.main(["--rehearse", "--csv", str(tmp_path / "gpu.csv")]) == 0
    rows = rows_of(tmp_path / "gpu.csv")
    assert {r["model"] for r in rows} == {"hbv10", "hbv11p", "unit_hydrograph", "route todini", "route ddr"}
    assert {r["mode"] for r in rows} == {"forward", "forward + gradient"}
    assert {r["dtype"] for r in rows if r["model"] == "hbv11p"} == {"float32", "float64"}
    assert sum("streamed" in r["note"] for r in rows) == sum("synthetic" in r["note"] for r in rows) == 1
    assert sum("ms a step" in r["note"] for r in rows) == 4
    loops = [r for r in rows if r["latency_floor_s"]]
    assert len(loops) == 10
    for r in loops:
        assert float(r["call_s"]) > 0 and float(r["kernel_s"]) > 0
        largest = max(float(r["memory_floor_s"]), float(r["latency_floor_s"]))
        assert float(r["share_of_floor"]) == pytest.approx(largest / float(r["kernel_s"]), abs=1e-3)


def test_a_group_runs_in_a_process_of_its_own(tmp_path, capfd):
    assert gpu.main(["--rehearse", "--only", "hydrograph", "--csv", str(tmp_path / "gpu.csv")]) == 0
    said = capfd.readouterr().out
    assert said.startswith("python: ") and "setuptools: " in said and "reference: available" in said
    assert [r["model"] for r in rows_of(tmp_path / "gpu.csv")] == ["unit_hydrograph"] * 2


def test_a_group_that_crashes_or_hangs_leaves_the_rows_of_the_others(tmp_path, monkeypatch, capsys):
    path = tmp_path / "gpu.csv"
    adds = (
        f"import csv, os, sys, time; row = dict.fromkeys({gpu.COLUMNS}, ''); file = open({str(path)!r}, 'a'); "
        f"csv.DictWriter(file, {gpu.COLUMNS}, lineterminator='\\n').writerow(row); file.close(); "
    )
    codes = {
        "opening": f"print({json.dumps(dict(names=['cpu'], ceilings={}))!r})",
        "kernels": adds,
        "hydrograph": adds + "os.abort()",
        "routing": adds + f"sys.exit({gpu.FAILED})",
        "scale": adds + "time.sleep(60)",
        "eager": adds,
    }
    monkeypatch.setattr(
        gpu, "command", lambda *given: [sys.executable, "-c", codes[given[given.index("--worker") + 1]]]
    )
    assert gpu.main(["--rehearse", "--limit", "2", "--csv", str(path)]) == 1
    assert len(rows_of(path)) == 5
    said = capsys.readouterr().out
    assert "hydrograph on cpu: ended with status -6" in said
    assert "routing on cpu: measured in part; see above" in said
    assert "scale on cpu: stopped after 2 s" in said
    assert "kernels on cpu" not in said and "eager on eager" not in said
    assert gpu.main(["--rehearse", "--seconds", "0", "--only", "kernels", "--csv", str(path)]) == 1
    assert "kernels on cpu: no time was left of 0 s" in capsys.readouterr().out and len(rows_of(path)) == 5


@pytest.fixture
def of_kernels(tmp_path, monkeypatch):
    """Runs the group in this process; returns its status and its rows."""
    path = tmp_path / "gpu.csv"
    gpu.begin(path)
    ceilings = json.dumps(dict(copy_bytes_per_s=1e9, fp32_instructions_per_s=1e12))
    given = ["--rehearse", "--worker", "kernels", "--backend", "cpu", "--csv", str(path), "--ceilings", ceilings]
    return lambda: (gpu.main(given), rows_of(path))


def test_what_fails_its_check_is_not_timed_and_the_rest_is(of_kernels, monkeypatch, capsys):
    right, forgotten = gpu.check, []

    def check(card, backend, model, dtype):
        if (model, dtype) == ("hbv10", "float32"):
            raise AssertionError("off by 1.1e-3\nand more")
        right(card, backend, model, dtype)

    monkeypatch.setattr(gpu, "check", check)
    monkeypatch.setattr(gpu.faults, "drain", lambda: forgotten.append(True))
    status, rows = of_kernels()
    assert status == gpu.FAILED and forgotten == [True]
    assert {r["model"] for r in rows} == {"hbv11p"} and len(rows) == 6
    assert "not measured: check ('cpu', 'hbv10'): AssertionError: off by 1.1e-3\n" in capsys.readouterr().out
    assert all(r["arithmetic_floor_s"] for r in rows if r["dtype"] == "float32")


def test_kernels_that_cannot_be_timed_alone_leave_the_whole_call(of_kernels, monkeypatch):
    def not_captured(card, work):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu.Card, "kernels", not_captured)
    status, rows = of_kernels()
    assert status == gpu.FAILED and len(rows) == 10
    assert all(float(r["call_s"]) > 0 and not r["kernel_s"] and r["note"] == "kernels not timed" for r in rows)


def test_where_it_cannot_write_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "command", lambda *given: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        gpu.main(["--rehearse", "--csv", str(tmp_path / "file" / "gpu.csv")])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="other.csv must be a CSV of this benchmark; found another"):
        gpu.main(["--rehearse", "--csv", str(tmp_path / "other.csv")])
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"


def test_everything_is_imported_where_nothing_is_installed():
    """From a bare checkout, which has no metadata."""
    code = """if True:
        from importlib import metadata
        right = metadata.version
        def version(name):
            if name == "hybridsolve":
                raise metadata.PackageNotFoundError(name)
            return right(name)
        metadata.version = version
        import hybridsolve
        from benchmarks import gpu
        from hybridsolve.training import trained
        from hybridsolve.data import netcdf
        print(hybridsolve.__version__, trained.__version__)
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "0+source 0+source"), done.stderr
