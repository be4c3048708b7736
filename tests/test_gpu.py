"""The GPU's kernels against the oracle. Where there is no GPU a few cells run on the CPU: Triton's in its interpreter,
CUDA's compiled as plain C++ (tests/cuda_on_cpu)."""

import itertools
import re

import pytest
import torch
from conftest import (
    ONE_EACH,
    OUTFLOW,
    VARIANTS,
    assert_close,
    assert_same_bits,
    both_precisions,
    cotangents,
    empty,
    every_variant,
    gradients,
    margins,
    needs_card,
    needs_kernel_of,
    normal,
    random_inputs,
    run_both_ways,
    said,
    ties,
    uniform,
)

import hybridsolve as hs
from hybridsolve.routing.unit_hydrograph import reference_unit_hydrograph
from hybridsolve.solve import backends, ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN = float("nan")
OPTIONS = [{}, OUTFLOW, {"components": "each"}]
# The driver is one for all models; in an interpreter it is tested on the smallest.
DRIVEN = ONE_EACH if DEVICE == "cuda" else ONE_EACH[-1:]
one_for_the_driver = pytest.mark.parametrize("variant", DRIVEN)
# Every model goes through some tests in the interpreter, the smallest through all that depends on the driver alone.
long = pytest.mark.long_in_interpreter
DRIVER_FIRST = [pytest.param(*v.values, id=v.id, marks=() if v in DRIVEN else long) for v in VARIANTS]
driver_first = pytest.mark.parametrize("variant", DRIVER_FIRST)
WAYS = dict(zip(("mean", "outflow", "each"), OPTIONS, strict=True))


def every_way(*short):
    """Of which the interpreter meets these every day, all others at night."""
    ways = [pytest.param(options, id=name, marks=() if name in short else long) for name, options in WAYS.items()]
    return pytest.mark.parametrize("options", ways)


GRADIENTS = [
    pytest.param(*v.values, options, moving, id=f"{moving}-{name}-{v.id}",
                 marks=() if v in DRIVEN or (moving, name) == ("some", "mean") else long)
    for moving, (name, options), v in itertools.product(("none", "some", "all"), WAYS.items(), VARIANTS)
]  # fmt: skip


@pytest.fixture(params=("triton", "cuda"))
def gpu(request, monkeypatch):
    """The backend's name, made to serve the device at hand."""
    name = request.param
    if name == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
        needs_kernel_of(request, backends._engine("triton").kernels(), "Triton")
    elif DEVICE == "cuda":
        needs_card(request)
    else:
        module = request.getfixturevalue("cuda_on_cpu")
        needs_kernel_of(request, module.models(), "CUDA")
        extension = hs.solve.compiled.extension
        monkeypatch.setattr(
            hs.solve.compiled, "extension", lambda backend: module if backend == "cuda" else extension(backend)
        )
        monkeypatch.setattr(hs.solve.compiled.Cuda, "_where", lambda x: dict(device=0, stream=0))
        monkeypatch.setitem(hs.solve.backends.DEVICE, "cuda", "cpu")
        yield from margins(name, monkeypatch)
        return
    yield name


def on_device(x):
    return x.to(DEVICE)


def run_on(gpu, x, d_outputs=None, **options):
    if d_outputs is not None:
        d_outputs = {n: d.to(DEVICE) for n, d in d_outputs.items()}
    found = run_both_ways(on_device(x), d_outputs, backend=gpu, **options)
    return {n: v.cpu() for n, v in found.items()}


def assert_matches(gpu, x, **options):
    d_outputs = cotangents(x.outputs(backend="reference", **options))
    assert_close(
        run_on(gpu, x, d_outputs, **options), run_both_ways(x, d_outputs, backend="reference", **options), 1e-10
    )


@pytest.mark.parametrize("variant, options, per_step", GRADIENTS)
def test_all_gradients_match_the_reference(gpu, variant, options, per_step):
    moving = {"none": (), "some": variant[1][::3], "all": variant[1]}[per_step]
    x = random_inputs(variant, T=7, B=3, C=3, per_step=moving, weights=per_step == "some" and not options)
    assert_matches(gpu, x, **options)


@driver_first
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 2), (4, 37, 1), (3, 2, 17), (3, 2, 33), (2, 1, 70)], ids=str)
def test_small_and_odd_sizes(gpu, variant, shape):
    assert_matches(gpu, random_inputs(variant, *shape, per_step=variant[1][:1]))


@every_variant
@every_way("mean")
def test_exact_ties(gpu, variant, options):
    assert_matches(gpu, ties(variant, T=9, B=3, C=2), **options)


