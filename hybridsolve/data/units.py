"""Units of basin data to ours, by `pint` with CF's spellings (`cf_xarray.units`), and how a unit is written at a step.

A unit is taken as it is written and never guessed from the size of the values. Water has 1,000 kg m-3. An amount
without a time (mm, m, kg m-2) becomes a rate only where the data say that it is the sum of a step.

The tables of models are written for days. At another step a depth of water is the amount of one step: mm h-1 at an
hour, mm/(3 h) at three, which UDUNITS and `pint` both read ("mm (3 h)-1" only UDUNITS, "mm (3 h)^-1" only `pint`).
"""

from __future__ import annotations

import logging
import re
from functools import cache

import numpy as np

from .._extras import needed_for

DAY = 86400  # seconds
_LENGTHS = ((DAY, "d"), (3600, "h"), (60, "min"), (1, "s"))
# Spellings of our own units: what is written so needs no conversion, and not the slow import of `pint`.
SPELLINGS = {
    "mm d-1": {"mm/d", "mm d-1", "mm/day", "mm day-1", "mm d^-1", "mm day^-1", "mm.d-1"},
    "mm h-1": {"mm/h", "mm h-1", "mm/hr", "mm hr-1", "mm/hour", "mm hour-1", "mm h^-1", "mm hour^-1", "mm.h-1"},
    "degC": {"degC", "Celsius", "celsius", "°C", "deg_C", "degrees_Celsius", "degree_Celsius", "C"},
    "km2": {"km2", "km^2", "km**2"},
}
# What people write and neither CF nor `pint` knows, in any letters' case.
_WRITTEN = {
    "cfs": "ft3 s-1",
    "cusec": "ft3 s-1",
    "cusecs": "ft3 s-1",
    "cumec": "m3 s-1",
    "cumecs": "m3 s-1",
    "cms": "m3 s-1",
    "mm/day": "mm/day",
    "mm/d": "mm/d",
    "sqkm": "km2",
    "sq km": "km2",
    "sq. km": "km2",
    "sqmi": "mi2",
    "ha": "hectare",
}
_PER_STEP = re.compile(r"(?P<rest>.*\S)\s*/\s*\(\s*(?P<count>[1-9]\d*)\s+(?P<unit>[a-z]+)\s*\)")
_TEMPERATURE = re.compile(r"(?:deg(?:ree)?s?|[°º])?[\s_.]*(c|celsius|k|kelvin|f|fahrenheit)|([℃℉])|o(c)", re.IGNORECASE)
_SCALES = {"c": "degC", "k": "kelvin", "f": "degF", "℃": "degC", "℉": "degF"}


def step_text(step_seconds: int) -> str:
    """A length of time in words: "1 d", "3 h", "15 min", "90 s"."""
    return " ".join(map(str, _count_of_unit(step_seconds)))


def unit_at(unit: str, step_seconds: int, *, of: int = DAY) -> str:
    """A unit of the tables, which are written for days, as it is written at another step.

    Parameters
    ----------
    unit : str
        What has no factor "d-1" (degC, 1, mm) stays as it is.
    step_seconds : int
    of : int
        Seconds of the step that `unit` is written for.

    Returns
    -------
    str
        Of "mm d-1" for example "mm h-1" at 3,600 s and "mm/(3 h)" at 10,800 s.
    """
    count, length = _count_of_unit(of)
    factors = unit.split()
    if count == 1 and f"{length}-1" in factors:
        factors.remove(f"{length}-1")
        rest = " ".join(factors)
    elif count > 1 and unit.endswith(f"/({count} {length})"):
        rest = unit.removesuffix(f"/({count} {length})")
    else:
        return unit
    count, length = _count_of_unit(step_seconds)
    if count > 1:
        return f"{rest or 1}/({count} {length})"
    return f"{'' if rest == '1' else rest} {length}-1".strip()


def is_per_step(unit: str, step_seconds: int) -> bool:
    """Whether a unit is an amount per step of this length, in our spelling."""
    return unit_at(unit, 2 * step_seconds, of=step_seconds) != unit


def _count_of_unit(seconds: int) -> tuple[int, str]:
    length, name = next((length, name) for length, name in _LENGTHS if seconds % length == 0)
    return seconds // length, name


def is_ours(unit: str, ours: str) -> bool:
    """Whether a unit is one of the spellings of ours."""
    unit = " ".join(unit.split())
    return unit == ours or unit in SPELLINGS.get(ours, ())


def is_same(unit: str, ours: str) -> bool:
    """Whether a unit is ours, in any spelling that `pint` reads."""
    if is_ours(unit, ours):
        return True
    try:
        (factor, found), (wanted_factor, wanted) = _parsed(unit, ours, "it"), _parsed(ours, ours, "it")
    except ValueError:
        return False
    if found.dimensionality != wanted.dimensionality:
        return False
    registry = _registry()
    one, two = (registry.Quantity(np.array([0.0, 1.0]), found).to(wanted).magnitude * factor / wanted_factor).tolist()
    return one == 0 and abs(two - 1) < 1e-12


