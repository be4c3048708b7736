"""The binding of the CUDA kernels where there is no GPU, by the stand-in for CUDA's header in tests/cuda_on_cpu.

test_gpu.py holds the kernels' numbers against the oracle.
"""

import contextlib
import ctypes
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import both_precisions, normal

from hybridsolve.solve import compiled


@pytest.fixture
def cuda(cuda_on_cpu):
    return cuda_on_cpu


@both_precisions
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 300), (300, 33, 1)], ids=str)
def test_sums_over_the_middle_axis_are_in_order(cuda, dtype, shape):
    x = normal(*shape, dtype=dtype)
    found = torch.full((shape[0], shape[2]), float("nan"), dtype=dtype)
    cuda.sum_middle(dtype == torch.float64, x.data_ptr(), found.data_ptr(), *shape, 0, 0)
    expected = torch.zeros_like(found)
    for part in x.unbind(1):
        expected += part
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, None),
        ({"CAPABILITY": 80}, None),
        ({"CAPABILITY": 120}, None),  # by the driver's translation
        (
            {"CAPABILITY": 75},
            r"built for sm_80, sm_90, compute_90; GPU 0 has compute capability 7\.5: build .*ARCHS=75",
        ),
        ({"DRIVER": 0}, r"needs an NVIDIA driver for CUDA 13\.0 or newer; found none: install"),
        ({"DRIVER": 12080}, r"needs an NVIDIA driver for CUDA 13\.0 or newer; found one for 12\.8: update"),
        ({"GPUS": 0}, r"was asked for GPU 0; found 0: name"),
    ],
    ids=str,
)
def test_whether_a_card_can_run_it(cuda, monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(f"CUDA_ON_CPU_{name}", str(value))
    if message is None:
        return cuda.check(0)
    with pytest.raises(RuntimeError, match=message) as error:
        cuda.check(0)
    assert re.search(r"\. ", str(error.value)) is None  # one sentence


def a_run(cuda, **changed):
    run = cuda.Run()
    for name, value in (
        dict(n_steps=500, n_basins=1, n_components=1, n_groups=1, group_size=1, interval=500) | changed
    ).items():
        setattr(run, name, value)
    return run


def test_calls_that_cannot_be_served(cuda):
    with pytest.raises(RuntimeError, match="choosing GPU 3 failed: invalid argument; .*check"):
        cuda.sum_middle(True, 0, 0, 1, 0, 1, 3, 0)
    with pytest.raises(ValueError, match="model 'hbv' has no CUDA kernel"):
        cuda.forward("hbv", a_run(cuda), 0, 0)
    with pytest.raises(ValueError, match=f"needs a tape of {499 * 5 * 32} values; found none: allocate"):
        cuda.adjoint("hbv10", a_run(cuda), 0, 0)
    for changed, message in (
        (dict(group_size=33), "group_size must be 1 to 32; found 33"),
        (dict(n_steps=1 << 31), r"fewer than 2\^31 steps; found 2147483648: cut"),
        (dict(n_outputs=3, output=[2, 0, 2]), "asked for once; found number 2 twice"),
    ):
        with pytest.raises(ValueError, match=message):
            cuda.forward("hbv10", a_run(cuda, **changed), 0, 0)
    with pytest.raises(ValueError, match="at most 96 of output; found 97: ask"):
        a_run(cuda, output=[0] * 97)


def test_the_models_are_those_of_the_cpu(cuda):
    """But for those that other tests have loaded since, and where HBV's, here by hand, say nothing or another order."""
    from hybridsolve import _cpu, models

    built, there = (
        {n: x | dict(identity="", flux_names=sorted(x["flux_names"].split())) for n, x in each.models().items()}
        for each in (cuda, _cpu)
    )
    assert models.DEFAULT in built and built == {name: there[name] for name in built}
    assert cuda.architectures() == ["sm_80", "sm_90", "compute_90"]


def test_device_is_left_as_it_was(cuda, monkeypatch):
    """Also where a launch fails."""
    monkeypatch.setenv("CUDA_ON_CPU_GPUS", "2")
    x, y = normal(2, 3, 4), torch.empty(2, 4, dtype=torch.float64)
    cuda.sum_middle(True, x.data_ptr(), y.data_ptr(), 2, 3, 4, 1, 0)
    with pytest.raises(RuntimeError, match="launching the CUDA kernel 'sum' failed: invalid argument"):
        cuda.sum_middle(True, x.data_ptr(), y.data_ptr(), 0, 3, 4, 1, 0)
    assert ctypes.CDLL(cuda.__file__).cuda_on_cpu_device() == 0


def test_a_kernel_is_launched_with_its_device_current_in_torch(monkeypatch):
    current = []

    @contextlib.contextmanager
    def device(chosen):
        current.append(chosen.index)
        yield
        current.pop()

    launched = []
    called = SimpleNamespace(sum_middle=lambda *_, device, stream: launched.append((device, stream, list(current))))
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=7))
    monkeypatch.setattr(compiled, "extension", lambda backend: called)
    x = SimpleNamespace(device=torch.device("cuda", 1), is_cuda=True, dtype=torch.float32, data_ptr=lambda: 0)
    compiled.Cuda.sum_middle(x, x, 1, 1, 1)
    assert launched == [(1, 7, [1])] and current == []
