"""The settings of a continental run: what one YAML file, or the command line, says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .. import models
from ..configuration import Section, checked, read_yaml
from ..data.dataset import parse_period

Positive = Annotated[int, Field(ge=1)]


class Rivers(Section):
    """The river network that the runoff of the basins, which have the ids of its reaches, is routed along.

    `dt` is the routing's step in s; `constants` are channel parameters that all reaches share, `gauges` the reaches
    whose discharge is kept: "all", ids joined by commas, or a file with one a line; with `local_days`, hours ahead of
    UTC or "longitude", their means of the local day are kept too.
    """

    network: str
    scheme: Literal["todini", "ddr", "muskingum", "accumulate"] = "todini"
    dt: Annotated[float, Field(gt=0)] = 3600.0
    constants: dict[str, float] = {}
    gauges: str = "all"
    local_days: str | float | None = None


class Packing(Section):
    """Integers that stand for ``scale_factor * integer + add_offset``, by CF; the names are those of xarray's encoding.

    Values are rounded to the nearest; one out of range ends the run.
    """

    dtype: Literal["int8", "uint8", "int16", "uint16", "int32"]
    scale_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    add_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0


class RunConfig(Section):
    """All that a run depends on besides its files' contents.

    `forcing` is a Zarr store, a NetCDF file or a pattern of files that follow one another in time; `names` says what
    its variables are, as for `open_dataset`. `parameters` is a NetCDF file or Zarr store of parameters by basin, such
    as calibration.nc, of whose starts `member` takes the best or the ensemble; in its place `trained` is trained.pt of
    `hybridsolve train`. `fluxes` are fluxes and states of the model to keep, at all `basins` or at those named; `pack`
    says by name which of them, or of "discharge" and "discharge_daily_mean", are kept as integers.
    `memory` is in GB, for the arrays of the run; `window` and `block`, in steps and basins, are chosen by it if left
    out. `device` is what the model and its hydrograph are computed on; rivers are routed on the CPU.
    """

    forcing: str
    out: str
    parameters: str | None = None
    trained: str | None = None
    model: str | None = None
    member: Literal["best", "ensemble"] = "best"
    names: str | None = None
    period: str | None = None
    fluxes: list[str] | None = None
    basins: str | None = None
    rivers: Rivers | None = None
    compress: bool = False
    pack: dict[str, Packing] = {}
    memory: Annotated[float, Field(gt=0)] = 2.0
    window: Positive | None = None
    block: Positive | None = None
    parts: Positive = 1
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    backend: str = "auto"

    @field_validator("period")
    @classmethod
    def _dates(cls, value: str | None) -> str | None:
        if value is not None:
            parse_period(value)
        return value

    @field_validator("model")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return None if value is None else models.get(value).name

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        if (self.parameters is None) == (self.trained is None):
            raise ValueError("one of parameters and trained must be given, and not both: name a file of parameters.")
        if self.parts > 1 and self.basins is not None:
            raise ValueError(
                f"a run with chosen basins has one part, found parts: {self.parts}; leave it out, or keep all basins."
            )
        return self


def read_config(source: str | Path | Mapping | RunConfig, changes: Sequence[str] = ()) -> RunConfig:
    """A checked configuration of a YAML file or a mapping; `changes` such as ``"memory=4"`` are taken in its place.

    Raises
    ------
    ValueError
        If a key is unknown, missing or ill-typed; the message names it.
    """
    if isinstance(source, RunConfig):
        values: Any = source.model_dump()
    elif isinstance(source, Mapping):
        values = source
    elif Path(source).is_file():
        return checked(RunConfig, read_yaml(Path(source).read_bytes(), str(source)), str(source), changes)
    else:
        raise FileNotFoundError(f"{source} does not exist, expected a YAML file of a run's settings; check the path.")
    return checked(RunConfig, values, "the run's settings", changes)
