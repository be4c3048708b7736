"""Series: hydrographs and flow duration curves."""

from __future__ import annotations

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .style import BLUE, MUTED, ORANGE, SKY, STROKES, array, colour, ink, per, styled


@styled
def hydrograph(
    time: ArrayLike,
    obs: ArrayLike,
    sim: ArrayLike,
    *,
    precipitation: ArrayLike | None = None,
    title: str | None = None,
    score_text: str | None = None,
    spread: tuple[ArrayLike, ArrayLike] | None = None,
    unit: str = "mm d-1",
) -> Figure:
    """Observed and simulated flow of one basin, with precipitation above it if given.

    Parameters
    ----------
    time : array_like, [T]
        Dates (datetime64 or datetime), or numbers.
    obs, sim : array_like, [T]
        Flow; missing observations (NaN) leave a gap.
    precipitation : array_like, [T], optional
    title : str, optional
        Heading, such as the basin's name.
    score_text : str, optional
        Shown beside the heading.
    spread : (low, high), each array_like [T], optional
        Band labelled "spread of the starts". It shows how far the optimum is left open, and is no uncertainty.
    unit : str
        Of all series.

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
        for x in (array("obs", obs, 1, time.shape), array("sim", sim, 1, time.shape))
    )
    figure = Figure(figsize=(10.0, 5.0 if precipitation is not None else 4.2), layout="constrained")
    if precipitation is not None:
        precipitation = array("precipitation", precipitation, 1, time.shape)
        # A panel of its own: bars that hang into the flow hide its peaks.
        above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3.2))
        above.fill_between(time, 0, precipitation, step="mid", color=colour(SKY), lw=0)
        top = float(np.nanmax(precipitation, initial=0.0))
        above.set(ylim=(top * 1.05 if top > 0 else 1.0, 0), ylabel=f"rain + snow\n({per(unit)})")
        above.spines["bottom"].set_visible(False)
        above.spines["top"].set_visible(True)
        above.tick_params(bottom=False, labelbottom=False)
        head = above
    else:
        axes = head = figure.subplots()
    if spread is not None:
        low, high = (array(f"spread[{i}]", s, 1, time.shape) for i, s in enumerate(spread))
        axes.fill_between(time, low, high, color=colour(ORANGE), alpha=0.25, lw=0, label="spread of the starts")
    axes.plot(time, obs, color=ink(), lw=1.3, label="observed")
    axes.plot(time, sim, color=colour(ORANGE), lw=1.3, ls=STROKES[1], label="simulated")
    axes.set(xlim=(time[0], time[-1]) if time.size > 1 else None, ylabel=f"flow ({per(unit)})")
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
        head.set_title(score_text, loc="right", color=MUTED, fontsize=10.5)
    return figure


@styled
def flow_duration(sim: ArrayLike, obs: ArrayLike) -> Figure:
    """Flow-duration curves over many basins: the median basin and the middle half, simulated and observed.

    Each basin's flows are divided by its mean observed flow; steps without observation count in neither.

    Parameters
    ----------
    sim, obs : array_like, [T, B]
        In one unit; obs NaN where missing. A basin without flow observed, or whose simulation is not finite at a step
        with an observation, is left out and counted.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no basin is left.
    """
    sim = array("sim", sim, 2)
    obs = array("obs", obs, 2, sim.shape)
    share = np.linspace(0.002, 0.998, 250)
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    seen = np.isfinite(obs)
    whole = np.where(seen, np.isfinite(sim), True).all(0)
    basins = np.flatnonzero(whole & (np.where(seen, obs, 0).sum(0) > 0))
    if not len(basins):
        raise ValueError("no basin has observed flow and a finite simulation: there is nothing to draw.")
    for series, color, stroke, label in ((obs, ink(), "-", "observed"), (sim, colour(BLUE), STROKES[1], "simulated")):
        curves = np.array([np.quantile(series[seen[:, b], b] / obs[seen[:, b], b].mean(), 1 - share) for b in basins])
        low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
        axes.fill_between(100 * share, low, high, color=color, alpha=0.15, lw=0)
        axes.plot(100 * share, middle, color=color, ls=stroke, lw=2, label=label)
    axes.set(yscale="log", xlim=(0, 100), xlabel="share of time with more flow (%)", ylabel="flow over mean flow (–)")
    axes.set_ylim(bottom=1e-3)
    axes.grid(True)
    axes.legend()
    left = obs.shape[1] - len(basins)
    axes.set_title(f"Flow duration of {len(basins)} basins{f' ({left} left out)' * bool(left)}: median and middle half")
    return figure
