"""Scores of other models, from CSV files, matched to the basins of a run by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.ids import listed, refuse_duplicates, spelled_as, text_ids
from ..data.tables import read_table


def read_reference(path: str | Path, basins: Sequence[str] | np.ndarray) -> np.ndarray:
    """The NSE of another model for each of these basins ``[B]``, NaN where it has none.

    Parameters
    ----------
    path : path
        CSV with the columns `basin` and `nse`.
    basins : sequence of str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such table, has a basin twice, has none of these basins, or spells one with other leading zeros.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a CSV with the columns basin and nse.")
    table = read_table(path, ("basin",))
    if not {"basin", "nse"} <= set(table.columns):
        raise ValueError(f"{path} must have the columns basin and nse; found {listed(table.columns)}: rename them.")
    ids = text_ids(table["basin"].to_numpy(object), f"basins of {path}")
    refuse_duplicates(ids, f"basins of {path}")
    nse = pd.to_numeric(table["nse"], errors="coerce")
    wrong = nse.isna() & table["nse"].notna()
    if wrong.any():
        raise ValueError(f"nse of {path} must be numbers; found '{table['nse'][wrong].iloc[0]}': correct it.")
    wanted = [str(b) for b in basins]
    known = set(ids.tolist())
    missing = [b for b in wanted if b not in known]
    if missing and (other := spelled_as(missing[0], ids.tolist())):
        raise ValueError(
            f"{path} has basin '{other}', and the data have '{missing[0]}': spell the ids of both alike, leading zeros "
            "included."
        )
    if len(missing) == len(wanted):
        found = f"ids such as '{ids[0]}'" if len(ids) else "no row"
        raise ValueError(f"{path} must have basins of the data, such as '{wanted[0]}', found {found}: correct its ids.")
    return pd.Series(nse.to_numpy(np.float64), index=ids).reindex(wanted).to_numpy()
