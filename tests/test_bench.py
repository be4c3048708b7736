"""`hybridsolve bench`: what is measured is right, the floors are those of a model that one can count by hand, and what
cannot be done is said in a sentence."""

import csv
import importlib.util
import re
import shutil

import numpy as np
import pytest
import torch

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.bench import cases, compare, floors, gate, machine, measure, report, rivers, translate
from hybridsolve.bench.cases import FORWARD, GRADIENT, Case
from hybridsolve.bench.implementations import IMPLEMENTATIONS, OURS, Implementation, Solver
from hybridsolve.compiler import cache

TINY = Case("tiny", cases.MODEL, 5, 3, 40)
RIVER = Case("tiny river", "muskingum", 300, 1, 12, river=True)
CEILINGS = {name: 1e9 for name in floors.NAMES} | {n: 1e-9 for n in floors.NAMES if n.startswith("latency")}


def row(**changes):
    return dict.fromkeys(machine.COLUMNS, "") | dict(
        date="2026-01-01T00:00", hybridsolve="1", machine="a machine", isa="avx2", cores=2, torch="2", python="3",
        kind="time", shape="batch", model="hbv11p", B=100, C=16, T=730, dtype="float32", threads=1, mode=FORWARD,
        implementation=OURS, rounds=3, median_s=0.5, value="12.3", unit="million cell-steps/s",
    ) | changes  # fmt: skip


# What is measured is right.


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_gate_lets_the_solver_through(dtype, each):
    case = Case("tiny", cases.MODEL, 6, 3, 40, dtype=dtype, each=each)
    gate.check(case, IMPLEMENTATIONS[OURS], Solver(case))


@pytest.mark.parametrize("what", ["flow", "gradient"])
def test_the_gate_stops_what_is_wrong(what):
    class Wrong(Solver):
        def forward(self):
            return super().forward() * (1.01 if what == "flow" else 1)

        def gradient(self, cotangent):
            flow, slopes = super().gradient(cotangent)
            name = list(slopes)[-1]
            return flow, slopes | {name: slopes[name] * 1.01}

    with pytest.raises(AssertionError, match=f"the {what}.*from the oracle's, 1e-03 is allowed: not timed"):
        gate.check(TINY, IMPLEMENTATIONS[OURS], Wrong(TINY))


@pytest.mark.parametrize("name", [f"{OURS} rivers", "sparse solve", "numba loop"])
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_gate_lets_rivers_through(name, dtype):
    case = Case("tiny river", "muskingum", 300, 1, 12, river=True, dtype=dtype)
    gate.check(case, IMPLEMENTATIONS[name], IMPLEMENTATIONS[name].build(case))


def test_the_gate_stops_a_wrong_river():
    class Wrong(rivers.SparseSolve):
        def gradient(self, cotangent):
            flow, slopes = super().gradient(cotangent)
            return flow, slopes | {"x": slopes["x"] * 1.01}

    wrong = Implementation("", lambda case: True)
    object.__setattr__(wrong, "build", Wrong)
    with pytest.raises(AssertionError, match="the gradient to x"):
        gate.check(RIVER, wrong, Wrong(RIVER))


def test_a_translated_step_is_the_model_s():
    case = Case("tiny", cases.MODEL, 4, 2, 60, dtype="float64")
    dialect = translate.Dialect("where({m}, {a}, {b})", "{a} ** {b}", "{x}", no="~{a}")
    made = translate.step(case.model, dialect, case.dtype)
    forcing, parameters = cases.forcing_and_parameters(case)
    model = hs.models.get(case.model)
    names = {f"p{k}": x.numpy() for k, x in enumerate(parameters.values())} | {"where": np.where}
    for k, start in enumerate(model.initial_state(parameters).values()):
        names[f"s{k}"] = np.full((case.B, case.C), start)
    flow = []
    exec("\n".join(made.once), names)
    for t in range(case.T):
        names |= {f"f{k}": x[t, :, None].numpy() for k, x in enumerate(forcing.values())}
        exec("\n".join(made.every), names)
        flow.append(names[made.outflow])
        names |= {f"s{k}": names[x] for k, x in enumerate(made.states)}
    expected = hs.simulate(model, forcing, parameters, components="each", backend="reference").fluxes[model.outflow]
    np.testing.assert_allclose(np.stack(flow), expected, rtol=1e-12, atol=1e-14)


