"""Units of basin data to ours, mm d-1, degC and km2, by `pint` with CF's spellings (`cf_xarray.units`).

A unit is taken as it is written and never guessed from the size of the values. Water has 1,000 kg m-3. An amount
without a time (mm, m, kg m-2) becomes a rate only where the data say that it is the sum of a day.
"""

from __future__ import annotations

import logging
import re
from functools import cache

# Spellings of our own units: what is written so needs no conversion, and not the slow import of `pint`.
SPELLINGS = {
    "mm d-1": {"mm/d", "mm d-1", "mm/day", "mm day-1", "mm d^-1", "mm day^-1", "mm.d-1"},
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
_TEMPERATURE = re.compile(r"(?:deg(?:ree)?s?|[°º])?[\s_.]*(c|celsius|k|kelvin|f|fahrenheit)|([℃℉])|o(c)", re.IGNORECASE)
_SCALES = {"c": "degC", "k": "kelvin", "f": "degF", "℃": "degC", "℉": "degF"}


def is_ours(unit: str, ours: str) -> bool:
    """Whether a unit is one of the spellings of ours."""
    return " ".join(unit.split()) in SPELLINGS[ours]


def convert(values, unit: str, ours: str, what: str, *, summed: bool = False, area=None):
    """Values in one of our units, and what was done besides changing the scale.

    Parameters
    ----------
    values : numpy.ndarray of float64
    unit : str
        As the data write it.
    ours : {"mm d-1", "degC", "km2"}
    what : str
        The variable and its file, for messages.
    summed : bool
        The data say that a value without a time in its unit is the sum of one day.
    area : callable, optional
        Gives the basins' areas in km2, an array over the last dimension of `values`; called where a volume needs it.

    Returns
    -------
    numpy.ndarray, str

    Raises
    ------
    ValueError
        A unit that is unknown, of another kind, or an amount that nobody called a sum.
    """
    registry, found = _registry(), _parsed(unit, ours, what)
    dimensions = found.dimensionality
    if ours == "degC":
        if dict(dimensions) != {"[temperature]": 1} or str(found).startswith("delta_"):
            raise ValueError(_of_another_kind(what, "a temperature", unit))
        return registry.Quantity(values, found).to("degC").magnitude, ""
    if ours == "km2":
        if dict(dimensions) != {"[length]": 2}:
            raise ValueError(_of_another_kind(what, "an area", unit))
        return values * registry.Quantity(1.0, found).to("km**2").magnitude, ""
    one, done = registry.Quantity(1.0, found), []
    if "[mass]" in dimensions:
        one = one / registry.Quantity(1000.0, "kg/m**3")
    power = one.dimensionality.get("[length]", 0)
    if dict(one.dimensionality) not in ({"[length]": power}, {"[length]": power, "[time]": -1}) or power not in (1, 3):
        raise ValueError(_of_another_kind(what, "a depth or volume of water per time", unit))
    if "[time]" not in one.dimensionality:
        if not summed:
            raise ValueError(
                f"{what} is in '{unit}', an amount without a time, and nothing says of which time; if each value is "
                f"the sum of one day, say so with names ('NAME=VARIABLE[{unit} sum]', --names) or cell_methods 'time: "
                "sum'."
            )
        one, done = one / registry.Quantity(1.0, "day"), ["as the sum of a day"]
    if power == 1:
        return values * one.to("mm/day").magnitude, " ".join(done)
    km2 = area()
    per_km2 = (one / registry.Quantity(1.0, "km**2")).to("mm/day").magnitude
    low, high = float(km2.min()), float(km2.max())
    done.append(f"divided by the area of {low:g}" + (f" to {high:g}" if low < high else "") + " km2")
    return values * (per_km2 / km2), " ".join(done)


def _of_another_kind(what: str, kind: str, unit: str) -> str:
    return f"{what} must be in a unit of {kind}, found '{unit}'; correct it, or choose another variable with names."


def _parsed(unit: str, ours: str, what: str):
    text = " ".join(unit.split())
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
    return found


@cache
def _registry():
    # It redefines a dozen units of pint for CF, on purpose, and pint warns of each.
    logger = logging.getLogger("pint.util")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from cf_xarray.units import units
    finally:
        logger.setLevel(before)
    return units
