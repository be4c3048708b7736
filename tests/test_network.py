"""River networks: their order by hand and by slow loops, every table they come from, every refusal."""

import itertools
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import published

from hybridsolve.routing.network import RiverNetwork

# 10 and 20 flow to 30; 30 and 40 to 50, which flows out; 60 to 70, which flows out.
IDS, TO = [50, 10, 70, 40, 30, 60, 20], [0, 30, 0, 50, 50, 70, 30]
LENGTH = [5.0, 1.0, 7.0, 4.0, 3.0, 6.0, 2.0]


def small(**attributes) -> RiverNetwork:
    return RiverNetwork.from_ids(IDS, TO, **{"length": LENGTH} | attributes)


def chain(n, **attributes) -> RiverNetwork:
    return RiverNetwork.from_downstream([*range(1, n), -1], **attributes)


def tangle(n=5000, seed=0):
    """A table of reaches in no order, some with many upstream: ids and row of the downstream reach."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(n)  # the row of each reach, of which every one flows to a later one or out
    downstream = np.full(n, -1)
    for i in range(n - 1):
        if rng.random() > 0.003:
            downstream[place[i]] = place[rng.integers(i + 1, min(n, i + 50))]
    return rng.choice(10 * n, n, replace=False) - n, downstream


def slow_sum(downstream, values):
    """Each value walked down to the outlet, one reach at a time."""
    total = [0.0] * len(values)
    for i, v in enumerate(values):
        while i >= 0:
            total[i] += v
            i = downstream[i]
    return total


def assert_in_order(network, ids, to):
    """All that network order promises, of the table of ids and of where each flows (None: out)."""
    n, down, first, starts = network.n_reaches, network.downstream, network.first, network.level_start
    where = dict(zip(ids, to, strict=True))
    assert {int(i): None if d < 0 else int(network.ids[d]) for i, d in zip(network.ids, down, strict=True)} == where
    assert sorted(network.order) == list(range(n)) and [ids[row] for row in network.order] == network.ids.tolist()
    types = {"ids": "int64", "order": "int64", "downstream": "int32", "first": "int32", "level_start": "int64"}
    assert {name: str(getattr(network, name).dtype) for name in types} == types
    assert all(x.dtype == np.float64 and x.shape == (n,) for x in network.attributes.values())

    assert all(d == -1 or d > i for i, d in enumerate(down))
    assert len(first) == n + 1 and first[0] == 0 and (np.diff(first) >= 0).all()
    for i in range(n):
        assert (down[first[i] : first[i + 1]] == i).all()
    assert first[-1] == (down >= 0).sum()
    assert len(starts) == network.n_levels + 1 and starts[0] == 0 and starts[-1] == n and (np.diff(starts) > 0).all()
    level = np.repeat(np.arange(network.n_levels), np.diff(starts))
    assert (level[down[down >= 0]] == level[down >= 0] + 1).all()
    assert (level[down < 0] == network.n_levels - 1).all()
    assert network.outlets.tolist() == np.flatnonzero(down < 0).tolist()
    assert network.headwaters.tolist() == sorted(set(range(n)) - set(down.tolist()))


def assert_same(a, b):
    for name in ("ids", "downstream", "first", "level_start"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.attributes.keys() == b.attributes.keys()
    for name, x in a.attributes.items():
        np.testing.assert_array_equal(x, b.attributes[name], err_msg=name)


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


# --- Tables ------------------------------------------------------------------------------------------------------


def test_every_table_gives_the_same_network():
    rows = [IDS.index(t) if t else -1 for t in TO]
    floats = [t or np.nan for t in TO]
    up, down = zip(*((i, t) for i, t in zip(IDS, TO, strict=True) if t), strict=True)
    for network in (
        RiverNetwork.from_downstream(rows, IDS, length=LENGTH),
        RiverNetwork.from_ids(np.array(IDS, np.int32), np.array(floats), length=LENGTH),
        RiverNetwork.from_ids(IDS, [t or -1 for t in TO], length=LENGTH),
        RiverNetwork.from_edges(up, down, IDS, length=LENGTH),
        RiverNetwork.from_edges(IDS, floats, IDS, length=LENGTH),
    ):
        assert_same(network, small())
        assert network.order.tolist() == small().order.tolist()
    np.testing.assert_array_equal(RiverNetwork.from_edges(up, down).downstream, small().downstream)
    assert RiverNetwork.from_downstream([2, 2, -1]).ids.tolist() == [0, 1, 2]


def test_large_ids_stay_apart():
    big = 2**62
    network = RiverNetwork.from_ids([big + 1, big], [0, big + 1])
    assert network.ids.tolist() == [big, big + 1] and network.downstream.tolist() == [1, -1]


def test_labelled_values_are_matched_by_label():
    """By the ids, by the rows of the ids' own table, and by place where there are no labels."""
    table = pd.DataFrame({"to": TO, "length": LENGTH}, index=IDS)
    turned = table["length"].iloc[::-1]
    array = xr.DataArray(LENGTH, coords={"reach": IDS}).isel(reach=slice(None, None, -1))
    for values in (turned, array, turned.sort_index()):
        assert_same(RiverNetwork.from_ids(IDS, TO, length=values), small())
        assert_same(RiverNetwork.from_edges(IDS, TO, IDS, length=values), small())
    assert_same(RiverNetwork.from_ids(IDS, table["to"].sort_index(), length=LENGTH), small())
    rows = table.reset_index(names="id").iloc[[3, 0, 6, 1, 5, 2, 4]]  # labelled by row, as a sorted table is
    assert_same(RiverNetwork.from_ids(rows["id"], rows["to"], length=rows["length"].sort_index()), small())
    place = rows.reset_index(drop=True)
    assert_same(RiverNetwork.from_ids(place["id"].to_numpy(), place["to"], length=place["length"]), small())
    downstream = pd.Series([IDS.index(t) if t else -1 for t in TO], index=IDS)
    assert_same(RiverNetwork.from_downstream(downstream[::-1], IDS, length=turned), small())


