"""Models that are given as rates, by each scheme: what the schemes promise, and the derivatives of implicit steps."""

import shutil
from dataclasses import replace

import generated
import pytest
import test_adjoint as adjoint
import test_raw
import test_sensitivity as sensitivity
import torch
from conftest import assert_close, assert_same_bits, golden, random_inputs, run_both_ways, ties
from models.toy import toy_rates

import hybridsolve as hs
from hybridsolve.compiler import StepError
from hybridsolve.models import schemes
from hybridsolve.models.primitives import implicit, noted_passes, relu
from hybridsolve.spec import DelayLine, Forcing, ModelSpec, Parameter, State, Variable

hs.models.register(toy_rates)
HBV, TOY = "hbv_implicit@backward_euler", "toy@backward_euler"
ALL = ["hbv_implicit", "exphydro", "exphydro_hard", "shm", "toy"]
SCHEMES = ("euler", "eulerx5", "heun", "heunx2", "rk4", "rk4x3", "backward_euler", "backward_eulerx2")
compiled = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
fast = pytest.mark.fast


def inputs(name, **sizes):
    model = hs.models.get(name)
    return random_inputs((model, model.parameter_names + model.optional_parameter_names), **sizes)


def outputs(x, backend="reference", **options):
    return x.outputs(backend=backend, components="each", **options)


# --- What the schemes promise ---------------------------------------------------------------------------------------


def tank(**table):
    """A linear reservoir, whose solution is known."""

    def rates(f, k, p, s):
        out = p["k"] * s["water"]
        return dict(water=f["rain"] - out), dict(flow=out, content=s["water"])

    rows = dict(
        name="tank",
        title="A linear reservoir",
        source="these tests",
        forcings=(Forcing("rain", "mm d-1", "rain", 0.0, 1e4),),
        parameters=(Parameter("k", "d-1", "rate", 0.0, 5.0),),
        states=(State("water", "mm", "water", -1e30, 1e30, initial=3.0),),
        fluxes=(Variable("flow", "mm d-1", "flow"), Variable("content", "mm", "mean content")),
        reference_step=rates,
        outflow="flow",
        steps=None,
        rates=True,
    )
    return ModelSpec(**rows | table)


@fast
@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("rk4", 4), ("backward_euler", 1)])
def test_the_order_of_a_scheme(name, order):
    """S = r/k + (S0 - r/k) e^-kt: the error falls with the sub-steps to the power of the order."""
    rain, k, start = (torch.full((1, 1), x, dtype=torch.float64) for x in (4.0, 0.9, 3.0))
    exact = rain / k + (start - rain / k) * torch.exp(-k)
    errors = []
    for n in (4, 8):
        model = schemes.scheme(tank(), name, n)
        run = hs.simulate(
            model, {"rain": rain}, {"k": k}, initial_state={"water": start}, fluxes=("flow",), backend="reference"
        )
        errors.append(float((run.final_state["water"] - exact).abs()))
        gained = rain - run.fluxes["flow"]
        assert (run.final_state["water"] - start - gained).abs().max() < 1e-14
    assert order - 0.25 < torch.tensor(errors[0] / errors[1]).log2() < order + 0.25


@fast
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", SCHEMES)
def test_water_is_conserved(name, how):
    x = inputs(f"{name}@{how}", T=4, B=4, C=3)
    y, model = outputs(x), x.model
    stored = sum(y[f"final {n}"] - x.initial_state[n] for n in model.state_names)
    series = y | {n: f[..., None] for n, f in x.forcing.items()}
    gained = sum(series[n].sum(0) for n in model.balance.gains) - sum(series[n].sum(0) for n in model.balance.losses)
    assert (stored - gained).abs().max() < 1e-11


@fast
@pytest.mark.parametrize("name", ["exphydro", "shm", "toy"])
def test_sub_steps_are_steps_of_their_length(name):
    """24 sub-steps of a day are 24 steps of an hour, with an hour's share of the day's water."""
    x = inputs(f"{name}@euler", T=2, B=3, C=2)
    depths = [v.name for v in x.model.forcings if v.unit == "mm d-1"]
    hours = replace(
        x, forcing={n: s.repeat_interleave(24, 0) / (24 if n in depths else 1) for n, s in x.forcing.items()}
    )
    found = outputs(hours, step=3600)
    x.model = hs.models.get(f"{name}@eulerx24")
    for n, day in outputs(x).items():
        if n.startswith("final"):
            parts = found[n]
        else:
            parts = found[n].unflatten(0, (2, 24))
            parts = parts.sum(1) if n in x.model.flux_names else parts[:, -1]
        assert_close({n: parts}, {n: day}, 1e-12)


