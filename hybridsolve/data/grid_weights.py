"""The cells of a grid that lie in polygons, by exactextract, and the areas that are covered of them.

The share of a cell that a polygon covers is the library's; the cell's area is the true one, on a sphere for latitude
and longitude, else by the projection's areal scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .._extras import needed_for
from .ids import listed, refuse_duplicates, text_ids
from .netcdf import load_netcdf

if TYPE_CHECKING:
    import geopandas
    import pyproj

RADIUS = 6_371_008.8  # m, the mean radius of the Earth (IUGG)
COVERED = 1e-5  # share of a polygon that may lie outside: coverage fractions are float32
# What names a coordinate along an axis.
_LATITUDES = ("latitude", "lat", "grid_latitude", "rlat")
_LONGITUDES = ("longitude", "lon", "grid_longitude", "rlon")
_AXES = {
    "y": (*_LATITUDES, "projection_y_coordinate", "y", "northing"),
    "x": (*_LONGITUDES, "projection_x_coordinate", "x", "easting"),
}
_WEIGHTS = ("basin_index", "cell", "area", "coverage", "area_km2")
Gridded = xr.DataArray | xr.Dataset


def read_polygons(polygons: str | Path | geopandas.GeoDataFrame, id: str, layer: str | None = None) -> Any:
    """Polygons with their ids as text in the index, checked.

    Parameters
    ----------
    polygons : path or GeoDataFrame
        A file that pyogrio reads, such as a GeoPackage or a Shapefile.
    id : str
        The column of ids.
    layer : str, optional
        Of a file with several.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file or column; no coordinate reference system; ids twice; geometries that are missing, empty, invalid
        or no polygons.
    """
    with needed_for("the weights of polygons"):
        import geopandas

    where = "the polygons"
    if not isinstance(polygons, geopandas.GeoDataFrame):
        where = str(polygons)
        if not Path(polygons).exists():
            raise FileNotFoundError(f"{where} does not exist, expected a file of polygons; check the path.")
        try:
            polygons = geopandas.read_file(polygons, layer=layer)
        except Exception as error:  # pyogrio's and GDAL's own, which have no common class
            reason = " ".join(str(error).split())
            raise ValueError(f"{where} could not be read as polygons ({reason}); check the file and layer.") from error
        if not isinstance(polygons, geopandas.GeoDataFrame):
            raise ValueError(f"{where} must hold polygons, found a table without geometry; name another file or layer.")
    if id not in polygons.columns or id == polygons.geometry.name:
        columns = [c for c in polygons.columns if c != polygons.geometry.name]
        raise ValueError(f"{where} must have the column '{id}' of ids, found {listed(columns)}; name one of them.")
    if polygons.crs is None:
        raise ValueError(
            f"{where} must say their coordinate reference system, found none; set it, such as by set_crs(4326)."
        )
    if not len(polygons):
        raise ValueError(f"{where} must hold a polygon or more, found none; name another file or layer.")
    ids = text_ids(polygons[id].to_numpy(), f"column {id} of {where}")
    refuse_duplicates(ids, f"column {id} of {where}")
    geometry = polygons.geometry
    areal = geometry.geom_type.isin(["Polygon", "MultiPolygon"])
    for bad, what, remedy in (
        (geometry.isna() | geometry.is_empty, "missing or empty", "drop it"),
        (~areal, "no polygon", "drop it"),
        (~geometry.is_valid, "invalid", "repair it, such as by make_valid()"),
    ):
        if bad.any():
            raise ValueError(
                f"{where} must hold valid polygons, found {int(bad.sum())} that are {what}, of id "
                f"{listed(ids[bad.to_numpy()])}; {remedy}."
            )
    return polygons.set_axis(ids, axis=0)


def basin_weights(
    grid: Gridded,
    polygons: str | Path | geopandas.GeoDataFrame,
    id: str,
    *,
    layer: str | None = None,
    crs: Any = None,
    partial: bool = False,
) -> xr.Dataset:
    """The cells of a grid that lie in polygons, with the areas that each polygon covers of them.

    Parameters
    ----------
    grid : DataArray or Dataset
        With evenly spaced coordinates of one dimension each, latitude and longitude (0 to 360 or -180 to 180, north or
        south first) or a projection's; its values are not read.
    polygons, id, layer
        As for `read_polygons`; in any coordinate reference system.
    crs : optional
        Of the grid, as pyproj takes it; else what its grid mapping says, and WGS 84 of latitude and longitude.
    partial : bool
        Take polygons that lie partly outside of the grid, whose means are of the part inside.

    Returns
    -------
    xarray.Dataset
        Over ``entry``, by basin and cell: `basin_index`, `cell` (row-major index into the grid), `area` (m2); over
        ``basin``: `coverage`, the share of the polygon within the grid, and `area_km2`, the area within it; the grid's
        coordinates; fingerprints of both. `write_netcdf` writes it, `read_weights` reads it.

    Raises
    ------
    ValueError
        If the grid is not such a one, a polygon lies outside of it, or partly and `partial` is not set; or as
        `read_polygons`.
    """
    import shapely

    frame = read_polygons(polygons, id, layer)
    y, x = _axes(grid)
    reference = _reference(grid, y, x, crs)
    edges = [_edges(axis) for axis in (y, x)]
    outlines = frame.geometry.to_crs(reference)
    index, cell, share = _covered_cells(outlines, edges, reference)
    cell_area = np.abs(np.diff(edges[0])[cell // x.size] * np.diff(edges[1])[cell % x.size])  # in the grid's units
    inside = np.bincount(index, share * cell_area, minlength=len(frame))
    coverage = inside / shapely.area(outlines.array)  # in the grid's plane, as `inside`
    ids = frame.index.to_numpy(dtype=str)
    _check_coverage(coverage, ids, partial)
    area = share * _true_areas(cell, edges, reference)
    weights = xr.Dataset(
        {
            "basin_index": ("entry", index.astype(np.int32), dict(long_name="index into basin")),
            "cell": ("entry", cell, dict(long_name="index into the cells, row by row")),
            "area": ("entry", area, dict(units="m2", long_name="area of the cell that the basin covers")),
            "coverage": ("basin", coverage.clip(max=1), dict(units="1", long_name="share of the basin in the grid")),
            "area_km2": (
                "basin",
                np.bincount(index, area, minlength=len(frame)) / 1e6,
                dict(units="km2", long_name="area in the grid"),
            ),
        },
        coords={"basin": ids, y.name: y.variable, x.name: x.variable},
        attrs=dict(
            title="areas of grid cells by basin",
            axes=f"{y.name} {x.name}",
            crs_wkt=reference.to_wkt(),
            grid_fingerprint=_digest(y.values, x.values, reference.to_wkt()),
            polygons_fingerprint=_fingerprint(frame),
        ),
    )
    return weights


def read_weights(path: str | Path) -> xr.Dataset:
    """Weights of a file that `write_netcdf` has written; raises ValueError if it is another."""
    expected = "a file of weights of hybridsolve.data.basin_weights"
    weights = load_netcdf(path, expected)
    lacking = [name for name in _WEIGHTS if name not in weights] + [
        name for name in ("axes", "grid_fingerprint", "polygons_fingerprint") if name not in weights.attrs
    ]
    if lacking:
        raise ValueError(f"{path} must be {expected}, found no {listed(lacking)} in it; compute them anew.")
    return weights


def check_polygons(weights: xr.Dataset, polygons: Any, id: str, layer: str | None = None) -> Any:
    """The polygons of `read_polygons`, which must be those of the weights; raises ValueError if they are others."""
    frame = read_polygons(polygons, id, layer)
    if _fingerprint(frame) != weights.attrs["polygons_fingerprint"]:
        raise ValueError(
            f"the weights must be of these polygons, {len(frame)} with ids {listed(frame.index)}; found those of "
            f"others, {weights.sizes['basin']} with ids {listed(weights['basin'].values)}: compute them anew."
        )
    return frame


def _fingerprint(frame: Any) -> str:
    return _digest(frame.crs.to_wkt(), *frame.index, *frame.geometry.to_wkb())


def _axes(grid: Gridded) -> tuple[xr.DataArray, xr.DataArray]:
    """The coordinates along y and x, of one dimension each."""
    found = []
    for axis, names in _AXES.items():
        called = [c for c in grid.coords if str(c).lower() in names or grid[c].attrs.get("standard_name") in names]
        plain = [grid[c] for c in called if grid[c].dims == (c,)]
        if len(plain) != 1:
            curved = [str(c) for c in called if grid[c].ndim == 2]
            found_text = f"{listed(curved)} of two dimensions" if curved and not plain else listed(called)
            raise ValueError(
                f"the grid must have one coordinate along {axis}, of one dimension, such as {names[1]}; found "
                f"{found_text}: give the projection's coordinates, or interpolate to a regular grid."
            )
        if plain[0].size < 2 or plain[0].dtype.kind not in "iuf" or not np.isfinite(plain[0].values).all():
            raise ValueError(
                f"coordinate {plain[0].name} of the grid must be two finite numbers or more; found {plain[0].dtype} "
                f"[{plain[0].size}]: correct it."
            )
        found.append(plain[0])
    return found[0], found[1]


def _edges(axis: xr.DataArray) -> np.ndarray:
    """The edges of evenly spaced cells; longitudes that jump by 360 are taken on."""
    values = axis.values.astype(np.float64)
    turning = _is(axis, _LONGITUDES)
    if turning:
        values = np.unwrap(values, period=360)
    step = (values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or (np.abs(values - values[0] - step * np.arange(len(values))) > 0.01 * abs(step)).any():
        steps = np.diff(values)
        raise ValueError(
            f"coordinate {axis.name} of the grid must be evenly spaced; found steps of {steps.min():g} to "
            f"{steps.max():g}: interpolate to a regular grid."
        )
    if turning and abs(step) * len(values) > 360 * (1 + 1e-6):
        raise ValueError(
            f"coordinate {axis.name} of the grid must go round the Earth once at most; found {values[0]:g} to "
            f"{values[-1]:g}: drop the columns that are there twice."
        )
    edges: np.ndarray = values[0] + step * (np.arange(len(values) + 1) - 0.5)
    return edges


def _is(axis: xr.DataArray, names: Sequence[str]) -> bool:
    return str(axis.name).lower() in names or axis.attrs.get("standard_name") in names


def _reference(grid: Gridded, y: xr.DataArray, x: xr.DataArray, crs: Any) -> pyproj.CRS:
    """The coordinate reference system of the grid."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    arrays = [grid] if isinstance(grid, xr.DataArray) else list(grid.data_vars.values())
    named = [a.attrs.get("grid_mapping", a.encoding.get("grid_mapping")) for a in arrays]
    mapping = next(
        (grid[n] for n in named if n and n in (grid.coords if isinstance(grid, xr.DataArray) else grid)), None
    )
    try:
        if crs is not None:
            return CRS.from_user_input(crs)
        if mapping is not None:
            return CRS.from_cf(mapping.attrs)
    except (CRSError, KeyError) as error:
        raise ValueError(
            f"the grid's coordinate reference system could not be understood ({' '.join(str(error).split())}); name "
            "another, such as EPSG:4326."
        ) from error
    if _is(y, _LATITUDES[:2]) and _is(x, _LONGITUDES[:2]):
        return CRS.from_epsg(4326)
    raise ValueError(
        f"the grid must say its coordinate reference system, found none for {y.name} and {x.name}; give crs, such as "
        "EPSG:3035."
    )