def test_a_step_with_what_has_no_translation_is_refused():
    with pytest.raises(ValueError, match="is not translated"):
        translate.step("sacsma", translate.Dialect("", "", "{x}"), "float64")


# Floors.


@pytest.fixture(scope="module")
def bucket():
    """A model of which every operation can be counted."""
    from hybridsolve.spec import Forcing, ModelSpec, Parameter, State, Variable

    def step(f, k, p, s):
        store = s["store"] + f["rain"]  # add, on the chain
        flow = p["k"] * store  # product, on the chain
        return dict(store=store - flow), dict(flow=flow, twice=2 * flow)  # add on the chain: fused with the product

    spec = ModelSpec(
        name="countable_bucket", title="", source="", forcings=(Forcing("rain", "mm d-1", "", 0.0, 1e4),),
        parameters=(Parameter("k", "d-1", "", 0.01, 0.9, ""),), states=(State("store", "mm", "", 0.0, 1e30),),
        fluxes=(Variable("flow", "mm d-1", ""), Variable("twice", "mm d-1", "")), outflow="flow", reference_step=step,
    )  # fmt: skip
    return hs.models.register(spec)


def test_operations_are_those_of_the_step(bucket):
    forward, back = floors.operations(bucket.name, "float32")
    # store + rain; k store; the difference. Nothing of the flux that is not asked for.
    assert forward == {"fma": 1, "add": 2, "min": 0, "div": 0}
    # Of d_store and d_flow: the difference; two products, one of them fused; the sums into d_k and d_rain.
    assert back["min"] == back["div"] == 0 and 2 <= back["fma"] + back["add"] <= 6
    chain = floors.chain(bucket.name, "float32", CEILINGS | {"latency of fma float32": 4e-9})
    assert chain == pytest.approx(1e-9 + 4e-9 + 1e-9)  # sum, product, difference


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(copy=1.0), ("memory", 4 * (1 + 1) * 7 * 50)),
        ({"add float32": 1.0}, ("arithmetic", 2 * 7 * 3 * 50)),
        ({"latency of add float32": 1.0}, ("latency", 50 * (2 + 1e-9))),
    ],
    ids=lambda x: str(x)[:30],
)
def test_the_largest_floor_counts(bucket, changes, expected):
    case = Case("x", bucket.name, 7, 3, 50)
    seconds, what = floors.floor(case, FORWARD, CEILINGS | changes)
    if what == "memory":
        expected = (what, 4 * (len(bucket.forcings) + 1) * 7 * 50)
    assert (what, seconds) == (expected[0], pytest.approx(expected[1]))
    assert floors.floor(case, GRADIENT, CEILINGS | changes)[0] >= seconds


def test_a_model_with_a_loop_has_no_arithmetic_floor():
    assert floors.operations("sacsma", "float32") is None
    assert floors.floor(Case("x", "sacsma", 1, 1, 10), FORWARD, CEILINGS)[1] == "memory"


@pytest.mark.compile
def test_ceilings_are_measured():
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    found = floors.measure(1)
    assert set(found) == set(floors.NAMES) and all(x > 0 for x in found.values())
    assert found["latency of div float64"] > found["latency of min float64"]


# Rows.


def test_exponents_are_those_of_the_times():
    rows = [row(shape="over-T", T=t, median_s=1e-3 * t**0.9) for t in (365, 730, 1460)]
    rows += [row(shape="over-N", B=b, median_s=1e-3 * b**0.8) for b in (64, 256, 1024)]
    rows += [row(shape="basins", threads=n, median_s=n**-0.95) for n in (1, 2)]
    rows += [row(shape=f"rivers-{n}", model="ddr", B=n, C=1, T=1e6 / n, median_s=2.0) for n in (10, 100, 1000)]
    found = {(x["unit"].split(",")[0], x["model"]): float(x["value"]) for x in measure.exponents(rows)}
    assert found == {
        ("of T", "hbv11p"): 0.9,
        ("of B", "hbv11p"): 0.8,
        ("of threads", "hbv11p"): -0.95,
        ("of B", "ddr"): 1.0,
    }


