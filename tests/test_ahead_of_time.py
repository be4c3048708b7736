"""The Triton kernels compiled ahead of time: a slice of `python -m benchmarks.ahead_of_time`."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

import hybridsolve as hs

pytest.importorskip("triton", reason="triton is not installed")


def compiled(*options, env=None):
    """Exit status, rows of the table, and what was said on stderr."""
    command = [sys.executable, "-m", "benchmarks.ahead_of_time", *options]
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"} | (env or {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    header, *rows = [line.split(" | ") for line in done.stdout.splitlines()]
    return done.returncode, [dict(zip(header, row, strict=True)) for row in rows], done.stderr


@pytest.mark.slow
def test_every_model_for_hopper_in_single_precision():
    status, rows, said = compiled("--targets", "sm_90")
    assert status == 0, said
    assert {r["model"] for r in rows} == {
        m.kernel_name(m.parameter_names + optional)
        for m in hs.models.MODELS.values()
        if m.triton and m.triton.startswith("hybridsolve.")  # not what the tests have registered
        for optional in ((), m.optional_parameter_names)
    } | {"unit_hydrograph"}
    assert {r["kernel"] for r in rows} == {"forward", "adjoint", "sum_middle"}
    # The mean over components and the adjoint stay inside a warp; nothing goes through shared memory.
    assert all(r["spilled"] == r["shared"] == "0" for r in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets, precisions",
    (
        (("sm_90", "gfx942"), ("float64",)),  # both makers; single precision is above
        pytest.param(("sm_80", "sm_90", "sm_100", "gfx942"), ("float32", "float64"), marks=pytest.mark.nightly),
    ),
    ids=("two", "every"),
)
def test_one_model_for_other_targets_and_precisions(targets, precisions):
    status, rows, said = compiled("--models", "hbv11p", "--targets", *targets, "--precisions", *precisions)
    assert status == 0, said
    assert len({(r["target"], r["precision"]) for r in rows}) == len(targets) * len(precisions)


def test_the_interpreter_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ahead_of_time"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode and "TRITON_INTERPRET is set" in done.stderr


def test_runs_of_other_sizes_need_no_other_kernels():
    """Steps, checkpoints and blocks may be 1 or multiples of 16: nothing is compiled again for that."""
    code = """if True:
        from unittest import mock
        import torch, triton
        from benchmarks import ahead_of_time
        from hybridsolve import models
        from hybridsolve.solve import backends
        from hybridsolve.solve.problem import Problem
        from hybridsolve.solve.triton import launch

        def kernels(T, B, interval, C=3):
            keys = []
            start = lambda kernel, grid, device, *a, **k: kernel.warmup(*a, grid=grid, **k, **launch.OPTIONS)
            with (
                mock.patch.object(triton.runtime.driver, "_active", ahead_of_time._Driver("sm_90")),
                mock.patch.object(launch, "start", start),
                mock.patch.object(triton.runtime.jit.JITFunction, "_do_compile", lambda _, key, *a: keys.append(key)),
            ):
                empty = lambda *shape: torch.empty(shape, device="meta")
                forcing, parameters = [empty(T, B)] * 3, [empty(B, C)] * 14
                model = models.get("hbv11p")
                run = (forcing, [], parameters, empty(5, B, C), None, (T, B, C), (model.outflow,))
                run = Problem("triton", model, *run, interval=interval)
                arguments = run.text, run.tensors, run.numbers
                fluxes, final, checkpoints = backends.forward(*arguments)
                backends.adjoint(*arguments, [checkpoints], [fluxes, final], [False] * 3 + [True] * 15)
                series, sizes = (empty(T, B), empty(15, B), empty(14, B)), [T, B, 15]
                backends.convolve("triton", series, sizes)
                backends.convolve_adjoint("triton", series, sizes, [], [empty(T, B)], [True] * 3)
            return keys

        first = kernels(20, 50, 4)
        assert len(set(first)) == 5
        for other in ((32, 66, 16), (17, 50, 1), (3, 2, 1)):
            assert kernels(*other) == first, other
    """
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