@every_variant
def test_empty_stores_and_no_water(gpu, variant):
    x = random_inputs(variant, T=6, B=3, C=2)
    assert_matches(gpu, empty(x).without_water(slice(0, 3)))


@every_variant
@pytest.mark.parametrize("moving", (pytest.param(False, id="static", marks=long), pytest.param(True, id="per-step")))
def test_raw_parameters(gpu, variant, moving):
    x = random_inputs(variant, T=5, B=3, C=2, per_step=variant[1][::2] if moving else ())
    x.parameters = {n: 2 * normal(*p.shape, seed=i) for i, (n, p) in enumerate(x.parameters.items())}
    assert_matches(gpu, x, raw=True)


@driver_first
@pytest.mark.parametrize("shape", [(1, 3, 2), (5, 1, 2), (5, 3, 1), (1, 1, 1)], ids=str)
def test_shared_axes(gpu, variant, shape):
    x = random_inputs(variant, T=5, B=3, C=2, per_step=variant[1], weights=True)
    cut = tuple(slice(0, 1) if s == 1 else slice(None) for s in shape)
    per_step = ("forcing", "parameters")  # a state's first axis are the slots of a delay line
    x = x.map(lambda n, v: v[cut[: v.dim()]] if n.startswith(per_step) and len(v) == 5 else v[(..., *cut[1:])])
    name = x.model.forcing_names[0]
    x.forcing[name] = x.forcing[name].expand(5, 3) + torch.arange(15).view(5, 3)
    name = variant[1][3]
    x.parameters[name] = x.parameters[name].expand(1 if shape[0] == 1 else 5, shape[1], 2)
    assert_matches(gpu, x)


@one_for_the_driver
@every_way("mean", "each")
@pytest.mark.parametrize("dtype", (torch.float32, pytest.param(torch.float64, marks=long)), ids=str)
def test_bits_for_intervals_chunks_and_windows(gpu, variant, options, dtype):
    x = random_inputs(variant, T=7, B=5, C=3, dtype=dtype, per_step=variant[1][:1])
    d_outputs = cotangents(x.outputs(**options))
    whole = run_on(gpu, x, d_outputs, **options)
    for interval in (1, 3, 7):
        assert_same_bits(run_on(gpu, x, d_outputs, checkpoint_interval=interval, **options), whole)
    series = [n for n in whole if n in x.model.output_names]
    parts = [run_on(gpu, x.basins(cut), **options) for cut in (slice(0, 2), slice(2, 5))]
    assert_same_bits({n: torch.cat([p[n] for p in parts], 1) for n in series}, {n: whole[n] for n in series})
    first = on_device(x.steps(slice(0, 4))).simulate(backend=gpu, **options)
    second = on_device(x.steps(slice(4, 7)))
    second.initial_state = first.final_state
    joined = {n: v.cpu() for n, v in second.simulate(backend=gpu, **options).fluxes.items()}
    assert_same_bits(joined, {n: whole[n][4:] for n in joined})


@every_variant
def test_single_precision_is_near_double(gpu, variant):
    x = random_inputs(variant, T=7, B=3, C=2, dtype=torch.float32, weights=True)
    d_outputs = cotangents(x.outputs())
    double = run_both_ways(x.to(torch.float64), {n: d.double() for n, d in d_outputs.items()}, backend="reference")
    found = run_on(gpu, x, d_outputs)
    assert {v.dtype for v in found.values()} == {torch.float32}
    assert_close({n: v.double() for n, v in found.items()}, double, 1e-4)


@pytest.mark.parametrize("T, N", [(1, 1), (9, 3), (40, 35), (65, 2)])
def test_unit_hydrograph(gpu, T, N):
    values = [
        9 * uniform(T, N),
        2.9 * uniform(N, seed=1) - 0.2,
        6 * uniform(N, seed=2) - 0.2,
        9 * uniform(14, N, seed=3),
    ]
    d_out = normal(T, N)

    def both_ways(function, device):
        leaves = [v.to(device).requires_grad_() for v in values]
        out = function(*leaves)
        gradients = torch.autograd.grad(out, leaves, d_out.to(device))
        return {n: v.detach().cpu() for n, v in zip(("out", *"qabm"), (out, *gradients), strict=True)}

    found = both_ways(lambda q, a, b, m: hs.unit_hydrograph(q, a, b, m, backend=gpu), DEVICE)
    assert_close(found, both_ways(reference_unit_hydrograph, "cpu"), 1e-10)


