"""A model as an object: nobody registered it, it takes another's name, its table says defaults, scales and starts."""

from dataclasses import replace

import pytest
import test_adjoint
import test_step_length
import test_water_balance
import torch
from conftest import (
    ONE_EACH,
    OUTFLOW,
    assert_close,
    assert_same_bits,
    has_kernel,
    one_of_each,
    random_inputs,
    run_both_ways,
    ties,
    variants,
)
from models import example
from models.examples import Example, uniform
from models.toy import toy

import hybridsolve as hs
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.spec import Balance, DelayLine, Forcing, ModelSpec, Parameter, Signature, State, Variable

pytestmark = pytest.mark.oracle
TOY = variants(["toy"])[0].values[0]


def bucket(f, k, p, s):
    """The least that a model can be: one store that empties by a fraction."""
    water = s["water"] + f["prcp"]
    flow = p["k"] * water
    return {"water": water - flow}, {"flow": flow}


def a_bucket(**changes):
    table = dict(
        name="bucket",
        title="A bucket",
        source="these tests",
        forcings=(Forcing("prcp", "mm d-1", "rain", 0.0, 1e4),),
        parameters=(Parameter("k", "d-1", "recession", 0.01, 0.9, step="fraction"),),
        states=(State("water", "mm", "water", 0.0, 1e30),),
        fluxes=(Variable("flow", "mm d-1", "flow"),),
        reference_step=bucket,
        outflow="flow",
    )
    return ModelSpec(**table | changes)


def run(model, **options):
    series = {v.name: torch.ones(5, 2, dtype=torch.float64) for v in model.forcings}
    k = torch.full((2, 1), 0.5, dtype=torch.float64, requires_grad=True)
    return hs.simulate(model, series, {"k": k}, backend="reference", **options), k


def test_a_model_of_ten_lines_runs_and_has_gradients():
    found, k = run(a_bucket(steps=None), initial_state={"water": torch.zeros(1, 1, dtype=torch.float64)})
    expected = 1 - 0.5 ** torch.arange(1, 6, dtype=torch.float64)
    assert_close({"q": found.fluxes["flow"].detach()[:, 0]}, {"q": expected}, 1e-15)
    (d,) = torch.autograd.grad(found.fluxes["flow"].sum(), k)
    assert d.shape == (2, 1) and (d > 0).all()
    assert "bucket" not in hs.models.names()


@pytest.mark.parametrize(
    "model",
    [
        a_bucket(steps=None, balance=Balance(("prcp",), ("flow",))),
        pytest.param(replace(hs.models.get("hbv11p"), name="another"), marks=pytest.mark.slow),
        replace(toy, name="another", lines=toy.lines),
    ],
    ids=("bucket", "hbv11p", "toy"),
)
def test_a_model_needs_no_file_of_tests(model):
    """Weather, stores and ties are then read from its table."""
    variant = (model, model.parameter_names)
    assert type(example(model)) is Example
    test_adjoint.test_finite_differences(variant, {"components": "each"})
    test_adjoint.test_windows_chain(variant, (5, 6, 17))
    test_step_length.test_shorter_steps_come_to_an_end(variant)
    test_water_balance.test_stores_stay_within_their_bounds(variant, torch.float64)
    assert all(x.isfinite().all() for x in run_both_ways(ties(variant)).values())
    some = random_inputs(variant, T=40, B=20)
    for v in model.forcings:
        assert some.forcing[v.name].std() > 0
    for v in model.states:
        stored = some.initial_state[v.name]
        assert (stored == example(model).empty(v)).any() and stored.max() > 1


@one_of_each
def test_a_run_by_object_is_a_run_by_name(variant):
    x = random_inputs(variant)
    expected = x.simulate(**OUTFLOW).fluxes
    x.model = x.model.name
    assert_same_bits(x.simulate().fluxes, expected)


@pytest.fixture
def restored():
    """The registry as it was."""
    before = dict(hs.models.MODELS)
    yield
    hs.models.MODELS.clear()
    hs.models.MODELS.update(before)


REDEFINED = [pytest.param(v.values[0], "auto", id=f"auto-{v.id}") for v in ONE_EACH]
REDEFINED += [pytest.param(TOY, "reference", id="reference-toy")]


