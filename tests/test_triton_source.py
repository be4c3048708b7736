"""Generated Triton kernels in Triton's interpreter, against those written by hand and against the oracle.

Where a GPU is, they run on it. What is compiled ahead of time is at the end.
"""

import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import generated as header
import pytest
import test_gpu as gpu
import torch
from conftest import (
    ROOT,
    assert_close,
    assert_same_bits,
    both_precisions,
    empty,
    random_inputs,
    ties,
)
from models.everything import everything
from models.examples import pick
from models.toy import toy, toy_rates
from test_ahead_of_time import compiled
from test_compiler_graphs import COUNTS, random_step
from test_gpu import on_device

import hybridsolve as hs
from hybridsolve import _cpu
from hybridsolve.compiler import cache, definition
from hybridsolve.compiler.triton import source
from hybridsolve.models import primitives, schemes
from hybridsolve.solve import backends
from hybridsolve.spec import Forcing, ModelSpec, Parameter, State, Variable

launch = pytest.importorskip("hybridsolve.solve.triton.launch", reason="triton is not installed")
pytestmark = pytest.mark.slow
gr4j, exphydro = map(hs.models.get, ("gr4j", "exphydro"))
IMPLICIT = "hbv_implicit@backward_euler"
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
    return added(replace(model, name=f"{model.name}_in_triton", triton=None))


def added(model):
    definition.generate(model)
    return hs.models.register(model)


def variants_of(*models):
    return pytest.mark.parametrize(
        "model, optional",
        [
            pytest.param(model, optional, id="+".join([model.name, *optional]))
            for model in models
            for optional in dict.fromkeys(((), model.optional_parameter_names))
        ],
    )


