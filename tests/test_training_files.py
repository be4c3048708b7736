"""What a training leaves: damaged files, stops, and reports that do not wait for figures."""

import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
import xarray as xr
from trainings import QUICK, SEEN, TINY, make, said_by

import hybridsolve as hs
from hybridsolve import cli, plot
from hybridsolve.score.references import read_reference
from hybridsolve.training import loop as training
from hybridsolve.training import report as training_report
from hybridsolve.training.experiments import experiment
from hybridsolve.training.trained import Trained

# --- Damaged files ----------------------------------------------------------------------------------------------------


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path):
    path.write_text("hello\n")


def empty(path):
    path.write_bytes(b"")


def foreign_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")


def code(path):
    torch.save({"format": 1, "weights": subprocess.Popen, "state_dict": subprocess.Popen}, path)


def a_list(path):
    torch.save([1, 2], path)


def other_keys(path):
    torch.save({"model": {}}, path)


def changed(**changes):
    def change(path):
        torch.save(torch.load(path, weights_only=True) | changes, path)

    return change


def reshaped(key):
    def change(path):
        content = torch.load(path, weights_only=True)
        name = next(iter(content[key]))
        content[key][name] = torch.zeros(7, 7)
        torch.save(content, path)

    return change


def not_finite(path):
    content = torch.load(path, weights_only=True)
    next(iter(content["weights"].values()))[0] = torch.nan
    torch.save(content, path)


