"""`hybridsolve run` to gauges: units, members along rivers, local days, waterbodies; packed output; a verified past."""

import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from river_networks import reaches

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.routing import RiverNetwork
from hybridsolve.routing.files import open_network, route_file
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.routing.units import units_of

pytest.importorskip("zarr", reason="zarr is not installed: pip install hybridsolve[scale]")
from hybridsolve.scale.continental import run  # noqa: E402
from hybridsolve.scale.journal import Journal  # noqa: E402
from hybridsolve.scale.part import digest  # noqa: E402
from hybridsolve.scale.store import consolidate, open_run  # noqa: E402

MODEL, N, T = "hbv11p", 60, 60
FLUXES = ["streamflow", "swe"]
SPEC = hs.models.get(MODEL)
SIZES = np.tile([1, 3, 2, 4, 5], 4)  # units of each gauge, which no block of 16 keeps together


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forcing of 60 days (all.zarr) and of its first 40 (some.zarr), the same as units of 20 gauges, and parameters."""
    path = tmp_path_factory.mktemp("continent")
    for name, last in (("all", "2000-11-29"), ("some", "2000-11-09")):
        first = dict(period=("2000-10-01", last), model=MODEL, chunks={"time": 25, "basin": 16})
        hs.scale.synthetic_continent(path / f"{name}.zarr", N, network=name == "all", **first)
    with xr.open_zarr(path / "all.zarr") as ds:
        data = ds.load()
    rivers = open_network(str(path / "all.network.nc"))
    outlets, downstream = np.flatnonzero(rivers.downstream < 0), rivers.downstream.copy()
    downstream[outlets[:-1]] = outlets[1:]  # all systems are one
    RiverNetwork.from_downstream(downstream, rivers.ids, **rivers.attributes).save(path / "one.network.nc")
    parameters = hs.scale.synthetic_parameters(data, MODEL)
    parameters.to_netcdf(path / "parameters.nc")
    other = parameters.assign(fc=parameters["fc"] * 0.9 + 10)
    xr.concat([parameters, other], "member", data_vars="all").to_netcdf(path / "members.nc")
    gauges = data["basin"].values[np.concatenate([[0], SIZES.cumsum()[:-1]])].astype(str)  # reaches of the network
    stored(data.assign_coords(gauge=("basin", np.repeat(gauges, SIZES))), path / "units.zarr")
    return path


def stored(data, path):
    for name in data.variables:
        data[name].encoding = {}
    data["basin"] = data["basin"].astype(object)
    if "gauge" in data.coords:
        data["gauge"] = data["gauge"].astype(object)
    data.chunk(time=25, basin=16).to_zarr(path, zarr_format=3, consolidated=False)


def settings(folder, out, forcing="units", **more):
    parameters = str(folder / "parameters.nc")
    return dict(forcing=str(folder / f"{forcing}.zarr"), parameters=parameters, out=str(out)) | more


def loaded(path):
    with xr.open_zarr(path) if path.suffix == ".zarr" else xr.open_dataset(path) as ds:
        return ds.load()


def series(folder, forcing="units"):
    data = loaded(folder / f"{forcing}.zarr")
    return {v.name: torch.as_tensor(data[v.name].values) for v in SPEC.forcings}, data


def of_units(folder, parameters, units):
    """Parameters of units as columns, those of the hydrograph as means by area."""
    found = {name: torch.as_tensor(parameters[name].values).double()[:, None] for name in parameters.data_vars}
    routing = SPEC.routing_parameter_names
    return {name: (units.summed(x, 0) if name in routing else x).float() for name, x in found.items()}


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# --- Units of gauges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [dict(), dict(window=25, block=16), dict(window=7, block=2)])
def test_units_are_summed_at_their_gauges(folder, tmp_path, cut):
    said = run(settings(folder, tmp_path / "out", fluxes=FLUXES, **cut), progress=False)
    assert "units of 20 gauges" in said
    found, (forcing, data) = open_run(tmp_path / "out"), series(folder)
    units = units_of(data)
    values = of_units(folder, loaded(folder / "parameters.nc"), units)
    expected = simulate_to_gauge(MODEL, forcing, values, fluxes=FLUXES, units=units).fluxes
    np.testing.assert_array_equal(found["streamflow"].values, expected["streamflow"].numpy())
    np.testing.assert_array_equal(found["swe"].values, expected["swe"].numpy())
    assert found["streamflow"].dims == ("time", "basin") and found["swe"].dims == ("time", "unit")
    assert found["basin"].values.tolist() == list(units.ids)
    assert found["gauge"].values.tolist() == data["gauge"].values.tolist()
    assert found["unit"].values.tolist() == [str(i) for i in data["basin"].values]


def test_units_share_the_parameters_of_their_gauge(folder, tmp_path):
    """As `calibrate` gives them, and as `simulate` runs them; chosen gauges have all their units."""
    _, data = series(folder)
    units = units_of(data)
    one = loaded(folder / "parameters.nc").isel(basin=units.first).assign_coords(basin=list(units.ids))
    one.assign_coords(basin=[f"g{i}" for i in units.ids]).to_netcdf(tmp_path / "p.nc")
    named = data.assign_coords(gauge=("basin", [f"g{i}" for i in data["gauge"].values]))
    stored(named, tmp_path / "units.zarr")
    given = settings(folder, tmp_path / "all", fluxes=FLUXES, window=25, block=16)
    given |= dict(forcing=str(tmp_path / "units.zarr"), parameters=str(tmp_path / "p.nc"))
    run(given, progress=False)
    forcing, _ = series(folder)
    values = {name: torch.as_tensor(one[name].values)[:, None] for name in one.data_vars}
    values = {n: x if n in SPEC.routing_parameter_names else units.spread(x) for n, x in values.items()}
    expected = simulate_to_gauge(MODEL, forcing, values, fluxes=FLUXES, units=units).fluxes
    np.testing.assert_array_equal(open_run(tmp_path / "all")["streamflow"].values, expected["streamflow"].numpy())
    some = f"g{units.ids[7]},g{units.ids[3]}"
    run(given | dict(basins=some, out=str(tmp_path / "some")), progress=False)
    found = open_run(tmp_path / "some")
    np.testing.assert_array_equal(found["streamflow"].values, expected["streamflow"].numpy()[:, [3, 7]])
    at = np.flatnonzero(np.isin(units.gauge, [3, 7]))
    np.testing.assert_array_equal(found["swe"].values, expected["swe"].numpy()[:, at])
    with pytest.raises(ValueError, match="have no parameters"):
        run(given | dict(out=str(tmp_path / "no"), forcing=str(folder / "all.zarr")), progress=False)


@pytest.mark.parametrize("forcing", ["units", "all"])
def test_parameters_of_a_trained_network(folder, tmp_path, forcing):
    """The flow of its own prediction, where units have each their own parameters and a hydrograph together."""
    from hybridsolve.training import trained
    from hybridsolve.training.config import read_config
    from hybridsolve.training.loop import fit_scaling

    data = loaded(folder / f"{forcing}.zarr").assign(qobs=(("time", "basin"), np.ones((T, N), np.float32)))
    config = dict(name="zones", model=MODEL, components=2, network=dict(kind="mlp", hidden=[4]), loss="nse_batch")
    config |= dict(attributes=["aridity", "elev_mean"], periods=dict(train="2000-10-01:2000-11-29"), epochs=1)
    config = read_config(config | dict(steps_per_epoch=1))
    torch.manual_seed(0)
    made = trained.Trained.of(trained.make_module(config), config, fit_scaling(data, config), data)
    made.save(tmp_path / "trained.pt")
    given = settings(folder, tmp_path / "out", forcing, window=25, block=16, fluxes=FLUXES)
    given |= dict(parameters=None, trained=str(tmp_path / "trained.pt"))
    run(given, progress=False)
    found, expected = open_run(tmp_path / "out"), made.predict(data, fluxes=FLUXES)
    for name in FLUXES:
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of", ["parameters", "forcing"])
def test_units_of_an_ensemble_along_rivers(folder, tmp_path, of):
    """Each member is the run of it alone; discharge, rivers' states and hydrographs among them."""
    _, data = series(folder)
    gauges = [int(g) for g in units_of(data).ids]
    reaches(20, ids=gauges, area=np.full(20, 1e8)).save(tmp_path / "rivers.nc")
    given = settings(folder, tmp_path / "both", fluxes=FLUXES, window=25, block=16)
    given["rivers"] = dict(network=str(tmp_path / "rivers.nc"), dt=21600.0)
    alone = [dict(given, out=str(tmp_path / "0")), dict(given, out=str(tmp_path / "1"))]
    if of == "parameters":
        given["parameters"] = str(folder / "members.nc")
        for i, one in enumerate(alone):
            loaded(folder / "members.nc").isel(member=i).to_netcdf(tmp_path / f"p{i}.nc")
            one["parameters"] = str(tmp_path / f"p{i}.nc")
    else:
        warmer = data.assign(tmean=(data["tmean"] + 2).assign_attrs(data["tmean"].attrs))
        stored(warmer.copy(), tmp_path / "warmer.zarr")
        alone[1]["forcing"] = str(tmp_path / "warmer.zarr")
        both = xr.concat([data, warmer], "member", data_vars=[v.name for v in SPEC.forcings])
        stored(both, tmp_path / "both.zarr")
        given["forcing"] = str(tmp_path / "both.zarr")
    run(given, progress=False)
    for kind, name in (("", "streamflow"), ("", "swe"), (".rivers", "discharge")):
        found = open_run(tmp_path / "both", kind)[name]
        assert found.dims[:2] == ("time", "member")
        expected = []
        for i, one in enumerate(alone):
            run(one, progress=False)
            expected.append(open_run(tmp_path / str(i), kind)[name].values)
            np.testing.assert_array_equal(found.values[:, i], expected[i])
        assert name == "swe" or not np.array_equal(*expected)


