"""Runs cut into pieces of basins and windows of time: the numbers of the whole."""

import re

import pytest
import torch
from conftest import assert_close, assert_same_bits, cotangents, every_variant, gradients, random_inputs, uniform
from models.toy import toy

import hybridsolve as hs
from hybridsolve import scale
from hybridsolve.scale import stream

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_device = pytest.mark.parametrize("device", DEVICES)
OPTIONS = [{}, {"components": "each"}]


def streamed(x, device, **options):
    leaves = {n: v.detach().requires_grad_() for n, v in x.tensors().items()}
    y = x.with_tensors(leaves)
    run = scale.simulate(
        y.model,
        y.forcing,
        y.parameters,
        inputs=y.inputs,
        initial_state=y.initial_state,
        weights=y.weights,
        device=device,
        fluxes=x.model.output_names,
        **options,
    )
    outputs = run.fluxes | {f"final {n}": v for n, v in run.final_state.items()}
    return {n: v.detach() for n, v in outputs.items()} | gradients(outputs, leaves), run.plan


def whole(x, device, **options):
    leaves = {n: v.detach().to(device).requires_grad_() for n, v in x.tensors().items()}
    outputs = x.with_tensors(leaves).outputs(**options)
    d_outputs = {n: d.to(device) for n, d in cotangents({n: v.cpu() for n, v in outputs.items()}).items()}
    found = {n: v.detach() for n, v in outputs.items()} | gradients(outputs, leaves, d_outputs)
    return {n: v.cpu() for n, v in found.items()}


@every_variant
@every_device
@pytest.mark.parametrize("options", OPTIONS, ids=("mean", "each"))
@pytest.mark.parametrize("memory", (2**30, 25_000, 6_000))
def test_pieces_give_the_numbers_of_the_whole(variant, device, options, memory, monkeypatch):
    monkeypatch.setattr(stream, "FILLS_A_CARD", 9)  # a card of nine cells, so that windows are wanted too
    x = random_inputs(variant, T=23, B=7, C=3, weights=not options, per_step=variant[1][::4])
    expected = whole(x, device, **options)
    lines = 100 * sum(line.slots for line in x.model.lines) if memory == 6_000 else 0  # one step has to fit
    found, plan = streamed(x, device, memory=memory + lines, **options)
    assert (plan.basins, plan.steps) == {2**30: (7, 23)}.get(memory, (plan.basins, plan.steps))
    assert memory == 2**30 or plan.basins < 7
    assert memory != 6_000 or plan.steps < 23
    forward = [n for n in expected if not n.startswith("d ")]
    assert_same_bits({n: found[n] for n in forward}, {n: expected[n] for n in forward})
    assert_close(found, expected, 1e-12)
    if plan.steps == 23:
        assert_same_bits(found, expected)


@every_variant
@every_device
def test_shared_axes(variant, device, monkeypatch):
    monkeypatch.setattr(stream, "FILLS_A_CARD", 6)
    x = random_inputs(variant, T=12, B=6, C=2, weights=True, per_step=variant[1])
    names = iter("tbctb" * 10)

    def shared(name, v):
        axes = "tb" if name.startswith("forcing") else "tbc" if name.startswith("parameters") else "bc"
        gone = next(names)
        cut = tuple(slice(0, 1) if a == gone else slice(None) for a in axes[-v.dim() :])
        return v[(..., *cut)]  # before the axes there are the slots of a delay line

    x = x.map(shared)
    found, plan = streamed(x, device, memory=7_000)
    assert plan.steps < 12 and plan.basins < 6
    assert_close(found, whole(x, device), 1e-12)


def test_static_inputs_and_delay_lines_in_pieces():
    """By the oracle, at a step of an hour: results, final contents of the delay line, and gradients."""
    forcing = {"rainfall": 3 * uniform(9, 6) ** 2, "demand": uniform(9, 6, seed=1)}
    values = toy.parameters_from_unit({v.name: uniform(6, 2, seed=i) for i, v in enumerate(toy.free_parameters)})
    values = {name: x.requires_grad_() for name, x in values.items()}
    slope = uniform(6, seed=9)
    options = dict(inputs={"slope": slope}, step=3600, fluxes=("discharge", "soil"), backend="reference")
    runs = (
        hs.simulate(toy, forcing, values, **options),
        scale.simulate(toy, forcing, values, device="cpu", memory=6_000, **options),
    )
    assert runs[1].plan.basins < 6 or runs[1].plan.steps < 9
    found = []
    for run in runs:
        outputs = run.fluxes | {f"final {name}": x for name, x in run.final_state.items()}
        found.append({name: x.detach() for name, x in outputs.items()} | gradients(outputs, values))
    assert "final channel" in found[0]
    assert_close(found[1], found[0], 1e-12)