def test_a_worker_answers_seconds_and_memory():
    worker = measure.Worker(TINY, OURS, 60.0)
    try:
        assert set(worker.peaks) == {FORWARD, GRADIENT}
        assert worker.ask(FORWARD) > 0 and worker.ask(GRADIENT) > 0
    finally:
        worker.close()


def test_what_is_missing_or_slow_is_a_row_that_says_so():
    if importlib.util.find_spec("jax") is None:
        with pytest.raises(measure.WorkerFailed, match=r"JAX scan needs jax, .*: pip install 'hybridsolve\[peers\]'"):
            measure.Worker(TINY, "JAX scan", 60.0)
    with pytest.raises(measure.WorkerFailed, match="took more than 0.01 s"):
        measure.Worker(TINY, OURS, 0.01)
    with pytest.raises(measure.WorkerFailed, match="nothing"):
        measure.Worker(Case("tiny", "nothing", 1, 1, 2), OURS, 60.0)


def test_what_needs_too_much_memory_is_not_tried(monkeypatch):
    monkeypatch.setattr(machine, "memory_available", lambda: 1e9)
    bar = type("", (), dict(set_description_str=lambda self, text: None, update=lambda self: None))()
    (found,) = measure.of_case(cases.SHAPES["cells"][0], [OURS], measure.QUICK, bar)
    assert re.match(r"needs about \d+ GiB; found 1 GiB", found["note"]) and found["median_s"] == ""


def test_who_has_no_time_is_said_below_the_table():
    rows = [row(share_of_floor=0.5, floor="latency"), row(implementation="Warp", median_s="", note="needs warp")]
    text = report.tables(rows + [row(implementation="numba", ratio_to_ours="3.21", median_s=2.0, value="4.56")])
    assert "| 12.3 | 50% L |  | numba 4.56 (3.21 x) |" in text
    assert "Warp" not in report.summary(rows) and "| 12.3 (50% L) |  |" in report.summary(rows)
    assert "\n\nWarp is not timed on hbv11p, 100 x 16 x 730, float32, 1 thread: needs warp." in text


# The command.


