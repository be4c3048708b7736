"""The command line's manners: what means nothing is refused before anything runs, and every end is one sentence."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.data import write_netcdf

TRAIN, TEST = "2001-01-01:2001-12-31", "2002-01-01:2002-06-30"
PERIODS = ["--train", TRAIN, "--warmup-years", "1", "--starts", "2", "--steps", "2"]
IDS = ["01013500", "01022500", "01030500"]


def daily(n=1000):
    """Three basins of random weather and flow, of which the last is not observed after the training."""
    random = np.random.default_rng(0)
    day = pd.date_range("2000-01-01", periods=n)
    season = np.cos(2 * np.pi * day.dayofyear.to_numpy() / 365.25)[:, None]
    series = {
        "prcp": ("mm d-1", random.gamma(0.4, 8.0, (n, 3))),
        "tmean": ("degC", 9 - 10 * season + random.normal(0, 2, (n, 3))),
        "pet": ("mm d-1", 2 - 1.5 * season + 0 * random.random((1, 3))),
        "qobs": ("mm d-1", random.gamma(1, 1.5, (n, 3))),
    }
    series["qobs"][1][731:, 2] = np.nan
    return xr.Dataset(
        {
            name: (("time", "basin"), values.astype("float32"), {"units": unit})
            for name, (unit, values) in series.items()
        },
        coords=dict(time=day, basin=IDS, lat=("basin", [45.0, 46, 47]), lon=("basin", [-68.0, np.nan, -70])),
    )


@pytest.fixture(scope="module", autouse=True)
def plain_figures():
    """Figures take a second each, and a test of their own: here an empty one."""
    from hybridsolve import plot
    from hybridsolve.calibration import report

    def figures(result, basin=None, references=None):
        return {"hydrograph": lambda: plot.Figure((1, 1))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "figures", figures)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data file, faulty ones, tables of scores, and a finished calibration in `run`."""
    path = tmp_path_factory.mktemp("cli")
    write_netcdf(daily(), path / "d.nc")
    for name, variable, day, value in (("gap", "prcp", 100, np.nan), ("hot", "tmean", 200, 200.0)):
        ds = daily()
        ds[variable].values[day, 1] = value
        write_netcdf(ds, path / f"{name}.nc")
    for name, text in (
        ("other", "basin,nse\n7,0.5\n"),
        ("bare", "basin,nse\n1013500,0.5\n"),
        ("words", "basin,nse\n01013500,good\n"),
        ("empty", ""),
        ("good", "basin,nse\n01013500,0.5\n"),
    ):
        (path / f"{name}.csv").write_text(text)
    assert run(path, "calibrate", "d.nc", *PERIODS, "--test", TEST, "--out", "run")[0] == 0
    return path


def run(folder, *arguments):
    """Exit status, stdout and stderr of a command in a folder."""
    import contextlib
    import io

    out, err, here = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main([str(a) for a in arguments])
    finally:
        os.chdir(here)
    return status, out.getvalue(), err.getvalue()


def refused(folder, match, *arguments, status=2):
    """The command ends with one sentence that matches, and leaves nothing but, once it has begun, a lock."""
    before = sorted(folder.rglob("*"))
    found, out, err = run(folder, *arguments)
    lines = err.splitlines()
    assert found == status and not out, (found, out, err)
    said = lines[-1]
    assert re.search(match, said), said
    assert said.startswith("hybridsolve") and said.endswith(".") and not re.search(r"[.!?]\s+[A-Z]", said), said
    assert "Traceback" not in err
    made = {path.name for path in folder.rglob("*") if path not in before}
    assert made <= {"new", ".lock"}, made
    return said


