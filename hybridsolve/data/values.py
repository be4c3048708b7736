"""Values that stand for nothing: masked entries, codes such as -999, and blank text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .steps import date_of_row

CODES = (-99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -9999.0, -9999.9, -99999.0)
_NO_TEXT = ("nan", "<na>", "nat")  # what missing text becomes on its way through pandas, numpy and CSV files
_ATTRIBUTE_CODES = (-999.0, -9999.0, -99999.0)  # -99 may be an attribute's value


def unmasked(values) -> np.ndarray:
    """An array without mask: masked numbers are NaN, masked text is empty, masked dates are NaT."""
    if not np.ma.isMaskedArray(values):
        return np.asarray(values)
    if not np.ma.is_masked(values):
        return values.data
    if values.dtype.kind in "iub":
        values = values.astype(np.float64)
    nothing: dict[str, Any] = {"f": np.nan, "M": np.datetime64("NaT"), "m": np.timedelta64("NaT")}
    return np.ma.filled(values, nothing.get(values.dtype.kind, ""))


def attribute(values) -> np.ndarray:
    """One attribute of every basin: text decoded and stripped, where missing or blank is empty; numbers as they are."""
    x = unmasked(values)
    if x.dtype.kind not in "SUO":
        return x
    flat = x.ravel().tolist()
    texts = ["" if text.lower() in _NO_TEXT or text == "None" else text for text in map(text_of, flat)]
    there = [v for v, text in zip(flat, texts, strict=True) if text]
    if x.dtype.kind == "O" and there and all(isinstance(v, (bool, int, float, np.number)) for v in there):
        return np.array([float(v) if text else np.nan for v, text in zip(flat, texts, strict=True)]).reshape(x.shape)
    return np.array(texts, dtype=str).reshape(x.shape)


def numbers(values, what: str, place: Callable[..., str] = "row {}".format) -> np.ndarray:
    """Numbers as they are, and those kept as objects as float64; `place` says where an index is.

    Raises
    ------
    ValueError
        If one is text, a date or a length of time.
    """
    x = unmasked(values)
    if x.dtype.kind in "iuf":
        return x
    if x.dtype.kind not in "OSU":
        raise ValueError(f"{what} must hold numbers, found {x.dtype}; convert it.")
    out = np.full(x.shape, np.nan)
    for at, value in np.ndenumerate(x):
        if text_of(value):
            try:
                out[at] = float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{what} must hold numbers, found '{text_of(value)}' in {place(*at)}; leave it blank where it "
                    "is missing."
                ) from None
    return out


def without_codes(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers of an attribute with -999 and -9999 as NaN, and how many there were."""
    if values.dtype.kind not in "iuf":
        return values, 0
    coded = np.isin(values, _ATTRIBUTE_CODES)
    return (np.where(coded, np.nan, values), int(coded.sum())) if coded.any() else (values, 0)


def refuse_codes(
    name: str, values: np.ndarray, time: np.ndarray, ids: np.ndarray, where: str, variable: str = "VARIABLE"
) -> None:
    """Raise if a series ``[T, B]`` holds a code for missing values, or a flow that is negative.

    Temperatures of -99.9 and the like do not occur; NaN is missing.
    """
    with np.errstate(invalid="ignore"):
        low = values < (0 if name == "qobs" else -98)
    if not low.any():
        return
    found = values[low].astype(np.float64)
    coded = np.isclose(found[:, None], CODES, rtol=1e-6, atol=0).any(1)
    if name != "qobs" and not coded.any():
        return
    at = np.argwhere(low)[np.argmax(coded)]
    value, n = found[np.argmax(coded)], int(coded.sum()) or len(found)
    place = f"found {value:g} in basin {ids[at[1]]} on {date_of_row(time, at[0])} ({n} such values)"
    if not coded.any():
        raise ValueError(
            f"{name} of {where} must not be negative, {place}; correct them, mark them as missing (NaN), or leave out "
            "the basin."
        )
    raise ValueError(
        f"{name} of {where} must not hold a code for missing values, {place}; mark them as missing, by NaN or "
        f"_FillValue, or say it with names ({name}={variable}[missing {value:g}], --names)."
    )


def text_of(value) -> str:
    """A value as text, bytes decoded and padding taken off; empty where it is missing."""
    # pandas' NA is neither equal to itself nor not
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value).strip(" \t\r\n\0")