def weather(kind, variant, T=5, weights=True):
    """Random inputs, exact ties, or stores that are empty and stay so for a while: the cells of one program."""
    if kind == "ties":
        return ties(variant, T=T, B=8, C=3)
    per_step = variant[1][::3] if kind == "per step" else ()
    x = random_inputs(variant, T=T, B=8, C=3, weights=weights, per_step=per_step)
    return empty(x).without_water(slice(0, T // 2)) if kind == "empty" else x


def assert_as_by_hand(model, x, **options):
    """The same bits forward, and gradients within 1e-13 of the largest of each tensor."""
    x.model = generated(model)
    found = gpu.run_on("triton", x, **options)
    x.model = model
    expected = gpu.run_on("triton", x, **options)
    series = [name for name in expected if not name.startswith("d ")]
    assert_same_bits({n: found[n] for n in series}, {n: expected[n] for n in series})
    assert_close(found, expected, 1e-13)


def kinds(*nightly):
    every = ("random", "per step", "ties", "empty")
    marked = [pytest.param(kind, marks=pytest.mark.nightly if kind in nightly else ()) for kind in every]
    return pytest.mark.parametrize("kind", marked)


@variants_of(*HBV, toy)
@kinds("random")
def test_the_kernels_by_hand(model, optional, kind):
    variant = model, model.parameter_names + optional
    assert_as_by_hand(model, weather(kind, variant))


@pytest.mark.nightly
@variants_of(*HBV, toy)
@pytest.mark.parametrize("kind", ("per step", "ties"))
@pytest.mark.parametrize("options", ({"fluxes": None}, {"components": "each"}), ids=("outflow", "each"))
def test_the_kernels_by_hand_for_long(model, optional, kind, options):
    variant = model, model.parameter_names + optional
    assert_as_by_hand(model, weather(kind, variant, T=30, weights="fluxes" in options), **options)


@variants_of(toy, gr4j, exphydro)
@kinds("random", "per step")
def test_the_oracle(model, optional, kind):
    variant = generated(model), model.parameter_names + optional
    gpu.assert_matches("triton", weather(kind, variant))


@pytest.mark.nightly
@pytest.mark.parametrize("model", (*HBV, toy, gr4j, exphydro), ids=lambda model: model.name)
def test_through_the_driver(model):
    """Sizes, groups of components, raw parameters, intervals, windows, torch.compile: as for kernels by hand."""
    variant = generated(model), model.parameter_names
    for shape in ((1, 1, 1), (4, 37, 1), (3, 2, 33)):
        gpu.test_small_and_odd_sizes("triton", variant, shape)
    gpu.test_raw_parameters("triton", variant, True)
    gpu.test_bits_for_intervals_chunks_and_windows("triton", variant, {"components": "each"}, torch.float64)
    gpu.test_gradients_do_not_depend_on_which_are_wanted("triton", variant)
    gpu.test_through_the_doors_of_torch("triton", variant)


@pytest.mark.parametrize("how", ("backward_euler", "heunx2"))
def test_steps_of_rates(how):
    model = generated(schemes.named(toy_rates, how))
    for x in (
        weather("random", (model, model.parameter_names), T=3),
        weather("ties", (model, model.parameter_names), T=3),
    ):
        gpu.assert_matches("triton", x)


@pytest.mark.skipif(gpu.DEVICE == "cuda", reason="a card divides single precision less exactly")
@pytest.mark.skipif(_cpu.isa() == "baseline", reason="this processor's kernels have no fused multiply-add")
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@both_precisions
def test_the_bits_of_the_generated_header(dtype, kernels):
    header.load((exphydro,), "exphydro", kernels)
    x = weather("random", (exphydro, exphydro.parameter_names), T=8, weights=False).to(dtype)
    expected = x.outputs(backend="cpu", components="each")
    x.model = generated(exphydro)
    assert_same_bits(x.outputs(backend="triton", components="each"), expected)


@pytest.mark.parametrize("moving", (False, True), ids=("static", "per-step"))
def test_every_primitive_and_names_that_are_taken(moving):
    variant = generated(everything), everything.parameter_names
    x = random_inputs(variant, T=4, B=8, C=3, per_step=("number",) if moving else (), weights=True)
    x.forcing["f"] = pick([0, 0.25, 1, 1, 2.5, 3, 8], 4, 8, seed=1)
    x.initial_state["zero"] = pick([0, 0.5, 1, 1.25], 8, 3, seed=2)
    x.parameters["number"] = pick([0.5, 1, 1.25, 2], *x.parameters["number"].shape, seed=3)
    gpu.assert_matches("triton", x, step=3600)
    found = on_device(x.to(torch.float32)).simulate(backend="triton", step=3600).fluxes
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in found.values())


def model_of(step, **table):
    rows = dict(
        name="source",
        title="",
        source="",
        forcings=(Forcing("f", "mm d-1", "rain", -1e4, 1e4),),
        parameters=(Parameter("number", "1", "a number", 0.5, 2.0),),
        states=(State("zero", "mm", "water", -1e30, 1e30, initial=1.0),),
        fluxes=(Variable("flow", "mm d-1", "flow"),),
        outflow="flow",
        steps=None,
    )
    return ModelSpec(**rows | table, reference_step=step)


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
    )


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.nightly if seed >= 8 else ()) for seed in range(64)]
)
def test_random_steps(seed):
    model = generated(random_model(seed, 6 + 2 * (seed % 8)))
    x = random_inputs((model, model.parameter_names), T=2, B=4, C=2)
    if seed % 2:  # ties, but no 0^y beside a 0, which underflows in the oracle and not in a kernel
        grid = lambda v: torch.where(v.round() == 0, 0.5, v.round())  # noqa: E731
        x.forcing = {n: grid(v) for n, v in x.forcing.items()}
        x.initial_state = {n: grid(v) for n, v in x.initial_state.items()}
    gpu.assert_matches("triton", x, components="each")


def bucket(share=0.5):
    def step(f, k, p, s):
        water = s["zero"] + f["f"]
        flow = share * p["number"] * water
        return dict(zero=water - flow), dict(flow=flow)

    return model_of(step)


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
    with ThreadPoolExecutor(8) as pool:
        (file,) = {*pool.map(lambda _: cache.module(text), range(8))}
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

    model = generated(model_of(bare, parameters=()))
    forcing = torch.ones(3, 2, dtype=torch.float64, device=gpu.DEVICE)
    with pytest.raises(RuntimeError, match="model source_in_triton must have a parameter for backend 'triton', found"):
        hs.simulate(model, {"f": forcing}, {}, backend="triton")


