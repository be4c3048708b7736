"""Models that cannot be, and functions of a table that read or return what they must not: said in one sentence."""

import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import has_kernel, random_inputs
from models.toy import toy
from test_extension import a_bucket, bucket, run

import hybridsolve as hs
from hybridsolve.calibration.fit import check_arguments
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.solve.ordinates import KINDS
from hybridsolve.solve.sensitivity import jacobian, normal_equations
from hybridsolve.solve.trial import try_model
from hybridsolve.spec import Balance, DelayLine, Forcing, Hydrograph, Parameter, Signature, State, Variable
from hybridsolve.table_checks import HYDROGRAPHS
from hybridsolve.training.config import Config
from hybridsolve.training.loop import check_model

NAN, INF = math.nan, math.inf
k = Parameter("k", "d-1", "recession", 0.01, 0.9)
water = State("water", "mm", "water", 0.0, 100.0)
a, b = Parameter("a", "1", "shape", 0.0, 2.9), Parameter("b", "d", "scale", 0.0, 6.5)
gamma = Hydrograph("gamma", (a, b))


def refused(message, function, *given, error=ValueError, **options):
    with pytest.raises(error, match=message) as caught:
        function(*given, **options)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and not re.search(r"[.!?]\s+[A-Z]", said), said


def line(slots=3, ordinates=lambda k, p: [p["k"], 1 - p["k"], 0 * p["k"]]):
    return DelayLine("c", "mm", "on its way", slots, ordinates)