MEANINGLESS = {
    "negative warm-up": (["--warmup-years", "-1"], "warmup_years must be a finite number, 0 or more; found -1"),
    "infinite warm-up": (["--warmup-years", "inf"], "warmup_years .* found inf"),
    "warm-up of no number": (["--warmup-years", "nan"], "warmup_years .* found nan"),
    "no basins": (["--basins", ","], "basins must name at least one basin"),
    "blank basins": (["--basins", ""], "basins must name at least one basin"),
    "no steps": (["--steps", "0"], "steps must be a whole number, 1 or more; found 0"),
    "no starts": (["--starts", "0"], "starts must be a whole number, 1 or more; found 0"),
    "no ensemble": (["--ensemble", "0"], "ensemble must be a whole number, 1 or more; found 0"),
    "half a start": (["--starts", "1.5"], "argument --starts: invalid int value: '1.5'; see"),
    "no threads": (["--threads", "0"], "--threads must be a whole number, 1 to 1024; found 0"),
    "negative threads": (["--threads", "-1"], "--threads .* found -1"),
    "a million threads": (["--threads", "1000000"], "--threads .* found 1000000"),
    "negative seed": (["--seed", "-1"], "seed must be a whole number, 0 to 9223372036854775807; found -1"),
    "seed beyond 63 bits": (["--seed", str(2**63)], "seed must be .* found 9223372036854775808"),
    "empty training": (["--train", ""], "period is malformed, .* found ''"),
    "empty validation": (["--validation", ""], "period is malformed, .* found ''"),
    "empty test": (["--test", ""], "period is malformed, .* found ''"),
    "test in training": (
        ["--test", "2001-12-01:2002-06-30"],
        "the test period 2001-12-01:2002-06-30 overlaps the train period 2001-01-01:2001-12-31 from 2001-12-01 to "
        "2001-12-31",
    ),
    "test in validation": (
        ["--test", TEST, "--validation", "2002-06-01:2002-07-01"],
        "the test period .* overlaps the validation period .* from 2002-06-01 to 2002-06-30",
    ),
    "validation in training": (["--validation", TRAIN], "the validation period .* overlaps the train period"),
    "resumed and overwritten": (["--resume", "--overwrite"], "--resume .* and --overwrite .*; give one of them"),
    "unknown option": (["--bogus"], "unrecognized arguments: --bogus; see hybridsolve calibrate --help"),
    "hydrograph of another": (["--hydrograph", "7"], "basin '7' of the hydrograph is not among the 3 of the run"),
    "hydrograph without zero": (["--hydrograph", "1013500"], "basin '1013500' .* write it as there, '01013500'"),
    "reference of none": (["--reference", "absent.csv"], "absent.csv does not exist"),
    "reference of others": (["--reference", "other.csv"], "other.csv must have basins of the data, such as '01013500'"),
    "reference without zero": (["--reference", "bare.csv"], "bare.csv has basin '1013500', .* have '01013500'"),
    "reference of words": (["--reference", "words.csv"], "nse of words.csv must be numbers; found 'good'"),
    "empty reference": (["--reference", "empty.csv"], "empty.csv must be a table with a header, found no line"),
}


@pytest.mark.parametrize("more, match", MEANINGLESS.values(), ids=MEANINGLESS)
def test_what_means_nothing_is_refused_before_the_work(folder, more, match, monkeypatch):
    monkeypatch.setattr("hybridsolve.calibration.fit.search_blocks", None)
    refused(folder, match, "calibrate", "d.nc", *PERIODS, "--out", "new", *more)


SIMULATE = {
    "no flux": (["--fluxes", ","], "--fluxes must name one series or more, each once; found ','"),
    "a flux twice": (["--fluxes", "q0,q0"], "--fluxes must name .* found 'q0,q0'"),
    "unknown flux": (["--fluxes", "fog"], "hbv11p has no flux 'fog'"),
    "unknown member": (["--member", "worst"], "unknown member 'worst'; expected best or ensemble"),
    "negative warm-up": (["--warmup-years", "-1"], "warmup_years must be a finite number, 0 or more; found -1"),
    "infinite warm-up": (["--warmup-years", "inf"], "warmup_years .* found inf"),
    "a period of one day": (["--period", "2001-01-01"], "period is malformed"),
    "data as output": (["--out", "d.nc"], "--out must not be the data, found both d.nc"),
    "parameters as output": (["--out", "run/calibration.nc"], "--out must not be the parameters"),
    "basins as output": (["--basins", "good.csv", "--out", "good.csv"], "--out must not be --basins"),
    "no folder": (["--out", "absent/sim.nc"], "the folder of --out absent/sim.nc must exist"),
    "a folder": (["--out", "run"], "--out must be a file to write, found the folder run"),
}


