"""The launcher of what NVRTC compiles, where there is no GPU: by a stand-in for the driver's library (tests/cuda_stub),
which writes down what it is asked, or has kernels run that g++ compiled. Then NVRTC itself, where it is installed:
`pip install nvidia-cuda-nvrtc`, or CUDA_HOME."""

import ctypes
import itertools
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import plugins
import pytest
import torch
from conftest import VARIANTS, assert_close, margins, normal, random_inputs, run_both_ways, ties
from models.toy import toy_rates
from test_definition import bucket, results
from test_flux_networks import both_ways, inputs, leaves_of, with_leaves
from test_flux_networks import model as networked  # noqa: F401
from test_flux_networks import outputs as outputs_of
from test_loops_and_lines import model as looped  # noqa: F401
from test_loops_and_lines import too_much

import hybridsolve as hs
from hybridsolve import _driver
from hybridsolve.compiler import cache, definition, header, nvrtc
from hybridsolve.models import schemes
from hybridsolve.solve import backends, check, compiled

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
Launch = namedtuple("Launch", "kernel blocks threads shared stream device arguments")


@pytest.fixture(scope="session")
def library(kernels):
    """The stand-in, and the function that gives what it has recorded."""
    path = plugins.cuda_stub(kernels)
    record = ctypes.CDLL(str(path)).cuda_stub_record
    record.restype = ctypes.c_char_p
    return SimpleNamespace(path=str(path), record=lambda: record().decode())


@pytest.fixture
def opened(library):
    """Opens the launcher on the stand-in, with what compiles; afterwards it is to be opened anew."""
    yield lambda compiler: _driver.open(library.path, compiler)
    nvrtc.launcher.cache_clear()


def recorded(text: str) -> list[Launch]:
    found = []
    for line in text.splitlines():
        if line.startswith("launch "):
            kernel, rest = line.removeprefix("launch ").split(" | ")
            found.append(Launch(kernel, *map(int, rest.split()[:5]), rest.split()[5:]))
    return found


