"""Shared by the tests of the core: random inputs for any model, runs with all gradients, and comparisons.

The rule of every comparison here is the largest difference over the largest value, tensor by tensor.
"""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

# torch's threads sleep while they wait: spinning, they take the core from the other process of `pytest -n`.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import plugins
import pytest
import torch
import yaml
from torch import Tensor

if not torch.cuda.is_available():
    # Triton reads this when a kernel is defined: its interpreter then runs the kernels on CPU tensors.
    os.environ["TRITON_INTERPRET"] = "1"

import trainings
from models import example
from models.examples import normal, uniform
from models.toy import toy

import hybridsolve as hs
from hybridsolve import _cpu, plot
from hybridsolve.compiler import definition, nvrtc
from hybridsolve.solve import backends, compiled

ROOT = Path(__file__).resolve().parents[1]

hs.models.register(toy)
# What goes through every test; the other models go through tests/test_model_library.py, and nightly through all.
THOROUGH = ("hbv10", "hbv11p", "toy")
ALL = os.environ.get("HYBRIDSOLVE_TEST_MODELS") == "all"
if ALL:
    THOROUGH = tuple(hs.models.MODELS)


def variants(names):
    """Every model as it is, and with its optional parameters."""
    models = [hs.models.MODELS[name] for name in names if name in hs.models.MODELS]
    return [
        pytest.param((model, model.parameter_names + optional), id="+".join([model.name, *optional]))
        for model in models
        for optional in dict.fromkeys(((), model.optional_parameter_names))
    ]


VARIANTS = variants(THOROUGH)
every_variant = pytest.mark.parametrize("variant", VARIANTS)
# One variant of each family, for what depends on the table and not on the equations.
ONE_EACH = [v for v in VARIANTS if v.id not in ("hbv10", "hbv10+betaet")]
one_of_each = pytest.mark.parametrize("variant", ONE_EACH)
both_precisions = pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))
OUTFLOW = {"fluxes": None}


# What `pytest -m fast` runs beside what is marked so, save what waits for a compiler or for Triton's interpreter.
FAST = """
every_model bad_input extension step_length tables names times losses metrics unit_hydrograph pet water_balance hbv toy
bmi continent continental_run grids local_days nextgen_page public_networks river_parts simulate_dataset
""".split()


def pytest_collection_modifyitems(items):
    for item in items:
        variant = item.callspec.params if hasattr(item, "callspec") else {}
        if "cuda_on_cpu" in item.fixturenames or "cuda_device" in item.fixturenames or variant.get("gpu") == "cuda":
            item.add_marker("cuda_on_cpu")
        elif variant.get("gpu") == "triton" and not torch.cuda.is_available():
            item.add_marker("slow")
            if item.get_closest_marker("long_in_interpreter"):
                item.add_marker("nightly")
        waits = any(item.get_closest_marker(name) for name in ("slow", "compile", "cuda_on_cpu", "nightly"))
        if item.path.stem.removeprefix("test_") in FAST and not waits:
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def poison():
    """Fresh memory holds NaN, so that an output nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def is_built(model, names) -> bool:
    """Whether the build, or what the tests have loaded, holds the CPU's time loop for a run with these parameters."""
    return hs.models.get(model).kernel_name(names) in _cpu.models()


def has_kernel(model, names) -> bool:
    """Whether the tests run the CPU's time loop: one that is built, or of all models one that is made at first use."""
    kernel = hs.models.get(model).kernel_name(names)
    return is_built(model, names) or ALL and definition.can_generate(kernel, "cpu")


def needs_kernel_of(request, engine, name) -> None:
    """Skip what runs a model that the backend `name` holds no time loop of."""
    variant = request.node.callspec.params.get("variant") if hasattr(request.node, "callspec") else None
    if isinstance(variant, tuple) and variant[0].kernel_name(variant[1]) not in engine:
        pytest.skip(f"model {variant[0].name} has no kernel of {name} in this build")


