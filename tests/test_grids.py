"""Means of grids over polygons against sums by hand, elevations, the way back, the command, and what is refused."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr

from hybridsolve import cli
from hybridsolve.data import grids
from hybridsolve.data.grid_weights import RADIUS, basin_weights, read_weights
from hybridsolve.data.grids import Lapse, basin_means, to_grid, to_polygons
from hybridsolve.data.netcdf import write_netcdf

LAT, LON = np.arange(44.5, 50.0), np.arange(5.5, 13.0)
BOXES = {"07": shapely.box(6.25, 45.0, 8.5, 46.5), "b": shapely.box(9.0, 47.5, 10.0, 49.0)}


def polygons(boxes=BOXES, crs=4326):
    return geopandas.GeoDataFrame({"id": list(boxes)}, geometry=list(boxes.values()), crs=crs)


def forcing(lat=LAT, lon=LON, days=5):
    draw = np.random.default_rng(3)
    time = pd.date_range("2001-01-30", periods=days)
    shape = (days, len(lat), len(lon))
    return xr.Dataset(
        {
            "temp": (("time", "lat", "lon"), draw.normal(5, 3, shape).astype(np.float32), {"units": "degC"}),
            "prec": (("time", "lat", "lon"), draw.gamma(1, 3, shape), {"units": "mm d-1"}),
        },
        coords={"time": time, "lat": lat, "lon": lon},
    )


def by_hand(values, box, lat=LAT, lon=LON):
    """Mean of values [..., lat, lon] over a box, by the areas of the spherical rectangles."""
    west, south, east, north = box.bounds
    share_y = (np.minimum(lat + 0.5, north) - np.maximum(lat - 0.5, south)).clip(0)
    share_x = (np.minimum(lon + 0.5, east) - np.maximum(lon - 0.5, west)).clip(0)
    rows = np.sin(np.deg2rad(lat + 0.5)) - np.sin(np.deg2rad(lat - 0.5))
    weight = (share_y * rows)[:, None] * share_x
    return (values * weight).sum((-2, -1)) / weight.sum()


def expected(data, boxes=BOXES, **axes):
    return np.stack([by_hand(data.values.astype(np.float64), box, **axes) for box in boxes.values()], -1)


def test_means_are_weighted_by_area():
    data = forcing()
    means = basin_means(data, basin_weights(data, polygons(), "id"))
    assert list(means["basin"].values) == ["07", "b"] and means["temp"].dims == ("time", "basin")
    assert means["temp"].dtype == np.float32 and means["temp"].attrs["units"] == "degC"
    for name, tolerance in (("temp", 1e-6), ("prec", 1e-6)):  # coverage fractions are float32
        np.testing.assert_allclose(means[name].values, expected(data[name]), rtol=tolerance)


def test_areas_are_those_of_the_sphere():
    weights = basin_weights(forcing(), polygons({"a": shapely.box(6, 45, 8, 47)}), "id")
    true = RADIUS**2 * np.deg2rad(2) * (np.sin(np.deg2rad(47)) - np.sin(np.deg2rad(45)))
    assert weights["area_km2"].item() == pytest.approx(true / 1e6, rel=1e-9)
    assert weights["coverage"].item() == pytest.approx(1)


def test_cells_around_the_poles_are_half_a_cell():
    grid = xr.DataArray(np.zeros((19, 36)), coords={"lat": np.arange(-90.0, 91, 10), "lon": np.arange(0.0, 360, 10)})
    weights = basin_weights(grid.rename("x"), polygons({"cap": shapely.box(-180, 85, 180, 90)}), "id")
    true = RADIUS**2 * 2 * np.pi * (1 - np.sin(np.deg2rad(85)))
    assert weights["area_km2"].item() == pytest.approx(true / 1e6, rel=1e-7)


@pytest.mark.parametrize("turned", ["latitude", "longitudes of 0 to 360", "both axes", "longitudes that jump"])
def test_any_order_of_a_grid_gives_the_same_means(turned):
    boxes = {"a": shapely.box(-2.25, 45, 1.5, 46.5)}
    data = forcing(lon=np.arange(-3.5, 4))
    reference = expected(data["prec"], boxes, lon=data["lon"].values)
    if turned in ("latitude", "both axes"):
        data = data.isel(lat=slice(None, None, -1))
    if turned == "both axes":
        data = data.isel(lon=slice(None, None, -1)).transpose("lon", "time", "lat")
    if turned == "longitudes that jump":
        data = data.assign_coords(lon=data["lon"] % 360)
    if turned == "longitudes of 0 to 360":
        around = np.arange(0.5, 360)
        wide = data.reindex(lon=np.arange(-179.5, 180), fill_value=-1e3)
        data = wide.assign_coords(lon=wide["lon"] % 360).sel(lon=around)
    weights = basin_weights(data, polygons(boxes), "id")
    np.testing.assert_allclose(basin_means(data, weights)["prec"].values, reference, rtol=1e-6)


def test_a_projected_grid_has_the_true_areas_of_its_cells():
    """Mercator's cells of one size on the map are smaller on the Earth to the north, by the square of the scale."""
    x, y = np.arange(5) * 1e5 + 8e5, np.arange(20) * 1e5 + 5e6
    grid = xr.DataArray(np.arange(100.0).reshape(20, 5), coords={"y": y, "x": x}, name="prec")
    box = shapely.box(x[0], y[0], x[-1], y[-1])
    weights = basin_weights(grid, polygons({"a": box}, 3395), "id", crs=3395)
    exact = abs(geopandas.GeoSeries([shapely.segmentize(box, 1e4)], crs=3395).to_crs(6933).area.item())
    assert weights["area_km2"].item() * 1e6 == pytest.approx(exact, rel=2e-3)
    degrees = polygons({"a": shapely.segmentize(box, 1e4)}, 3395).to_crs(4326)
    again = basin_weights(grid, degrees, "id", crs=3395)
    assert basin_means(grid, again).item() == pytest.approx(basin_means(grid, weights).item(), rel=1e-5)
    with pytest.raises(ValueError, match="coordinate reference system, found none for y and x; give crs"):
        basin_weights(grid, degrees, "id")


