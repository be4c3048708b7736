"""Readers and writers of basin data: one convention for CAMELS, Caravan, the Fulda example and users' own files.

Every reader gives an `xarray.Dataset` with dims ``(time, basin)``, as described in
`hybridsolve.data.dataset`.
"""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .camels import CAMELS_DISCHARGE_SIGNATURES, data_dir, read_camels
    from .caravan import read_caravan
    from .dataset import VARIABLES, assemble, check_dataset, parse_period, select_period
    from .files import write_text_atomic
    from .fulda import read_fulda
    from .lags import lag_of_days
    from .netcdf import write_netcdf
    from .opening import open_dataset
    from .pet import PET_METHODS, potential_evapotranspiration
    from .times import as_days

__all__ = [
    "CAMELS_DISCHARGE_SIGNATURES",
    "PET_METHODS",
    "VARIABLES",
    "as_days",
    "assemble",
    "check_dataset",
    "data_dir",
    "lag_of_days",
    "open_dataset",
    "parse_period",
    "potential_evapotranspiration",
    "read_camels",
    "read_caravan",
    "read_fulda",
    "select_period",
    "write_netcdf",
    "write_text_atomic",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "CAMELS_DISCHARGE_SIGNATURES": ".camels",
        "PET_METHODS": ".pet",
        "VARIABLES": ".dataset",
        "as_days": ".times",
        "assemble": ".dataset",
        "check_dataset": ".dataset",
        "data_dir": ".camels",
        "lag_of_days": ".lags",
        "open_dataset": ".opening",
        "parse_period": ".dataset",
        "potential_evapotranspiration": ".pet",
        "read_camels": ".camels",
        "read_caravan": ".caravan",
        "read_fulda": ".fulda",
        "select_period": ".dataset",
        "write_netcdf": ".netcdf",
        "write_text_atomic": ".files",
    },
)