@pytest.fixture(scope="session")
def kernels(request, tmp_path_factory):
    """Where what the tests compile is kept from run to run."""
    cache = getattr(request.config, "cache", None)  # none with -p no:cacheprovider
    return cache.mkdir("kernels") if cache else tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session", autouse=True)
def toy_kernels(kernels):
    """The toy's kernels for the CPU, compiled where they have changed, and loaded."""
    if shutil.which("g++"):
        _cpu.load(str(plugins.toy_for_cpu(kernels, _cpu.isa())))


@pytest.fixture(autouse=True)
def needs_kernel(request):
    """What compares a kernel with anything is skipped for a model that has none; what runs all the same is marked."""
    variant = request.node.callspec.params.get("variant") if hasattr(request.node, "callspec") else None
    oracle = request.node.get_closest_marker("oracle")
    if isinstance(variant, tuple) and not has_kernel(*variant) and not (oracle and oracle.args != (False,)):
        pytest.skip(f"model {variant[0].name} has no kernel in this build")


@pytest.fixture(autouse=True)
def threads():
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny():
    """Data of trainings that take a moment: three basins, two years. Who changes them takes a deep copy."""
    return trainings.make()


@pytest.fixture(scope="session")
def tiny_files(tiny, tmp_path_factory):
    """A folder with these data and a config, for the command line."""
    folder = tmp_path_factory.mktemp("files")
    tiny.to_netcdf(folder / "data.nc")
    (folder / "config.yaml").write_text(yaml.safe_dump(trainings.SEEN))
    return folder


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn, and their files are marks: to save them takes a second."""

    def save(figure, path):
        path.touch()
        return path

    monkeypatch.setattr(plot, "save", save)


@pytest.fixture(scope="session")
def cuda_on_cpu(kernels):
    """hybridsolve._cuda built for the CPU, by the stand-in for CUDA's header in tests/cuda_on_cpu."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    return plugins.cuda_on_cpu(kernels)


def needs_card(request):
    """Skip unless there are CUDA kernels for the card, nvcc's or NVRTC's; the latter are told of the toy."""
    try:
        extension = compiled.extension("cuda")
        extension.check(0)
    except RuntimeError as error:
        pytest.skip(str(error))
    if extension.__name__ == "hybridsolve._driver":
        nvrtc.load(plugins.TOY.read_text(), {"toy": _cpu.models()["toy"]})
    else:
        needs_kernel_of(request, extension.models(), "CUDA")


def margins(name, monkeypatch, width=64):
    """Of a fixture that yields `name`: arrays that kernels fill lie between margins, untouched at the end."""
    buffers, new_empty = [], torch.Tensor.new_empty

    def between_margins(like, *shape, **options):
        if type(like) is not torch.Tensor or torch._C._functorch.is_functorch_wrapped_tensor(like):
            return new_empty(like, *shape, **options)  # of torch.compile, where nothing is computed, or of torch.func
        if not options.get("dtype", like.dtype).is_floating_point:
            return new_empty(like, *shape, **options)  # no kernel fills whole numbers
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
        needs_card(request)
        yield "cuda"
        return
    module, extension = request.getfixturevalue("cuda_on_cpu"), compiled.extension
    needs_kernel_of(request, module.models(), "CUDA")
    monkeypatch.setattr(compiled, "extension", lambda backend: module if backend == "cuda" else extension(backend))
    monkeypatch.setattr(compiled.Cuda, "_where", lambda x: dict(device=0, stream=0))
    monkeypatch.setitem(backends.DEVICE, "cuda", "cpu")
    yield from margins("cpu", monkeypatch)