# --- Rivers -------------------------------------------------------------------------------------------------------


def with_lakes(folder, path):
    """The continent's rivers with a lake on one of the headwaters, and clocks from -9 to +11 hours."""
    network = open_network(str(folder / "all.network.nc"))
    lon = np.linspace(-135, 165, network.n_reaches)
    lake = np.full(network.n_reaches, -1.0)
    lake[0] = 7
    network.attributes.update(lon=lon, waterbody=lake)
    network.save(path)
    return network


@pytest.mark.parametrize("window", [60, 7])
def test_local_days_and_waterbodies(folder, tmp_path, window):
    """As `hybridsolve route` writes them of the same discharge, whatever the windows."""
    network = with_lakes(folder, tmp_path / "rivers.nc")
    given = settings(folder, tmp_path / "out", "all", window=window, block=16)
    given["rivers"] = dict(network=str(tmp_path / "rivers.nc"), dt=10800.0, local_days="longitude")
    run(given, progress=False)
    runoff = torch.as_tensor(open_run(tmp_path / "out")["streamflow"].values)
    basins = [int(b) for b in loaded(folder / "all.zarr")["basin"].values]
    lateral = hs.routing.lateral_inflow(runoff[:, np.argsort(network.index(basins))], network)
    time = loaded(folder / "all.zarr")["time"].values
    inflow = xr.Dataset({"lateral_inflow": (("time", "reach"), lateral.numpy(), {"units": "m3 s-1"})})
    inflow.assign_coords(time=time, reach=network.ids).to_netcdf(tmp_path / "inflow.nc")
    route_file(tmp_path / "inflow.nc", network, tmp_path / "d.nc", dt=10800.0, local_days="longitude")
    expected = loaded(tmp_path / "d.nc")
    rivers, days = (open_run(tmp_path / "out", kind).load() for kind in (".rivers", ".days"))
    np.testing.assert_array_equal(rivers["discharge"].values, expected["discharge"].values)
    np.testing.assert_array_equal(rivers["below_waterbody"].values, expected["below_waterbody"].values)
    assert 1 < rivers["below_waterbody"].values.sum() < N
    assert days["time"].values[0] == np.datetime64("2000-10-01") and days.sizes["time"] == T - 1  # not yet over at -9
    whole = expected["discharge_daily_mean"].sel(day=days["time"].values)
    np.testing.assert_array_equal(days["discharge_daily_mean"].values, whole.values)
    np.testing.assert_array_equal(days["utc_offset"].values, expected["utc_offset"].values)
    assert np.isnan(whole.values[0]).any() and not np.isnan(whole.values[1:]).any()


