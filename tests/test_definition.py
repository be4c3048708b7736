"""A user's own model: defined, compiled when it is first run, kept, and made again where it is damaged."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import hybridsolve as hs
from hybridsolve import _cpu, cli
from hybridsolve.compiler import StepError, cache, header
from hybridsolve.compiler.identity import identity, refuse_another
from hybridsolve.models.primitives import exp, log, maximum, minimum, mlp, power, select, sigmoid, sqrt
from hybridsolve.solve.trial import left_by_balance
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


def results(model, backend, fluxes=None):
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    forcing = {"rain": 8 * uniform(30, 3), "demand": 2 * uniform(30, 3)}
    k = (0.1 + 0.5 * uniform(3, 2)).requires_grad_()
    run = hs.simulate(model, forcing, {"k": k}, fluxes=fluxes or model.flux_names, backend=backend)
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
    make = cache._compile
    monkeypatch.setattr(cache, "_compile", lambda *given: (made.append(given), make(*given)))
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
    program = "import sys; from hybridsolve.compiler import cache; cache._compile = lambda *_: sys.exit(3); "
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


def test_of_models_with_one_name_each_is_run_by_its_own_kernel():
    models = bucket(), bucket(0.5)
    for _ in range(2):
        for model in models:
            torch.testing.assert_close(results(model, "cpu"), results(model, "reference"), rtol=1e-12, atol=1e-12)


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


def test_a_root_of_what_may_be_empty_is_warned_of():
    with pytest.warns(UserWarning) as caught:

        @hs.models.define(name="defined_bucket", **TABLE)
        def step(f, k, p, s):
            root = sqrt(s["store"])
            share = power(s["store"] / 100, p["k"])
            safe = sqrt(maximum(s["store"], 1e-6)) + log(1 + s["store"]) + power(s["store"], p["k"] + 1)
            flow = minimum(s["store"], p["k"] * (root + share + safe))
            return dict(store=s["store"] + f["rain"] - flow), dict(aet=0 * flow, flow=flow)

    first = step.reference_step.__code__.co_firstlineno
    said = sorted(x for w in caught if " is taken" in (x := str(w.message).removeprefix(__file__)))
    assert [x.split(" is taken")[0] for x in said] == [
        f":{first + 2}: sqrt",
        f":{first + 3}: power, with an exponent that may be below 1,",
    ]


def test_the_identity_of_a_model_is_of_its_graph_and_its_table():
    one = bucket(1.0)
    assert identity(one) == identity(bucket(1.0)) and identity(one).startswith("defined_bucket table ")

    @hs.models.define(name="defined_bucket", **TABLE | dict(title="Other words"))
    def step(f, k, p, s):  # other words for the same
        total = s["store"] + f["rain"]
        arid = ~(f["rain"] >= 2.0) & (total >= 1.0) | (f["demand"] >= 1.8)
        lost = select(arid, minimum(total, f["demand"]), minimum(0.5 * total, f["demand"]))
        q = p["k"] * 1.0 * (total - lost)
        return dict(store=total - lost - q), dict(flow=q, aet=lost)

    assert identity(step) == identity(one)
    with pytest.raises(ValueError, match="found that of one with another step: take the definition that it was made"):
        refuse_another(one, identity(bucket(0.5)), "calibration.nc")
    k = Parameter("k", "d-1", "share that leaves", 0.02, 0.9, step="fraction")
    table = hs.models.define(name="defined_bucket", **TABLE | dict(parameters=(k,)))(one.reference_step)
    with pytest.raises(ValueError, match="found that of one with another table of variables: take"):
        refuse_another(table, identity(one), "calibration.nc")
    refuse_another(one, None, "calibration.nc")


FILE = """
import hybridsolve as hs
from hybridsolve.spec import Forcing, Parameter, State, Variable