@pytest.mark.compile
@pytest.mark.parametrize("variant, backend", REDEFINED)
def test_a_model_redefined_under_its_name(variant, backend, restored):
    """With another outflow and its fluxes in another order; also where a graph of its former self was compiled."""
    if backend == "auto" and not has_kernel(*variant):
        pytest.skip(f"model {variant[0].name} has no kernel in this build")
    x = random_inputs(variant, T=2, B=3, C=2)
    first, names = x.model, x.model.flux_names[::-1]
    changes = {"outflow": names[0]} if backend == "reference" else {}  # which a kernel's header fixes
    second = replace(first, fluxes=first.fluxes[::-1], **changes)
    assert first.key != second.key
    expected = x.outputs(backend=backend)
    tensors = (x.forcing, x.parameters, x.inputs, x.initial_state)

    def first_and_outflow(model, forcing, parameters, inputs, state):
        options = dict(inputs=inputs, initial_state=state, backend=backend)
        fluxes = hs.models.get(model).flux_names[:1]
        named = hs.simulate(model, forcing, parameters, fluxes=fluxes, **options).fluxes
        return named | hs.simulate(model, forcing, parameters, **options).fluxes

    for by_name in (False, True):
        torch._dynamo.reset()
        compiled = torch.compile(first_and_outflow, fullgraph=True, backend="aot_eager")
        for model in (first, second, first):
            if by_name:
                hs.models.register(model)
            for function in (compiled, first_and_outflow):
                found = function(model.name if by_name else model, *tensors)
                assert_same_bits(found, {n: expected[n] for n in (model.flux_names[0], model.outflow)})
    x.model = second
    assert_same_bits(x.outputs(backend=backend), expected)


def test_what_has_a_default_may_be_left_out():
    x = random_inputs(TOY)
    x.parameters["pumping"] = torch.zeros(1, 1, dtype=torch.float64)
    expected = run_both_ways(x, backend="reference")
    del x.parameters["pumping"]
    found = run_both_ways(x, backend="reference")
    assert_same_bits(found, {n: expected[n] for n in found})
    x = random_inputs(TOY)
    x.parameters = {n: torch.zeros_like(p) for n, p in x.parameters.items() if n != "pumping"}
    half = toy.parameters_from_unit({n: 0.5 + p for n, p in x.parameters.items()})
    raw = x.simulate(raw=True, backend="reference").fluxes
    x.parameters = half
    assert_close(raw, x.simulate(backend="reference").fluxes, 1e-13)


def test_the_log_scale():
    unit = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    found = toy.parameters_from_unit({"kx": unit})
    expected = torch.tensor([1e-4, 1e-4 * 1000**0.25, (1e-4 * 0.1) ** 0.5, 0.1], dtype=torch.float64)
    assert_close(found, {"kx": expected}, 1e-14)


def test_a_start_that_depends_on_a_parameter_has_its_gradient():
    x = random_inputs(TOY, T=1, B=2, C=1)
    x.initial_state, x.forcing = {}, {n: torch.zeros_like(f) for n, f in x.forcing.items()}
    x.parameters["leak"] = torch.full_like(x.parameters["leak"], 0.1)
    capacity = x.parameters["capacity"].requires_grad_()
    soil = x.simulate(fluxes=["soil"], backend="reference").fluxes["soil"]
    (d,) = torch.autograd.grad(soil.sum(), capacity)
    assert_close({"d": d}, {"d": torch.full_like(d, 0.5)}, 1e-15)


def test_a_delay_line_gives_back_what_went_in():
    """A burst of one step leaves by the ordinates, over as many steps as there are."""
    x = random_inputs(TOY, T=6, B=1, C=4)
    x.initial_state = {}
    x.forcing = {"rainfall": torch.zeros(6, 1).double(), "demand": torch.zeros(6, 1).double()}
    x.forcing["rainfall"][0] = 1000.0
    lag = torch.tensor([[0.0, 0.25, 2.0, 3.0]], dtype=torch.float64)
    x.parameters = {n: p[:1, :1] for n, p in x.parameters.items()} | {"lag": lag}
    run = x.simulate(fluxes=("discharge", "overflow", "baseflow"), components="each", backend="reference")
    arrived = (run.fluxes["discharge"] - run.fluxes["baseflow"])[:, 0].T / run.fluxes["overflow"][0, 0, 0]
    expected = torch.zeros(4, 6, dtype=torch.float64)
    expected[0, 0] = expected[2, 2] = expected[3, 3] = 1
    expected[1, 0], expected[1, 1] = 0.75, 0.25
    assert_close({"w": arrived}, {"w": expected}, 1e-12)
    assert run.final_state["channel"].shape == (3, 1, 4)


