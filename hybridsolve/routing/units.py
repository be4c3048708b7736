"""Units of gauged basins: elevation zones or sub-basins, whose outflow is summed by area at their gauge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..data.ids import listed, text_ids

if TYPE_CHECKING:
    import xarray as xr

GAUGE, AREA = "gauge", "area_km2"  # of a dataset whose basins are units


@dataclass(frozen=True)
class Units:
    """Which units make which gauged basin, and their shares of its area.

    Attributes
    ----------
    ids : tuple of str ``[G]``
        Of the gauges, in the order of their first units.
    gauge : ndarray of int ``[B]``
        The gauge of each unit, 0 to G - 1; the units of a gauge follow one another.
    share : ndarray of float64 ``[B]``
        Of the gauge's area; those of a gauge add up to 1.
    """

    ids: tuple[str, ...]
    gauge: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, gauges: ArrayLike, areas: ArrayLike) -> Units:
        """Units by the ids of their gauges ``[B]`` and their areas ``[B]``, in any unit.

        Raises
        ------
        ValueError
            If the lengths differ, an area is not above 0, or the units of a gauge do not follow one another.
        """
        names, size = text_ids(gauges, "gauge"), np.asarray(areas, dtype=np.float64)
        if names.shape != size.shape:
            raise ValueError(f"areas must be [{len(names)}] as gauges are; found {list(size.shape)}: give one a unit.")
        bad = ~((size > 0) & np.isfinite(size))
        if bad.any():
            raise ValueError(
                f"the area of a unit must be above 0 and finite; found {size[bad][0]:g} at gauge {names[bad][0]} "
                f"({int(bad.sum())} such units): correct it, or leave that unit out."
            )
        first = np.concatenate([[True], names[1:] != names[:-1]])
        ids, gauge = names[first], first.cumsum() - 1
        if len(set(ids)) < len(ids):
            again = next(name for i, name in enumerate(ids) if name in ids[:i])
            raise ValueError(
                f"the units of a gauge must follow one another; found those of {again} apart: sort them by gauge, such "
                "as by data.sortby('gauge')."
            )
        return cls(tuple(ids.tolist()), gauge, size / np.bincount(gauge, size)[gauge])

    @property
    def first(self) -> np.ndarray:
        """The first unit of each gauge ``[G]``."""
        return np.flatnonzero(np.diff(self.gauge, prepend=-1))

    @cached_property
    def _rounds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The n-th unit of each gauge that has so many, and its gauge."""
        number = np.arange(len(self.gauge)) - self.first[self.gauge]
        rounds = [np.flatnonzero(number == n) for n in range(number.max() + 1)]
        return [(units, self.gauge[units]) for units in rounds]

    def of_gauges(self, index: ArrayLike) -> tuple[Units, np.ndarray]:
        """The units of some gauges, in their order, and where these units are among all."""
        chosen = np.asarray(index)
        count = np.bincount(self.gauge, minlength=len(self.ids))[chosen]
        gauge = np.repeat(np.arange(len(chosen)), count)
        number = np.arange(len(gauge)) - np.repeat(count.cumsum() - count, count)
        units = self.first[chosen][gauge] + number
        return Units(tuple(self.ids[i] for i in chosen), gauge, self.share[units]), units

    def summed(self, x: Tensor, axis: int = 1) -> Tensor:
        """Means by area over the units of each gauge, along an axis of units.

        Unit after unit in the order of their gauge: the bits of a gauge do not depend on other gauges or on threads.
        """
        if x.shape[axis] != len(self.gauge):
            raise ValueError(
                f"units are {len(self.gauge)}, found {x.shape[axis]} on axis {axis} of {list(x.shape)}: give one value "
                "a unit."
            )
        shape = list(x.shape)
        shape[axis] = len(self.ids)
        total, wide = x.new_zeros(shape), [1] * x.dim()
        wide[axis] = -1
        for units, gauges in self._rounds:  # no gauge twice in one, so that no order of additions is left open
            at, to = (torch.from_numpy(i).to(x.device) for i in (units, gauges))
            share = torch.from_numpy(self.share[units]).to(x)
            total.index_add_(axis, to, x.index_select(axis, at) * share.view(wide))
        return total

    def spread(self, x: Tensor) -> Tensor:
        """Values of gauges ``[G, ...]`` or ``[1, ...]`` at their units ``[B, ...]``."""
        return x if len(x) == 1 else x.index_select(0, torch.from_numpy(self.gauge).to(x.device))


def units_of(data: xr.Dataset) -> Units | None:
    """The units of a dataset whose coordinate ``gauge`` ``[basin]`` names the gauge of each; None without.

    Raises
    ------
    ValueError
        If the units have no areas, an observation differs within a gauge, or as `Units.of`.
    """
    if GAUGE not in data.coords:
        return None
    if data[GAUGE].dims != ("basin",):
        raise ValueError(f"gauge must have one id for each basin; found {listed(data[GAUGE].dims)}: give one a unit.")
    if AREA not in data or data[AREA].dims != ("basin",):
        raise ValueError(f"units of gauges need their areas, the variable {AREA}(basin); found none: add it.")
    units = Units.of(data[GAUGE].values, data[AREA].values)
    if "qobs" in data and data["qobs"].dims == ("time", "basin"):
        obs = data["qobs"].values
        same = (obs == obs[:, units.first[units.gauge]]) | (np.isnan(obs) & np.isnan(obs[:, units.first[units.gauge]]))
        if not same.all():
            unit = int(np.flatnonzero(~same.all(0))[0])
            raise ValueError(
                f"qobs of a unit must be the flow at its gauge, the same in all units of gauge "
                f"{units.ids[units.gauge[unit]]}; found another in {data['basin'].values[unit]}: give each that of the "
                "gauge, mm per step over the gauge's area."
            )
    return units


def at_gauges(data: xr.Dataset, units: Units) -> xr.Dataset:
    """The dataset with gauges as basins: their observations and areas, and means by area of series and places."""
    kept = data[["qobs"] if "qobs" in data else []].isel(basin=units.first)
    kept = kept.drop_vars([name for name in kept.coords if name != "basin" and "basin" in kept[name].dims])
    kept = kept.assign_coords(basin=("basin", np.array(units.ids), data["basin"].attrs))
    kept[AREA] = ("basin", np.bincount(units.gauge, data[AREA].values), data[AREA].attrs)
    for name in ("lat", "lon"):
        if name in data.coords:
            mean = np.bincount(units.gauge, units.share * data[name].values)
            kept = kept.assign_coords({name: ("basin", mean, data[name].attrs)})
    for name in data.data_vars:
        if name != "qobs" and data[name].dims == ("time", "basin") and data[name].dtype.kind == "f":
            kept[name] = (data[name].dims, units.summed(torch.from_numpy(data[name].values)).numpy(), data[name].attrs)
    return kept
