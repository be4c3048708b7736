"""What a step may have beside plain operations, compiled: loops, tables, delay lines of which few slots are used."""

import inspect
import shutil

import pytest
import torch
from conftest import assert_close

import hybridsolve as hs
from hybridsolve.models.primitives import exp, floor, interpolate, minimum, relu, repeat, sqrt
from hybridsolve.routing.convolve import convolve
from hybridsolve.solve.faults import passes_unlimited
from hybridsolve.spec import DelayLine, Forcing, Parameter, State, Variable

pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler is installed"),
]
SLOTS = 7


def shares(k, p):
    """Ordinates that are 0 from the base time on, and all 0 where the share is; both with a derivative there."""
    sums = [0.0] + [p["share"] * minimum(t / p["base"], 1.0) for t in range(1, SLOTS + 1)]
    return [after - before for before, after in zip(sums, sums[1:], strict=False)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path_factory.mktemp("cache")))

    @hs.models.define(
        name="looped",
        forcings=(Forcing("rain", "mm d-1", "rain", 0.0, 1e4),),
        parameters=(
            Parameter("k", "d-1", "share that leaves", 0.01, 0.9),
            Parameter("a", "1", "height of a curve", 0.0, 2.0),
            Parameter("share", "1", "what is delayed", 0.0, 1.0),
            Parameter("base", "d", "base time", 0.5, float(SLOTS)),
        ),
        states=(State("store", "mm", "water", 0.0, 1e30, initial=10.0, wet=100.0),),
        lines=(DelayLine("late", "mm", "water on its way", SLOTS, shares),),
        fluxes=(Variable("flow", "mm d-1", "flow"), Variable("parts", "1", "sub-steps")),
        outflow="flow",
    )
    def step(f, k, p, s):
        water = s["store"] + f["rain"]
        n = floor(1 + 0.2 * water)
        share = p["k"] / n

        def part(now):
            out = share * now["water"] * exp(-now["out"] / (1 + now["water"])) + 0.01 * sqrt(water)
            out = minimum(out, now["water"])
            return dict(water=now["water"] - out, out=now["out"] + out)

        end = repeat(n, 12, part, dict(water=water, out=0.0))
        curve = interpolate([0.1, p["a"], 0.8, 0.7], 0.1 * water)
        late = s["late"] + p["late"] * end["out"]
        return dict(store=end["water"], late=end["out"]), dict(flow=relu(curve * end["out"] + late), parts=n)

    yield step
    hs.models.MODELS.pop("looped")
    patch.undo()


def inputs(T, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64).to(dtype)  # noqa: E731
    B, C = 5, 3
    rain = relu(30 * uniform(T, B) - 20)
    rain[:, 0] = 0  # nothing ever enters, and the first store is empty
    p = dict(k=0.1 + 0.8 * uniform(B, C), a=uniform(B, C), share=0.5 * uniform(B, C), base=1 + 3 * uniform(B, C))
    p["share"][1], p["share"][2, 0] = 0, 0
    p["base"][0], p["base"][3] = 2.0, 3.0
    state = {"store": 40 * uniform(B, C), "late": 3 * uniform(SLOTS - 1, B, C)}
    state["store"][0] = 0
    state["late"][2:, 3:] = 0
    return rain, p, state


def short(T):
    """Lines that hold nothing, and of whose ordinates the first three are used: the fourth is 0 with a derivative."""
    rain, p, state = inputs(T)
    return rain, p | {"base": p["base"].clamp(max=3.0)}, state | {"late": torch.zeros_like(state["late"])}


def outputs(model, backend, T):
    rain, p, state = inputs(T)
    leaves = [x.requires_grad_() for x in (rain, *p.values(), *state.values())]
    run = hs.simulate(model, {"rain": rain}, p, initial_state=state, fluxes=("flow", "parts"), backend=backend)
    found = {**run.fluxes, **{f"end {n}": x for n, x in run.final_state.items()}}
    draw = torch.Generator().manual_seed(2)
    loss = sum((x * torch.rand(x.shape, generator=draw, dtype=x.dtype)).sum() for n, x in found.items() if n != "parts")
    gradients = torch.autograd.grad(loss, leaves)
    names = ("rain", *p, *state)
    return {n: x.detach() for n, x in found.items()} | {f"d_{n}": d for n, d in zip(names, gradients, strict=True)}


