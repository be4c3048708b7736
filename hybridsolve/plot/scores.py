"""Scores: distribution over basins, spread over the starts of a calibration, one score against another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .style import BLUE, MUTED, ORANGE, STROKES, array, colour, percent, styled


@styled
def score_distribution(
    scores: Mapping[str, ArrayLike], metric: str = "NSE", reference: Mapping[str, ArrayLike] | None = None
) -> Figure:
    """Cumulative distributions of a score over basins, one curve per run, medians in the legend.

    A basin without score (NaN) counts as below every number, so every curve is over all basins asked for.

    Parameters
    ----------
    scores : dict of str to array_like, [B]
        Score of each basin (dimensionless), by the label of the run. Lengths may differ.
    metric : str
        Name of the score for the axis.
    reference : dict of str to array_like, [B], optional
        Published scores, drawn thin and grey under their labels as given: say in the label what differs (period,
        forcing).

    Returns
    -------
    matplotlib.figure.Figure
        The axis runs from -0.5 to 1; the legend gives the share below it and the basins without score.

    Raises
    ------
    ValueError
        If there is nothing to draw or an array is not one-dimensional.
    """
    if not scores:
        raise ValueError("scores must hold at least one run, found none: give {label: array of scores}.")
    low, high = -0.5, 1.0
    figure = Figure(figsize=(8.2, 5.0), layout="constrained")
    axes = figure.subplots()
    # References first, so that they lie below.
    runs = [(label, v, True) for label, v in (reference or {}).items()]
    runs += [(label, v, False) for label, v in scores.items()]
    handles = []
    for k, (label, values, dashed) in enumerate(runs):
        name = f"{'reference' if dashed else 'scores'}[{label!r}]"
        values = array(name, values, 1)
        missing = np.isnan(values)
        ranked = np.sort(np.where(missing, -np.inf, values))
        n = ranked.size
        median = float(np.median(ranked))
        # A step at each basin, from the share already below the axis up to 1 at its right end.
        shown = ranked[ranked >= low]
        below = n - shown.size
        x = np.concatenate([[low], shown, [max(high, shown[-1] if shown.size else high)]])
        y = np.concatenate([[below], np.arange(below + 1, n + 1), [n]]) / n
        text = f"{label}\nmedian {median:.3f}, n = {n}" if np.isfinite(median) else f"{label}\nno median, n = {n}"
        if below - missing.sum():
            text += f", {percent((below - missing.sum()) / n)} below −{-low:g}"
        if missing.any():
            text += f", {missing.sum()} without score"
        index = k - len(reference or {})
        color = ("#7f7f7f", "#404040", "#a8a8a8")[k % 3] if dashed else colour(index)
        # Colour and stroke tell runs apart, either alone; references are thin and grey.
        style = STROKES[(k + 1 if dashed else index) % len(STROKES)]
        (line,) = axes.step(
            x,
            y,
            where="post",
            color=color,
            ls=style,
            lw=1.5 if dashed else 2.2,
            zorder=2 if dashed else 3,
            label=text,
        )
        if median >= low:
            axes.plot([median], [0.5], "o", ms=5.5, color=color, mec="white", mew=1.0, zorder=4)
        handles.append((dashed, line))
    axes.axhline(0.5, color=MUTED, lw=0.8, ls=":", zorder=1)
    axes.set(xlim=(low, high), ylim=(0, 1), xlabel=f"{metric} (–)", ylabel="share of basins with a lower score (–)")
    axes.grid(True)
    ordered = [h for d, h in handles if not d] + [h for d, h in handles if d]
    axes.legend(handles=ordered, loc="best", fontsize=9.5, labelspacing=0.8, handlelength=2.4)
    axes.set_title(f"Distribution of {metric} over basins")
    return figure


@styled
def start_spread(scores: ArrayLike, best: ArrayLike, metric: str = "NSE") -> Figure:
    """How the scores of the starts of a calibration lie around the start kept, basin by basin.

    Parameters
    ----------
    scores : array_like, [B, S]
        Score of each start (dimensionless, higher is better); NaN where a start failed.
    best : array_like of int, [B]
        Index of the start that was kept for each basin.
    metric : str
        Name of the score.

    Returns
    -------
    matplotlib.figure.Figure
        Left, basins ordered by the score kept, with the range of all their starts and of the middle half.
        Right, the share of all starts by how far they fall short of the one kept; failed starts are counted,
        never within any.

    Raises
    ------
    TypeError, ValueError
        If `best` holds no indices or a shape is not as stated.
    """
    scores = array("scores", scores, 2)
    best = np.asarray(best)
    if best.dtype.kind not in "iu":
        raise TypeError(f"best must hold the index of the start kept, found dtype {best.dtype}: give integers [B].")
    basins, starts = scores.shape
    if best.shape != (basins,) or (best < 0).any() or (best >= starts).any():
        raise ValueError(f"best must be [B] = [{basins}] with values 0..{starts - 1}, found shape {best.shape}.")
    kept = scores[np.arange(basins), best]
    failed = ~np.isfinite(scores)
    order = np.argsort(np.where(np.isfinite(kept), kept, -np.inf), kind="stable")
    padded = np.where(failed, np.nan, scores)[order]
    has = np.isfinite(padded).any(axis=1)
    quantiles = np.full((4, basins), np.nan)
    quantiles[:, has] = np.nanquantile(padded[has], [0.0, 0.25, 0.75, 1.0], axis=1)

    figure = Figure(figsize=(10.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    x = np.arange(1, basins + 1)
    if basins > 60:
        draw = {"step": "mid", "lw": 0}
        left.fill_between(x, quantiles[0], quantiles[3], color=colour(BLUE), alpha=0.18, label="all starts", **draw)
        left.fill_between(x, quantiles[1], quantiles[2], color=colour(BLUE), alpha=0.40, label="middle half", **draw)
        left.plot(x, kept[order], color=colour(ORANGE), lw=1.8, label="start kept")
    else:
        left.vlines(x, quantiles[0], quantiles[3], color=colour(BLUE), alpha=0.35, lw=2, label="all starts")
        left.vlines(x, quantiles[1], quantiles[2], color=colour(BLUE), alpha=0.75, lw=5, label="middle half")
        left.plot(x, kept[order], "o", color=colour(ORANGE), mec="white", mew=0.8, ms=6, label="start kept")
    # A single failed basin must not compress the axis of all others; the share below the floor is written.
    floor = max(-0.5, np.floor(10 * np.nanquantile(padded, 0.01)) / 10) if has.any() else -0.5
    floor = min(floor, 0.9)
    below = int((padded < floor).sum())
    left.set(xlim=(0.5, basins + 0.5), ylim=(floor, 1.0), ylabel=f"{metric} (–)")
    left.set_xlabel("basins, ordered by the score of the start kept")
    left.grid(True, axis="y")
    left.legend(loc="lower right")
    left.set_title(f"{basins} basins, {starts} starts each")
    notes = []
    if below:
        notes.append(f"{percent(below / scores.size)} of starts below {floor:.1f}".replace("-", "−"))
    if failed.any():
        notes.append(f"{int(failed.sum())} of {failed.size} starts failed")
    if notes:
        left.set_title("; ".join(notes), loc="right", fontsize=9.5, color=MUTED)

    others = np.ones_like(scores, dtype=bool)
    others[np.arange(basins), best] = False
    short = np.sort(np.where(failed, np.inf, kept[:, None] - scores)[others])
    if short.size:
        # Logarithmic, from a thousandth to a tenth; what is closer is drawn at the left end.
        y = np.arange(1, short.size + 1) / short.size
        done = np.isfinite(short)
        x, y = np.append(np.clip(short[done], 1e-4, None), 5.0), np.append(y[done], done.mean())
        right.step(x, y, where="post", color=colour(BLUE), lw=2.2)
        for limit in (0.01, 0.1):
            share = float((short <= limit).mean())
            right.plot([limit], [share], "o", color=colour(BLUE), mec="white", mew=1.0, ms=6)
            right.annotate(
                f"{percent(share)} within {limit:g}", (limit, share), xytext=(6, -5), textcoords="offset "
                "points",
                va="top", fontsize=9.5,
            )  # fmt: skip
    else:
        right.text(0.5, 0.5, "one start only", ha="center", color=MUTED, transform=right.transAxes)
    right.set(xscale="log", xlim=(1e-4, 5.0), ylim=(0, 1.02), xlabel=f"shortfall in {metric} to the start kept (–)")
    right.set_ylabel("share of the other starts (–)")
    right.grid(True)
    right.set_title("How close the others came")
    return figure


@styled
def against(x: ArrayLike, y: ArrayLike, name: str) -> Figure:
    """One point a basin: a published value against ours, with the line of equality.

    Parameters
    ----------
    x, y : array_like, [B]
        Published and simulated, dimensionless; basins where either is NaN are left out and counted.
    name : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no basin has both.
    """
    x = array("x", x, 1)
    y = array("y", y, 1, x.shape)
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        raise ValueError(f"no basin has both a published and a simulated {name}: there is nothing to draw.")
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x[good], y[good], s=14, color=colour(BLUE), alpha=0.6, lw=0)
    high = 1.05 * max(1e-6, *np.quantile(np.concatenate([x[good], y[good]]), [0.995]))
    axes.plot([0, high], [0, high], color=MUTED, lw=1, ls=":")
    axes.set(xlim=(0, high), ylim=(0, high), xlabel=f"{name}, CAMELS (–)", ylabel=f"{name}, simulated (–)")
    axes.grid(True)
    r = np.corrcoef(x[good], y[good])[0, 1] if min(np.ptp(x[good]), np.ptp(y[good])) > 0 else np.nan
    left = f", {(~good).sum()} without value" if (~good).any() else ""
    axes.set_title(f"{name}: r = {r:.2f}, {good.sum()} basins{left}")
    return figure
