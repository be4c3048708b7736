"""A network cut at confluences, part after part: the bits of the whole, whatever the scheme, the state and the cut."""

import numpy as np
import pytest
import torch

from hybridsolve.routing import RiverNetwork, cut_parts, route, route_parts
from hybridsolve.routing.muskingum import Boundary


def network(n=700, seed=1):
    rivers = RiverNetwork.random(n, seed)
    rivers.attributes["k"] = np.random.default_rng(0).uniform(2000, 9000, n)
    return rivers


def lateral_of(rivers, n_steps, dtype, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    return 4 * torch.rand(n_steps, rivers.n_reaches, generator=numbers, dtype=dtype) ** 3


@pytest.mark.parametrize("most", [9, 60, 10_000])
def test_parts_are_the_network_once_and_small_enough(most):
    rivers = network()
    parts = cut_parts(rivers, most)
    own = np.concatenate([part.network.order[part.own] for part in parts])
    np.testing.assert_array_equal(np.sort(own), np.arange(rivers.n_reaches))
    assert max(part.network.n_reaches for part in parts) <= most
    assert len(parts) < 4 * rivers.n_reaches / most + len(parts[-1:]) + parts[-1].depth + 1
    boundary = {}
    for part in parts:
        for i in part.receives:
            assert boundary.pop(i) < part.depth
            assert part.network.first[part.network.index(i)] == part.network.first[part.network.index(i) + 1]
        boundary |= dict.fromkeys(part.exports.tolist(), part.depth)
        # within a part each reach flows as in the whole
        here = part.network
        inner = here.downstream >= 0
        whole = rivers.downstream[here.order[inner]]
        np.testing.assert_array_equal(here.order[here.downstream[inner]], whole)
    assert not boundary


@pytest.mark.parametrize("scheme", ["todini", "ddr", "muskingum", "accumulate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_part_after_part_has_the_bits_of_the_whole(scheme, dtype):
    rivers, n_days = network(), 5
    lateral = lateral_of(rivers, n_days, dtype)
    options = dict(dt=3600, scheme=scheme, repeat=24)
    whole = route(rivers, lateral, ids="network", **options)
    found, final = torch.empty_like(whole.discharge), {k: torch.empty_like(x) for k, x in whole.final_state.items()}
    parts = cut_parts(rivers, 20)
    assert parts[-1].depth > 3
    for part, routed in route_parts(parts, lambda part: lateral[:, part.network.order], **options):
        at = part.network.order[part.own]
        np.testing.assert_array_equal(routed.ids, rivers.ids[at])
        found[:, at] = routed.discharge
        for name, x in final.items():
            x[at] = routed.final_state[name][part.own]
    assert torch.equal(found, whole.discharge)
    for name, x in final.items():
        assert torch.equal(x, whole.final_state[name])


def test_gauges_alone_are_kept_and_received_inflow_is_not_used():
    rivers = network(300, 2)
    lateral = lateral_of(rivers, 30, torch.float32)
    gauges = rivers.ids[[5, 120, 299]].tolist()
    whole = route(rivers, lateral, ids="network", dt=3600, gauges=gauges)

    def other(part):
        x = lateral[:, part.network.order]
        x[:, part.network.index(part.receives)] = 77
        return x

    found = {}
    for _, routed in route_parts(cut_parts(rivers, 40), other, gauges=gauges, dt=3600):
        found |= dict(zip(routed.ids.tolist(), routed.discharge.T, strict=True))
    assert sorted(found) == sorted(gauges)
    for k, i in enumerate(gauges):
        assert torch.equal(found[i], whole.discharge[:, k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reach_has_its_bits_among_any_others(dtype):
    """Its constants too, which torch makes: on the last numbers of an array it rounds otherwise."""
    rivers = network(1003, 4)
    lateral = lateral_of(rivers, 20, dtype)
    whole = route(rivers, lateral, ids="network", dt=3600)
    gauge = rivers.ids[rivers.upstream_area().argsort()[-3:]]
    for some in ([gauge[0]], gauge):
        part = rivers.prune(some)
        alone = route(part, lateral[:, part.order], ids="network", dt=3600)
        assert torch.equal(alone.discharge, whole.discharge[:, part.order])


def test_what_cannot_be_cut_or_given_is_refused():
    rivers = network(100)
    with pytest.raises(ValueError, match="most must be a whole number, 3 or more"):
        cut_parts(rivers, 2)
    lateral = lateral_of(rivers, 4, torch.float32)
    last = Boundary(rivers.ids[-1:], torch.ones(4, 2, 1), torch.ones(1))
    with pytest.raises(ValueError, match="without any upstream here"):
        route(rivers, lateral, ids="network", dt=3600, boundary=last)
    short = Boundary(rivers.ids[:1], torch.ones(3, 2, 1), torch.ones(1))
    with pytest.raises(ValueError, match=r"must hold series \[4, 2, 1\]"):
        route(rivers, lateral, ids="network", dt=3600, boundary=short)
    exports = rivers.ids[-2:].tolist()
    with pytest.raises(NotImplementedError, match="backend 'cpu' without gradients; found 'cpu' and a gradient"):
        route(rivers, lateral.requires_grad_(), ids="network", dt=3600, exports=exports)
    with pytest.raises(NotImplementedError, match="found 'reference'"):
        route(rivers, lateral.detach(), ids="network", dt=3600, exports=exports, backend="reference")
