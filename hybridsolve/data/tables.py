"""Series and attributes of basins from CSV files and pandas frames, as a dataset that the rest is read from."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .dataset import resolve_basins
from .ids import listed, read_text, refuse_duplicates, spelled_as, text_ids
from .layout import BASIN_NAMES, TIME_NAMES, aside, parse_dates
from .names import key_of, split_header
from .steps import usual_step

AS_TEXT = (*TIME_NAMES[:-1], *BASIN_NAMES)  # "t" may be a temperature
SUFFIXES = (".csv", ".txt", ".tsv")
_YEAR, _MONTH, _DAY = ("year", "yyyy", "yr"), ("month", "mnth", "mm", "mo"), ("day", "dd", "dy")

_CLOCK = {"hr": "h", "hour": "h", "hh": "h", "minute": "min", "min": "min"}


def read_table(path, as_text: Sequence[str] = (), *, unit_row: bool = False) -> pd.DataFrame:
    """A table of a text file, its columns named as in the header; units go to ``frame.attrs["units"]`` by column.

    Lines at the top that begin with ``#`` are skipped. Columns are parted by commas, semicolons (with decimal commas
    too), tabs, bars or blanks. Units are in the headers, ``prcp [mm/d]`` or ``P (mm)``; or in a row of their own below
    them, where `unit_row` allows one.

    Parameters
    ----------
    path : path_like
    as_text : sequence of str
        Columns, compared as `names.key_of`, that are kept as text: dates, and ids with their zeros.

    Raises
    ------
    ValueError
        Not a text file, or not a table.
    """
    path = Path(path)
    lines = read_text(path, "a table").splitlines()
    lines = [line for line in lines if line.strip()]
    while lines and lines[0].lstrip().startswith("#"):
        lines.pop(0)
    if not lines:
        raise ValueError(f"{path} must be a table with a header, found no line; check the file.")
    marks = {mark: lines[0].count(mark) for mark in ",;\t|"}
    mark = max(marks, key=marks.__getitem__) if any(marks.values()) else None
    header = _cells(lines[0], mark)
    below = _cells(lines[1], mark) if len(lines) > 1 else []
    units = dict(zip(header, below, strict=False)) if unit_row and _is_unit_row(below) else {}
    body = lines[2 if units else 1 :]
    text = [i for i, name in enumerate(header) if key_of(name) in as_text] or [0]
    comma = mark == ";" and any(re.search(r"\d,\d", line) for line in body[:20])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                io.StringIO("\n".join(body)),
                sep=mark or r"\s+",
                header=None,
                names=range(len(header)),
                dtype=dict.fromkeys(text, str),
                decimal="," if comma else ".",
                skipinitialspace=True,
                index_col=False,
                low_memory=False,
            )
    except pd.errors.ParserWarning:
        raise ValueError(
            f"{path} has rows with more cells than its header of {len(header)} columns; name every column."
        ) from None
    except ValueError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} could not be read as a table ({reason.rstrip('.')}); check its columns.") from error
    bases = [split_header(name) for name in header]
    names = [
        base if [b for b, _ in bases].count(base) == 1 else _slug(full)
        for full, (base, _) in zip(header, bases, strict=True)
    ]
    refuse_duplicates([n for n in names if n], f"columns of {path}")
    frame.columns = names
    frame = frame.loc[:, [i == 0 or bool(n) for i, n in enumerate(names)]]
    said = {
        n: unit or units.get(full, "").strip("[]() ") for n, full, (_, unit) in zip(names, header, bases, strict=True)
    }
    frame.attrs["headers"] = dict(zip(names, header, strict=True))
    frame.attrs["units"] = {n: u for n, u in said.items() if u and u not in "-#"}
    return frame


def _cells(line: str, mark: str | None) -> list[str]:
    cells = next(csv.reader([line], delimiter=mark, skipinitialspace=True)) if mark else line.split()
    return [cell.strip() for cell in cells]


def _is_unit_row(cells: Sequence[str]) -> bool:
    """Whether no cell is a number, a date, or one of the words for a missing value."""
    rest = [c for c in cells[1:] if c]
    numbers = [c for c in rest if re.match(r"[-+]?[\d.]", c) or c.casefold() in ("na", "nan", "null", "none", "inf")]
    return bool(rest) and not numbers and not any(c.isdigit() for c in cells[0])


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")


def table_dataset(frame: pd.DataFrame, where: str, stem: str, time: str | None = None) -> xr.Dataset:
    """The series of one basin in a frame, as a dataset over ``time``, with the scalar ``basin``.

    The time is the column `time` if it is given, else a DatetimeIndex, a column such as date or time, or columns of
    year, month and day, and of hour and minute where the hours differ.

    Raises
    ------
    ValueError
        No dates, several basins, or a name twice.
    """
    units, headers = dict(frame.attrs.get("units", {})), frame.attrs.get("headers", {})
    if isinstance(frame.index, pd.MultiIndex) or isinstance(frame.columns, pd.MultiIndex):
        raise ValueError(
            f"{where} must have one row a step and one column a variable, found a MultiIndex; open frame.to_xarray()."
        )
    columns = {}
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"columns of {where} must be unique, found '{twice}' twice; rename one.")
    for column in frame.columns:
        base, unit = split_header(column)
        if base in columns or "/" in base:  # no name of a NetCDF variable
            base = _slug(str(column))
        if base in columns:
            raise ValueError(f"columns of {where} must be unique, found '{base}' twice; rename one.")
        columns[base] = column
        if unit:
            units[base] = unit
    days, used = _times(frame, columns, where, time)
    ids = [base for base in columns if base not in used and key_of(base) in BASIN_NAMES]
    name = str(frame.attrs.get("basin", stem))
    for base in ids[:1]:
        found = pd.unique(frame[columns[base]].dropna())
        if len(found) > 1:
            raise ValueError(
                f"{where} must hold one basin, found {len(found)} in the column '{base}'; write one file a basin, or "
                f"open frame.set_index(['{base}', 'time']).to_xarray()."
            )
        if len(found):
            name = text_ids(np.array(list(found)), f"{base} of {where}")[0]
    data = {}
    for base, column in columns.items():
        if base in used or base in ids[:1] or not base:
            continue
        values = frame[column]
        attrs = {"long_name": headers.get(column, str(column))} | ({"units": units[base]} if base in units else {})
        data[base] = ("time", _plain_column(values), attrs)
    ds = xr.Dataset(data, coords={"time": days})
    return aside(ds, "basin").assign_coords(basin=name)


def _plain_column(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.to_numpy(np.float64, na_value=np.nan)
    return values.to_numpy(object)


def _times(frame: pd.DataFrame, columns: dict, where: str, asked: str | None):
    """The dates, and the columns they come from."""
    keys = {key_of(base): base for base in columns}
    if asked is not None:
        if key_of(asked) not in keys:
            raise ValueError(
                f"names says time={asked}, and {where} must hold that column, found {listed(columns)}; correct it."
            )
        base = keys[key_of(asked)]
        return parse_dates(frame[columns[base]].tolist(), f"{base} of {where}"), [base, ""]
    if isinstance(frame.index, pd.DatetimeIndex):
        return frame.index.tz_localize(None).to_numpy("datetime64[ns]"), []
    named = [next((keys[k] for k in names if k in keys), None) for names in (_YEAR, _MONTH, _DAY)]
    parts = [base for base in named if base]
    if len(parts) == 3:
        numbers = [pd.to_numeric(frame[columns[base]], errors="coerce") for base in parts]
        try:
            days = pd.to_datetime(dict(zip(("year", "month", "day"), numbers, strict=True)))
        except ValueError as error:
            raise ValueError(f"{', '.join(parts)} of {where} must be dates ({error}); correct them.") from None
        if days.isna().any():
            row = int(np.flatnonzero(days.isna())[0])
            raise ValueError(f"{', '.join(parts)} of {where} must be dates, found none in row {row}; correct it.")
        clock = [(keys[k], unit) for k, unit in _CLOCK.items() if k in keys]
        extra = [base for base, _ in clock]
        counts = [pd.to_numeric(frame[columns[base]], errors="coerce").to_numpy(float) for base in extra]
        if any((count != count[0]).any() for count in counts):  # the same hour every day says nothing of a step
            for count, (base, unit) in zip(counts, clock, strict=True):
                if np.isnan(count).any():
                    row = int(np.flatnonzero(np.isnan(count))[0])
                    raise ValueError(f"{base} of {where} must be numbers, found none in row {row}; correct it.")
                days = days + pd.to_timedelta(count, unit=unit)
        return days.to_numpy("datetime64[ns]"), [*parts, *extra]
    named = next((keys[k] for k in TIME_NAMES if k in keys and k != "t"), None)
    base = named if named is not None else next(iter(columns), None)
    if base is None:
        raise ValueError(f"{where} must have a column of dates, found no column; add one, such as date.")
    try:
        return parse_dates(frame[columns[base]].tolist(), f"{base or 'the first column'} of {where}"), [base, ""]
    except ValueError:
        if named is not None:
            raise
        raise ValueError(
            f"{where} must have a column of dates, such as date or time, or a DatetimeIndex, found columns "
            f"{listed(columns)}; add or rename it."
        ) from None


# ------------------------------------------------------------------------------------------------------------ folders


def table_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of series and tables of attributes of a folder, without hidden ones."""
    files = sorted(p for p in folder.iterdir() if p.suffix.casefold() in SUFFIXES and p.is_file() and p.name[0] != ".")
    attributes = [p for p in files if "attributes" in p.stem.casefold()]
    return [p for p in files if p not in attributes], attributes


