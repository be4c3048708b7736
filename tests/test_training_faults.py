"""What goes wrong before and around a training: odd attributes, settings and folders."""

import errno
import os
import threading

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from trainings import QUICK, TINY, TINY_RECURRENT, make, said_by

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.data.files import locked
from hybridsolve.nn import LSTM, MLP, Layout
from hybridsolve.training import loop as training
from hybridsolve.training import report as training_report
from hybridsolve.training.config import read_config
from hybridsolve.training.experiments import experiment
from hybridsolve.training.inputs import Scaling
from hybridsolve.training.trained import Trained

# --- What a network is given ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", (TINY, TINY_RECURRENT, TINY_RECURRENT | dict(attributes=[])), ids=("mlp", "lstm", "none")
)
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


@pytest.mark.parametrize("settings", (TINY, TINY_RECURRENT), ids=("mlp", "lstm"))
def test_the_default_precision_of_torch_does_not_matter(tiny, tmp_path, settings):
    def flow(out):
        trained = hs.learn.train(tiny, settings, out=tmp_path / out, **QUICK)
        assert all(x.dtype == torch.float32 for x in trained.module.state_dict().values())
        runs = trained, Trained.load(tmp_path / out / "trained.pt")
        return [r.predict(tiny, TINY["periods"]["test"])["streamflow"].values for r in runs]

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
def test_constant_attributes_are_found_by_their_extremes(tiny, values):
    # The standard deviation of three times 0.1 is 1e-17 and not 0.
    with pytest.raises(ValueError, match="attribute 'flat' is constant over the 3 training basins"):
        fit(tiny.assign(flat=("basin", values)), "flat")


def test_constant_weather_is_found_by_its_extremes(tiny):
    flat = tiny.assign(pet=tiny["pet"].astype(np.float64) * 0 + 0.1)
    with pytest.raises(ValueError, match="weather 'pet' is constant"):
        fit(flat, "area", weather=["pet"])


@pytest.mark.parametrize("blank", ("", "  ", "nan", "NaN", "<NA>", "None", None, np.nan, pd.NA, b"", "\0"), ids=repr)
def test_text_that_is_blank_is_missing(tiny, blank):
    rock = tiny.assign(rock=("basin", np.array(["lime", "sand", blank], object)))
    with pytest.raises(ValueError, match=r"attribute 'rock' is missing in 1 of 3 basins \(02\): list it in fill"):
        fit(rock, "rock")
    found = fit(rock, "rock", fill=["rock"])
    assert found.categories == {"rock": ["lime", "sand"]}
    with pytest.raises(ValueError, match=r"missing in 3 of 3"):
        fit(tiny.assign(rock=("basin", np.array([blank] * 3, object))), "rock")


def test_numbers_among_objects_stay_numbers(tiny):
    found = fit(tiny.assign(depth=("basin", np.array([2.0, None, 5], object))), "depth", fill=["depth"])
    assert found.categories == {} and found.attribute_mean == [3.5]
    with pytest.raises(ValueError, match="attribute 'day' must be numbers or text, found dtype datetime64"):
        fit(tiny.assign(day=("basin", pd.date_range("2000-01-01", periods=3))), "day")
    rock = fit(tiny.assign(rock=("basin", ["lime", "sand", "clay"])), "rock")
    with pytest.raises(ValueError, match="attribute 'rock' must be text as in training, found numbers"):
        rock.scaled_attributes(tiny.assign(rock=("basin", [1.0, 2.0, 3.0])))


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
def test_data_of_another_shape_are_refused(tiny, tmp_path, change, error, message):
    for run in (hs.learn.train, experiment):
        with pytest.raises(error, match=message):
            run(change(tiny), TINY, out=tmp_path / "out", **QUICK)


@pytest.mark.filterwarnings("error")
def test_a_basin_without_rain_has_no_shares_of_it(tiny, tmp_path):
    dry = tiny.copy(deep=True)
    dry["prcp"].values[360:, 1] = 0
    result = experiment(dry, TINY, out=tmp_path, **QUICK)
    assert np.isnan(result["runoff"].values[1]) and np.isfinite(result["runoff"].values[[0, 2]]).all()
    assert "nan" not in training_report.text(result).splitlines()[-1]