@dataclass
class Inputs:
    """All that a run takes; `tensors` and `with_tensors` see what has a gradient as one flat dictionary."""

    model: hs.models.ModelSpec
    forcing: dict[str, Tensor]
    parameters: dict[str, Tensor]
    initial_state: dict[str, Tensor]
    weights: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def example(self):
        return example(self.model)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, B and C."""
        steps, basins = zip(*(f.shape for f in self.forcing.values()), strict=True)
        cells = [p.shape[-2:] for p in self.parameters.values()]
        return max(steps), max(*basins, *(b for b, _ in cells)), max(c for _, c in cells)

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

    def to(self, where) -> Inputs:
        """Of another type, or on another device."""
        return replace(
            self.map(lambda _, x: x.to(where)), inputs={name: x.to(where) for name, x in self.inputs.items()}
        )

    def steps(self, cut: slice) -> Inputs:
        moving = lambda name, x: name.startswith("forcing") or name.startswith("parameters") and x.dim() == 3  # noqa: E731
        return self.map(lambda name, x: x[cut] if moving(name, x) else x)

    def basins(self, cut: slice) -> Inputs:
        new = self.map(lambda name, x: x[:, cut] if name.startswith("forcing") or x.dim() == 3 else x[cut])
        return replace(new, inputs={name: x[cut] for name, x in self.inputs.items()})

    def without_water(self, steps=slice(None)) -> Inputs:
        """No rain in these steps."""
        water = {f"forcing {n}": self.forcing[n].clone() for n in self.example.water}
        for x in water.values():
            x[steps] = 0
        return self.with_tensors(water)

    def simulate(self, **options) -> hs.Run:
        if "backend" not in options and not torch.compiler.is_compiling():
            options["backend"] = "auto" if has_kernel(self.model, self.parameters) else "reference"
        return hs.simulate(
            self.model,
            self.forcing,
            self.parameters,
            inputs=self.inputs,
            initial_state=self.initial_state,
            weights=self.weights,
            **options,
        )

    def outputs(self, **options) -> dict[str, Tensor]:
        """All series and final states of a run, or the series that `fluxes` names; None: the outflow."""
        run = self.simulate(**{"fluxes": self.model.output_names} | options)
        return run.fluxes | {f"final {n}": x for n, x in run.final_state.items()}


def random_inputs(variant, T=24, B=5, C=3, *, dtype=torch.float64, seed=0, per_step=(), weights=False) -> Inputs:
    """Weather and stores that meet all branches of a model, parameters over their whole range."""
    model, names = variant
    known, seeds = example(model), itertools.count(1000 * seed)
    draw = lambda *shape: uniform(*shape, seed=next(seeds))  # noqa: E731
    forcing = known.forcing(T, B, draw)
    if T * B * C == 1:  # of a dry step terms of one size cancel, and to what is left of them one number has no size
        forcing |= {n: forcing[n] + 8 for n in known.water}
    unit = {n: draw(*((T,) if n in per_step and n not in known.stationary else ()), B, C) for n in names}
    parameters = model.parameters_from_unit(unit)
    state = known.state(parameters, (B, C), draw)
    state |= {line.name: 10 * draw(line.slots - 1, B, C) for line in model.lines}
    x = Inputs(model, forcing, parameters, state, 2 * draw(B, C) - 0.5 if weights else None)
    return replace(x, inputs=known.inputs(B, draw)).to(dtype)


def empty(x: Inputs) -> Inputs:
    """The run with nothing in its stores."""
    lowest = {v.name: x.example.empty(v) for v in x.model.states}
    return replace(x, initial_state={n: torch.full_like(s, lowest.get(n, 0.0)) for n, s in x.initial_state.items()})


def ties(variant, T=18, B=6, C=4) -> Inputs:
    """Inputs on a coarse grid, on which every kink of the model is met exactly, many times over."""
    x = random_inputs(variant, T, B, C)
    x.example.ties(x)
    return x


def said(text: str, model) -> str:
    """A pattern in which {f0}, {p1}, {s0}, {q0} stand for names: of a forcing, a parameter, a state, a flux."""
    tables = dict(f=model.forcing_names, p=model.parameter_names, s=model.state_names, q=model.flux_names)
    names = {f"{{{kind}{i}}}": name for kind, table in tables.items() for i, name in enumerate(table)}
    for place, name in (names | {"{model}": model.name}).items():
        text = text.replace(place, name)
    return text


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