@pytest.mark.parametrize("more, match", SIMULATE.values(), ids=SIMULATE)
def test_simulate_refuses_before_the_data_are_read(folder, more, match, monkeypatch):
    monkeypatch.setattr("hybridsolve.data.open_dataset", None)
    refused(folder, match, "simulate", "run/calibration.nc", "d.nc", *more)


FOREIGN = {
    "other data": (lambda p: daily(), "no attribute 'model'"),
    "no attributes": (lambda p: p.drop_attrs(), "no attribute 'model'"),
    "another model": (lambda p: p.assign_attrs(model="gr9j"), "one of the model 'gr9j'"),
    "a lost parameter": (lambda p: p.drop_vars("fc"), r"no variable fc\(basin, start\)"),
    "a single start": (lambda p: p.isel(start=0), r"no variable beta\(basin, start\)"),
    "text": (lambda p: p.assign(fc=p["fc"].astype(str)), "'fc' as"),
    "no ids": (lambda p: p.drop_vars("basin"), "no ids of the basins"),
    "a basin twice": (lambda p: p.isel(basin=[0, 0]), "must be unique; found '01013500' more than once"),
    "more starts than there are": (lambda p: p.assign_attrs(ensemble_size=9), "ensemble_size of 9 from 2 starts"),
    "out of bounds": (
        lambda p: p.assign(fc=p["fc"] * 0),
        r"'fc' of .* must lie in \[50, 1000\] mm, found 0 in basin 01013500",
    ),
}


@pytest.mark.parametrize("change, match", FOREIGN.values(), ids=FOREIGN)
def test_foreign_parameters_are_named_by_file(folder, change, match, tmp_path):
    with xr.open_dataset(folder / "run" / "calibration.nc") as stored:
        write_netcdf(change(stored.load()), tmp_path / "foreign.nc")
    assert "foreign.nc" in refused(folder, match, "simulate", tmp_path / "foreign.nc", "d.nc")


def test_another_evapotranspiration_is_refused_or_said(folder):
    arguments = ["simulate", "run/calibration.nc", "d.nc", "--pet", "oudin", "--out", "oudin.nc"]
    refused(folder, "calibrated with .* 'as in the data', found 'oudin' .*; open them with their own", *arguments)
    assert run(folder, *arguments, "--allow-other-method")[0] == 0
    with xr.open_dataset(folder / "oudin.nc") as made:
        assert made.attrs["pet_method"] == "oudin" and made.attrs["calibrated_pet_method"] == "as in the data"
        assert "evapotranspiration 'oudin', calibrated with 'as in the data'" in made.attrs["title"]


def test_an_overlap_is_written_into_the_result(folder):
    status, out, _ = run(folder, "calibrate", "d.nc", *PERIODS, "--test", TRAIN, "--out", "overlap", "--allow-overlap")
    assert status == 0 and f"the test period {TRAIN} overlaps the train period" in out
    for name in ("calibration.nc", "streamflow.nc"):
        with xr.open_dataset(folder / "overlap" / name) as made:
            assert "overlaps the train period" in made.attrs["overlap"] and made.attrs["overlap"] in made.attrs["title"]