def test_local_days_are_appended(folder, tmp_path):
    """A date that yesterday's run had in part is in today's store, once; the parts joined are the whole."""
    some = with_lakes(folder, tmp_path / "rivers.nc").ids[[0, 30, 59]]  # of the west, the middle and the east
    rivers = dict(network=str(tmp_path / "rivers.nc"), dt=10800.0, local_days="longitude")
    rivers["gauges"] = ",".join(map(str, some))
    given = settings(folder, tmp_path / "out", "some", window=9, block=16, rivers=rivers)
    run(given, progress=False)
    assert open_run(tmp_path / "out", ".days").sizes["time"] == 39
    given["forcing"] = str(folder / "all.zarr")
    run(given, further=True, progress=False)
    run(given | dict(out=str(tmp_path / "whole")), progress=False)
    whole = open_run(tmp_path / "whole", ".days").load()
    assert whole.sizes == {"time": 59, "reach": 3, "bnds": 2}
    xr.testing.assert_identical(open_run(tmp_path / "out", ".days").load(), whole)
    assert cli.main(["consolidate", str(tmp_path / "out"), str(tmp_path / "days.zarr"), "--days"]) == 0
    joined = loaded(tmp_path / "days.zarr")["discharge_daily_mean"]
    np.testing.assert_array_equal(joined.values, whole["discharge_daily_mean"].values)


