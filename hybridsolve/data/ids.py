"""Ids of basins and reaches, as text or as whole numbers, without the loss of a digit."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .values import text_of

# By bytes of a float: from here on two whole numbers may have become one.
EXACT = {2: 2**11, 4: 2**24, 8: 2**53}
ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_ids(values, what: str) -> np.ndarray:
    """Ids as text ``[N]``: characters joined, bytes decoded, padding taken off, numbers by their digits.

    Parameters
    ----------
    values : array_like ``[N]``, or ``[N, L]`` of single characters
    what : str
        What they are, for messages.

    Raises
    ------
    ValueError
        If an id is missing or blank, or a float that may have lost digits.
    """
    if np.ma.is_masked(values):
        raise ValueError(f"{what} must all be there; found masked ones: fill or drop them.")
    x = np.asarray(values)
    if x.dtype.kind == "T":  # of variable length, as Zarr keeps text
        x = x.astype(object)
    if x.ndim == 2 and x.dtype.kind in "SU" and x.dtype.itemsize == np.dtype(x.dtype.kind + "1").itemsize:
        x = np.ascontiguousarray(x).view(f"{x.dtype.kind}{x.shape[1]}")[:, 0]
    if x.ndim != 1 or x.dtype.kind not in "iufSUO":
        raise ValueError(
            f"{what} must be text or whole numbers, one each; found {x.dtype} {list(x.shape)}: correct it."
        )
    if x.dtype.kind in "iuf":
        return whole_ids(x, what).astype(str)
    texts = [_text(v) for v in x.tolist()]
    for row, text in enumerate(texts):
        if not text:
            raise ValueError(f"{what} must all be there; found a missing or blank one in row {row}: fill or drop it.")
    return np.array(texts, dtype=str)


def _text(value) -> str:
    if isinstance(value, float) and value == value:
        value = whole_ids(np.array([value]), "ids")[0]
    return text_of(value)


def whole_ids(values, what: str, nan: int | None = None) -> np.ndarray:
    """Ids as int64 ``[N]``, where `nan` stands for NaN if it is given.

    Raises
    ------
    ValueError
        If one is not a whole number, or a float so large that another id may have become the same number.
    """
    if np.ma.is_masked(values):
        raise ValueError(f"{what} must all be there; found masked ones: fill or drop them.")
    x = np.asarray(values)
    if x.ndim != 1 or x.dtype.kind not in "iuf":
        raise ValueError(f"{what} must be whole numbers [N]; found {x.dtype} {list(x.shape)}: convert or reshape it.")
    if x.dtype.kind == "f":
        if nan is not None:
            x = np.where(np.isnan(x), x.dtype.type(nan), x)
        most = EXACT.get(x.dtype.itemsize, 2**53)
        bad = ~((np.abs(x) < most) & (x == np.floor(x)))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{what} must be whole numbers, as {x.dtype} below 2^{most.bit_length() - 1}, where it has all digits; "
                f"found {x[row]!s} in row {row}: correct it, or give integers or text."
            )
    elif x.dtype == np.uint64 and (x > np.iinfo(np.int64).max).any():
        raise ValueError(f"{what} must be below 2^63; found {x.max()}: give other numbers.")
    return x.astype(np.int64)


def read_text(path, expected: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark; `expected` is what it should be, for messages.

    Raises
    ------
    ValueError
        If the file is not text in one of these encodings.
    """
    raw = Path(path).read_bytes()
    encoding = next((name for mark, name in ENCODINGS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = None
    if text is None or "\0" in text:
        found = "other bytes" if text is None else "binary data"
        raise ValueError(f"{path} must be a text file in UTF-8, {expected}; found {found}: save it as UTF-8.")
    return text


def read_ids(path) -> list[str]:
    """The ids of a text file: one a line or joined by commas, ``#`` begins a comment; UTF-8, or UTF-16 with its mark.

    Raises
    ------
    ValueError
        If the file is not text in one of these encodings.
    """
    lines = read_text(path, "a list of ids, one a line").splitlines()
    return [part.strip() for line in lines for part in line.split("#")[0].split(",") if part.strip()]


def refuse_duplicates(ids, what: str) -> None:
    """Raise if an id is there twice, whichever of them are wanted."""
    x = np.asarray(ids)
    values, counts = np.unique(x, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1][0]
        rows = ", ".join(map(str, np.flatnonzero(x == twice)[:6]))
        raise ValueError(f"{what} must be unique; found '{twice}' more than once, in rows {rows}: keep one of them.")


def spelled_as(wanted: str, available: Sequence[str]) -> str | None:
    """The id that `wanted` is but for leading zeros or letters' case, if there is one."""
    key = wanted.lstrip("0").casefold()
    return next((name for name in available if name.lstrip("0").casefold() == key and name != wanted), None)


def listed(names) -> str:
    """Names joined by commas, the first ten of many."""
    names = [str(n) for n in names]
    return (", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")) or "none"
