"""Routing on two published networks, against the National Water Model's own discharge and RAPID's matrix form."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import published
from scipy.sparse import csc_matrix, diags, identity
from scipy.sparse.linalg import splu, spsolve

from hybridsolve.routing import RiverNetwork, hydraulics, route

# --- The Lower Colorado, 28 hours from 2021-08-23 13:00: a dry spell, in which the rivers fall -----------------------


@pytest.fixture(scope="module")
def colorado():
    """The network and, by name, what the National Water Model says of its reaches [28, N], matched by id."""
    network = RiverNetwork.from_routelink(published("networks/lower_colorado/RouteLink.nc"))
    series = {}
    for file in sorted(published("networks/lower_colorado/channel_forcing").iterdir()):
        with xr.open_dataset(file, engine="netcdf4") as hour:
            at = hour.indexes["feature_id"].get_indexer(network.ids)
            assert (at >= 0).all()
            for name in ("streamflow", "velocity", "q_lateral", "qSfcLatRunoff", "qBucket"):
                series.setdefault(name, []).append(hour[name].values.ravel()[at])
    return network, {name: np.array(rows) for name, rows in series.items()}


def trapezoid(network):
    """p and q whose width p d^q is the channel's at bankful depth, and whose area there is its area.

    RouteLink's trapezoid widens by 2 / ChSlp with depth, up to its top width. Equal areas ask for
    top / (q + 1) = (bottom + top) / 2. So q is 1/4 on all reaches.
    """
    bottom, top = network.attributes["bottom_width"], network.attributes["top_width"]
    depth = (top - bottom) / 2 * network.attributes["side_slope"]
    q = (top - bottom) / (top + bottom)
    return {"p": torch.from_numpy(top / depth**q), "q": torch.from_numpy(q)}


def inflow(series):
    """Of the 27 hours, the parts of q_lateral: it is itself packed to 0.1 m3/s, and lost half of the water by that."""
    return torch.from_numpy((series["qSfcLatRunoff"] + series["qBucket"])[1:])


def start(network, series):
    """The first hour's discharge; in a lake, which has none, the sum of what flows into it."""
    discharge = series["streamflow"][0].copy()
    for i in np.flatnonzero(np.isnan(discharge)):  # upstream ones come first
        discharge[i] = discharge[network.first[i] : network.first[i + 1]].sum()
    return {"discharge": torch.from_numpy(discharge)}


def groups(network, series):
    """Reaches with a lake at or above them, free ones, and of these the steep: with none of slope 1e-5 at or above."""
    lake = network.accumulate(network.attributes["waterbody"] > 0) > 0
    flat = network.accumulate(network.attributes["slope"] < 1.1e-5) > 0
    known = ~np.isnan(series["streamflow"]).any(0)
    return {"free": known & ~lake, "lake": known & lake, "steep": known & ~lake & ~flat}


def scores(found, theirs, begin):
    """How far discharge [27, M] is from theirs [27, M], which began with [M].

    Of all: the relative difference, of 0.01 m3/s at least, to which theirs is packed; of the last hour: the bias of
    the total and the correlation; and the RMS of the difference over that of their own change, which is 1 if nothing
    is done. Of those above 0.1 m3/s: the relative difference.
    """
    relative, wet = np.abs(found - theirs) / np.maximum(theirs, 0.01), theirs[-1] > 0.1
    return {
        "median": np.median(relative),
        "p90": np.quantile(relative, 0.9),
        "wet median": np.median(relative[:, wet]),
        "wet p90": np.quantile(relative[:, wet], 0.9),
        "bias": found[-1].sum() / theirs[-1].sum() - 1,
        "correlation": np.corrcoef(found[-1], theirs[-1])[0, 1],
        "error / change": np.sqrt(np.square(found - theirs).sum() / np.square(theirs - begin).sum()),
    }


def compare(colorado, scheme, lateral=None, ids="network"):
    network, series = colorado
    begin = start(network, series)
    lateral = inflow(series) if lateral is None else lateral
    parameters = trapezoid(network) if scheme == "todini" else {}
    run = route(network, lateral, parameters, ids=ids, dt=3600.0, scheme=scheme, initial_state=begin)
    found, theirs = run.discharge.numpy(), series["streamflow"][1:]
    made = {
        name: scores(found[:, group], theirs[:, group], begin["discharge"].numpy()[group])
        for name, group in groups(network, series).items()
    }
    for name, row in made.items():
        print(f"{scheme:9s} {name}: " + ", ".join(f"{key} {value:.4f}" for key, value in row.items()))
    return made


