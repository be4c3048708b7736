"""From catchments to gauges in one call, and `hybridsolve route` from file to file."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_close, assert_same_bits, uniform

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.routing import RiverNetwork, lateral_inflow, route, simulate_rivers

N, T = 40, 12


@pytest.fixture
def network():
    return RiverNetwork.random(N, seed=2)


def catchments(n):
    """Forcing and parameters, routing ones included."""
    forcing = {
        "prcp": 30 * uniform(T, n) ** 2,
        "tmean": 5 + 10 * uniform(T, n, seed=1),
        "pet": 4 * uniform(T, n, seed=2),
    }
    model = hs.models.get("hbv10")
    unit = {name: uniform(n, 2, seed=i) for i, name in enumerate(model.parameter_names)}
    unit |= {name: uniform(n, 1, seed=50 + i) for i, name in enumerate(model.routing_parameter_names)}
    return forcing, model.parameters_from_unit(unit)


def test_one_call_is_its_parts(network):
    forcing, parameters = catchments(N)
    found = simulate_rivers("hbv10", forcing, parameters, network, gauges=network.ids[-3:])
    a, b = (parameters.pop(name)[:, 0] for name in ("route_a", "route_b"))
    runoff = hs.unit_hydrograph(hs.simulate("hbv10", forcing, parameters).fluxes["streamflow"], a, b)
    lateral = runoff * torch.from_numpy(network.attributes["area"]) / 86.4e6
    expected = route(network, lateral, ids="network", dt=3600.0, repeat=24, gauges=network.ids[-3:])
    assert found.discharge.shape == (24 * T, 3) and (found.ids == network.ids[-3:]).all()
    assert_close({"q": found.discharge, "runoff": found.runoff}, {"q": expected.discharge, "runoff": runoff}, 1e-12)


def test_one_gradient_of_everything(network):
    """Of the end of the river with respect to rain, a store's parameter, the hydrograph, the channel and an area."""
    forcing, parameters = catchments(N)
    area = torch.from_numpy(network.attributes["area"])
    leaves = {
        "prcp": forcing["prcp"],
        "fc": parameters["fc"],
        "route_a": parameters["route_a"],
        "n": torch.from_numpy(network.attributes["n"]),
        "area": area,
    }
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}

    def loss(x):
        run = simulate_rivers(
            "hbv10",
            forcing | {"prcp": x["prcp"]},
            parameters | {name: x[name] for name in ("fc", "route_a")},
            network,
            {"n": x["n"]},
            reach=network.ids,
            catchment=np.arange(N),
            area=x["area"],
            initial_state={"rivers": {"discharge": area / 1e8, "substeps": torch.full((N,), 2)}},
        )
        return run.discharge[-40:, -1].square().mean()

    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
    for (name, x), g in zip(leaves.items(), gradients, strict=True):
        i = np.unravel_index(int(g.abs().argmax()), g.shape)
        step = 1e-5 * max(1e-3, abs(float(x.detach()[i])))
        around = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved[i] += sign * step
            around.append(float(loss({n: v.detach() for n, v in leaves.items()} | {name: moved})))
        assert float(g[i]) == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-5), name


def test_windows_chain_from_rain_to_river(network):
    forcing, parameters = catchments(N)
    parts, state = [], None
    start = {"rivers": {"discharge": torch.ones(N, dtype=torch.float64), "substeps": torch.full((N,), 2)}}
    whole = simulate_rivers("hbv10", forcing, parameters, network, initial_state=start)
    for cut in (slice(0, 5), slice(5, T)):
        window = {name: x[cut] for name, x in forcing.items()}
        run = simulate_rivers("hbv10", window, parameters, network, initial_state=state or start)
        parts, state = [*parts, run.discharge], run.final_state
    assert_same_bits({"q": torch.cat(parts)}, {"q": whole.discharge})