@pytest.fixture
def assert_same_launches(library, opened, cuda_on_cpu):
    """Holds the launches of a call against those of nvcc's binding: all but the machine code."""
    record = ctypes.CDLL(cuda_on_cpu.__file__).cuda_on_cpu_record
    record.restype = ctypes.c_char_p

    def held(call) -> None:
        record(1)
        call(cuda_on_cpu)
        expected = recorded(record(0).decode())
        sizes = " ".join(str(len(x) // 2) for x in expected[0].arguments)
        opened(lambda _, expression, *more: (expression, f"record {sizes}\0".encode()))
        library.record()
        call(_driver)
        found = recorded(library.record())
        assert len(found) == len(expected) > 0
        for x, y in zip(found, expected, strict=True):
            assert x[1:-1] == y[1:-1]
            for argument, (a, b) in enumerate(zip(x.arguments, y.arguments, strict=True)):
                assert len(a) == len(b)
                assert [i // 2 for i in range(0, len(a), 2) if a[i : i + 2] != b[i : i + 2]] == [], argument
            kernel = re.sub(r"hs::cuda::model_(\w+)", lambda name: structs()[name[1]], x.kernel)
            assert y.kernel.startswith(f"void {kernel}(")

    return held


def structs() -> dict[str, str]:
    """The models' types in C++, by name."""
    texts = [path.read_text() for path in (*plugins.BUILT_IN, plugins.TOY)]
    return {
        name: f"hs::cuda::{x}" for text in texts for name, x in re.findall(r"KERNEL\((\w+), (\w+(?:<.*>)?)\)", text)
    }


def add(model: str, names: dict) -> None:
    nvrtc.load(
        next(p for p in (*plugins.BUILT_IN, plugins.TOY) if f"({model}," in p.read_text()).read_text(), {model: names}
    )


def filled(module, kind: str, names: dict, **changed):
    """A struct with a number of its own in every field."""
    count = itertools.count(1)
    number = lambda: next(count)  # noqa: E731
    view = lambda: (16 * number(), number(), number(), number())  # noqa: E731
    interval = lambda: (-number() / 3, number() / 3)  # noqa: E731
    n = {kind: len(names[f"{kind}_names"].split()) for kind in ("forcing", "input", "parameter", "state")}
    each = lambda kind, what: [what() for _ in range(n[kind])]  # noqa: E731
    fields = dict(
        is_double=False, n_steps=200, n_basins=37, n_components=3, group_size=3, n_groups=1, dt=1 / 24,
        forcing=each("forcing", view), input=each("input", view), parameter=each("parameter", view), weights=view(),
        forcing_bounds=each("forcing", interval), input_bounds=each("input", interval),
        parameter_bounds=each("parameter", interval), state_bounds=each("state", interval), raw=False,
        parameter_range=each("parameter", interval), octaves=each("parameter", lambda: number() / 7),
        per_step=each("parameter", bool), by_group=each("parameter", bool), initial_state=number(), n_outputs=1,
        output=[names["outflow"]], each=False, fluxes=number(), final_state=number(), interval=14, checkpoints=number(),
        d_fluxes=view(), d_fluxes_stride=number(), d_final_state=number(), d_forcing=each("forcing", int),
        d_parameter=each("parameter", number), d_initial_state=number(), d_weights=0, faults=number(), tape=0,
    )  # fmt: skip
    if kind == "Tangent":
        fields |= dict(t_forcing=each("forcing", view), t_parameter=each("parameter", view), t_weights=view())
        fields |= dict(t_initial_state=number(), t_fluxes=number(), t_final_state=number())
    if kind == "LeastSquares":
        fields |= dict(length=9, n_routing=2, ordinates=view(), d_ordinates=[view(), view()], target=view())
        fields |= dict(weight=view(), shift=view(), transform=2, exponent=0.3, normal=16, flow=32, jacobian=48)
    return struct(module, kind, **fields | changed)


def struct(module, name: str, **fields):
    made = getattr(module, name)()
    for field, value in fields.items():
        setattr(made, field, value)
    return made


RUNS = {
    "outflow": {},
    "float64": dict(is_double=True, interval=3),
    "many outputs": dict(n_outputs=3, output=[2, 0, 5], d_weights=64),
    "by component": dict(each=True),
    "raw": dict(raw=True),
    "gradient of the forcing": dict(d_forcing=[16, 32]),
    "tape in global memory": dict(interval=150, tape=1024),
    "more tapes than are worked on": dict(interval=150, tape=1024, n_basins=300_000, n_components=1, group_size=1),
    "a full warp": dict(n_components=70, group_size=24, n_groups=3),
    "per-step parameters": dict(per_step=[False, True, True], by_group=[False, False, True]),
}


@pytest.mark.cuda_on_cpu
@pytest.mark.parametrize("model", ("hbv10", "hbv11p", "toy"))
@pytest.mark.parametrize("changed", RUNS.values(), ids=RUNS)
def test_the_launches_are_those_of_nvccs_binding(model, changed, assert_same_launches, cuda_on_cpu):
    """Kernel, blocks, threads, memory on the chip, stream, device, and every byte of every argument."""
    names = cuda_on_cpu.models()[model]
    add(model, names)
    for kind, call in (
        ("Run", "forward"),
        ("Run", "adjoint"),
        ("Tangent", "tangent"),
        ("LeastSquares", "least_squares"),
    ):
        if kind != "LeastSquares" or not changed.get("per_step"):
            assert_same_launches(lambda m, k=kind, c=call: getattr(m, c)(model, filled(m, k, names, **changed), 0, 7))
    for run in (changed, dict(changed, n_steps=3000, interval=55)):
        sizes = [m.tape_size(model, filled(m, "Run", names, **run)) for m in (cuda_on_cpu, _driver)]
        assert sizes[0] == sizes[1]


@pytest.mark.cuda_on_cpu
@pytest.mark.parametrize("reverse", (False, True))
@pytest.mark.parametrize("bits", (32, 64))
def test_the_launches_of_routing_and_sums_are_those_of_nvccs_binding(bits, reverse, assert_same_launches):
    starts = torch.tensor([0, 5, 300, 301])
    graph = dict(level_start=starts.data_ptr(), first=16, downstream=32, column=48, constants=64, lateral=80, level=96)
    run = dict(n_steps=9, n_reaches=301, n_levels=3, n_outputs=2, repeat=3, tile=4, dt=3600.0, initial=112, state=128)
    run |= dict(discharge=144, checkpoints=160, scratch=4096, d_discharge=176, d_state=192, d_constants=8, d_lateral=24)
    series = dict(n_steps=1000, n_series=130, length=9, inflow=16, ordinates=32, memory=48, outflow=64, d_outflow=80)
    series |= dict(d_inflow=96, d_memory=112, d_ordinates=128)
    for scheme in ("linear", "ddr", "todini"):
        assert_same_launches(lambda m, s=scheme: m.route(s, struct(m, f"Reaches{bits}", **graph, **run), reverse, 0, 7))
    for more in ({}, dict(t_inflow=16, t_ordinates=32, t_memory=48)):
        given = series | more
        assert_same_launches(lambda m, x=given: m.convolve(struct(m, f"Convolution{bits}", **x), reverse, 0, 7))
    assert_same_launches(lambda m: m.sum_middle(bits == 64, 16, 32, 70, 5, 9, 0, 7))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.id in ("hbv11p", "toy")])
def test_the_default_interval_keeps_the_tape_on_the_chip(variant, dtype, monkeypatch):
    model, _ = variant
    x = random_inputs(variant, T=10_000, B=1, C=1, dtype=dtype)
    given = (model, x.forcing, x.parameters, x.inputs, 86400, None, None, "mean", None, None, False)
    assert check.problem(*given, "cpu").interval == 100
    monkeypatch.setattr(backends, "choose", lambda *_: "cuda")
    interval = check.problem(*given, "cuda").interval
    kernel = model.kernel_name(())
    names = hs._cpu.models()[kernel]
    add(kernel, names)
    run = dict(is_double=dtype == torch.float64, n_steps=10_000)
    sizes = [
        _driver.tape_size(kernel, filled(_driver, "Run", names, **run, interval=n)) for n in (interval, interval + 1)
    ]
    assert sizes[0] == 0 < sizes[1]


def test_what_a_kernel_is_compiled_for(opened, library):
    """Once for all runs that ask the same of it, and once a card."""
    asked = []

    def compiler(*what):
        asked.append(what)
        return "f", b"record\0"

    opened(compiler)
    names = hs._cpu.models()["hbv10"]
    add("hbv10", names)
    run = filled(_driver, "Run", names, **RUNS["many outputs"], raw=True, group_size=3, per_step=[False, True])
    for _ in range(2):
        _driver.forward("hbv10", run, 0, 0)
    ((model, expression, macros, capability),) = asked
    assert (model, capability) == ("hbv10", 86)
    assert expression == "hs::cuda::forward_kernel<hs::cuda::model_hbv10, float, false, true>"
    told = dict(macro.split("=") for macro in macros)
    slots = [int(x) for x in told.pop("HS_SLOTS").split(",")]
    assert told == dict(HS_WIDTH="4", HS_EACH="0", HS_RAW="1", HS_PER_STEP="2ull")
    assert {i: x for i, x in enumerate(slots) if x >= 0} == {2: 0, 0: 1, 5: 2}
    for again, text in ((1, nvrtc._HEADERS["hbv10"]), (2, "// another\n")):
        nvrtc.load(text, {"hbv10": names})
        _driver.forward("hbv10", run, 0, 0)
        assert len(asked) == again


def test_each_gpu_has_its_context_and_kernels(opened, library, monkeypatch):
    monkeypatch.setenv("CUDA_STUB_GPUS", "2")
    opened(lambda *_: ("f", b"record\0"))
    library.record()
    for device in (1, 0, 1):
        _driver.sum_middle(True, 16, 32, 1, 1, 1, device, 5)
    said = library.record()
    assert [(x.stream, x.device) for x in recorded(said)] == [(5, 1), (5, 0), (5, 1)]
    assert re.findall("^(retain \\d|load)", said, re.M) == ["retain 1", "load", "retain 0", "load"]
    with pytest.raises(
        RuntimeError,
        match=r"^launching hs::cuda::sum_middle_kernel<double> in 0 blocks failed: invalid argument; hybridsolve",
    ):
        _driver.sum_middle(True, 16, 32, 0, 1, 1, 0, 5)
    with pytest.raises(RuntimeError, match="^choosing GPU 2 failed: invalid argument"):
        _driver.sum_middle(True, 16, 32, 1, 1, 1, 2, 5)
    assert ctypes.CDLL(library.path).cuda_stub_depth() == 0


def test_a_kernel_is_loaded_outside_of_a_capture(opened, monkeypatch):
    opened(lambda *_: ("f", b"record\0"))
    sums = lambda: _driver.sum_middle(True, 16, 32, 1, 1, 1, 0, 5)  # noqa: E731
    monkeypatch.setenv("CUDA_STUB_CAPTURING", "1")
    with pytest.raises(
        RuntimeError, match="capture a kernel that has yet to be loaded; found hs::cuda::sum_.*: make the"
    ):
        sums()
    monkeypatch.delenv("CUDA_STUB_CAPTURING")
    sums()
    monkeypatch.setenv("CUDA_STUB_CAPTURING", "1")
    sums()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, None),
        ({"CAPABILITY": 120}, None),
        ({"DRIVER": 12000}, r"CUDA 12\.1 or newer, that is 530 or newer, .* \d+ bytes .*; found one for 12\.0: update"),
        ({"START": 1}, r"needs an NVIDIA driver .*; found one that cannot start \(invalid argument\): install one"),
        ({"GPUS": 0}, "was asked for GPU 0; found 0: name"),
        ({"CAPABILITY": 75}, r"compute capability 8\.0 or higher; GPU 0 has 7\.5: use backend='triton'"),
    ],
    ids=str,
)
def test_whether_a_card_can_run_it(opened, monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(f"CUDA_STUB_{name}", str(value))
    compiler = lambda *_: ("f", b"")  # noqa: E731
    if message is None:
        opened(compiler)
        return _driver.check(0)
    with pytest.raises(RuntimeError, match=message) as error:
        opened(compiler)
        _driver.check(0)
    assert re.search(r"\. ", str(error.value)) is None  # one sentence


def test_no_driver_and_one_that_lacks_a_call(tmp_path):
    said = (
        r"^backend 'cuda' needs an NVIDIA driver for CUDA 12\.1 or newer; found {}: install one, or run on the CPU\.$"
    )
    with pytest.raises(RuntimeError, match=said.format(r"none \(.*cannot open shared object file.*\)")):
        _driver.open("/nowhere/libcuda.so.1", lambda: None)
    (tmp_path / "empty.c").touch()
    subprocess.run(["gcc", "-shared", tmp_path / "empty.c", "-o", tmp_path / "libcuda.so"], check=True)
    with pytest.raises(RuntimeError, match=said.format("one without cuInit")):
        _driver.open(str(tmp_path / "libcuda.so"), lambda: None)


def test_nothing_of_it_is_loaded_before_it_is_asked_for():
    code = "import sys, hybridsolve.solve.backends; print(*(m for m in sys.modules if 'nvrtc' in m or '_driver' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_declarations_by_hand_are_those_of_cudas_own_header(tmp_path):
    """As many arguments, as large, and the same numbers; by the header that Triton brings."""
    triton = pytest.importorskip("triton", reason="triton, which has cuda.h, is not installed")
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    (tmp_path / "same.cpp").write_text("""
        #include <cuda.h>
        #include "core/driver.h"
        template <class F, class G> struct Same;
        template <class R, class... A, class S, class... B> struct Same<R (*)(A...), S (*)(B...)> {
          static constexpr bool value = sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ...);
        };
        #define CALL(name, ...) static_assert(Same<decltype(&::name), decltype(hs::driver::Calls::name)>::value, #name);
        HS_DRIVER(CALL)
        static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == hs::driver::CAPABILITY_MAJOR);
        static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == hs::driver::CAPABILITY_MINOR);
        static_assert(CUDA_SUCCESS == 0 && CUDA_ERROR_INVALID_VALUE == hs::driver::INVALID_VALUE);
        static_assert(CU_STREAM_CAPTURE_STATUS_NONE == 0);
    """)
    command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{plugins.CSRC}", f"-I{include}", tmp_path / "same.cpp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def without_nvcc(library, monkeypatch):
    """No hybridsolve._cuda, the stand-in as the driver, and no NVRTC found yet."""
    monkeypatch.setitem(sys.modules, "hybridsolve._cuda", None)
    opening = _driver.open
    monkeypatch.setattr(_driver, "open", lambda _, compiler: opening(library.path, compiler))
    clear = lambda: [f.cache_clear() for f in (nvrtc.launcher, nvrtc.find, compiled.extension)]  # noqa: E731
    clear()
    yield
    clear()


class Fake:
    """An NVRTC of some version."""

    def __init__(self, path):
        self.version = tuple(map(int, path.split(".")))

    def __str__(self):
        return "NVRTC {}.{}".format(*self.version)


@pytest.mark.parametrize(
    "there, driver, found",
    [
        ([], 13000, "13, as the driver is; found none among .*: pip install 'nvidia-cuda-nvrtc<14', or"),
        (["13.2", "12.0"], 12080, r"12, as the driver is; found NVRTC 13\.2, NVRTC 12\.0 .* nvidia-cuda-nvrtc-cu12"),
        (["13.2", "12.9", "12.8"], 12080, None),
    ],
    ids=str,
)
def test_the_first_nvrtc_that_the_driver_can_use(there, driver, found, without_nvcc, monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(there))
    monkeypatch.setattr(nvrtc, "Nvrtc", Fake)
    monkeypatch.setenv("CUDA_STUB_DRIVER", str(driver))
    if found is None:
        assert compiled.extension("cuda") is _driver and nvrtc.of_driver().version == (12, 9)
        assert "hbv10" in compiled.Cuda.kernels()
        return
    with pytest.raises(
        RuntimeError, match=rf"^backend 'cuda' compiles .* by NVRTC 12\.1 or newer, up to {found}"
    ) as error:
        compiled.extension("cuda")
    assert re.search(r"\. ", str(error.value)) is None


def test_info_says_which_kernels_a_gpu_would_run(without_nvcc, monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["13.0"]))
    monkeypatch.setattr(nvrtc, "Nvrtc", Fake)
    if not torch.cuda.is_available():
        assert "needs torch built for CUDA; found torch" in backends.describe()["cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    expected = "available: compiled at first use by NVRTC 13.0, as hybridsolve._cuda of nvcc is not built, on a card"
    assert backends.describe()["cuda"] == expected


# --- With numbers: kernels compiled by g++ for what the run asks, called by the launcher ---------------------------


@pytest.fixture
def launched(opened, kernels, cuda_on_cpu, monkeypatch):
    """backend="cuda" on CPU tensors by the launcher."""
    opened(plugins.for_stub(kernels, cuda_on_cpu.__file__))
    extension = compiled.extension
    monkeypatch.setattr(compiled, "extension", lambda backend: _driver if backend == "cuda" else extension(backend))
    monkeypatch.setattr(compiled.Cuda, "_where", lambda x: dict(device=0, stream=0))
    monkeypatch.setitem(backends.DEVICE, "cuda", "cpu")
    yield from margins("cpu", monkeypatch)


@pytest.mark.cuda_on_cpu
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.id == "toy"])
@pytest.mark.parametrize("case", ("outflow", "per-step", "raw"))
def test_specialised_kernels_match_the_reference(variant, case, launched, cuda_on_cpu):
    add("toy", cuda_on_cpu.models()["toy"])
    x = random_inputs(
        variant, T=9, B=3, C=3, per_step=variant[1][1:3] if case == "per-step" else (), weights=case == "raw"
    )
    if case == "raw":
        x.parameters = {n: 2 * normal(*p.shape, seed=i) for i, (n, p) in enumerate(x.parameters.items())}
    options = {"outflow": dict(fluxes=None), "per-step": dict(components="each"), "raw": dict(raw=True)}[case]
    found, expected = (run_both_ways(x, backend=backend, **options) for backend in ("cuda", "reference"))
    assert_close(found, expected, 1e-10)


