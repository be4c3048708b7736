"""Small networks and their tables, which the tests of networks share."""

import re

import numpy as np
import xarray as xr

from hybridsolve.routing.network import RiverNetwork

# 10 and 20 flow to 30; 30 and 40 to 50, which flows out; 60 to 70, which flows out.
IDS, TO = [50, 10, 70, 40, 30, 60, 20], [0, 30, 0, 50, 50, 70, 30]
LENGTH = [5.0, 1.0, 7.0, 4.0, 3.0, 6.0, 2.0]
DT = 3600.0  # s, of a step of routing


def small(**attributes) -> RiverNetwork:
    return RiverNetwork.from_ids(IDS, TO, **{"length": LENGTH} | attributes)


def chain(n, **attributes) -> RiverNetwork:
    return RiverNetwork.from_downstream([*range(1, n), -1], **attributes)


def reaches(n=150, seed=0, ids=None, **attributes):
    """A random tree with reaches of every kind: steep and flat, short and long, with up to n upstream neighbours."""
    rng = np.random.default_rng(seed)
    downstream = np.array([-1, *(rng.integers(max(0, i - 40), i) for i in range(1, n))])
    made = dict(
        n=rng.uniform(0.02, 0.1, n),
        p=rng.uniform(5, 60, n),
        q=rng.uniform(0.05, 0.9, n),
        slope=10 ** rng.uniform(-4, -1.5, n),
        length=rng.uniform(800, 7000, n),
        x=rng.uniform(0.1, 0.35, n),
        k=rng.uniform(1800, 9000, n),
    )
    ids = 1000 + np.arange(n) if ids is None else ids
    return RiverNetwork.from_downstream(downstream, ids=ids, **made | attributes)


def tangle(n=5000, seed=0):
    """A table of reaches in no order, some with many upstream: ids and row of the downstream reach."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(n)  # the row of each reach, of which every one flows to a later one or out
    downstream = np.full(n, -1)
    for i in range(n - 1):
        if rng.random() > 0.003:
            downstream[place[i]] = place[rng.integers(i + 1, min(n, i + 50))]
    return rng.choice(10 * n, n, replace=False) - n, downstream


def assert_same(a, b):
    for name in ("ids", "downstream", "first", "level_start"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.attributes.keys() == b.attributes.keys()
    for name, x in a.attributes.items():
        np.testing.assert_array_equal(x, b.attributes[name], err_msg=name)


def routelink(path, **changes):
    table = {"link": np.array(IDS, np.int32), "to": np.array(TO, np.int32), "Length": np.array(LENGTH, np.float32)}
    names = ("n", "So", "MusK", "MusX", "BtmWdth", "ChSlp", "TopWdth", "alt", "lon", "lat")
    table |= {name: np.arange(7) + 10.0 * i for i, name in enumerate(names)} | {"NHDWaterbodyComID": [-9999] * 6 + [5]}
    table = {name: x for name, x in (table | changes).items() if x is not None}
    xr.Dataset({name: ("feature_id", x) for name, x in table.items()}).to_netcdf(path)
    return path


CONNECT = "10,30,0,0,0\n20,30,0,0,0\n30,50,2,10,20\n50,0,1,30,0\n"


def rapid(folder, connect=CONNECT, k="1.5\n2\n3\n4\n", x=".1\n.2\n.3\n.4\n", **options):
    paths = []
    for name, text in {"rapid_connect": connect, "k": k, "x": x}.items():
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text(text)
    return RiverNetwork.from_rapid(*paths, **options)


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


def assert_one_sentence(error):
    said = str(error.value)
    assert said.endswith(".") and not re.search(r"[.!?]\s|\n", said), said
