"""A trained model as a file, what it predicts, and the experiments that test it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import assert_same_bits, published
from trainings import RECURRENT, SMALL, learnable

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.data.camels import read_camels
from hybridsolve.score import metrics
from hybridsolve.training import report as training_report
from hybridsolve.training.trained import Trained


@pytest.fixture(scope="module")
def data():
    return learnable()


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """A config and its data as files."""
    folder = tmp_path_factory.mktemp("files")
    data.to_netcdf(folder / "data.nc")
    (folder / "config.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = RECURRENT | dict(epochs=1)
    return hs.learn.train(data.isel(basin=slice(0, 9)), config, out=folder, progress=False), folder / "trained.pt"


def test_a_trained_model_travels(data, trained, files, tmp_path):
    module, file = trained
    read = Trained.load(file)
    assert read.basins == [f"b{i:02d}" for i in range(9)] and read.versions["hybridsolve"] == hs.__version__
    assert read.config == module.config and read.scaling == module.scaling
    others, period = data.isel(basin=slice(7, 12)), "2004-03-01:2005-02-28"
    run = read.predict(others, period, ("streamflow", "aet", "swe"))
    assert_same_bits(
        {"q": torch.from_numpy(run["streamflow"].values)},
        {"q": torch.from_numpy(module.predict(others, period)["streamflow"].values)},
    )
    assert run["aet"].attrs["units"] == "mm d-1" and run["swe"].attrs["units"] == "mm" and run.sizes["time"] == 365
    out = tmp_path / "simulated.nc"
    assert cli.main(["simulate", "--trained", str(file), str(files / "data.nc"), "--basins", "b07,b11", "--period",
                     period, "--out", str(out)]) == 0  # fmt: skip
    with xr.open_dataset(out) as written:
        same = run["streamflow"].sel(basin=["b07", "b11"])
        np.testing.assert_allclose(written["streamflow"].values, same.values, rtol=1e-5)


def test_a_file_of_another_kind_is_refused(trained, tmp_path, monkeypatch):
    content = torch.load(trained[1], weights_only=True)
    with pytest.raises(FileNotFoundError, match="does not exist; expected trained.pt"):
        Trained.load(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="is damaged or not a trained model: give trained.pt"):
        Trained.load(tmp_path / "text.pt")
    for change, message in (
        (dict(format=99), "has format 99, written by hybridsolve"),
        (dict(bounds=content["bounds"] | {"fc": [0.0, 1.0]}), r"was trained with 'fc' in \[0.0, 1.0\]"),
        (dict(config=content["config"] | {"speed": 1}), "the key 'speed' is unknown"),
    ):
        torch.save(content | change, tmp_path / "changed.pt")
        with pytest.raises(ValueError, match=message):
            Trained.load(tmp_path / "changed.pt")


def test_predictions_refuse(data, trained):
    with pytest.raises(ValueError, match="asks for days outside the data"):
        trained[0].predict(data, "2005-01-01:2009-01-01")
    with pytest.raises(ValueError, match="attribute 'wetness' is not in the data"):
        trained[0].predict(data.drop_vars("wetness"))
    other = data.assign(pet=data["pet"].assign_attrs(method="oudin"))
    with pytest.raises(ValueError, match="'as in the data', found 'oudin' in the data; open them with their own"):
        trained[0].predict(other)
    with pytest.raises(ValueError, match="has no flux 'snow'"):
        trained[0].predict(data, fluxes=("snow",))


@pytest.mark.parametrize("kind, folds", (("pub", 3), ("pur", 2)))
def test_held_out_basins_are_not_seen(data, tmp_path, kind, folds):
    result = hs.learn.experiment(
        data, SMALL, out=tmp_path, kind=kind, folds=folds, changes=["epochs=1"], seeds=[3, 4], progress=False
    )
    for k in range(folds):
        inside = set(data["basin"].values[result["fold"].values == k])
        trained = Trained.load(tmp_path / f"fold{k}-seed4" / "trained.pt")
        assert inside and not inside & set(trained.basins) and len(inside) + len(trained.basins) == 12
        alone = trained.predict(data.sel(basin=sorted(inside)), SMALL["periods"]["test"])["streamflow"].values
        other = Trained.load(tmp_path / f"fold{k}-seed3" / "trained.pt")
        both = (
            alone + other.predict(data.sel(basin=sorted(inside)), SMALL["periods"]["test"])["streamflow"].values
        ) / 2
        np.testing.assert_allclose(result["flow"].sel(basin=sorted(inside)).values, both, rtol=1e-5)
    with pytest.raises(ValueError, match="holds a training of another 'basins'"):  # it would know those held out
        hs.learn.experiment(data, SMALL, out=tmp_path, kind=kind, folds=folds + 1, changes=["epochs=1"], seeds=[3],
                            resume=True, progress=False)  # fmt: skip
    if kind == "pur":  # a region is whole in one fold
        for region in range(4):
            assert len(set(result["fold"].values[data["huc_02"].values == region])) == 1
    assert list(result["member"].values) == ["seed 3", "seed 4", "ensemble"]
    obs = result["obs"].values
    np.testing.assert_allclose(result["nse"].sel(member="ensemble").values, metrics.nse(result["flow"].values, obs))


def test_some_folds_alone_are_those_of_the_whole_experiment(data, tmp_path):
    options = dict(kind="pub", folds=4, changes=["epochs=1"], progress=False)
    whole = hs.learn.experiment(data, SMALL, out=tmp_path / "whole", **options)
    some = hs.learn.experiment(data, SMALL, out=tmp_path / "some", only=[3, 1], **options)
    inside = np.isin(whole["fold"].values, (1, 3))
    assert some["basin"].values.tolist() == whole["basin"].values[inside].tolist()
    np.testing.assert_array_equal(some["nse"].values, whole["nse"].values[:, inside])
    assert not list((tmp_path / "some").glob("fold0*")) and some.attrs["n_folds"] == 4
    assert "4 fold(s) of which 1, 3 held out" in training_report.text(some)
    assert "4 fold(s), " in training_report.text(whole)


def test_experiments_refuse(data, tmp_path):
    for options, message in (
        (dict(kind="time"), "unknown experiment 'time'; expected one of temporal, pub, pur"),
        (dict(only=[0]), "only names folds, and an experiment in time has none"),
        (dict(kind="pub", folds=3, only=[3]), "only must name different folds from 0 to 2; found .3."),
        (dict(kind="pub", folds=3, only=[]), "only must name different folds from 0 to 2; found .]"),
        (dict(kind="pub", folds=13), "folds must be from 2 to 12 here; found 13"),
        (dict(kind="pur", folds=9), "folds must be from 2 to 4 here; found 9"),
        (dict(changes=["periods.test=null"]), "an experiment needs periods.test"),
        (dict(seeds=[1, 1]), "seeds must be different whole numbers, one at least"),
        (dict(kind="pub", folds=2.5), "folds must be a whole number, 2 or more; found 2.5"),
        (dict(changes=["fill=[]"]), "attribute 'height' is missing in 1 of 12 basins"),
    ):
        with pytest.raises(ValueError, match=message):
            hs.learn.experiment(data, SMALL, out=tmp_path, **options)


def test_the_command_trains_tests_and_reports(files, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", str(files / "config.yaml"), str(files / "data.nc"), "--out", str(out), "--seeds", "0,1",
               "--set", "epochs=1"]  # fmt: skip
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"ensemble +-?\d\.\d{3}", printed) and "begin with report.md" in printed
    report = (out / "report.md").read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (out / name).stat().st_size > 5000
    assert "| LSTM | 531 | Maurer |" in report and "water balance" in report and "2 | **" in report
    with xr.open_dataset(out / "experiment.nc") as result:
        assert result["parameter_fc"].attrs["units"] == "mm" and result["aet"].attrs["units"] == "mm d-1"
        assert np.abs(result["balance"].values).max() < 1e-5
        flow = result["runoff"].values * data_mean(files, "prcp")
        np.testing.assert_allclose(flow, result["flow"].mean("time").values, rtol=0.25)  # of one seed, of both
    assert (out / "test_looks.log").read_text().count("\n") == 1
    assert cli.main([*command, "--resume"]) == 0  # nothing to train, the same report
    assert (out / "report.md").read_text().split("##")[2:] == report.split("##")[2:]
    assert cli.main([*command, "--resume", "--reference", "scores.csv"]) == 2
    assert "the reference scores belong to a training over" in capsys.readouterr().err


def data_mean(files, name):
    with xr.open_dataset(files / "data.nc") as data:
        return data[name].sel(time=slice("2005-01-01", "2005-12-31")).mean("time").values


@pytest.mark.slow
def test_real_catchments(tmp_path):
    """Fifteen of CAMELS, by the recipe cut short; the long run's numbers stand in the README."""
    ids = Path(published("basins_531.txt")).read_text().split()[::36]
    data = read_camels(published("camels_us_671.nc"), basins=ids, pet="hargreaves")
    changes = ["epochs=3", "steps_per_epoch=50", "batch.basins=15"]
    result = hs.learn.experiment(data, "mlp-static", out=tmp_path, changes=changes, progress=False)
    assert float(result["nse"].median()) > 0.55
    assert np.abs(result["balance"].values).max() < 1e-4
    assert set(training_report.figure_makers(result)) >= {
        "scores",
        "map",
        "flow_duration",
        "bfi",
        "runoff",
        "parameter_fc",
    }
