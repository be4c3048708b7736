"""The synthetic continent: the same bits however it is cut, plausible weather, and stores that others can open."""

import numpy as np
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve.routing.network import RiverNetwork
from hybridsolve.scale import continent, synthetic_continent, synthetic_parameters

zarr = pytest.importorskip("zarr")
SERIES = ("prcp", "tmean", "pet")


def read(path):
    return xr.open_zarr(path, chunks=None).load()


@pytest.fixture(scope="module")
def years(tmp_path_factory):
    path = tmp_path_factory.mktemp("continent") / "continent.zarr"
    return synthetic_continent(path, 60, period=("2001-01-01", "2004-12-31"), seed=3)


def test_chunks_blocks_and_periods_do_not_change_a_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(continent, "BLOCK", 16)  # so that 50 basins are drawn in four blocks
    period = ("2001-03-01", "2001-04-30")
    whole = read(synthetic_continent(tmp_path / "whole.zarr", 50, period=period, seed=5))
    monkeypatch.setattr(continent, "STEPS", 11)
    parts = synthetic_continent(tmp_path / "parts.zarr", 50, period=period, seed=5, chunks={"time": 7, "basin": 13})
    later = synthetic_continent(tmp_path / "later.zarr", 50, period=("2001-04-01", "2001-04-30"), seed=5, network=False)
    xr.testing.assert_identical(read(parts), whole)
    xr.testing.assert_identical(read(later)[list(SERIES)], whole[list(SERIES)].sel(time=slice("2001-04-01", None)))
    assert not (tmp_path / "later.network.nc").exists()
    other = read(synthetic_continent(tmp_path / "other.zarr", 50, period=period, seed=6))
    assert (other["tmean"] != whole["tmean"]).mean() > 0.99


def test_weather_before_1970_is_of_its_own_days(tmp_path):
    ds = read(synthetic_continent(tmp_path / "old.zarr", 8, period=("1969-12-20", "1970-01-12")))
    for name in ("tmean", "pet"):
        assert len(np.unique(ds[name].values, axis=0)) == 24


def test_the_weather_is_plausible(years):
    ds = read(years)
    rain, wet = ds["prcp"].values, ds["prcp"].values > 0
    np.testing.assert_allclose(rain.mean(0).mean(), ds["p_mean"].mean(), rtol=0.1)
    np.testing.assert_allclose(ds["pet"].mean(), ds["pet_mean"].mean(), rtol=0.1)
    np.testing.assert_allclose(ds["tmean"].mean("time"), ds["t_mean"], atol=1.0)
    assert 0.15 < wet.mean() < 0.6 and 20 < rain.max() < 500
    assert (wet[1:] & wet[:-1]).sum() / wet[:-1].sum() > 1.3 * wet.mean()  # wet days follow wet days
    # of neighbours more than of distant basins
    distance = np.hypot(ds["lat"].values[:, None] - ds["lat"].values, ds["lon"].values[:, None] - ds["lon"].values)
    correlation = np.corrcoef(rain.T)
    near, far = correlation[(distance > 0) & (distance < 6)].mean(), correlation[distance > 20].mean()
    assert near > 0.15 and near > far + 0.1
    warm = ds["tmean"].sel(time=ds["time"].dt.month == 7).mean("time")
    assert (warm > ds["tmean"].sel(time=ds["time"].dt.month == 1).mean("time") + 5).all()
    assert np.corrcoef(ds["elev_mean"], ds["t_mean"])[0, 1] < -0.5
    amounts = rain[wet] / np.broadcast_to(ds["p_mean"].values / wet.mean(0), rain.shape)[wet]
    np.testing.assert_allclose(amounts.std() / amounts.mean(), continent.SHAPE**-0.5, rtol=0.15)  # of a gamma


def test_it_opens_as_data_and_the_kernel_runs_on_it(years):
    ds = hs.data.open_dataset(years)
    assert ds["basin"].dtype.kind == "U" and ds["prcp"].attrs["units"] == "mm d-1"
    parameters = synthetic_parameters(ds, "hbv11p")
    model = hs.models.get("hbv11p")
    forcing = {name: torch.tensor(ds[name].values) for name in SERIES}
    values = {name: torch.tensor(parameters[name].values)[:, None] for name in model.parameter_names}
    flow = hs.simulate(model, forcing, values).fluxes["streamflow"].mean(0).numpy()
    assert np.isfinite(flow).all() and (flow < ds["p_mean"].values * 1.2).all() and flow.mean() > 0.1