def test_gaps_and_absurd_values_are_told_by_basin_and_date(folder):
    gap = "basin 01022500 cannot be used: prcp is missing on 1 days from 2000-04-10 to 2000-04-10"
    hot = r"forcing 'tmean' must lie in \[-150, 150\] degC; found 200 in basin 01022500 on 2000-07-19"
    for command in (["calibrate"], ["simulate", "run/calibration.nc"]):
        more = [*PERIODS, "--out", "new"] if command == ["calibrate"] else ["--out", "new.nc"]
        refused(folder, gap, *command, "gap.nc", *more)
        refused(folder, hot, *command, "hot.nc", *more)


def test_unusable_basins_are_left_out_everywhere(folder):
    status, out, err = run(folder, "calibrate", "gap.nc", *PERIODS, "--test", TEST, "--out", "gap", "--skip-unusable")
    assert status == 0 and "2 basins (1 left out)" in out and err.count("basin 01022500 cannot be used") == 1
    assert re.search(r"test +best.* 0 +1$", out, re.M), "none failed, one is not scored"
    with xr.open_dataset(folder / "gap" / "calibration.nc") as made:
        assert made["fc"].isnull().values[:, 0].tolist() == [False, True, False]
    arguments = ["simulate", "gap/calibration.nc", "d.nc", "--out", "left.nc"]
    refused(folder, r"1 basins were left out of the calibration \(01022500\)", *arguments)
    assert run(folder, *arguments, "--skip-unusable")[0] == 0
    with xr.open_dataset(folder / "left.nc") as made:
        assert made["basin"].values.tolist() == [IDS[0], IDS[2]] and made["streamflow"].notnull().all()


def test_a_figure_that_cannot_be_drawn_is_a_note_after_the_numbers(folder, monkeypatch):
    from matplotlib.figure import Figure

    from hybridsolve.calibration import report

    def broken():
        assert (folder / "drawn" / "scores_best.csv").exists() and (folder / "drawn" / "test_looks.log").exists()
        raise KeyError("ink")

    monkeypatch.setattr(report, "figures", lambda *a: {"broken": broken, "torn": broken, "whole": lambda: Figure()})
    status, out, err = run(folder, "calibrate", "d.nc", *PERIODS, "--test", TEST, "--out", "drawn")
    assert status == 0 and "note: the figures broken, torn are not drawn: 'ink'; all numbers are written.\n" in err
    assert "broken.png" not in out and "whole.png" in out and (folder / "drawn" / "whole.png").exists()


def test_a_folder_of_another_run_is_kept(folder):
    before = (folder / "run" / "calibration.nc").read_bytes()
    arguments = ["calibrate", "d.nc", *PERIODS, "--seed", "7", "--out", "run"]
    refused(
        folder, r"run holds another run \(checkpoint.pt, calibration.nc, .*\); go on with it by --resume", *arguments
    )
    refused(folder, "run/checkpoint.pt is of another calibration", *arguments, "--resume")
    assert (folder / "run" / "calibration.nc").read_bytes() == before
    (folder / "mine").mkdir()
    shutil.copy(folder / "d.nc", folder / "mine" / "streamflow.nc")
    arguments = ["calibrate", "mine/streamflow.nc", *PERIODS, "--out", "mine"]
    refused(folder, r"mine holds another run \(streamflow.nc\)|must not be the data", *arguments)
    refused(folder, "streamflow.nc of --out must not be the data", *arguments, "--overwrite")
    refused(folder, "d.nc must be a folder for results", "calibrate", "d.nc", *PERIODS, "--out", "d.nc")
    shutil.copytree(folder / "run", folder / "again")
    assert run(folder, "calibrate", "d.nc", *PERIODS, "--seed", "7", "--out", "again", "--overwrite")[0] == 0
    assert (folder / "again" / "calibration.nc").read_bytes() != before