def read_folder(folder: Path, basins, time: str | None = None) -> xr.Dataset:
    """The series of a folder of CSV files, one a basin, over the union of their dates, with attributes.

    Raises
    ------
    ValueError
        Unknown basins, another unit or step in one of the files, a date twice, or basins without attributes.
    """
    files, paths = table_files(folder)
    attributes = {path: attribute_table(path) for path in paths}
    files = _by_id(files, {name for table in attributes.values() for name in table.index}, folder)
    stems = list(files)
    ids = [stems[i] for i in resolve_basins(basins, stems, folder.name)]
    tables: dict[str, xr.Dataset] = {}
    units: dict[Hashable, tuple[str, str | None]] = {}
    for name in ids:
        ds = table_dataset(read_table(files[name], AS_TEXT, unit_row=True), files[name].name, name, time)
        refuse_duplicates(ds["time"].values, f"dates of {files[name]}")
        tables[name] = ds
        other, step = next(iter(tables)), usual_step(ds["time"].values)
        if step != usual_step(tables[other]["time"].values):
            raise ValueError(
                f"{folder} must hold files of one step, found another in {files[name].name} than in "
                f"{files[other].name}; aggregate the shorter or open them apart."
            )
        for v in ds.data_vars:
            first, unit = units.setdefault(v, (name, ds[v].attrs.get("units")))
            if unit != ds[v].attrs.get("units"):
                raise ValueError(
                    f"{v} must have one unit in all files of {folder}, found '{unit}' in {files[first].name} and "
                    f"'{ds[v].attrs.get('units')}' in {files[name].name}; write it alike."
                )
    days = np.unique(np.concatenate([ds["time"].values for ds in tables.values()]))
    data = {}
    for v in units:
        text = any(v in table and table[v].dtype == object for table in tables.values())
        values = np.full((len(days), len(ids)), np.nan, object if text else float)
        for b, ds in enumerate(tables.values()):
            if v in ds:
                values[np.searchsorted(days, ds["time"].values), b] = ds[v].values
        data[v] = (("time", "basin"), values, tables[units[v][0]][v].attrs)
    result = xr.Dataset(data, coords={"time": days, "basin": ids})
    for path, table in attributes.items():
        absent = [name for name in ids if name not in table.index]
        if absent:
            other = spelled_as(absent[0], list(table.index))
            raise ValueError(
                f"{path} must have a row for each basin, found none for '{absent[0]}' ({len(absent)} such basins); "
                + (f"write it as there, '{other}'." if other else "add it.")
            )
        for column in table.columns:
            if column not in result.variables:
                unit = table.attrs["units"].get(column)
                result[column] = ("basin", table.loc[ids, column].to_numpy(), {"units": unit} if unit else {})
    return result


