"""The parameters that a calibration searches, as points of the unit cube, and the values of those that it does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..spec import ModelSpec, Parameter


@dataclass(frozen=True)
class SearchSpace:
    """A model with its parameters split into those that are searched and those that have one value for all basins.

    Attributes
    ----------
    model : ModelSpec
    free : tuple of Parameter
        In the order of the points' first axis: the model's, its optional ones, its routing's; with the bounds that are
        searched, where these are not the table's.
    fixed : dict of str to float
        In the parameters' units.
    """

    model: ModelSpec
    free: tuple[Parameter, ...]
    fixed: dict[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters that are searched."""
        return tuple(v.name for v in self.free)

    @property
    def every_name(self) -> tuple[str, ...]:
        """Of all parameters of a run."""
        return tuple(v.name for v in self.model.every_parameter if v.name in self.names or v.name in self.fixed)

    def values(self, points: Tensor) -> dict[str, Tensor]:
        """All parameters in their units: those searched ``[B, S]`` of points ``[P, B, S]``, the others ``[1, 1]``."""
        found = {v.name: v.from_unit(x) for v, x in zip(self.free, points.unbind(0), strict=True)}
        found |= {name: points.new_full((1, 1), value) for name, value in self.fixed.items()}
        return {name: found[name] for name in self.every_name}

    def slopes(self, points: Tensor) -> Tensor:
        """Derivatives of the parameters searched with respect to the points' coordinates, of the points' shape."""
        found = [(v, v.from_unit(x)) for v, x in zip(self.free, points.unbind(0), strict=True)]
        return torch.stack([torch.ones_like(x) * slope(v, x) for v, x in found])


def slope(row: Parameter, value: Any) -> Any:
    """Derivative of a parameter with respect to its place 0..1 in its range, where it has this value."""
    if row.scale == "log":
        return value * math.log(row.upper / row.lower)
    return row.upper - row.lower


def search_space(
    model: ModelSpec,
    fixed: Mapping[str, float] | None = None,
    free: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> SearchSpace:
    """What is searched: the table's free parameters and those of `free`, without those of `fixed`, within `ranges`.

    A parameter that the table does not free takes its default; an optional one is left out unless it is named. The
    factors of `hybridsolve.models.factors` are parameters of any model where they are fixed or freed.

    Raises
    ------
    ValueError
        If a name is unknown, is both fixed and free, or a value or range does not lie within what a run takes; or if
        nothing is left to search.
    """
    if isinstance(free, str) or not isinstance(free, Iterable):
        raise ValueError(f"free must be a list of parameters' names; found {free!r}: write ['{free}'].")
    if fixed is not None and not isinstance(fixed, Mapping):
        raise ValueError(f"fixed must map parameters' names to values; found {fixed!r}: pass a dict.")
    fixed, free = dict(fixed or {}), list(free)
    if ranges is not None and not isinstance(ranges, Mapping):
        raise ValueError(f"ranges must map parameters' names to pairs of bounds; found {ranges!r}: pass a dict.")
    ranges = dict(ranges or {})
    model = models.with_factors(model, [*fixed, *free])
    rows = {v.name: v for v in model.every_parameter}
    for what, names in (("fixed", fixed), ("free", free), ("ranges", ranges)):
        for name in names:
            if name not in rows:
                raise ValueError(
                    f"{what} names '{name}', which is no parameter of model {model.name}; expected any of "
                    f"{', '.join(rows)}: correct it."
                )
    for name, value in fixed.items():
        if name in free:
            raise ValueError(f"parameter '{name}' must be fixed or free; found it in both: leave one of them out.")
        v = rows[name]
        lower, upper = v.taken
        if isinstance(value, bool) or not isinstance(value, Real) or not lower <= value <= upper:
            raise ValueError(
                f"fixed parameter '{name}' must lie in [{lower:g}, {upper:g}] {v.unit}; found {value!r}: correct it."
            )
    optional = model.optional_parameter_names
    searched = tuple(
        v for v in rows.values() if v.name not in fixed and (v.name in free or (v.free and v.name not in optional))
    )
    if not searched:
        raise ValueError(f"all parameters of model {model.name} are fixed; expected one to search: free one.")
    for name, given in ranges.items():
        if name not in {v.name for v in searched}:
            raise ValueError(f"ranges must be of parameters that are searched; found '{name}', which is not: free it.")
        _check_range(rows[name], given)
    searched = tuple(
        replace(v, lower=float(ranges[v.name][0]), upper=float(ranges[v.name][1]), allowed=v.taken)
        if v.name in ranges
        else v
        for v in searched
    )
    left_out = {v.name for v in searched} | {name for name in optional if name not in fixed}
    held = {v.name: fixed.get(v.name, v.default) for v in rows.values() if v.name not in left_out}
    return SearchSpace(model, searched, {name: float(x) for name, x in held.items() if x is not None})


def _check_range(row: Parameter, given: Any) -> None:
    """Raise unless these are two bounds, the lower first, of what a run takes."""
    least, most = row.taken
    numbers = isinstance(given, Sequence) and len(given) == 2
    if not numbers or not all(isinstance(x, Real) and not isinstance(x, bool) for x in given):
        raise ValueError(f"the range of '{row.name}' must be two numbers; found {given!r}: write (lower, upper).")
    lower, upper = given
    if not least <= lower < upper <= most or (row.scale == "log" and lower <= 0):
        raise ValueError(
            f"the range of '{row.name}' must lie in [{least:g}, {most:g}] {row.unit}, the lower bound first"
            f"{' and above 0' if row.scale == 'log' else ''}; found {lower:g} to {upper:g}: correct it."
        )
