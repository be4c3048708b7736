"""River networks: their order by hand and by slow loops, others made of one, and their files."""

import re

import numpy as np
import pytest
import xarray as xr
from river_networks import (
    IDS,
    LENGTH,
    TO,
    assert_in_order,
    assert_one_sentence,
    assert_same,
    chain,
    slow_sum,
    small,
    tangle,
)

from hybridsolve.routing.network import RiverNetwork

# --- Order -------------------------------------------------------------------------------------------------------


def test_order_by_hand():
    network = small()
    assert_in_order(network, IDS, [t or None for t in TO])
    assert network.ids.tolist() == [10, 20, 30, 40, 60, 50, 70]
    assert network.order.tolist() == [1, 6, 4, 3, 5, 0, 2]
    assert network.downstream.tolist() == [2, 2, 5, 5, 6, -1, -1]
    assert network.first.tolist() == [0, 0, 0, 2, 2, 2, 4, 5]
    assert network.level_start.tolist() == [0, 2, 5, 7]
    assert (network.n_reaches, network.n_levels) == (7, 3)
    assert network.attributes["length"].tolist() == [1, 2, 3, 4, 6, 5, 7]
    assert repr(network) == "RiverNetwork(7 reaches, 3 levels, 2 outlets; length)"


def test_order_of_a_tangle():
    ids, downstream = tangle()
    network = RiverNetwork.from_downstream(downstream, ids, row=np.arange(len(ids)))
    assert np.diff(network.first).max() > 3 and len(network.outlets) > 3
    assert_in_order(network, ids.tolist(), [None if d < 0 else ids[d] for d in downstream])
    np.testing.assert_array_equal(network.attributes["row"], network.order)


@pytest.mark.parametrize("n", (1, 2, 3000))
def test_order_of_a_chain_and_of_a_star(n):
    assert chain(n).downstream.tolist() == [*range(1, n), -1] and chain(n).n_levels == n
    star = RiverNetwork.from_downstream([-1] + [0] * (n - 1))
    assert star.ids.tolist() == [*range(1, n), 0] and star.first.tolist() == [0] * n + [n - 1]
    assert_in_order(star, list(range(n)), [None] + [0] * (n - 1))


def test_rows_in_another_order_give_the_same_network():
    ids, downstream = tangle(800)
    to = np.where(downstream < 0, 0, ids[downstream])
    ids, to = ids + 10_000, np.where(to == 0, 0, to + 10_000)
    rain = np.random.default_rng(1).random(800)
    p = np.random.default_rng(2).permutation(800)
    a, b = RiverNetwork.from_ids(ids, to, rain=rain), RiverNetwork.from_ids(ids[p], to[p], rain=rain[p])
    assert_same(a, b)
    assert a.fingerprint == b.fingerprint and not np.array_equal(a.order, b.order)
    np.testing.assert_array_equal(a.accumulate(a.attributes["rain"]), b.accumulate(b.attributes["rain"]))


def test_accumulate():
    network = small()
    assert network.accumulate(network.attributes["length"]).tolist() == [1, 2, 6, 4, 6, 15, 13]
    ids, downstream = tangle()
    values = np.random.default_rng(3).random((2, 3, len(ids)))
    network = RiverNetwork.from_downstream(downstream, ids, area=values[0, 0])
    given = values[..., network.order]
    before = given.copy()
    found = network.accumulate(given)
    assert found.shape == given.shape and np.array_equal(given, before)
    for place in np.ndindex(2, 3):
        expected = np.array(slow_sum(downstream.tolist(), values[place].tolist()))
        np.testing.assert_allclose(found[place], expected[network.order], rtol=1e-13)
    np.testing.assert_array_equal(network.upstream_area(), found[0, 0])


def test_index_and_fingerprint():
    network = small()
    assert network.index([70, 10, 70]).tolist() == [6, 0, 6]
    assert network.index(40) == 3 and network.index(40).shape == ()
    renamed = RiverNetwork.from_downstream(network.downstream, network.ids + 1)
    others = [small(n=LENGTH), chain(7), RiverNetwork.from_ids(IDS, [*TO[:-1], 40]), renamed]
    assert np.array_equal(renamed.downstream, network.downstream)
    assert re.fullmatch("[0-9a-f]{64}", network.fingerprint)
    assert [x.fingerprint == network.fingerprint for x in others] == [True, False, False, False]


