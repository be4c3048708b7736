"""What every model of the library goes through that has no kernels by hand, without a compiler and in seconds each.

The oracle is held against published numbers in tests/test_golden_models.py. Here what the model compiler makes of a
step is held against the oracle: values, and gradients against its autograd, on random weather and at exact ties; and
water is conserved. tests/test_compiler.py runs the compiled kernels themselves, all of them every night.
"""

from dataclasses import replace

import pytest
import test_adjoint as adjoint
import torch
from conftest import THOROUGH, assert_close, empty, normal, random_inputs, run_both_ways, ties, variants
from test_water_balance import windows

import hybridsolve as hs
from hybridsolve.calibration.space import search_space
from hybridsolve.compiler.cpp import compiled
from hybridsolve.compiler.evaluate import evaluate
from hybridsolve.compiler.graph import needed
from hybridsolve.solve.trial import try_model

LIBRARY = variants([name for name in hs.models.names() if name not in THOROUGH])
# Models of models: a front before a body, in layers and not.
COMPOSED = (
    "cemaneige+gr4j",
    "cemaneige-3+gr6j",
    "cemaneige_hysteresis-2+hymod",
    "degreeday-2+xinanjiang",
    "snow17_point+sacsma",
)
LIBRARY += [pytest.param((m, m.parameter_names), id=m.name) for m in map(hs.models.get, COMPOSED)]
every_model = pytest.mark.parametrize("variant", LIBRARY)
pytestmark = [pytest.mark.oracle, pytest.mark.fast]


def met(x, steps=slice(None)):
    """What a step is given on the way of a run of the oracle: rows of numbers by kind, of the cells at some steps."""
    T, B, C = x.sizes
    series = x.simulate(fluxes=x.model.state_names, components="each", backend="reference").fluxes
    states = {n: torch.cat([x.initial_state[n][None], s[:-1]]) for n, s in series.items()}
    lines = {n: x.initial_state[n][:1].expand(T, B, C) for n in x.model.line_names}
    kinds = {
        "f": {n: s[..., None] for n, s in x.forcing.items()},
        "k": {n: s[:, None] for n, s in x.inputs.items()},
        "p": x.parameters,
        "s": states | lines,
    }
    return {kind: {n: s.expand(T, B, C)[steps].reshape(-1) for n, s in rows.items()} for kind, rows in kinds.items()}


def by_autograd(model, given, d_roots):
    """States and fluxes of one step of the oracle, ordinates, and the gradients to all that it is given."""
    f, k, p, s = (given[kind] for kind in "fkps")
    leaves = {(kind, n): x.clone().requires_grad_() for kind in "fps" for n, x in given[kind].items()}
    f, p, s = ({n: x for (kind, n), x in leaves.items() if kind == which} for which in "fps")
    k = k | {"dt": 1.0}
    prepared = p | (model.prepare(k, p) if model.prepare else {})
    ordinates = [w for line in model.lines for w in line.ordinates(k, prepared)]
    first = dict(zip(model.line_names, ordinates[:: max(1, len(ordinates))], strict=False))
    place = 0
    for line in model.lines:
        first[line.name] = torch.as_tensor(ordinates[place]) + torch.zeros_like(next(iter(f.values())))
        place += line.slots
    state, fluxes = model.reference_step(f, k, prepared | first, s)
    roots = [state[n] for n in (*model.state_names, *model.line_names)] + [fluxes[n] for n in model.flux_names]
    roots += [torch.as_tensor(w) + torch.zeros_like(roots[0]) for w in ordinates]
    loss = sum((d * x).sum() for d, x in zip(d_roots, roots, strict=True))
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return [x.detach() for x in roots], dict(zip(leaves, found, strict=True))


