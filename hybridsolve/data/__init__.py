"""Readers and writers of basin data: one convention for CAMELS, Caravan, the Fulda example and users' own files.

Every reader gives an `xarray.Dataset` with dims ``(time, basin)``, as described in
`hybridsolve.data.dataset`.
"""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .camels import CAMELS_DISCHARGE_SIGNATURES, data_dir, read_camels
    from .caravan import read_caravan
    from .daily import to_days
    from .dataset import VARIABLES, assemble, check_dataset, parse_period, select_period
    from .files import write_text_atomic
    from .fulda import read_fulda
    from .grid_weights import basin_weights, read_weights
    from .grids import Lapse, basin_means, to_grid, to_polygons
    from .lags import lag_of_days
    from .netcdf import write_netcdf
    from .opening import open_dataset
    from .pet import PET_METHODS, potential_evapotranspiration
    from .steps import rows_of_days, step_seconds
    from .times import as_days, as_steps
    from .units import unit_at
    from .usable import static_inputs

__all__ = [
    "CAMELS_DISCHARGE_SIGNATURES",
    "Lapse",
    "PET_METHODS",
    "VARIABLES",
    "as_days",
    "as_steps",
    "assemble",
    "basin_means",
    "basin_weights",
    "check_dataset",
    "data_dir",
    "lag_of_days",
    "open_dataset",
    "parse_period",
    "potential_evapotranspiration",
    "read_camels",
    "read_caravan",
    "read_fulda",
    "read_weights",
    "rows_of_days",
    "select_period",
    "static_inputs",
    "step_seconds",
    "to_days",
    "to_grid",
    "to_polygons",
    "unit_at",
    "write_netcdf",
    "write_text_atomic",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "CAMELS_DISCHARGE_SIGNATURES": ".camels",
        "Lapse": ".grids",
        "PET_METHODS": ".pet",
        "VARIABLES": ".dataset",
        "as_days": ".times",
        "as_steps": ".times",
        "assemble": ".dataset",
        "basin_means": ".grids",
        "basin_weights": ".grid_weights",
        "check_dataset": ".dataset",
        "data_dir": ".camels",
        "lag_of_days": ".lags",
        "open_dataset": ".opening",
        "parse_period": ".dataset",
        "potential_evapotranspiration": ".pet",
        "read_camels": ".camels",
        "read_caravan": ".caravan",
        "read_fulda": ".fulda",
        "read_weights": ".grid_weights",
        "rows_of_days": ".steps",
        "select_period": ".dataset",
        "static_inputs": ".usable",
        "step_seconds": ".steps",
        "to_days": ".daily",
        "to_grid": ".grids",
        "to_polygons": ".grids",
        "unit_at": ".units",
        "write_netcdf": ".netcdf",
        "write_text_atomic": ".files",
    },
)