def test_labelled_values_are_summed_by_label():
    values = xr.DataArray([LENGTH, LENGTH], coords={"reach": IDS}, dims=("time", "reach"))
    expected = small().accumulate(small().attributes["length"])
    np.testing.assert_array_equal(small().accumulate(values), [expected, expected])
    np.testing.assert_array_equal(small().accumulate(pd.Series(LENGTH, index=IDS)), expected)
    np.testing.assert_array_equal(small().accumulate(pd.DataFrame([LENGTH], columns=IDS)), expected[None])
    with pytest.raises(ValueError, match="values must be labelled by the reaches as ids is; found 51"):
        small().accumulate(pd.Series(LENGTH, index=[51, *IDS[1:]]))


def test_masked_values_are_missing():
    x = np.ma.masked_equal([1, 2, 3, 4, 5, 6, 7], 4)
    for values in (x, x.astype(np.float32)):
        found = small(slope=values).attributes["slope"]
        assert np.isnan(found[small().index(40)]) and np.isfinite(found).sum() == 6
    assert np.isnan(small().accumulate(np.ma.masked_equal([1.0, 2, 3, 4, 5, 6, 7], 1))).tolist() == [
        *(True, False, True, False, False, True, False)
    ]


def test_a_reach_without_edges():
    network = RiverNetwork.from_edges([1], [2], [1, 2, 9])
    assert network.ids.tolist() == [1, 2, 9] and network.downstream.tolist() == [1, -1, -1]


def test_dangling_reaches_as_outlets():
    network = RiverNetwork.from_ids([1, 2, 3], [2, 99, 2], dangling="outlet")
    assert network.ids[network.outlets].tolist() == [2]
    network = RiverNetwork.from_edges([1, 2], [2, 99], [1, 2], dangling="outlet")
    assert network.ids[network.outlets].tolist() == [2]