def test_predictions_refuse_data_of_another_shape(tiny, tmp_path):
    trained = hs.learn.train(tiny, TINY, out=tmp_path, **QUICK)
    for run in (trained.predict, trained.parameters):
        with pytest.raises(TypeError, match="data must be a dataset .* found str"):
            run("camels.nc")
        with pytest.raises(ValueError, match="data must have the dims time and basin"):
            run(tiny.rename(basin="gauge"))


def test_values_out_of_bounds_are_told_by_basin_and_date(tiny, tmp_path):
    warm = tiny.copy(deep=True)
    warm["tmean"].values[100:120, 1] = 285.0
    message = r"forcing 'tmean' must lie in \[-150, 150\] degC; found 285 in basin 01 on 2000-04-10 \(20 such values\)"
    with pytest.raises(ValueError, match=message):
        hs.learn.train(warm, TINY, out=tmp_path / "a", **QUICK)
    trained = hs.learn.train(tiny, TINY, out=tmp_path / "b", **QUICK)
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
def test_what_is_no_config_is_said_with_its_file(tiny_files, tmp_path, capsys, content):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    said = said_by(capsys, ["train", file, tiny_files / "data.nc", "--out", tmp_path / "out"])
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
def test_options_that_mean_nothing_are_refused_before_the_work(tiny, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        experiment(tiny, TINY, out=tmp_path / "out", **QUICK | options)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"log 'tensorboard' needs tensorboard, .*hybridsolve\[tensorboard\]'"):
        hs.learn.train(tiny, TINY, out=tmp_path, log="tensorboard", **QUICK)


def test_one_basin_cannot_be_held_out(tmp_path):
    with pytest.raises(ValueError, match="experiment 'pub' holds basins out and needs two at least, found 1"):
        experiment(make(1), TINY, out=tmp_path, kind="pub", **QUICK)


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_no_run_is_written_over_unasked(tiny, tmp_path):
    (tmp_path / "calibrated").mkdir()
    (tmp_path / "calibrated" / "calibration.nc").touch()
    for run in (hs.learn.train, experiment):
        with pytest.raises(ValueError, match="holds files of another kind of run, such as calibration.nc"):
            run(tiny, TINY, out=tmp_path / "calibrated", resume=True, **QUICK)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a folder for results, found a file"):
        hs.learn.train(tiny, TINY, out=tmp_path / "file", **QUICK)
    first = hs.learn.train(tiny, TINY, out=tmp_path / "run", **QUICK)
    with pytest.raises(ValueError, match="holds a training already: set resume .* or set overwrite"):
        hs.learn.train(tiny, TINY, out=tmp_path / "run", **QUICK)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(ValueError, match="holds a training already"):  # by its result
        hs.learn.train(tiny, TINY, out=tmp_path / "run", **QUICK)
    assert hs.learn.train(tiny, TINY, out=tmp_path / "run", resume=True, **QUICK).config == first.config
    again = hs.learn.train(tiny, TINY | dict(seed=5), out=tmp_path / "run", overwrite=True, **QUICK)
    assert again.config.seed == Trained.load(tmp_path / "run" / "trained.pt").config.seed == 5


def test_two_trainings_are_kept_out_of_one_folder(tiny, tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="is in use by process .* wait for it to end"):
        hs.learn.train(tiny, TINY, out=tmp_path, **QUICK)
    hs.learn.train(tiny, TINY, out=tmp_path, **QUICK)


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


def test_a_bar_of_training_leaves_no_thread(tiny, tmp_path, capsys):
    before = set(threading.enumerate())
    hs.learn.train(tiny, TINY, out=tmp_path, accelerator="cpu")
    assert set(threading.enumerate()) == before and "Epoch" in capsys.readouterr().err


def test_an_experiment_resumes_its_own_result_only(tmp_path, tiny_files, capsys, unsaved):
    config, nc = tiny_files / "config.yaml", tiny_files / "data.nc"
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