VALUES = {
    "no name": (dict(name=""), "a model's name must be text .*; found '': rename it"),
    "a name that is no text": (dict(name=3), "a model's name must be text .*; found 3"),
    "a name with a slash": (dict(name="a/b"), "found 'a/b'"),
    "no forcings": (dict(forcings=()), "forcings of model bucket must have one row at least; found none"),
    "no states": (dict(states=()), "states of model bucket must have one row at least"),
    "dt": (dict(inputs=(Variable("dt", "d", ""),)), "a variable 'dt', which is the length of the step: rename it"),
    "a keyword": (dict(inputs=(Variable("class", "1", ""),)), "a variable 'class', which is no identifier"),
    "a name that is a number": (dict(inputs=(Variable(3, "1", ""),)), "a variable 3, which is no identifier"),
    "bounds swapped": (
        dict(parameters=(replace(k, lower=0.9, upper=0.1),)),
        "the bounds of 'k' of model bucket must be numbers, the lower first; found 0.9 and 0.1: correct them",
    ),
    "no range": (dict(parameters=(replace(k, lower=0.9),)), r"'k' .* finite bounds with a range .* found \[0.9, 0.9\]"),
    "a bound that is NaN": (dict(parameters=(replace(k, lower=NAN),)), "bounds of 'k' .* found nan and 0.9"),
    "a bound that is text": (dict(parameters=(replace(k, lower="0"),)), "bounds of 'k' .* found '0' and 0.9"),
    "no upper bound": (dict(parameters=(replace(k, upper=INF),)), r"'k' .* must have finite bounds .* \[0.01, inf\]"),
    "bounds of a forcing": (
        dict(forcings=(Forcing("prcp", "mm d-1", "", 1.0, 0.0),)),
        "the bounds of 'prcp' .* 1.0 and",
    ),
    "bounds of a state": (dict(states=(replace(water, lower=NAN),)), "the bounds of 'water' .* found nan and 100.0"),
    "bounds of an input": (dict(inputs=(Variable("x", "1", "", 1, 0),)), "the bounds of 'x' .* found 1 and 0"),
    "a default that is NaN": (dict(parameters=(replace(k, default=NAN),)), "default of parameter 'k' .* found nan"),
    "a default that is text": (dict(parameters=(replace(k, default="1"),)), "default of parameter 'k' .* found '1'"),
    "free that is text": (
        dict(parameters=(replace(k, free="no"),)),
        "free of parameter 'k' .* True or False; found 'no'",
    ),
    "a fraction above 1": (
        dict(parameters=(replace(k, upper=2.0, step="fraction"),)),
        r"'k' .* is a fraction that leaves in a day, which needs bounds in \[0, 1\]; found \[0.01, 2\]",
    ),
    "a start that is NaN": (dict(states=(replace(water, initial=NAN),)), r"'water' .* must start in .* found nan"),
    "a start that is text": (dict(states=(replace(water, initial="0"),)), r"'water' .* must start in .* found '0'"),
    "a wet end out of bounds": (
        dict(states=(replace(water, wet=101.0),)),
        r"state 'water' of model bucket must have its wet end in \[0, 100\] mm; found 101: correct its wet end",
    ),
    "no steps": (dict(steps=()), r"the steps of model bucket must be a tuple of whole seconds .*; found \(\)"),
    "steps that are a number": (dict(steps=86400), "the steps of model bucket .* found 86400"),
    "a step that divides no day": (dict(steps=(86400, 25200)), r"the steps of model bucket .* found \(86400, 25200\)"),
    "a step that is no whole number": (dict(steps=(3600.0,)), r"the steps of model bucket .* found \(3600.0,\)"),
    "a line of one slot": (dict(lines=(line(1),)), "delay line 'c' .* whole number of slots, 2 or more; found 1"),
    "half a slot": (dict(lines=(line(2.5),)), "delay line 'c' .* whole number of slots, 2 or more; found 2.5"),
    "an unknown hydrograph": (
        dict(routing=replace(gamma, kind="beta")),
        "kind of hydrograph .* gamma, nash, lag; found",
    ),
    "a hydrograph of one parameter": (
        dict(routing=replace(gamma, parameters=(a,))),
        "the hydrograph of model bucket must have 2 parameters, which 'gamma' takes; found a: add or remove some",
    ),
    "no length": (dict(routing=replace(gamma, days=0)), "hydrograph of model bucket .* length above 0 days; found 0"),
    "no end": (dict(routing=replace(gamma, days=INF)), "hydrograph of model bucket .* length above 0 days; found inf"),
    "no such place": (dict(routing=replace(gamma, at="middle")), "must be one of midpoint, end; found 'middle'"),
    "a cut that is NaN": (dict(routing=replace(gamma, cut=NAN)), "the cut of the hydrograph .* found nan"),
    "normalised that is text": (dict(routing=replace(gamma, normalised="no")), "normalised of the hydrograph .* 'no'"),
    "two signatures": (dict(signatures=(Signature("s", "1", "", of="flow"),) * 2), "has two signatures 's'"),
}
TYPES = {
    "a list": (
        dict(forcings=[Forcing("prcp", "mm d-1", "")]),
        "forcings of model bucket must be a tuple of Forcing; found list",
    ),
    "no comma": (
        dict(states=(water)),
        "states of model bucket must be a tuple of State; found State: .* a comma after",
    ),
    "rows of another kind": (
        dict(parameters=(Variable("k", "1", ""),)),
        "parameters .* tuple of Parameter; found Variable",
    ),
    "rows that are text": (dict(fluxes=("flow",)), "fluxes of model bucket must be a tuple of Variable; found str"),
    "routing that is text": (dict(routing="gamma"), "routing of model bucket must be a Hydrograph or None; found str"),
    "a balance that is none": (
        dict(balance={"gains": ()}),
        "balance of model bucket must be a Balance or None; found dict",
    ),
    "gains that are text": (dict(balance=Balance("prcp", ("flow",))), "balance.gains .* a tuple of str; found str"),
    "a step that is none": (
        dict(reference_step=None),
        "reference_step of model bucket must be a function of .forcing, in",
    ),
    "a step of three": (
        dict(reference_step=lambda f, p, s: None),
        r"reference_step .* found one that takes \(f, p, s\)",
    ),
    "prepare that is text": (
        dict(prepare="x"),
        r"prepare of model bucket must be a function of \(inputs, parameters\)",
    ),
    "a start of nothing": (dict(states=(replace(water, initial=lambda: 0),)), "the start of state 'water' .* function"),
    "storage that is text": (dict(balance=Balance((), (), "x")), "balance.storage of model bucket must be a function"),
    "ordinates that are none": (dict(lines=(line(ordinates=None),)), "the ordinates of delay line 'c' .* function of"),
    "a module that is a number": (dict(triton=3), "triton of model bucket must be a module's name or None; found 3"),
    "a title that is none": (dict(title=None), "title of model bucket must be text; found None"),
    "no unit": (dict(parameters=(replace(k, unit=None),)), "the unit of 'k' of model bucket must be text; found None"),
}


