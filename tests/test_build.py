"""The compiled part elsewhere: each instruction set, an old processor, a forked process; a light import."""

import multiprocessing
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import plugins
import pytest
import setuptools
import torch
from conftest import ROOT, VARIANTS, assert_close, assert_same_bits, random_inputs, run_both_ways

import hybridsolve as hs
from hybridsolve import _cpu

ISAS = ("baseline", "avx2", "avx512")
# A run with all gradients, and a routed series, saved to the file named.
SCRIPT = """
    import sys
    sys.path.insert(0, {folder!r})
    import torch
    from conftest import VARIANTS, random_inputs, run_both_ways, uniform
    import hybridsolve as hs
    from hybridsolve import _cpu
    _cpu.load({toy!r})
    results = {{}}
    for variant in VARIANTS:
        for dtype in (torch.float32, torch.float64):
            inputs = random_inputs(variant.values[0], T=12, B=37, C=5, weights=True, dtype=dtype)
            found = run_both_ways(inputs)
            results |= {{f"{{variant.id}} {{dtype}} {{n}}": x for n, x in found.items()}}
    results["routed"] = hs.unit_hydrograph(uniform(20, 37), uniform(37), uniform(37))
    torch.save((_cpu.isa(), results), {file!r})
"""


def environment(isa=None):
    """Of a process that finds the package under test where this one does."""
    paths = [os.path.dirname(os.path.dirname(hs.__file__)), os.environ.get("PYTHONPATH", "")]
    changed = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return (
        {n: v for n, v in os.environ.items() if n != "HYBRIDSOLVE_ISA"}
        | changed
        | ({"HYBRIDSOLVE_ISA": isa} if isa else {})
    )


def run_script(tmp_path, kernels, isa=None, before=()):
    file = tmp_path / f"{isa}.pt"
    toy = str(plugins.toy_for_cpu(kernels, isa or "baseline"))
    script = textwrap.dedent(SCRIPT).format(folder=os.path.dirname(__file__), file=str(file), toy=toy)
    done = subprocess.run(
        [*before, sys.executable, "-W", "ignore", "-c", script],
        env=environment(isa),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file)


def assert_agree(found, expected):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-3)):
        assert_close(*({n: x for n, x in r.items() if x.dtype == dtype} for r in (found, expected)), tolerance)


def test_instruction_sets_agree(tmp_path, kernels):
    assert _cpu.isas()[0] == "baseline" and set(_cpu.isas()) <= set(ISAS)
    isa, expected = run_script(tmp_path, kernels, "baseline")
    assert isa == "baseline"
    for other in _cpu.isas()[1:]:
        isa, found = run_script(tmp_path, kernels, other)
        assert isa == other
        assert_agree(found, expected)


def test_the_best_instruction_set_is_the_default():
    code = "from hybridsolve import _cpu; print(_cpu.isa())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _cpu.isas()[-1]


def test_an_unknown_instruction_set_is_refused():
    code = "from hybridsolve import _cpu; _cpu.isa()"
    done = subprocess.run([sys.executable, "-c", code], env=environment("sse9"), capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(
        r"HYBRIDSOLVE_ISA is 'sse9', but this build on this processor has baseline.*; "
        r"set it to one of these or unset it\.\n",
        done.stderr,
    )


@pytest.mark.slow
def test_an_old_processor(tmp_path, kernels):
    """Westmere has neither AVX nor FMA: there the baseline runs, and gives what it gives here."""
    emulator = shutil.which("qemu-x86_64")
    if not emulator:
        pytest.skip("qemu-x86_64 is not installed (Debian: qemu-user)")
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no vector instructions to take away")
    isa, found = run_script(tmp_path, kernels, before=[emulator, "-cpu", "Westmere"])
    assert isa == "baseline"
    _, expected = run_script(tmp_path, kernels, "baseline")
    assert_agree(found, expected)


def test_a_forked_process_computes_the_same():
    # Small tensors: torch's own threads, which larger ones wake, do not survive a fork. The kernel's must.
    inputs = random_inputs(VARIANTS[0].values[0], T=12, B=300, C=3)

    def work():
        torch.set_num_threads(2)
        return run_both_ways(inputs, fluxes=["streamflow"], checkpoint_interval=12)

    expected = work()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send({n: x.numpy() for n, x in work().items()}), daemon=True)
    child.start()
    # A child that hangs or dies must fail here, not wait for ever.
    if not receive.poll(60):
        child.kill()
        pytest.fail("the child hangs or died without a result")
    found = {n: torch.from_numpy(x) for n, x in receive.recv().items()}
    child.join(10)
    assert child.exitcode == 0
    assert_same_bits(found, expected)


