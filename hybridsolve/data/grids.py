"""From grids to basins: area-weighted means of gridded series, moved to the basins' elevation; and back for a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.sparse import csr_array

from .grid_weights import Gridded, check_grid, read_polygons
from .ids import listed, refuse_duplicates, text_ids

if TYPE_CHECKING:
    import geopandas

BLOCK_BYTES = 2**27  # of the float64 values of a grid that are in memory at a time


@dataclass(frozen=True)
class Lapse:
    """How a series is moved from the elevation of the grid's cells to that of a basin or unit.

    Temperature falls by ``rate`` K per km, T + rate (z_cell - z_unit); with `relative`, an amount such as precipitation
    grows by it, P exp(rate (z_unit - z_cell)), the form of Valery (2010, PhD thesis, AgroParisTech).

    Attributes
    ----------
    rate : float or 12 of them
        K km-1, or km-1 where relative; twelve are of the months, January first.
    cells : DataArray ``[y, x]``
        Elevation of the grid's cells, m.
    units : DataArray ``[basin]``
        Elevation of the units, m, with their ids.
    relative : bool
    """

    rate: float | Sequence[float]
    cells: xr.DataArray
    units: xr.DataArray
    relative: bool = False

    def __post_init__(self) -> None:
        rates = self.rates
        if rates.shape not in ((1,), (12,)) or not np.isfinite(rates).all():
            raise ValueError(
                f"a lapse rate must be one number or twelve, January first; found {self.rate!r}: correct it."
            )

    @property
    def rates(self) -> np.ndarray:
        """One rate or twelve, as an array."""
        return np.atleast_1d(np.asarray(self.rate, dtype=np.float64))

    def at_sea_level(self, values: np.ndarray, rate: np.ndarray, elevation: np.ndarray) -> np.ndarray:
        """Values ``[..., N]`` at elevations ``[N]``, moved to 0 m; rate ``[...]`` or ``[1]``."""
        change = rate[..., None] * elevation / 1000
        return values * np.exp(-change) if self.relative else values + change

    def at(self, values: np.ndarray, rate: np.ndarray, elevation: np.ndarray) -> np.ndarray:
        """Values at 0 m, moved to elevations."""
        return self.at_sea_level(values, rate, -elevation)

    @property
    def attributes(self) -> dict[str, Any]:
        """What a moved series says of it."""
        unit = "km-1" if self.relative else "K km-1"
        growth = "grows with height, exponentially" if self.relative else "falls with height"
        return dict(lapse_rate=self.rates, lapse_rate_units=unit, lapse_rate_comment=f"{growth}; one, or by month")


def basin_means(
    data: Gridded,
    weights: xr.Dataset,
    *,
    missing: str = "refuse",
    lapse: Mapping[str, Lapse] | None = None,
) -> Any:
    """Area-weighted means of gridded values over basins, a block of steps in memory at a time.

    Parameters
    ----------
    data : DataArray or Dataset
        On the grid of the weights, with any other dimensions; backed by dask the result is lazy, else it is computed.
        Variables of a dataset without the grid's dimensions are kept.
    weights : Dataset
        Of `basin_weights`.
    missing : {"refuse", "renormalise"}
        What is done where a cell has no value: raise, or take the mean of the other cells, NaN where there is none.
    lapse : mapping of str to Lapse, optional
        By variable, how it is moved to the elevation of the basins.

    Returns
    -------
    DataArray or Dataset
        As data, with ``basin`` in place of the grid's dimensions, in the dtype of each variable (float64 of integers),
        and the attributes of `Lapse` where moved.

    Raises
    ------
    ValueError
        If the grid is another, an elevation or, unless renormalised, a value is missing; names basin and date. Of lazy
        data the last is raised where they are computed.
    """
    if missing not in ("refuse", "renormalise"):
        raise ValueError(f"missing must be 'refuse' or 'renormalise', found {missing!r}; choose one.")
    lapse = dict(lapse or {})
    if isinstance(data, xr.DataArray):
        _refuse_unknown(lapse, [data.name])
        return _means(data, weights, missing, lapse.get(str(data.name)))
    axes = weights.attrs["axes"].split()
    gridded = [name for name in data.data_vars if set(axes) <= set(data[name].dims)]
    if not gridded:
        raise ValueError(
            f"data must hold variables over {axes[0]} and {axes[1]} as the weights, found {listed(data.data_vars)} "
            f"over {listed(data.dims)}; rename the dimensions, or compute the weights of this grid."
        )
    _refuse_unknown(lapse, gridded)
    mappings = {data[name].attrs.get("grid_mapping", data[name].encoding.get("grid_mapping")) for name in gridded}
    kept = [n for n in data.data_vars if not set(axes) & set(data[n].dims) and n not in mappings]
    means = {str(name): _means(data[name], weights, missing, lapse.get(str(name))) for name in gridded}
    return data[kept].drop_vars(axes, errors="ignore").assign(means)


def to_grid(values: xr.DataArray, weights: xr.Dataset) -> xr.DataArray:
    """Values of basins on the grid: in each cell the mean by area of the basins that cover it, NaN where none does.

    Parameters
    ----------
    values : DataArray ``[..., basin]``
        A parameter, a score or a flow, of the weights' basins in any order; those that are NaN have no part.
    weights : Dataset
        Of `basin_weights`.

    Raises
    ------
    ValueError
        If a basin of the weights is missing.
    """
    axes = weights.attrs["axes"].split()
    shape = tuple(weights.sizes[name] for name in axes)
    v = _of_basins(values, weights, "values").transpose(..., "basin")
    matrix = csr_array(
        (weights["area"].values, (weights["cell"].values, weights["basin_index"].values)),
        shape=(shape[0] * shape[1], weights.sizes["basin"]),
    )
    mean = _weighted(matrix, v.values.reshape(-1, v.sizes["basin"]).astype(np.float64))
    dims = [d for d in v.dims if d != "basin"]
    coords = {name: v[name] for name in v.coords if set(v[name].dims) <= set(dims)}
    coords |= {name: weights[name] for name in axes}
    gridded = mean.reshape(*(v.sizes[d] for d in dims), *shape)
    return xr.DataArray(gridded, dims=(*dims, *axes), coords=coords, attrs=values.attrs, name=values.name)


def to_polygons(
    values: xr.Dataset, polygons: str | Path | geopandas.GeoDataFrame, id: str, layer: str | None = None
) -> Any:
    """Polygons with the variables of ``[basin]`` as columns, matched by id, for a map; NaN where they have none.

    Raises
    ------
    ValueError
        As `read_polygons`; or if no basin is one of the polygons.
    """
    frame = read_polygons(polygons, id, layer)
    names = [name for name in values.data_vars if values[name].dims == ("basin",)]
    ids = text_ids(values["basin"].values, "basin")
    if not set(ids) & set(frame.index):
        raise ValueError(
            f"values must be of basins among the polygons, {listed(frame.index)}; found {listed(ids)}: name another "
            "column of ids."
        )
    table = values[names].assign_coords(basin=ids).reset_coords(drop=True).to_dataframe()
    return frame.join(table.reindex(frame.index), rsuffix="_value")


def _means(array: xr.DataArray, weights: xr.Dataset, missing: str, lapse: Lapse | None) -> xr.DataArray:
    axes = weights.attrs["axes"].split()
    check_grid(array, weights, str(array.name))
    n_x = weights.sizes[axes[1]]
    cells, column = np.unique(weights["cell"].values, return_inverse=True)
    rows, columns = cells // n_x, cells % n_x
    box = {axes[0]: slice(rows.min(), rows.max() + 1), axes[1]: slice(columns.min(), columns.max() + 1)}
    array = array.isel(box)
    places = (rows - rows.min()) * array.sizes[axes[1]] + columns - columns.min()
    matrix = csr_array(
        (weights["area"].values, (weights["basin_index"].values, column)), shape=(weights.sizes["basin"], len(cells))
    )
    steps = array["time"] if "time" in array.coords and "time" in array.dims else None
    heights = None
    if lapse is not None:
        heights = _heights(lapse, weights, cells)
        months = np.zeros(1, dtype=int)
        if len(lapse.rates) == 12:
            if steps is None:
                raise ValueError(f"monthly lapse rates need the dimension time, found none in {array.name}; give one.")
            months = steps.dt.month.values - 1
    kind = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)

    def block(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        v = values.reshape(*values.shape[:-2], -1)[..., places].astype(np.float64)
        if missing == "refuse":
            _refuse_gaps(v, matrix, weights["basin"].values, None if steps is None else steps.values[at], array.name)
        if lapse is not None and heights is not None:
            rate = lapse.rates[months[at] if len(months) > 1 else months]
            v = lapse.at_sea_level(v, rate, heights[0])
        mean = _weighted(matrix, v.reshape(-1, len(cells))).reshape(*v.shape[:-1], matrix.shape[0])
        if lapse is not None and heights is not None:
            mean = lapse.at(mean, rate, heights[1])
        return mean.astype(kind)

    along = "time" if steps is not None else None
    array = array.transpose(..., *([along] if along else []), *axes)
    number = xr.DataArray(np.arange(array.sizes[along]), dims=along) if along else xr.DataArray(0)
    n_rows = max(1, int(BLOCK_BYTES / (8 * max(1, array.size // (array.sizes[along] if along else 1)))))

    def means(part: xr.DataArray, at: xr.DataArray) -> xr.DataArray:
        return xr.apply_ufunc(
            block,
            part,
            at,
            input_core_dims=[axes, []],
            output_core_dims=[["basin"]],
            dask="parallelized",
            output_dtypes=[kind],
            dask_gufunc_kwargs=dict(output_sizes={"basin": weights.sizes["basin"]}),
        )

    array = array.drop_vars([name for name in array.coords if set(axes) & set(array[name].dims)])
    if array.chunks is not None:
        sizes = {axis: -1 for axis in axes} | ({along: n_rows} if along else {})
        result = means(array.chunk(sizes), number)
    elif along is None:
        result = means(array, number)
    else:
        parts = [slice(i, i + n_rows) for i in range(0, array.sizes[along], n_rows)]
        result = xr.concat([means(array.isel({along: p}), number[p]) for p in parts], along)
    attrs = {k: v for k, v in array.attrs.items() if k != "grid_mapping"} | (lapse.attributes if lapse else {})
    return result.assign_coords(basin=weights["basin"].values).assign_attrs(attrs).rename(array.name)


def _weighted(matrix: csr_array, values: np.ndarray) -> np.ndarray:
    """Means ``[N, B]`` of values ``[N, C]`` by the weights ``[B, C]``, over those that are finite; NaN without any."""
    seen = np.isfinite(values)
    if seen.all():
        total = np.broadcast_to(matrix.sum(axis=1), (len(values), matrix.shape[0]))
    else:
        total = (matrix @ seen.T.astype(np.float64)).T
    summed = (matrix @ np.where(seen, values, 0).T).T
    return np.divide(summed, total, out=np.full_like(summed, np.nan), where=total > 0)


def _refuse_gaps(values: np.ndarray, matrix: csr_array, basins: np.ndarray, times: Any, name: Any) -> None:
    if np.isfinite(values.sum()):
        return
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    first = np.argwhere(bad)[0]
    basin = basins[matrix[:, [first[-1]]].toarray()[:, 0] > 0][0]
    date = "" if times is None else f" on {str(np.atleast_1d(times)[first[-2]])[:16]}"
    raise ValueError(
        f"{name} must have a value in every cell of a basin, found {values[tuple(first)]:g} in basin {basin}{date} "
        f"({int(bad.sum())} such values); fill the gaps, or take the mean of the other cells by missing='renormalise'."
    )


def _heights(lapse: Lapse, weights: xr.Dataset, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elevations of the cells that basins cover and of the basins, m."""
    axes = weights.attrs["axes"].split()
    check_grid(lapse.cells, weights, "the grid's elevation")
    if set(lapse.cells.dims) != set(axes):
        raise ValueError(
            f"the grid's elevation must be [{', '.join(axes)}], found {listed(lapse.cells.dims)}; give a value a cell."
        )
    at_cells = lapse.cells.transpose(*axes).values.ravel()[cells].astype(np.float64)
    at_basins = _of_basins(lapse.units, weights, "the elevation of the units").values.astype(np.float64)
    index = weights["basin_index"].values
    places = np.searchsorted(cells, weights["cell"].values)
    bad = np.union1d(np.flatnonzero(~np.isfinite(at_basins)), index[~np.isfinite(at_cells[places])])
    if len(bad):
        raise ValueError(
            f"elevations must be finite for a lapse rate, found NaN in basin {listed(weights['basin'].values[bad])} or "
            "a cell of it; complete them."
        )
    return at_cells, at_basins


def _of_basins(values: xr.DataArray, weights: xr.Dataset, what: str) -> xr.DataArray:
    """Values in the order of the weights' basins."""
    if "basin" not in values.dims or "basin" not in values.coords:
        raise ValueError(f"{what} must have the dimension basin with ids, found {listed(values.dims)}; add it.")
    values = values.assign_coords(basin=text_ids(values["basin"].values, f"basin of {what}"))
    refuse_duplicates(values["basin"].values, f"basin of {what}")
    lacking = np.setdiff1d(weights["basin"].values, values["basin"].values)
    if len(lacking):
        raise ValueError(f"{what} must have all basins of the weights, found no {listed(lacking)}; add them.")
    return values.sel(basin=weights["basin"].values)


def _refuse_unknown(lapse: Mapping[str, Lapse], names: Sequence[Any]) -> None:
    for name in lapse:
        if name not in names:
            raise ValueError(f"lapse names '{name}', expected one of {listed(names)}; correct it.")
