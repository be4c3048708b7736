"""A user's own model: defined, compiled when it is first run, kept, and made again where it is damaged."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import hybridsolve as hs
from hybridsolve import _cpu
from hybridsolve.compiler import StepError, cache, header
from hybridsolve.models.primitives import exp, minimum, power, select
from hybridsolve.spec import Balance, Forcing, Parameter, State, Variable

pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler is installed"),
]
TABLE = dict(
    forcings=(Forcing("rain", "mm d-1", "rain", 0.0, 1e4), Forcing("demand", "mm d-1", "demand", 0.0, 1e3)),
    parameters=(Parameter("k", "d-1", "share that leaves", 0.01, 0.9, step="fraction"),),
    states=(State("store", "mm", "water", 0.0, 1e30, initial=10.0, wet=100.0),),
    fluxes=(Variable("aet", "mm d-1", "evaporation"), Variable("flow", "mm d-1", "flow")),
    outflow="flow",
    balance=Balance(gains=("rain",), losses=("aet", "flow")),
    steps=None,
)


def bucket(share=1.0):
    """A store, of which `share` makes another model."""

    @hs.models.define(name="defined_bucket", **TABLE)
    def step(f, k, p, s):
        water = s["store"] + f["rain"]
        dry = ~(f["rain"] >= 2.0) & (water >= 1.0) | (f["demand"] >= 1.8)
        aet = select(dry, minimum(water, f["demand"]), minimum(0.5 * water, f["demand"]))
        flow = p["k"] * share * (water - aet)
        return dict(store=water - aet - flow), dict(aet=aet, flow=flow)

    return step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def kept(folder, monkeypatch):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(folder))
    yield
    hs.models.MODELS.pop("defined_bucket", None)


def results(model, backend):
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    forcing = {"rain": 8 * uniform(30, 3), "demand": 2 * uniform(30, 3)}
    k = (0.1 + 0.5 * uniform(3, 2)).requires_grad_()
    run = hs.simulate(model, forcing, {"k": k}, fluxes=model.flux_names, backend=backend)
    (d_k,) = torch.autograd.grad(run.fluxes["flow"].sum(), k)
    return run.fluxes["flow"].detach(), d_k


def test_a_defined_model_is_compiled_when_it_is_run_and_again_where_it_is_another():
    for share in (1.0, 0.5):
        model = bucket(share)
        assert hs.models.get("defined_bucket") is model
        for found, expected in zip(results(model, "cpu"), results(model, "reference"), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(results(bucket(1.0), "cpu")[0], results(bucket(0.5), "cpu")[0])


def test_a_fault_is_said_at_definition():
    with pytest.raises(StepError, match=rf"^{__file__}:\d+: a step has no > or <"):

        @hs.models.define(name="defined_bucket", **TABLE)
        def step(f, k, p, s):
            if s["store"] > 0:
                return s, {}


def test_a_library_is_compiled_once_by_many_and_again_where_it_is_damaged(folder, monkeypatch):
    text, isa = header(bucket(1.0)), _cpu.isa()
    made = []
    make = cache._make
    monkeypatch.setattr(cache, "_make", lambda *given: (made.append(given), make(*given)))
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(folder / "other"))
    with ThreadPoolExecutor(8) as pool:
        found = {path for path in pool.map(lambda _: cache.library(text, isa), range(8))}
    assert len(found) == len(made) == 1
    (path,) = found
    whole = path.read_bytes()
    assert os.stat(path.parent).st_mode & 0o077 == 0
    path.write_bytes(whole[: len(whole) // 2])
    assert cache.library(text, isa) == path and path.stat().st_size == len(whole) and len(made) == 2
    assert not [x for x in path.parent.iterdir() if x.is_dir()]


def test_a_second_process_compiles_nothing(folder, monkeypatch):
    program = "import sys; from hybridsolve.compiler import cache; cache._make = None; "
    program += "print(cache.library(sys.stdin.read(), 'ISA'))"
    isa = _cpu.isa()
    text = header(bucket(1.0))
    path = cache.library(text, isa)
    done = subprocess.run(
        [sys.executable, "-c", program.replace("ISA", isa)], input=text, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(path)


def test_what_can_go_wrong_is_said(tmp_path, monkeypatch):
    isa = _cpu.isa()
    with pytest.raises(RuntimeError, match=r"made of line 7: x = 1\): try another by CXX"):
        cache.library("// 7: x = 1\nnonsense;\n", isa)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(file / "cache"))
    with pytest.raises(RuntimeError, match="which cannot be written to .*: set HYBRIDSOLVE_CACHE to a folder of yours"):
        cache.library("x", isa)
    cache.compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="found no CXX=no-such-compiler on PATH: install one, such as g"):
        cache.library("x", isa)
    cache.compiler.cache_clear()


def test_the_flags_are_those_of_the_build():
    import plugins

    assert {name: list(flags) for name, flags in cache.ISAS.items() if flags} == plugins._setting("ISAS")
    assert set(plugins._setting("FLAGS")) - {"-O3"} < set(cache.FLAGS)


def test_a_model_that_was_defined_before_another_of_its_name_is_not_run_by_the_kernel_of_that():
    first, second = bucket(), bucket(0.5)
    expected = results(second, "cpu")
    with pytest.raises(ValueError, match="kernel 'defined_bucket' must be of the model that runs; found one"):
        results(first, "cpu")
    assert all(torch.equal(x, y) for x, y in zip(results(second, "cpu"), expected, strict=True))


def test_names_that_c_plus_plus_or_the_contract_has():
    """What a step calls its quantities is its own affair."""

    @hs.models.define(name="defined_bucket", **TABLE)
    def step(f, k, p, s):
        q = s["store"] + f["rain"]
        d_q = minimum(q, f["demand"])
        keep_exp = exp(-d_q)
        NULL = q - d_q * keep_exp
        K_ = power(keep_exp, p["k"]) * NULL
        constexpr = minimum(K_, d_q * K_)
        d_s = constexpr * q
        new_store = minimum(q, d_s)
        bitor = new_store * p["k"]
        s = q - bitor
        return dict(store=s), dict(aet=d_s * bitor, flow=bitor)

    torch.testing.assert_close(results(step, "cpu"), results(step, "reference"), rtol=1e-12, atol=1e-12)