def test_a_run_of_hours_has_no_whole_date(folder, tmp_path):
    """Steps of six hours appended one after another: a store without a date, until one is over."""
    hs.scale.synthetic_continent(tmp_path / "h.zarr", 8, period=("2000-10-01", "2000-10-02"), step=21600, model=MODEL)
    data = loaded(tmp_path / "h.zarr")
    hs.scale.synthetic_parameters(data, MODEL).to_netcdf(tmp_path / "p.nc")
    rivers = dict(network=str(tmp_path / "h.network.nc"), dt=21600.0, local_days=0)
    given = dict(parameters=str(tmp_path / "p.nc"), out=str(tmp_path / "out"), rivers=rivers)
    for n in (2, 3, 5, 8):
        stored(data.isel(time=slice(n)).copy(), tmp_path / f"{n}.zarr")
        run(given | dict(forcing=str(tmp_path / f"{n}.zarr")), further=n > 2, progress=False)
        found = open_run(tmp_path / "out", ".days")["discharge_daily_mean"]
        assert found.sizes["time"] == n // 4
    steps = open_run(tmp_path / "out", ".rivers")["discharge"].values
    np.testing.assert_array_equal(found.values, steps.reshape(2, 4, 8).mean(1))


def in_parts(folder, out, network="all", **more):
    """Settings of a run whose rivers are routed in parts: systems, or parts of the one system of the network "one"."""
    parts = open_network(str(folder / "all.network.nc")).parts(3)
    some = ",".join(map(str, [*parts[2].ids[::2], *parts[0].ids[[5, 0]]]))
    rivers = dict(network=str(folder / f"{network}.network.nc"), dt=21600.0, local_days=3, gauges=some)
    return settings(folder, out, "all", parts=3, block=16, window=25, rivers=rivers, fluxes=FLUXES) | more


KINDS = ("", ".rivers", ".days")


@pytest.mark.parametrize("network, members", [("all", False), ("one", False), ("one", True)])
def test_rivers_apart_have_the_bits_of_the_whole(folder, tmp_path, network, members):
    """Over windows, and over days that are appended."""
    given = in_parts(folder, tmp_path / "apart", network)
    if members:
        given["parameters"] = str(folder / "members.nc")
    run(given | dict(out=str(tmp_path / "whole"), parts=1), progress=False)
    run(given | dict(forcing=str(folder / "some.zarr")), progress=False)
    run(given, further=True, progress=False)
    for kind in KINDS:
        np.testing.assert_equal(*(open_run(tmp_path / name, kind).load().to_dict() for name in ("apart", "whole")))
    assert {p.name for p in (tmp_path / "apart").glob("0001.*")} == {f"0001{kind}.zarr" for kind in KINDS}


@pytest.mark.parametrize("lines", [4, 9, 13])
def test_killed_with_rivers_apart(folder, tmp_path, lines):
    """By the journals' lines: nine of basins, in three parts with three windows each, then three of each river part."""
    given = in_parts(folder, tmp_path / "out", "one")
    run(given, progress=False)
    whole = [files(tmp_path / "out" / f"0000{kind}.zarr") for kind in KINDS]
    shutil.rmtree(tmp_path / "out")
    finish, count = Journal.finish, [0]

    class Killed(BaseException):
        pass

    def dies(self, *args):
        if count[0] == lines:
            raise Killed
        count[0] += 1
        finish(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "finish", dies)
        run(given, progress=False)
    run(given, progress=False)
    assert [files(tmp_path / "out" / f"0000{kind}.zarr") for kind in KINDS] == whole