def routelink(path, **changes):
    table = {"link": np.array(IDS, np.int32), "to": np.array(TO, np.int32), "Length": np.array(LENGTH, np.float32)}
    names = ("n", "So", "MusK", "MusX", "BtmWdth", "ChSlp", "TopWdth", "alt", "lon", "lat")
    table |= {name: np.arange(7) + 10.0 * i for i, name in enumerate(names)} | {"NHDWaterbodyComID": [-9999] * 6 + [5]}
    table = {name: x for name, x in (table | changes).items() if x is not None}
    xr.Dataset({name: ("feature_id", x) for name, x in table.items()}).to_netcdf(path)
    return path


def test_routelink(tmp_path):
    network = RiverNetwork.from_routelink(routelink(tmp_path / "link.nc"))
    names = {"n": 0, "slope": 1, "k": 2, "x": 3, "bottom_width": 4, "side_slope": 5, "top_width": 6}
    names |= {"alt": 7, "lon": 8, "lat": 9}
    rows = np.array(small().order)
    expected = small(waterbody=[-9999] * 6 + [5], **{name: np.arange(7) + 10.0 * i for name, i in names.items()})
    assert set(network.attributes) == set(expected.attributes)
    assert network.attributes["slope"].tolist() == (rows + 10.0).tolist()
    for name, x in expected.attributes.items():
        np.testing.assert_array_equal(network.attributes[name], x, err_msg=name)
    assert network.fingerprint == expected.fingerprint


def test_routelink_of_text_ids(tmp_path):
    """Of fixed width, as some writers of NetCDF make them."""
    link, to = (np.array([f"{x:>8}" for x in ids], dtype) for ids, dtype in ((IDS, "S8"), (TO, "U8")))
    network = RiverNetwork.from_routelink(routelink(tmp_path / "link.nc", link=link, to=to))
    assert network.fingerprint == small().fingerprint


CONNECT = "10,30,0,0,0\n20,30,0,0,0\n30,50,2,10,20\n50,0,1,30,0\n"


def rapid(folder, connect=CONNECT, k="1.5\n2\n3\n4\n", x=".1\n.2\n.3\n.4\n", **options):
    paths = []
    for name, text in {"rapid_connect": connect, "k": k, "x": x}.items():
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text(text)
    return RiverNetwork.from_rapid(*paths, **options)


def test_rapid(tmp_path):
    network = rapid(tmp_path)
    expected = RiverNetwork.from_ids([10, 20, 30, 50], [30, 30, 50, 0], k=[1.5, 2, 3, 4], x=[0.1, 0.2, 0.3, 0.4])
    assert_same(network, expected)
    assert_same(rapid(tmp_path, "\ufeff" + CONNECT), expected)
    cut = CONNECT.replace("50,0,1", "50,99,1")
    assert rapid(tmp_path, cut, dangling="outlet").fingerprint == expected.fingerprint


def test_lower_colorado():
    file = published("networks/lower_colorado/RouteLink.nc")
    network = RiverNetwork.from_routelink(file)
    with xr.open_dataset(file) as table:
        ids, to = table["link"].values.tolist(), table["to"].values.tolist()
        length = table["Length"].values
    assert (network.n_reaches, network.n_levels, len(network.outlets)) == (11248, 649, 1)
    assert_in_order(network, ids, [t or None for t in to])
    assert network.accumulate(network.attributes["length"])[-1] == pytest.approx(length.sum(dtype=float), rel=1e-12)
    row = {reach: i for i, reach in enumerate(ids)}
    expected = np.array(slow_sum([row.get(t, -1) for t in to], [1.0] * len(ids)))
    np.testing.assert_array_equal(network.accumulate(np.ones(11248)), expected[network.order])


def test_rapid_example():
    files = [published(f"networks/rapid/{name}.csv") for name in ("rapid_connect", "k", "x")]
    with pytest.raises(ValueError, match=r"found 70821, .* and 7 more flowing to 70833, .*, not in ids"):
        RiverNetwork.from_rapid(*files)
    network = RiverNetwork.from_rapid(*files, dangling="outlet")
    table = np.loadtxt(files[0], delimiter=",", dtype=int)
    ids = set(table[:, 0].tolist())
    assert_in_order(network, table[:, 0].tolist(), [t if t in ids else None for t in table[:, 1].tolist()])
    assert len(network.outlets) == 129 + 17
    np.testing.assert_array_equal(np.diff(network.first), table[network.order, 2])
    np.testing.assert_array_equal(network.attributes["k"], np.loadtxt(files[1])[network.order])


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