def convert(values, unit: str, ours: str, what: str, *, summed: bool = False, area=None, step_seconds: int = DAY):
    """Values in one of our units, and what was done besides changing the scale.

    Parameters
    ----------
    values : numpy.ndarray of float64
    unit : str
        As the data write it.
    ours : str
        A depth of water per step, as `unit_at` writes it; or any unit, such as degC, km2 or W m-2.
    what : str
        The variable and its file, for messages.
    summed : bool
        The data say that a value without a time in its unit is the sum of one step.
    area : callable, optional
        Gives the basins' areas in km2, an array over the last dimension of `values`; called where a volume needs it.
    step_seconds : int
        Length of the data's step.

    Returns
    -------
    numpy.ndarray, str

    Raises
    ------
    ValueError
        A unit that is unknown, of another kind, or an amount that nobody called a sum.
    """
    registry, (factor, found) = _registry(), _parsed(unit, ours, what)
    dimensions = found.dimensionality
    if ours == "degC":
        if dict(dimensions) != {"[temperature]": 1} or str(found).startswith("delta_") or factor != 1:
            raise ValueError(_of_another_kind(what, "a temperature", unit))
        return registry.Quantity(values, found).to("degC").magnitude, ""
    if ours == "km2":
        if dict(dimensions) != {"[length]": 2}:
            raise ValueError(_of_another_kind(what, "an area", unit))
        return values * registry.Quantity(factor, found).to("km**2").magnitude, ""
    if unit_at(ours, DAY, of=step_seconds) != "mm d-1":
        wanted_factor, wanted = _parsed(ours, ours, what)
        if dimensions != wanted.dimensionality:
            raise ValueError(_of_another_kind(what, f"the kind of {ours}", unit))
        return registry.Quantity(values, found).to(wanted).magnitude * (factor / wanted_factor), ""
    one, done = registry.Quantity(factor, found), []
    if "[mass]" in dimensions:
        one = one / registry.Quantity(1000.0, "kg/m**3")
    power = one.dimensionality.get("[length]", 0)
    if dict(one.dimensionality) not in ({"[length]": power}, {"[length]": power, "[time]": -1}) or power not in (1, 3):
        raise ValueError(_of_another_kind(what, "a depth or volume of water per time", unit))
    daily = step_seconds == DAY
    step = registry.Quantity(1.0, "day") if daily else registry.Quantity(step_seconds, "second")
    if "[time]" not in one.dimensionality:
        length = "one day" if daily else f"its step of {step_text(step_seconds)}"
        if not summed:
            raise ValueError(
                f"{what} is in '{unit}', an amount without a time, and nothing says of which time; if each value is "
                f"the sum of {length}, say so with names ('NAME=VARIABLE[{unit} sum]', --names) or cell_methods 'time: "
                "sum'."
            )
        one, done = one / step, [f"as the sum of {'a day' if daily else length}"]
    ours_one = registry.Quantity(1.0, "mm") / step

    def times_ours(quantity) -> float:
        return (quantity / ours_one).to("").magnitude

    if power == 1:
        return values * times_ours(one), " ".join(done)
    km2 = area()
    per_km2 = times_ours(one / registry.Quantity(1.0, "km**2"))
    low, high = float(km2.min()), float(km2.max())
    done.append(f"divided by the area of {low:g}" + (f" to {high:g}" if low < high else "") + " km2")
    return values * (per_km2 / km2), " ".join(done)


def _of_another_kind(what: str, kind: str, unit: str) -> str:
    return f"{what} must be in a unit of {kind}, found '{unit}'; correct it, or choose another variable with names."


def _parsed(unit: str, ours: str, what: str):
    """A factor and a unit of `pint`, which knows no units with a factor, such as that of mm/(3 h)."""
    text = " ".join(unit.split())
    factor = 1.0
    if match := _PER_STEP.fullmatch(text):
        text, factor = f"{match['rest']}/{match['unit']}", 1 / float(match["count"])
    text = re.sub(r"\s+(of water( equivalent)?|w\.?\s?e\.?)(?=\s|$)", "", text)
    text = _WRITTEN.get(text.casefold(), text)
    if ours == "degC" and (match := _TEMPERATURE.fullmatch(text)):
        text = _SCALES[next(part for part in match.groups() if part)[0].casefold()]
    try:
        found = _registry().parse_units(text)
    except Exception as error:  # the parser raises what its tokenizer and the registry raise, of many kinds
        raise ValueError(
            f"{what} has a unit that is not known, '{unit}'; write it as CF does (such as 'kg m-2 s-1'), or give it "
            "with names ('NAME=VARIABLE[unit]', --names)."
        ) from error
    if any(word in str(found) for word in ("month", "year")):
        raise ValueError(f"{what} is in '{unit}', and months and years differ in length; convert it to a rate per day.")
    return factor, found


@cache
def _registry():
    # It redefines a dozen units of pint for CF, on purpose, and pint warns of each.
    logger = logging.getLogger("pint.util")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with needed_for("a unit"):
            from cf_xarray.units import units
    finally:
        logger.setLevel(before)
    return units