@every_device
def test_without_gradient_nothing_is_kept_for_it(device):
    x = random_inputs((hs.models.get("hbv10"), hs.models.get("hbv10").parameter_names), T=20, B=9, C=2)
    run = scale.simulate(x.model, x.forcing, x.parameters, device=device, memory=10_000)
    assert not run.fluxes["streamflow"].requires_grad
    x.parameters["fc"].requires_grad_()
    again = scale.simulate(x.model, x.forcing, x.parameters, device=device, memory=10_000)
    assert again.plan.steps < run.plan.steps
    assert_same_bits({"q": again.fluxes["streamflow"].detach()}, {"q": run.fluxes["streamflow"]})


def test_the_plan_keeps_to_the_memory_and_says_what_it_is():
    about = dict(n_forcings=3, n_states=5, n_static=12, n_per_step=0, n_outputs=1, each=False, itemsize=4)
    for gradient in (False, True):
        for memory in (10**9, 10**10, 8 * 10**10):
            plan = scale.plan((14_600, 180_000, 4), gradient=gradient, memory=memory, **about)
            assert plan.bytes_of_a_piece <= memory < 4 * plan.bytes_of_a_piece or plan.basins == 180_000
            covered = [(b.stop - b.start) * (t.stop - t.start) for b, windows in plan.pieces() for t in windows]
            assert sum(covered) == 14_600 * 180_000
    assert re.fullmatch(r"\d+ x \d+ pieces of \d+ basins x \d+ steps, .* GiB of .* GiB", str(plan))
    with pytest.raises(ValueError, match="one step of one basin with 4 components takes .* bytes .*, but memory is 10"):
        scale.plan((10, 10, 4), gradient=True, memory=10, **about)


def test_what_is_asked_of_a_plan_is_looked_at():
    about = dict(n_forcings=3, n_states=5, n_static=12, n_per_step=0, n_outputs=1, each=False, gradient=False)
    for wrong, match in (
        (dict(memory=1e9), "memory must be a whole number, none below 0; found 1000000000.0"),
        (dict(itemsize=0), "itemsize must .*; found 0"),
        (dict(n_states=-1), "n_states must .*; found -1"),
        (dict(sizes=(10, 0, 4)), "B must .*; found 0"),
    ):
        with pytest.raises(ValueError, match=match):
            scale.plan(**dict(sizes=(10, 10, 4), itemsize=4, memory=10**6) | about | wrong)


def test_a_second_derivative_is_refused():
    x = random_inputs((hs.models.get("hbv10"), hs.models.get("hbv10").parameter_names), T=6, B=3, C=2)
    fc = x.parameters["fc"].requires_grad_()
    flow = scale.simulate(x.model, x.forcing, x.parameters, device="cpu", memory=10**6).fluxes["streamflow"]
    (d_fc,) = torch.autograd.grad(flow.square().sum(), fc, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives of hybridsolve are not implemented"):
        d_fc.sum().backward()


def test_memory_that_is_not_there(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    x = random_inputs((hs.models.get("hbv10"), hs.models.get("hbv10").parameter_names))
    monkeypatch.setattr(hs.solve.compiled.Cpu, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="no room for a run in .* pieces of .*: call with memory="):
        scale.simulate(x.model, x.forcing, x.parameters, device="cpu", memory=10**6)


def test_bad_input_is_said():
    x = random_inputs((hs.models.get("hbv10"), hs.models.get("hbv10").parameter_names))
    with pytest.raises(ValueError, match="forcing lacks 'pet'"):
        scale.simulate(x.model, {n: x.forcing[n] for n in ("prcp", "tmean")}, x.parameters, device="cpu", memory=10**6)
    with pytest.raises(ValueError, match="the free memory of cpu is not known; say with memory="):
        scale.simulate(x.model, x.forcing, x.parameters, device="cpu")
    for device in ("meta", "mps", "gpu", 3.5):
        with pytest.raises(ValueError, match=f"device must be 'cuda', .* or 'cpu'; found {device!r}"):
            scale.simulate(x.model, x.forcing, x.parameters, device=device, memory=10**6)
    with pytest.raises(ValueError, match="memory must be a whole number, none below 0; found '1G'"):
        scale.simulate(x.model, x.forcing, x.parameters, device="cpu", memory="1G")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="torch finds no GPU; run on the CPU with device='cpu'"):
            scale.simulate(x.model, x.forcing, x.parameters)
    x.forcing["prcp"][20, 4] = float("nan")
    with pytest.raises(ValueError, match="forcing 'prcp' must lie in .* found nan at step 20, basin 4: fill"):
        scale.simulate(x.model, x.forcing, x.parameters, device="cpu", memory=9_000)