def said(capsys, *arguments):
    """The sentence of a command that fails."""
    assert cli.main(["bench", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.slow
def test_a_run_writes_csv_figure_tables_and_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(cases.SHAPES, "tiny", [TINY])
    monkeypatch.setattr(measure, "QUICK", measure.Effort(0.01, 120.0))
    monkeypatch.setattr(floors, "measure", lambda threads: CEILINGS)
    readme, out = tmp_path / "README.md", tmp_path / "out.csv"
    readme.write_text(f"before\n{report.BEGIN.format('another, avx512')}\nkept\n{report.END}\nafter\n")
    options = ["--shapes", "tiny", "--peers", "eager oracle", "--out", str(out), "--readme", str(readme)]
    assert cli.main(["bench", *options]) == 0
    rows = machine.read(out)
    timed = {(r["implementation"], r["mode"]): r for r in rows if r["kind"] == "time"}
    assert set(timed) == {(name, mode) for name in (OURS, "eager oracle") for mode in (FORWARD, GRADIENT)}
    ours, other = timed[OURS, GRADIENT], timed["eager oracle", GRADIENT]
    assert float(other["ratio_to_ours"]) > 1 and ours["ratio_to_ours"] == ""
    assert ours["floor"] in ("latency", "arithmetic", "memory") and float(ours["share_of_floor"]) > 0
    assert {r["mode"] for r in rows if r["kind"] == "ceiling"} == set(floors.NAMES)
    assert ours["machine"] and ours["isa"] and ours["torch"] == torch.__version__
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = out.with_suffix(".md").read_text()
    line = next(x for x in text.splitlines() if x.startswith(f"| hbv11p, 5 x 3 x 40, float32, 1 thread | {GRADIENT} |"))
    assert re.search(r"\| [\d.,]+ \| \d+% [AML] \| [\d.,]* \| eager oracle [\d.]+ \([\d.,]+ x\) \|$", line), line
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "kept" in text
    line = next(x for x in text.splitlines() if x.startswith("| hbv11p, 5 x 3 x 40, float32, 1 thread |"))
    assert re.search(r"thread( \| [\d.,]+ \(\d+% [AML]\) \| eager oracle [\d.]+ \([\d.,]+ x\)){2} \|$", line), line
    capsys.readouterr()
    assert "is there already" in said(capsys, *options)
    # From the CSV alone the same tables are written in the same place.
    assert cli.main(["bench", "--table", str(out), "--readme", str(readme)]) == 0
    assert readme.read_text() == text


def test_two_files_are_compared(tmp_path, capsys):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    machine.write([row(), row(shape="single")], first)
    machine.write([row(median_s=1.0), row(shape="decade")], second)
    assert cli.main(["bench", "--compare", str(first), str(second)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(" 2.000  batch, hbv11p")
    machine.write([row(isa="avx512")], second)
    with pytest.warns(UserWarning, match="is of a machine, avx2, .* of a machine, avx512: the ratios are those"):
        compare.of_files(str(first), str(second))
    machine.write([row(shape="decade")], second)
    assert "must have a case in common" in said(capsys, "--compare", str(first), str(second))


def test_what_cannot_be_done_is_one_sentence(tmp_path, capsys, monkeypatch):
    assert "a shape must be all, or one of latency, " in said(capsys, "--shapes", "batch,nothing")
    assert "a peer must be all, none, or one of " in said(capsys, "--peers", "nothing")
    assert "--out must end in .csv" in said(capsys, "--out", str(tmp_path / "x.txt"))
    assert "the folder of --out" in said(capsys, "--out", str(tmp_path / "no" / "x.csv"))
    missing = str(tmp_path / "missing.csv")
    assert "found no such file" in said(capsys, "--compare", missing, missing)
    assert "found no such file" in said(capsys, "--table", missing)
    assert "--readme must be a file" in said(capsys, "--table", missing, "--readme", str(tmp_path / "none.md"))
    good, old, empty = tmp_path / "good.csv", tmp_path / "old.csv", tmp_path / "empty.csv"
    machine.write([row()], good)
    with old.open("w", newline="") as file:
        csv.writer(file).writerows([machine.COLUMNS[1:], ["1"] * (len(machine.COLUMNS) - 1)])
    machine.write([], empty)
    assert "must have the columns of this version of `hybridsolve bench`; found another in date" in said(
        capsys, "--compare", str(good), str(old)
    )
    assert "must have a row or more" in said(capsys, "--table", str(empty))
    assert "leave one of them out" in said(capsys, "--table", str(good), "--compare", str(good), str(good))
    (tmp_path / "plain.md").write_text("no marks\n")
    assert "must have the line" in said(capsys, "--table", str(good), "--readme", str(tmp_path / "plain.md"))


def test_commits_are_compared_in_a_checkout_alone(capsys, monkeypatch, tmp_path):
    if machine.is_checkout():
        assert "found 'no-such-commit', which is neither" in said(capsys, "--compare", "HEAD", "no-such-commit")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert "needs a checkout of hybridsolve's repository; found an installed package" in said(
        capsys, "--compare", "HEAD", "HEAD~1"
    )


def test_a_commit_that_does_not_build_is_said(monkeypatch, tmp_path):
    if not machine.is_checkout():
        pytest.skip("an installed package has no commits")

    def archive(*arguments):
        import tarfile

        with tarfile.open(arguments[2], "w") as files:
            (tmp_path / "setup.py").write_text("raise SystemExit('no kernels today')\n")
            files.add(tmp_path / "setup.py", "setup.py")

    monkeypatch.setattr(machine, "git", archive)
    with pytest.raises(RuntimeError, match=r"must build by setup.py; found that it fails \(no kernels today\)"):
        compare._build("abc", tmp_path / "built")


def test_without_a_compiler_the_times_have_no_floor(monkeypatch):
    cache.compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(measure, "of_case", lambda case, *rest: iter([row(kind="time", median_s=0.5)]))
    try:
        with pytest.warns(UserWarning, match="no floors are known: .* needs a C\\+\\+ compiler"):
            found = list(measure.measured([(TINY, [OURS])], measure.QUICK, False))
    finally:
        monkeypatch.undo()
        cache.compiler.cache_clear()
    assert [r["kind"] for r in found] == ["time"] and found[0]["share_of_floor"] == ""