# --- Random ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", (1, 2, 7, 1000, 5003))
def test_random_is_a_lattice_of_exactly_n(n):
    network = RiverNetwork.random(n, seed=4)
    to = np.where(network.downstream < 0, 0, network.ids[network.downstream])
    rows = np.argsort(network.order)
    assert_in_order(network, list(range(1, n + 1)), [t or None for t in to[rows].tolist()])
    assert network.n_reaches == n and 1.2 * n**0.5 - 1 <= network.n_levels <= 1.3 * n**0.5 + 1
    assert np.diff(network.first).max(initial=0) <= 2


def test_random_accumulates_as_a_slow_loop_does():
    network = RiverNetwork.random(5000)
    down = network.downstream.tolist()
    np.testing.assert_array_equal(network.accumulate(np.ones(5000)), slow_sum(down, [1.0] * 5000))
    assert network.accumulate(np.ones(5000))[network.outlets].sum() == 5000
    area = network.attributes["area"]
    np.testing.assert_allclose(network.upstream_area(), slow_sum(down, area.tolist()), rtol=1e-13)


def test_random_attributes_are_plausible():
    network = RiverNetwork.random(20_000)
    bounds = {"n": (0.03, 0.1), "p": (10, 60), "q": (0.1, 0.9), "x": (0.2, 0.35), "slope": (1e-4, 0.1)}
    assert set(network.attributes) == {*bounds, "length", "area"}
    for name, (lower, upper) in bounds.items():
        x = network.attributes[name]
        assert lower <= x.min() < x.max() <= upper, name
    assert 2000 < np.median(network.attributes["length"]) < 5000 and network.attributes["length"].min() > 0
    assert 3e6 < np.median(network.attributes["area"]) < 8e6 and network.attributes["area"].min() > 0
    slope, large = network.attributes["slope"], network.upstream_area() > 1e9
    assert large.sum() > 100 and slope[large].mean() < 0.2 * slope[network.headwaters].mean()


def test_seeds_reproduce():
    a, b, c = (RiverNetwork.random(500, seed=s) for s in (1, 1, 2))
    assert_same(a, b)
    assert a.fingerprint != c.fingerprint
    assert all((a.attributes[name] != c.attributes[name]).all() for name in ("length", "n", "p", "q", "x", "area"))


# --- Others made of one --------------------------------------------------------------------------------------------


def test_prune_by_hand():
    network = small()
    assert network.prune([30]).ids.tolist() == [10, 20, 30]
    pruned = network.prune([30, 10, 70])  # 10 lies upstream of 30
    assert pruned.ids.tolist() == [10, 20, 60, 30, 70] and pruned.downstream.tolist() == [3, 3, 4, -1, -1]
    assert pruned.attributes["length"].tolist() == [1, 2, 6, 3, 7]
    assert_same(network.prune(network.ids), network)


def test_prune_keeps_all_upstream():
    network = RiverNetwork.random(3000)
    total = network.upstream_area()
    gauges = network.ids[[1500, 2200, 2700]]
    pruned = network.prune(gauges)
    np.testing.assert_array_equal(network.ids[pruned.order], pruned.ids)
    np.testing.assert_allclose(pruned.upstream_area(), total[pruned.order], rtol=1e-14)
    upstream = set()
    for i in range(3000):
        path, j = [], i
        while j >= 0:
            path.append(int(network.ids[j]))
            j = network.downstream[j]
        if set(path) & set(gauges.tolist()):
            upstream.add(path[0])
    assert set(pruned.ids.tolist()) == upstream and len(upstream) > 3


@pytest.mark.parametrize("n", (1, 2, 5))
def test_parts(n):
    network = RiverNetwork.random(4000)
    parts = network.parts(n)
    assert len(parts) == n
    assert np.array_equal(np.sort(np.concatenate([part.ids for part in parts])), np.sort(network.ids))
    largest = network.accumulate(np.ones(4000)).max()
    assert max(part.n_reaches for part in parts) - min(part.n_reaches for part in parts) <= largest
    for part in parts:
        np.testing.assert_array_equal(network.ids[part.order], part.ids)
        np.testing.assert_allclose(part.upstream_area(), network.upstream_area()[part.order], rtol=1e-14)
        np.testing.assert_array_equal(part.attributes["n"], network.attributes["n"][part.order])
    assert_same(network.parts(1)[0], network)


def test_parts_by_hand():
    a, b = small().parts(2)
    assert a.ids.tolist() == [10, 20, 30, 40, 50] and b.ids.tolist() == [60, 70]
    a, b = RiverNetwork.from_ids([1, 2, 3, 4], [0, 0, 0, 3]).parts(2)
    assert a.ids.tolist() == [4, 3] and b.ids.tolist() == [1, 2]