@pytest.mark.cuda_on_cpu
def test_a_users_model_runs_by_its_generated_header(launched, monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    for share, fluxes in ((1.0, None), (0.5, None), (0.5, ("flow",))):
        found, expected = (results(bucket(share), backend, fluxes) for backend in ("cuda", "reference"))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not list(tmp_path.iterdir())  # no compiler for the CPU was asked
    hs.models.MODELS.pop("defined_bucket")


@pytest.mark.cuda_on_cpu
@pytest.mark.parametrize("of_basins", [False, True])
def test_networks_inside_a_step(launched, networked, of_basins):  # noqa: F811
    for components, sizes in (("mean", (9, 5, 3)), ("each", (4, 3, 35))):
        given = inputs(networked, *sizes, of_basins=of_basins)
        expected = both_ways(networked, given, components=components, backend="reference")
        assert_close(both_ways(networked, given, components=components, backend="cuda"), expected, 1e-10)
    values = leaves_of(given)
    along = {n: normal(*x.shape, seed=i) for i, (n, x) in enumerate(values.items())}

    def tangents(backend):
        of = lambda leaves: outputs_of(networked, with_leaves(given, leaves), backend=backend)  # noqa: E731
        return torch.func.jvp(of, (values,), (along,))[1]

    assert_close(tangents("cuda"), tangents("reference"), 1e-11)
    options = {kind: given[kind] for kind in ("networks", "initial_state")}
    found = [
        hs.jacobian(networked, given["forcing"], given["parameters"], backend=b, **options)[1] for b in ("cuda", "cpu")
    ]
    assert_close(*found, 1e-11)
    given["networks"]["last"] = torch.full((13,), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="network 'last' must have finite weights; found nan at weight 0"):
        both_ways(networked, given, backend="cuda")


@pytest.mark.cuda_on_cpu
def test_too_many_passes_of_a_loop_are_noted_with_their_place(launched, looped):  # noqa: F811
    said = "at most 12 passes .* at step 2, basin 4, component 0"
    with pytest.raises(ValueError, match=said):
        too_much(looped, "cuda")
    with pytest.raises(ValueError, match=said):
        too_much(looped, "cuda", of=hs.jacobian)


@pytest.mark.cuda_on_cpu
@pytest.mark.parametrize("how", ("backward_euler", "rk4x3"))
def test_steps_of_rates(how, launched):
    model = schemes.named(toy_rates, how)
    variant = model, model.parameter_names
    for x in (random_inputs(variant, T=9, B=3, C=3, weights=True), ties(variant, T=9, B=3, C=2)):
        assert_close(*(run_both_ways(x, backend=backend) for backend in ("cuda", "reference")), 1e-10)
    tangents = []
    for backend in ("cuda", "reference"):
        along = {n: normal(*v.shape, seed=i) for i, (n, v) in enumerate(x.tensors().items())}
        of = lambda values: x.with_tensors(values).outputs(backend=backend)  # noqa: B023, E731
        tangents.append(torch.func.jvp(of, (x.tensors(),), (along,))[1])
    assert_close(*tangents, 1e-10)


# --- NVRTC ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    nvrtc.find.cache_clear()
    try:
        return nvrtc.find(13)
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")


# With the most registers that leave a multiprocessor the blocks it is meant to hold: see cuda.cuh.
FORMS = {
    "forward": ("forward_kernel<{}, float, true, false>", 0, 80),
    "adjoint": ("adjoint_kernel<{}, float, true, false, false>", 0, 168),
    "adjoint float64": ("adjoint_kernel<{}, double, true, false, false>", 0, 255),
    "all outputs": ("forward_kernel<{}, double, false, true>", 7, 255),
    "tangent": ("tangent_kernel<{}, float>", 0, 255),
    "least squares": ("least_squares_kernel<{}, float>", None, 255),
}


@pytest.mark.compile
@pytest.mark.parametrize("capability", (80, 90))
@pytest.mark.parametrize("model", ("hbv11p", "toy", "defined_bucket"))
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_nvrtc_compiles_the_kernels_without_spills(
    form, model, capability, real, opened, monkeypatch, tmp_path, cuda_on_cpu
):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "of_driver", lambda: real)
    opened(nvrtc.image)
    if model == "defined_bucket":
        definition.make_ready("defined_bucket", bucket(), _driver, "Run", True)
        hs.models.MODELS.pop("defined_bucket")
    else:
        add(model, cuda_on_cpu.models()[model])
    expression, per_step, most_registers = form
    slots = "HS_SLOTS=" + ",".join(["0", *["-1"] * 95])
    macros = [] if per_step is None else ["HS_WIDTH=16", "HS_EACH=0", "HS_RAW=0", f"HS_PER_STEP={per_step}ull", slots]
    name, code = nvrtc.image(model, f"hs::cuda::{expression.format(f'hs::cuda::model_{model}')}", macros, capability)
    (kept,) = tmp_path.glob("*.cubin")
    assert kept.read_bytes() == name.encode() + b"\n" + code and code[:4] == b"\x7fELF"
    monkeypatch.setattr(nvrtc.Nvrtc, "compile", None)
    assert (
        nvrtc.image(model, f"hs::cuda::{expression.format(f'hs::cuda::model_{model}')}", macros, capability)[1] == code
    )
    used = usage(code, tmp_path)
    assert used["STACK"] == used["LOCAL"] == 0 and used["REG"] <= most_registers