IN_TRITON = pytest.param(
    "triton",
    3,
    marks=[pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's interpreter is off here")],
)


@pytest.mark.parametrize("backend, T", [("cpu", 1), ("cpu", 3), ("cpu", 40), IN_TRITON])
def test_values_and_gradients(model, backend, T):
    pytest.importorskip("triton" if backend == "triton" else "torch")
    expected = outputs(model, "reference", T)
    if T > 20:
        assert expected["parts"].max() > 5 and expected["d_share"][1].abs().min() > 0
    assert_close(outputs(model, backend, T), expected, 1e-12)


@pytest.mark.parametrize("given", [inputs, short])
def test_derivatives_forward(model, given):
    rain, p, state = given(30)
    names = ("k", "a", "share", "base")

    def flow(backend):
        def of(*values):
            parameters = dict(zip(names, values, strict=True))
            return hs.simulate(model, {"rain": rain}, parameters, initial_state=state, backend=backend).fluxes["flow"]

        return of

    draw = torch.Generator().manual_seed(3)
    along = tuple(torch.rand(x.shape, generator=draw, dtype=x.dtype) for x in p.values())
    _, tangent = torch.func.jvp(flow("cpu"), tuple(p.values()), along)
    values = [x.clone().requires_grad_() for x in p.values()]
    y = flow("reference")(*values)
    v = torch.ones_like(y, requires_grad=True)
    d = torch.autograd.grad(y, values, v, create_graph=True)
    (expected,) = torch.autograd.grad(sum((x * a).sum() for x, a in zip(d, along, strict=True)), v)
    assert_close({"t": tangent}, {"t": expected.detach()}, 1e-12)


@pytest.mark.parametrize("given", [inputs, short])
def test_the_kernel_of_least_squares(model, given):
    rain, p, state = given(30)
    flow, found = hs.jacobian(model, {"rain": rain}, p, initial_state=state)
    assert flow.shape == (30, 5, 3)
    values = {n: x.clone().requires_grad_() for n, x in p.items()}
    whole = hs.simulate(model, {"rain": rain}, values, initial_state=state, components="each", backend="reference")
    for t in (0, 7, 29):
        expected = torch.autograd.grad(whole.fluxes["flow"][t].sum(), list(values.values()), retain_graph=True)
        assert_close({n: x[t] for n, x in found.items()}, dict(zip(values, expected, strict=True)), 1e-12)


def too_much(model, backend, T=3, of=hs.simulate):
    rain, p, state = inputs(T)
    rain = rain.detach()
    rain[2, 4] = 500.0
    return of(model, {"rain": rain}, p, initial_state=state, backend=backend)


@pytest.mark.parametrize("backend, T", [("reference", 3), ("cpu", 3), ("cpu", 40), IN_TRITON])
def test_too_many_passes_are_a_fault(model, backend, T):
    pytest.importorskip("triton" if backend == "triton" else "torch")
    line = inspect.getsourcelines(model.reference_step)
    line = line[1] + next(i for i, text in enumerate(line[0]) if "repeat(" in text)
    said = rf"loop of model looped may make at most 12 passes \(.*test_loops_and_lines.py:{line}\); found more.*"
    with pytest.raises(ValueError, match=said + "at step 2, basin 4, component 0"):
        too_much(model, backend, T)


def test_too_many_passes_in_the_kernel_of_least_squares(model):
    with pytest.raises(ValueError, match="at most 12 passes .* at step 2, basin 4, component 0"):
        too_much(model, "cpu", 30, of=hs.jacobian)


@pytest.mark.parametrize("backend, T", [("reference", 3), ("cpu", 3), IN_TRITON])
def test_a_search_goes_on_where_there_are_too_many_passes(model, backend, T):
    pytest.importorskip("triton" if backend == "triton" else "torch")
    with passes_unlimited():
        flow = too_much(model, backend, T).fluxes["flow"]
    assert flow[2, 4].isnan() and flow[:2].isfinite().all() and flow[:, :4].isfinite().all()


def test_a_search_goes_on_behind_a_hydrograph():
    q, ordinates = torch.ones(5, 2), torch.full((2, 2), 0.5)
    q[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"q must be finite; found nan at \[2, 1\]"):
        convolve(q, ordinates)
    with passes_unlimited():
        routed = convolve(q, ordinates)
    assert routed[:, 0].isfinite().all() and routed[2, 1].isnan()


def test_a_forcing_out_of_bounds_is_said_first(model):
    rain, p, state = inputs(3)
    rain = rain.detach()
    rain[1, 2] = torch.nan
    with pytest.raises(ValueError, match="forcing 'rain' must lie .* at step 1, basin 2"):
        hs.simulate(model, {"rain": rain}, p, initial_state=state)


@pytest.fixture(scope="module")
def nested(model):
    """A loop in a loop: cells that wait outside are to make too many passes inside, which does not count."""

    @hs.models.define(
        name="nested",
        forcings=(Forcing("rain", "mm d-1", "rain", 0.0, 1e4),),
        parameters=(Parameter("n", "1", "passes of what is made once", 1.0, 9.0),),
        states=(State("store", "mm", "water", 0.0, 1e30, initial=0.0, wet=10.0),),
        fluxes=(Variable("flow", "mm d-1", "flow"),),
        outflow="flow",
    )
    def step(f, k, p, s):
        once = repeat(floor(p["n"]), 6, lambda now: dict(x=0.9 * now["x"]), dict(x=1 + 0 * p["n"]))

        passes, zero = 1 + minimum(f["rain"], 3.0), 0 * f["rain"]

        def outer(now):
            made = now["made"] + 1
            n = minimum(made, 3.0) + 4 * relu(made - passes) + relu(f["rain"] - 100)
            inner = repeat(n, 4, lambda x: dict(y=x["y"] + 0.1), dict(y=zero))
            return dict(made=made, y=now["y"] + inner["y"])

        end = repeat(passes, 4, outer, dict(made=zero, y=zero))
        return dict(store=s["store"] + f["rain"] - end["y"] * once["x"]), dict(flow=end["y"] * once["x"])

    yield step
    hs.models.MODELS.pop("nested")


@pytest.mark.parametrize("backend", ["reference", "cpu", IN_TRITON.values[0]])
def test_passes_of_a_loop_in_a_loop(nested, backend):
    pytest.importorskip("triton" if backend == "triton" else "torch")

    def run(rain, n):
        rain = torch.tensor(rain, dtype=torch.float64)
        n = torch.tensor([[n]], dtype=torch.float64)
        return hs.simulate(nested, {"rain": rain}, {"n": n}, backend=backend).fluxes["flow"]

    # While the second basin makes its third pass, the first, which has made its only one, would make six inside.
    assert run([[0.0, 2.0], [0.0, 2.0]], 5.0).isfinite().all()
    with pytest.raises(ValueError, match="at most 4 passes .* at step 1, basin 1"):
        run([[0.0, 2.0], [1.0, 110.0]], 5.0)
    with pytest.raises(ValueError, match="at most 6 passes .* at step 0, basin 0"):
        run([[0.0, 2.0], [1.0, 1.0]], 7.0)