@pytest.mark.parametrize("changes, message", VALUES.values(), ids=VALUES)
def test_values_that_cannot_be(changes, message):
    refused(message, a_bucket, **changes)


@pytest.mark.parametrize("changes, message", TYPES.values(), ids=TYPES)
def test_types_that_cannot_be(changes, message):
    refused(message, a_bucket, error=TypeError, **changes)


def test_every_kind_of_hydrograph_says_how_many_parameters_it_takes():
    assert HYDROGRAPHS.keys() == KINDS.keys()
    for kind, (shape, factor) in KINDS.items():
        given = [torch.ones(2, dtype=torch.float64)] * HYDROGRAPHS[kind]
        assert shape(torch.ones(3, 1, dtype=torch.float64), *given).shape == (3, 2)
        assert factor(*given).shape == (2,)


# --- What functions of a table do -----------------------------------------------------------------------------------


def returns(state=None, **fluxes):
    """The bucket's step with other values."""

    def step(f, k, p, s):
        made = bucket(f, k, p, s)
        return made[0] if state is None else {"water": state}, made[1] | fluxes

    return step


def with_line(f, k, p, s):
    state, fluxes = bucket(f, k, p, s)
    return state | {"c": fluxes["flow"]}, {"flow": s["c"] + p["c"] * fluxes["flow"]}


def delayed(slots, ordinates):
    return dict(lines=(line(slots, ordinates),), reference_step=with_line)


FUNCTIONS = {
    "a parameter that is not there": (
        dict(reference_step=lambda f, k, p, s: bucket(f, k, {"k": p["kk"]}, s)),
        "the step of model bucket reads 'kk', which it is not given; expected any of prcp, dt, k, water: correct",
    ),
    "a forcing that is not there": (
        dict(reference_step=lambda f, k, p, s: bucket({"prcp": f["rain"]}, k, p, s)),
        "the step .* reads 'rain', which",
    ),
    "prepare of what is not there": (dict(prepare=lambda k, p: {"x": k["area"]}), "prepare of .* reads 'area', which"),
    "a start of what is not there": (
        dict(states=(replace(water, initial=lambda p: p["kk"]),)),
        "the start of state 'water' of .* reads 'kk', which",
    ),
    "ordinates of what is not there": (delayed(3, lambda k, p: [p["kk"]] * 3), "ordinates of delay line 'c' .* reads"),
    "nothing": (
        dict(reference_step=lambda f, k, p, s: None),
        "must return two mappings, state and fluxes; found NoneType",
    ),
    "three": (
        dict(reference_step=lambda f, k, p, s: (*bucket(f, k, p, s), 1)),
        "two mappings, .* found dict, dict, int",
    ),
    "a number": (
        dict(reference_step=returns(flow=0.0)),
        r"return flux 'flow' as a tensor of torch.float64 .*; found 0.0",
    ),
    "single precision": (
        dict(reference_step=returns(flow=torch.zeros(2, 1))),
        r"flux 'flow' .* found torch.float32 \[2, 1\]",
    ),
    "another shape": (
        dict(reference_step=returns(torch.zeros(7, 7, dtype=torch.float64))),
        r"state 'water' as a tensor .* to \[B, C\], here \[2, 1\]; found torch.float64 \[7, 7\]: make it of",
    ),
    "prepare of nothing": (dict(prepare=lambda k, p: None), "prepare of .* must return a mapping .* found NoneType"),
    "prepare in a parameter's place": (dict(prepare=lambda k, p: {"k": 0 * p["k"]}), "names of its own; found 'k'"),
    "a start of another shape": (
        dict(states=(replace(water, initial=lambda p: full(0.0, 2, 7)),)),
        r"start of state 'water' .* found torch.float64 \[2, 7\]",
    ),
    "a start that is text": (
        dict(states=(replace(water, initial=lambda p: "0"),)),
        "start of state 'water' .* found '0'",
    ),
    "too few ordinates": (delayed(3, lambda k, p: [p["k"]] * 2), r"must be \[3, B, C\], .* found shape \[2, 2, 1\]"),
    "ordinates of no shape": (delayed(3, lambda k, p: torch.ones(3)), r"must be \[3, B, C\], .* found shape \[3\]"),
    "no ordinates": (delayed(3, lambda k, p: None), r"must be \[3, B, C\], .* found NoneType"),
}


