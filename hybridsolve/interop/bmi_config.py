"""What a run behind the Basic Model Interface is made of: its configuration, and parameters from a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ..calibration.simulate_calibrated import check_request
from ..configuration import Section
from ..data.ids import listed
from ..data.netcdf import load_netcdf
from ..data.tables import attribute_table
from ..spec import ModelSpec

Array = NDArray[np.float64]
Numbers = dict[str, float | list[float]]  # one for all catchments, or one of each
# What NextGen's modules call the forcings, by their role in the models' tables.
STANDARD = {
    "prcp": "atmosphere_water__liquid_equivalent_precipitation_rate",
    "tmean": "land_surface_air__temperature",
    "pet": "water_potential_evaporation_flux",
}
UNITS = {  # of the names that NextGen knows
    "atmosphere_water__liquid_equivalent_precipitation_rate": "mm h-1",
    "land_surface_air__temperature": "K",
    "water_potential_evaporation_flux": "m s-1",
    "APCP_surface": "kg m-2",  # the sum of a step
    "precip_rate": "mm s-1",
    "RAINRATE": "mm s-1",
    "TMP_2maboveground": "K",
    "T2D": "K",
}


class Input(Section):
    """How a forcing comes in: its name, its unit unless NextGen has the name, and its value before it is set."""

    name: str
    unit: str | None = None
    value: float | None = None


class Settings(Section):
    """What `initialize` reads.

    `parameters` are numbers by name, or a file: a table with a row for each catchment, or calibration.nc of
    `hybridsolve calibrate`, of which the start of first rank is taken. `inputs` are the model's static ones, `areas` in
    km2, `step` in seconds. `forcing` says how the model's forcings come in, where not as NextGen calls them. `state` is
    read at the beginning, `write_state` written by `finalize`.
    """

    model: str
    ids: Annotated[list[str], Field(min_length=1)]
    parameters: str | Numbers
    start: str
    end: str | None = None
    step: int = 3600
    areas: list[float] | None = None
    inputs: Numbers = {}
    forcing: dict[str, Input] = {}
    state: str | None = None
    write_state: str | None = None

    @field_validator("start", "end", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # as YAML reads what is not quoted

    @field_validator("start", "end")
    @classmethod
    def _date(cls, value: str | None) -> str | None:
        try:
            np.datetime64(value or "NaT", "s")
        except ValueError:
            raise ValueError(f"must be a date such as 2020-01-31 06:00; found '{value}': correct it.") from None
        return value


def parameters_of_file(path: str, model: ModelSpec, ids: NDArray[Any]) -> dict[str, Array]:
    """Parameters ``[B]`` by name of a table, or of the start of first rank of a calibration."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist, expected a table of parameters or calibration.nc; check it.")
    if Path(path).suffix == ".nc":
        stored = load_netcdf(path, "calibration.nc of `hybridsolve calibrate`")
        if (fitted := check_request(stored)).name != model.name:
            raise ValueError(f"{path} must be of model {model.name}; found {fitted.name}: name that model.")
        names = [v.name for v in model.every_parameter if v.name in stored]
        known, table = stored["basin"].values.astype(str), {n: stored[n].isel(start=0).values for n in names}
    else:
        frame = attribute_table(path)
        known, table = np.asarray(frame.index, dtype=str), {str(name): frame[name].to_numpy() for name in frame}
    place = {name: i for i, name in enumerate(known.tolist())}
    if absent := [name for name in ids.tolist() if name not in place]:
        raise ValueError(f"{path} must hold every catchment of ids; found no {listed(absent)}: add them.")
    rows = [place[name] for name in ids.tolist()]
    found = {}
    for name, x in table.items():
        if x.dtype.kind not in "iuf" or not np.isfinite(x[rows]).all():
            raise ValueError(f"'{name}' of {path} must be numbers in every catchment of ids; found others: fill them.")
        found[name] = x[rows].astype(np.float64)
    return found