def test_blocks_and_dask_give_the_same_bits(monkeypatch):
    data = forcing(days=9)
    weights = basin_weights(data, polygons(), "id")
    whole = basin_means(data, weights)
    lazy = basin_means(data.chunk(time=2, lat=3, lon=4), weights)
    assert lazy["prec"].chunks is not None
    monkeypatch.setattr(grids, "BLOCK_BYTES", 1000)
    xr.testing.assert_identical(lazy.compute(), whole)
    xr.testing.assert_identical(basin_means(data, weights), whole)


def test_members_of_an_ensemble_stay(monkeypatch):
    data = forcing()["prec"].expand_dims(member=3, axis=2) * xr.DataArray([1.0, 2, 3], dims="member")
    weights = basin_weights(data, polygons(), "id")
    means = basin_means(data.rename("prec"), weights)
    assert means.sizes == {"member": 3, "time": 5, "basin": 2}
    np.testing.assert_allclose(means[2], 3 * means[0], rtol=1e-12)


def test_gaps_are_refused_by_basin_and_date_or_left_out():
    data = forcing()
    weights = basin_weights(data, polygons(), "id")
    data["prec"][:, 0, 0] = np.nan  # in no basin
    assert basin_means(data, weights)["prec"].notnull().all()
    data["prec"][3, 3, 4] = np.nan
    rest = expected(data["prec"].fillna(0)) / expected(data["prec"].notnull() * 1.0)
    with pytest.raises(ValueError, match="found nan in basin b on 2001-02-02T00:00"):
        basin_means(data, weights)
    with pytest.raises(ValueError, match="found nan in basin b on 2001-02-02T00:00"):
        basin_means(data.chunk(time=2), weights).compute()
    means = basin_means(data, weights, missing="renormalise")["prec"]
    np.testing.assert_allclose(means.values, rest, rtol=1e-6)
    gone = basin_means(data["prec"].where(data["lat"] < 47), weights, missing="renormalise")
    assert gone.sel(basin="b").isnull().all() and gone.sel(basin="07").notnull().all()


