"""Things of the wrong type, and paths that are no files, each refused in one sentence."""

import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from foreign import DAYS, IDS, LAT, TRUTH, one_sentence, opened, own

from hybridsolve import cli, data
from hybridsolve.calibration.fit import calibrate
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.data.files import check_target, refuse_overwriting

PERIOD = "1999-10-05:1999-10-20"


@pytest.mark.parametrize("other", [None, [1.0], "d.nc", np.zeros(3), {"prcp": 1}, pd.DataFrame()], ids=type)
def test_what_is_no_dataset_is_said(other):
    for call in (lambda: calibrate(other, "hbv10", train=PERIOD), lambda: simulate_calibrated(other, own())):
        with pytest.raises(TypeError, match=f"must be .* found {type(other).__name__}") as error:
            call()
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


BAD_OPTIONS = {
    "a set of dates": (dict(period={"1999-10-05", "1999-10-20"}), "period is malformed"),
    "a number as basins": (dict(basins=1013500), "basins must be a list of ids .* found int"),
    "a list as pet": (dict(pet=["oudin"]), "pet must be one of hargreaves"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_of_another_type(options, message):
    with pytest.raises(ValueError, match=message) as error:
        opened(own(), **options)
    one_sentence(error)


def test_options_of_other_types_that_are_clear():
    assert opened(own(), period=(x for x in PERIOD.split(":"))).sizes["time"] == 16
    assert list(opened(own(), basins=own()["basin"][:2]).basin.values) == IDS[:2]


def test_dates_are_no_flow():
    dates = own().assign(qobs=(("time", "basin"), np.full((60, 3), DAYS[0].to_datetime64()), {"units": "mm d-1"}))
    with pytest.raises(ValueError, match="qobs .* must hold numbers, found datetime64") as error:
        opened(dates)
    one_sentence(error)


@pytest.mark.parametrize("kind", [">f8", "longdouble", "float16", "int16"])
def test_numbers_that_the_solver_does_not_take(kind):
    ds = opened(own())
    ds["prcp"] = ds["prcp"].astype(kind)
    with pytest.raises(ValueError, match="prcp must hold numbers as float32 or float64, found dtype") as error:
        data.check_dataset(ds, forcing_names=("prcp",))
    one_sentence(error)


def frame():
    return pd.DataFrame(
        {"date": DAYS[:60], "prcp [mm/d]": TRUTH["prcp"][:60, 0], "tmean [degC]": 5.0, "pet [mm/d]": 1.0}
    )


def test_columns_twice():
    twice = pd.concat([frame(), frame()[["prcp [mm/d]"]]], axis=1)
    with pytest.raises(ValueError, match=r"columns of the frame must be unique, found 'prcp \[mm/d\]' twice") as error:
        opened(twice)
    one_sentence(error)


def test_folders_and_tables_as_they_come(tmp_path):
    text = frame().to_csv(index=False)
    (tmp_path / "a.csv").write_text(text.replace(",", "|"))
    (tmp_path / "._a.csv").write_bytes(b"\0\5\x16")  # what a Mac leaves beside
    np.testing.assert_allclose(opened(tmp_path).prcp.values[:, 0], TRUTH["prcp"][:60, 0], rtol=1e-6)
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match="one file a basin, found a.csv and a.txt for 'a'") as error:
        opened(tmp_path)
    one_sentence(error)


def test_variables_in_groups(tmp_path):
    own().assign_coords(lat=("basin", LAT)).to_netcdf(tmp_path / "g.nc", group="daily")
    with pytest.raises(ValueError, match="found the groups daily alone; open one with .*group='daily'") as error:
        opened(tmp_path / "g.nc")
    one_sentence(error)


def test_nothing_is_written_over_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (
        lambda: check_target("--out", tmp_path / "pipe"),
        lambda: data.write_netcdf(xr.Dataset(), tmp_path / "pipe"),
    ):
        with pytest.raises(ValueError, match="must be a file to write, found the device or pipe") as error:
            write()
        one_sentence(error)
    assert (tmp_path / "pipe").is_fifo()


def test_a_loop_of_links_is_no_other_file(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuse_overwriting({"--out": tmp_path / "loop"}, {"the data": tmp_path / "d.nc"})


def test_paths_from_home_and_empty_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    own().to_netcdf(tmp_path / "d.nc")
    assert opened("~/d.nc").sizes["time"] == 60
    run = ["calibrate", "~/d.nc", "--train", PERIOD]
    for arguments, said in (
        ([*run, "--out", ""], "--out must not be empty"),
        (["calibrate", "", "--train", PERIOD], "data must not be empty"),
        ([*run, "--out=~/d.nc"], f"{tmp_path}/d.nc must be a folder for results, found a file"),
        ([*run, "--out=~/d.nc/sub"], f"{tmp_path}/d.nc/sub must be a folder for results, could not be made"),
    ):
        assert cli.main(arguments) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith(".") and said.split(" .*")[0] in last
    assert not (tmp_path / "~").exists()