def test_a_nan_of_the_unit_hydrograph_stays_a_nan(gpu):
    values = {"q": 9 * uniform(20, 3), "ordinates": uniform(15, 3), "memory": uniform(14, 3)}
    for name in values:
        x = {n: v.clone().to(DEVICE) for n, v in values.items()}
        x[name].view(-1)[-1] = NAN
        # The operator: on the CPU `convolve` looks at the values.
        (out,) = ops.convolve(gpu, list(x.values()), [20, 3, 15])
        assert out[:, -1].isnan().any() and out[:, :-1].isfinite().all()


@one_for_the_driver
def test_of_two_bad_runs_each_is_said(gpu, variant, monkeypatch):
    """A fault that is raised hides no other, and one met in inference mode is raised outside of it too."""
    good, runs = on_device(random_inputs(variant, T=4, B=2, C=2)), []
    first, second = good.model.forcing_names[:2]
    with monkeypatch.context() as quiet:
        quiet.setattr(hs.solve.faults, "raise_pending", lambda wait=False: None)
        for name in (first, second):
            forcing = good.tensors()[f"forcing {name}"].clone()
            forcing[1, 1] = -500
            runs.append(good.with_tensors({f"forcing {name}": forcing}))
            with torch.inference_mode(name == first):
                runs[-1].simulate(backend=gpu)
    for name in (first, second):
        with pytest.raises(ValueError, match=f"forcing '{name}' must lie in .* found -500 at step 1, basin 1"):
            hs.synchronize()
    good.simulate(backend=gpu)
    hs.synchronize()


BAD = [
    ("forcing {f0}", (3, 2), NAN, r"forcing '{f0}' must lie in .*; found nan at step 3, basin 2: fill"),
    ("forcing {f1}", (4, 0), 3000.0, r"forcing '{f1}' must lie in .*; found 3000 at step 4, basin 0: fill"),
    ("parameters {p1}", (1, 1), 5000.0, r"parameter '{p1}' must lie in .*; found 5000 at basin 1, component 1: clip"),
    ("parameters {p0}", (2, 1, 0), NAN, r"parameter '{p0}' must .*; found nan at step 2, basin 1, component 0: clip"),
    (
        "initial_state {s1}",
        (2, 1),
        -100.0,
        r"initial_state '{s1}' must be .*; found another value at basin 2, component 1",
    ),
    ("weights", (2, 1), NAN, r"weights must be finite; found nan at basin 2, component 1"),
]


@one_for_the_driver
@pytest.mark.parametrize("name, place, value, match", BAD, ids=[b[0] for b in BAD])
def test_bad_values_are_named_at_the_next_synchronisation(gpu, variant, name, place, value, match):
    x, name = random_inputs(variant, T=6, B=3, C=2, weights=True, per_step=variant[1][:1]), said(name, variant[0])
    tensor = x.tensors()[name].clone()
    tensor[place] = value
    bad = on_device(x.with_tensors({name: tensor}))  # kept until it is asked what was wrong with it
    with pytest.raises(ValueError, match=said(match, variant[0])):
        bad.simulate(backend=gpu)
        hs.synchronize()
    on_device(x).simulate(backend=gpu)  # and then it is over
    hs.synchronize()


@one_for_the_driver
def test_a_bad_value_leaves_no_number_behind(gpu, variant, monkeypatch):
    """From the step on at which it is met, in its basin alone."""
    x = random_inputs(variant, T=6, B=3, C=2)
    good = {n: v.cpu() for n, v in on_device(x).outputs(backend=gpu).items()}
    x.forcing[x.model.forcing_names[1]][3, 1] = -500
    monkeypatch.setattr(hs.solve.faults.Watch, "fault", lambda watch: None)
    bad = {n: v.cpu() for n, v in on_device(x).outputs(backend=gpu).items()}
    hs.synchronize()
    for name, v in good.items():
        where = torch.zeros_like(v, dtype=torch.bool)
        where[(slice(3, None), 1) if name in x.model.output_names else (..., 1, slice(None))] = True
        assert bad[name][where].isnan().all()
        assert torch.equal(bad[name][~where], v[~where])