@pytest.mark.parametrize("store", continent.STORES[1:])
def test_every_kind_of_store_holds_the_same_weather(years, tmp_path, store):
    path = synthetic_continent(tmp_path / "other.zarr", 60, period=("2001-01-01", "2001-02-28"), seed=3, store=store)
    found, expected = read(path), read(years).sel(time=slice("2001-01-01", "2001-02-28"))
    for name in SERIES:
        atol = {"packed": continent.PACKED[name] / 1.99, "float16": 0}.get(store, 0)
        rtol = 2.0**-11 if store == "float16" else 0
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=atol)
    raw = zarr.open_group(path, mode="r")["prcp"]
    assert raw.dtype == {"packed": "int16", "float16": "float16"}.get(store, "float32")
    assert bool(raw.compressors) == (store == "float32-compressed")


def test_a_lost_chunk_is_missing_and_not_dry(tmp_path):
    for store in ("float32", "packed"):
        path = synthetic_continent(tmp_path / f"{store}.zarr", 4, period=("2001-01-01", "2001-01-05"), store=store)
        (path / "prcp" / "c" / "0" / "0").unlink()
        assert np.isnan(read(path)["prcp"]).all()


def test_a_day_of_hours_has_its_sun_and_its_rain(tmp_path):
    period = ("2001-06-01", "2001-06-30")
    ds = hs.data.open_dataset(synthetic_continent(tmp_path / "hours.zarr", 40, period=period, step=3600, seed=3))
    days = hs.data.open_dataset(synthetic_continent(tmp_path / "days.zarr", 40, period=period, seed=3))
    assert ds["prcp"].attrs["units"] == "mm h-1" and ds.sizes["time"] == 720
    hours = ds["pet"].groupby("time.hour").mean(...)
    assert hours.sel(hour=12) > 0 and hours.sel(hour=0) == 0
    np.testing.assert_allclose(24 * ds["pet"].mean(), days["pet"].mean(), rtol=0.2)  # noons are warm
    np.testing.assert_allclose(24 * ds["prcp"].mean(), days["prcp"].mean(), rtol=0.5)


def test_the_rivers_are_those_of_the_basins(years):
    rivers, ds = RiverNetwork.load(years.with_name("continent.network.nc")), read(years)
    np.testing.assert_array_equal(rivers.ids, ds["basin"])
    np.testing.assert_allclose(rivers.attribute("area") / 1e6, ds["area_km2"], rtol=1e-6)
    inner = rivers.downstream >= 0
    assert (ds["elev_mean"].values[inner] > ds["elev_mean"].values[rivers.downstream[inner]]).all()
    order = np.argsort(rivers.upstream_area())
    assert (np.diff(rivers.attribute("width")[order]) >= 0).all()
    flow = torch.full((3, rivers.n_reaches), 1.0, dtype=torch.float64)
    assert np.isfinite(hs.routing.route(rivers, flow, ids=rivers.ids, dt=3600).discharge.numpy()).all()


def test_parameters_follow_attributes_and_not_the_other_basins(years):
    ds = read(years)
    for name in hs.models.names():
        model = hs.models.get(name)
        found = synthetic_parameters(ds, model)
        xr.testing.assert_identical(
            synthetic_parameters(ds.isel(basin=slice(5, 9)), model), found.isel(basin=slice(5, 9))
        )
        for p in (*model.parameters, *model.routing_parameters):
            assert ((found[p.name] >= np.float32(p.lower)) & (found[p.name] <= np.float32(p.upper))).all()
            assert found[p.name].std() > 0 or not p.free
    assert found.attrs["model"] == name


def test_what_cannot_be_made_is_refused(tmp_path, years):
    with pytest.raises(FileExistsError, match="must be new"):
        synthetic_continent(years, 4)
    with pytest.raises(FileNotFoundError, match="must exist"):
        synthetic_continent(tmp_path / "none" / "a.zarr", 4)
    for options, message in (
        ({"store": "float8"}, "store must be one of"),
        ({"chunks": {"day": 4}}, "chunks must be of time and basin"),
        ({"step": 7000}, "step must divide a day"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(ValueError, match=message):
            synthetic_continent(tmp_path / "a.zarr", 4, **options)
    with pytest.raises(ValueError, match="found no elev_mean"):
        synthetic_parameters(xr.Dataset())
    assert not list(tmp_path.iterdir())