@pytest.mark.parametrize("changes, message", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_that_do_what_they_must_not(changes, message):
    model = a_bucket(**changes)
    refused(message, run, model)
    refused(message.replace(r"here \[2, 1\]", ".*").split("; found")[0].split(" found")[0], try_model, model)


def test_ordinates_that_are_numbers():
    """A fixed delay: all of the flow arrives a step later."""
    found = run(a_bucket(**delayed(3, lambda k, p: [0.0, 1.0, 0.0])))[0].fluxes["flow"].detach()
    expected = run(a_bucket())[0].fluxes["flow"].detach()
    assert (found[0] == 0).all() and torch.equal(found[1:], expected[:-1])


WHOLE = {
    "a wet end of what is not there": (
        dict(states=(replace(water, wet=lambda p: p["kk"]),)),
        "start of state 'water' .*'kk'",
    ),
    "a wet end out of bounds": (
        dict(states=(replace(water, wet=lambda p: 200 * p["k"]),)),
        r"the wet end of state 'water' .* must lie in \[0, 100\] mm; found 180 with the parameters at the upper ends",
    ),
    "a start out of bounds": (
        dict(states=(replace(water, initial=lambda p: 200 * p["k"]),)),
        "the start of state 'water' .* found 180 with the",
    ),
    "a storage of what is not there": (
        dict(balance=Balance(("prcp",), ("flow",), lambda s, k, p: s["store"])),
        "the storage of the balance .*'store'",
    ),
    "a storage of no cells": (
        dict(balance=Balance(("prcp",), ("flow",), lambda s, k, p: s["water"].sum())),
        r"the storage of the balance of model late must be a tensor \[B, C\], here \[1, 3\]; found shape \[\]",
    ),
}


@pytest.mark.parametrize("changes, message", WHOLE.values(), ids=WHOLE)
def test_what_is_asked_of_a_table_after_a_search_or_a_training_is_tried_before(changes, message, monkeypatch):
    model = a_bucket(name="late", **changes)
    monkeypatch.setitem(hs.models.MODELS, "late", model)
    refused(message, check_arguments, model, train="2001-01-01:2001-02-01", backend="reference")
    refused(message, check_model, training_of("late"), "reference", "cpu")


def training_of(model):
    return Config(
        name="any",
        model=model,
        network=dict(kind="mlp"),
        attributes=["x"],
        periods=dict(train="2001-01-01:2001-12-31"),
        loss="nse",
        epochs=1,
        steps_per_epoch=1,
    )


@pytest.mark.parametrize("model", list(hs.models.MODELS.values()), ids=str)
def test_the_tables_there_are_pass_their_trial(model):
    try_model(model)


def test_a_model_of_which_no_kernel_can_be_made_is_refused_before_the_data(monkeypatch):
    def step(f, k, p, s):
        torch.relu(next(iter(s.values())))
        return toy.reference_step(f, k, p, s)

    model = replace(toy, name="unbuilt", reference_step=step)
    monkeypatch.setitem(hs.models.MODELS, "unbuilt", model)
    refused("a step must not call torch.relu: use", check_arguments, model, train="2001-01-01:2001-02-01")
    refused("a step must not call torch.relu: use", check_model, training_of("unbuilt"), "auto", "cpu")
    refused(
        "backend 'triton' has no kernels of derivatives",
        check_arguments,
        toy,
        train="2001-01-01:2001-02-01",
        backend="triton",
    )


# --- A kernel is of one definition ----------------------------------------------------------------------------------


def test_a_kernel_does_not_run_for_a_step_that_was_changed_in_python():
    """It would compute what it was compiled of, and nobody would know."""
    model = hs.models.get("hbv11p")
    x = random_inputs((model, model.parameter_names))
    expected = x.simulate().fluxes

    def other(f, k, p, s):
        state, fluxes = model.reference_step(f, k, p, s)
        return state, fluxes | {model.outflow: 2 * fluxes[model.outflow]}

    x.model = replace(model, reference_step=other)
    refused(
        "kernel 'hbv11p' must be of the model that runs; found one of another definition", x.simulate, backend="cpu"
    )
    assert torch.allclose(x.simulate(backend="reference").fluxes[model.outflow], 2 * expected[model.outflow])
    x.model = replace(model, title="Another title")  # the table may change
    assert torch.equal(x.simulate(backend="cpu").fluxes[model.outflow], expected[model.outflow])


SHARE = 1.0


def scaled(flow):
    return SHARE * flow


def test_what_a_step_uses_from_outside_is_part_of_its_definition(monkeypatch):
    def step(f, k, p, s):
        state, fluxes = bucket(f, k, p, s)
        return state, {"flow": scaled(fluxes["flow"])}

    keys = {a_bucket(reference_step=step).key for _ in range(2)}
    monkeypatch.setitem(globals(), "SHARE", 0.5)
    keys.add(a_bucket(reference_step=step).key)
    monkeypatch.setitem(globals(), "scaled", lambda flow: 0 * flow)
    keys.add(a_bucket(reference_step=step).key)
    assert len(keys) == 3


def test_a_module_of_triton_that_is_not_there():
    x = random_inputs((toy, toy.parameter_names))
    x.model = replace(toy, triton="models.nothing")
    message = "for backend 'triton' must be in the module .*'models.nothing', which cannot be imported"
    with pytest.raises(RuntimeError, match=message):
        x.simulate(backend="triton")


# --- Hydrographs, and derivatives carried forward -------------------------------------------------------------------

HBV = hs.models.get("hbv11p")
ROUTE_A, ROUTE_B = HBV.routing_parameter_names


def arguments(**changes):
    x = random_inputs((HBV, HBV.parameter_names), T=7, B=5, C=3)
    routing = {name: torch.ones(5, 1, dtype=torch.float64) for name in (ROUTE_A, ROUTE_B)}
    return HBV, x.forcing, x.parameters | routing | changes


def full(value, *shape, dtype=torch.float64):
    return torch.full(shape, value, dtype=dtype)


@pytest.mark.parametrize("function", [simulate_to_gauge, jacobian])
@pytest.mark.parametrize("value", [NAN, INF, -0.1, 3.0])
def test_parameters_of_a_hydrograph_out_of_bounds(function, value):
    given = arguments(**{ROUTE_A: full(value, 5, 1)})
    refused(
        rf"parameter '{ROUTE_A}' must lie in \[0, 2.9\] 1; found {value:g} at basin 0, component 0", function, *given
    )


GAUGE = {
    "components of no kind": (dict(components="sum"), {}, "components must be 'mean' or 'each'; found 'sum'"),
    "components of no kind, each routed": (
        dict(components="sum"),
        {ROUTE_A: full(1.0, 5, 3)},
        "components must be 'mean' or 'each'; found 'sum'",
    ),
    "weights of components routed each": (
        dict(weights=full(1.0, 5, 3)),
        {ROUTE_A: full(1.0, 5, 3)},
        "weights sum the components .* hydrograph for each",
    ),
    "fluxes that are a number": (dict(fluxes=3), {}, "fluxes must be names of series; found int"),
    "units that are text": (dict(units="a"), {}, "units must be Units or None; found str"),
    "a memory without the outflow": (
        dict(fluxes=("q0",), memory=full(0.0, 14, 5)),
        {},
        "a memory .* continues the outflow 'streamflow'; found fluxes q0",
    ),
    "single precision": (
        {},
        {ROUTE_A: full(1.0, 5, 1, dtype=torch.float32)},
        f"parameter '{ROUTE_A}' must be torch.float64 on cpu as the outflow is; found torch.float32",
    ),
    "a number": ({}, {ROUTE_A: full(1.0)}, rf"{ROUTE_A} must be \[B\] or \[B, C\]; found \[\]: reshape it"),
}


@pytest.mark.parametrize("options, changes, message", GAUGE.values(), ids=GAUGE)
def test_runs_to_the_gauge_that_cannot_be(options, changes, message):
    refused(message, simulate_to_gauge, *arguments(**changes), **options)


@pytest.mark.parametrize("names", [3, (), (ROUTE_A, ROUTE_A)], ids=str)
def test_derivatives_of_no_names(names):
    refused("names must be parameters' names, one or more, each once; found", jacobian, *arguments(), names=names)


def test_a_derivative_by_its_name_alone():
    assert list(jacobian(*arguments(), names=ROUTE_A)[1]) == [ROUTE_A]


EQUATIONS = {
    "no target": (dict(target=None), "target must be a torch tensor; found NoneType"),
    "a target that is NaN": (
        dict(target=full(NAN, 7, 5)),
        r"target must be finite; found nan at \[0, 0\]: give that step",
    ),
    "a weight that is NaN": (
        dict(weight=full(NAN, 7, 5)),
        r"weight must be finite and 0 or more; found nan at \[0, 0\]",
    ),
    "a weight below 0": (dict(weight=full(-1.0, 7, 5)), "weight must be finite and 0 or more; found -1"),
    "a shift that is a number": (dict(shift=0.1), "shift must be a torch tensor; found float"),
    "a shift below 0": (dict(shift=full(-1.0, 5), transform="root"), "shift must be finite and 0 or more; found -1"),
    "no exponent": (dict(exponent=0.0, transform="box_cox"), "exponent must not be 0, where box_cox divides by it"),
    "an exponent that is text": (dict(exponent="1"), "exponent must be a finite number; found '1'"),
    "an exponent that is NaN": (dict(exponent=NAN), "exponent must be a finite number; found nan"),
}


@pytest.mark.parametrize("changes, message", EQUATIONS.values(), ids=EQUATIONS)
def test_normal_equations_that_cannot_be(changes, message):
    given = dict(target=full(1.0, 7, 5), weight=full(1.0, 7, 5)) | changes
    refused(message, normal_equations, *arguments(), **given)


@pytest.mark.parametrize("name", ["resume", "allow_overlap", "skip_unusable"])
def test_a_switch_is_true_or_false(name):
    refused(
        f"{name} must be True or False; found 'no'",
        hs.calibrate,
        None,
        toy,
        train="2001-01-01:2001-02-01",
        backend="auto" if has_kernel(toy, toy.parameter_names) else "reference",
        **{name: "no"},
    )


@pytest.mark.parametrize(
    "function, given, error, message",
    [
        (hs.models.register, "toy", TypeError, "a model to register must be a ModelSpec; found str"),
        (toy.check_step, "day", ValueError, "model toy runs at steps that divide a day; found day s"),
        (toy.parameters_from_unit, None, TypeError, "parameters must map names to values; found NoneType"),
    ],
)
def test_what_the_table_itself_is_asked(function, given, error, message):
    refused(message, function, given, error=error)
    refused("model toy has no parameter 'fog'; expected any of capacity", toy.parameters_at_step, {"fog": 1.0}, 3600)