@pytest.mark.parametrize("rate", [6.5, list(range(1, 13))])
def test_temperature_is_moved_to_the_units_elevation(rate):
    data = forcing()
    cells = xr.DataArray(np.random.default_rng(1).uniform(0, 3000, (6, 8)), coords={"lat": LAT, "lon": LON})
    units = xr.DataArray([2500.0, 300.0], coords={"basin": ["b", "07"]})
    weights = basin_weights(data, polygons(), "id")
    means = basin_means(data, weights, lapse={"temp": Lapse(rate, cells, units)})
    by_day = np.broadcast_to(np.atleast_1d(rate)[[0, 0, 1, 1, 1]] if np.ndim(rate) else rate, 5)[:, None, None]
    at_sea = data["temp"] + by_day * cells.values / 1000
    want = expected(at_sea) - by_day[:, :, 0] * np.array([300.0, 2500.0]) / 1000
    np.testing.assert_allclose(means["temp"].values, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(means["temp"].attrs["lapse_rate"], np.atleast_1d(rate))
    assert means["temp"].attrs["lapse_rate_units"] == "K km-1" and "lapse_rate" not in means["prec"].attrs


def test_precipitation_grows_with_height():
    data = forcing()
    cells = xr.DataArray(np.full((6, 8), 500.0), coords={"lat": LAT, "lon": LON})
    units = xr.DataArray([1500.0, 500.0], coords={"basin": ["07", "b"]})
    weights = basin_weights(data, polygons(), "id")
    moved = basin_means(data, weights, lapse={"prec": Lapse(0.4, cells, units, relative=True)})["prec"]
    plain = basin_means(data, weights)["prec"]
    np.testing.assert_allclose(moved / plain, np.exp([[0.4, 0.0]] * 5), rtol=1e-12)


def test_weights_are_written_and_reused(tmp_path):
    data = forcing()
    weights = basin_weights(data, polygons(), "id")
    back = read_weights(write_netcdf(weights, tmp_path / "weights.nc"))
    assert back.attrs["polygons_fingerprint"] == weights.attrs["polygons_fingerprint"]
    xr.testing.assert_identical(basin_means(data, back), basin_means(data, weights))
    moved = polygons({"07": shapely.box(6.25, 45.0, 8.5, 46.6), "b": BOXES["b"]})
    assert basin_weights(data, moved, "id").attrs["polygons_fingerprint"] != weights.attrs["polygons_fingerprint"]
    with pytest.raises(ValueError, match="must be on the grid of the weights, lon 5.5 to 12.5"):
        basin_means(data.assign_coords(lon=LON + 0.5), weights)
    with pytest.raises(ValueError, match="must be a file of weights|found no basin_index"):
        read_weights(write_netcdf(data, tmp_path / "data.nc"))


def test_values_go_back_to_the_grid_and_to_the_polygons():
    data = forcing()
    weights = basin_weights(data, polygons(), "id")
    values = xr.DataArray([2.0, 7.0], coords={"basin": ["b", "07"]}, name="fc", attrs={"units": "mm"})
    grid = to_grid(values, weights)
    assert grid.dims == ("lat", "lon") and grid.attrs["units"] == "mm"
    assert grid.sel(lat=45.5, lon=7.5) == 7 and grid.sel(lat=48.5, lon=9.5) == 2 and np.isnan(grid[0, 0])
    xr.testing.assert_allclose(basin_means(grid, weights), values.sel(basin=["07", "b"]))
    flow = basin_means(data, weights)["prec"]
    assert to_grid(flow, weights).sizes == {"time": 5, "lat": 6, "lon": 8}
    frame = to_polygons(values.to_dataset(), polygons(), "id")
    assert frame.loc["07", "fc"] == 7 and frame.crs == 4326
    with pytest.raises(ValueError, match="must have all basins of the weights, found no b"):
        to_grid(values.sel(basin=["07"]), weights)
    with pytest.raises(ValueError, match="must be of basins among the polygons, 07, b; found x"):
        to_polygons(xr.Dataset({"fc": ("basin", [1.0])}, coords={"basin": ["x"]}), polygons(), "id")


BAD = {
    "outside": (polygons({"far": shapely.box(100, 10, 101, 11)}), "outside of it .far."),
    "partly": (polygons({"cut": shapely.box(4, 45, 6, 46)}), "partly outside .cut; least cut, covered by 50.0%"),
    "no crs": (polygons(crs=None), "coordinate reference system, found none"),
    "ids twice": (polygons().assign(id="a"), "found 'a' more than once"),
    "invalid": (polygons({"bow": shapely.Polygon([(6, 45), (8, 47), (8, 45), (6, 47)])}), "are invalid, of id bow"),
    "empty": (polygons({"void": shapely.Polygon()}), "missing or empty, of id void"),
    "points": (polygons({"p": shapely.Point(7, 46)}), "are no polygon, of id p"),
    "none": (polygons().iloc[:0], "must hold a polygon or more, found none"),
    "no column": (polygons().rename(columns={"id": "gauge"}), "column 'id' of ids, found gauge"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_polygons_are_refused(case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        basin_weights(forcing(), given, "id")


def test_a_polygon_partly_outside_is_taken_when_asked():
    weights = basin_weights(forcing(), BAD["partly"][0], "id", partial=True)
    assert weights["coverage"].item() == pytest.approx(0.5)


def test_bad_grids_are_refused():
    data = forcing()
    uneven = data.assign_coords(lat=LAT**1.5)
    with pytest.raises(ValueError, match="coordinate lat of the grid must be evenly spaced"):
        basin_weights(uneven, polygons(), "id")
    two = {"lat": (("y", "x"), np.ones((6, 8))), "lon": (("y", "x"), np.ones((6, 8)))}
    curved = xr.Dataset({"temp": (("y", "x"), np.ones((6, 8)))}, coords=two)
    with pytest.raises(ValueError, match="found lat of two dimensions"):
        basin_weights(curved, polygons(), "id")
    twice = xr.Dataset(coords={"lat": LAT, "lon": np.arange(0.0, 720)})
    with pytest.raises(ValueError, match="round the Earth once at most"):
        basin_weights(twice, polygons(), "id")
    weights = basin_weights(data, polygons(), "id")
    with pytest.raises(ValueError, match="data must hold variables over lat and lon"):
        basin_means(data.mean("lat"), weights)
    with pytest.raises(ValueError, match="missing must be 'refuse' or 'renormalise'"):
        basin_means(data, weights, missing="skip")
    cells = xr.DataArray(np.zeros((6, 8)), coords={"lat": LAT, "lon": LON})
    units = xr.DataArray([1.0, np.nan], coords={"basin": ["07", "b"]})
    with pytest.raises(ValueError, match="must be finite for a lapse rate, found NaN in basin b"):
        basin_means(data, weights, lapse={"temp": Lapse(6.5, cells, units)})
    with pytest.raises(ValueError, match="one number or twelve"):
        Lapse([1.0, 2.0], cells, units)
    with pytest.raises(ValueError, match="lapse names 'tas'"):
        basin_means(data, weights, lapse={"tas": Lapse(6.5, cells, units)})


def test_the_command_writes_means_and_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = forcing()
    data.to_netcdf("era.nc")
    cells = xr.DataArray(np.full((6, 8), 800.0), coords={"lat": LAT, "lon": LON}, name="z", attrs={"units": "m"})
    cells.to_netcdf("z.nc")
    polygons().assign(height=[800.0, 1800.0]).to_file("basins.gpkg")
    plain = basin_means(data, basin_weights(data, polygons(), "id"))
    command = ["grid", "era.nc", "--polygons", "basins.gpkg", "--id", "id", "--weights", "w.nc", "--out", "forcing.nc"]
    assert cli.main([*command, "--elevation", "z.nc", "--height", "height", "--lapse", "temp=6"]) == 0
    assert "2 basins" in capsys.readouterr().out
    with xr.open_dataset("forcing.nc") as written:
        np.testing.assert_allclose(written["temp"], plain["temp"] - [[0.0, 6.0]], rtol=1e-5, atol=1e-5)
        assert written["temp"].attrs["lapse_rate"] == 6 and "area_km2" in written
    assert cli.main([*command, "--variables", "prec"]) == 0  # the weights are read
    with xr.open_dataset("forcing.nc") as written:
        assert "temp" not in written
        np.testing.assert_array_equal(written["prec"], plain["prec"])
    polygons({"07": BOXES["07"]}).to_file("basins.gpkg")
    assert cli.main(command) == 2
    assert "weights must be of these polygons" in capsys.readouterr().err
    assert cli.main([*command[:-1], "era.nc"]) == 2
    assert "must not be" in capsys.readouterr().err
