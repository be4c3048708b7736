"""Figures of scores, flows, rivers and parameters.

Every function returns a `matplotlib.figure.Figure` and touches no pyplot state: no window, no global style,
safe in threads and without a display. `save` writes one atomically. Colours are those of Okabe and Ito, told
apart with any colour vision."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from .data.files import write_atomic
from .data.values import unmasked

_INK, _MUTED, _GRID = "#222222", "#6b6b6b", "#e4e4e4"
_BLUE, _ORANGE, _SKY = "#0072B2", "#D55E00", "#56B4E9"
_CYCLE = (_BLUE, _ORANGE, "#009E73", "#CC79A7", "#E69F00", _SKY)
_STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "savefig.facecolor": "white",
}


def _styled(function):
    """Run a function with the house style; matplotlib reads most of it when an artist is made."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with matplotlib.rc_context(_STYLE):
            return function(*args, **kwargs)

    return wrapped


def _array(name, values, ndim, shape=None):
    """Numbers of a shape, NaN where they are masked."""
    values = unmasked(values).astype(np.float64)
    if values.ndim != ndim or values.size == 0 or (shape is not None and values.shape != shape):
        want = f"shape {shape}" if shape is not None else f"{ndim} dimension(s), not empty"
        raise ValueError(f"{name} must have {want}, found shape {values.shape}: one value per item of the figure.")
    return values


