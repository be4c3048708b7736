"""Parameters: where they lie in their bounds, how well the data identify them, when they matter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .style import BLUE, MUTED, ORANGE, SKY, array, colour, colour_bar, ink, per, percent, styled


@styled
def parameter_bounds(
    values: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    names: Sequence[str],
    at_bound: ArrayLike,
    flag: float = 0.1,
    log: ArrayLike | None = None,
) -> Figure:
    """Distribution of each parameter over basins within its bounds, with the share of basins at a bound.

    Parameters
    ----------
    values : array_like, [B, P]
        Parameters in their own units.
    lower, upper : array_like, [P]
        Bounds in the same units.
    names : sequence of str, [P]
        Names, with unit if wanted.
    at_bound : array_like of bool, [B, P]
        Whether a parameter is at a bound, as the calibration judged it.
    flag : float
        Share of basins at a bound from which a parameter is drawn in the warning colour.
    log : array_like of bool, [P], optional
        Parameters whose range is divided on a logarithmic scale; their bounds are above 0.

    Returns
    -------
    matplotlib.figure.Figure
        For each parameter, in the unit range between its bounds: median, middle half and central 90 % over
        basins; the squares at the ends have an area in proportion to the share at that bound.

    Raises
    ------
    ValueError
        If a shape is not as stated or an upper bound is not above its lower one.
    """
    values = array("values", values, 2)
    count = values.shape[1]
    lower, upper = array("lower", lower, 1, (count,)), array("upper", upper, 1, (count,))
    at_bound = np.asarray(at_bound, dtype=bool)
    if at_bound.shape != values.shape or len(names) != count:
        raise ValueError(
            f"at_bound must be {values.shape} and names hold {count}, found {at_bound.shape} and "
            f"{len(names)}: one flag per value and one name per parameter."
        )
    if not (upper > lower).all():
        bad = names[int(np.flatnonzero(~(upper > lower))[0])]
        raise ValueError(f"upper must be above lower, which does not hold for {bad}: leave fixed parameters out.")
    unit = (values - lower) / (upper - lower)
    for p in np.flatnonzero(np.zeros(count, dtype=bool) if log is None else log):
        unit[:, p] = np.log(values[:, p] / lower[p]) / np.log(upper[p] / lower[p])
    figure = Figure(figsize=(8.6, 1.5 + 0.36 * count), layout="constrained")
    axes = figure.subplots()
    for p in range(count):
        u = unit[:, p][np.isfinite(unit[:, p])]
        share = float(at_bound[:, p].mean())
        color = colour(ORANGE) if share >= flag else colour(BLUE)
        if u.size:
            q = np.quantile(u, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot(q[[0, 4]], [p, p], color=color, lw=1.4, alpha=0.7, solid_capstyle="round")
            axes.plot(q[[1, 3]], [p, p], color=color, lw=7, alpha=0.45, solid_capstyle="butt")
            axes.plot(q[2], p, "o", color=color, mec="white", mew=1.0, ms=7, zorder=4)
        for end, side in ((0.0, unit[:, p] < 0.5), (1.0, unit[:, p] >= 0.5)):
            part = float((at_bound[:, p] & side).mean())
            if part > 0:
                axes.scatter([end], [p], marker="s", s=260 * part, c=color, lw=0, zorder=3, clip_on=False)
        weight = "bold" if share >= flag else "normal"
        axes.text(
            1.045, p, percent(share), color=color if share >= flag else ink(), weight=weight, va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        axes.text(
            1.17, p, f"{lower[p]:g} to {upper[p]:g}", color=MUTED, va="center", fontsize=9,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    head: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": 9, "color": MUTED}
    axes.text(1.045, -0.75, "at bound", **head)
    axes.text(1.17, -0.75, "bounds", **head)
    axes.set_yticks(range(count), list(names))
    axes.set(xlim=(0, 1), ylim=(count - 0.4, -0.7), xlabel="position between the bounds (–)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=12)
    axes.grid(True, axis="x")
    axes.set_title(f"Parameters of {values.shape[0]} basins: median, middle half, central 90 %", pad=22)
    return figure


@styled
def standard_errors(errors: ArrayLike, names: Sequence[str]) -> Figure:
    """Linearised standard errors of parameters over basins: how well the data identify each of them.

    Parameters
    ----------
    errors : array_like, [B, P]
        Over the parameter's range; NaN at a bound, infinite where the data do not identify it.
    names : sequence of str, [P]

    Returns
    -------
    matplotlib.figure.Figure
        Median, middle half and central 90 % of the basins with an error, and the shares of those without.
    """
    errors = array("errors", errors, 2)
    figure = Figure(figsize=(8.0, 0.34 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    for i in range(len(names)):
        x = errors[:, i]
        good = x[np.isfinite(x) & (x > 0)]
        if good.size:
            outer, low, middle, high, last = np.quantile(good, (0.05, 0.25, 0.5, 0.75, 0.95))
            axes.plot([outer, last], [i, i], color=colour(SKY), lw=1.5)
            axes.plot([low, high], [i, i], color=colour(BLUE), lw=5, solid_capstyle="butt")
            axes.plot(middle, i, "o", color="white", mec=colour(BLUE), ms=5)
        text = f"{percent(np.isnan(x).mean())} at a bound, {percent(np.isinf(x).mean())} not identified"
        axes.annotate(text, (1.0, i), xycoords=("axes fraction", "data"), va="center", color=MUTED, fontsize=9)
    axes.axvline(1.0, color=MUTED, lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), list(names))
    axes.set(xscale="log", ylim=(len(names) - 0.4, -0.6), xlabel="standard error over the range (–), linearised")
    axes.grid(True, axis="x")
    axes.set_title(f"How well flow identifies the parameters of {len(errors)} basins")
    return figure


@styled
def sensitivity_by_month(values: ArrayLike, names: Sequence[str], unit: str = "mm d-1") -> Figure:
    """When flow answers to which parameter: medians over basins, each parameter over its strongest month.

    Parameters
    ----------
    values : array_like, [P, 12, B]
        Mean sensitivities of a month.
    names : sequence of str, [P]
    unit : str
        Of the values.

    Returns
    -------
    matplotlib.figure.Figure
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # the median is NaN, and its cell is empty
        middle = np.nanmedian(array("values", values, 3), axis=2)
    strongest = middle.max(1, keepdims=True)
    figure = Figure(figsize=(7.4, 0.32 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    share = np.divide(middle, strongest, out=np.zeros_like(middle), where=strongest > 0)
    image = axes.imshow(share, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axes.set_yticks(range(len(names)), [f"{n} ({s:.2g})" for n, s in zip(names, strongest[:, 0], strict=True)])
    axes.set_xticks(range(12), list("JFMAMJJASOND"))
    colour_bar(figure, axes, image, "neither", "share of the strongest month (–)")
    axes.set_title(f"Sensitivity of flow over the year, {np.shape(values)[2]} basins (strongest month, {per(unit)})")
    return figure