def usage(code: bytes, folder: Path) -> dict[str, int]:
    """Registers of a thread, its local memory and so on, by Triton's copy of CUDA's tool."""
    triton = pytest.importorskip("triton", reason="triton, which has cuobjdump, is not installed")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    (folder / "kernel.cubin").write_bytes(code)
    asked = lambda what: subprocess.check_output([tool, what, folder / "kernel.cubin"], text=True)  # noqa: E731
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", asked("-res-usage"))}
    code = asked("-sass")
    found["loads"] = len(re.findall(r"\bLDL\b", code))
    return found | {"arithmetic": len(re.findall(r"\b(?:FADD|FMUL|FFMA|FSEL)\b", code))}


# A run that puts out its outflow alone, the first of the fluxes.
OF_OUTFLOW = ["HS_WIDTH=16", "HS_EACH=0", "HS_RAW=0", "HS_PER_STEP=0ull", "HS_SLOTS=" + ",".join(["0", *["-1"] * 95])]


@pytest.mark.compile
@pytest.mark.parametrize("model", ("hbv11p", "exphydro"))
def test_what_a_generated_model_prepares_apart_leaves_the_loop_in_registers(model, real, opened, monkeypatch, tmp_path):
    """What was prepared is loaded once; the arrays that it was made of stay out of memory."""
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "of_driver", lambda: real)
    opened(nvrtc.image)
    text = header(hs.models.get(model))
    nvrtc.load(text, {"generated_here": hs._cpu.models()["hbv10"]})
    monkeypatch.setitem(nvrtc._HEADERS, "generated_here", text.replace(f"KERNEL({model},", "KERNEL(generated_here,"))
    kernel = "hs::cuda::forward_kernel<hs::cuda::model_generated_here, float, true, false>"
    made_once = int(re.search(r"\bD = (\d+)", text)[1])
    assert usage(nvrtc.image("generated_here", kernel, OF_OUTFLOW, 90)[1], tmp_path)["loads"] <= made_once