def _covered_cells(outlines: Any, edges: list[np.ndarray], reference: pyproj.CRS) -> tuple[np.ndarray, ...]:
    """Of each pair of polygon and cell: the index of the polygon, that of the cell, and the share that is covered."""
    with needed_for("the weights of polygons"):
        import geopandas
        from exactextract import exact_extract
        from exactextract.raster import NumPyRasterSource

    y, x = edges
    n_y, n_x = len(y) - 1, len(x) - 1
    frame = geopandas.GeoDataFrame({"row": np.arange(len(outlines))}, geometry=outlines.values, crs=reference)
    bounds = frame.bounds
    found = []
    for turn in (0, -360, 360) if reference.is_geographic else (0,):
        near = frame[(bounds["maxx"] > x.min() + turn) & (bounds["minx"] < x.max() + turn)]
        if near.empty:
            continue
        raster = NumPyRasterSource(
            np.broadcast_to(np.int8(0), (n_y, n_x)),
            xmin=x.min() + turn,
            ymin=y.min(),
            xmax=x.max() + turn,
            ymax=y.max(),
            srs_wkt=reference.to_wkt(),
        )
        table = exact_extract(raster, near, ["cell_id", "coverage"], include_cols=["row"], output="pandas")
        for row, cells, shares in zip(near["row"], table["cell_id"], table["coverage"], strict=True):
            found.append((np.full(len(cells), row), np.asarray(cells, np.int64), np.asarray(shares, np.float64)))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    index, cell, share = (np.concatenate(part) for part in zip(*found, strict=True))
    row, column = cell // n_x, cell % n_x  # north and west first
    if y[0] < y[-1]:
        row = n_y - 1 - row
    if x[0] > x[-1]:
        column = n_x - 1 - column
    cell = row * n_x + column
    order = np.lexsort((cell, index))
    order = order[share[order] > 0]
    return index[order], cell[order], share[order]