def test_split_long_by_hand():
    network = RiverNetwork.from_ids(
        [5, -3, 8], [8, 8, 0], length=[2500.0, 1000, 2000], area=[9.0, 1, 4], k=[30.0, 10, 20], n=[0.3, 0.1, 0.2]
    )
    split, parent = network.split_long(1000)
    assert split.n_reaches == 6 and np.array_equal(split.order, parent)
    at = dict(zip(split.ids.tolist(), range(6), strict=True))

    def upstream(reach):
        i = at[reach]
        return split.ids[split.first[i] : split.first[i + 1]].tolist()

    (new,) = upstream(8)
    assert new < -3 and sorted(upstream(new)) == [-3, 5]
    (middle,) = upstream(5)
    (top,) = upstream(middle)
    assert upstream(top) == [] and len({new, middle, top, -3, 5, 8}) == 6 and max(new, middle, top) < -3
    assert network.ids[parent[[at[i] for i in (top, middle, 5, -3, new, 8)]]].tolist() == [5, 5, 5, -3, 8, 8]
    values = {name: x[at[middle]] for name, x in split.attributes.items()}
    assert values == {"length": 2500 / 3, "area": 3, "k": 10, "n": 0.3}


def test_split_long_conserves():
    network = RiverNetwork.random(2000)
    split, parent = network.split_long(1500)
    length, n = network.attributes["length"], network.n_reaches
    assert split.attributes["length"].max() <= 1500 < length.max() and split.n_reaches > n
    for name in ("length", "area"):
        total = np.bincount(parent, split.attributes[name])
        np.testing.assert_allclose(total, network.attributes[name], rtol=1e-13)
    np.testing.assert_array_equal(np.bincount(parent), np.ceil(length / 1500))
    last = split.index(network.ids)
    np.testing.assert_array_equal(parent[last], np.arange(n))
    np.testing.assert_allclose(split.upstream_area()[last], network.upstream_area(), rtol=1e-12)
    np.testing.assert_array_equal(split.attributes["x"], network.attributes["x"][parent])
    to = split.downstream
    assert all(to[i] < 0 or parent[to[i]] in (parent[i], network.downstream[parent[i]]) for i in range(len(to)))
    assert_same(network.split_long(1e9)[0], network)


# --- On disk -----------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    network = RiverNetwork.random(500).prune([3, 7]).split_long(2000)[0]
    network.attributes["ids"] = np.where(network.ids % 2, -np.array(np.nan), network.ids)  # a name of ours, and gaps
    path = network.save(tmp_path / "network.nc")
    loaded = RiverNetwork.load(path)
    assert_same(loaded, network)
    np.testing.assert_array_equal(loaded.order, network.order)
    assert loaded.fingerprint == network.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["network.nc"]


def test_any_nan_survives(tmp_path):
    path = small(x=[-np.float64("nan"), np.nan, 1, 2, 3, 4, 5]).save(tmp_path / "network.nc")
    assert np.isnan(RiverNetwork.load(path).attributes["x"]).sum() == 2


@pytest.mark.parametrize("name", ("ids", "downstream", "order", "attribute_length"))
def test_a_changed_value_is_noticed(tmp_path, name):
    path = small().save(tmp_path / "network.nc")
    with xr.open_dataset(path) as file:
        changed = file.load()
    changed[name].values[0] += 1
    changed.to_netcdf(tmp_path / "changed.nc")
    with pytest.raises(ValueError, match=r"changed.nc must hold what RiverNetwork.save wrote.*damaged") as error:
        RiverNetwork.load(tmp_path / "changed.nc")
    assert_one_sentence(error)


def test_rows_in_another_order_are_noticed(tmp_path):
    """`downstream` counts rows."""
    path = small().save(tmp_path / "network.nc")
    with xr.open_dataset(path) as file:
        file.load().isel(reach=slice(None, None, -1)).to_netcdf(tmp_path / "turned.nc")
    with pytest.raises(ValueError, match="found other values, so it is damaged or was changed"):
        RiverNetwork.load(tmp_path / "turned.nc")


@pytest.mark.parametrize("damage", (lambda b: b[: len(b) // 2], lambda b: b"\0" * 99 + b[99:], lambda b: b""))
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = small().save(tmp_path / "network.nc")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"network.nc could not be read as NetCDF .* check the file") as error:
        RiverNetwork.load(path)
    assert_one_sentence(error)


def test_a_failed_save_leaves_the_former_file(tmp_path, monkeypatch):
    path = small().save(tmp_path / "network.nc")

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(OSError, match="could not write"):
        chain(3).save(path)
    assert_same(RiverNetwork.load(path), small())