def test_what_the_files_hold(colorado):
    network, series = colorado
    parts = series["qSfcLatRunoff"] + series["qBucket"]
    assert np.abs(series["q_lateral"] - parts).max() < 0.0501
    assert series["q_lateral"].sum() < 0.51 * parts.sum()
    lake = network.attributes["waterbody"] > 0
    missing = np.isnan(series["streamflow"])
    assert lake.sum() == 371 and (missing == missing[0]).all() and missing[0].sum() == 341 and lake[missing[0]].all()
    assert {name: int(g.sum()) for name, g in groups(network, series).items()} == {
        "free": 9949,
        "lake": 958,
        "steep": 7695,
    }
    assert (network.attributes["k"] == 3600).all() and (network.attributes["x"] == np.float32(0.2)).all()
    np.testing.assert_allclose(trapezoid(network)["q"], 0.25, atol=1e-7)


# Why not closer: the model runs a variable-parameter Muskingum-Cunge at 5 minutes, with wetted perimeter and flood
# plain, packed to 0.01 m3/s, and it holds Muskingum's x at 0 or more. Todini's scheme does not: a fifth of the free
# reaches above 0.1 m3/s have a cell Reynolds number above 1 (x below 0), up to hundreds where the slope is RouteLink's
# least, 1e-5, and there flattens waves and holds falling rivers up. With that number held at 1 todini comes to a bias
# of 0.024 and an error of 0.20 of the change; of the steep reaches alone the bias is -0.007. A step of 5 minutes, or
# the inflow an hour earlier, changes nothing. Muskingum's k is 1 h for 1 m as for 61 km of river: a placeholder. Lakes
# are level pools there, and here rivers. What this cannot see: waves twice as fast, which would make up for the flat
# reaches; the velocity below, and RAPID, can.
@pytest.mark.parametrize(
    "scheme, name, most",
    (
        ("todini", "free", {"median": 0.02, "p90": 0.25, "wet median": 0.025, "wet p90": 0.09, "bias": 0.06}),
        ("todini", "steep", {"median": 0.02, "p90": 0.25, "wet median": 0.02, "wet p90": 0.06, "bias": 0.02}),
        ("todini", "lake", {"median": 0.05, "p90": 0.6, "bias": 0.12}),
        ("muskingum", "free", {"median": 0.08, "p90": 0.4, "wet median": 0.03, "wet p90": 0.15, "bias": 0.07}),
        ("muskingum", "lake", {"median": 0.06, "p90": 0.9, "bias": 0.1}),
    ),
)
def test_near_the_national_water_model(colorado, scheme, name, most):
    made = compare(colorado, scheme)[name]
    for key, bound in most.items():
        assert abs(made[key]) < bound, key
    least, worst = {"free": (0.995, 0.6), "steep": (0.998, 1.0), "lake": (0.9, 0.9)}[name]
    assert made["correlation"] > least and made["error / change"] < worst


def test_inflow_matched_by_row_is_seen(colorado):
    """The trap of these files, which hold the reaches in another order than RouteLink does."""
    network, series = colorado
    with xr.open_dataset(published("networks/lower_colorado/RouteLink.nc")) as table:
        links = table["link"].values
    file = next(published("networks/lower_colorado/channel_forcing").iterdir())
    with xr.open_dataset(file, engine="netcdf4") as hour:
        at = network.index(hour["feature_id"].values)
    lateral = inflow(series)[:, torch.from_numpy(at)]  # as the files have it
    right = compare(colorado, "todini", lateral, network.ids[at])["free"]
    wrong = compare(colorado, "todini", lateral, links)["free"]
    assert right == compare(colorado, "todini")["free"]
    for key in ("median", "p90", "wet median", "wet p90", "bias", "error / change"):
        assert wrong[key] > 2.5 * right[key], key


