"""Shared by the tests of the core: random inputs for any model, runs with all gradients, and comparisons.

The rule of every comparison here is the largest difference over the largest value, tensor by tensor.
"""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import plugins
import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    # Triton reads this when a kernel is defined: its interpreter then runs the kernels on CPU tensors.
    os.environ["TRITON_INTERPRET"] = "1"

import hybridsolve as hs
from hybridsolve import _cpu
from hybridsolve.solve import backends, compiled

ROOT = Path(__file__).resolve().parents[1]

# Every model as it is, and with its optional parameters.
VARIANTS = [
    pytest.param((model, model.parameter_names + optional), id="+".join([model.name, *optional]))
    for model in hs.models.MODELS.values()
    for optional in dict.fromkeys(((), model.optional_parameter_names))
]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
both_precisions = pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))


@pytest.fixture(autouse=True)
def poison():
    """Fresh memory holds NaN, so that an output nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def threads():
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def uniform(*shape, seed=0, dtype=torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def normal(*shape, seed=0, dtype=torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(scope="session")
def cuda_on_cpu(request):
    """hybridsolve._cuda built for the CPU, by the stand-in for CUDA's header in tests/cuda_on_cpu."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    return plugins.cuda_on_cpu(request.config.cache.mkdir("kernels"))


@pytest.fixture(scope="session")
def toy_kernels(request):
    """The toy's kernels for the CPU, compiled and loaded."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    _cpu.load(str(plugins.toy_for_cpu(request.config.cache.mkdir("kernels"), _cpu.isa())))


@pytest.fixture(autouse=True)
def kernels_of_the_toy(request):
    if "toy" in request.node.name:
        request.getfixturevalue("toy_kernels")


def margins(name, monkeypatch, width=64):
    """Of a fixture that yields `name`: arrays that kernels fill lie between margins, untouched at the end."""
    buffers, new_empty = [], torch.Tensor.new_empty

    def between_margins(like, *shape, **options):
        if type(like) is not torch.Tensor or torch._C._functorch.is_functorch_wrapped_tensor(like):
            return new_empty(like, *shape, **options)  # of torch.compile, where nothing is computed, or of torch.func
        shape = torch.Size(shape if isinstance(shape[0], int) else shape[0])
        buffers.append(new_empty(like, shape.numel() + 2 * width, **options).fill_(float("nan")))
        return buffers[-1][width : width + shape.numel()].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", between_margins)
    yield name
    assert buffers
    for x in buffers:
        assert x[:width].isnan().all() and x[-width:].isnan().all(), "a kernel has written outside an array"


@pytest.fixture
def cuda_device(request, monkeypatch):
    """The GPU's device, or where there is none the CPU, by the CUDA sources compiled for it."""
    if torch.cuda.is_available():
        pytest.importorskip("hybridsolve._cuda", reason="hybridsolve._cuda is not built")
        yield "cuda"
        return
    module, extension = request.getfixturevalue("cuda_on_cpu"), compiled.extension
    monkeypatch.setattr(compiled, "extension", lambda backend: module if backend == "cuda" else extension(backend))
    monkeypatch.setattr(compiled.Cuda, "_where", lambda x: dict(device=0, stream=0))
    monkeypatch.setitem(backends.DEVICE, "cuda", "cpu")
    yield from margins("cpu", monkeypatch)


@dataclass
class Inputs:
    """All that a run takes; `tensors` and `with_tensors` see it as one flat dictionary."""

    model: hs.models.ModelSpec
    forcing: dict[str, Tensor]
    parameters: dict[str, Tensor]
    initial_state: dict[str, Tensor]
    weights: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        flat = {
            f"{kind} {n}": x
            for kind in ("forcing", "parameters", "initial_state")
            for n, x in getattr(self, kind).items()
        }
        return flat if self.weights is None else flat | {"weights": self.weights}

    def with_tensors(self, changed: dict[str, Tensor]) -> Inputs:
        new = {
            kind: {n: changed.get(f"{kind} {n}", x) for n, x in getattr(self, kind).items()}
            for kind in ("forcing", "parameters", "initial_state")
        }
        return replace(self, **new, weights=changed.get("weights", self.weights))

    def map(self, function) -> Inputs:
        return self.with_tensors({name: function(name, x) for name, x in self.tensors().items()})

    def to(self, dtype) -> Inputs:
        return self.map(lambda _, x: x.to(dtype))

    def steps(self, cut: slice) -> Inputs:
        return self.map(lambda name, x: x[cut] if name.startswith("forcing") or x.dim() == 3 else x)

    def basins(self, cut: slice) -> Inputs:
        return self.map(lambda name, x: x[:, cut] if name.startswith("forcing") or x.dim() == 3 else x[cut])

    def simulate(self, **options) -> hs.Run:
        return hs.simulate(
            self.model,
            self.forcing,
            self.parameters,
            initial_state=self.initial_state,
            weights=self.weights,
            **options,
        )

    def outputs(self, **options) -> dict[str, Tensor]:
        """All series and final states of a run, or the series that `fluxes` names."""
        run = self.simulate(**{"fluxes": self.model.output_names} | options)
        return run.fluxes | {f"final {n}": x for n, x in run.final_state.items()}