@pytest.mark.parametrize("kind", ("half", "empty", "foreign", "a list"))
def test_a_damaged_checkpoint_is_named(folder, kind, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "o")
    checkpoint = tmp_path / "o" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    if kind in ("half", "empty"):
        checkpoint.write_bytes(whole[: len(whole) // 2 if kind == "half" else 0])
    else:
        torch.save({"weights": torch.zeros(2)} if kind == "foreign" else [1], checkpoint)
    status, _, err = run(folder, "calibrate", "d.nc", *PERIODS, "--test", TEST, "--out", tmp_path / "o", "--resume")
    said = err.splitlines()[-1]
    assert status == 2 and "checkpoint.pt" in said and "remove it and calibrate anew" in said
    assert "weights_only" not in err and "Traceback" not in err


def test_two_processes_in_one_folder(folder):
    """The lock is the kernel's: it goes with its process, however that ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfrom hybridsolve.data.files import locked\n"
         "with locked('shared'):\n    print('in', flush=True)\n    time.sleep(60)"],
        cwd=folder, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"in\n"
        arguments = ["calibrate", "d.nc", *PERIODS, "--out", "shared"]
        refused(folder, f"shared is in use by process {holder.pid} on .*; wait for it to end", *arguments)
    finally:
        holder.kill()
        holder.wait()
    assert run(folder, *arguments)[0] == 0


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_any_command(monkeypatch, capsys, number, status):
    before = signal.getsignal(number)
    monkeypatch.setattr(cli, "_info", lambda _: os.kill(os.getpid(), number) or time.sleep(1))
    assert cli.main(["info"]) == status and signal.getsignal(number) is before
    assert capsys.readouterr().err == "hybridsolve info: stopped; what was finished is kept.\n"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_inside_the_search_keeps_its_state(folder, number, status, monkeypatch):
    from hybridsolve.calibration import search

    out = folder / f"stopped{number}"
    arguments = ["calibrate", "d.nc", *PERIODS[:-1], "6", "--out", out]
    step = search.LeastSquaresSearch.step
    with monkeypatch.context() as patch:

        def meets_a_signal(self):
            if self.done == 3:
                os.kill(os.getpid(), number)
            step(self)

        patch.setattr(search.LeastSquaresSearch, "step", meets_a_signal)
        found, said, err = run(folder, *arguments)
    assert (
        found == status and not said and err.endswith("\nhybridsolve calibrate: stopped; what was finished is kept.\n")
    )
    assert torch.load(out / "checkpoint.pt", weights_only=True)["search"]["done"] == 4, "the step was ended first"
    assert run(folder, *arguments, "--resume")[0] == 0
    whole = hs.calibrate(
        hs.data.open_dataset(folder / "d.nc"), train=TRAIN, warmup_years=1, starts=2, steps=6, progress=False
    )
    with xr.open_dataset(out / "calibration.nc") as resumed:
        np.testing.assert_array_equal(resumed["fc"], whole["fc"])


def test_the_bar_ends_before_an_error_is_printed(folder, monkeypatch):
    def fails(self):
        raise ValueError("no more.")

    monkeypatch.setattr("hybridsolve.calibration.search.LeastSquaresSearch.step", fails)
    status, out, err = run(folder, "calibrate", "d.nc", *PERIODS, "--out", "barred")
    assert status == 2 and not out and "0/2" in err and err.endswith("\nhybridsolve calibrate: no more.\n")


def test_what_nobody_foresaw_is_a_fault_with_its_place(monkeypatch, capsys):
    monkeypatch.setattr("hybridsolve.solve.backends.describe", lambda: {}["absent"])
    assert cli.main(["info"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"hybridsolve info: a fault of hybridsolve itself, KeyError: 'absent', at cli.py:\d+; report it, "
        r"HYBRIDSOLVE_TRACEBACK=1 shows all\.\n", said
    ), said  # fmt: skip
    monkeypatch.setenv("HYBRIDSOLVE_TRACEBACK", "1")
    assert cli.main(["info"]) == 1 and "Traceback" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.setattr(cli, "_info", lambda _: __import__("yaml"))
    assert cli.main(["info"]) == 2
    assert re.search(
        r"info: this command needs pyyaml, .*: pip install 'hybridsolve\[data\]'\.\n$", capsys.readouterr().err
    )


def test_the_package_of_the_demo_is_named_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "spotpy", None)
    assert cli.main(["calibrate", "fulda", "--train", "1980-01-01:1985-12-31", "--out", "absent/run"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"calibrate: the Fulda example needs spotpy.*hybridsolve\[demo\]'\.\n$", said)


def test_notes_are_said_once_and_libraries_keep_theirs(monkeypatch, capsys):
    def warns(_):
        for _ in range(3):
            warnings.warn("the tide\nturns.", stacklevel=1)
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            warnings.warn("soon", FutureWarning, stacklevel=1)

    monkeypatch.setattr(cli, "_info", warns)
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["info"]) == 0
    assert capsys.readouterr().err == "note: the tide turns.\n" and warnings.showwarning is before


def python(code, *arguments, **options):
    return subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True, **options)


HEAVY = ("torch", "torch._dynamo", "numpy", "pandas", "xarray", "numba", "matplotlib", "scipy", "pytorch_lightning")
LOADED = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"


@pytest.mark.parametrize(
    "arguments", (["--help"], ["--version"], ["simulate"], ["calibrate", "--help"], ["calibrate", "--bogus"], [])
)
def test_help_and_usage_errors_load_nothing(arguments):
    found = python(f"from hybridsolve.cli import main; status = main({arguments!r}); {LOADED}")
    assert found.stdout.splitlines()[-1] == "[]" and len(found.stderr.splitlines()) <= 1, found


@pytest.mark.parametrize(
    "code, loaded",
    (
        ("import hybridsolve", []),
        ("import hybridsolve.models", []),
        (
            "import hybridsolve as hs; hs.simulate; hs.unit_hydrograph; hs.nn.MLP; hs.routing.route; "
            "assert callable(hs.routing.unit_hydrograph)",
            ["torch", "numpy"],
        ),
    ),
)
def test_an_import_loads_no_more_than_it_needs(code, loaded):
    found = python(f"{code}; {LOADED}")
    assert found.stdout.strip() == str(loaded), found


def test_as_a_module_and_into_a_closed_pipe():
    found = subprocess.run([sys.executable, "-m", "hybridsolve", "--version"], capture_output=True, text=True)
    assert found.stdout == f"hybridsolve {hs.__version__}\n" and found.returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    for command in (["--help"], ["calibrate", "--help"]):
        found = subprocess.run(
            [sys.executable, "-m", "hybridsolve", *command], stdout=writer, stderr=subprocess.PIPE, env=buffered
        )
        assert (found.returncode, found.stderr) == (141, b""), command
    os.close(writer)


def test_a_style_is_used_while_a_command_runs(monkeypatch, capsys):
    from hybridsolve.plot import style

    seen = []
    monkeypatch.setattr("hybridsolve.demo.run", lambda *a, **k: seen.append(style._over.get("axes.prop_cycle")))
    assert cli.main(["demo", "--style", "grayscale"]) == 0
    assert "0.40" in str(seen) and not style._over
    assert cli.main(["demo"]) == 0 and seen[1] is None
    assert cli.main(["demo", "--style", "none-such"]) == 2
    assert "a style must be one of matplotlib's or a file of settings, found 'none-such'" in capsys.readouterr().err


def test_a_shell_completes_commands_options_and_values(tmp_path):
    def complete(line):
        environment = os.environ | {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_IFS": "\n",
        }
        python("from hybridsolve.cli import main; main()", env=environment)
        return (tmp_path / "out").read_text().split()

    assert complete("hybridsolve cal") == ["calibrate"]
    assert complete("hybridsolve calibrate d.nc --allow-o") == ["--allow-overlap"]
    assert complete("hybridsolve demo --style grays") == ["grayscale"]
    assert complete("hybridsolve calibrate d.nc --model ") == [name for name in hs.models.names() if name != "toy"]
