"""River networks from tables and files, and every refusal."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import published
from river_networks import (
    CONNECT,
    IDS,
    LENGTH,
    TO,
    assert_in_order,
    assert_one_sentence,
    assert_same,
    chain,
    rapid,
    routelink,
    slow_sum,
    small,
)

from hybridsolve.routing.network import RiverNetwork

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


# --- Refusals ----------------------------------------------------------------------------------------------------


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