@hs.models.define(
    name="{name}",
    forcings=(Forcing("rain", "mm d-1", "rain", 0.0, 1e4),),
    parameters=(Parameter("k", "d-1", "share that leaves", 0.01, 0.9),),
    states=(State("store", "mm", "water", 0.0, 1e30),),
    fluxes=(Variable("flow", "mm d-1", "flow"),),
    outflow="flow",
)
def {name}(f, k, p, s):
    water = s["store"] + f["rain"]
    return dict(store=water - p["k"] * water), dict(flow=p["k"] * water)
"""


def test_a_file_that_defines_a_model_stands_for_it(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(name="of_a_file"))
    try:
        model = hs.models.get(str(file))
        assert model.name == "of_a_file" and hs.models.get(str(file)) is model is hs.models.get("of_a_file")
        assert cli.main(["models", "--define", str(file), "of_a_file"]) == 0
        assert "share that leaves" in capsys.readouterr().out
        file.write_text(FILE.format(name="of_a_file") + FILE.format(name="another_of_it"))
        with pytest.raises(ValueError, match="must define one model; found of_a_file, another_of_it: load it"):
            hs.models.get(str(file))
        assert [m.name for m in hs.models.load(file)] == ["of_a_file", "another_of_it"]
    finally:
        for name in ("of_a_file", "another_of_it"):
            hs.models.MODELS.pop(name, None)
    file.write_text("x = 1")
    with pytest.raises(ValueError, match="must define a model; found none: put hs.models.define"):
        hs.models.load(file)
    with pytest.raises(FileNotFoundError, match="expected a Python file that defines models"):
        hs.models.get(str(tmp_path / "none.py"))


RATES = FILE.replace("    outflow=", "    rates=True,\n    outflow=").replace(
    'return dict(store=water - p["k"] * water), dict(flow=p["k"] * water)',
    'return dict(store=f["rain"] - p["k"] * s["store"]), dict(flow=p["k"] * s["store"])',
)


def test_a_file_of_rates_stands_for_its_model_by_a_scheme(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hs.models, "RATES", dict(hs.models.RATES))
    file = tmp_path / "mine.py"
    file.write_text(RATES.format(name="rates_of_a_file"))
    assert hs.models.get(f"{file}@rk4x2").name == "rates_of_a_file@rk4x2"
    assert cli.main(["models", "rates_of_a_file@euler", "--define", str(file)]) == 0
    with pytest.raises(
        ValueError, match=r"rates, and runs by a scheme; found none: take '.*mine.py@' with one of euler"
    ):
        hs.models.get(str(file))


BROKEN = {
    "syntax": ('name="{name}",', 'name="{name}"', r":6: SyntaxError: .*comma.*: correct the file\.$"),
    "import": (
        "State, Variable",
        "State, Store",
        r":3: ImportError: cannot import name 'Store'.*: correct the file\.$",
    ),
    "bounds": ("0.01, 0.9", "0.9, 0.01", r":5: the bounds of 'k' of model mine must .*; found 0.9 and 0.01: correct"),
    "type": ('"d-1", "share that leaves"', '"share that leaves"', r":5: the meaning of 'k' of model mine must be text"),
    "step": ('p["k"] * water)', 'p["kk"] * water)', r":\d+: the model has no parameter 'kk'; its table has k\."),
}


@pytest.mark.parametrize("good, bad, message", BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_in_a_file_is_the_files(good, bad, message, tmp_path, capsys):
    file = tmp_path / "mine.py"
    assert good in FILE
    file.write_text(FILE.replace(good, bad).format(name="mine"))
    assert cli.main(["models", str(file)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    start = f"hybridsolve models: {file}"
    assert said.startswith(start) and re.match(message, said.removeprefix(start)), said


def test_a_fault_of_the_package_is_not_laid_to_the_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(name="mine"))
    monkeypatch.setattr("hybridsolve.compiler.unused.needed", lambda graph, roots: {10**9})  # of which no graph has any
    assert cli.main(["models", str(file)]) == 1
    assert "a fault of hybridsolve itself, IndexError" in capsys.readouterr().err


def test_rows_and_outputs_that_a_step_makes_nothing_of_are_said():
    rows = dict(parameters=(*TABLE["parameters"], Parameter("spare", "1", "", 0.0, 1.0)))
    rows |= dict(inputs=(Variable("slope", "1", "", 0.0, 1.0),))
    with pytest.warns(UserWarning) as caught:

        @hs.models.define(name="defined_bucket", **TABLE | rows)
        def step(f, k, p, s):
            used, _ = mlp("one", [s["store"] / 100], outputs=2)
            mlp("two", [s["store"] / 100])
            flow = p["k"] * s["store"] * sigmoid(used)
            return dict(store=s["store"] + f["rain"] - flow), dict(aet=0 * flow, flow=flow)

    line = step.reference_step.__code__.co_firstlineno
    said = sorted(str(w.message).removeprefix(f"{__file__}:") for w in caught)
    what = "the step of model defined_bucket makes nothing of the"
    assert [x.split(" of its table")[0].split(", whose")[0] for x in said] == [
        f"{line}: {what} forcing 'demand'",
        f"{line}: {what} input 'slope'",
        f"{line}: {what} parameter 'spare'",
        f"{line + 2}: nothing is made of output 2 of 2 of network 'one'",
        f"{line + 3}: nothing is made of output 1 of 1 of network 'two'",
    ]


def test_a_parameter_of_a_start_or_of_a_delay_line_is_used(recwarn):
    start = State("store", "mm", "water", 0.0, 1e30, initial=lambda p: 10 * p["k"], wet=100.0)

    @hs.models.define(name="defined_bucket", **TABLE | dict(states=(start,)))
    def step(f, k, p, s):
        flow = minimum(s["store"], f["demand"])
        return dict(store=s["store"] + f["rain"] - flow), dict(aet=0 * flow, flow=flow)

    assert not [w for w in recwarn if "makes nothing" in str(w.message)]


def test_what_a_command_does_not_take_is_said_by_the_command(tmp_path, capsys):
    assert cli.main(["simulate", "c.nc", "fulda", "--model", "mine.py"]) == 2
    said = "hybridsolve simulate: unrecognized arguments: --model mine.py; see hybridsolve simulate --help.\n"
    assert capsys.readouterr().err == said
    assert cli.main(["simulate", str(tmp_path), "fulda"]) == 2
    assert f"{tmp_path} is a folder, expected calibration.nc" in capsys.readouterr().err


LOST = {"balance": (1.0, 1.0, "closed in a run"), "lost": (0.9, 1.0, "not closed"), "twice": (1.0, 2.0, "not closed")}


@pytest.mark.parametrize("kept, taken, said", LOST.values(), ids=LOST)
def test_a_model_is_tried_for_the_water_that_it_loses(kept, taken, said, monkeypatch, capsys):
    monkeypatch.setattr(hs.models, "MODELS", dict(hs.models.MODELS))

    @hs.models.define(name="tried", **TABLE)
    def step(f, k, p, s):
        water = s["store"] + f["rain"]
        aet = minimum(water, f["demand"])
        flow = p["k"] * (water - aet)
        return dict(store=kept * (water - aet - taken * flow)), dict(aet=aet, flow=flow)

    assert cli.main(["models", "tried"]) == 0
    assert f"water balance: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gr4j", "hbv11p", "snow17+hymod", "exphydro@rk4x2", "hybrid_exphydro"])
def test_models_lose_no_water_over_random_weather(name):
    assert left_by_balance(hs.models.get(name)) < 1e-12


def test_the_cache_is_shown_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    results(bucket(0.25), "cpu")
    assert cli.main(["cache"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: 1 libraries") and f"defined_bucket. the user's; {_cpu.isa()}" in said
    assert cli.main(["cache", "--clear"]) == 0 and "removed 1 libraries" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