@fast
def test_a_mean_content_is_a_mean():
    """A flux that is no amount of a step is not divided among its hours."""
    rain, k = torch.full((1, 1), 0.0, dtype=torch.float64), torch.full((1, 1), 0.0, dtype=torch.float64)
    for name in ("rk4x3", "backward_eulerx2"):
        run = hs.simulate(
            schemes.named(tank(), name), {"rain": rain}, {"k": k}, fluxes=("content",), backend="reference", step=3600
        )
        assert_close(run.fluxes, {"content": torch.full((1, 1), 3.0, dtype=torch.float64)}, 1e-14)


@compiled
@pytest.mark.compile
def test_exphydro_is_the_exact_solution():
    """Of the published smooth equations, integrated over each day of two years to 1e-10 (shared_exphydro: exact/*)."""
    file = {n: torch.from_numpy(x) for n, x in golden("shared_exphydro").items() if x.dtype.kind in "fi"}
    model, runs = hs.models.get("exphydro@rk4x200"), file["exact/run_index"].long()
    basins, days = file["basin_of_run"].long()[runs], len(file["exact/S0"])
    names = dict(prcp="prcp_mm_d", tmean="tmean", pet="pet_hamon_mm_d")
    order = dict(f=0, smax=1, qmax=2, df=3, tmax=4, tmin=5)
    found = hs.simulate(
        model,
        {n: file[name][:days, basins] for n, name in names.items()},
        {n: file["params"][runs, i][:, None] for n, i in order.items()},
        initial_state={n: file["exact/init"][:, i, None] for i, n in enumerate(model.state_names)},
        fluxes=model.output_names,
        components="each",
    ).fluxes
    keys = dict(snow="S0", soil="S1", snowfall="Ps", rain="Pr", melt="M", aet="ET", baseflow="Qb", spill="Qs")
    for name, key in keys.items():
        error = (found[name][..., 0] - file[f"exact/{key}"]).abs()
        # The thaw's minimum has a kink that no sub-step ends at, which is what is left: 7e-7 in 60 days.
        assert error[:60].max() < 1e-6 and error.max() < 1e-5, name


# --- Refusals --------------------------------------------------------------------------------------------------------


@fast
@pytest.mark.parametrize(
    "name, match",
    [
        (
            "hbv_implicit",
            "'hbv_implicit' is given as rates, and runs by a scheme; found none: take 'hbv_implicit@' with",
        ),
        ("gr4j@rk4", "scheme 'rk4' makes a step of a model that is given as rates; found 'gr4j', which is a step"),
        ("exphydro@rk4x2@euler", "unknown scheme 'rk4x2@euler'|which is a step already"),
        ("exphydro@rk5", "unknown scheme 'rk5'; expected one of euler, heun, rk4, backward_euler"),
        ("exphydro@rk4x0", "the sub-steps of 'exphydro@rk4' must be a whole number, 1 or more; found 0"),
        ("exphydro@rk4x-2", "1 or more; found -2"),
        ("nothing@rk4", "unknown model 'nothing'"),
        ("exphydro@", "unknown model 'exphydro@'"),
    ],
)
def test_what_has_no_scheme(name, match):
    with pytest.raises(ValueError, match=match):
        hs.models.get(name)


@fast
def test_more_refusals():
    with pytest.raises(ValueError, match="'tank' is given as rates, and runs by a scheme; found none"):
        hs.simulate(tank(), {"rain": torch.ones(1, 1)}, {"k": torch.ones(1, 1)})
    for n in (1.5, True, "2"):
        with pytest.raises(ValueError, match="must be a whole number, 1 or more; found"):
            hs.models.scheme(tank(), "rk4", n)
    with pytest.raises(ValueError, match="the step of parameter 'k' must be 'none'; found 'rate'"):
        tank(parameters=(Parameter("k", "d-1", "rate", 0.0, 5.0, step="rate"),))
    line = DelayLine("late", "mm", "late", 2, lambda k, p: [0.5, 0.5])
    with pytest.raises(ValueError, match="rates, which have no delay lines; found 'late'"):
        tank(lines=(line,))


