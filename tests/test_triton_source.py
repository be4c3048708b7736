"""Generated Triton kernels in Triton's interpreter, against those written by hand and against the oracle.

Where a GPU is, they run on it. What is compiled ahead of time is at the end.
"""

import random
import sys
from dataclasses import replace

import pytest
import test_gpu as gpu
import torch
from conftest import (
    assert_close,
    assert_same_bits,
    empty,
    random_inputs,
    ties,
)
from models.exphydro import exphydro
from models.gr4j import gr4j
from models.toy import toy
from test_compiler_graphs import COUNTS, random_step

import hybridsolve as hs
from hybridsolve.compiler import cache, definition
from hybridsolve.compiler.triton import source
from hybridsolve.models import primitives
from hybridsolve.solve import backends
from hybridsolve.spec import DelayLine, Forcing, ModelSpec, Parameter, State, Variable

launch = pytest.importorskip("hybridsolve.solve.triton.launch", reason="triton is not installed")
pytestmark = pytest.mark.slow
HBV = [hs.models.get(name) for name in ("hbv10", "hbv11p")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def kept(folder, monkeypatch):
    before = dict(hs.models.MODELS)
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(folder))
    yield
    hs.models.MODELS.clear()
    hs.models.MODELS.update(before)


def generated(model):
    """The model under another name, so that its generated kernels stand beside those written by hand."""
    return definition.add(replace(model, name=f"{model.name}_in_triton", triton=None))


def variants_of(*models):
    return pytest.mark.parametrize(
        "model, optional",
        [
            pytest.param(model, optional, id="+".join([model.name, *optional]))
            for model in models
            for optional in dict.fromkeys(((), model.optional_parameter_names))
        ],
    )


def weather(kind, variant, T=5):
    """Random inputs, exact ties, or stores that are empty and stay so for a while: the cells of one program."""
    if kind == "ties":
        return ties(variant, T=T, B=8, C=3)
    per_step = variant[1][::3] if kind == "per step" else ()
    x = random_inputs(variant, T=T, B=8, C=3, weights=True, per_step=per_step)
    return empty(x).without_water(slice(0, T // 2)) if kind == "empty" else x


def assert_as_by_hand(model, optional, x, **options):
    """The same bits forward, and gradients within 1e-13 of the largest of each tensor."""
    x.model = generated(model)
    found = gpu.run_on("triton", x, **options)
    x.model = model
    expected = gpu.run_on("triton", x, **options)
    series = [name for name in expected if not name.startswith("d ")]
    assert_same_bits({n: found[n] for n in series}, {n: expected[n] for n in series})
    assert_close(found, expected, 1e-13)


@variants_of(*HBV, toy)
@pytest.mark.parametrize("kind", ("random", "per step", "ties", "empty"))
def test_the_kernels_by_hand(model, optional, kind):
    variant = model, model.parameter_names + optional
    assert_as_by_hand(model, optional, weather(kind, variant))


@pytest.mark.nightly
@variants_of(*HBV, toy)
@pytest.mark.parametrize("kind", ("random", "per step", "ties", "empty"))
@pytest.mark.parametrize("options", ({"fluxes": None}, {"components": "each"}), ids=("outflow", "each"))
def test_the_kernels_by_hand_for_long(model, optional, kind, options):
    variant = model, model.parameter_names + optional
    assert_as_by_hand(model, optional, weather(kind, variant, T=40), **options)


@variants_of(toy, gr4j, exphydro)
@pytest.mark.parametrize("kind", ("random", "per step", "ties", "empty"))
def test_the_oracle(model, optional, kind):
    variant = generated(model), model.parameter_names + optional
    gpu.assert_matches("triton", weather(kind, variant))


def line_ordinates(k, p):
    return [p["number"] * k["dt"], 1 - p["number"] * k["dt"], 0.0]


def everything(f, k, p, s):
    """Every primitive, names that the module has already, numbers in all places where a value may stand."""
    given, number = s["zero"], p["number"]
    tl = primitives.exp(primitives.maximum(-given, -2.0)) + primitives.log(given + 1.0)
    d_s = primitives.sqrt(given) * primitives.tanh(tl - 1.5) + primitives.sigmoid(given) - primitives.softplus(-given)
    power = primitives.power(number * 1.0, 0.25) + primitives.power(primitives.relu(f["f"] - 1.0), number)
    cold = ~(f["f"] >= 1.0) & (given >= 0.5) | (2.0 >= number + given)
    _ = primitives.select(cold, given, 0.5) + primitives.minimum(number, given)
    quotient = (d_s + 2.0) / (number * power) + 1 / (k["dt"] + number) - given / number
    wave = primitives.sin(given) * primitives.cos(quotient) - primitives.floor(3.0 * given)
    arriving = s["triton"] + p["triton"] * given
    x = primitives.clip(wave + primitives.select(cold, f["f"], -2.0), 0.25, 4.0)
    state = dict(zero=primitives.maximum(x, k["k"]) * primitives.power(x, -number), triton=given)
    return state, dict(flow=_ + arriving, wave=wave - tl, same=f["f"])


def model_of(step, **table):
    """A model whose names are those that the generated module has itself."""
    rows = dict(
        name="source",
        title="A title\nof two lines",
        source="the tests",
        forcings=(Forcing("f", "mm d-1", "rain", -1e4, 1e4),),
        parameters=(Parameter("number", "1", "a number", 0.5, 2.0),),
        states=(State("zero", "mm", "water", -1e30, 1e30, initial=1.0),),
        fluxes=tuple(Variable(name, "mm d-1", name) for name in ("flow", "wave", "same")),
        outflow="flow",
        steps=None,
    )
    return ModelSpec(**rows | table, reference_step=step)


@pytest.mark.parametrize("moving", (False, True), ids=("static", "per-step"))
def test_every_primitive_and_names_that_are_taken(moving):
    line = DelayLine("triton", "mm", "on its way", 3, line_ordinates)
    inputs = (Variable("k", "1", "a floor", 0.25, 0.5),)
    model = generated(model_of(everything, inputs=inputs, lines=(line,)))
    x = random_inputs((model, model.parameter_names), T=4, B=3, C=2, per_step=("number",) if moving else ())
    x.forcing["f"] = torch.tensor([[1.0, 3.0, 0.5], [0.0, 1.0, 2.0], [8.0, 0.25, 1.0], [1.5, 2.5, 1.0]]).double()
    gpu.assert_matches("triton", x, step=43200)
    found = x.to(torch.float32).simulate(backend="triton", step=43200).fluxes
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in found.values())


def random_model(seed, length):
    step = random_step(random.Random(seed), length)

    def reference_step(f, k, p, s):
        leaves = [*f.values(), *p.values(), *s.values()]
        flow, *stores = step(leaves)
        stores = [primitives.tanh(x + 0 * leaves[-1]) for x in stores]
        return dict(zip(s, stores, strict=True)), {"flow": flow + 0 * leaves[-1]}

    return model_of(
        reference_step,
        forcings=tuple(Forcing(f"f{n}", "1", "", -10.0, 10.0) for n in range(COUNTS["f"])),
        parameters=tuple(Parameter(f"p{n}", "1", "", 0.5, 3.0) for n in range(COUNTS["p"])),
        states=tuple(State(f"s{n}", "1", "", -1e30, 1e30, initial=0.0) for n in range(COUNTS["s"])),
        fluxes=(Variable("flow", "1", ""),),
    )


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.nightly if seed >= 8 else ()) for seed in range(64)]
)
def test_random_steps(seed):
    model = generated(random_model(seed, 6 + 2 * (seed % 8)))
    x = random_inputs((model, model.parameter_names), T=2, B=4, C=2)
    if seed % 2:
        x.forcing = {n: v.round() for n, v in x.forcing.items()}
        x.initial_state = {n: v.round() for n, v in x.initial_state.items()}
    gpu.assert_matches("triton", x, components="each")


