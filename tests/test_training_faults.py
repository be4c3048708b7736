"""What goes wrong around a training: files of other kinds, damaged ones, stops, single basins, and what is left."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml

import hybridsolve as hs
from hybridsolve import cli, plot
from hybridsolve.data.dataset import assemble
from hybridsolve.data.files import locked
from hybridsolve.nn import LSTM, MLP, Layout
from hybridsolve.score.references import read_reference
from hybridsolve.training import loop as training
from hybridsolve.training import report as training_report
from hybridsolve.training.config import read_config
from hybridsolve.training.experiments import experiment
from hybridsolve.training.inputs import Scaling
from hybridsolve.training.trained import Trained

TINY = dict(
    name="tiny",
    model="hbv10",
    network=dict(kind="mlp", hidden=[4]),
    components=2,
    attributes=["area"],
    periods=dict(train="2000-06-01:2000-12-31", test="2001-01-01:2001-06-30"),
    batch=dict(basins=2, days=40, warmup=30),
    loss="nse_batch",
    epochs=1,
    steps_per_epoch=1,
)
SEEN = TINY | dict(periods=TINY["periods"] | dict(validation="2001-07-01:2001-10-31"))
RECURRENT = TINY | dict(network=dict(kind="lstm", hidden=[4]), weather=["prcp", "tmean", "pet"])
QUICK = dict(progress=False, accelerator="cpu")


def make(n=3, days=730, place=True):
    draw = np.random.default_rng(0)
    shape = (days, n)
    series = dict(prcp=draw.gamma(0.4, 8, shape), tmean=draw.normal(8, 6, shape), pet=2 + draw.random(shape))
    at = dict(lat=np.linspace(40, 45, n), lon=np.linspace(-90, -80, n)) if place else {}
    return assemble(
        series | dict(qobs=draw.gamma(1, 1.5, shape)),
        basin=[f"0{i}" for i in range(n)],
        time=pd.date_range("2000-01-01", periods=days),
        static=dict(area=(np.arange(n) + 1.0, {})),
        **at,
    )


@pytest.fixture(scope="module")
def data():
    return make()


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    data.to_netcdf(folder / "data.nc")
    (folder / "config.yaml").write_text(yaml.safe_dump(SEEN))
    return folder


def said_by(capsys, command):
    """The sentence with which the command line ends, which is one line and gives no dangerous advice."""
    assert cli.main([str(x) for x in command]) == 2
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith(f"hybridsolve {command[0]}: ") and "weights_only" not in printed.err + printed.out
    assert printed.out == ""
    return last


# --- What a network is given ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", (TINY, RECURRENT, RECURRENT | dict(attributes=[])), ids=("mlp", "lstm", "none"))
def test_a_single_basin_is_trained_on(tmp_path, recwarn, settings):
    data = make(1)
    trained = hs.learn.train(data, settings | dict(batch=dict(basins=1, days=40, warmup=30)), out=tmp_path, **QUICK)
    notes = [str(w.message) for w in recwarn if "one training basin, 00:" in str(w.message)]
    assert bool(notes) == bool(settings["attributes"])
    assert Trained.load(tmp_path / "trained.pt").scaling.scaled_attributes(data).abs().sum() == 0
    assert np.isfinite(trained.predict(data, TINY["periods"]["test"])["streamflow"].values).all()


def test_an_mlp_without_attributes_is_refused():
    with pytest.raises(ValueError, match="attributes must name one at least for an mlp"):
        read_config(TINY | dict(attributes=[]))
    with pytest.raises(ValueError, match="an MLP must see one attribute at least, found 0"):
        MLP(Layout("hbv10", 2), 0)


@pytest.mark.parametrize("settings", (TINY, RECURRENT), ids=("mlp", "lstm"))
def test_the_default_precision_of_torch_does_not_matter(data, tmp_path, settings):
    def flow(out):
        trained = hs.learn.train(data, settings, out=tmp_path / out, **QUICK)
        assert all(x.dtype == torch.float32 for x in trained.module.state_dict().values())
        runs = trained, Trained.load(tmp_path / out / "trained.pt")
        return [r.predict(data, TINY["periods"]["test"])["streamflow"].values for r in runs]

    single = flow("single")
    torch.set_default_dtype(torch.float64)
    try:
        double = flow("double")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    for run in (*single, *double):
        np.testing.assert_array_equal(run, single[0])


def test_what_does_not_fit_a_network_is_said():
    mlp, lstm = MLP(Layout("hbv10", 2), 3), LSTM(Layout("hbv10", 2), 3, 2, 4)
    with pytest.raises(
        TypeError, match=r"attributes must be torch.float32 like the network's weights, found torch.float64"
    ):
        mlp(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="attributes must have 3 numbers each, found 2"):
        mlp(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="weather must have 2 numbers each, found 5"):
        lstm(torch.zeros(2, 3), torch.zeros(7, 2, 5))
    with pytest.raises(ValueError, match="an LSTM sees weather"):
        lstm(torch.zeros(2, 3), None)


def fit(data, *names, fill=(), weather=()):
    return Scaling.fit(data, names, fill, weather, TINY["periods"]["train"])


@pytest.mark.parametrize("values", ([0.1] * 3, [1e17] * 3, ["x"] * 3, [True] * 3), ids=str)
def test_constant_attributes_are_found_by_their_extremes(data, values):
    # The standard deviation of three times 0.1 is 1e-17 and not 0.
    with pytest.raises(ValueError, match="attribute 'flat' is constant over the 3 training basins"):
        fit(data.assign(flat=("basin", values)), "flat")


def test_constant_weather_is_found_by_its_extremes(data):
    flat = data.assign(pet=data["pet"].astype(np.float64) * 0 + 0.1)
    with pytest.raises(ValueError, match="weather 'pet' is constant"):
        fit(flat, "area", weather=["pet"])


@pytest.mark.parametrize("blank", ("", "  ", "nan", "NaN", "<NA>", "None", None, np.nan, pd.NA, b"", "\0"), ids=repr)
def test_text_that_is_blank_is_missing(data, blank):
    rock = data.assign(rock=("basin", np.array(["lime", "sand", blank], object)))
    with pytest.raises(ValueError, match=r"attribute 'rock' is missing in 1 of 3 basins \(02\): list it in fill"):
        fit(rock, "rock")
    found = fit(rock, "rock", fill=["rock"])
    assert found.categories == {"rock": ["lime", "sand"]}
    with pytest.raises(ValueError, match=r"missing in 3 of 3"):
        fit(data.assign(rock=("basin", np.array([blank] * 3, object))), "rock")


def test_numbers_among_objects_stay_numbers(data):
    found = fit(data.assign(depth=("basin", np.array([2.0, None, 5], object))), "depth", fill=["depth"])
    assert found.categories == {} and found.attribute_mean == [3.5]
    with pytest.raises(ValueError, match="attribute 'day' must be numbers or text, found dtype datetime64"):
        fit(data.assign(day=("basin", pd.date_range("2000-01-01", periods=3))), "day")
    rock = fit(data.assign(rock=("basin", ["lime", "sand", "clay"])), "rock")
    with pytest.raises(ValueError, match="attribute 'rock' must be text as in training, found numbers"):
        rock.scaled_attributes(data.assign(rock=("basin", [1.0, 2.0, 3.0])))


@pytest.mark.parametrize(
    "change, error, message",
    (
        (lambda x: "camels.nc", TypeError, "data must be a dataset .* found str: open it first"),
        (lambda x: x.rename(basin="gauge"), ValueError, "data must have the dims time and basin, found"),
        (lambda x: x.drop_vars("prcp"), ValueError, "variable 'prcp' is missing"),
        (lambda x: x.drop_vars("qobs"), ValueError, "variable 'qobs' is missing"),
        (lambda x: x.assign(pet=x.pet.astype(str)), ValueError, "pet must hold numbers"),
        (lambda x: x.transpose("basin", "time", "bnds"), ValueError, "must have dims"),
        (lambda x: x.isel(basin=[]), ValueError, "basin must have at least one entry"),
    ),
)
def test_data_of_another_shape_are_refused(data, tmp_path, change, error, message):
    for run in (hs.learn.train, experiment):
        with pytest.raises(error, match=message):
            run(change(data), TINY, out=tmp_path / "out", **QUICK)


@pytest.mark.filterwarnings("error")
def test_a_basin_without_rain_has_no_shares_of_it(data, tmp_path):
    dry = data.copy(deep=True)
    dry["prcp"].values[360:, 1] = 0
    result = experiment(dry, TINY, out=tmp_path, **QUICK)
    assert np.isnan(result["runoff"].values[1]) and np.isfinite(result["runoff"].values[[0, 2]]).all()
    assert "nan" not in training_report.text(result).splitlines()[-1]


def test_predictions_refuse_data_of_another_shape(data, tmp_path):
    trained = hs.learn.train(data, TINY, out=tmp_path, **QUICK)
    for run in (trained.predict, trained.parameters):
        with pytest.raises(TypeError, match="data must be a dataset .* found str"):
            run("camels.nc")
        with pytest.raises(ValueError, match="data must have the dims time and basin"):
            run(data.rename(basin="gauge"))


def test_values_out_of_bounds_are_told_by_basin_and_date(data, tmp_path):
    warm = data.copy(deep=True)
    warm["tmean"].values[100:120, 1] = 285.0
    message = r"forcing 'tmean' must lie in \[-150, 150\] degC; found 285 in basin 01 on 2000-04-10 \(20 such values\)"
    with pytest.raises(ValueError, match=message):
        hs.learn.train(warm, TINY, out=tmp_path / "a", **QUICK)
    trained = hs.learn.train(data, TINY, out=tmp_path / "b", **QUICK)
    with pytest.raises(ValueError, match=message):
        trained.predict(warm)
    warm["tmean"].values[100:120, 1] = np.nan
    with pytest.raises(ValueError, match="basin 01 cannot be used: tmean is missing on 20 days from 2000-04-10"):
        trained.predict(warm)


# --- Settings ---------------------------------------------------------------------------------------------------------

NOT_A_CONFIG = {
    "an unknown anchor": "a: *nothing",
    "a list": "- a\n- b",
    "a number": "3",
    "nothing": "",
    "binary": "\x00\x01\x02",
    "a tag": "!!python/object:os.system x",
    "an impossible date": "seed: 2000-13-45",
    "an open bracket": "attributes: [a",
    "a list as a key": "? [a, b]\n: 3",
    "a number as a key": "1: 2",
    "a section twice": "batch: {days: 3}\nbatch: {days: 4}",
    "nested without end": "[" * 3000,
    "a recursive mapping": "&a {batch: *a}",
}


@pytest.mark.parametrize("content", NOT_A_CONFIG.values(), ids=NOT_A_CONFIG)
def test_what_is_no_config_is_said_with_its_file(files, tmp_path, capsys, content):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    said = said_by(capsys, ["train", file, files / "data.nc", "--out", tmp_path / "out"])
    assert str(file) in said and len(said) < 600 and not (tmp_path / "out").exists()


def test_bytes_that_are_no_text_are_no_config(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\xfe\xfa")
    with pytest.raises(ValueError, match="c.yaml is not YAML"):
        read_config(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match="config must be a path, a recipe's name or a mapping; found int"):
        read_config(3)


def test_merged_keys_are_yaml(tmp_path):
    text = yaml.safe_dump({k: v for k, v in TINY.items() if k != "batch"})
    (tmp_path / "c.yaml").write_text(text + "batch: {<<: &b {days: 40, warmup: 9}, days: 50}\n")
    assert read_config(tmp_path / "c.yaml").batch.days == 50


BAD_OPTIONS = {
    "devices": (dict(devices=0), "devices must be a whole number, 1 to 64; found 0"),
    "negative devices": (dict(devices=-1), "devices must be a whole number, 1 to 64; found -1"),
    "a process for each of many": (dict(devices=5000), "devices must be a whole number, 1 to 64; found 5000"),
    "accelerator": (dict(accelerator="quantum"), "accelerator must be one of auto, cpu, gpu, cuda; found 'quantum'"),
    "log": (dict(log="wandb"), "log must be 'csv' or 'tensorboard'; found 'wandb'"),
    "both": (dict(resume=True, overwrite=True), "resume goes on with a run and overwrite begins anew, found both"),
    "no seeds": (dict(seeds=[]), "seeds must be different whole numbers, one at least"),
    "true": (dict(seeds=[True]), "seeds must be different whole numbers, one at least"),
    "a late bad seed": (dict(seeds=[1, -1]), "the key 'seed' does not fit: .* found -1"),
    "a large seed": (dict(seeds=[2**63]), "the key 'seed' does not fit"),
    "no folds": (dict(folds=0), "folds must be a whole number, 2 or more; found 0"),
    "half a fold": (dict(kind="pub", folds=2.5), "folds must be a whole number, 2 or more; found 2.5"),
    "two folds": (dict(kind="pub", folds=4), "folds must be from 2 to 3 here; found 4"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_mean_nothing_are_refused_before_the_work(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        experiment(data, TINY, out=tmp_path / "out", **QUICK | options)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="log 'tensorboard' needs the package tensorboard, found none: install it"):
        hs.learn.train(data, TINY, out=tmp_path, log="tensorboard", **QUICK)


def test_one_basin_cannot_be_held_out(tmp_path):
    with pytest.raises(ValueError, match="experiment 'pub' holds basins out and needs two at least, found 1"):
        experiment(make(1), TINY, out=tmp_path, kind="pub", **QUICK)


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_no_run_is_written_over_unasked(data, tmp_path):
    (tmp_path / "calibrated").mkdir()
    (tmp_path / "calibrated" / "calibration.nc").touch()
    for run in (hs.learn.train, experiment):
        with pytest.raises(ValueError, match="holds files of another kind of run, such as calibration.nc"):
            run(data, TINY, out=tmp_path / "calibrated", resume=True, **QUICK)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a folder for results, found a file"):
        hs.learn.train(data, TINY, out=tmp_path / "file", **QUICK)
    first = hs.learn.train(data, TINY, out=tmp_path / "run", **QUICK)
    with pytest.raises(ValueError, match="holds a training already: set resume .* or set overwrite"):
        hs.learn.train(data, TINY, out=tmp_path / "run", **QUICK)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(ValueError, match="holds a training already"):  # by its result
        hs.learn.train(data, TINY, out=tmp_path / "run", **QUICK)
    assert hs.learn.train(data, TINY, out=tmp_path / "run", resume=True, **QUICK).config == first.config
    again = hs.learn.train(data, TINY | dict(seed=5), out=tmp_path / "run", overwrite=True, **QUICK)
    assert again.config.seed == Trained.load(tmp_path / "run" / "trained.pt").config.seed == 5


def test_two_trainings_are_kept_out_of_one_folder(data, tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="is in use by process .* wait for it to end"):
        hs.learn.train(data, TINY, out=tmp_path, **QUICK)
    hs.learn.train(data, TINY, out=tmp_path, **QUICK)


@pytest.mark.parametrize(
    "number, match",
    (
        (errno.EACCES, "must be writable, found that it is not .*Permission denied"),
        (errno.EROFS, "must be writable, found that it is not .*Read-only"),
        (errno.ENOSPC, "must be writable, found that it is not .*No space left"),
        (errno.ENOLCK, "must lie on a file system with locks, .* found none .*No locks"),
    ),
)
def test_a_folder_that_cannot_be_locked(tmp_path, monkeypatch, number, match):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(ValueError, match=match), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/run must be a folder for results, could not be made"):
        with locked(tmp_path / "file" / "run"):
            pass


def test_a_bar_of_training_leaves_no_thread(data, tmp_path, capsys):
    before = set(threading.enumerate())
    hs.learn.train(data, TINY, out=tmp_path, accelerator="cpu")
    assert set(threading.enumerate()) == before and "Epoch" in capsys.readouterr().err


def test_an_experiment_resumes_its_own_result_only(tmp_path, files, capsys, unsaved):
    config, nc = files / "config.yaml", files / "data.nc"
    out = tmp_path / "out"
    assert cli.main(["train", str(config), str(nc), "--out", str(out)]) == 0
    capsys.readouterr()
    assert "holds an experiment already: set resume" in said_by(capsys, ["train", config, nc, "--out", out])
    said = said_by(capsys, ["train", config, nc, "--out", out, "--resume", "--experiment", "pub", "--folds", "2"])
    assert "experiment.nc is of an experiment with kind temporal, and this one has pub" in said
    (out / "scores.csv").write_text("basin,nse\n")
    said = said_by(capsys, ["train", config, nc, "--out", out, "--resume", "--reference", out / "scores.csv"])
    assert "scores.csv of --out must not be --reference" in said
    said = said_by(capsys, ["train", config, nc, "--out", config])
    assert "--out must not be config" in said


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
def finished(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    # An experiment's first folder, so that the command line can resume it.
    data = xr.load_dataset(files / "data.nc")
    hs.learn.train(data, SEEN, out=out / "seed0", **QUICK)
    return out


@pytest.mark.parametrize("name, damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(files, finished, tmp_path, capsys, name, damage):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    damage(out / "seed0" / name)
    if name.startswith("checkpoints"):
        (out / "seed0" / "trained.pt").unlink()  # so that the training goes on
    said = said_by(capsys, ["train", files / "config.yaml", files / "data.nc", "--out", out, "--resume"])
    assert str(out / "seed0") in said and name.split("/")[-1] in said and len(said) < 500
    if name == "trained.pt":
        said = said_by(
            capsys, ["simulate", "--trained", out / "seed0" / name, files / "data.nc", "--out", out / "x.nc"]
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
def test_a_stopped_training_is_no_finished_one(data, tmp_path, monkeypatch, number, handler, raised):
    whole = hs.learn.train(data, TINY | dict(epochs=3), out=tmp_path / "whole", **QUICK)
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
                hs.learn.train(data, TINY | dict(epochs=3), out=tmp_path / "out", **QUICK)
        assert signal.getsignal(number) == handler  # a second Ctrl-C works, too
    finally:
        signal.signal(number, before)
    if raised is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "trained.pt").exists()
    resumed = hs.learn.train(data, TINY | dict(epochs=3), out=tmp_path / "out", resume=True, **QUICK)
    for name, x in resumed.module.state_dict().items():
        assert torch.equal(x, whole.module.state_dict()[name])


@pytest.mark.slow
def test_ctrl_c_ends_the_command(files, tmp_path):
    command = [sys.executable, "-c", "import sys; from hybridsolve import cli; sys.exit(cli.main())", "train"]
    command += [str(files / "config.yaml"), str(files / "data.nc"), "--out", str(tmp_path / "out")]
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


def test_results_go_to_stdout_and_the_rest_to_stderr(files, tmp_path, capsys, caplog, unsaved):
    command = ["train", str(files / "config.yaml"), str(files / "data.nc"), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "Epoch 0" in printed.err and "Epoch" not in printed.out and "not scored" in printed.out
    # Advertisements and notices of libraries go to their loggers.
    assert {record.name.split(".")[0] for record in caplog.records} == {"hybridsolve"}


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


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn, and their files are marks: to save them takes a second."""

    def save(figure, path):
        path.touch()
        return path

    monkeypatch.setattr(plot, "save", save)


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
def test_references_are_checked_before_the_work(files, tmp_path, capsys, content, message):
    file = tmp_path / "theirs.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_reference(file, ["00", "01", "02"])