def test_a_model_that_was_not_defined_has_a_kernel():
    model = replace(bucket(), name="never_defined")
    assert backends.choose("triton", torch.device(gpu.DEVICE), model.name) == "triton"
    with pytest.raises(RuntimeError, match="backend 'triton' has no kernel 'unheard_of'"):
        backends.choose("triton", torch.device(gpu.DEVICE), "unheard_of")


OTHERS = [model for model in hs.models.MODELS.values() if model not in (*HBV, toy, exphydro, gr4j)]


def test_a_module_of_every_model_can_be_read():
    for model in hs.models.MODELS.values():
        for choice in model.choices:
            compile(source(model, choice), model.name, "exec")


def test_a_line_may_end_anywhere_but_at_the_sign_of_an_assignment():
    def step(f, k, p, s):
        def body(now):
            return dict(x=now["x"] * sum(p.values(), start=now["x"]))

        x = primitives.repeat(s["zero"], 3, body, dict(x=f["f"]))["x"]
        return dict(zero=sum(p.values(), start=s["zero"])), dict(flow=sum(p.values(), start=x) * s["zero"])

    for n in range(10, 60):
        many = tuple(Parameter("p" * m, "1", "", 0.5, 2.0) for m in range(1, n))
        compile(source(model_of(step, parameters=many)), "many", "exec")


@pytest.mark.nightly
@pytest.mark.parametrize("model", OTHERS, ids=lambda model: model.name)
def test_the_oracle_of_every_other_model(model):
    variant = model, model.parameter_names + model.optional_parameter_names
    gpu.assert_matches("triton", weather("per step", variant, T=3))
    gpu.assert_matches("triton", weather("random", variant))


def test_generated_hbv_for_two_cards_ahead_of_time(folder):
    status, rows, said = compiled(
        "--generated", "--plain", "--models", "hbv11p", "--targets", "sm_80", "sm_90",
        env={"HYBRIDSOLVE_CACHE": str(folder)},
    )  # fmt: skip
    assert status == 0, said
    assert [(r["kernel"], r["target"]) for r in rows] == [
        (kernel, target) for target in ("sm_80", "sm_90") for kernel in ("forward", "adjoint")
    ]
    assert all(r["spilled"] == r["shared"] == "0" for r in rows)


@pytest.mark.nightly
def test_all_runs_of_generated_hbv_ahead_of_time(folder):
    status, rows, said = compiled("--generated", "--targets", "sm_90", env={"HYBRIDSOLVE_CACHE": str(folder)})
    assert status == 0, said
    assert {r["model"] for r in rows} == {"hbv10", "hbv10_betaet", "hbv11p", "unit_hydrograph"}


@pytest.mark.parametrize(
    "name",
    (
        "everything",
        IMPLICIT,
        *(pytest.param(name, marks=pytest.mark.nightly) for name in hs.models.names() if name != IMPLICIT),
    ),
)
def test_both_precisions_ahead_of_time(folder, name):
    """And in float32 nothing is computed in float64."""
    code = f"""if True:
        import torch
        from benchmarks import ahead_of_time
        from dataclasses import replace
        from hybridsolve.compiler import definition
        from hybridsolve import models
        from importlib import import_module
        by_name = {name!r} in ("toy", "everything")
        model = getattr(import_module("models.{name}"), {name!r}) if by_name else models.get({name!r})
        definition.generate(models.register(replace(model, triton=None)))
        for found in ahead_of_time.compile_all([model.kernel_name(())], ["sm_90"], [torch.float32, torch.float64], 1):
            print(found.kernel, found.precision, found.double)
    """
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment |= dict(HYBRIDSOLVE_CACHE=str(folder), PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        word
        for precision in ("float32", "float64")
        for kernel in ("forward", "adjoint")
        for word in (kernel, precision, "False")
    ]
