"""What a network sees: attributes and weather, chosen, scaled by the training basins and period alone, as tensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .. import models
from ..data.camels import CAMELS_DISCHARGE_SIGNATURES
from ..data.dataset import period_slice
from ..data.ids import listed
from ..data.steps import date_of_row
from ..data.usable import static_inputs
from ..data.values import attribute
from .config import Config

# Derived from the discharge, or names of a place that would let a network memorise it.
NEVER_INPUTS = {
    **dict.fromkeys(CAMELS_DISCHARGE_SIGNATURES, "is made of the observed discharge"),
    **dict.fromkeys(("qobs", "flag_more_runoff_than_rain"), "is made of the observed discharge"),
    **dict.fromkeys(("basin", "gauge_id", "gauge_name", "huc_02"), "names the gauge or its region"),
    **dict.fromkeys(("lat", "lon", "gauge_lat", "gauge_lon"), "is a coordinate of the gauge"),
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scaling:
    """How attributes and weather become the numbers a network sees: (x - mean) / standard deviation.

    Attributes
    ----------
    attributes, weather : list of str
    attribute_mean, attribute_std, attribute_median : list of float
    categories : dict of str to list of str
        Of an attribute that is text: its values in the training basins; a number is its place in that list.
    fill : list of str
        Attributes whose NaN becomes the median.
    attribute_std : list of float
        1 of an attribute of a single training basin, which enters as 0.
    weather_mean, weather_std : list of float
        After the transforms.
    units : dict of str to str
        Of attributes and weather, as the training data named them.
    transforms : dict of str to str
        Of the weather that is transformed first; see `hybridsolve.spec.Forcing`.
    """

    attributes: list[str]
    weather: list[str]
    attribute_mean: list[float]
    attribute_std: list[float]
    attribute_median: list[float]
    categories: dict[str, list[str]]
    fill: list[str]
    weather_mean: list[float]
    weather_std: list[float]
    units: dict[str, str]
    transforms: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        data: xr.Dataset,
        attributes: Sequence[str],
        fill: Sequence[str],
        weather: Sequence[str],
        period,
        model: str = "none",
    ) -> Scaling:
        """Statistics of all basins of `data` over `period`: give it the training basins.

        Raises
        ------
        ValueError
            If an attribute is missing, NaN without being listed in `fill`, constant over several training basins, or
            must never be an input; if weather is negative whose logarithm is taken.
        """
        refuse_inputs([*attributes, *weather])
        categories = {}
        for name in attributes:
            values = _attribute(data, name)
            if values.dtype.kind == "U":
                categories[name] = sorted(set(values.tolist()) - {""})
        table = _table(data, attributes, categories)
        deviations = []
        for name, column in zip(attributes, table.T, strict=True):
            missing = _refuse_nan(data, name, column, fill)
            if missing.all():
                raise ValueError(f"attribute '{name}' is missing in all training basins: leave it out.")
            if len(column) > 1 and not _varies(column[~missing]):
                raise ValueError(
                    f"attribute '{name}' is constant over the {len(column)} training basins and tells a network "
                    "nothing: leave it out."
                )
            deviations.append(float(np.nanstd(column)) if len(column) > 1 else 1.0)
        if attributes and len(table) == 1:
            warnings.warn(
                f"there is one training basin, {data['basin'].values[0]}: its attributes tell the network nothing and "
                "enter as 0, and what is learned is of this basin alone.",
                stacklevel=2,
            )
        rows, transforms = period_slice(data["time"].values, period), transforms_of(weather, model)
        series = [
            transformed(_series(data, name, transforms)[rows].astype(np.float64), transforms.get(name))
            for name in weather
        ]
        for name, x in zip(weather, series, strict=True):
            if not _varies(x):
                raise ValueError(f"weather '{name}' is constant over the training basins and days: leave it out.")
        return cls(
            attributes=list(attributes),
            weather=list(weather),
            attribute_mean=np.nanmean(table, 0).tolist(),
            attribute_std=deviations,
            attribute_median=np.nanmedian(table, 0).tolist(),
            categories=categories,
            fill=list(fill),
            weather_mean=[float(x.mean()) for x in series],
            weather_std=[float(x.std()) for x in series],
            units=_units(data, [*attributes, *weather]),
            transforms=transforms,
        )

    def to_dict(self) -> dict:
        return asdict(self)

    def check(self, attributes: Sequence[str], weather: Sequence[str]) -> None:
        """Raise unless this is the complete scaling of these attributes and weather."""
        if self.attributes != list(attributes) or self.weather != list(weather):
            raise ValueError("its scaling is of other attributes or weather than its config: train again.")
        for name, n in (("attribute", len(attributes)), ("weather", len(weather))):
            for part in ("mean", "std"):
                values = getattr(self, f"{name}_{part}")
                if len(values) != n or not np.isfinite(values).all() or (part == "std" and not all(values)):
                    raise ValueError(f"its scaling has no {name}_{part} of every one: train again.")
        if len(self.attribute_median) != len(attributes) or not {*attributes, *weather} <= self.units.keys():
            raise ValueError("its scaling lacks a median or a unit: train again.")

    def scaled_attributes(self, data: xr.Dataset) -> Tensor:
        """``[B, A]``; NaN of the attributes in `fill` becomes the training median, and the log says where."""
        self._refuse_units(data, self.attributes)
        table = _table(data, self.attributes, self.categories)
        for i, name in enumerate(self.attributes):
            missing = _refuse_nan(data, name, table[:, i], self.fill)
            if missing.any():
                logger.info(
                    "attribute %s is missing in %d of %d basins (%s) and is filled with the training median %g.",
                    name,
                    missing.sum(),
                    len(missing),
                    listed(data["basin"].values[missing]),
                    self.attribute_median[i],
                )
                table[missing, i] = self.attribute_median[i]
        scaled = (table - self.attribute_mean) / self.attribute_std
        return torch.from_numpy(scaled.astype(np.float32))

    def scaled_weather(self, data: xr.Dataset) -> Tensor | None:
        """``[T, B, W]``, or None where the network sees no weather."""
        if not self.weather:
            return None
        self._refuse_units(data, self.weather)
        out = np.empty((data.sizes["time"], data.sizes["basin"], len(self.weather)), np.float32)
        for i, name in enumerate(self.weather):
            x = transformed(_series(data, name, self.transforms), self.transforms.get(name))
            out[..., i] = (x - self.weather_mean[i]) / self.weather_std[i]
        return torch.from_numpy(out)

    def _refuse_units(self, data, names) -> None:
        for name, unit in _units(data, [n for n in names if n in data]).items():
            if unit != self.units[name]:
                raise ValueError(
                    f"'{name}' must be in '{self.units[name]}' as in training; found '{unit}': convert it, or name its "
                    "unit so."
                )


def _units(data, names) -> dict[str, str]:
    return {name: str(data[name].attrs.get("units", "")) for name in names}


def _varies(x: np.ndarray) -> bool:
    """Whether values can be scaled; by their extremes, since rounding may give a constant a deviation above 0."""
    return bool(x.max() > x.min() and np.isfinite(x.std()) and x.std() > 0)


def refuse_inputs(names: Sequence[str]) -> None:
    """Raise if one of these must never be an input of a network."""
    for name in names:
        if name in NEVER_INPUTS:
            raise ValueError(f"'{name}' {NEVER_INPUTS[name]} and must never be an input of a network: leave it out.")


def _attribute(data: xr.Dataset, name: str) -> np.ndarray:
    """An attribute ``[B]``: float64 with NaN where it is missing, or text that is empty there."""
    if name not in data or data[name].dims != ("basin",):
        raise ValueError(
            f"attribute '{name}' is not in the data; expected one number a basin: add it, or leave it out."
        )
    values = attribute(data[name].values)
    if values.dtype.kind == "U":
        return values
    if values.dtype.kind not in "fiub":
        raise ValueError(
            f"attribute '{name}' must be numbers or text, found dtype {values.dtype}: convert it, or leave it out."
        )
    values = values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _table(data, names, categories) -> np.ndarray:
    columns = []
    for name in names:
        values = _attribute(data, name)
        if (values.dtype.kind == "U") != (name in categories) and not np.isin(values.astype(str), ("", "nan")).all():
            kinds = ("text", "numbers") if name in categories else ("numbers", "text")
            raise ValueError(
                f"attribute '{name}' must be {kinds[0]} as in training, found {kinds[1]}: convert it, or train again."
            )
        if name in categories:
            place = {text: i for i, text in enumerate(categories[name])}
            values = [place.get(v, np.nan) for v in values.tolist()]  # a value that training has not seen is missing
        elif values.dtype.kind == "U":  # blank in all basins
            values = np.full(len(values), np.nan)
        columns.append(np.asarray(values, np.float64))
    return np.stack(columns, 1) if columns else np.empty((data.sizes["basin"], 0))


def _refuse_nan(data, name, column, fill) -> np.ndarray:
    missing = ~np.isfinite(column)
    if missing.any() and name not in fill:
        raise ValueError(
            f"attribute '{name}' is missing in {missing.sum()} of {len(missing)} basins "
            f"({listed(data['basin'].values[missing])}): list it in fill, or leave those basins or the attribute out."
        )
    return missing


def _series(data: xr.Dataset, name: str, transforms: Mapping[str, str]) -> np.ndarray:
    if name not in data or data[name].dims != ("time", "basin"):
        raise ValueError(f"weather '{name}' is not a series [time, basin] of the data: add it, or correct the config.")
    values = data[name].values
    bad, expected, remedy = ~np.isfinite(values), "finite", "fill it"
    if transforms.get(name) == "log" and not bad.any():
        bad, expected, remedy = values < 0, "0 or more, since its logarithm is taken", "correct it"
    if bad.any():
        t, b = np.argwhere(bad)[0]
        raise ValueError(
            f"weather '{name}' must be {expected}; found {values[t, b]} on {date_of_row(data['time'].values, t)} in "
            f"basin {data['basin'].values[b]}: {remedy}."
        )
    return values


def transforms_of(weather: Sequence[str], model: str) -> dict[str, str]:
    """The transforms that a model's table has for its forcing, by name; of a network alone those of all models."""
    specs = models.MODELS.values() if model == "none" else [models.get(model)]
    known = {v.name: v.transform for spec in specs for v in spec.forcings if v.transform != "none"}
    return {name: known[name] for name in weather if name in known}


def transformed(values: np.ndarray, transform: str | None) -> np.ndarray:
    """A series after a transform of `hybridsolve.spec.Forcing`."""
    return np.log10(np.sqrt(values) + 0.1) if transform == "log" else values


def input_tensors(data: xr.Dataset, config: Config) -> dict[str, Tensor]:
    """The static inputs of the model, ``[B]`` each, in the units of its table."""
    if config.model == "none":
        return {}
    values = static_inputs(data, models.get(config.model).inputs)
    return {name: torch.from_numpy(x.astype(np.float32)) for name, x in values.items()}


def methods_text(methods: Mapping[str, str]) -> str:
    """Methods for a report."""
    return "; ".join(f"{name} by {method}" for name, method in methods.items()) or "forcing as in the data"