def _percent(share):
    """A share in words that never rounds a few to none or most to all."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


@_styled
def score_distribution(scores, metric="NSE", reference=None):
    """Cumulative distributions of a score over basins, one curve per run, medians in the legend.

    A basin without score (NaN) counts as below every number, so every curve is over all basins asked for.

    Parameters
    ----------
    scores : dict of str to array_like, [B]
        Score of each basin (dimensionless), by the label of the run. Lengths may differ.
    metric : str
        Name of the score for the axis.
    reference : dict of str to array_like, [B], optional
        Published scores, drawn dashed under their labels as given: say in the label what differs (period,
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
        values = _array(name, values, 1)
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
            text += f", {_percent((below - missing.sum()) / n)} below −{-low:g}"
        if missing.any():
            text += f", {missing.sum()} without score"
        index = k - len(reference or {})
        color = ("#7f7f7f", "#404040", "#a8a8a8")[k % 3] if dashed else _CYCLE[index % len(_CYCLE)]
        style = (0, (5, 2.2)) if dashed else "-"
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
    axes.axhline(0.5, color=_MUTED, lw=0.8, ls=":", zorder=1)
    axes.set(xlim=(low, high), ylim=(0, 1), xlabel=f"{metric} (–)", ylabel="share of basins with a lower score (–)")
    axes.grid(True)
    ordered = [h for d, h in handles if not d] + [h for d, h in handles if d]
    axes.legend(handles=ordered, loc="best", fontsize=9.5, labelspacing=0.8, handlelength=2.4)
    axes.set_title(f"Distribution of {metric} over basins")
    return figure


def _map(lat, lon):
    """An empty figure and its axes of longitude and latitude, with all these points on it."""
    # A degree of longitude is shorter by the cosine of the latitude: shapes look as on a map.
    stretch = 1.0 / max(0.2, np.cos(np.deg2rad(0.5 * (lat.min() + lat.max()))))
    pad = 0.04 * max(np.ptp(lon), np.ptp(lat) * stretch, 1.0)
    tall = (np.ptp(lat) * stretch + 2 * pad) / (np.ptp(lon) + 2 * pad)
    figure = Figure(figsize=(8.8, float(np.clip(6.9 * tall + 1.1, 3.4, 9.0))), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect(stretch)
    axes.set(
        xlim=(lon.min() - pad, lon.max() + pad),
        ylim=(lat.min() - pad / stretch, lat.max() + pad / stretch),
        xlabel="longitude (degrees east)",
        ylabel="latitude (degrees north)",
    )
    axes.grid(True)
    return figure, axes


def _colour_bar(figure, axes, artist, extend, label):
    bar = figure.colorbar(artist, ax=axes, extend=extend, shrink=0.86, pad=0.015, aspect=28)
    bar.set_label(label)
    bar.outline.set_visible(False)


@_styled
def score_map(lat, lon, values, metric="NSE", unit="–", unscored=None):
    """Scores, or parameters, as points on a plain map of longitude and latitude.

    Parameters
    ----------
    lat, lon : array_like, [B]
        Degrees north and east. A basin without them (NaN) is left out and counted.
    values : array_like, [B]
        Score (dimensionless). A basin without score (NaN) is drawn as a cross and counted.
    metric : str
        Name of the score; for NSE and KGE and their variants the colours span 0 to 1, else the central 90 %.
    unit : str
    unscored : array_like of bool, [B], optional
        Basins that have nothing to be scored by: they are left out, and out of the median, and counted.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the arrays are not one-dimensional or differ in length, or no basin has coordinates.
    """
    lat = _array("lat", lat, 1)
    lon, values = _array("lon", lon, 1, lat.shape), _array("values", values, 1, lat.shape)
    placed = np.isfinite(lat) & np.isfinite(lon)
    if not placed.any():
        raise ValueError("lat and lon must be finite in one basin at least, found none: add the coordinates.")
    shown = np.ones_like(placed) if unscored is None else ~np.asarray(unscored, dtype=bool)
    notes = [(~shown).sum() and f"{(~shown).sum()} not scored", (~placed).sum() and f"{(~placed).sum()} not placed"]
    if not (placed & shown).any():
        raise ValueError("no basin that has coordinates has a score: there is nothing to draw.")
    median = np.median(np.where(np.isnan(values), -np.inf, values)[shown])
    lat, lon, values = lat[placed & shown], lon[placed & shown], values[placed & shown]
    good = np.isfinite(values)
    lo, hi = 0.0, 1.0
    if not metric.upper().startswith(("NSE", "KGE")) and good.any():
        lo, hi = np.quantile(values[good], [0.05, 0.95])
        hi = hi if hi > lo else lo + 1.0
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        int((values[good] < lo).any()), int((values[good] > hi).any())
    ]
    figure, axes = _map(lat, lon)
    # The worst last, or a dense region hides the failures in it.
    order = np.flatnonzero(good)[np.argsort(-values[good], kind="stable")]
    size = float(np.clip(9000.0 / max(len(lat), 1), 14.0, 60.0))
    points = axes.scatter(
        lon[order], lat[order], c=values[order], s=size, cmap="viridis", vmin=lo, vmax=hi, lw=0.3, ec="white"
    )
    if (~good).any():
        axes.scatter(lon[~good], lat[~good], marker="x", s=size, c=_ORANGE, lw=1.4)
        notes.insert(0, f"× {(~good).sum()} without score")
    # Outside the map: a legend inside would lie on basins somewhere.
    axes.set_title(", ".join(filter(None, notes)), loc="right", color=_ORANGE, fontsize=10.5)
    _colour_bar(figure, axes, points, extend, f"{metric} ({unit})")
    middle = f"median {median:.3f}" if np.isfinite(median) else "no median"
    axes.set_title(f"{metric} of {shown.sum()} basins, {middle}")
    return figure


@_styled
def network_map(network, values, name="discharge", unit="m³/s", gauges=None):
    """A value along a river network: a line from each reach to the one it flows to, wider and darker with the value.

    Parameters
    ----------
    network : RiverNetwork
        With the attributes lon and lat (degrees); 100,000 reaches take some seconds to save.
    values : array_like, [N]
        Of the reaches in the network's order, such as a row of `Routed.discharge`. The colours are logarithmic over
        the four decades below the largest; what is 0 or less or missing (NaN) is drawn grey and counted.
    name, unit : str
        Of the value.
    gauges : sequence of int, optional
        Ids of reaches to mark.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the network has no lon or lat, one is not finite, values are not ``[N]``, or a gauge is not in the network.
    """
    for attribute in ("lon", "lat"):
        bad = ~np.isfinite(network.attribute(attribute))
        if bad.any():
            raise ValueError(
                f"{attribute} must be finite; found {network.attributes[attribute][bad][0]:g} at reach "
                f"{network.ids[bad][0]}: fill it."
            )
    lon, lat = network.attributes["lon"], network.attributes["lat"]
    values = _array("values", values, 1, lat.shape)
    good = np.isfinite(values) & (values > 0)
    high = values[good].max() if good.any() else 1.0
    low = min(max(values[good].min(initial=high), high / 1e4), high / 10)
    figure, axes = _map(lat, lon)
    ends = np.stack([lon, lat], axis=1)

    def lines(rows, **style):
        return axes.add_collection(LineCollection(np.stack([ends[rows], ends[network.downstream[rows]]], 1), **style))

    flows = network.downstream >= 0  # an outlet flows to no point that could be drawn
    lines(np.flatnonzero(flows & ~good), colors="#c4c4c4", lw=0.4)
    # The largest last: small tributaries must not lie on the river.
    order = np.flatnonzero(flows & good)
    order = order[np.argsort(values[order], kind="stable")]
    share = np.log(values[order].clip(low) / low) / np.log(high / low)
    drawn = lines(
        order, array=values[order], norm=LogNorm(low, high), cmap="viridis_r", lw=0.4 + 3.2 * share**2,
        capstyle="round",
    )  # fmt: skip
    if gauges is not None:
        at = network.index(np.atleast_1d(gauges))
        axes.plot(lon[at], lat[at], "v", ms=7, color=_ORANGE, mec="white", mew=0.8, label="gauge", zorder=4)
        axes.legend(loc="best")
    _colour_bar(figure, axes, drawn, "min" if (values[good] < low).any() else "neither", f"{name} ({unit})")
    if (~good).any():
        axes.set_title(f"grey: {(~good).sum()} without {name}", loc="right", color=_MUTED, fontsize=10.5)
    axes.set_title(f"{name.capitalize()} of {network.n_reaches} reaches")
    return figure


@_styled
def hydrograph(time, obs, sim, *, prcp=None, title=None, score_text=None, spread=None):
    """Observed and simulated flow of one basin, with rain from above if given.

    Parameters
    ----------
    time : array_like, [T]
        Dates (datetime64 or datetime), or numbers.
    obs, sim : array_like, [T]
        Flow, mm/d; missing observations (NaN) leave a gap.
    prcp : array_like, [T], optional
        Precipitation, mm/d.
    title : str, optional
        Heading, such as the basin's name.
    score_text : str, optional
        Shown beside the heading.
    spread : (low, high), each array_like [T], optional
        Band labelled "spread of the starts", mm/d. It shows what the optimiser left open, not an uncertainty.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the series differ in length, or a date is missing.
    """
    time = np.asarray(time)
    if time.dtype.kind == "M" and np.isnat(time).any():
        raise ValueError(f"time must hold a date at every step, found none at step {np.isnat(time).argmax()}: drop it.")
    if time.ndim != 1 or time.size == 0:
        raise ValueError(f"time must be [T] with T >= 1, found shape {time.shape}: one date per step.")
    obs, sim = (
        np.where(np.isfinite(x), x, np.nan)
        for x in (_array("obs", obs, 1, time.shape), _array("sim", sim, 1, time.shape))
    )
    figure = Figure(figsize=(10.0, 5.0 if prcp is not None else 4.2), layout="constrained")
    if prcp is not None:
        prcp = _array("prcp", prcp, 1, time.shape)
        # An own panel: bars hanging into the flow hide its peaks, which is what the figure is looked at for.
        rain, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3.2))
        rain.fill_between(time, 0, prcp, step="mid", color=_SKY, lw=0)
        top = float(np.nanmax(prcp, initial=0.0))
        rain.set(ylim=(top * 1.05 if top > 0 else 1.0, 0), ylabel="rain + snow\n(mm/d)")
        rain.spines["bottom"].set_visible(False)
        rain.spines["top"].set_visible(True)
        rain.tick_params(bottom=False, labelbottom=False)
        head = rain
    else:
        axes = head = figure.subplots()
    if spread is not None:
        low, high = (_array(f"spread[{i}]", s, 1, time.shape) for i, s in enumerate(spread))
        axes.fill_between(time, low, high, color=_ORANGE, alpha=0.25, lw=0, label="spread of the starts")
    axes.plot(time, obs, color=_INK, lw=1.3, label="observed")
    axes.plot(time, sim, color=_ORANGE, lw=1.3, label="simulated")
    axes.set(xlim=(time[0], time[-1]) if time.size > 1 else None, ylabel="flow (mm/d)")
    bottom = min(0.0, np.nanmin(obs, initial=0.0), np.nanmin(sim, initial=0.0))
    # Room above the highest peak, where the legend stands.
    axes.set_ylim(bottom, bottom + 1.1 * (axes.get_ylim()[1] - bottom))
    axes.grid(True, axis="y")
    if np.issubdtype(time.dtype, np.datetime64) or time.dtype == object:
        locator = AutoDateLocator(minticks=4, maxticks=10)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        axes.set_xlabel("time (steps)")
    axes.legend(loc="upper right", ncols=3, handlelength=1.6)
    if title:
        head.set_title(title)
    if score_text:
        head.set_title(score_text, loc="right", color=_MUTED, fontsize=10.5)
    return figure