def test_velocity_is_near_the_national_water_models(colorado):
    """The hydraulic radius is a wide channel's, which the banks of a narrow one make less."""
    network, series = colorado
    discharge, theirs = start(network, series)["discharge"], series["velocity"][0]
    found = hydraulics(network, discharge[None], trapezoid(network))["velocity"][0].numpy()
    use = groups(network, series)["free"] & (discharge.numpy() > 0.1)
    low, middle, high = np.quantile(found[use] / theirs[use], (0.05, 0.5, 0.95))
    assert 0.92 < low and 0.98 < middle < 1.05 and high < 1.14


# --- RAPID's example, 48 hours in the south of England ---------------------------------------------------------------


@pytest.fixture(scope="module")
def rapid():
    """The network, in the order of the table its lateral inflow [16, N], m3/s, k (s), x and the matrix N upstream."""
    files = [published(f"networks/rapid/{name}.csv") for name in ("rapid_connect", "k", "x")]
    network = RiverNetwork.from_rapid(*files, dangling="outlet")
    table, k, x = (np.loadtxt(file, delimiter=",") for file in files)
    row = {reach: i for i, reach in enumerate(table[:, 0])}
    edges = [(row[to], i) for i, to in enumerate(table[:, 1]) if to in row]
    upstream = csc_matrix((np.ones(len(edges)), np.transpose(edges)), (len(row), len(row)))
    with xr.open_dataset(published("networks/rapid/m3_nasa_lis_3hr_20020830.nc")) as file:
        volume = file["m3_riv"].values.astype(float)
    return network, table[:, 0].astype(int), volume / 10_800, k, x, upstream


def test_rapids_volumes_are_of_three_hours(rapid):
    """80 to 130 m3/s off a part of England in summer; of another step they would be absurd."""
    total = rapid[2].sum(1)
    assert rapid[2].shape == (16, 4168) and 75 < total.min() and total.max() < 130


def test_rapids_matrix_form(rapid):
    """(I - C1 N) Q(t + dt) = (C1 + C2) Qe + (C2 N + C3) Q(t), David et al. 2011, doi 10.1175/2011JHM1345.1."""
    network, ids, lateral, k, x, upstream = rapid
    dt, repeat = 900.0, 12
    whole = k * (1 - x) + dt / 2
    c1, c2, c3 = (dt / 2 - k * x) / whole, (dt / 2 + k * x) / whole, (k * (1 - x) - dt / 2) / whole
    left = splu((identity(len(k)) - diags(c1) @ upstream).tocsc())
    q = spsolve(identity(len(k), format="csc") - upstream, lateral[0])  # steady
    expected = [q]
    for t in range(len(lateral) * repeat):
        q = left.solve((c1 + c2) * lateral[t // repeat] + c2 * (upstream @ q) + c3 * q)
        expected.append(q)
    expected = np.array(expected)

    run = route(network, torch.from_numpy(lateral), ids=ids, dt=dt, scheme="muskingum", repeat=repeat, gauges=ids)
    error = np.abs(run.discharge.numpy() - expected[1:]).max()
    assert np.abs(expected[-1] - expected[0]).max() > 1  # there is something to be seen
    assert error < 1e-11 * expected.max(), error


def test_rapid_neither_makes_nor_loses_water(rapid):
    """Inflow = outflow + change of k (x I + (1 - x) Q) summed over reaches, all means of begin and end of a step."""
    network, ids, lateral, k, x, upstream = rapid
    options = dict(ids=ids, dt=900.0, scheme="muskingum", gauges=ids)
    first = route(network, torch.from_numpy(lateral[:1]), repeat=1, **options)
    run = route(network, torch.from_numpy(lateral), repeat=12, initial_state=first.final_state, **options)
    q = torch.cat([first.discharge, run.discharge]).numpy()
    out = 900 * ((q[1:] + q[:-1]) / 2)[:, np.asarray(upstream.sum(0)).ravel() == 0].sum()
    storage = [(k * (x * (upstream @ v) + (1 - x) * v)).sum() for v in (q[0], q[-1])]
    assert out + storage[1] - storage[0] == pytest.approx(10_800 * lateral.sum(), rel=1e-12)
    assert abs(storage[1] - storage[0]) > 1e-3 * out