def by_graph(variant, given, d_roots):
    """The same by the graphs that kernels are written from."""
    model, names = variant
    optional = tuple(n for n in model.optional_parameter_names if n in names)
    step, prepare, ordinates = compiled(model, optional)
    n_state, n_flux = len(model.states) + len(model.lines), len(model.fluxes)
    slots = [0]
    for line in model.lines:
        slots.append(slots[-1] + line.slots)
    roots, gradients = [], {(kind, n): [] for kind in "fps" for n in given[kind]}
    rows = {"f": model.forcing_names, "k": model.input_names, "p": names, "s": model.state_names + model.line_names}
    for cell in range(len(next(iter(given["f"].values())))):
        at = {(kind, i): float(given[kind][n][cell]) for kind, table in rows.items() for i, n in enumerate(table)}
        at |= {("dt", 0): 1.0}
        d = [float(x[cell]) for x in d_roots]
        at |= {("d", i): x for i, x in enumerate(evaluate(prepare.program.graph, prepare.program.roots["d"], at))}
        w = evaluate(ordinates.program.graph, ordinates.program.roots["w"], at)
        at |= {("w", i): w[slots[i]] for i in range(len(model.lines))}
        values = [evaluate(step.program.graph, step.program.roots[kind], at) for kind in "sq"]
        roots.append([*values[0], *values[1], *w])
        at |= {("d_s", i): x for i, x in enumerate(d[:n_state])}
        at |= {("d_q", i): x for i, x in enumerate(d[n_state : n_state + n_flux])}
        at |= {(f"d_{kind}", i): 0.0 for kind, i in step.d_leaves if kind != "s"}
        back = dict(zip(step.d_leaves, evaluate(step.program.graph, list(step.d_leaves.values()), at), strict=True))
        d_w = d[n_state + n_flux :]
        for i in range(len(model.lines)):
            d_w[slots[i]] += back["w", i]
        for part, kind, cotangents in (
            (prepare, "d", [back["d", i] for i in range(len(prepare.program.roots["d"]))]),
            (ordinates, "w", d_w),
        ):
            at |= {("d_p", i): back["p", i] for i in range(len(names))}
            at |= {(f"d_{kind}", i): x for i, x in enumerate(cotangents)}
            d_p = evaluate(part.program.graph, list(part.d_leaves.values()), at)
            back |= dict(zip(part.d_leaves, d_p, strict=True))
        for kind, n in gradients:
            gradients[kind, n].append(back[kind, rows[kind].index(n)])
    columns = [torch.tensor(x, dtype=torch.float64) for x in zip(*roots, strict=True)]
    return columns, {key: torch.tensor(x, dtype=torch.float64) for key, x in gradients.items()}


@every_model
@pytest.mark.parametrize("kind", ("random", "empty", "ties"))
def test_what_is_compiled_is_the_oracles(variant, kind):
    model = variant[0]
    x = ties(variant) if kind == "ties" else random_inputs(variant, T=24, B=5, C=3, seed=1)
    given = met(empty(x).without_water(slice(0, 12)) if kind == "empty" else x, slice(0, None, 5))
    n = len(model.states) + len(model.lines) + len(model.fluxes) + sum(line.slots for line in model.lines)
    d_roots = [normal(len(given["f"][model.forcing_names[0]]), seed=i) for i in range(n)]
    expected, d_expected = by_autograd(model, given, d_roots)
    found, d_found = by_graph(variant, given, d_roots)
    assert_close(dict(enumerate(found)), dict(enumerate(expected)), 1e-11)
    assert_close(d_found, d_expected, 1e-10)