@_styled
def start_spread(scores, best, metric="NSE"):
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
    scores = _array("scores", scores, 2)
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
        left.fill_between(x, quantiles[0], quantiles[3], color=_BLUE, alpha=0.18, label="all starts", **draw)
        left.fill_between(x, quantiles[1], quantiles[2], color=_BLUE, alpha=0.40, label="middle half", **draw)
        left.plot(x, kept[order], color=_ORANGE, lw=1.8, label="start kept")
    else:
        left.vlines(x, quantiles[0], quantiles[3], color=_BLUE, alpha=0.35, lw=2, label="all starts")
        left.vlines(x, quantiles[1], quantiles[2], color=_BLUE, alpha=0.75, lw=5, label="middle half")
        left.plot(x, kept[order], "o", color=_ORANGE, mec="white", mew=0.8, ms=6, label="start kept")
    # A single failed basin must not squeeze all others into a strip; what lies below is stated.
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
        notes.append(f"{_percent(below / scores.size)} of starts below {floor:.1f}".replace("-", "−"))
    if failed.any():
        notes.append(f"{int(failed.sum())} of {failed.size} starts failed")
    if notes:
        left.set_title("; ".join(notes), loc="right", fontsize=9.5, color=_MUTED)

    others = np.ones_like(scores, dtype=bool)
    others[np.arange(basins), best] = False
    short = np.sort(np.where(failed, np.inf, kept[:, None] - scores)[others])
    if short.size:
        # Logarithmic, since a thousandth and a tenth are both of interest; what is closer stands at the left
        # end.
        y = np.arange(1, short.size + 1) / short.size
        done = np.isfinite(short)
        x, y = np.append(np.clip(short[done], 1e-4, None), 5.0), np.append(y[done], done.mean())
        right.step(x, y, where="post", color=_BLUE, lw=2.2)
        for limit in (0.01, 0.1):
            share = float((short <= limit).mean())
            right.plot([limit], [share], "o", color=_BLUE, mec="white", mew=1.0, ms=6)
            right.annotate(
                f"{_percent(share)} within {limit:g}", (limit, share), xytext=(6, -5), textcoords="offset "
                "points",
                va="top", fontsize=9.5,
            )  # fmt: skip
    else:
        right.text(0.5, 0.5, "one start only", ha="center", color=_MUTED, transform=right.transAxes)
    right.set(xscale="log", xlim=(1e-4, 5.0), ylim=(0, 1.02), xlabel=f"shortfall in {metric} to the start kept (–)")
    right.set_ylabel("share of the other starts (–)")
    right.grid(True)
    right.set_title("How close the others came")
    return figure


