"""The command line, as a new user meets it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

from hybridsolve import cli, models
from hybridsolve.data import read_fulda, write_netcdf

CALIBRATE = [
    "--train",
    "1980-01-01:1981-12-31",
    "--test",
    "1982-01-01:1982-12-31",
    "--warmup-years",
    "1",
    "--starts",
    "3",
    "--steps",
    "10",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pytest.importorskip("spotpy", reason="the Fulda's data come with spotpy")
    return write_netcdf(read_fulda(), tmp_path_factory.mktemp("data") / "fulda.nc")


def test_info_lists_models_and_backends(capsys):
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    for word in (*models.names(), "available", "reference", "cemaneige-3+gr4j"):
        assert word in said
    assert cli.main(["models", "hbv11p"]) == 0
    said = capsys.readouterr().out
    assert "cfmax" in said and "mm degC-1 d-1" in said and "gr4j" not in said


def test_info_for_programs(capsys):
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == list(models.names()) and found["backends"]["reference"].startswith("available")
    assert found["versions"]["torch"] == torch.__version__


@pytest.mark.filterwarnings("ignore")
def test_calibrate_then_simulate(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["calibrate", str(file), *CALIBRATE, "--out", str(out)]) == 0
    assert "NSE" in capsys.readouterr().out
    assert (
        cli.main(
            [
                "simulate",
                str(out / "calibration.nc"),
                str(file),
                "--period",
                "1982-01-01:1982-12-31",
                "--fluxes",
                "streamflow,swe",
                "--warmup-years",
                "1",
                "--out",
                str(tmp_path / "sim.nc"),
            ]
        )
        == 0
    )
    simulated = xr.load_dataset(tmp_path / "sim.nc")
    assert simulated["streamflow"].attrs["units"] == "mm d-1" and "hybridsolve_version" in simulated.attrs
    flow = xr.load_dataset(out / "streamflow.nc")["flow"].sel(member="best", time=simulated["time"])
    np.testing.assert_allclose(simulated["streamflow"], flow, rtol=1e-5)
    whole = xr.load_dataset(out / "streamflow.nc")
    assert (whole["time_bnds"][:, 0] == whole["time"]).all() and whole.attrs["day_boundary"]
    assert not {"time", "bnds"} & set(xr.load_dataset(out / "calibration.nc").sizes)


@pytest.mark.filterwarnings("ignore")
def test_killed_and_resumed_ends_with_the_same_result(file, tmp_path):
    def command(out, *more):
        return ["calibrate", str(file), *CALIBRATE[:-1], "400", "--out", str(out), *more]

    assert cli.main(command(tmp_path / "whole")) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "hybridsolve.cli", *command(tmp_path / "killed")],
        env=os.environ | {"HYBRIDSOLVE_SAVE_EVERY": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "killed" / "calibration.nc").exists()
    assert cli.main(command(tmp_path / "killed", "--resume")) == 0
    whole, resumed = (xr.load_dataset(tmp_path / name / "calibration.nc") for name in ("whole", "killed"))
    xr.testing.assert_equal(whole, resumed)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["calibrate", "absent.nc", *CALIBRATE], "absent.nc does not exist"),
        (
            ["calibrate", "fulda", *CALIBRATE, "--model", "hbv99"],
            "unknown model 'hbv99'; expected one of cemaneige",
        ),
        (["calibrate", "fulda", *CALIBRATE, "--basins", "nowhere"], "nowhere"),
        (["simulate", "absent.nc", "fulda"], "absent.nc does not exist"),
    ],
)
def test_errors_are_one_sentence_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