@pytest.mark.compile
@pytest.mark.parametrize("name", ("hbv11p", "gr4j"))
def test_an_adjoint_has_no_instructions_for_fluxes_that_are_not_asked_for(name, real, opened, monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "of_driver", lambda: real)
    opened(nvrtc.image)
    model = replace(hs.models.get(name), name=f"{name}_of_outflow", triton=None)
    definition.generate(model)
    definition.make_ready(model.name, model, _driver, "Run", False)
    kernel = f"hs::cuda::adjoint_kernel<hs::cuda::model_{model.name}, float, true, false, false>"
    alone = usage(nvrtc.image(model.name, kernel, OF_OUTFLOW, 90)[1], tmp_path)
    monkeypatch.delitem(nvrtc._OF_OUTPUTS, model.name)
    of_all = usage(nvrtc.image(model.name, kernel, OF_OUTFLOW, 90)[1], tmp_path)
    silent = len(model.fluxes) - 1
    assert alone["arithmetic"] <= of_all["arithmetic"] - silent // 2, (alone, of_all)


@pytest.mark.nightly
@pytest.mark.parametrize("name", hs.models.names())
def test_nvrtc_compiles_every_model(name, real):
    """For any run: what a kernel is not told by macros it reads."""
    model = hs.models.get(name)
    flags = ["--gpu-architecture=sm_90", *nvrtc.FLAGS, f"-I{cache.sources()}"]
    for kernel in ("forward_kernel<{}, float, false, true>", "adjoint_kernel<{}, float, false, true, true>"):
        expression = f"hs::cuda::{kernel.format(f'hs::cuda::model_{model.kernel_name(())}')}"
        assert real.compile(nvrtc.MODEL, header(model), expression, flags)[1][:4] == b"\x7fELF"