def random_inputs(variant, T=24, B=5, C=3, *, dtype=torch.float64, seed=0, per_step=(), weights=False) -> Inputs:
    """Dry and wet days, frost and thaw, empty and full stores, parameters over their whole range.

    Two things stand apart: T == tt in `ties`, since a pack that holds all it can is then at a tie that
    rounding decides unless the numbers are round; and a soil without water, whose gradients can be so large
    that they hide all others.
    """
    model, names = variant
    seeds = itertools.count(1000 * seed)
    U = lambda *shape: uniform(*shape, seed=next(seeds))  # noqa: E731
    season = torch.sin(torch.arange(T) * (2 * torch.pi / 20))[:, None]
    series = {
        "prcp": torch.where(U(T, B) < 0.5, 0.0, 40 * U(T, B) ** 3),
        "tmean": 2 + 6 * season + 4 * U(T, B) - 2,
        "pet": torch.where(U(T, B) < 0.2, 0.0, 5 * U(T, B)),
    }
    unit = {n: U(*((T,) if n in per_step else ()), B, C) for n in names}
    parameters = model.parameters_from_unit(unit)
    full = {"sm": 300, "snowpack": 30, "meltwater": 3, "suz": 30, "slz": 60}
    state = {n: torch.where(U(B, C) < 0.3, 0.0, full[n] * U(B, C)) for n in model.state_names}
    state["sm"] += 0.001
    forcing = {n: series[n] for n in model.forcing_names}
    return Inputs(model, forcing, parameters, state, 2 * U(B, C) - 0.5 if weights else None).to(dtype)


def ties(variant, T=18, B=6, C=4) -> Inputs:
    """Inputs on a coarse grid, on which every kink of HBV is met exactly, many times over."""
    x = random_inputs(variant, T, B, C)
    pick = lambda values, seed: torch.tensor(values, dtype=torch.float64)[  # noqa: E731
        (uniform(T, B, seed=seed) * len(values)).long()
    ]
    x.forcing.update(prcp=pick([0, 0, 0, 8, 16], 1), tmean=pick([-1, 0, 0, 1, 2], 2), pet=pick([0, 0, 1, 2], 3))
    coarse = {
        "tt": [-1, 0, 1],
        "uzl": [0, 4],
        "perc": [0, 1, 2],
        "cfmax": [1, 2],
        "cfr": [0, 0.0625],
        "cwh": [0, 0.125],
        "fc": [64, 128],
        "lp": [0.5, 1],
        "beta": [1, 2],
        "betaet": [1, 2],
        "c": [0, 0.25, 1],
    }
    for i, (name, values) in enumerate(coarse.items()):
        if name in x.parameters:
            x.parameters[name] = torch.tensor(values, dtype=torch.float64)[(uniform(B, C, seed=i) * len(values)).long()]
    x.initial_state = {n: torch.where(uniform(B, C, seed=9) < 0.5, 0.0, s.round()) for n, s in x.initial_state.items()}
    x.initial_state["sm"] = torch.where(uniform(B, C, seed=8) < 0.5, x.parameters["fc"], 0.0)
    return x


def cotangents(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: normal(*x.shape, seed=i, dtype=x.dtype) for i, (name, x) in enumerate(outputs.items())}


def gradients(outputs, inputs: dict[str, Tensor], d_outputs=None) -> dict[str, Tensor]:
    """The gradient of sum(d_output * output) with respect to each input."""
    d_outputs = d_outputs or cotangents(outputs)
    wanted = [name for name in outputs if outputs[name].requires_grad]
    found = torch.autograd.grad(
        [outputs[n] for n in wanted],
        list(inputs.values()),
        [d_outputs[n] for n in wanted],
        materialize_grads=True,
    )
    return {f"d {name}": g for name, g in zip(inputs, found, strict=True)}


def run_both_ways(inputs: Inputs, d_outputs=None, only=None, **options) -> dict[str, Tensor]:
    """All outputs of a run, and the gradients of all its inputs or of those that `only` names."""
    leaves = {n: x.detach().requires_grad_() for n, x in inputs.tensors().items() if only is None or n in only}
    outputs = inputs.with_tensors(leaves).outputs(**options)
    return {n: x.detach() for n, x in outputs.items()} | gradients(outputs, leaves, d_outputs)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].shape == x.shape and found[name].dtype == x.dtype, name
        error, scale = (found[name] - x).abs().max(), x.abs().max().clamp(min=1e-100)
        assert error <= tolerance * scale, f"{name}: {error:.3g} off, where the largest value is {scale:.3g}"


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert torch.equal(found[name], x), f"{name}: {(found[name] - x).abs().max():.3g} off"


def assert_matches_reference(inputs: Inputs, **options) -> None:
    assert_close(run_both_ways(inputs, **options), run_both_ways(inputs, backend="reference", **options), 1e-10)


def published(name: str) -> Path:
    """A file of ../shared/data (or HYBRIDSOLVE_DATA), or of ../shared/golden; else the test is skipped."""
    shared = ROOT.parent / "shared"
    if name.startswith("golden/"):
        file, remedy = shared / name, "place it there to run this test"
    else:
        file = Path(os.environ.get("HYBRIDSOLVE_DATA") or shared / "data") / name
        remedy = "set HYBRIDSOLVE_DATA to run this test"
    if not file.exists():
        pytest.skip(f"{name} is not at {file}; {remedy}")
    return file


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(published(f"golden/{name}.npz")) as file:
        return dict(file)