def test_a_river_system_on_workers(folder, tmp_path):
    distributed = pytest.importorskip(
        "distributed", reason="distributed is not installed: pip install hybridsolve[scale]"
    )
    given = in_parts(folder, tmp_path / "out", "one")
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        run(given, cluster=client, progress=False)
    run(given | dict(out=str(tmp_path / "whole"), parts=1), progress=False)
    for kind in KINDS:
        np.testing.assert_equal(*(open_run(tmp_path / name, kind).load().to_dict() for name in ("out", "whole")))


def test_a_river_system_beyond_the_memory_is_cut(folder, tmp_path):
    """In one part, whose basins fit; where their runoff is not kept, windows are shorter instead."""
    given = in_parts(folder, tmp_path / "out", "one", parts=1, window=60, block=1, memory=2.5e-5)
    said = run(given, dry_run=True)
    assert "in 7 parts of at most 10, cut at 6 confluences: 4, then 2, then 1 at a time" in said
    whole = given | dict(out=str(tmp_path / "whole"), memory=2)
    assert "routes 60 reaches along with the basins of each window" in run(whole, progress=False)
    run(given, progress=False)
    for kind in KINDS:
        np.testing.assert_equal(*(open_run(tmp_path / name, kind).load().to_dict() for name in ("out", "whole")))
    assert "windows of 15 steps" in run(given | dict(out=str(tmp_path / "swe"), fluxes=["swe"]), dry_run=True)
    given["rivers"]["gauges"] = "all"  # whose discharge is put together in shorter windows
    assert "3 windows of 26 steps" in run(given | dict(out=str(tmp_path / "all"), memory=5e-5), dry_run=True)
    with pytest.raises(ValueError, match="memory must hold . steps of 1 basins"):
        run(given | dict(out=str(tmp_path / "all"), memory=1e-5), dry_run=True)


# --- Packed -------------------------------------------------------------------------------------------------------


def test_packed_output(folder, tmp_path):
    pack = {
        "streamflow": dict(dtype="int16", scale_factor=0.005, add_offset=100.0),
        "discharge": dict(dtype="int32", scale_factor=0.001),
        "discharge_daily_mean": dict(dtype="uint16", scale_factor=0.5),
    }
    rivers = dict(network=str(folder / "all.network.nc"), dt=21600.0, local_days=9)
    given = settings(folder, tmp_path / "plain", "all", window=25, block=16, fluxes=FLUXES, rivers=rivers)
    run(given, progress=False)
    run(given | dict(out=str(tmp_path / "packed"), pack=pack), progress=False)
    for kind, name in (("", "streamflow"), (".rivers", "discharge"), (".days", "discharge_daily_mean")):
        plain, packed = (open_run(tmp_path / out, kind)[name].load() for out in ("plain", "packed"))
        assert packed.encoding["dtype"] == pack[name]["dtype"]
        np.testing.assert_array_equal(np.isnan(plain), np.isnan(packed))
        error = abs(packed.astype("f8") - plain).max().item()
        assert 0 < error <= 0.5 * pack[name]["scale_factor"] * (1 + 1e-3) + 1e-5
    swe = [open_run(tmp_path / out)["swe"].values for out in ("plain", "packed")]
    np.testing.assert_array_equal(*swe)
    consolidate(tmp_path / "packed", tmp_path / "joined.zarr")
    xr.testing.assert_equal(loaded(tmp_path / "joined.zarr"), open_run(tmp_path / "packed").load())


def test_what_a_packed_output_cannot_hold(folder, tmp_path):
    given = settings(folder, tmp_path / "out", "all", window=25, block=16)
    with pytest.raises(ValueError, match=r"streamflow must lie in \[-0.127, 0.127\] mm d-1 .* in basin \d+ on 2000-1"):
        run(given | dict(pack={"streamflow": dict(dtype="int8", scale_factor=0.001)}), progress=False)
    given["out"] = str(tmp_path / "other")
    for pack, says in (
        ({"swe": dict(dtype="int16")}, "pack must name what is written, streamflow; found swe"),
        ({"streamflow": dict(dtype="int64")}, "pack.streamflow.dtype"),
        ({"streamflow": dict(dtype="int16", scale_factor=0)}, "pack.streamflow.scale_factor"),
    ):
        with pytest.raises(ValueError, match=says):
            run(given | dict(pack=pack), progress=False)
    run(given, progress=False)
    with pytest.raises(ValueError, match="the outputs of the run"):
        run(given | dict(pack={"streamflow": dict(dtype="int16")}), progress=False)