def equations_of(step, **table):
    """A model whose step is given, of one store."""
    return replace(tank(**table), name="solved", reference_step=step, rates=False)


@fast
@pytest.mark.parametrize(
    "equations, match",
    [
        (lambda x: dict(y=x["water"]), "must return two mappings, residuals and values"),
        (lambda x: (dict(soil=x["water"]), {}), "must return a residual of water; found soil"),
        (lambda x: (dict(water=0 * x["water"] + implicit(lambda y: ({"z": y["z"]}, y), {"z": x["water"]})["z"]), {}),
         "neither in a loop nor in prepare"),
    ],
)  # fmt: skip
def test_wrong_equations_are_said_with_their_line(equations, match):
    def step(f, k, p, s):
        found = implicit(equations, {"water": s["water"]})
        return dict(water=s["water"]), dict(flow=found.get("y", 0 * s["water"]), content=s["water"])

    with pytest.raises(StepError, match=match) as caught:
        hs.compiler.header(equations_of(step))
    assert "test_rates.py:" in str(caught.value)


# --- Implicit steps --------------------------------------------------------------------------------------------------


def residuals(x, series, t):
    """|S(t) - S(t-1) - rates(S(t))| of a run's states by day, mm."""
    model = hs.models.RATES[x.model.name.partition("@")[0]]
    before = x.initial_state if t == 0 else {n: series[n][t - 1] for n in model.state_names}
    now = {n: series[n][t] for n in model.state_names}
    k = {"dt": 1.0} | {n: v[:, None] for n, v in x.inputs.items()}
    p = dict(x.parameters) | (model.prepare(k, x.parameters) if model.prepare else {})
    slopes, _ = model.reference_step({n: s[t, :, None] for n, s in x.forcing.items()}, k, p, now)
    return {n: (now[n] - before[n] - slopes[n]).abs() for n in now}


@pytest.fixture(scope="module")
def loaded(kernels):
    for name in (HBV, TOY):
        generated.load((hs.models.get(name),), schemes.re.sub(r"\W", "_", name), kernels)


