"""HYBRIDSOLVE_LOG: the package's logger says what is made, found, chosen and finished."""

import logging
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import VARIANTS, random_inputs, run_both_ways
from test_build import environment

from hybridsolve import cli
from hybridsolve.calibration.blocks import Checkpoint
from hybridsolve.compiler import cache
from hybridsolve.solve import backends

RUN = """
    import logging, torch
    import hybridsolve as hs
    table = hs.models.get("hbv11p")
    weather = {name: torch.ones(3, 2) for name in table.forcing_names}
    middle = table.parameters_from_unit({name: torch.full((2, 4), 0.5) for name in table.parameter_names})
    hs.simulate("hbv11p", weather, middle)
    print(logging.getLogger("hybridsolve").level, len(logging.getLogger("hybridsolve").handlers))
"""


def logged(level):
    changed = environment() | ({} if level is None else {"HYBRIDSOLVE_LOG": level})
    code = textwrap.dedent(RUN)
    return subprocess.run([sys.executable, "-c", code], env=changed, capture_output=True, text=True, check=True)


def test_the_environment_names_the_level():
    done = logged("DEBUG")
    assert done.stdout.split() == [str(logging.DEBUG), "1"]
    assert "DEBUG hybridsolve.solve.backends: hbv11p runs on backend cpu\n" in done.stderr
    assert "hbv11p on cpu: 3 steps x 2 basins x 4 components, torch.float32\n" in done.stderr


def test_nothing_is_said_unasked():
    done = logged(None)
    assert done.stdout.split() == ["0", "0"] and done.stderr == ""


def test_another_level_is_a_warning():
    done = logged("loud")
    assert done.stdout.split() == ["0", "0"]
    assert (
        "HYBRIDSOLVE_LOG must be debug, info, warning or error, found 'loud', so that nothing is logged" in done.stderr
    )


def test_what_is_made_and_found(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path / "cache"))
    caplog.set_level("DEBUG", "hybridsolve")
    for _ in range(2):
        kept = cache.entry("what it says", ".txt", "mine; avx2", lambda path: path.write_text("kernel"))
    made, found = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert made[0] == "INFO" and made[1].startswith("mine; avx2: made in 0.") and made[1].endswith(str(kept))
    assert found == ("DEBUG", f"mine; avx2: found, {kept}")


def test_the_backend_is_said_once_a_kernel_and_every_run(caplog, monkeypatch):
    monkeypatch.setattr(backends, "_CHECKED", set())
    caplog.set_level("DEBUG", "hybridsolve")
    for _ in range(2):
        run_both_ways(random_inputs(VARIANTS[0].values[0], T=3, B=2, C=1))
    said = [record.getMessage() for record in caplog.records]
    assert sum("runs on backend cpu" in line for line in said) == 1
    assert sum("3 steps x 2 basins x 1 components, torch.float64" in line for line in said) >= 2


def test_a_searched_block(caplog):
    caplog.set_level("DEBUG", "hybridsolve")
    Checkpoint(None, "", False).keep(3, (torch.zeros(1, 2, 2), torch.tensor([[0.5, 0.25], [0.75, 1.0]]), 4))
    assert caplog.messages == ["block 3: 2 basins searched, median loss 0.2500"]


@pytest.mark.parametrize("level", ["debug", ""])
def test_the_command_line_says_it_once(level, monkeypatch, capsys):
    logger = logging.getLogger("hybridsolve")
    monkeypatch.setenv("HYBRIDSOLVE_LOG", level)
    monkeypatch.setattr(cli, "_info", lambda _: logger.info("high water"))
    if level:
        monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stderr)])
        monkeypatch.setattr(logger, "level", logging.DEBUG)
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().err.count("high water") == 1