# --- Refusals ----------------------------------------------------------------------------------------------------


def assert_one_sentence(error):
    said = str(error.value)
    assert said.endswith(".") and not re.search(r"[.!?]\s|\n", said), said


R = RiverNetwork
F = SimpleNamespace(down=R.from_downstream, ids=R.from_ids, edges=R.from_edges)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: F.down([]), r"one reach or more; found none"),
        (lambda: F.ids([], []), r"one reach or more; found none"),
        (lambda: F.edges([], []), r"one reach or more; found none"),
        (lambda: F.down([1, 3, -1]), r"row from 0 to 2, or -1 at an outlet; found 3 at reach 1: correct it"),
        (lambda: F.down([1, -2], [7, 8]), r"found -2 at reach 8"),
        (lambda: F.down([1, 1.5, -1]), r"downstream must be whole numbers.*found 1.5 in row 1"),
        (lambda: F.down([1, np.nan]), r"downstream must be whole numbers.*found nan in row 1"),
        (lambda: F.down([[1, -1]]), r"downstream must be whole numbers \[N\]; found int64 \[1, 2\]"),
        (lambda: F.down(["1", "-1"]), r"downstream must be whole numbers \[N\]; found <U2"),
        (lambda: F.down([1, -1], [1]), r"ids must be \[2\] as downstream is; found \[1\]"),
        (lambda: F.down([-1, 0, 0], [7, 8, 7]), r"unique; found '7' more than once, in rows 0, 2"),
        (lambda: F.down([-1] * 9, [4, 1, 3, 4, 2, 4, 3, 8, 9]), r"found '3' more than once, in rows 2, 6"),
        (lambda: F.down([-1, 1], [7, 8]), r"no reach may flow to itself; found 8"),
        (lambda: F.down([1, 0], [7, 8]), r"cycle; found 7 -> 8 -> 7: correct"),
        (
            lambda: F.down([1, 2, 3, 1, -1, 4], [6, 5, 9, 4, 1, 2]),
            r"cycle; found (4 -> 5 -> 9 -> 4|5 -> 9 -> 4 -> 5|9 -> 4 -> 5 -> 9): correct",
        ),
        (lambda: F.down([*range(1, 99), 0]), r"found 0 -> 1 -> 2 -> 3 -> 4 -> \(94 more\) -> 0: correct"),
        (lambda: F.down([1, -1], n=[0.1]), r"attribute n must be \[2\], one value a reach; found \[1\]"),
        (lambda: F.down([1, -1], n=0.1), r"attribute n must be \[2\], one value a reach; found \[\]"),
        (lambda: F.down([1, -1], n=["a", "b"]), r"attribute n must be numbers; found could not convert"),
        (lambda: F.ids([1, 2], [2]), r"to must be \[2\] as ids is; found \[1\]"),
        (lambda: F.ids([1, np.nan], [0, 1]), r"ids must be whole numbers.*found nan in row 1"),
        (lambda: F.ids([1, np.inf], [0, 1]), r"ids must be whole numbers.*found inf in row 1"),
        (lambda: F.ids([1, 2.0**60], [0, 1]), r"float64 below 2\^53, .*; found 1.15\d*e\+18 in row 1"),
        (lambda: F.ids([1, 2], [0, np.inf]), r"to must be whole numbers.*found inf in row 1"),
        (lambda: F.ids([1, 0], [0, 1]), r"ids must not hold 0 or -1, which mean an outlet.*found 0:"),
        (lambda: F.ids([1, 1], [0, 0]), r"unique; found '1' more than once"),
        (lambda: F.ids([1, 2, 3], [2, 3, 9]), r"out \(0, -1 or NaN\); found 3 flowing to 9, not in ids"),
        (lambda: F.ids([1, 2], [2, -5]), r"found 2 flowing to -5, not in ids"),
        (lambda: F.ids(range(1, 13), range(21, 33)), r"found 1, 2, .*, 10 and 2 more flowing to 21, 22, "),
        (lambda: F.ids([1], [0], dangling="drop"), r"dangling must be 'refuse' or 'outlet'; found 'drop'"),
        (lambda: F.ids([1, 2], [2, 2]), r"no reach may flow to itself; found 2"),
        (lambda: F.ids([1, 2, 3], [2, 3, 1]), r"cycle; found 1 -> 2 -> 3 -> 1"),
        (lambda: F.edges([5, 6, 5], [7, 7, 9]), r"found a divergence, 5 flowing to 7, 9: keep the main one"),
        (lambda: F.edges([5, 6], [7]), r"downstream_ids must be \[2\] as upstream_ids is; found \[1\]"),
        (lambda: F.edges([5, 6], [7, 7], n=[1, 2, 3]), r"must come with the ids.*found n without ids: pass ids="),
        (lambda: F.edges([5, 6], [7, 7], [5, 7]), r"upstream_ids must all be in ids; found 6, which are not"),
        (lambda: F.edges([5], [7], [5]), r"found 5 flowing to 7, not in ids"),
        (lambda: F.edges([5], [5]), r"no reach may flow to itself; found 5"),
        (lambda: F.edges([5], [7], [5, 7, 7]), r"unique; found '7' more than once"),
        (lambda: R.random(0), r"n must be a whole number, 1 or more; found 0"),
        (lambda: small().accumulate(np.ones(6)), r"values must be \[..., 7\] in network order; found \[6\]"),
        (lambda: R.random(3.5), r"n must be a whole number, 1 or more; found 3.5"),
        (lambda: R.random(3, -1), r"seed must be a whole number, 0 or more; found -1"),
        (lambda: F.down(None), r"downstream must be whole numbers \[N\]; found object \[\]"),
        (lambda: F.down(5), r"downstream must be whole numbers \[N\]; found int64 \[\]"),
        (lambda: F.down([1, -1], n=np.array([1j, 2])), r"attribute n must be numbers; found complex128"),
        (lambda: F.down([1, -1], n=np.array([1, 2], "M8[Y]")), r"attribute n must be numbers; found datetime64"),
        (lambda: F.down([1, -1], n=torch.ones(2, requires_grad=True)), r"attribute n must be numbers; found Can't"),
        (lambda: small().parts(True), r"n must be 1 to 2.*found True"),
        (lambda: small().parts("1"), r"n must be 1 to 2.*found 1"),
        (lambda: small().split_long("5"), r"max_length must be above 0 m and finite; found '5'"),
        (lambda: small().split_long(1e-9), r"at most 2147483646 reaches; found .*e\+\d* pieces of 1e-09 m: choose"),
        (lambda: small().accumulate(1.0), r"values must be \[..., 7\] in network order; found \[\]"),
        (lambda: small().upstream_area(), r"must have the attribute area; found length: give area="),
        (lambda: small().index([10, 11, 12]), r"among the network's 7; found 11, 12, not in it"),
        (lambda: small().index([10.5]), r"ids must be whole numbers.*found 10.5 in row 0"),
        (lambda: small().index(np.float32([2**24 + 2])), r"ids must be .* as float32 below 2\^24.*found 1.677\d*e\+07"),
        (lambda: small().index(["10", "b"]), r"ids must be whole numbers; found 'b' in row 1"),
        (lambda: small().index(np.ma.masked_equal([10, 20], 20)), r"ids must all be there; found masked ones"),
        (lambda: small().prune(np.float32([2**24])), r"ids must be .* as float32 below 2\^24"),
        (lambda: F.ids(np.float32([2**25, 3]), [3, 0]), r"ids must be .* as float32 below 2\^24"),
        (lambda: F.ids([2**25, 3], np.float32([3, 2**25])), r"to must be .* as float32 below 2\^24"),
        (lambda: F.ids(np.ma.masked_equal([1, 2], 2), [2, 0]), r"ids must all be there; found masked ones"),
        (lambda: F.ids([1, 2], np.ma.masked_equal([2, 0], 0)), r"to must all be there; found masked ones"),
        (
            lambda: small(length=pd.Series(LENGTH, index=[*IDS[:-1], 21])),
            r"length must be labelled by the reaches as ids is; found 50, 10, 70, 40, 30, 60, 21: index it",
        ),
        (
            lambda: small(length=pd.Series(LENGTH, index=[7, 6, 5, 4, 3, 2, 1])),
            r"length must be labelled by the reaches",
        ),
        (lambda: small().prune([10, 99]), r"found 99, not in it"),
        (lambda: small().prune(np.array([], int)), r"gauges must name one reach or more; found none"),
        (lambda: small().parts(3), r"n must be 1 to 2, as many parts as there are outlets; found 3"),
        (lambda: small().parts(0), r"n must be 1 to 2.*found 0"),
        (lambda: small().split_long(0), r"max_length must be above 0 m and finite; found 0"),
        (lambda: small().split_long(np.nan), r"max_length must be above 0 m and finite; found nan"),
        (lambda: small(length=[1.0] * 6 + [np.nan]).split_long(1), r"length must be .*finite; found nan at reach 20"),
        (lambda: small(length=[1.0] * 6 + [-2.0]).split_long(1), r"length must be .*finite; found -2 at reach 20"),
        (lambda: chain(3).split_long(1), r"must have the attribute length; found none: give length="),
    ],
    ids=itertools.count(),
)
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert_one_sentence(error)


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda d: R.from_routelink(routelink(d / "a.nc", to=None)),
            r"a.nc must be a RouteLink file.*found no to in it",
        ),
        (
            lambda d: R.from_routelink(routelink(d / "a.nc", link=np.arange(1, 8))),
            r"flowing to 30, 50, 50, 70, 30, not",
        ),
        (lambda d: R.from_routelink(rapid(d) and d / "k.csv"), r"k.csv could not be read as NetCDF .*RouteLink"),
        (
            lambda d: R.load(routelink(d / "a.nc")),
            r"a.nc must be a network written by .*found no ids, downstream, order",
        ),
        (lambda d: rapid(d, "10,30\n30,0\n"), r"rapid_connect.csv must have 3 columns or more.*found 2"),
        (lambda d: rapid(d, "10,30,0\n30,0,1,10\n"), r"rapid_connect.csv could not be read as a table .*columns"),
        (lambda d: rapid(d, "id,to,n\n"), r"rapid_connect.csv could not be read as a table .*'id'.* rows of id"),
        (lambda d: rapid(d, CONNECT.replace("2,10,20", "1,10,0")), r"found 20 and 30, of which only one names"),
        (lambda d: rapid(d, CONNECT.replace("1,30,0", "2,30,20")), r"found 20 and 50, of which only one names"),
        (lambda d: rapid(d, CONNECT.replace("1,30,0", "2,30,30")), r"found 30 and 50, of which only one names"),
        (lambda d: rapid(d, k="1\n2\n3\n"), r"attribute k must be \[4\].*found \[3\]"),
        (lambda d: rapid(d, x="1\n2\n3\nx\n"), r"x.csv could not be read as a table .*'x'"),
        (lambda d: rapid(d, CONNECT.replace("50,0,1", "50,99,1")), r"found 50 flowing to 99, not in ids"),
    ],
    ids=range(13),
)
def test_refused_files(tmp_path, make, match):
    with pytest.raises(ValueError, match=match) as error:
        make(tmp_path)
    assert_one_sentence(error)


@pytest.mark.parametrize("open_it", (R.load, R.from_routelink, lambda p: R.from_rapid(p, p, p)))
def test_a_file_that_is_not_there(tmp_path, open_it):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist, expected .*check the path") as error:
        open_it(tmp_path / "nowhere")
    assert_one_sentence(error)


def test_import_needs_neither_numba_nor_xarray():
    code = (
        "import sys, torch; old = set(sys.modules); import hybridsolve.routing.network; print(*set(sys.modules) - old)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "hybridsolve" in loaded and not loaded & {"numba", "xarray", "pandas", "netCDF4", "scipy", "matplotlib"}
