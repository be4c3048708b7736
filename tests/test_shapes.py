"""Every shape, stride and shared axis that the interface allows, against the oracle."""

import pytest
import torch
from conftest import (
    assert_close,
    assert_matches_reference,
    assert_same_bits,
    cotangents,
    every_variant,
    random_inputs,
    run_both_ways,
)

SHARED = {
    "forcing": [(1, "B"), ("T", 1), (1, 1)],
    "static": [(1, "C"), ("B", 1), (1, 1)],
    "per-step": [
        (1, "B", "C"),
        ("T", 1, "C"),
        ("T", "B", 1),
        ("T", 1, 1),
        (1, "B", 1),
        (1, 1, "C"),
        (1, 1, 1),
    ],
    "state": [(1, "C"), ("B", 1), (1, 1)],
    "weights": [(1, "C"), ("B", 1), (1, 1)],
}


def resized(x: torch.Tensor, shape) -> torch.Tensor:
    """The first entry of each axis that is to have size 1; before the axes there are the slots of a delay line."""
    return x[(..., *(slice(0, 1) if s == 1 else slice(None) for s in shape))]


@every_variant
@pytest.mark.parametrize("C", (1, 3, 4, 16, 17, 33, 1000))
@pytest.mark.parametrize("options", ({}, {"components": "each"}), ids=("mean", "each"))
def test_components(variant, C, options):
    assert_matches_reference(
        random_inputs(variant, T=6, B=3, C=C, per_step=variant[1][:1], weights=C == 17 and not options),
        **options,
    )


@every_variant
@pytest.mark.parametrize("B, C", [(1, 100_000), (1001, 3), (77, 16)])
@pytest.mark.parametrize("options", ({}, {"components": "each"}), ids=("mean", "each"))
def test_many_cells(variant, B, C, options):
    assert_matches_reference(random_inputs(variant, T=2, B=B, C=C), fluxes=None, **options)


@every_variant
@pytest.mark.parametrize("kind, shape", [(k, s) for k, shapes in SHARED.items() for s in shapes], ids=str)
@pytest.mark.parametrize("C", (3, 20))
def test_an_axis_of_size_one_is_shared_and_so_is_its_gradient(variant, kind, shape, C):
    names = variant[1]
    x = random_inputs(variant, T=8, B=5, C=C, weights=True, per_step=names if kind == "per-step" else ())
    x.example.apart(x)
    prefix = {
        "forcing": "forcing",
        "static": "parameters",
        "per-step": "parameters",
        "state": "initial_state",
        "weights": "weights",
    }[kind]
    fits = lambda name, v: name.startswith(prefix) and v.dim() >= len(shape)  # noqa: E731
    assert_matches_reference(x.map(lambda name, v: resized(v, shape) if fits(name, v) else v))


@every_variant
def test_a_single_shared_tensor_among_full_ones(variant):
    """One at a time, so that a mix-up between tensors shows."""
    x = random_inputs(variant, T=6, B=4, C=2, weights=True)
    for name, v in x.tensors().items():
        for shape in ((1, v.shape[-1]), (v.shape[-2], 1)):
            assert_matches_reference(x.with_tensors({name: resized(v, shape)}), fluxes=x.example.pair)


@every_variant
def test_everything_shared_but_one_series(variant):
    """Sizes come from whichever input has them."""
    x = random_inputs(variant, T=9, B=4, C=3).map(lambda _, v: resized(v, (1, 1)))
    series, name = x.model.forcing_names[1], variant[1][3]
    x.forcing[series] = x.forcing[series].expand(9, 4) + torch.arange(36).view(9, 4)
    x.parameters[name] = x.parameters[name].expand(1, 3)
    assert x.outputs(components="each")[x.model.outflow].shape == (9, 4, 3)
    assert_matches_reference(x)


@every_variant
def test_storage_order_changes_nothing(variant):
    x = random_inputs(variant, T=10, B=37, C=3, weights=True, per_step=variant[1][:3])
    expected = run_both_ways(x)

    def restored(_, v):  # last axis first in memory, as data that was read basin by basin lies
        order = tuple(reversed(range(v.dim())))
        return v.permute(order).contiguous().permute(order)

    for stored in (restored, lambda _, v: torch.stack([v, v], -1)[..., 1]):
        strided = x.map(stored)
        assert not any(v.is_contiguous() for v in strided.tensors().values())
        leaves = {n: v.requires_grad_() for n, v in strided.tensors().items()}
        outputs = strided.with_tensors(leaves).outputs()
        found = torch.autograd.grad(list(outputs.values()), list(leaves.values()), list(cotangents(outputs).values()))
        assert_same_bits(outputs | {f"d {n}": g for n, g in zip(leaves, found, strict=True)}, expected)


