"""Nothing wrong is taken in silence: one sentence names the argument, the expected, the found, the remedy."""

import dataclasses
import re
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_same_bits, both_precisions, every_variant, one_of_each, random_inputs, said

import hybridsolve as hs

pytestmark = pytest.mark.oracle
T, B, C = 7, 5, 3
NAN, INF = float("nan"), float("inf")


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and not re.search(r"[.!?]\s+[A-Z]", message)


def refused(match, x, error=ValueError, **options):
    """The run fails, with a message of one sentence that matches."""
    with pytest.raises(error) as caught:
        x.simulate(**options)
    assert one_sentence(str(caught.value)), caught.value
    match = said(match, x.model) if isinstance(x.model, hs.models.ModelSpec) else match
    assert re.search(match, str(caught.value)), caught.value


def put(x, name, place, value):
    """The inputs with one entry of one tensor replaced."""
    tensor = x.tensors()[name].clone()
    tensor[place] = value
    return x.with_tensors({name: tensor})


# name of the input, what becomes of it, what is said
MISFITS = {
    "forcing of three axes": (
        "forcing {f0}",
        lambda v: v[None],
        r"forcing '{f0}' must be \[T, B\]; found shape \[1, 7, 5\]",
    ),
    "forcing of one axis": (
        "forcing {f1}",
        lambda v: v[:, 0],
        r"forcing '{f1}' must be \[T, B\]; found shape \[7\]: reshape",
    ),
    "parameter of one axis": (
        "parameters {p1}",
        lambda v: v[0],
        r"parameter '{p1}' must be \[B, C\] or \[T, B, C\]; found shape \[3\]: reshape",
    ),
    "state of three axes": (
        "initial_state {s0}",
        lambda v: v[None],
        r"initial_state '{s0}' must be \[B, C\]; found shape \[1, 5, 3\]",
    ),
    "weights of one axis": ("weights", lambda v: v[0], r"weights must be \[B, C\]; found shape \[3\]"),
    "steps": (
        "forcing {f1}",
        lambda v: v[:4],
        r"forcing '{f1}' has T = 4, but forcing '{f0}' has 7; expected the same, or 1",
    ),
    "basins": (
        "parameters {p2}",
        lambda v: v[:2],
        r"parameter '{p2}' has B = 2, but forcing '{f0}' has 5; expected the same",
    ),
    "components": (
        "weights",
        lambda v: v[:, :2],
        r"weights has C = 2, but parameter '{p0}' has 3; expected the same, or 1",
    ),
    "per-step parameter": (
        "parameters {p0}",
        lambda v: v.expand(6, B, C),
        r"parameter '{p0}' has T = 6, but forcing '{f0}' has 7",
    ),
    "no steps": (
        "forcing {f1}",
        lambda v: v[:0],
        r"forcing '{f1}' is empty: axis T has size 0 in \[0, 5\]; expected at least one",
    ),
    "no basins": ("parameters {p3}", lambda v: v[:0], r"parameter '{p3}' is empty: axis B has size 0"),
    "no components": (
        "initial_state {s1}",
        lambda v: v[:, :0],
        r"initial_state '{s1}' is empty: axis C has size 0",
    ),
    "mixed precision": (
        "parameters {p3}",
        lambda v: v.float(),
        r"parameter '{p3}' must be torch.float64 as forcing '{f0}' is; found torch.float32: convert",
    ),
    "mixed precision of weights": (
        "weights",
        lambda v: v.float(),
        r"weights must be torch.float64 .*; found torch.float32",
    ),
    "integers": (
        "forcing {f0}",
        lambda v: v.int(),
        r"forcing '{f0}' must be float32 or float64; found torch.int32: convert",
    ),
    "half precision": (
        "forcing {f0}",
        lambda v: v.half(),
        r"forcing '{f0}' must be float32 or float64; found torch.float16",
    ),
    "integer state": (
        "initial_state {s1}",
        lambda v: v.long(),
        r"initial_state '{s1}' must be torch.float64 .*found torch.int64",
    ),
    "another device": (
        "parameters {p1}",
        lambda v: v.to("meta"),
        r"parameter '{p1}' must be on cpu as forcing '{f0}' is; found meta: move it",
    ),
    "numpy forcing": (
        "forcing {f0}",
        lambda v: v.numpy(),
        r"forcing '{f0}' must be a torch tensor; found ndarray: convert",
    ),
    "a number": (
        "parameters {p2}",
        lambda v: 0.5,
        r"parameters '{p2}' must be a torch tensor; found float: convert",
    ),
    "numpy state": (
        "initial_state {s0}",
        lambda v: v.numpy(),
        r"initial_state '{s0}' must be a torch tensor; found ndarray",
    ),
    "sparse": (
        "forcing {f1}",
        lambda v: v.to_sparse(),
        r"forcing '{f1}' must be dense; found torch.sparse_coo: convert it with .to_dense\(\)",
    ),
    "xarray": (
        "forcing {f1}",
        lambda v: xr.DataArray(v.numpy()),
        r"must be a torch tensor; found DataArray: convert it with torch.as_tensor\(x.values\)",
    ),
    "numpy weights": ("weights", lambda v: v.numpy(), r"weights must be a torch tensor; found ndarray"),
}


