"""`hybridsolve grid`: forcing of basins from gridded files and a file of polygons."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from .grids import Lapse


def add_grid_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("grids", nargs="+", metavar="GRID", help="NetCDF files or Zarr stores of one grid")
    parser.add_argument("--polygons", required=True, metavar="FILE", help="GeoPackage, Shapefile, GeoJSON and others")
    parser.add_argument("--id", required=True, metavar="COLUMN", help="the polygons' ids")
    parser.add_argument("--layer", help="of the polygons, where the file has several")
    parser.add_argument("--weights", metavar="FILE", help="where the weights are kept: read if it exists, else written")
    parser.add_argument("--variables", metavar="NAME,...", help="default: all over the grid")
    parser.add_argument("--crs", help="of the grid, such as EPSG:3035 (default: what the file says)")
    parser.add_argument("--partial", action="store_true", help="take polygons that lie partly outside of the grid")
    parser.add_argument(
        "--renormalise", action="store_true", help="where a cell has no value, take those that have one"
    )
    parser.add_argument("--elevation", metavar="FILE", help="NetCDF file with the elevation of the grid's cells, m")
    parser.add_argument("--height", metavar="COLUMN", help="of the polygons, their elevation, m")
    for option, what in (
        ("--lapse", "K per km by which a temperature falls with height"),
        ("--gradient", "share per km by which an amount grows with height"),
    ):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=RATE",
            help=f"{what}, or twelve joined by commas, January first",
        )
    parser.add_argument("--out", default="forcing.nc", help="NetCDF file (default: %(default)s)")


def run_grid(arguments: argparse.Namespace) -> None:
    """Write the means of gridded series over polygons, with the basins' areas and, where moved, their elevations."""
    from .files import check_target, refuse_overwriting
    from .grids import basin_means
    from .netcdf import write_netcdf

    outputs = {"--out": arguments.out, "--weights": arguments.weights}
    inputs = {f"the grid {path}": path for path in arguments.grids}
    refuse_overwriting(outputs, inputs | {"--polygons": arguments.polygons, "--elevation": arguments.elevation})
    for name, path in outputs.items():
        if path is not None:
            check_target(name, path)
    rates = {relative: _rates(given) for relative, given in ((False, arguments.lapse), (True, arguments.gradient))}
    if any(rates.values()) != (arguments.elevation is not None) or any(rates.values()) != (
        arguments.height is not None
    ):
        raise ValueError(
            "--lapse or --gradient needs --elevation and --height, and these need one of them; found one without the "
            "others: give all three."
        )
    data = _opened(arguments.grids, arguments.variables)
    weights, frame = _weights_of(arguments, data)
    lapse = _lapses(arguments, rates, frame)
    means = basin_means(data, weights, missing="renormalise" if arguments.renormalise else "refuse", lapse=lapse)
    means["area_km2"] = weights["area_km2"]
    if lapse:
        means["elev_mean"] = next(iter(lapse.values())).units.assign_attrs(units="m")
    write_netcdf(means, arguments.out, command=arguments.command_line)
    least = float(weights["coverage"].min())
    print(
        f"{means.sizes['basin']} basins of {weights.sizes['entry']} cells, at least {least:.1%} of each in the grid, "
        f"written to {arguments.out}"
    )


def _opened(paths: Sequence[str], variables: str | None) -> xr.Dataset:
    """The grids as one lazy dataset of the variables asked for."""
    import xarray as xr

    from .ids import listed
    from .netcdf import need_engine

    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path} does not exist, expected a NetCDF file or a Zarr store; check the path.")
    engine = "zarr" if os.path.isdir(paths[0]) else "netcdf4"
    need_engine(paths[0], engine)
    try:
        data = xr.open_mfdataset(
            list(paths),
            engine=engine,
            chunks={},
            combine="by_coords",
            join="exact",
            combine_attrs="override",
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{listed(paths)} could not be opened as one grid over time ({reason}); check the files."
        ) from error
    if variables is None:
        return data
    names = [name.strip() for name in variables.split(",") if name.strip()]
    lacking = [name for name in names if name not in data.data_vars]
    if lacking or not names:
        raise ValueError(
            f"--variables must name some of {listed(data.data_vars)}, found {listed(lacking)}; correct them."
        )
    about = {data[n].attrs.get("grid_mapping", data[n].encoding.get("grid_mapping")) for n in names}
    about.add(data["time"].attrs.get("bounds", data["time"].encoding.get("bounds")) if "time" in data else None)
    return data[[*names, *(n for n in about if n in data.data_vars)]]


def _weights_of(arguments: argparse.Namespace, data: xr.Dataset) -> tuple[xr.Dataset, Any]:
    """The weights, of their file where it exists, and the polygons."""
    from .grid_weights import basin_weights, check_polygons, read_polygons, read_weights
    from .netcdf import write_netcdf

    if arguments.weights is not None and os.path.exists(arguments.weights):
        weights = read_weights(arguments.weights)
        return weights, check_polygons(weights, arguments.polygons, arguments.id, arguments.layer)
    frame = read_polygons(arguments.polygons, arguments.id, arguments.layer)
    weights = basin_weights(data, frame, arguments.id, crs=arguments.crs, partial=arguments.partial)
    if arguments.weights is not None:
        write_netcdf(weights, arguments.weights, command=arguments.command_line)
    return weights, frame


def _rates(given: Sequence[str]) -> dict[str, list[float]]:
    found = {}
    for text in given:
        name, _, values = text.partition("=")
        try:
            found[name.strip()] = [float(value) for value in values.split(",")]
        except ValueError:
            raise ValueError(f"a rate must be NAME=RATE, such as temp=6.5; found '{text}': correct it.") from None
    return found


def _lapses(arguments: argparse.Namespace, rates: dict[bool, dict[str, list[float]]], frame: Any) -> dict[str, Lapse]:
    import numpy as np
    import xarray as xr

    from .grids import Lapse
    from .ids import listed
    from .netcdf import load_netcdf

    if not any(rates.values()):
        return {}
    file = load_netcdf(arguments.elevation, "the elevation of the grid's cells")
    names = [name for name in file.data_vars if file[name].ndim >= 2]
    if len(names) != 1:
        raise ValueError(
            f"{arguments.elevation} must hold one variable over the grid, the elevation in m; found {listed(names)}: "
            "keep that one."
        )
    cells = file[names[0]].squeeze(drop=True)
    if (unit := str(cells.attrs.get("units", "m"))) not in ("m", "metre", "meter", "metres", "meters"):
        raise ValueError(f"{names[0]} of {arguments.elevation} must be in m; found '{unit}': convert it.")
    if arguments.height not in frame.columns or frame[arguments.height].dtype.kind not in "iuf":
        raise ValueError(
            f"--height must name a column of numbers of {arguments.polygons}, found '{arguments.height}' and the "
            f"columns {listed(c for c in frame.columns if c != frame.geometry.name)}; correct it."
        )
    units = xr.DataArray(
        frame[arguments.height].to_numpy(dtype=np.float64), coords={"basin": frame.index.to_numpy(dtype=str)}
    )
    return {n: Lapse(r, cells, units, relative) for relative, of in rates.items() for n, r in of.items()}