@_styled
def parameter_bounds(values, lower, upper, names, at_bound, flag=0.1):
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
    values = _array("values", values, 2)
    count = values.shape[1]
    lower, upper = _array("lower", lower, 1, (count,)), _array("upper", upper, 1, (count,))
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
    figure = Figure(figsize=(8.6, 1.5 + 0.36 * count), layout="constrained")
    axes = figure.subplots()
    for p in range(count):
        u = unit[:, p][np.isfinite(unit[:, p])]
        share = float(at_bound[:, p].mean())
        color = _ORANGE if share >= flag else _BLUE
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
            1.045, p, _percent(share), color=color if share >= flag else _INK, weight=weight, va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        axes.text(
            1.17, p, f"{lower[p]:g} to {upper[p]:g}", color=_MUTED, va="center", fontsize=9,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    head = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": 9, "color": _MUTED}
    axes.text(1.045, -0.75, "at bound", **head)
    axes.text(1.17, -0.75, "bounds", **head)
    axes.set_yticks(range(count), list(names))
    axes.set(xlim=(0, 1), ylim=(count - 0.4, -0.7), xlabel="position between the bounds (–)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=12)
    axes.grid(True, axis="x")
    axes.set_title(f"Parameters of {values.shape[0]} basins: median, middle half, central 90 %", pad=22)
    return figure


@_styled
def standard_errors(errors, names):
    """Linearised standard errors of parameters over basins: how well the data tell each of them.

    Parameters
    ----------
    errors : array_like, [B, P]
        Over the parameter's range; NaN at a bound, infinite where the data say nothing.
    names : sequence of str, [P]

    Returns
    -------
    matplotlib.figure.Figure
        Median, middle half and central 90 % of the basins with an error; the shares of those without are written.
    """
    errors = _array("errors", errors, 2)
    figure = Figure(figsize=(8.0, 0.34 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    for i in range(len(names)):
        x = errors[:, i]
        good = x[np.isfinite(x) & (x > 0)]
        if good.size:
            outer, low, middle, high, last = np.quantile(good, (0.05, 0.25, 0.5, 0.75, 0.95))
            axes.plot([outer, last], [i, i], color=_SKY, lw=1.5)
            axes.plot([low, high], [i, i], color=_BLUE, lw=5, solid_capstyle="butt")
            axes.plot(middle, i, "o", color="white", mec=_BLUE, ms=5)
        text = f"{_percent(np.isnan(x).mean())} at a bound, {_percent(np.isinf(x).mean())} not told"
        axes.annotate(text, (1.0, i), xycoords=("axes fraction", "data"), va="center", color=_MUTED, fontsize=9)
    axes.axvline(1.0, color=_MUTED, lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), list(names))
    axes.set(xscale="log", ylim=(len(names) - 0.4, -0.6), xlabel="standard error over the range (–), linearised")
    axes.grid(True, axis="x")
    axes.set_title(f"How well flow tells the parameters of {len(errors)} basins")
    return figure


@_styled
def sensitivity_by_month(values, names):
    """When flow answers to which parameter: medians over basins, each parameter over its strongest month.

    Parameters
    ----------
    values : array_like, [P, 12, B]
        Mean sensitivities of a month, any unit.
    names : sequence of str, [P]

    Returns
    -------
    matplotlib.figure.Figure
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # stays NaN, and is drawn empty
        middle = np.nanmedian(_array("values", values, 3), axis=2)
    strongest = middle.max(1, keepdims=True)
    figure = Figure(figsize=(7.4, 0.32 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    share = np.divide(middle, strongest, out=np.zeros_like(middle), where=strongest > 0)
    image = axes.imshow(share, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axes.set_yticks(range(len(names)), [f"{n} ({s:.2g})" for n, s in zip(names, strongest[:, 0], strict=True)])
    axes.set_xticks(range(12), list("JFMAMJJASOND"))
    _colour_bar(figure, axes, image, "neither", "share of the strongest month (–)")
    axes.set_title(f"Sensitivity of flow over the year, {np.shape(values)[2]} basins (strongest month, mm/d)")
    return figure


@_styled
def flow_duration(sim, obs):
    """Flow-duration curves over many basins: the median basin and the middle half, simulated and observed.

    Each basin's flows are divided by its mean observed flow; days without observation count in neither.

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        mm/d, obs NaN where missing. A basin without flow observed, or whose simulation is not finite on a day with an
        observation, is left out and counted.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no basin is left.
    """
    sim = _array("sim", sim, 2)
    obs = _array("obs", obs, 2, sim.shape)
    share = np.linspace(0.002, 0.998, 250)
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    seen = np.isfinite(obs)
    whole = np.where(seen, np.isfinite(sim), True).all(0)
    basins = np.flatnonzero(whole & (np.where(seen, obs, 0).sum(0) > 0))
    if not len(basins):
        raise ValueError("no basin has observed flow and a finite simulation: there is nothing to draw.")
    for series, color, label in ((obs, _INK, "observed"), (sim, _BLUE, "simulated")):
        curves = np.array([np.quantile(series[seen[:, b], b] / obs[seen[:, b], b].mean(), 1 - share) for b in basins])
        low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
        axes.fill_between(100 * share, low, high, color=color, alpha=0.15, lw=0)
        axes.plot(100 * share, middle, color=color, lw=2, label=label)
    axes.set(yscale="log", xlim=(0, 100), xlabel="share of days with more flow (%)", ylabel="flow over mean flow (–)")
    axes.set_ylim(bottom=1e-3)
    axes.grid(True)
    axes.legend()
    left = obs.shape[1] - len(basins)
    axes.set_title(f"Flow duration of {len(basins)} basins{f' ({left} left out)' * bool(left)}: median and middle half")
    return figure


@_styled
def against(x, y, name):
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
    x = _array("x", x, 1)
    y = _array("y", y, 1, x.shape)
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        raise ValueError(f"no basin has both a published and a simulated {name}: there is nothing to draw.")
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x[good], y[good], s=14, color=_BLUE, alpha=0.6, lw=0)
    high = 1.05 * max(1e-6, *np.quantile(np.concatenate([x[good], y[good]]), [0.995]))
    axes.plot([0, high], [0, high], color=_MUTED, lw=1, ls=":")
    axes.set(xlim=(0, high), ylim=(0, high), xlabel=f"{name}, CAMELS (–)", ylabel=f"{name}, simulated (–)")
    axes.grid(True)
    r = np.corrcoef(x[good], y[good])[0, 1] if min(np.ptp(x[good]), np.ptp(y[good])) > 0 else np.nan
    left = f", {(~good).sum()} without value" if (~good).any() else ""
    axes.set_title(f"{name}: r = {r:.2f}, {good.sum()} basins{left}")
    return figure


def save(fig, path):
    """Write a figure as PNG at 150 dpi, whole or not at all.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    path : str or os.PathLike
        Ends in ``.png``; its folder must exist.

    Returns
    -------
    pathlib.Path
        The path written.

    Raises
    ------
    ValueError
        If the path does not end in ``.png``.
    OSError
        As `hybridsolve.data.files.write_atomic`.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, found {path.name!r}: figures are written as PNG.")
    image = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        fig.savefig(image, format="png", dpi=150)
    return write_atomic(path, lambda temporary: temporary.write_bytes(image.getvalue()))
