"""From catchments to gauges in one call, and `hybridsolve route` from file to file."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import assert_close, assert_same_bits, uniform
from models.toy import toy

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.routing import RiverNetwork, hydraulics, lateral_inflow, route, simulate_rivers

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


def test_forcing_by_the_hour(network):
    """Amounts are those of an hour; parameters stay those of a day."""
    forcing, parameters = catchments(N)
    forcing |= {name: forcing[name] / 24 for name in ("prcp", "pet")}
    parameters = {name: x for name, x in parameters.items() if "route" not in name}
    found = simulate_rivers("hbv10", forcing, parameters, network, forcing_step=3600.0, dt=1800.0)
    runoff = hs.simulate("hbv10", forcing, parameters, step=3600).fluxes["streamflow"]
    lateral = runoff * torch.from_numpy(network.attributes["area"]) / 3.6e6
    expected = route(network, lateral, ids="network", dt=1800.0, repeat=2)
    assert_close({"q": found.discharge, "runoff": found.runoff}, {"q": expected.discharge, "runoff": runoff}, 1e-12)
    assert "hydrograph" not in found.final_state
    daily = lateral_inflow(runoff, network)
    assert_close({"q": lateral_inflow(runoff, network, step=3600)}, {"q": 24 * daily}, 1e-14)


def test_a_model_of_another_kind(network):
    """Whose outflow has another name and is not routed, and which takes a static input; in windows too."""
    forcing = {"rainfall": 30 * uniform(T, N) ** 2, "demand": 4 * uniform(T, N, seed=1)}
    parameters = toy.parameters_from_unit({v.name: uniform(N, 2, seed=i) for i, v in enumerate(toy.free_parameters)})
    options = dict(inputs={"slope": uniform(N, seed=7)}, backend="reference")
    found = simulate_rivers(toy, forcing, parameters, network, **options)
    runoff = hs.simulate(toy, forcing, parameters, **options).fluxes["discharge"]
    assert_same_bits({"runoff": found.runoff}, {"runoff": runoff})
    assert set(found.final_state) == {"catchments", "rivers"}
    parts, state = [], {"rivers": {"discharge": torch.ones(N, dtype=torch.float64)}}
    whole = simulate_rivers(toy, forcing, parameters, network, initial_state=state, **options).discharge
    for cut in (slice(0, 5), slice(5, T)):
        window = {name: x[cut] for name, x in forcing.items()}
        run = simulate_rivers(toy, window, parameters, network, initial_state=state, **options)
        parts, state = [*parts, run.discharge], run.final_state
    assert_same_bits({"q": torch.cat(parts)}, {"q": whole})
    with pytest.raises(ValueError, match="a memory of the hydrograph needs its parameters, none; found none of them"):
        simulate_rivers(toy, forcing, parameters, network, initial_state={"hydrograph": {"memory": runoff}}, **options)


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
            initial_state={"rivers": {"discharge": area / 1e8}},
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


@pytest.mark.parametrize("components", (1, 2))
def test_windows_chain_from_rain_to_river(network, components):
    """Whether the components share a hydrograph or have their own."""
    forcing, parameters = catchments(N)
    if components > 1:
        parameters |= {name: x * uniform(N, components, seed=9) for name, x in parameters.items() if "route" in name}
    parts, state = [], None
    start = {"rivers": {"discharge": torch.ones(N, dtype=torch.float64)}}
    whole = simulate_rivers("hbv10", forcing, parameters, network, initial_state=start)
    for cut in (slice(0, 5), slice(5, T)):
        window = {name: x[cut] for name, x in forcing.items()}
        run = simulate_rivers("hbv10", window, parameters, network, initial_state=state or start)
        parts, state = [*parts, run.discharge], run.final_state
    assert state["hydrograph"]["memory"].shape == (14, components * N)
    assert_same_bits({"q": torch.cat(parts)}, {"q": whole.discharge})


def test_each_component_passes_its_own_hydrograph(network):
    forcing, parameters = catchments(N)
    a, b = 2.9 * uniform(N, 2, seed=8), 6.5 * uniform(1, 2, seed=9)
    physics = {name: x for name, x in parameters.items() if "route" not in name}
    found = simulate_rivers("hbv10", forcing, physics | {"route_a": a, "route_b": b}, network).runoff
    q = hs.simulate("hbv10", forcing, physics, components="each").fluxes["streamflow"]
    every = [hs.unit_hydrograph(q[..., c].contiguous(), a[:, c], b[:, c].expand(N)) for c in range(2)]
    assert_close({"runoff": found}, {"runoff": (every[0] + every[1]) / 2}, 1e-13)
    same = physics | {"route_a": a[:, :1].expand(N, 2), "route_b": b[:, :1]}
    one = physics | {"route_a": a[:, 0], "route_b": b[0, 0].expand(N)}
    runs = [simulate_rivers("hbv10", forcing, x, network).runoff for x in (same, one)]
    assert_close({"runoff": runs[0]}, {"runoff": runs[1]}, 1e-13)
    for wrong, match in (
        (a.expand(T, N, 2), r"route_a must be \[B\] or \[B, C\]; found \[12, 40, 2\]"),
        (uniform(N, 3), r"route_. must be \[40, 2\] as the other parameters, or 1 on an axis; found \[40, 3\]"),
        (a.numpy(), "parameter 'route_a' must be a torch tensor; found ndarray"),
    ):
        with pytest.raises(ValueError, match=match):
            simulate_rivers("hbv10", forcing, physics | {"route_a": wrong, "route_b": b}, network)


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
    run = lambda **options: simulate_rivers("hbv10", forcing, parameters, **dict(network=network) | options)  # noqa: E731
    runoff = uniform(3, N)
    for attempt, match in (
        (lambda: run(dt=7000.0), r"dt must divide the 86400 s of a row of inflow; found 7000.0 s"),
        (lambda: run(dt=0.0), "dt must divide the 86400 s"),
        (lambda: run(forcing_step=7000.0), "model hbv10 runs at steps that divide a day; found 7000 s"),
        (lambda: run(forcing_step=0.5), "forcing_step must be a whole number, 1 or more; found 0.5"),
        (lambda: lateral_inflow(runoff, network, step=0), "step must be a whole number, 1 or more; found 0"),
        (lambda: lateral_inflow(runoff[:, :3], network), r"runoff must be \[T, B\] and area \[40\]"),
        (lambda: lateral_inflow(runoff, network, reach=[1]), "catchment and reach must come together"),
        (lambda: lateral_inflow(runoff, network, reach=[1], catchment=[0]), "area must be given in m2 with pairs"),
        (
            lambda: lateral_inflow(runoff, network, reach=[1], catchment=[N], area=torch.ones(1)),
            "catchment must be columns of runoff, 0 to 39",
        ),
        (lambda: lateral_inflow(runoff, network, area=-torch.ones(N)), "area must be 0 m2 or more"),
        (lambda: lateral_inflow(runoff, network, area=np.ones(N)), "area must be a torch tensor; found ndarray"),
        (lambda: lateral_inflow(xr.DataArray(runoff), network), "runoff must be a torch tensor; found DataArray"),
        (
            lambda: lateral_inflow(runoff, network, reach=[1], catchment=[0.5], area=torch.ones(1)),
            "catchment must be whole numbers.*found 0.5 in row 0",
        ),
        (
            lambda: lateral_inflow(runoff, network, reach=np.float32([2**25]), catchment=[0], area=torch.ones(1)),
            r"ids must be whole numbers, as float32 below 2\^24",
        ),
        (lambda: lateral_inflow(runoff, network, reach=[-7], catchment=[0], area=torch.ones(1)), "-7, not in it"),
        (lambda: lateral_inflow(runoff, None), "network must be a RiverNetwork; found NoneType"),
        (lambda: lateral_inflow(runoff.long(), network), "runoff must be float32 or float64; found torch.int64"),
        (
            lambda: lateral_inflow(runoff, network, reach=[1, 1], catchment=[3, 3], area=torch.ones(2)),
            "pairs must be unique; found 'catchment 3 to reach 1' more than once",
        ),
        (lambda: lateral_inflow(runoff, network, reach=1, catchment=0, area=torch.ones(1)), "catchment must be whole"),
        (lambda: run(dt="3600"), "dt must divide the 86400 s"),
        (lambda: run(network=None), "network must be a RiverNetwork"),
        (
            lambda: run(initial_state={"river": {}}),
            "initial_state has 'river'; expected catchments, hydrograph, rivers",
        ),
        (lambda: run(initial_state={"hydrograph": 3}), "hydrograph must map names to tensors; found int"),
        (lambda: hydraulics(network, runoff.half()), "discharge must be float32 or float64; found torch.float16"),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            attempt()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    parameters.pop("route_b")
    with pytest.raises(ValueError, match="must have all of route_a, route_b or none; found no 'route_b'"):
        run()
    parameters.pop("route_a")
    with pytest.raises(
        ValueError, match="a memory of the hydrograph needs its parameters, route_a, route_b; found none"
    ):
        run(initial_state={"hydrograph": {"memory": runoff}})


def test_areas_of_another_precision(network):
    runoff, area = uniform(3, N).float(), torch.from_numpy(network.attributes["area"])
    pairs = dict(reach=network.ids, catchment=np.arange(N))
    expected = lateral_inflow(runoff, network, area=area)
    assert expected.dtype == torch.float32
    assert torch.equal(lateral_inflow(runoff, network, area=area, **pairs), expected)


# --- From file to file ---------------------------------------------------------------------------------------------


def test_labelled_arrays_are_refused_with_the_remedy(network):
    forcing, parameters = catchments(N)
    labelled = lambda table: {name: xr.DataArray(x) for name, x in table.items()}  # noqa: E731
    n = torch.from_numpy(network.attributes["n"])
    for attempt in (
        lambda: simulate_rivers("hbv10", labelled(forcing), parameters, network),
        lambda: simulate_rivers("hbv10", forcing, labelled(parameters), network),
        lambda: simulate_rivers("hbv10", forcing, parameters, network, labelled({"n": n})),
        lambda: simulate_rivers(
            "hbv10", forcing, parameters, network, initial_state={"rivers": labelled({"discharge": n})}
        ),
        lambda: hs.unit_hydrograph(xr.DataArray(uniform(3, N)), n, n),
        lambda: hs.unit_hydrograph(uniform(3, N), xr.DataArray(n), n),
        lambda: hydraulics(network, xr.DataArray(uniform(3, N))),
    ):
        with pytest.raises(
            ValueError, match=r"must be a torch tensor; found DataArray: convert it with torch.as_tensor"
        ):
            attempt()


def write_inflow(path, network, days, first=0, dtype=np.float32, change=None, **attrs):
    rng = np.random.default_rng(3)
    rows = rng.random((8, network.n_reaches), dtype=np.float32)[first : first + days].astype(dtype)
    order = rng.permutation(network.n_reaches)
    time = np.datetime64("2001-03-01", "ns") + np.arange(first, first + days) * np.timedelta64(1, "D")
    inflow = (("time", "reach"), rows[:, order], {"units": "m3 s-1"} | attrs)
    file = xr.Dataset({"lateral_inflow": inflow}, coords={"time": time, "reach": network.ids[order]})
    (file if change is None else change(file)).to_netcdf(path)
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
    options = ("--gauges", text, "--set", "n=0.04", "--hydraulics", "--local-days", "-7", "--out", out)
    assert command(files, "inflow.nc", *options) == 0
    n = torch.full((1,), 0.04)
    expected = route(network, lateral, {"n": n}, ids="network", dt=3600.0, repeat=24, gauges=gauges)
    with xr.open_dataset(out) as found:
        assert found.discharge.dims == ("time", "reach") and found.discharge.attrs["units"] == "m3 s-1"
        assert (found.reach.values == gauges).all()
        np.testing.assert_array_equal(found.discharge.values, expected.discharge)
        assert found.time.values[0] == np.datetime64("2001-03-01T01") and len(found.time) == 96
        assert (found.depth > 0).all() and (found.velocity > 0).all() and found.velocity.attrs["units"] == "m s-1"
        assert "Todini" in found.attrs["source"]
        day = found.discharge_daily_mean.sel(day="2001-03-01")  # of a clock seven hours behind
        np.testing.assert_allclose(day, expected.discharge[7:31].mean(0), rtol=1e-6)
        assert len(found.day) == 3 and (found.utc_offset == -7).all()
    assert command(files, "inflow.nc", "--local-days", "longitude", "--out", out) == 2  # it has no lon


def test_a_map_of_the_discharge(network, files):
    write_inflow(files / "inflow.nc", network, 2)
    options = ("--map", files / "map.png", "--out", files / "q.nc")
    assert command(files, "inflow.nc", *options) == 2 and not (files / "q.nc").exists()  # it has no lon and lat
    network.attributes.update(lon=np.linspace(-76, -75, N), lat=np.linspace(40, 42, N) ** 1.01)
    network.save(files / "network.nc")
    assert command(files, "inflow.nc", "--gauges", network.ids[0], *options) == 2
    assert command(files, "inflow.nc", *options) == 0
    assert (files / "map.png").read_bytes().startswith(b"\x89PNG")


def hours(file):
    """Of days."""
    begin, n = file.time[0].values, 24 * file.sizes["time"]
    return file.reindex(time=begin + np.arange(n) * np.timedelta64(1, "h"), method="ffill")


def discharge(path):
    with xr.open_dataset(path) as file:
        return file.discharge.load()


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("scheme", ("todini", "ddr", "muskingum", "accumulate"))
def test_windows_chain_by_restart_files(network, files, scheme, dtype):
    """Of any length and in the inflow's precision, also where the restart's reaches stand in another order."""
    network.attributes["k"] = network.attributes["length"].copy()
    network.save(files / "network.nc")
    write_inflow(files / "whole.nc", network, 6, dtype=dtype)
    assert command(files, "whole.nc", "--scheme", scheme, "--out", files / "q.nc") == 0
    parts, restart = [], []
    for first, days in ((0, 1), (1, 2), (3, 3)):
        write_inflow(files / "a.nc", network, days, first=first, dtype=dtype, change=hours)
        state = files / f"state{first}.nc"
        options = ["--scheme", scheme, "--write-restart", state, "--out", files / "part.nc"]
        assert command(files, "a.nc", *restart, *options) == 0
        parts.append(discharge(files / "part.nc"))
        with xr.open_dataset(state) as file:
            assert file.attrs["scheme"] == scheme and file.discharge.dtype == dtype
            assert set(file.data_vars) == {"discharge"} | ({"storage"} if scheme == "todini" else set())
            file.isel(reach=slice(None, None, -1)).to_netcdf(files / f"turned{first}.nc")
        restart = ["--restart", files / f"turned{first}.nc"]
    found = np.concatenate([part.values for part in parts])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, discharge(files / "q.nc").values)


def test_an_older_restart_file(network, files, capsys):
    """With sub-steps, which are ignored, and in single precision, which is said."""
    write_inflow(files / "a.nc", network, 2)
    write_inflow(files / "b.nc", network, 2, first=2, dtype=np.float64)
    state = files / "state.nc"
    assert command(files, "a.nc", "--write-restart", state, "--out", files / "q.nc") == 0
    with xr.open_dataset(state) as file:
        file.assign(substeps=("reach", np.full(N, 2.0))).to_netcdf(files / "old.nc")
    for name in ("state", "old"):
        assert command(files, "b.nc", "--restart", files / f"{name}.nc", "--out", files / f"{name}_q.nc") == 0
    said = capsys.readouterr().err
    assert "note: substeps of" in said and "is in float32, the inflow in float64: the discharge differs" in said
    np.testing.assert_array_equal(discharge(files / "state_q.nc"), discharge(files / "old_q.nc"))


def with_calendar(calendar, start="2001-02-20"):
    def change(file):
        days = xr.date_range(start, periods=file.sizes["time"], freq="D", calendar=calendar, use_cftime=True)
        return file.assign_coords(time=days)

    return change


@pytest.mark.parametrize("calendar, start", (("noleap", "2000-02-26"), ("360_day", "2000-02-28")))
def test_other_calendars_are_refused_with_a_remedy_that_works(network, files, capsys, calendar, start):
    write_inflow(files / "a.nc", network, 6, change=with_calendar(calendar, start))
    assert command(files, "a.nc", "--out", files / "q.nc") == 2
    said = capsys.readouterr().err
    remedy = re.search(r"by (ds\..*interpolate_na\(.time.\))", said)
    assert calendar in said and remedy, said
    with xr.open_dataset(files / "a.nc") as ds:
        eval(remedy[1], dict(ds=ds)).to_netcdf(files / "b.nc")
    assert command(files, "b.nc", "--out", files / "q.nc") == 0


def test_days_of_the_julian_calendar_are_those_of_the_standard_one(network, files, capsys):
    write_inflow(files / "a.nc", network, 6, change=with_calendar("julian", "2000-02-28"))
    assert command(files, "a.nc", "--out", files / "q.nc") == 0
    assert "is of the Julian calendar and is converted" in capsys.readouterr().err
    assert discharge(files / "q.nc").time.values[23] == np.datetime64("2000-03-13")


def test_days_without_a_leap_day_between_are_read_as_they_are(network, files):
    days = np.datetime64("2001-02-20", "ns") + np.arange(6) * np.timedelta64(1, "D")
    write_inflow(files / "a.nc", network, 6, change=with_calendar("noleap"))
    write_inflow(files / "b.nc", network, 6, change=lambda file: file.assign_coords(time=days))
    for name in "ab":
        assert command(files, f"{name}.nc", "--out", files / f"q{name}.nc") == 0
    assert discharge(files / "qa.nc").identical(discharge(files / "qb.nc"))


def test_bounds_say_where_an_interval_begins(network, files):
    """Stamps at noon, and one day alone, which has no second one to tell its length."""

    def noon(file):
        begin = file.time.values
        bounds = np.stack([begin, begin + np.timedelta64(1, "D")], 1)
        file = file.assign_coords(time=begin + np.timedelta64(12, "h")).assign(limits=(("time", "two"), bounds))
        file.time.attrs["bounds"] = "limits"
        return file

    write_inflow(files / "a.nc", network, 3)
    write_inflow(files / "b.nc", network, 3, change=noon)
    write_inflow(files / "one.nc", network, 1, change=noon)
    for name in ("a", "b", "one"):
        assert command(files, f"{name}.nc", "--out", files / f"q{name}.nc") == 0
    assert discharge(files / "qa.nc").identical(discharge(files / "qb.nc"))
    assert discharge(files / "qa.nc")[:24].identical(discharge(files / "qone.nc"))


def test_bounds_that_are_not_there(network, files, capsys):
    write_inflow(
        files / "a.nc", network, 3, change=lambda x: x.assign_coords(time=x.time.assign_attrs(bounds="limits"))
    )
    assert command(files, "a.nc", "--out", files / "q.nc") == 0
    assert "note: time of" in (said := capsys.readouterr().err) and "names bounds that are not there" in said


def test_axes_of_a_file_may_be_in_any_order(network, files):
    write_inflow(files / "a.nc", network, 2)
    write_inflow(files / "b.nc", network, 2, change=lambda x: x.transpose("reach", "time"))
    for name in "ab":
        assert command(files, f"{name}.nc", "--out", files / f"q{name}.nc") == 0
    assert discharge(files / "qa.nc").identical(discharge(files / "qb.nc"))


@pytest.mark.parametrize("dtype", ("S", "U", ">i8", "float64"))
def test_ids_of_a_file_may_be_text(network, files, dtype):
    lateral = write_inflow(
        files / "a.nc", network, 2, change=lambda x: x.assign_coords(reach=x.reach.values.astype(dtype))
    )
    (files / "gauges.txt").write_bytes(
        f"# gauges\r\n{network.ids[3]},\r\n{network.ids[-1]} # outlet\r\n".encode("utf-8-sig")
    )
    assert command(files, "a.nc", "--gauges", files / "gauges.txt", "--out", files / "q.nc") == 0
    expected = route(network, lateral, ids="network", dt=3600.0, repeat=24, gauges=network.ids[[3, -1]])
    np.testing.assert_array_equal(discharge(files / "q.nc"), expected.discharge)


def cell(value):
    def change(file):
        file["lateral_inflow"].loc[dict(reach=7, time="2001-03-02")] = value
        return file

    return change


def damaged(kind):
    return lambda file: file.assign({kind: file[kind].where(file.reach != 7)})


BAD_INFLOW = {
    "a gap": (cell(np.nan), r"must be 0 to 1e\+09 m3 s-1 without gaps; found nan at reach 7 on 2001-03-02T00:00, and"),
    "a fill value": (cell(9.96e36), r"found 9.96e\+36 at reach 7 on 2001-03-02"),
    "below zero": (cell(-9999), r"found -9999 at reach 7 on 2001-03-02"),
    "no time": (lambda x: x.drop_vars("time"), "a coordinate time in units such as .*; found none: add it"),
    "numbers for time": (lambda x: x.assign_coords(time=np.arange(3)), "must hold dates, found the number 0"),
    "words for time": (lambda x: x.assign_coords(time=["a", "b", "c"]), "dates such as 2000-01-31, found 'a'"),
    "a day that lacks": (lambda x: hours(x).isel(time=[0, 24, 71]), "time of .* evenly spaced values"),
    "one day": (lambda x: x.isel(time=[0]), "two or more evenly spaced values, or one with bounds"),
    "a reach twice": (lambda x: x.assign_coords(reach=np.where(x.reach == 7, 8, x.reach)), "found .8. more than once"),
    "names of reaches": (lambda x: x.assign_coords(reach=[f"r{i}" for i in x.reach.values]), "whole numbers; found 'r"),
    "float32 reaches": (lambda x: x.assign_coords(reach=np.float32(x.reach + 2**25)), r"as float32 below 2\^24"),
    "no reach": (lambda x: x.drop_vars("reach"), r"must have lateral_inflow\(time, reach\)"),
    "too few reaches": (lambda x: x.isel(reach=slice(0, 5)), r"must hold the 40 reaches of the network; it lacks 35"),
    "other reaches": (lambda x: x.assign_coords(reach=x.reach + 1), r"it lacks 1, such as 1"),
    "bounds of one side": (lambda x: x.assign(time_bounds=("time", x.time.values)), r"time_bounds of .* \[3, 2\], the"),
    "words for inflow": (lambda x: x.assign(lateral_inflow=x.lateral_inflow.astype(str)), "must be in m3 s-1|numbers"),
}  # fmt: skip


@pytest.mark.parametrize("change, match", BAD_INFLOW.values(), ids=BAD_INFLOW)
def test_inflow_that_is_refused(network, files, capsys, change, match):
    write_inflow(files / "a.nc", network, 3, change=change)
    assert command(files, "a.nc", "--out", files / "q.nc") == 2
    said = capsys.readouterr().err
    assert re.search(match, said) and said.count("\n") == 1 and not (files / "q.nc").exists(), said


BAD_RESTART = {
    "no scheme": (lambda x: x.drop_attrs(), r"must be a restart file of `hybridsolve route`; found no network, scheme"),
    "no storage": (lambda x: x.drop_vars("storage"), "must hold the storage of every reach"),
    "no discharge": (lambda x: x.drop_vars("discharge"), "found no discharge in it: write it anew"),
    "no reach": (lambda x: x.drop_vars("reach"), "found no reach in it"),
    "no time": (lambda x: x.drop_vars("time"), "found no time in it"),
    "a number for time": (lambda x: x.assign_coords(time=5), "must be the state at the start .*; found that of 5"),
    "another calendar": (lambda x: x.assign_coords(time=xr.date_range("2001-03-03", periods=1, calendar="noleap", use_cftime=True)[0]), "found that of 2001-03-03"),  # noqa: E501
    "another scheme": (lambda x: x.assign_attrs(scheme="ddr"), "must be of scheme 'todini'; found 'ddr'"),
    "half of it": (lambda x: x.isel(reach=slice(0, 20)), "must hold the discharge of every reach"),
    "other reaches": (lambda x: x.assign_coords(reach=x.reach + 1), "must hold the discharge of every reach"),
    "a reach twice": (lambda x: x.assign_coords(reach=np.where(x.reach == 7, 8, x.reach)), "found '8' more than once"),
    "a gap": (damaged("storage"), "storage of .* must be finite; found nan at reach 7"),
    "whole numbers": (lambda x: x.assign(discharge=x.discharge.astype(int)), "must be floats in m3 s-1; found int64"),
    "text": (lambda x: x.assign(storage=x.storage.astype(str)), "storage of .* must be floats in m3; found <U"),
    "litres": (lambda x: x.assign(discharge=x.discharge.assign_attrs(units="l s-1")), "m3 s-1; found .* in 'l s-1'"),
}  # fmt: skip


@pytest.mark.parametrize("change, match", BAD_RESTART.values(), ids=BAD_RESTART)
def test_restart_files_that_are_refused(network, files, capsys, change, match):
    write_inflow(files / "a.nc", network, 2)
    write_inflow(files / "b.nc", network, 2, first=2)
    assert command(files, "a.nc", "--write-restart", files / "state.nc", "--out", files / "q.nc") == 0
    with xr.open_dataset(files / "state.nc") as file:
        change(file.load()).to_netcdf(files / "bad.nc")
    capsys.readouterr()
    assert command(files, "b.nc", "--restart", files / "bad.nc", "--out", files / "qb.nc") == 2
    said = capsys.readouterr().err
    assert re.search(match, said) and said.count("\n") == 1 and not (files / "qb.nc").exists(), said


@pytest.mark.parametrize(
    "options, match",
    (
        (["--out", "inflow.nc"], "out must not be inflow"),
        (["--out", "network.nc"], "out must not be network"),
        (["--out", "gauges.txt", "--gauges", "gauges.txt"], "--out must not be --gauges"),
        (["--restart", "s.nc", "--write-restart", "s.nc"], "write_restart must not be restart"),
        (["--map", "inflow.nc"], "map_file must not be inflow"),
        (["--write-restart", "./q.nc"], "--write-restart and --out must differ"),
        (["--out", "absent/q.nc"], "the folder of out absent/q.nc must exist, found none"),
        (["--out", "."], "out must be a file to write, found the folder"),
        (["--map", "map.pdf"], "map_file must end in .png"),
        (["--set", "m=0.05"], "scheme 'todini' takes no parameter 'm', only n, p, q, slope, length"),
        (["--set", "k=3600"], "scheme 'todini' takes no parameter 'k'"),
        (["--set", "n=nan"], r"parameter 'n' must lie in \[0.0001, 10\] s m-1/3; found nan"),
        (["--set", "n=inf"], "parameter 'n' must lie in .*; found inf"),
        (["--set", "n=0.05", "--set", "n=0.06"], "--set must give n once; found it twice"),
        (["--dt", "0"], "dt must divide the 86400 s .* found 0.0 s"),
        (["--dt", "-3600"], "dt must divide the 86400 s .* found -3600.0 s"),
        (["--dt", "nan"], "dt must divide the 86400 s .* found nan s"),
        (["--gauges", ","], "--gauges must name a reach or more; found none"),
        (["--gauges", ""], "--gauges must name a reach or more; found none"),
        (["--gauges", "gages.txt"], "gages.txt does not exist, expected a file of --gauges or their ids"),
        (["--gauges", "folder/g"], "folder/g does not exist"),
        (["--gauges", "."], "--gauges must be ids joined by commas, or a file of them; found the folder"),
        (["--gauges", "7,8,7"], "--gauges must be unique; found '7' more than once"),
        (["--gauges", "99"], "found 99, not in it"),
        (["--gauges", ",".join(["7"] * 200)], "--gauges must be unique"),
    ),
    ids=lambda x: "_".join(x)[:40] if isinstance(x, list) else "",
)  # fmt: skip
def test_options_that_are_refused(network, files, capsys, monkeypatch, options, match):
    """Before anything is written, and with the inputs as they were."""
    monkeypatch.chdir(files)
    write_inflow(files / "inflow.nc", network, 3)
    (files / "gauges.txt").write_text("7\n")
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    out = [] if "--out" in options else ["--out", "q.nc"]
    assert cli.main(["route", "inflow.nc", "network.nc", *out, *options]) == 2
    said = capsys.readouterr().err
    assert re.search(match, said) and said.count("\n") == 1, said
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


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
        ("inflow.nc", ["--gauges", "a"], "--gauges must be whole numbers; found 'a' in row 0"),
        ("inflow.nc", ["--set", "n"], "--set n must be a number; found ''"),
        ("inflow.nc", ["--restart", state], "must be the state at the start of the inflow, 2001-03-01.*found that of"),
        ("next.nc", ["--restart", state, "--scheme", "ddr"], "must be of scheme 'ddr'; found 'todini'"),
        (
            "next.nc",
            ["--restart", files / "inflow.nc"],
            "must be a restart file of `hybridsolve route`; found no network, scheme, discharge",
        ),
        ("state.nc", [], r"must have lateral_inflow\(time, reach\)"),
    ):
        assert command(files, inflow, *options, "--out", files / "q.nc") == 2
        said = capsys.readouterr().err
        assert re.search(match, said) and said.count("\n") == 1, said
    RiverNetwork.random(N, seed=3).save(files / "network.nc")
    assert command(files, "next.nc", "--restart", state, "--out", files / "q.nc") == 2
    assert "must be a restart file of this network" in capsys.readouterr().err