@every_variant
def test_strided_cotangents(variant):
    x = random_inputs(variant, T=10, B=37, C=3)
    for options in ({}, {"components": "each"}):
        d_outputs = cotangents(x.outputs(**options))
        order = {n: tuple(reversed(range(d.dim()))) for n, d in d_outputs.items()}
        strided = {n: d.permute(order[n]).contiguous().permute(order[n]) for n, d in d_outputs.items()}
        assert_same_bits(run_both_ways(x, strided, **options), run_both_ways(x, d_outputs, **options))
        ones = {n: torch.ones_like(d) for n, d in d_outputs.items()}
        expanded = {n: d.new_ones(()).expand(d.shape) for n, d in d_outputs.items()}
        assert_same_bits(run_both_ways(x, expanded, **options), run_both_ways(x, ones, **options))


@every_variant
def test_an_expanded_tensor_has_a_dense_gradient(variant):
    x = random_inputs(variant, T=8, B=5, C=3, weights=True, per_step=variant[1][:2])
    first = lambda n, v: resized(v, (1, 1)) if n.startswith("initial_state") else v[:1, :1]  # noqa: E731
    full = x.map(lambda n, v: first(n, v).expand(v.shape))
    assert_close(run_both_ways(full), run_both_ways(full.map(lambda _, v: v.contiguous()), backend="reference"), 1e-10)
    leaves = {n: first(n, v).clone().requires_grad_() for n, v in x.tensors().items()}
    expanded = {n: v.expand(x.tensors()[n].shape) for n, v in leaves.items()}
    outputs = full.with_tensors(expanded).outputs()
    for g, v in zip(
        torch.autograd.grad(sum(o.sum() for o in outputs.values()), list(expanded.values())),
        expanded.values(),
        strict=True,
    ):
        assert g.shape == v.shape and g.isfinite().all()


@pytest.mark.oracle
@every_variant
def test_outputs_come_in_the_order_asked(variant):
    x = random_inputs(variant)
    everything = x.simulate(fluxes=x.model.output_names).fluxes
    for names in (x.model.output_names[::-1], x.model.output_names[1::3], x.model.state_names, x.model.flux_names[-1:]):
        found = x.simulate(fluxes=names).fluxes
        assert list(found) == list(names)
        assert_same_bits(found, {n: everything[n] for n in names})
    assert list(x.simulate().fluxes) == [x.model.outflow]
    store = x.model.state_names[0]
    assert_same_bits(x.simulate(fluxes=store).fluxes, {store: everything[store]})


@pytest.mark.oracle
@every_variant
def test_a_state_series_ends_in_the_final_state(variant):
    run = random_inputs(variant).simulate(fluxes=variant[0].state_names, components="each")
    assert_same_bits({n: x[-1] for n, x in run.fluxes.items()}, {n: run.final_state[n] for n in run.fluxes})


@pytest.mark.oracle
@every_variant
def test_mean_and_weights_are_those_of_the_components(variant):
    x = random_inputs(variant, C=5, weights=True)
    weights, x.weights = x.weights, None
    each = x.simulate(fluxes=x.model.output_names, components="each").fluxes
    mean = x.simulate(fluxes=x.model.output_names).fluxes
    assert_close(mean, {n: v.mean(-1) for n, v in each.items()}, 1e-14)
    x.weights = weights
    assert_close(
        x.simulate(fluxes=x.model.output_names).fluxes,
        {n: (v * weights).sum(-1) for n, v in each.items()},
        1e-14,
    )


@pytest.mark.oracle
@every_variant
def test_stores_start_where_the_table_says(variant):
    x = random_inputs(variant)
    start = x.model.initial_state(x.parameters)
    x.initial_state = {n: torch.as_tensor(v, dtype=torch.float64).expand(5, 3) for n, v in start.items()}
    full = x.outputs()
    x.initial_state = {n: x.initial_state[n] for n in x.model.state_names[-1:]}
    assert_same_bits(x.outputs(), full)
    x.initial_state, x.model = {}, x.model.name
    found = x.simulate().final_state
    assert_same_bits(found, {n: full[f"final {n}"] for n in found})