DAMAGES = {
    **{f"{damage.__name__} for trained.pt": ("trained.pt", damage)
       for damage in (half, text, empty, foreign_zip, code, a_list, other_keys, not_finite, reshaped("weights"))},
    "no weights": ("trained.pt", changed(weights=3)),
    "weights by number": ("trained.pt", changed(weights={1: torch.zeros(2)})),
    "a config of text": ("trained.pt", changed(config="dhbv10")),
    "another config": ("trained.pt", changed(config={"name": "x"})),
    "no scaling": ("trained.pt", changed(scaling={"attributes": ["area"]})),
    "half a scaling": ("trained.pt", changed(scaling=dict(
        attributes=["area"], weather=[], attribute_mean=[], attribute_std=[1.0], attribute_median=[1.0], categories={},
        fill=[], weather_mean=[], weather_std=[], units={}))),
    "no bounds": ("trained.pt", changed(bounds={})),
    "another format": ("trained.pt", changed(format=9, versions=None)),
    **{f"{damage.__name__} for last.ckpt": ("checkpoints/last.ckpt", damage)
       for damage in (half, text, empty, foreign_zip, code, a_list, other_keys, reshaped("state_dict"))},
    "no optimiser": ("checkpoints/last.ckpt", changed(optimizer_states=[])),
    "another optimiser": ("checkpoints/last.ckpt", changed(optimizer_states=[{"state": {}, "param_groups": []}])),
    "no loops": ("checkpoints/last.ckpt", changed(loops={"x": 1})),
    "callbacks of text": ("checkpoints/last.ckpt", changed(callbacks={"ModelCheckpoint": "x"})),
    **{f"{damage.__name__} for best.ckpt": ("checkpoints/best.ckpt", damage) for damage in (half, text, other_keys)},
    "no best.ckpt": ("checkpoints/best.ckpt", lambda path: path.unlink()),
    **{f"{damage.__name__} for training.yaml": ("training.yaml", damage) for damage in (text, empty, foreign_zip)},
    "no YAML": ("training.yaml", lambda path: path.write_text("a: [1\n")),
    "a list as training.yaml": ("training.yaml", lambda path: path.write_text("- a\n")),
    "no training.yaml": ("training.yaml", lambda path: path.unlink()),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    # An experiment's first folder, so that the command line can resume it.
    data = xr.load_dataset(tiny_files / "data.nc")
    hs.learn.train(data, SEEN, out=out / "seed0", **QUICK)
    return out


@pytest.mark.parametrize("name, damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(tiny_files, finished, tmp_path, capsys, name, damage):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    damage(out / "seed0" / name)
    if name.startswith("checkpoints"):
        (out / "seed0" / "trained.pt").unlink()  # so that the training goes on
    said = said_by(capsys, ["train", tiny_files / "config.yaml", tiny_files / "data.nc", "--out", out, "--resume"])
    assert str(out / "seed0") in said and name.split("/")[-1] in said and len(said) < 500
    if name == "trained.pt":
        said = said_by(
            capsys, ["simulate", "--trained", out / "seed0" / name, tiny_files / "data.nc", "--out", out / "x.nc"]
        )
        assert str(out / "seed0" / name) in said


# --- Stops ------------------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    pass


def stop(signum, frame):
    raise Stopped


def of_its_own(signum, frame):
    raise KeyboardInterrupt("SIGTERM")


@pytest.mark.parametrize(
    "number, handler, raised",
    (
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
        (signal.SIGTERM, stop, Stopped),
        (signal.SIGTERM, of_its_own, KeyboardInterrupt),
        (signal.SIGTERM, signal.SIG_DFL, SystemExit),
    ),
    ids=("Ctrl-C", "an exception of the caller's", "an interrupt", "no handler"),
)
def test_a_stopped_training_is_no_finished_one(tiny, tmp_path, monkeypatch, number, handler, raised):
    whole = hs.learn.train(tiny, TINY | dict(epochs=3), out=tmp_path / "whole", **QUICK)
    step = training._Training.training_step

    def stopping(self, *x):
        if self.global_step == 2:
            signal.raise_signal(number)
        return step(self, *x)

    before = signal.signal(number, handler)
    try:
        with monkeypatch.context() as m:
            m.setattr(training._Training, "training_step", stopping)
            with pytest.raises(raised) as caught:
                hs.learn.train(tiny, TINY | dict(epochs=3), out=tmp_path / "out", **QUICK)
        assert signal.getsignal(number) == handler  # a second Ctrl-C works, too
    finally:
        signal.signal(number, before)
    if raised is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "trained.pt").exists()
    resumed = hs.learn.train(tiny, TINY | dict(epochs=3), out=tmp_path / "out", resume=True, **QUICK)
    for name, x in resumed.module.state_dict().items():
        assert torch.equal(x, whole.module.state_dict()[name])


@pytest.mark.slow
def test_ctrl_c_ends_the_command(tiny_files, tmp_path):
    command = [sys.executable, "-c", "import sys; from hybridsolve import cli; sys.exit(cli.main())", "train"]
    command += [str(tiny_files / "config.yaml"), str(tiny_files / "data.nc"), "--out", str(tmp_path / "out")]
    command += ["--set", "epochs=100000", "--accelerator", "cpu", "--threads", "1"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    late = time.monotonic() + 120
    while not (tmp_path / "out" / "seed0" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < late:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130 and out == ""
    assert err.strip().splitlines()[-1] == "hybridsolve train: stopped; what was finished is kept."
    assert not (tmp_path / "out" / "report.md").exists()


# --- What is left behind ----------------------------------------------------------------------------------------------


def test_results_go_to_stdout_and_the_rest_to_stderr(tiny_files, tmp_path, capsys, caplog, unsaved):
    command = ["train", str(tiny_files / "config.yaml"), str(tiny_files / "data.nc"), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "Epoch 0" in printed.err and "Epoch" not in printed.out and "not scored" in printed.out
    # Advertisements and notices of libraries go to their loggers; which fonts matplotlib lacks depends on the machine.
    assert {record.name.split(".")[0] for record in caplog.records} - {"matplotlib"} == {"hybridsolve"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    data = make(4)
    late = (data["time"] >= np.datetime64("2001-01-01")).values
    data["qobs"].values[late, 3] = np.nan
    return experiment(data, TINY, out=tmp_path_factory.mktemp("result"), **QUICK)


def test_a_basin_without_observations_is_not_scored(result, tmp_path, unsaved):
    assert result["n_valid"].values[0, 3] == 0 and np.isnan(result["nse"].values[0, 3])
    seen = result.isel(basin=slice(0, 3))
    line = training_report.text(result).splitlines()[2]
    assert line.split()[-2:] == ["0", "1"]
    assert line.split()[:-1] == training_report.text(seen).splitlines()[2].split()[:-1]  # the same medians
    training_report.write_experiment(result, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "| failed | not scored |" in report and " | 0 | 1 |" in report
    makers = training_report.figure_makers(result)
    legend = makers["scores"]().axes[0].get_legend().get_texts()
    assert "n = 3" in legend[0].get_text() and "without score" not in legend[0].get_text()
    texts = [axes.get_title(side) for axes in makers["map"]().axes for side in ("left", "right")]
    assert any("NSE of 3 basins" in t for t in texts) and any("1 not scored" in t for t in texts)


def broken(*_, **__):
    raise RuntimeError("no colour left")


FIGURES = {
    "a broken figure": (lambda r: r, dict(flow_duration=broken), "flow_duration is not drawn: no colour left"),
    "no place": (
        lambda r: r.assign_coords(lat=r.lat * np.nan),
        {},
        "the figures map, parameter_beta.* are not drawn: lat and lon must be",
    ),
    "no score": (lambda r: r.assign(obs=r.obs * np.nan), {}, "flow_duration is not drawn: no basin has observed flow"),
}


@pytest.mark.parametrize("change, broke, message", FIGURES.values(), ids=FIGURES)
def test_numbers_do_not_wait_for_figures(result, tmp_path, monkeypatch, unsaved, change, broke, message):
    for name, function in broke.items():
        monkeypatch.setattr(plot, name, function)
    saved = plot.save

    def save(figure, path):
        assert {file.name for file in tmp_path.iterdir()} >= {
            "experiment.nc",
            "scores.csv",
            "report.md",
            "test_looks.log",
        }
        return saved(figure, path)

    monkeypatch.setattr(plot, "save", save)
    with pytest.warns(UserWarning, match=message):
        training_report.write_experiment(change(result), tmp_path)
    left_out = "map" if "map" in message else "flow_duration"
    report = (tmp_path / "report.md").read_text()
    drawn = {file.stem for file in tmp_path.glob("*.png")}
    assert left_out not in drawn and "scores" in drawn
    assert all((f"({name}.png)" in report) == (name in drawn) for name in training_report.figure_makers(result))


def test_without_longitudes_there_is_no_map(result, tmp_path, unsaved):
    training_report.write_experiment(result.drop_vars("lon"), tmp_path)
    assert not (tmp_path / "map.png").exists() and (tmp_path / "hydrograph.png").exists()


REFERENCES = {
    "lost zeros": ("basin,nse\n0,0.5\n1,0.6\n2,0.7\n", "has basin '0', and the data have '00': spell the ids of both"),
    "others": ("basin,nse\nx,0.5\n", "must have basins of the data, such as '00', found ids such as 'x'"),
    "no row": ("basin,nse\n", "must have basins of the data, such as '00', found no row"),
    "no column": ("gauge,nse\n00,0.5\n", "must have the columns basin and nse; found gauge, nse"),
    "twice": ("basin,nse\n00,0.5\n00,0.6\n", "found '00' more than once"),
    "text": ("basin,nse\n00,good\n", "nse of .* must be numbers; found 'good'"),
    "nothing": ("", "must be a table with a header, found no line"),
    "a blank id": ("basin,nse\n00,0.5\n,0.6\n", "found a missing or blank one in row 1"),
}


@pytest.mark.parametrize("content, message", REFERENCES.values(), ids=REFERENCES)
def test_references_are_checked_before_the_work(tiny_files, tmp_path, capsys, content, message):
    file = tmp_path / "theirs.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_reference(file, ["00", "01", "02"])


def test_a_reference_is_matched_by_id(tmp_path, monkeypatch, tiny_files, capsys):
    file = tmp_path / "theirs.csv"
    file.write_text("basin,nse\n02,0.7\n00,0.5\n77,0.1\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(read_reference(file, ["00", "01", "02"]), [0.5, np.nan, 0.7])
    file.write_text("basin;nse\n02;0,7\n00;0,5\n")
    np.testing.assert_array_equal(read_reference(file, ["00", "01", "02"]), [0.5, np.nan, 0.7])
    # On the command line before anything is trained.
    monkeypatch.setattr(training_report, "OWN_SPLIT", (SEEN["periods"]["train"], SEEN["periods"]["test"]))
    file.write_text("basin,nse\nx,0.7\n")
    command = [
        "train",
        tiny_files / "config.yaml",
        tiny_files / "data.nc",
        "--out",
        tmp_path / "out",
        "--reference",
        file,
    ]
    assert "must have basins of the data" in said_by(capsys, command) and not (tmp_path / "out").exists()
    assert "does not exist" in said_by(capsys, [*command[:-1], tmp_path / "none.csv"])


def test_a_checkout_that_nobody_installed_saves(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("hybridsolve.training.trained.__version__", "0+source")
    hs.learn.train(tiny, TINY, out=tmp_path, **QUICK)
    assert Trained.load(tmp_path / "trained.pt").versions["hybridsolve"] == "0+source"
    assert json.dumps(Trained.load(tmp_path / "trained.pt").versions)  # plain text, torch's too
