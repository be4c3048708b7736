"""By which method forcings were made: what parameters were fitted with, they are to be run with."""

from __future__ import annotations

from collections.abc import Iterable

import xarray as xr

from .pet import PET_METHODS

AS_IN_DATA = "as in the data"  # of a forcing whose data do not say how it was made


def forcing_methods(data: xr.Dataset, names: Iterable[str]) -> dict[str, str]:
    """The methods of forcings, such as a formula of evapotranspiration, by name, where the data say them."""
    found = {name: data[name].attrs.get("method") for name in names if name in data}
    return {name: str(method) for name, method in found.items() if method is not None}


def opened_with(method: str) -> str:
    """How data are opened with this method, for messages; without one where it is none of `PET_METHODS`."""
    return f"pet='{method}' (--pet {method})" if method in PET_METHODS else "their own (without pet=, --pet)"
