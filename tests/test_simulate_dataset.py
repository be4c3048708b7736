"""A model over a dataset: in memory and lazily to the same bits, by ids, with what does not fit refused by name."""

import numpy as np
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.scale import synthetic_continent, synthetic_parameters

dask = pytest.importorskip("dask")
pytest.importorskip("zarr")
FLUXES = ["streamflow", "aet", "sm"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "c.zarr"
    chunks = {"time": 50, "basin": 4}
    return synthetic_continent(path, 9, period=("2001-01-01", "2001-08-31"), chunks=chunks, network=False)


@pytest.fixture(scope="module")
def data(store):
    return hs.data.open_dataset(store)


@pytest.fixture(scope="module")
def parameters(data):
    return synthetic_parameters(data, "hbv11p")


def test_it_is_the_run_of_the_tensors(data, parameters):
    model = hs.models.get("hbv11p")
    forcing = {name: torch.tensor(data[name].values) for name in model.forcing_names}
    values = {p.name: torch.tensor(parameters[p.name].values)[:, None] for p in model.every_parameter}
    run = simulate_to_gauge(model, forcing, values, fluxes=FLUXES)
    found = hs.simulate_dataset(data, parameters.isel(basin=slice(None, None, -1)), fluxes=FLUXES)
    for name in FLUXES:
        np.testing.assert_array_equal(found[name], run.fluxes[name])
    assert found["streamflow"].attrs == {"units": "mm d-1", "long_name": "flow at the gauge"}
    assert found["sm"].attrs["units"] == "mm" and found.attrs["model"] == "hbv11p" and "time_bnds" in found.coords
    unrouted = hs.simulate_dataset(data, parameters.drop_vars(["route_a", "route_b"]))
    assert unrouted["streamflow"].attrs["long_name"] == model.variable("streamflow").meaning
    assert not np.array_equal(unrouted["streamflow"], found["streamflow"])


@pytest.mark.parametrize("chunks", [{}, {"time": -1}, {"time": 9, "basin": 5}])
def test_lazy_data_stay_lazy_and_have_the_same_bits(store, data, parameters, chunks, monkeypatch):
    whole = hs.simulate_dataset(data, parameters, fluxes=FLUXES)
    lazy = xr.open_zarr(store).chunk(chunks)
    ran = []
    run = simulate_to_gauge
    monkeypatch.setattr(
        "hybridsolve.scale.datasets.simulate_to_gauge", lambda *a, **k: (ran.append(1), run(*a, **k))[1]
    )
    found = hs.simulate_dataset(lazy, parameters, fluxes=FLUXES)
    assert not ran and found["aet"].chunks == lazy["prcp"].chunks
    with dask.config.set(scheduler="synchronous"):
        computed = found.compute()
    assert len(ran) == lazy["prcp"].data.npartitions  # each chunk once, whatever the number of fluxes
    for name in FLUXES:
        np.testing.assert_array_equal(computed[name], whole[name])
        assert computed[name].attrs == whole[name].attrs


def test_chunks_may_differ_between_forcings_and_some_be_in_memory(store, data, parameters):
    lazy = xr.open_zarr(store).chunk({"time": 100})
    lazy["pet"] = lazy["pet"].chunk({"basin": 2})
    lazy["tmean"] = lazy["tmean"].load()
    found = hs.simulate_dataset(lazy, parameters)
    assert found["streamflow"].chunks is not None
    np.testing.assert_array_equal(found["streamflow"], hs.simulate_dataset(data, parameters)["streamflow"])


def test_it_is_written_chunk_by_chunk(store, data, parameters, tmp_path):
    found = hs.simulate_dataset(xr.open_zarr(store), parameters)
    found.drop_vars("time_bnds", errors="ignore").to_zarr(tmp_path / "flow.zarr", zarr_format=3, consolidated=False)
    written = xr.open_zarr(tmp_path / "flow.zarr", consolidated=False)
    np.testing.assert_array_equal(written["streamflow"], hs.simulate_dataset(data, parameters)["streamflow"])


def test_parameters_of_a_calibration_and_of_one_number(data, parameters):
    stored = xr.concat([parameters, parameters + 0.1], "start").transpose("basin", "start")
    stored.attrs["model"] = "hbv11p"
    stored["cwh"] = xr.DataArray(0.1)
    single = parameters.assign(cwh=0.1 + 0 * parameters["cwh"])
    xr.testing.assert_identical(hs.simulate_dataset(data, stored), hs.simulate_dataset(data, single))


def test_a_lazy_value_that_is_wrong_names_its_basin_and_day(store, parameters):
    lazy = xr.open_zarr(store)
    bad = (lazy["time"] == np.datetime64("2001-04-02")) & (lazy["basin"] == lazy["basin"][5])
    lazy["prcp"] = lazy["prcp"].where(~bad).assign_attrs(lazy["prcp"].attrs)
    found = hs.simulate_dataset(lazy, parameters)
    with pytest.raises(ValueError, match=rf"'prcp' must lie in .* in basin {lazy['basin'].values[5]} on 2001-04-02"):
        found.compute()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d, p: (d, p.isel(basin=slice(1, None))), "1 basins of the data have no parameters"),
        (lambda d, p: (d, p.drop_vars("fc")), "found no fc"),
        (lambda d, p: (d, p.where(p["basin"] != p["basin"][2]).assign_attrs(p.attrs)), "must have a number for each"),
        (lambda d, p: (d, p.assign_attrs(model="hbv99")), "unknown model 'hbv99'"),
        (lambda d, p: (d, p.drop_attrs()), "must name their model"),
        (lambda d, p: (d, p.expand_dims(member=2)), "found dimensions .*member"),
        (lambda d, p: (d.drop_vars("pet"), p), "'pet' is missing"),
        (lambda d, p: (d.assign(pet=d["pet"].assign_attrs(units="K")), p), "pet"),
    ],
)
def test_what_does_not_fit_is_refused(store, data, parameters, change, message):
    for given in (data, xr.open_zarr(store)):
        with pytest.raises(ValueError, match=message):
            hs.simulate_dataset(*change(given, parameters))
    with pytest.raises(TypeError, match="must be an xarray.Dataset, found dict"):
        hs.simulate_dataset(data, {})