@one_for_the_driver
def test_a_bad_value_is_said_though_its_tensor_is_gone(gpu, variant, monkeypatch):
    """A GPU's run may be over long after its inputs are."""
    x = on_device(random_inputs(variant, T=6, B=3, C=2))
    name, other, model = *x.model.forcing_names[1::-1], x.model.name
    watches = []
    monkeypatch.setattr(hs.solve.faults, "raise_pending", lambda wait=False: watches.extend(hs.solve.faults._pending))
    x.forcing[name][5, 0] = x.forcing[name][3, 1] = x.forcing[other][3, 2] = -200
    x.simulate(backend=gpu)
    watch = watches[-1]
    hs.solve.faults._pending.clear()
    del x
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    assert re.match(f"a forcing of an earlier run of {model} was out of bounds at step 3, basin 1, comp", watch.fault())
    assert watch.fault() is None


@one_for_the_driver
def test_through_the_doors_of_torch(gpu, variant):
    """torch.compile, torch.func and vmap lead to the same kernels."""
    x = on_device(random_inputs(variant, T=4, B=2, C=2))

    name, fluxes = x.example.parameter, (x.model.outflow, x.model.state_names[-1])

    def loss(p):
        run = x.with_tensors({f"parameters {name}": p}).simulate(backend=gpu, fluxes=fluxes)
        return sum(v.square().sum() for v in run.fluxes.values())

    p = x.parameters[name]
    leaf = p.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(leaf), leaf)
    batched = torch.vmap(torch.func.grad(loss))(torch.stack([p, p.roll(1)]))
    for g in (
        found,
        torch.func.grad(loss)(p),
        torch.compile(torch.func.grad(loss), backend="aot_eager")(p),
        batched[0],
    ):
        torch.testing.assert_close(g, expected, rtol=1e-13, atol=0)


@one_for_the_driver
def test_gradients_do_not_depend_on_which_are_wanted(gpu, variant):
    x = random_inputs(variant, T=5, B=3, C=2, per_step=variant[1][:1], weights=True)
    leaves = {n: v.detach().requires_grad_() for n, v in on_device(x).tensors().items()}
    outputs = on_device(x).with_tensors(leaves).outputs(backend=gpu)
    everything = gradients(outputs, leaves)
    first, second, *_ = (f"parameters {n}" for n in variant[1])
    forcing, state = (f"forcing {x.model.forcing_names[-1]}", f"initial_state {x.model.state_names[0]}")
    for wanted in ([forcing], [first, second], ["weights"], [state]):
        some = {n: v.detach().requires_grad_(n in wanted) for n, v in leaves.items()}
        found = gradients(on_device(x).with_tensors(some).outputs(backend=gpu), {n: some[n] for n in wanted})
        assert_same_bits(found, {n: everything[n] for n in found})


@pytest.mark.parametrize("gpu", ["cuda"], indirect=True)
@one_for_the_driver
@both_precisions
@pytest.mark.parametrize("per_step", (False, True))
def test_the_place_of_the_tape_changes_no_bit(gpu, variant, dtype, per_step):
    """A short segment's states lie on the chip, a long one's in global memory."""
    x = random_inputs(variant, T=50, B=7, C=3, dtype=dtype, per_step=variant[1][:2] if per_step else ())
    d_outputs = cotangents(x.outputs())
    whole = run_on(gpu, x, d_outputs, checkpoint_interval=1)
    for interval in (7, 49, 50):
        assert_same_bits(run_on(gpu, x, d_outputs, checkpoint_interval=interval), whole)


@pytest.mark.parametrize("gpu", ["cuda"], indirect=True)
@one_for_the_driver
def test_more_blocks_than_tapes(gpu, variant):
    x = random_inputs(variant, T=21, B=32 * 4097 - 5, C=1)
    only = [f"parameters {x.example.parameter}"]
    on_chip, in_memory = (
        run_both_ways(on_device(x), only=only, fluxes=None, checkpoint_interval=k, backend=gpu) for k in (5, 21)
    )
    assert_same_bits(in_memory, on_chip)


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU here: CUDA graphs need one")
@one_for_the_driver
def test_inside_a_cuda_graph(gpu, variant):
    x = on_device(random_inputs(variant, T=20, B=9, C=4, dtype=torch.float32))
    leaves = {n: v.requires_grad_() for n, v in x.tensors().items() if n.startswith("parameters")}

    def work():
        flow = x.with_tensors(leaves).simulate(backend=gpu).fluxes[x.model.outflow]
        return flow.detach(), *torch.autograd.grad(flow.square().sum(), list(leaves.values()))

    work()  # compiles, loads and allocates what a capture forbids
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    with torch.no_grad():
        for p in leaves.values():
            p.copy_(0.9 * p + 0.1 * p.flip(0))  # stays within the bounds
    expected = work()
    graph.replay()
    torch.cuda.synchronize()
    for found, wanted in zip(captured, expected, strict=True):
        assert torch.equal(found, wanted)
