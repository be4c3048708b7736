"""The CUDA extension as it was built: for which cards, linked to what; and what it says where something lacks."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from hybridsolve import _cpu, models

try:
    from hybridsolve import _cuda

    why_not = None
except ImportError as error:
    why_not = f"hybridsolve._cuda is built where HYBRIDSOLVE_CUDA=1 asks for it ({error})"
built = pytest.mark.skipif(why_not is not None, reason=str(why_not))


@built
def test_built_for_the_cards_asked_for_and_for_later_ones():
    asked = (os.environ.get("HYBRIDSOLVE_CUDA_ARCHS") or "80,90").split(",")
    assert _cuda.architectures() == [*(f"sm_{n}" for n in asked), f"compute_{asked[-1]}"]


@built
def test_the_library_stands_alone():
    ldd = shutil.which("ldd")
    if not ldd:
        pytest.skip("ldd is not installed")
    needed = subprocess.run([ldd, _cuda.__file__], capture_output=True, text=True, check=True).stdout
    assert not re.search("torch|c10|cudart|libcuda", needed)


@built
def test_the_models_are_those_of_the_cpu():
    """But for those that other tests have loaded since, and where HBV's, here by hand, say nothing or another order."""
    ours, there = (
        {n: x | dict(identity="", flux_names=sorted(x["flux_names"].split())) for n, x in each.models().items()}
        for each in (_cuda, _cpu)
    )
    assert models.DEFAULT in ours and ours == {name: there[name] for name in ours}


@built
def test_without_a_gpu_it_can_be_imported_and_says_so():
    code = """if True:
        import re
        from hybridsolve import _cuda
        try:
            _cuda.check(0)
        except RuntimeError as error:
            assert re.match(r"backend 'cuda' (needs|was asked) .*; found .*: [^.]*\\.$", str(error)), error
            print("refused")
    """
    hidden = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr


@built
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_launch_without_a_gpu_is_an_error():
    with pytest.raises(RuntimeError, match=r"^asking for the current GPU failed: .*check\(\) tells"):
        _cuda.sum_middle(True, 0, 0, 1, 1, 1, 0, 0)


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="there is no setup.py beside the tests")
@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"HYBRIDSOLVE_CUDA": "auto"},
            "HYBRIDSOLVE_CUDA must be 0 or 1; found 'auto': set 1 to build for a GPU, or unset",
        ),
        (
            {"HYBRIDSOLVE_CUDA": "1", "PATH": "", "CUDA_HOME": ""},
            "HYBRIDSOLVE_CUDA=1 needs nvcc on PATH .*; found none: ",
        ),
        (
            {"HYBRIDSOLVE_CUDA": "1", "CUDA_HOME": "/nowhere"},
            "CUDA_HOME must have bin/nvcc; found none in '/nowhere': correct or unset it",
        ),
        ({"HYBRIDSOLVE_CUDA": "0", "HYBRIDSOLVE_CUDA_ARCHS": "9.0"}, "HYBRIDSOLVE_CUDA_ARCHS must be .*; found '9.0'"),
    ],
    ids=("unknown", "no-nvcc", "no-nvcc-at-home", "architectures"),
)
def test_wishes_that_the_build_cannot_fulfil(settings, message):
    setup = [sys.executable, "setup.py", "--quiet", "--version"]
    done = subprocess.run(setup, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode != 0 and re.search(message, done.stderr)


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="there is no setup.py beside the tests")
@pytest.mark.parametrize("wish", (None, "0", "1"))
def test_cuda_is_built_only_where_it_is_asked_for(wish, tmp_path):
    """Though there be an nvcc: here one that does nothing."""
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    env = {n: v for n, v in os.environ.items() if not n.startswith("HYBRIDSOLVE_CUDA")}
    env |= {"CUDA_HOME": str(tmp_path)} | ({"HYBRIDSOLVE_CUDA": wish} if wish else {})
    code = """if True:
        import setuptools
        setuptools.setup = lambda **options: print(*(e.name for e in options["ext_modules"]))
        exec(compile(open("setup.py").read(), "setup.py", "exec"))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    expected = ["hybridsolve._cpu", "hybridsolve._driver", *(["hybridsolve._cuda"] if wish == "1" else [])]
    assert done.stdout.split() == expected, done.stderr