def test_a_reference_is_matched_by_id(tmp_path, monkeypatch, files, capsys):
    file = tmp_path / "theirs.csv"
    file.write_text("basin,nse\n02,0.7\n00,0.5\n77,0.1\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(read_reference(file, ["00", "01", "02"]), [0.5, np.nan, 0.7])
    file.write_text("basin;nse\n02;0,7\n00;0,5\n")
    np.testing.assert_array_equal(read_reference(file, ["00", "01", "02"]), [0.5, np.nan, 0.7])
    # On the command line before anything is trained.
    monkeypatch.setattr(training_report, "OWN_SPLIT", (SEEN["periods"]["train"], SEEN["periods"]["test"]))
    file.write_text("basin,nse\nx,0.7\n")
    command = ["train", files / "config.yaml", files / "data.nc", "--out", tmp_path / "out", "--reference", file]
    assert "must have basins of the data" in said_by(capsys, command) and not (tmp_path / "out").exists()
    assert "does not exist" in said_by(capsys, [*command[:-1], tmp_path / "none.csv"])


def test_a_checkout_that_nobody_installed_saves(data, tmp_path, monkeypatch):
    monkeypatch.setattr("hybridsolve.training.trained.__version__", "0+source")
    hs.learn.train(data, TINY, out=tmp_path, **QUICK)
    assert Trained.load(tmp_path / "trained.pt").versions["hybridsolve"] == "0+source"
    assert json.dumps(Trained.load(tmp_path / "trained.pt").versions)  # plain text, torch's too