# --- What is refused ------------------------------------------------------------------------------------------------


def renamed(step, **names):
    """The step with some of what it returns under other names."""

    def other(*given):
        return tuple({names.get(n, n): x for n, x in found.items()} for found in step(*given))

    return other


def test_two_steps_made_by_one_function_are_two_models():
    """What a step closes over is part of the definition."""

    def with_loss(share):
        def step(f, k, p, s):
            state, fluxes = bucket(f, k, p, s)
            return state, {"flow": (1 - share) * fluxes["flow"]}

        return step

    whole, half = (a_bucket(reference_step=with_loss(share)) for share in (0.0, 0.5))
    assert whole.key != half.key
    assert_same_bits(run(half)[0].fluxes, {"flow": 0.5 * run(whole)[0].fluxes["flow"]})


TABLES = {
    "another flux": (dict(reference_step=renamed(bucket, flow="runoff")), "must return each flux of its table, flow; "
                     "found runoff: make them agree"),
    "another state": (dict(reference_step=renamed(bucket, water="store")), "must return each state of its table, "
                      "water; found store: make them agree"),
    "a flux too many": (dict(fluxes=(Variable("flow", "mm d-1", ""), Variable("loss", "mm d-1", ""))),
                        "must return each flux of its table, flow, loss; found flow: make them agree"),
}  # fmt: skip


@pytest.mark.parametrize("changes, message", TABLES.values(), ids=TABLES)
def test_a_table_whose_names_differ_from_the_steps(changes, message):
    with pytest.raises(ValueError, match=f"the step of model bucket {message}"):
        run(a_bucket(**changes))


water = State("water", "mm", "water", 0.0, 100.0)
k = Parameter("k", "d-1", "recession", 0.01, 0.9)
SPECS = {
    "a start out of bounds": (
        dict(states=(replace(water, initial=101.0),)),
        r"state 'water' of model bucket must start in \[0, 100\] mm; found 101: correct its initial value",
    ),
    "a default out of bounds": (dict(parameters=(replace(k, default=2.0),)), r"default of parameter 'k' .* found 2"),
    "fixed without a default": (dict(parameters=(replace(k, free=False),)), "'k' .* is not free and has no default"),
    "a log scale from 0": (
        dict(parameters=(replace(k, lower=0.0, scale="log"),)),
        "'k' .* has a log scale, which needs a lower bound above 0; found 0: raise it",
    ),
    "an outflow that is no flux": (dict(outflow="water"), "outflow of model bucket must be one of its fluxes, flow"),
    "a name twice": (dict(inputs=(Variable("k", "1", ""),)), "model bucket has two variables 'k'"),
    "a line named as a flux": (
        dict(lines=(DelayLine("flow", "mm", "", 2, lambda k, p: None),)),
        "model bucket has two variables 'flow'",
    ),
    "a name with a space": (dict(name="my bucket"), "a model's name must be text without space"),
    "a variable with a space": (dict(inputs=(Variable("a b", "1", ""),)), "variable 'a b', which is no identifier"),
}


@pytest.mark.parametrize("changes, message", SPECS.values(), ids=SPECS)
def test_a_table_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        a_bucket(**changes)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_a_start_that_a_parameter_puts_out_of_bounds():
    model = a_bucket(states=(replace(water, initial=lambda p: 300 * p["k"]),))
    with pytest.raises(ValueError, match=r"initial_state 'water' must be in \[0, 100\] mm; found 150 at basin 0"):
        run(model)


def test_inputs_that_are_missing_or_misplaced():
    for kind in ("forcing", "parameters"):
        x = random_inputs(TOY)
        getattr(x, kind)["slope"] = x.inputs.pop("slope")
        with pytest.raises(ValueError, match=f"inputs lacks 'slope'; .*: it is in {kind}: move it|{kind} has 'slope'"):
            x.simulate(backend="reference")
    x = random_inputs(TOY)
    x.inputs["rainfall"] = x.forcing.pop("rainfall")
    with pytest.raises(ValueError, match="forcing lacks 'rainfall'; expected it beside demand: it is in inputs: move"):
        x.simulate(backend="reference")


