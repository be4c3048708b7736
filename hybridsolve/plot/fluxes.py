"""Fluxes that networks give, against what the networks see."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .style import BLUE, ORANGE, STROKES, array, colour, per, styled

COLUMNS, BINS = 4, 20


@styled
def learned_flux(
    inputs: Mapping[str, ArrayLike],
    learned: ArrayLike,
    formula: ArrayLike | None,
    name: str,
    meaning: str,
    unit: str = "1",
) -> Figure:
    """A flux against each input of the network that gives it, beside that of the formula that the network replaced.

    Parameters
    ----------
    inputs : mapping of str to array_like, [N]
        By label.
    learned, formula : array_like, [N]
        The flux in the same cells and steps; those in which both are 0, or one is NaN, are left out.
    name, meaning, unit : str
        Of the flux.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each input: median and central 80 % of the flux over its values, which are cut into bins of equal
        number.

    Raises
    ------
    ValueError
        If there is no input, or the flux is 0 everywhere.
    """
    curves = {"network": array("learned", learned, 1)}
    n = curves["network"].shape
    if formula is not None:
        curves["formula"] = array("formula", formula, 1, n)
    some = np.any([x != 0 for x in curves.values()], 0) & np.all([np.isfinite(x) for x in curves.values()], 0)
    if not inputs or not some.any():
        raise ValueError(f"{name} must have inputs and be above 0 somewhere: there is nothing to draw.")
    rows = -(-len(inputs) // COLUMNS)
    figure = Figure(figsize=(2.9 * min(len(inputs), COLUMNS) + 0.6, 2.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, min(len(inputs), COLUMNS), sharey=True, squeeze=False)
    for axes, (label, values) in zip(panels.flat, inputs.items(), strict=False):
        x = array(label, values, 1, n)[some]
        order = [part for part in np.array_split(np.argsort(x, kind="stable"), BINS) if len(part)]
        middle = [np.median(x[part]) for part in order]
        for k, (which, y) in enumerate(curves.items()):
            color = colour((BLUE, ORANGE)[k])
            low, median, high = np.transpose([np.quantile(y[some][part], (0.1, 0.5, 0.9)) for part in order])
            axes.fill_between(middle, low, high, color=color, alpha=0.2, lw=0)
            axes.plot(middle, median, color=color, lw=1.8, ls=STROKES[k], label=which)
        axes.set_xlabel(label)
        axes.grid(True)
    for axes in panels.flat[len(inputs) :]:
        axes.set_visible(False)
    figure.supylabel(f"{name} ({'–' if unit == '1' else per(unit)})", fontsize="medium")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.suptitle(f"{meaning}: median and central 80 % of {some.sum()} steps", x=0.01, ha="left", fontsize=12)
    return figure