def _by_id(files: Sequence[Path], known: set[str], folder: Path) -> dict[str, Path]:
    """Files by the ids of the attributes' tables: a file's whole name, else the one part of it, between ``_``, that is
    an id, as 27001 in ``CAMELS_GB_hydromet_timeseries_27001_19701001-20150930.csv``."""
    found: dict[str, Path] = {}
    for path in files:
        stem = path.stem
        parts = [stem] if stem in known else [part for part in dict.fromkeys(stem.split("_")) if part in known]
        name = parts[0] if len(parts) == 1 else stem
        if name in found:
            raise ValueError(
                f"{folder} must hold one file a basin, found {found[name].name} and {path.name} for '{name}'; keep one "
                "of them."
            )
        found[name] = path
    return found


def attribute_table(path) -> pd.DataFrame:
    """Attributes by basin: the index is the ids, as text, of the column that is named so, else of the first.

    Raises
    ------
    ValueError
        An id missing or there twice.
    """
    frame = read_table(path, BASIN_NAMES)
    ids = next((c for key in BASIN_NAMES for c in frame.columns if key_of(c) == key), frame.columns[0])
    index = text_ids(frame[ids].to_numpy(object), f"{ids or 'the first column'} of {path}")
    refuse_duplicates(index, f"{ids or 'the first column'} of {path}")
    table = frame.drop(columns=ids)
    table.index = pd.Index(index)
    table.attrs = frame.attrs
    return table
