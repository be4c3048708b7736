"""Arguments that mean something: whole and finite numbers within their limits, or one sentence that names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TypeVar

N = TypeVar("N", int, float)

MOST_DEVICES = 64  # a process each
SEEDS = 2**63 - 1  # the largest that torch, numpy and NetCDF all take


def integer(name: str, value: object, least: int, most: int | None = None) -> int:
    """`value` as an int; a bool, a float or a number outside the limits raises ValueError."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        upper = "or more" if most is None else f"to {most}"
        raise ValueError(f"{name} must be a whole number, {least} {upper}; found {value!r}: correct it.")
    return number


def finite(name: str, value: object, least: float) -> float:
    """`value` as a float; a bool, a number that is not finite or one below `least` raises ValueError."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or float(value) < least:
        limit = "" if least == -math.inf else f", {least:g} or more"
        raise ValueError(f"{name} must be a finite number{limit}; found {value!r}: correct it.")
    return float(value)


def boolean(name: str, value: object) -> bool:
    """`value`, which must be True or False: a text such as "no" would count as yes."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; found {value!r}: correct it.")
    return value


def number(kind: Callable[[str], N], text: str, what: str) -> N:
    """A number, int or float, of the text that the command line has."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{what} must be {'a whole number' if kind is int else 'a number'}; found '{text}'.") from None


def pairs_of_bounds(given: list[str], option: str) -> dict[str, tuple[float, float]]:
    """Bounds by name of an option that takes NAME=LOW:HIGH."""
    found: dict[str, tuple[float, float]] = {}
    for name, _, text in (pair.partition("=") for pair in given):
        if name in found:
            raise ValueError(f"{option} must give {name} once; found it twice: leave one of them out.")
        lower, colon, upper = text.partition(":")
        if not colon:
            raise ValueError(f"{option} {name} must be LOW:HIGH; found '{text}': write for example {name}=50:800.")
        found[name] = (number(float, lower, f"{option} {name}"), number(float, upper, f"{option} {name}"))
    return found


def pairs(given: list[str], option: str) -> dict[str, float]:
    """Numbers by name of an option that takes NAME=VALUE."""
    found: dict[str, float] = {}
    for name, _, value in (pair.partition("=") for pair in given):
        if name in found:
            raise ValueError(f"{option} must give {name} once; found it twice: leave one of them out.")
        found[name] = number(float, value, f"{option} {name}")
    return found