@compiled
@pytest.mark.usefixtures("loaded")
class TestCompiled:
    pytestmark = pytest.mark.compile

    @pytest.mark.parametrize("name", [HBV, TOY])
    def test_every_cell_is_solved(self, name):
        """Floods, droughts, full and empty stores, parameters over their whole range: 600,000 cell-steps."""
        x = inputs(name, T=40, B=1000, C=15).without_water(slice(12, 20))
        for n in x.example.water:
            x.forcing[n][30:] += 200 * (x.forcing[n][30:] > 0)
        series = x.simulate(fluxes=x.model.state_names, components="each").fluxes
        for t in range(40):
            for n, r in residuals(x, series, t).items():
                assert r.max() <= 1e-10, (n, t)

    def test_single_precision(self):
        """Residuals of the weather of a year, of 8 spacings of the stores; and the run is that of double precision."""
        x = inputs(HBV, T=60, B=300, C=10)
        double = outputs(x, "cpu")
        single = outputs(x.to(torch.float32), "cpu")
        assert_close({n: s.double() for n, s in single.items()}, double, 2e-4)

    @pytest.mark.parametrize("name", [HBV, TOY])
    @pytest.mark.parametrize("options", ({}, {"components": "each"}), ids=("mean", "each"))
    def test_the_oracles_numbers_and_gradients(self, name, options):
        model = hs.models.get(name)
        for names in dict.fromkeys((model.parameter_names, model.parameter_names + model.optional_parameter_names)):
            variant = model, names
            adjoint.test_all_gradients_match_the_reference(variant, options, "some")
            adjoint.test_small_and_odd_sizes(variant, (9, 7, 1), options)
            adjoint.test_small_and_odd_sizes(variant, (1, 1, 1), options)
            adjoint.test_exact_ties(variant, options)

    @pytest.mark.parametrize("name", [HBV, TOY])
    def test_windows_threads_and_intervals(self, name):
        model = hs.models.get(name)
        adjoint.test_windows_chain((model, model.parameter_names), (5, 6, 17))
        adjoint.test_empty_stores_and_no_water((model, model.parameter_names))
        test_raw.test_all_gradients_match_the_reference((model, model.parameter_names), "some", {})
        x = inputs(name, T=23, B=75, C=3)
        expected = run_both_ways(x, checkpoint_interval=23)
        for threads, interval in ((1, 1), (1, 7), (3, 5)):
            torch.set_num_threads(threads)
            assert_same_bits(run_both_ways(x, checkpoint_interval=interval), expected)

    @pytest.mark.parametrize("name", [HBV, TOY])
    def test_finite_differences_of_the_solution(self, name):
        model = hs.models.get(name)
        variant = model, model.parameter_names
        adjoint.test_finite_differences(variant, {"components": "each"})
        adjoint.test_dot_product(variant, {})

    @pytest.mark.parametrize("name", [HBV, TOY])
    def test_tangents(self, name):
        model = hs.models.get(name)
        variant = model, model.parameter_names
        for make in (random_inputs, ties):
            sensitivity.test_forward_mode_matches_the_oracles(variant, make, (6, 5, 3), "each")
            sensitivity.test_every_column_matches_the_oracles_forward_mode(variant, make, (3, 5, 2))
        sensitivity.test_the_normal_equations_are_those_of_the_jacobian(variant, "root", (41, 19, 2))

    def test_many_sub_steps_of_both_kinds_have_one_limit(self):
        """And so have their gradients: four times the sub-steps bring the implicit ones that nearer to the explicit."""
        x = inputs("toy@rk4x16", T=6, B=4, C=2)
        x.forcing = {n: 0.2 * s for n, s in x.forcing.items()}  # no store comes to an edge
        x.initial_state = dict(soil=0.5 * x.parameters["capacity"], level=0 * x.parameters["capacity"] + 30)
        expected = run_both_ways(x, backend="reference", components="each")
        errors = []
        for n in (4, 16):
            x.model = hs.models.get(f"toy@backward_eulerx{n}")
            found = run_both_ways(x, backend="reference", components="each")
            errors.append({name: (found[name] - v).norm() / v.norm() for name, v in expected.items() if v.any()})
        for name, error in errors[0].items():
            assert error < 0.05 and errors[1][name] < max(0.4 * error, 2e-3), name

    @pytest.mark.parametrize("backend", ("cpu", "reference"))
    def test_equations_without_a_root(self, backend):
        def step(f, k, p, s):
            def equations(x):
                gap = x["water"] - s["water"]
                return dict(water=gap + relu(f["rain"] - 20) * (1 + gap * gap)), dict(x=x["water"])

            water = implicit(equations, dict(water=s["water"]), most=30)["x"]
            return dict(water=water), dict(flow=p["k"] * water, content=water)

        model = equations_of(step)
        rain = torch.zeros(4, 3, dtype=torch.float64)
        rain[2, 1] = 30.0
        given = {"rain": rain}, {"k": torch.ones(3, 1, dtype=torch.float64)}
        line = step.__code__.co_firstlineno + 5
        said = (
            rf"the equations of model solved must have a root within at most 30 passes \(.*test_rates.py:{line}\); "
            r"found a residual of \d+(\.\d+)? mm at step 2, basin 1, component 0: look at the forcing"
        )
        with pytest.raises(ValueError, match=said):
            hs.simulate(model, *given, backend=backend)
        run = hs.simulate(model, {"rain": rain[:2]}, given[1], backend=backend)
        assert run.fluxes["flow"].isfinite().all()


@fast
def test_a_cell_without_a_root_is_nan_and_noted():
    start = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    with noted_passes() as noted:
        found = implicit(lambda x: (dict(y=x["y"] * x["y"] - 4.0 + 5 * (start >= 2.5)), x), dict(y=start))
    assert found["y"][0, 0] == 2 and found["y"][0, 1].isnan()
    (where, (most, (file, _)), residual) = noted[0]
    assert where.tolist() == [[False, True]] and most == 50 and file == __file__ and residual[0, 1] >= 1