INPUTS = {
    "two axes": (lambda v: v[:, None], r"inputs 'slope' must be \[B\]; found shape \[5, 1\]: reshape it"),
    "of other basins": (lambda v: v[:3], "inputs 'slope' has B = 3, but .* has 5; expected the same, or 1"),
    "single precision": (lambda v: v.float(), "inputs 'slope' must be torch.float64 .*; found torch.float32"),
    "a number": (lambda v: 0.5, "inputs 'slope' must be a torch tensor; found float"),
    "a gradient": (lambda v: v.requires_grad_(), r"inputs 'slope' has no gradient, but requires one: detach\(\) it"),
    "out of bounds": (lambda v: v + 1, r"input 'slope' must lie in \[0, 1\] 1; found 1.* at basin 0: correct it"),
    "no number": (lambda v: v * torch.nan, r"input 'slope' must lie in \[0, 1\] 1; found nan at basin 0"),
}


@pytest.mark.parametrize("change, message", INPUTS.values(), ids=INPUTS)
def test_static_inputs_that_do_not_fit(change, message):
    x = random_inputs(TOY)
    x.inputs["slope"] = change(x.inputs["slope"])
    with pytest.raises(ValueError, match=message):
        x.simulate(backend="reference")


def test_a_static_input_may_be_shared():
    x = random_inputs(TOY)
    x.inputs["slope"] = torch.full((5,), 0.05, dtype=torch.float64)
    expected = x.outputs(backend="reference")
    x.inputs["slope"] = x.inputs["slope"][:1]
    assert_same_bits(x.outputs(backend="reference"), expected)


def test_contents_of_a_delay_line_that_do_not_fit():
    x = random_inputs(TOY)
    for content, message in (
        (torch.zeros(4, 5, 3).double(), r"initial_state 'channel' must be \[3, B, C\], the contents of a delay line"),
        (torch.zeros(5, 3).double(), r"initial_state 'channel' must be \[3, B, C\], the contents of a delay line"),
        (torch.full((3, 5, 3), torch.nan).double(), "the delay lines of initial_state must be finite; found nan"),
    ):
        x.initial_state["channel"] = content
        with pytest.raises(ValueError, match=message):
            x.simulate(backend="reference")


def test_a_balance_names_what_there_is():
    for model in hs.models.MODELS.values():
        if isinstance(model.balance, Balance):
            assert set(model.balance.gains + model.balance.losses) <= {*model.forcing_names, *model.flux_names}


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(forcings=(Forcing("rainfall", "mm d-1", "rain", transform="sqrt"),)), "transform of forcing 'rainfall'"),
        (dict(balance=Balance(gains=("snow",), losses=())), "the balance of model toy must be one of .*; found 'snow'"),
        (dict(signatures=(Signature("s", "1", "any", of="mud"),)), "of of signature 's' of model toy .*; found 'mud'"),
        (dict(parameters=(Parameter("k", "1", "any", 0, 1, scale="cube"),)), "scale of parameter 'k'.*linear, log"),
    ],
)
def test_words_that_a_table_may_not_have(change, match):
    with pytest.raises(ValueError, match=match):
        replace(toy, **change)


def test_a_hydrograph_of_defaults_is_taken_and_one_that_does_not_fit_is_refused():
    model = hs.models.get("hbv10")
    forcing = {n: uniform(20, 3, seed=i) for i, n in enumerate(model.forcing_names)}
    values = model.parameters_from_unit({n: uniform(3, 2, seed=i) for i, n in enumerate(model.parameter_names)})
    rows = tuple(replace(p, default=1.0) for p in model.routing.parameters)
    always = replace(model, routing=replace(model.routing, parameters=rows))
    given = {p.name: torch.ones(3, 1, dtype=torch.float64) for p in rows}
    found, expected = simulate_to_gauge(always, forcing, values), simulate_to_gauge(model, forcing, values | given)
    assert_same_bits(found.fluxes, expected.fluxes)
    with pytest.raises(ValueError, match=r"must be \[3, 2\] as the other parameters, or 1 on an axis; found \[3, 5\]"):
        simulate_to_gauge(model, forcing, values | {n: x.expand(3, 5) for n, x in given.items()})