@pytest.mark.parametrize("name, change, match", MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize("backend", ("auto", "reference"))
@one_of_each
def test_shapes_types_and_devices(variant, name, change, match, backend):
    x, name = random_inputs(variant, T, B, C, weights=True), said(name, variant[0])
    refused(match, x.with_tensors({name: change(x.tensors()[name])}), backend=backend)


@pytest.mark.parametrize("kind", ("forcing", "parameters", "inputs"))
@one_of_each
def test_missing_names(variant, kind):
    for name in getattr(random_inputs(variant, T, B, C), kind):
        x = random_inputs(variant, T, B, C)
        del getattr(x, kind)[name]
        if kind == "parameters" and x.model.variable(name).default is not None:
            continue
        refused(rf"{kind} lacks '{name}'; expected it beside .*: add it", x)


@pytest.mark.parametrize("kind", ("parameters", "initial_state", "inputs"))
@one_of_each
def test_unknown_names(variant, kind):
    x = random_inputs(variant, T, B, C)
    getattr(x, kind)["fieldcap"] = x.initial_state[x.model.state_names[0]]
    refused(rf"{kind} has 'fieldcap', which {{model}} does not take; expected .*: remove or rename it", x)


@one_of_each
def test_nothing_at_all(variant):
    for kind in ("forcing", "parameters"):
        x = random_inputs(variant, T, B, C)
        setattr(x, kind, {})
        refused(f"{kind} lacks '.*'; expected it beside nothing: add it", x)


OPTIONS = [
    (dict(fluxes=["runoff"]), r"model {model} has no flux 'runoff'; expected any of {q0}, {q1}"),
    (dict(fluxes=[]), r"fluxes is empty; expected at least one of {q0}"),
    (dict(fluxes=["{s0}", "{q0}", "{s0}"]), r"fluxes names a series twice: {s0}, {q0}, {s0}; name each once"),
    (dict(components="all"), r"components must be 'mean' or 'each'; found 'all'"),
    (dict(backend="metal"), r"unknown backend 'metal'; expected auto, cpu, triton, cuda or reference"),
    (dict(checkpoint_interval=0), r"checkpoint_interval must be a whole number, 1 or more; found 0"),
    (dict(checkpoint_interval=-3), r"checkpoint_interval .* found -3"),
    (dict(checkpoint_interval=2.0), r"checkpoint_interval .* found 2.0"),
    (dict(checkpoint_interval=True), r"checkpoint_interval .* found True"),
    (dict(fluxes=5), r"fluxes must be names of series; found int"),
    (dict(raw=1), r"raw must be True or False; found 1"),
]


@pytest.mark.parametrize("options, match", OPTIONS, ids=lambda v: str(v)[:30])
@one_of_each
def test_options(variant, options, match):
    if isinstance(options.get("fluxes"), list):
        options = {"fluxes": [said(name, variant[0]) for name in options["fluxes"]]}
    refused(match, random_inputs(variant, T, B, C), **options)


@pytest.mark.parametrize("kind", ("forcing", "parameters", "initial_state", "inputs"))
@pytest.mark.parametrize("value", (5, [1, 2], torch.ones(3)), ids=lambda v: type(v).__name__)
@one_of_each
def test_what_maps_no_names(variant, kind, value):
    x = random_inputs(variant, T, B, C)
    setattr(x, kind, value)
    refused(rf"{kind} must map names to tensors; found {type(value).__name__}: pass a dict", x)


@one_of_each
def test_a_run_in_place_of_its_final_state(variant):
    x = random_inputs(variant, T, B, C)
    x.initial_state = x.simulate()
    refused("initial_state must map names to tensors; found a Run: pass its final_state", x)


@one_of_each
def test_numpy_whole_numbers_are_whole_numbers(variant):
    random_inputs(variant, T, B, C).simulate(checkpoint_interval=np.int64(3))


@pytest.mark.parametrize("name", ("forcing {f0}", "parameters {p1}", "initial_state {s0}", "forcing {f1}"))
@one_of_each
def test_the_reference_looks_at_values_too(variant, name):
    name = said(name, variant[0])
    x = put(random_inputs(variant, T, B, C), name, (1, 1), -7e6)
    refused(f"{name.split()[1]}' must .* found -7e\\+06 at", x, backend="reference")


@one_of_each
def test_a_model_that_nobody_has_registered(variant):
    x = random_inputs(variant, T, B, C)
    expected = x.simulate(backend="reference")
    x.model = 5
    refused(f"unknown model 5; expected one of .*{variant[0].name}.*, a ModelSpec, or a Python file", x, backend="cpu")
    x.model = dataclasses.replace(variant[0], name="mine")
    assert hs.solve.backends.choose("cpu", torch.device("cpu"), hs.models.get(x.model).kernel_name(variant[1])) == "cpu"
    with pytest.raises(RuntimeError, match="backend 'cpu' has no kernel 'nobodys', only .*; rebuild"):
        hs.solve.backends.choose("cpu", torch.device("cpu"), "nobodys")
    assert "mine" not in hs.models.names()
    assert_same_bits(x.simulate(backend="reference").fluxes, expected.fluxes)


def test_unit_hydrograph_of_what_is_no_tensor():
    q, a = torch.rand(5, 3), torch.rand(3)
    for given, match in (
        ((q.numpy(), a, a), r"q must be a torch tensor; found ndarray: convert it with torch.as_tensor\(x\)"),
        ((q, 2.0, a), "a must be a torch tensor; found float"),
        ((q, a, a.to_sparse()), r"b must be dense; found torch.sparse_coo: convert it with .to_dense\(\)"),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            hs.unit_hydrograph(*given)
        assert one_sentence(str(caught.value))


@one_of_each
def test_weights_with_each_component(variant):
    refused(
        r"weights apply to the sum over components; with components='each' leave them out",
        random_inputs(variant, T, B, C, weights=True),
        components="each",
    )


@one_of_each
def test_unknown_model(variant):
    x = random_inputs(variant, T, B, C)
    x.model = "hbv12"
    refused(rf"unknown model 'hbv12'; expected one of .*{variant[0].name}", x, backend="cpu")
    with pytest.raises(ValueError, match=f"has no parameter 'feild_capacity'; expected any of .*{variant[1][1]}"):
        variant[0].parameters_from_unit({"feild_capacity": torch.rand(2, 2)})


@one_of_each
def test_tensors_of_another_device(variant):
    refused(
        r"runs on CPU or CUDA tensors; found tensors on meta: make them there, or move them with .to\(\)",
        random_inputs(variant, T, B, C).to("meta"),
        backend="auto",
    )


@one_of_each
def test_a_missing_build_is_said(variant, monkeypatch):
    x = random_inputs(variant, T, B, C)
    hs.solve.compiled.extension.cache_clear()
    for name in ("_cpu", "_cuda", "_driver"):
        monkeypatch.setitem(sys.modules, f"hybridsolve.{name}", None)
    monkeypatch.setitem(sys.modules, "hybridsolve.solve.triton", None)
    needs = "backend '{}' needs the compiled extension hybridsolve.{}, which cannot be imported .*; reinstall .*{}"
    refused(needs.format("cpu", "_cpu", r"C\+\+17 compiler present"), x, RuntimeError, backend="auto")
    refused(needs.format("cuda", "_driver", "another backend"), x, RuntimeError, backend="cuda")
    refused(r"backend 'triton' needs the package triton, .*; pip install triton", x, RuntimeError, backend="triton")
    assert x.simulate(backend="reference").fluxes[x.model.outflow].isfinite().all()


@every_variant
@both_precisions
@pytest.mark.parametrize("place", [(0, 0), (3, 2), (T - 1, 40)], ids=str)
def test_forcing_values_name_step_and_basin(variant, dtype, place):
    x = random_inputs(variant, T, 41, C, dtype=dtype)
    t, b = place
    for v in x.model.forcings:
        for bad in (NAN, INF, -INF, v.lower - 0.5, v.upper + 130):
            refused(
                rf"forcing '{v.name}' must lie in \[.*\] .*; found {bad:g} at step {t}, basin {b}: fill",
                put(x, f"forcing {v.name}", place, bad),
            )


@every_variant
@both_precisions
def test_parameter_values_name_their_place(variant, dtype):
    x = random_inputs(variant, T, 41, C, dtype=dtype, per_step=variant[1][::2])
    for name, p in x.parameters.items():
        row = x.model.variable(name)
        step = (5,) if p.dim() == 3 else ()
        where = ("step 5, " if step else "") + "basin 33, component 2"
        for bad in (NAN, INF, -INF, row.upper + 0.01, row.lower - 0.01):
            refused(
                rf"'{name}' must lie in \[{row.lower:g}, {row.upper:g}\] .*; found {bad:g} at {where}: clip",
                put(x, f"parameters {name}", (*step, 33, 2), bad),
            )


@every_variant
@both_precisions
def test_bounds_allow_one_unit_in_the_last_place(variant, dtype):
    kind = np.float32 if dtype == torch.float32 else np.float64
    for name in variant[1]:
        row = variant[0].variable(name)
        for bound, away in ((row.lower, -np.inf), (row.upper, np.inf)):
            once = np.nextafter(kind(bound), kind(away))
            twice = np.nextafter(once, kind(away)) if bound else np.copysign(1e-30, away)  # not a denormal
            x = put(random_inputs(variant, T, B, C, dtype=dtype), f"parameters {name}", (1, 1), float(once))
            x.simulate()
            refused(f"parameter '{name}' must lie in", put(x, f"parameters {name}", (1, 1), float(twice)))


@every_variant
@both_precisions
def test_state_and_weights_values_name_their_place(variant, dtype):
    x = random_inputs(variant, T, 41, C, dtype=dtype, weights=True)
    for v in x.model.states:
        for bad in (NAN, INF, v.lower - 0.001, *([v.upper + 1] if v.upper < 1e30 else [])):
            refused(
                rf"initial_state '{v.name}' must be .*{v.lower:g}.* {v.unit}.*; found {bad:g} at basin 33, component 2",
                put(x, f"initial_state {v.name}", (33, 2), bad),
            )
    for bad in (NAN, INF, -INF):
        refused(
            rf"weights must be finite; found {bad:g} at basin 33, component 2",
            put(x, "weights", (33, 2), bad),
        )
    put(x, "weights", (33, 2), -1.0).simulate()  # any finite weight is allowed


@every_variant
@pytest.mark.parametrize("shape", [(1, B), (T, 1), (1, 1)], ids=str)
def test_a_bad_value_in_a_shared_tensor(variant, shape):
    x = random_inputs(variant, T, B, C)
    x.forcing[x.model.forcing_names[0]] = torch.full(shape, NAN, dtype=torch.float64)
    refused(r"forcing '{f0}' .* found nan at step 0, basin 0", x)


@pytest.mark.compile
@pytest.mark.oracle(False)
@one_of_each
def test_bad_values_are_said_under_compile_and_without_gradient(variant):
    name = variant[0].forcing_names[-1]
    x = put(random_inputs(variant, T, B, C), f"forcing {name}", (2, 3), NAN)
    with torch.no_grad():
        refused(f"forcing '{name}' .* found nan at step 2, basin 3", x)
    with pytest.raises(ValueError, match=f"forcing '{name}' .* found nan at step 2, basin 3"):
        torch.compile(lambda t: x.with_tensors(t).outputs(), backend="aot_eager")(x.tensors())


@every_variant
def test_the_last_basin_of_many_and_the_last_component_are_looked_at(variant):
    for b, c in ((0, 0), (16, 0), (130, 16)):
        x = random_inputs(variant, 2, 131, 17)
        name, store = variant[1][1], x.model.state_names[-1]
        refused(rf"parameter '{name}' .* basin {b}, component {c}", put(x, f"parameters {name}", (b, c), NAN))
        refused(
            rf"initial_state '{store}' .* basin {b}, component {c}", put(x, f"initial_state {store}", (b, c), -70.0)
        )


@one_of_each
def test_a_backend_does_not_run_on_tensors_of_another_device(variant, monkeypatch):
    monkeypatch.setattr(hs.solve.backends.compiled, "extension", lambda backend: None)
    refused(
        r"backend 'cuda' runs on cuda tensors; found tensors on cpu: move them with .to\(\), or ask for backend='cpu'",
        random_inputs(variant, T, B, C),
        backend="cuda",
    )


@pytest.mark.oracle(False)
@one_of_each
def test_memory_that_is_not_there(variant, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(hs.solve.compiled.Cpu, "forward", full)
    refused(
        r"a run of 7 steps x 5 basins x 3 components does not fit .*: .* hybridsolve.scale.simulate\(\)",
        random_inputs(variant, T, B, C),
        torch.OutOfMemoryError,
    )
