"""Steps of other lengths than a day: the same water by the hour, one compiled graph for all, and what is refused."""

from dataclasses import replace

import pytest
import torch
from conftest import (
    ONE_EACH,
    OUTFLOW,
    VARIANTS,
    assert_close,
    assert_matches_reference,
    every_variant,
    gradients,
    has_kernel,
    one_of_each,
    random_inputs,
)
from models import example

import hybridsolve as hs
from hybridsolve.data.units import unit_at
from hybridsolve.spec import DAY

HOUR = 3600
# Models that have steps of their own, as their tables say, run at no other.
AT_STEPS = [
    pytest.param(v.values[0], step, id=f"{step}-{v.id}")
    for step in (HOUR, 3 * HOUR)
    for v in VARIANTS
    if v.values[0][0].steps is None or step in v.values[0][0].steps
]
at_any_step = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.values[0][0].steps is None])
one_at_any_step = pytest.mark.parametrize("variant", [v for v in ONE_EACH if v.values[0][0].steps is None])


def at_step(x, step):
    """The run with the forcing of each day shared out over its steps."""
    n, finer = DAY // step, {}
    for v in x.model.forcings:
        share = 1 / n if unit_at(v.unit, step) != v.unit else 1.0
        finer[v.name] = share * x.forcing[v.name].repeat_interleave(n, 0)
    return replace(x, forcing=finer)


def by_day(model, name, series, n):
    """Daily values out of n a day: the sum of a rate, the last of anything else."""
    days = series.unflatten(0, (-1, n))
    return days.sum(1) if model.variable(name).unit.endswith(" d-1") else days[:, -1]


@pytest.mark.oracle
@every_variant
@pytest.mark.parametrize("step", (HOUR, 3 * HOUR))
@pytest.mark.parametrize("backend", ("auto", "reference"))
def test_a_day_in_parts_is_a_day_where_it_can_be(variant, step, backend):
    """To rounding, for rates and fractions that are alone in what they empty."""
    model, cases = variant[0], example(variant[0]).exact()
    if not cases:
        pytest.skip(f"nothing is said of {model.name} that would be exact")
    if backend == "auto" and not has_kernel(*variant):
        pytest.skip(f"model {model.name} has no kernel in this build")
    for change in cases:
        x = random_inputs(variant, T=4, B=6, C=3)
        options = dict(fluxes=change(x), components="each", backend=backend)
        days = x.simulate(**options).fluxes
        parts = at_step(x, step).simulate(step=step, **options).fluxes
        assert all(v.any() for v in days.values())
        assert_close({n: by_day(model, n, v, DAY // step) for n, v in parts.items()}, days, 1e-12)


@pytest.mark.oracle
@every_variant
def test_shorter_steps_come_to_an_end(variant):
    """Each process is split from the next by a step's length, so that the error is in proportion to it."""
    if variant[0].steps is not None:
        pytest.skip(f"{variant[0].name} runs at steps of its own")
    x = random_inputs(variant, T=20, B=6, C=3)
    flow = {
        step: at_step(x, step).simulate(step=step, components="each", **OUTFLOW).fluxes[x.model.outflow].sum(0)
        for step in (DAY, 6 * HOUR, HOUR, HOUR // 4)
    }
    finest = flow.pop(HOUR // 4)
    day, quarter, hour = ((q - finest).abs().sum() / finest.sum() for q in flow.values())
    # A model in which no process depends on another within a step has no error, but for rounding.
    assert day < 1e-14 or (hour < quarter / 3 and quarter < day / 2), (day, quarter, hour)


@pytest.mark.parametrize("variant, step", AT_STEPS)
@pytest.mark.parametrize("options", ({}, {"components": "each"}, {"raw": True}), ids=("mean", "each", "raw"))
def test_gradients_match_the_reference(variant, step, options):
    """Of parameters as the table has them, through the conversion."""
    x = random_inputs(variant, T=9, B=4, C=3, per_step=variant[1][:1], weights=not options)
    if "raw" in options:
        x.parameters = {n: 4 * (p - p.mean()) / p.std() for n, p in x.parameters.items()}
    assert_matches_reference(x, step=step, **options)


@pytest.mark.oracle
@at_any_step
def test_parameters_at_their_bounds_are_taken_at_any_step(variant):
    """Though the conversion rounds."""
    for end in ("lower", "upper"):
        for dtype in (torch.float32, torch.float64):
            x = random_inputs(variant, T=3, B=2, C=2).to(dtype)
            x.parameters = {n: torch.full_like(p, getattr(x.model.variable(n), end)) for n, p in x.parameters.items()}
            for step in (HOUR, 3 * HOUR, 60):
                x.simulate(step=step)


@pytest.mark.oracle
@one_of_each
def test_a_value_out_of_bounds_is_said_as_the_table_has_it(variant):
    for v in variant[0].parameters:
        if v.step == "none" or v.scale == "log":
            continue
        for bad in (v.upper * 1.001, float("nan")):
            x = random_inputs(variant, T=3, B=2, C=2)
            x.parameters[v.name][1, 0] = bad
            with pytest.raises(
                ValueError, match=rf"parameter '{v.name}' .*; found {bad:.5g}.* at basin 1, component 0"
            ):
                x.simulate(step=HOUR)


@pytest.mark.compile
@one_at_any_step
def test_all_steps_in_one_compiled_function(variant):
    """One graph for all parts of a day, and one for a day, at which nothing is converted."""
    graphs = 0

    def counting(module, examples):
        nonlocal graphs
        graphs += 1
        return module.forward

    x = random_inputs(variant, T=8, B=3, C=2)

    def loss(tensors, step):
        return x.with_tensors(tensors).simulate(step=step).fluxes[x.model.outflow].square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counting)
    for step in (HOUR, 3 * HOUR, 2 * HOUR, DAY):
        found, expected = (
            gradients({"loss": function(leaves, step)}, leaves, {"loss": torch.ones((), dtype=torch.float64)})
            for function in (compiled, loss)
            for leaves in [{n: v.detach().requires_grad_() for n, v in x.tensors().items()}]
        )
        assert_close(found, expected, 1e-12)
        assert graphs == (2 if step == DAY else 1)


REFUSED = [
    (0, "step must be a whole number, 1 or more; found 0"),
    (-HOUR, "step must be a whole number, 1 or more; found -3600"),
    (3600.0, "step must be a whole number, 1 or more; found 3600.0"),
    (True, "step must be a whole number, 1 or more; found True"),
    (7 * HOUR, "model {model} runs at steps that divide a day; found 25200 s: aggregate or interpolate"),
    (2 * DAY, "model {model} runs at steps that divide a day; found 172800 s"),
]


@pytest.mark.oracle
@pytest.mark.parametrize("step, message", REFUSED, ids=[str(s) for s, _ in REFUSED])
def test_lengths_that_are_refused(step, message):
    x = random_inputs(VARIANTS[-1].values[0], T=3, B=2, C=2)
    with pytest.raises(ValueError, match=message.replace("{model}", x.model.name)):
        x.simulate(step=step)


@pytest.mark.oracle
@one_of_each
def test_a_model_with_lengths_of_its_own_refuses_others(variant):
    x = random_inputs(variant, T=3, B=2, C=2)
    x.model = replace(x.model, name="daily", steps=(DAY, 2 * DAY))
    with pytest.raises(ValueError, match="model daily runs at steps of 86400 s, 172800 s; found 3600 s: aggregate"):
        x.simulate(step=HOUR)
    assert hs.simulate(x.model, x.forcing, x.parameters, inputs=x.inputs, backend="reference").fluxes