def bucket(share=0.5):
    def step(f, k, p, s):
        water = s["zero"] + f["f"]
        flow = share * p["number"] * water
        return dict(zero=water - flow), dict(flow=flow)

    return model_of(step, fluxes=(Variable("flow", "mm d-1", "flow"),))


def run(model):
    forcing = torch.arange(6, dtype=torch.float64).view(3, 2).to(gpu.DEVICE)
    number = torch.full((2, 1), 0.75, dtype=torch.float64, device=gpu.DEVICE, requires_grad=True)
    flow = hs.simulate(model, {"f": forcing}, {"number": number}, backend="triton").fluxes["flow"]
    return flow.detach().cpu(), *torch.autograd.grad(flow.sum(), number)


def test_a_defined_model_runs_from_the_cache_and_once_a_process(folder, monkeypatch):
    model = bucket()
    table = {name: getattr(model, name) for name in ("name", "forcings", "parameters", "states", "fluxes", "outflow")}
    defined = hs.models.define(**table, steps=None)(model.reference_step)
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(folder / "own"))
    first = run(defined)
    (file,) = (folder / "own").iterdir()
    assert file.read_text() == source(defined)
    monkeypatch.setattr(launch, "source", None)
    for a, b in zip(run(defined), first, strict=True):
        assert torch.equal(a, b)
    assert "source" in launch.kernels() and "source" not in sys.modules


def test_a_module_is_written_once_and_again_where_it_is_damaged(folder, monkeypatch):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(folder / "damaged"))
    text = source(bucket())
    file = cache.module(text)
    before = file.stat().st_mtime_ns
    assert cache.module(text) == file and file.stat().st_mtime_ns == before
    file.write_text(text[: len(text) // 2])
    assert cache.module(text) == file and file.read_text() == text
    assert [x.name for x in file.parent.iterdir()] == [file.name]
    assert cache.module(source(bucket(0.25))) != file


def test_what_can_go_wrong_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="which cannot be written to .*: set HYBRIDSOLVE_CACHE to a folder of yours"):
        run(generated(bucket(0.125)))
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(cache.os, "replace", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RuntimeError, match=f"cannot be kept in {tmp_path} .*No space left.*: free space there"):
        run(generated(bucket(0.0625)))
    monkeypatch.undo()

    def bare(f, k, p, s):
        return dict(zero=s["zero"] + f["f"]), dict(flow=s["zero"])

    model = generated(model_of(bare, parameters=(), fluxes=(Variable("flow", "mm d-1", "flow"),)))
    forcing = torch.ones(3, 2, dtype=torch.float64, device=gpu.DEVICE)
    with pytest.raises(RuntimeError, match="model source_in_triton must have a parameter for backend 'triton', found"):
        hs.simulate(model, {"f": forcing}, {}, backend="triton")


def test_a_model_that_is_not_defined_has_no_kernel():
    model = replace(bucket(), name="never_defined")
    with pytest.raises(RuntimeError, match="backend 'triton' has no kernel 'never_defined'"):
        run(model)
    assert backends.choose("triton", torch.device(gpu.DEVICE), generated(bucket()).name) == "triton"