@every_model
def test_without_cotangents_of_most_fluxes_it_is_less_and_as_if_these_were_0(variant):
    model, names = variant
    optional = tuple(n for n in model.optional_parameter_names if n in names)
    whole, alone = compiled(model, optional)[0], compiled(model, optional, {model.outflow})[0]
    asked = model.flux_names.index(model.outflow)
    size = []
    for step in (whole, alone):
        graph = step.program.graph
        made = needed(graph, step.d_leaves.values())
        size.append(len(made))
        read = {graph.nodes[i].value for i in made if graph.op(i) == "leaf"}
        assert step is whole or {n for kind, n in read if kind == "d_q"} == {asked}
    assert size[1] < size[0]
    x = random_inputs(variant, T=4, B=2, C=2, seed=1)
    given = met(x)
    rows = {"f": model.forcing_names, "k": model.input_names, "p": names, "s": model.state_names + model.line_names}
    for cell in range(len(given["f"][model.forcing_names[0]])):
        at = {(kind, i): float(given[kind][n][cell]) for kind, table in rows.items() for i, n in enumerate(table)}
        at |= {("dt", 0): 1.0} | {("w", i): 0.25 for i in range(len(model.lines))}
        prepare = compiled(model, optional)[1].program
        at |= {("d", i): d for i, d in enumerate(evaluate(prepare.graph, prepare.roots["d"], at))}
        at |= {("d_s", i): (-1.0) ** i / (1 + i) for i in range(len(rows["s"]))}
        at |= {("d_q", i): 0.75 * (i == asked) for i in range(len(model.fluxes))}
        at |= {(f"d_{kind}", i): 0.0 for kind, i in whole.d_leaves if kind != "s"}
        expected, found = (
            torch.tensor(evaluate(step.program.graph, list(step.d_leaves.values()), at)) for step in (whole, alone)
        )
        assert (found - expected).abs().max() <= 1e-13 * expected.abs().max()


@every_model
def test_water_is_conserved(variant):
    for change, supply, made in windows(random_inputs(variant, T=60, B=20, C=4), 3):
        assert (change - supply - made).abs().max() < 1e-11


@every_model
def test_windows_chain(variant):
    adjoint.test_windows_chain(variant, (1, 17))


@every_model
def test_a_flood_a_drought_and_single_precision(variant):
    """Stores stay within the bounds that a next run asks of them."""
    for dtype in (torch.float64, torch.float32):
        x = random_inputs(variant, T=60, B=20, C=4, dtype=dtype).without_water(slice(10, 40))
        for name in x.example.water:
            x.forcing[name][45:] += x.example.flood
        series = x.simulate(fluxes=x.model.output_names, components="each", backend="reference").fluxes
        for name, s in series.items():
            assert s.isfinite().all(), name
            if name in x.model.state_names:
                assert s.min() >= x.model.variable(name).lower and s.max() <= x.model.variable(name).upper, name


@every_model
def test_the_table_passes_its_trial(variant):
    model = variant[0]
    try_model(model)
    assert all(v.source for v in model.parameters), "a parameter's bounds have no source"
    assert model.balance is not None and model.source and model.reference_step.__doc__