# --- The past -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["a value", "an order", "none"])
def test_the_whole_past_is_verified(folder, tmp_path, change):
    shutil.copytree(folder / "all.zarr", tmp_path / "f.zarr")
    given = settings(folder, tmp_path / "out", "all", window=7, block=16) | dict(forcing=str(tmp_path / "f.zarr"))
    run(given, progress=False)
    before = files(tmp_path / "out")
    import zarr

    array = zarr.open_group(tmp_path / "f.zarr", mode="r+")["prcp"]
    if change == "a value":
        array[10, 20] = array[10, 20] + 1
    if change == "an order":
        array[8:12, 3:9] = array[8:12, 3:9][::-1]
    options = ["--forcing", given["forcing"], "--parameters", given["parameters"], "--out", given["out"]]
    assert cli.main(["run", *options, "--set", "window=7", "--set", "block=16"]) == 0  # finished: nothing is read
    if change == "none":
        assert "forcing of 9 finished windows is what the run has read" in run(given, verify=True, progress=False)
    else:
        with pytest.raises(ValueError, match="another prcp in the steps from 2000-10-08"):
            run(given, verify=True, progress=False)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("shape", [(1, 1), (3, 2047), (40, 1025), (64, 7000)])
def test_a_digest_sees_every_change(shape):
    x = np.random.default_rng(0).random(shape, np.float32)
    flat, found = x.reshape(-1), {digest(x)}
    for i in np.linspace(0, x.size - 1, 20).astype(int):
        before = flat[i].copy()
        flat[i] = np.nextafter(before, np.float32(2))
        found.add(digest(x))
        flat[i] = before
        if i:
            flat[[0, i]] = flat[[i, 0]]
            found.add(digest(x))
            flat[[0, i]] = flat[[i, 0]]
    places = len(set(np.linspace(0, x.size - 1, 20).astype(int)))
    assert len(found) == 1 + places + (places - 1)


def test_a_past_that_is_not_there_is_not_verified(folder, tmp_path):
    given = settings(folder, tmp_path / "out", "some", window=7, block=16)
    run(given, progress=False)
    given |= dict(forcing=str(folder / "all.zarr"), period="2000-11-10:2000-11-29")  # the new days alone
    with pytest.raises(ValueError, match="found it to begin at 2000-11-10"):
        run(given, further=True, verify=True, progress=False)
    run(given, further=True, progress=False)
    run(settings(folder, tmp_path / "whole", "all"), progress=False)
    found, whole = (open_run(tmp_path / name)["streamflow"].values for name in ("out", "whole"))
    np.testing.assert_array_equal(found, whole)


# --- What is refused ----------------------------------------------------------------------------------------------


def test_gauges_that_are_refused(folder, tmp_path):
    network = str(folder / "all.network.nc")
    for given, says in (
        (settings(folder, tmp_path / "out", parts=2), "units of gauges has one part"),
        (in_parts(folder, tmp_path / "out", fluxes=["swe"]), "found it not among the fluxes"),
        (in_parts(folder, tmp_path / "out", pack={"streamflow": dict(dtype="int16")}), "found it packed"),
        (settings(folder, tmp_path / "out", rivers=dict(network=network)), "must hold the 60 reaches"),
        (settings(folder, tmp_path / "out", "all", rivers=dict(network=network, local_days="noon")), "local_days must"),
        (settings(folder, tmp_path / "out", "all", rivers=dict(network=network, local_days=15)), "within 14"),
    ):
        with pytest.raises(ValueError, match=says):
            run(given, progress=False)
    _, data = series(folder)
    apart = data.assign_coords(gauge=("basin", data["gauge"].values[::-1].copy()))
    apart["gauge"].values[-1] = apart["gauge"].values[0]
    stored(apart, tmp_path / "apart.zarr")
    with pytest.raises(ValueError, match="must follow one another"):
        run(settings(folder, tmp_path / "out") | dict(forcing=str(tmp_path / "apart.zarr")), progress=False)
    stored(data.drop_vars("area_km2"), tmp_path / "areas.zarr")
    with pytest.raises(ValueError, match="need their areas"):
        run(settings(folder, tmp_path / "out") | dict(forcing=str(tmp_path / "areas.zarr")), progress=False)
