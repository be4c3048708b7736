"""The kernels take no more instructions than were kept: `python -m benchmarks.instructions --check`, about a minute."""

import csv
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import instructions


def kept():
    with instructions.KEPT.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_kernels_take_no_more_instructions():
    if os.environ.get("HYBRIDSOLVE_TEST_MODELS") != "all":
        pytest.skip("a minute: counted every night, or where HYBRIDSOLVE_TEST_MODELS is 'all'")
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "amd64"):
        pytest.skip("the counts are of AVX2, under valgrind of Linux")
    for tool in ("g++", "valgrind"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if instructions.compiler() != kept()[0]["compiler"]:
        pytest.skip(f"counts are kept of {kept()[0]['compiler']}; found {instructions.compiler()}")
    command = [sys.executable, "-m", "benchmarks.instructions", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(instructions=1010), None),
        (dict(instructions=900), None),
        (dict(instructions=1021), "a run: at most 1.02 x 1000 instructions expected; found 1021"),
        (dict(case="another"), "a run: only kept"),
        (dict(compiler="g++ 99"), "compiler: the counts kept are of .*g\\+\\+ 12.*; found .*g\\+\\+ 99"),
    ],
    ids=str,
)
def test_what_is_a_fault(change, message):
    row = dict(case="a run", instructions="1000", compiler="g++ 12", flags="-O3")
    found = instructions.faults([row | change], [row])
    assert not found if message is None else re.search(message, "\n".join(found))