REFUSED = {
    "gr4j+gr5j": "without a name in common; found the parameter 'x1' in both",
    "hbv10+hymod": "found that the outflow of 'hbv10' passes a hydrograph",
    "cemaneige+toy": "found that 'toy' has no forcing 'prcp'",
    "cemaneige+shm": "found the parameter 'kf' in both: join others, or rename it",
    "cemaneige+nothing": "unknown model 'nothing'; expected one of .*, two of them joined by .+, a ModelSpec, or",
    "cemaneige+": "unknown model 'cemaneige.'",
    "cemaneige-0": "'cemaneige-0' must be one layer or more .*; found 0",
    "gr4j-2": "temperature and without delay lines; found 2 of 'gr4j', which has prcp, pet",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_joined(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        hs.models.get(name)


@pytest.mark.parametrize("front", ("cemaneige", "cemaneige_hysteresis", "degreeday", "snow17_point", "snow17"))
@pytest.mark.parametrize("body", ("gr4j", "gr5j", "gr6j", "hymod", "hymod_delayed", "xinanjiang", "sacsma"))
def test_any_snow_before_any_runoff(front, body):
    for name in (f"{front}+{body}", f"{front}-2+{body}"):
        model = hs.models.get(name)
        try_model(model)
        assert model.routing is hs.models.get(body).routing


def test_a_join_is_one_model_found_by_name():
    model = hs.models.get("cemaneige-2+gr4j")
    assert model is hs.models.get("cemaneige-2+gr4j") and model.name not in hs.models.names()
    assert hs.models.by_key(model.key).equations == model.equations
    assert model.forcing_names == ("prcp", "tmean", "tmean_lapse", "pet")
    assert model.input_names == ("annual_snowfall", "elev_mean", "elev_layer_1", "elev_layer_2")
    assert model.kernel_name(()).isidentifier()
    body = hs.models.get("gr4j")
    other = hs.models.join(hs.models.get("degreeday"), body)
    assert (other.outflow, other.lines, other.steps) == (body.outflow, body.lines, body.steps)


def test_rows_that_two_models_share_must_agree():
    front, body = hs.models.get("degreeday"), hs.models.get("exphydro")
    warm = replace(body.forcings[1], unit="K")
    own = replace(body, fluxes=body.fluxes[:4], forcings=(body.forcings[0], warm, body.forcings[2]))
    with pytest.raises(ValueError, match="must be of two models that agree on 'tmean'; found it in degC and in K"):
        hs.models.join(front, own)
    with pytest.raises(ValueError, match="run at one step; found .3600,. s and .86400,. s"):
        hs.models.join(replace(front, steps=(3600,)), hs.models.get("hymod"))


def test_layers_of_one_elevation_are_the_front():
    """And the layers' mean precipitation is the basin's, unless it is not to be."""
    front = hs.models.get("degreeday")
    x = random_inputs((front, front.parameter_names), T=40, B=4, C=2)
    given = x.forcing | {"tmean_lapse": torch.full((1, 1), 6.0, dtype=torch.float64)}
    layers = hs.models.get("degreeday-3")
    state = {f"{n}_{i}": s for n, s in x.initial_state.items() for i in (1, 2, 3)}

    def run(model, *above):
        elevations = {"elev_mean": 500.0} | {f"elev_layer_{i}": 500.0 + z for i, z in enumerate(above, 1)}
        return hs.simulate(
            model,
            given,
            x.parameters,
            inputs={n: torch.full((1,), z, dtype=torch.float64) for n, z in elevations.items()},
            initial_state=state,
            fluxes=model.flux_names,
            components="each",
            backend="reference",
        ).fluxes

    alone = x.simulate(fluxes=front.flux_names, components="each", backend="reference").fluxes
    assert_close(run(layers, 0.0, 0.0, 0.0), alone, 1e-14)
    falling = {n: q["rain"] + q["snowfall"] for n, q in (("apart", run(layers, -300.0, 0.0, 900.0)), ("one", alone))}
    assert_close({"p": falling["apart"]}, {"p": falling["one"]}, 1e-14)
    q = run(hs.models.layered(front, 3, scaled=False), -300.0, 0.0, 900.0)
    assert (q["lapsed"] > 0).any()
    assert_close({"p": q["rain"] + q["snowfall"] - q["lapsed"]}, {"p": falling["one"]}, 1e-14)


@pytest.mark.parametrize("allowed", ((0.5, 1.0), (0.0,), (0.0, float("inf")), 3.0))
def test_what_a_run_takes_lies_around_the_bounds(allowed):
    model = hs.models.get("hymod")
    row = replace(model.parameters[0], allowed=allowed)
    with pytest.raises(ValueError, match="allowed of parameter 'cmax' of model hymod must be two numbers around"):
        replace(model, parameters=(row, *model.parameters[1:]))


def test_runs_take_more_than_is_calibrated():
    """And say what they take where a value is beyond that."""
    model = hs.models.get("gr4j")
    forcing = {n: torch.ones(30, 1, dtype=torch.float64) for n in model.forcing_names}
    p = {n: torch.full((1, 1), x, dtype=torch.float64) for n, x in dict(x1=300.0, x2=0.0, x3=50.0, x4=20.0).items()}
    assert model.variable("x4").upper == 15.0
    assert hs.simulate(model, forcing, p, backend="reference").fluxes["streamflow"].isfinite().all()
    p["x4"] += 0.01
    with pytest.raises(ValueError, match=r"parameter 'x4' must lie in \[0.01, 20\] d; found 20.01"):
        hs.simulate(model, forcing, p, backend="reference")
    assert search_space(model, {"x4": 19.0}, ()).fixed == {"x4": 19.0}


def test_a_longer_lag_line_of_snow17_changes_nothing_of_a_day():
    """And by the hour its water is that of the day."""
    model, hourly = hs.models.get("snow17"), hs.models.get("snow17_hourly")
    x = random_inputs((model, model.parameter_names), T=30, B=6, C=2)
    options = dict(inputs=x.inputs, components="each", backend="reference")
    state = {n: s for n, s in x.initial_state.items() if not n.startswith("ex_")}
    fluxes = dict(fluxes=("liquid", "we"), initial_state=state)
    expected = hs.simulate(model, x.forcing, x.parameters, **fluxes, **options).fluxes
    assert_close(hs.simulate(hourly, x.forcing, x.parameters, **fluxes, **options).fluxes, expected, 1e-13)
    by_hour = {n: f.repeat_interleave(24, 0) / (24 if n == "prcp" else 1) for n, f in x.forcing.items()}
    fluxes["fluxes"] = ("liquid", "swe", "catch", "ex_3")
    run = hs.simulate(hourly, by_hour, x.parameters, step=3600, **fluxes, **options)
    supply = by_hour["prcp"].sum(0)[:, None] + run.fluxes["catch"].sum(0) - run.fluxes["liquid"].sum(0)
    before = sum(state[n] for n in ("we", "lq", "sto"))
    assert (run.fluxes["swe"][-1] - before - supply).abs().max() < 1e-10
    assert run.fluxes["ex_3"].any()


@pytest.mark.parametrize("name", ("xinanjiang", "xinanjiang_eh"))
def test_the_wet_share_of_a_little_rain_has_its_slope(name):
    """Of 1e-6 mm: r/pe tends to 1 - u^B, with the slope B u^(B - 1)/(2 Wmm) in pe."""
    model = hs.models.get(name)
    one = lambda x: torch.full((1, 1), x, dtype=torch.float64)  # noqa: E731
    p = {n: x.double() for n, x in model.parameters_from_unit({n: one(0.5) for n in model.parameter_names}).items()}
    rain = one(1e-6).requires_grad_()
    share = hs.simulate(model, dict(prcp=rain, pet=one(0.0)), p, backend="reference").final_state["fr"]
    (slope,) = torch.autograd.grad(share.sum(), rain)
    b, u = p["b"], 0.5 ** (1 / (1 + p["b"]))  # of a soil that is half full
    torch.testing.assert_close(share.detach(), 1 - u**b, rtol=1e-6, atol=0)
    expected = b * u ** (b - 1) / (2 * (p["um"] + p["lm"] + p["dm"]) * (1 + b))
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ("xinanjiang", "xinanjiang_eh"))
def test_a_little_rain_on_dry_soil_has_finite_slopes_in_single_precision(name):
    model = hs.models.get(name)
    x = empty(random_inputs((model, model.parameter_names), T=1, B=7, C=2, dtype=torch.float32))
    x.forcing = dict(prcp=torch.logspace(-5, 1, 7)[None], pet=torch.zeros(1, 7))
    found = run_both_ways(x, backend="reference")
    assert all(v.isfinite().all() for v in found.values())
    assert found["final fr"][1:].all()


@pytest.mark.parametrize("name", ("cemaneige_hysteresis", "cemaneige_hysteresis_hydrotel"))
def test_a_frost_without_snow_leaves_the_peak_as_it_is(name):
    """To the bit, and without a derivative to what covers all."""
    model = hs.models.get(name)
    x = random_inputs((model, model.parameter_names), T=20, B=40, C=3)
    x.forcing |= {n: -5 + 0 * f for n, f in x.forcing.items()} | {"prcp": 0 * x.forcing["prcp"]}
    ch = x.parameters["ch"].requires_grad_()
    peak = x.simulate(backend="reference", fluxes=("peak",)).final_state["peak"]
    assert torch.equal(peak.detach(), x.initial_state["peak"])
    assert not torch.autograd.grad(peak.sum(), ch, materialize_grads=True)[0].any()