@pytest.mark.compile
def test_nvrtc_compiles_networks_inside_a_step(real, networked):  # noqa: F811
    flags = ["--gpu-architecture=sm_90", *nvrtc.FLAGS, f"-I{cache.sources()}"]
    for kernel in ("forward_kernel<{}, float, true, false>", "adjoint_kernel<{}, double, false, false, true>",
                   "tangent_kernel<{}, float>", "least_squares_kernel<{}, float>"):  # fmt: skip
        expression = f"hs::cuda::{kernel.format('hs::cuda::model_networked')}"
        assert real.compile(nvrtc.MODEL, header(networked), expression, flags)[1][:4] == b"\x7fELF"


@pytest.mark.compile
def test_nvrtc_compiles_implicit_steps(real):
    model = hs.models.get("hbv_implicit@backward_euler")
    flags = ["--gpu-architecture=sm_90", *nvrtc.FLAGS, f"-I{cache.sources()}"]
    for kernel in ("forward_kernel<{}, float, true, false>", "adjoint_kernel<{}, double, false, false, true>",
                   "tangent_kernel<{}, float>", "least_squares_kernel<{}, float>"):  # fmt: skip
        expression = f"hs::cuda::{kernel.format(f'hs::cuda::model_{model.kernel_name(())}')}"
        assert real.compile(nvrtc.MODEL, header(model), expression, flags)[1][:4] == b"\x7fELF"


