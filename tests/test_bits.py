"""The same bits however the work is cut: threads, checkpoints, basins; and, forwards, windows."""

import itertools

import pytest
import torch
from conftest import (
    OUTFLOW,
    assert_same_bits,
    both_precisions,
    cotangents,
    every_variant,
    normal,
    random_inputs,
    run_both_ways,
    uniform,
)

import hybridsolve as hs

OPTIONS = [{}, OUTFLOW, {"components": "each"}]
every_way = pytest.mark.parametrize("options", OPTIONS, ids=("mean", "outflow", "each"))
components = pytest.mark.parametrize("C", (1, 3, 17))


def inputs(variant, dtype, C, T=11, B=150, **options):
    """Enough basins for several blocks of the kernel, and a number of them that fills no pack."""
    first, *others = variant[1]
    moving = [first, *others[:-1][:1]]
    shared = others[len(moving) - 1]
    x = random_inputs(variant, T, B + 1, C, dtype=dtype, weights=not options.get("components"), per_step=moving)
    x.parameters[shared] = x.parameters[shared][:, :1]
    x.parameters[first] = x.parameters[first][:, :, :1]
    # Stores of these parameters: one that another capacity has filled may be many times over its own.
    seeds = itertools.count(500)
    stores = x.example.state(x.parameters, (B + 1, C), lambda *shape: uniform(*shape, seed=next(seeds)))
    x.initial_state |= {name: s.to(dtype) for name, s in stores.items()}
    return x


@every_variant
@every_way
@components
@both_precisions
def test_threads_and_intervals(variant, options, C, dtype):
    x = inputs(variant, dtype, C, **options)
    torch.set_num_threads(1)
    expected = run_both_ways(x, **options)
    for threads, interval in ((2, None), (3, 1), (1, 7), (2, 11), (3, 100)):
        torch.set_num_threads(threads)
        assert_same_bits(run_both_ways(x, checkpoint_interval=interval, **options), expected)


@every_variant
@every_way
@components
@both_precisions
def test_chunks_of_basins(variant, options, C, dtype):
    x = inputs(variant, dtype, C, **options)
    d_outputs = cotangents(x.outputs(**options))
    whole = run_both_ways(x, d_outputs, **options)
    # The axis of basins: 0 in a state, a static parameter and the weights, 1 in a series.
    cells = ("final", "d parameters", "d initial_state", "d weights")
    axis = {n: 0 if n.startswith(cells) and v.dim() == 2 else 1 for n, v in whole.items()}
    for cuts in ((0, 64, 151), (0, 1, 2, 40, 151)):
        parts = []
        for start, end in zip(cuts, cuts[1:], strict=False):
            cut = {n: v.narrow(axis[n], start, end - start) for n, v in d_outputs.items()}
            parts.append(run_both_ways(x.basins(slice(start, end)), cut, **options))
        assert_same_bits({n: torch.cat([p[n] for p in parts], axis[n]) for n in whole}, whole)


@every_variant
@both_precisions
def test_windows_give_the_bits_of_the_whole(variant, dtype):
    x = inputs(variant, dtype, C=3, T=23)
    whole = x.simulate(fluxes=x.model.output_names)
    for length in (1, 5, 22):
        series, state = [], x.initial_state
        for start in range(0, 23, length):
            window = x.steps(slice(start, start + length))
            window.initial_state = state
            run = window.simulate(fluxes=x.model.output_names)
            state = run.final_state
            series.append(run.fluxes)
        assert_same_bits({n: torch.cat([s[n] for s in series]) for n in whole.fluxes}, whole.fluxes)
        assert_same_bits(state, whole.final_state)


@every_variant
@both_precisions
def test_asking_for_less_changes_nothing(variant, dtype):
    """One series alone, without gradient, has the bits it has beside all others."""
    x = inputs(variant, dtype, C=3)
    everything = x.outputs()
    for name in x.model.output_names:
        with torch.no_grad():
            assert_same_bits(x.simulate(fluxes=[name]).fluxes, {name: everything[name]})


@both_precisions
@pytest.mark.parametrize("N", (80, 151))
def test_unit_hydrograph(dtype, N):
    q, a, b = (
        9 * uniform(40, N, dtype=dtype),
        2.9 * uniform(N, seed=1, dtype=dtype),
        6 * uniform(N, seed=2, dtype=dtype),
    )
    memory = 9 * uniform(14, N, seed=3, dtype=dtype)
    d_out = normal(40, N, dtype=dtype)

    def both_ways(columns=slice(None)):
        leaves = [x[..., columns].clone().requires_grad_() for x in (q, a, b, memory)]
        out = hs.unit_hydrograph(*leaves)
        return dict(zip("xqabm", (out.detach(), *torch.autograd.grad(out, leaves, d_out[:, columns])), strict=True))

    torch.set_num_threads(1)
    whole = both_ways()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert_same_bits(both_ways(), whole)
    parts = [both_ways(slice(0, 70)), both_ways(slice(70, None))]
    assert_same_bits({n: torch.cat([p[n] for p in parts], -1) for n in whole}, whole)
    for length in (1, 6, 14, 15, 39):
        windows, carried = [], memory
        for start in range(0, 40, length):
            out, carried = hs.unit_hydrograph(q[start : start + length], a, b, carried, return_memory=True)
            windows.append(out)
        assert_same_bits({"x": torch.cat(windows), "memory": carried}, {"x": whole["x"], "memory": q[-14:]})