def test_no_code_is_shared_between_instruction_sets():
    """The linker keeps one copy of a weak symbol, which might use instructions that the processor lacks."""
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("nm is not installed (Debian: binutils)")
    listing = subprocess.run([nm, "-C", _cpu.__file__], capture_output=True, text=True, check=True).stdout
    shared = re.findall(r"^\S*\s+[WVu] (.*\bhs::.*)$", listing, re.MULTILINE)
    assert [s for s in shared if not re.search(r"\bhs::(baseline|avx2|avx512)::", s)] == []


def test_structs_of_packs_are_copied_by_whole_registers(tmp_path):
    """g++ 12 copies a plain struct of AVX2's packs in halves, which made calibration half as fast."""
    compiler = shutil.which("g++")
    if not compiler or platform.machine() != "x86_64":
        pytest.skip("g++ for x86_64 is not installed")
    source = tmp_path / "copies.cpp"
    source.write_text("""
        #include "core/dual.h"
        using namespace hs::avx2;
        using P = Pair<f32>;
        using D = Dual<f32, 2>;
        void pairs(P* to, const P* from, long n) { for (long i = 0; i < n; ++i) to[i] = from[i]; }
        void duals(D* to, const D* from, long n) { for (long i = 0; i < n; ++i) to[i] = D(from[i]); }
        void picked(D* to, D a, D b, i32 mask) { *to = select(mask, a, b); }
        void moved(float* to, const float* from) { store(to, load<P>(from)); }
        P bits(P x) { return from_bits<P>(as_bits(x)); }
    """)
    command = [compiler, "-std=c++17", "-O3", "-mavx2", "-mfma", "-Wall", "-Werror", "-DHS_ISA=avx2", "-S", "-o", "-"]
    done = subprocess.run([*command, f"-I{ROOT / 'csrc'}", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "%ymm" in done.stdout and not re.findall(r"vmov.*%xmm|vpinsr", done.stdout)


def test_libraries_that_cannot_be_loaded(tmp_path, kernels):
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(RuntimeError, match="^the kernels in '.*text.so' cannot be loaded .*: build them again"):
        _cpu.load(str(text))
    with pytest.raises(RuntimeError, match="must be a library of CPU kernels; found no hybridsolve_models_cpu in it"):
        _cpu.load(_cpu.__file__)
    with pytest.raises(
        RuntimeError, match=f"must be for {_cpu.isa()}; found those for another: build them for the former"
    ):
        _cpu.load(str(a_library(tmp_path, "other", "Table<Model>::STAMP", "another")))
    stamp = "{Table<Model>::STAMP.interface, sizeof(Run) + 8, sizeof(Tangent), sizeof(LeastSquares), sizeof(Model)}"
    with pytest.raises(RuntimeError, match="must be of this build of hybridsolve; found those of another"):
        _cpu.load(str(a_library(tmp_path, "stale", stamp, _cpu.isa())))
    assert "nothing" not in _cpu.models()


def a_library(folder, name, stamp, isa):
    """One with a model called nothing."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    source = folder / f"{name}.cpp"
    source.write_text(f"""
        #include "core/cpu.h"
        using namespace hs;
        const Model nothing{{"nothing", {{}}, {{}}}};
        const Table<Model> table{{{stamp}, "{isa}", &nothing, 1}};
        extern "C" const Table<Model>* const hybridsolve_models_cpu;
        const Table<Model>* const hybridsolve_models_cpu = &table;
    """)
    library = folder / f"{name}.so"
    command = ["g++", "-std=c++17", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def test_the_extension_needs_no_torch():
    ldd = shutil.which("ldd")
    if not ldd:
        pytest.skip("ldd is not installed")
    needed = subprocess.run([ldd, _cpu.__file__], capture_output=True, text=True, check=True).stdout
    assert "torch" not in needed and "c10" not in needed


def test_the_extension_has_no_debugging_information():
    """It would be eight times as large."""
    assert b".debug_info" not in Path(_cpu.__file__).read_bytes()


def test_import_is_light():
    code = "import sys, torch; before = set(sys.modules); import hybridsolve; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "hybridsolve" in loaded
    assert not loaded & {
        "pandas",
        "xarray",
        "matplotlib",
        "netCDF4",
        "pyet",
        "tqdm",
        "scipy",
        "spotpy",
        "dask",
    }


def test_table_and_kernel_tell_the_same_story():
    models = [m for m in hs.models.MODELS.values() if m.kernel_name(()) in _cpu.models()]
    assert {"hbv10", "hbv11p"} <= {model.name for model in models}
    for model in models:
        for names in (model.parameter_names, model.parameter_names + model.optional_parameter_names):
            compiled = _cpu.models()[model.kernel_name(names)]
            assert tuple(compiled["forcing_names"].split()) == model.forcing_names
            assert tuple(compiled["parameter_names"].split()) == names
            assert tuple(compiled["state_names"].split()) == model.state_names
            assert tuple(compiled["input_names"].split()) == model.input_names
            assert tuple(compiled["line_names"].split()) == model.line_names
            assert compiled["flux_names"].split()[compiled["outflow"]] == model.outflow
            assert set(compiled["flux_names"].split()) == set(model.flux_names)


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="there is no setup.py beside the tests")
def test_a_changed_header_makes_its_own_objects_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    building = runpy.run_path("setup.py")
    assert building["HEADERS"]["hbv"] == "models/hbv.h"
    build, made, calls = building["BuildKernels"](setuptools.Distribution()), {}, []
    build.force = False
    for name in ("one", "other"):
        (tmp_path / f"{name}.h").touch()

    def make(name, how="g++"):
        def compile_it():
            calls.append(name)
            made[name].touch()
            made[name].with_suffix(".d").write_text(f"{name}.o: \\\n {tmp_path / name}.h\n")

        made[name] = tmp_path / name / f"{name}.o"
        assert build.made_once(made[name], ["c++", how], compile_it) == str(made[name])

    for name in ("one", "other", "one", "other"):
        make(name)
    assert calls == ["one", "other"]
    later = made["one"].stat().st_mtime + 10
    os.utime(tmp_path / "one.h", (later, later))
    make("one"), make("other")
    assert calls == ["one", "other", "one"]
    make("other", how="clang++")
    (tmp_path / "other.h").unlink()
    make("other", how="clang++")
    assert calls[3:] == ["other", "other"]


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="there is no setup.py beside the tests")
def test_an_installed_package_has_what_kernels_are_compiled_of(tmp_path):
    """Every header that another one of them includes is there too."""
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    packed = tmp_path / "hybridsolve" / "csrc"
    assert (packed / "models_cpu.cpp").exists() and (packed / "core" / "cuda.cuh").exists()
    for file in packed.rglob("*.*"):
        for included in re.findall(r'^#include "(.*)"', file.read_text(), re.M):
            assert (file.parent / included).exists() or (packed / included).exists(), f"{file}: {included}"
    assert list(packed.glob("models/*.h"))
    code = "from hybridsolve.compiler import cache; print(cache.sources())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(packed)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says what there is")
def test_the_source_distribution_has_what_a_build_needs(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["csrc", "hybridsolve", "setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"]
    tracked = subprocess.run(["git", "ls-files", *needed], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(tracked.stdout.split()) <= names
    assert not any(name.startswith("tests/") for name in names)