def test_catchments_that_share_reaches_and_reaches_that_share_catchments(network):
    runoff = uniform(3, 2)
    ids = network.ids[[5, 7, 5]]
    area = torch.tensor([1e6, 2e6, 3e6], dtype=torch.float64)
    lateral = lateral_inflow(runoff, network, catchment=[0, 0, 1], reach=ids, area=area)
    expected = torch.zeros(3, N, dtype=torch.float64)
    expected[:, 5] = (runoff[:, 0] + 3 * runoff[:, 1]) * 1e6 / 1000 / 86400
    expected[:, 7] = runoff[:, 0] * 2e6 / 1000 / 86400
    assert_close({"q": lateral}, {"q": expected}, 1e-14)


def test_bad_input_is_said(network):
    forcing, parameters = catchments(N)
    run = lambda **options: simulate_rivers("hbv10", forcing, parameters, network, **options)  # noqa: E731
    runoff = uniform(3, N)
    for attempt, match in (
        (lambda: run(dt=7000.0), r"dt must divide the 86400 s of a row of inflow; found 7000.0 s"),
        (lambda: run(dt=0.0), "dt must divide the 86400 s"),
        (lambda: run(forcing_step=3600.0), "forcing_step must be a day, 86400 s"),
        (lambda: lateral_inflow(runoff[:, :3], network), r"runoff must be \[T, B\] and area \[40\]"),
        (lambda: lateral_inflow(runoff, network, reach=[1]), "catchment and reach must come together"),
        (lambda: lateral_inflow(runoff, network, reach=[1], catchment=[0]), "area must be given in m2 with pairs"),
        (
            lambda: lateral_inflow(runoff, network, reach=[1], catchment=[N], area=torch.ones(1)),
            "catchment must be columns of runoff, 0 to 39",
        ),
        (lambda: lateral_inflow(runoff, network, area=-torch.ones(N)), "area must be 0 m2 or more"),
        (lambda: lateral_inflow(runoff, network, reach=[-7], catchment=[0], area=torch.ones(1)), "-7, not in it"),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            attempt()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    parameters.pop("route_b")
    with pytest.raises(ValueError, match="both route_a and route_b or neither"):
        run()


# --- From file to file ---------------------------------------------------------------------------------------------


def write_inflow(path, network, days, first=0, **attrs):
    rng = np.random.default_rng(3)
    rows = rng.random((8, network.n_reaches), dtype=np.float32)[first : first + days]
    order = rng.permutation(network.n_reaches)
    time = np.datetime64("2001-03-01", "ns") + np.arange(first, first + days) * np.timedelta64(1, "D")
    inflow = (("time", "reach"), rows[:, order], {"units": "m3 s-1"} | attrs)
    xr.Dataset({"lateral_inflow": inflow}, coords={"time": time, "reach": network.ids[order]}).to_netcdf(path)
    return torch.from_numpy(rows)


@pytest.fixture
def files(network, tmp_path):
    network.save(tmp_path / "network.nc")
    return tmp_path


def command(files, inflow, *options):
    return cli.main(["route", str(files / inflow), str(files / "network.nc"), *map(str, options)])


def test_route_from_file_to_file(network, files):
    lateral = write_inflow(files / "inflow.nc", network, 4)
    gauges = network.ids[[-1, 3]]
    out = files / "discharge.nc"
    text = ",".join(map(str, gauges))
    assert command(files, "inflow.nc", "--gauges", text, "--set", "n=0.04", "--hydraulics", "--out", out) == 0
    n = torch.full((1,), 0.04)
    expected = route(network, lateral, {"n": n}, ids="network", dt=3600.0, repeat=24, gauges=gauges)
    with xr.open_dataset(out) as found:
        assert found.discharge.dims == ("time", "reach") and found.discharge.attrs["units"] == "m3 s-1"
        assert (found.reach.values == gauges).all()
        np.testing.assert_array_equal(found.discharge.values, expected.discharge)
        assert found.time.values[0] == np.datetime64("2001-03-01T01") and len(found.time) == 96
        assert (found.depth > 0).all() and (found.velocity > 0).all() and found.velocity.attrs["units"] == "m s-1"
        assert "Todini" in found.attrs["source"]


def test_a_map_of_the_discharge(network, files):
    write_inflow(files / "inflow.nc", network, 2)
    options = ("--map", files / "map.png", "--out", files / "q.nc")
    assert command(files, "inflow.nc", *options) == 2 and not (files / "q.nc").exists()  # it has no lon and lat
    network.attributes.update(lon=np.linspace(-76, -75, N), lat=np.linspace(40, 42, N) ** 1.01)
    network.save(files / "network.nc")
    assert command(files, "inflow.nc", "--gauges", network.ids[0], *options) == 2
    assert command(files, "inflow.nc", *options) == 0
    assert (files / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("scheme", ("todini", "ddr", "accumulate"))
def test_windows_chain_by_a_restart_file(network, files, scheme):
    write_inflow(files / "whole.nc", network, 6)
    write_inflow(files / "a.nc", network, 2)
    write_inflow(files / "b.nc", network, 4, first=2)
    options = ["--scheme", scheme, "--out"]
    assert command(files, "a.nc", "--write-restart", files / "state.nc", *options, files / "qa.nc") == 0
    assert command(files, "b.nc", "--restart", files / "state.nc", *options, files / "qb.nc") == 0
    # The first window of both starts the same way, and its sub-steps go on in the second.
    with xr.open_dataset(files / "state.nc") as state:
        assert state.attrs["scheme"] == scheme and state.time == np.datetime64("2001-03-03")
        assert set(state.data_vars) == {"discharge"} | ({"storage", "substeps"} if scheme == "todini" else set())
    if scheme == "todini":
        return  # sub-steps come of the window's own mean inflow: compared in test_routing.py with the same ones
    assert command(files, "whole.nc", *options, files / "q.nc") == 0
    opened = [xr.open_dataset(files / name).discharge.values for name in ("q.nc", "qa.nc", "qb.nc")]
    np.testing.assert_array_equal(np.concatenate(opened[1:]), opened[0])


def test_what_route_refuses(network, files, capsys):
    write_inflow(files / "inflow.nc", network, 3)
    write_inflow(files / "next.nc", network, 3, first=3)
    write_inflow(files / "unit.nc", network, 3, units="mm d-1")
    state = files / "state.nc"
    assert command(files, "inflow.nc", "--write-restart", state, "--out", files / "q.nc") == 0
    capsys.readouterr()
    for inflow, options, match in (
        ("absent.nc", [], "absent.nc does not exist"),
        ("unit.nc", [], "lateral_inflow of .* must be in m3 s-1; found units 'mm d-1'"),
        ("inflow.nc", ["--dt", "5000"], "dt must divide the 86400 s of a row of inflow; found 5000.0 s"),
        ("inflow.nc", ["--scheme", "cunge"], "unknown scheme 'cunge'"),
        ("inflow.nc", ["--gauges", "a"], "--gauges must be a whole number; found 'a'"),
        ("inflow.nc", ["--set", "n"], "--set n must be a number; found ''"),
        ("inflow.nc", ["--restart", state], "must be the state at the begin of the inflow, 2001-03-01.*found that of"),
        ("next.nc", ["--restart", state, "--scheme", "ddr"], "must be of scheme 'ddr'; found 'todini'"),
        ("next.nc", ["--restart", files / "inflow.nc"], "must be a restart file of this network"),
        ("state.nc", [], r"must have lateral_inflow\(time, reach\)"),
    ):
        assert command(files, inflow, *options, "--out", files / "q.nc") == 2
        said = capsys.readouterr().err
        assert re.search(match, said) and said.count("\n") == 1, said
    RiverNetwork.random(N, seed=3).save(files / "network.nc")
    assert command(files, "next.nc", "--restart", state, "--out", files / "q.nc") == 2
    assert "must be a restart file of this network" in capsys.readouterr().err