def _true_areas(cell: np.ndarray, edges: list[np.ndarray], reference: pyproj.CRS) -> np.ndarray:
    """Areas of cells on the Earth, m2."""
    y, x = edges
    row, column = cell // (len(x) - 1), cell % (len(x) - 1)
    if reference.is_geographic:
        on_earth = np.deg2rad(y.clip(-90, 90))  # a cell around a pole is half beyond it, and so is its share
        bands = RADIUS**2 * np.abs(np.diff(np.sin(on_earth)) / np.diff(on_earth) * np.diff(np.deg2rad(y)))
        areas: np.ndarray = bands[row] * np.abs(np.diff(np.deg2rad(x)))[column]
        return areas
    from pyproj import Proj, Transformer

    centre = (x[column] + x[column + 1]) / 2, (y[row] + y[row + 1]) / 2
    degrees = Transformer.from_crs(reference, reference.geodetic_crs, always_xy=True).transform(*centre)
    metres = reference.axis_info[0].unit_conversion_factor
    plane = np.abs(np.diff(x)[column] * np.diff(y)[row]) * metres**2
    return plane / np.asarray(Proj(reference).get_factors(*degrees).areal_scale)


def _check_coverage(coverage: np.ndarray, ids: np.ndarray, partial: bool) -> None:
    outside = coverage <= 0
    if outside.any():
        raise ValueError(
            f"polygons must lie in the grid, found {int(outside.sum())} outside of it ({listed(ids[outside])}); drop "
            "them, or take a grid that holds them."
        )
    cut = coverage < 1 - COVERED
    if cut.any() and not partial:
        least = np.argmin(coverage)
        raise ValueError(
            f"polygons must lie wholly in the grid, found {int(cut.sum())} partly outside ({listed(ids[cut])}; least "
            f"{ids[least]}, covered by {coverage[least]:.1%}); allow it by partial, or take a larger grid."
        )


def check_grid(array: xr.DataArray, weights: xr.Dataset, what: str) -> None:
    for name in weights.attrs["axes"].split():
        ours = weights[name].values.astype(np.float64)
        theirs = array[name].values.astype(np.float64) if name in array.coords else np.empty(0)
        near = 1e-3 * np.abs(np.diff(ours)).min()
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=0, atol=near):
            found = f"{theirs[0]:g} to {theirs[-1]:g} [{len(theirs)}]" if len(theirs) else "none"
            raise ValueError(
                f"{what} must be on the grid of the weights, {name} {ours[0]:g} to {ours[-1]:g} [{len(ours)}]; found "
                f"{found}: compute the weights of this grid."
            )


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else bytes(part))
    return digest.hexdigest()