@pytest.mark.compile
@pytest.mark.parametrize("value", ("float", "double"))
def test_nvrtc_compiles_routing_and_sums(value, real, opened, monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "of_driver", lambda: real)
    opened(nvrtc.image)
    kernels = [f"{name}_kernel<{value}>" for name in ("sum_middle", "convolve", "tangent_convolve", "adj_convolve")]
    for scheme, way in itertools.product(("Linear", "Ddr", "Todini"), ("false", "true")):
        kernels.append(f"tick_kernel<hs::cuda::{scheme}, {value}, {way}>")
    for kernel in kernels:
        name, code = nvrtc.image("", f"hs::cuda::{kernel}", [], 90)
        assert kernel.split("<")[0] in name and code[:4] == b"\x7fELF"


def test_what_nvrtc_refuses_is_said_with_the_line_of_the_step(real, opened, monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "of_driver", lambda: real)
    opened(nvrtc.image)
    nvrtc.load("// 7: x = 1\nnonsense;\n", {"wrong": hs._cpu.models()["hbv10"]})
    with pytest.raises(RuntimeError, match=r"^NVRTC .* fails on a kernel \(.*; made of line 7: x = 1\): try another"):
        nvrtc.image("wrong", "f", [], 90)
    with pytest.raises(
        RuntimeError, match=r"compute capability 1\.0, for which NVRTC .* but for \d.*: install a newer"
    ):
        nvrtc.image("wrong", "f", [], 10)
    monkeypatch.setattr(_driver, "sizes", lambda: (1, 2, 3))
    with pytest.raises(RuntimeError, match="rebuild hybridsolve: its launcher is of other headers"):
        nvrtc.image("", "hs::cuda::sum_middle_kernel<float>", [], 90)
