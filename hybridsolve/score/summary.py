"""The scores that every report shows, in lines of medians; and the log of readings of the test score."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..data.files import write_text_atomic
from . import metrics

SCORES = {"nse": "NSE", "kge": "KGE", "pbias": "bias %", "fhv": "FHV %", "flv": "FLV %"}


def medians_of(scores: Mapping) -> dict[str, dict[str, float]]:
    """`metrics.summary` of the scores that reports show, of a dataset or mapping of scores ``[B]``."""
    names = [*SCORES, "n_valid", "n_nonfinite"]
    return metrics.summary({name: np.asarray(scores[name]) for name in names if name in scores})


def median_line(label: str, scores: Mapping | None = None) -> str:
    """A line of medians, with the basins that failed and those not scored; without scores, the heads of its columns.

    `scores` is a dataset or mapping of scores ``[B]``, with `n_valid` and `n_nonfinite`, by which failed basins, which
    rank last, are distinguished from those without observations, which are left out.
    """
    if scores is None:
        return f"{label:22}" + "".join(f"{head:>9}" for head in (*SCORES.values(), "failed")) + f"{'not scored':>12}"
    s = medians_of(scores)
    counts = f"{s['nse']['n_failed']:9d}{s['nse']['n_unscored']:12d}"
    return f"{label:22}" + "".join(f"{s[n]['median']:9.3f}" for n in SCORES) + counts


def by_waterbody(scores: Mapping, below: ArrayLike) -> dict[str, dict[str, np.ndarray]]:
    """Scores of the gauges apart, by whether a waterbody, which is routed as a river, lies upstream.

    Parameters
    ----------
    scores : mapping or dataset of ``[B]``
    below : bool ``[B]``
        Of the gauges' reaches: `RiverNetwork.below_waterbody`, or below_waterbody of the discharge's file.

    Returns
    -------
    dict of str to dict of ``[B']``
        By the labels of lines of `median_line`, which takes each.

    Raises
    ------
    ValueError
        If below is not ``[B]``.
    """
    there = np.asarray(below).astype(bool)
    arrays = {str(name): np.asarray(scores[name]) for name in scores}
    for name, x in arrays.items():
        if x.shape != there.shape:
            raise ValueError(
                f"below must be {list(x.shape)} as the scores '{name}' are; found {list(there.shape)}: take the "
                "reaches of the scored gauges."
            )
    sides = {"no waterbody above": ~there, "below a waterbody": there}
    return {label: {name: x[side] for name, x in arrays.items()} for label, side in sides.items()}


def log_test_scores(scores: Mapping[str, Mapping], path: Path, command: str) -> None:
    """Add a line each time test scores are computed: a test that is read often becomes a criterion of choice.

    `scores` are of each member, as `median_line` takes them.
    """
    medians = ", ".join(f"{m} {medians_of(s)['nse']['median']:.4f}" for m, s in scores.items())
    before = path.read_text() if path.exists() else ""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_text_atomic(path, f"{before}{now} median test NSE: {medians}; {command}\n")
