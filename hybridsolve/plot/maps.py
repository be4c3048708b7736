"""Maps: values of basins, values along a river network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from . import world
from .style import CYCLE, MUTED, ORANGE, array, colour, colour_bar, styled

if TYPE_CHECKING:
    from ..routing.network import RiverNetwork

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")


BACKGROUND = {  # kind of line: colour, width
    "river": ("#9db8c9", 0.5),
    "lake": ("#7d99aa", 0.6),
    "coast": ("#8a8a8a", 0.7),
}


def _map(lat: np.ndarray, lon: np.ndarray, rivers: bool = True) -> tuple[Figure, Axes]:
    """A figure and its axes of longitude and latitude, with room for all these points over coasts, lakes and rivers."""
    # A degree of longitude is shorter by the cosine of the latitude: the axes keep the shapes.
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
    for kind, (color, width) in BACKGROUND.items():
        if rivers or kind != "river":
            behind = LineCollection(
                world.within(kind, *axes.get_xlim(), *axes.get_ylim()), colors=color, lw=width, zorder=0.6
            )
            axes.add_collection(behind, autolim=False)
    axes.grid(True)
    return figure, axes


@styled
def score_map(
    lat: ArrayLike,
    lon: ArrayLike,
    values: ArrayLike,
    metric: str = "NSE",
    unit: str = "–",
    unscored: ArrayLike | None = None,
) -> Figure:
    """Scores, or parameters, as points on a map with coasts and rivers.

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
    lat = array("lat", lat, 1)
    lon, values = array("lon", lon, 1, lat.shape), array("values", values, 1, lat.shape)
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
    # The worst are drawn last, so that a dense region does not hide them.
    order = np.flatnonzero(good)[np.argsort(-values[good], kind="stable")]
    size = float(np.clip(9000.0 / max(len(lat), 1), 14.0, 60.0))
    points = axes.scatter(
        lon[order], lat[order], c=values[order], s=size, cmap="viridis", vmin=lo, vmax=hi, lw=0.3, ec="white"
    )
    if (~good).any():
        axes.scatter(lon[~good], lat[~good], marker="x", s=size, c=colour(ORANGE), lw=1.4)
        notes.insert(0, f"× {(~good).sum()} without score")
    # Outside the map, where a legend covers no basin.
    axes.set_title(", ".join(filter(None, notes)), loc="right", color=colour(ORANGE), fontsize=10.5)
    colour_bar(figure, axes, points, extend, f"{metric} ({unit})")
    middle = f"median {median:.3f}" if np.isfinite(median) else "no median"
    axes.set_title(f"{metric} of {shown.sum()} basins, {middle}")
    return figure


@styled
def winner_map(lat: ArrayLike, lon: ArrayLike, winners: Sequence[str] | np.ndarray, names: Sequence[str]) -> Figure:
    """Which model wins in each basin, as points on a map; where none does, a small grey one.

    Parameters
    ----------
    lat, lon : array_like, [B]
        Degrees north and east. A basin without them (NaN) is left out and counted.
    winners : sequence of str, [B]
        One of the names, or another text where no model wins; empty, and left out, where none was compared.
    names : sequence of str
        Of all models: each has its colour and its mark, whether it wins or not.

    Returns
    -------
    matplotlib.figure.Figure
        The legend counts the basins of each.

    Raises
    ------
    ValueError
        If the arrays are not one-dimensional or differ in length, or no basin that was compared has coordinates.
    """
    lat = array("lat", lat, 1)
    lon = array("lon", lon, 1, lat.shape)
    winners = np.asarray(winners).astype(str)
    if winners.shape != lat.shape:
        raise ValueError(
            f"winners must have shape {lat.shape}, found {winners.shape}: one value per item of the figure."
        )
    placed, compared = np.isfinite(lat) & np.isfinite(lon), winners != ""
    if not (placed & compared).any():
        raise ValueError("no basin that has coordinates was compared: there is nothing to draw.")
    figure, axes = _map(lat[placed & compared], lon[placed & compared])
    size = float(np.clip(9000.0 / max(int(placed.sum()), 1), 14.0, 60.0))
    none = compared & ~np.isin(winners, list(names))
    axes.scatter(lon[none], lat[none], s=0.4 * size, c="#b0b0b0", lw=0, label=f"tie, {none.sum()}")
    for k, name in enumerate(names):
        its = winners == name
        marker = MARKERS[(k + k // len(CYCLE)) % len(MARKERS)]  # so that no two of thirty look alike
        axes.scatter(lon[its], lat[its], s=size, c=colour(k), marker=marker, lw=0.4, ec="white",
                     label=f"{name}, {its.sum()}")  # fmt: skip
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if (~placed & compared).any():
        axes.set_title(f"{(~placed & compared).sum()} not placed", loc="right", color=colour(ORANGE), fontsize=10.5)
    axes.set_title(f"Models ahead of all others, {compared.sum()} basins")
    return figure


@styled
def network_map(
    network: RiverNetwork,
    values: ArrayLike,
    name: str = "discharge",
    unit: str = "m³/s",
    gauges: ArrayLike | None = None,
) -> Figure:
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
    values = array("values", values, 1, lat.shape)
    good = np.isfinite(values) & (values > 0)
    high = values[good].max() if good.any() else 1.0
    low = min(max(values[good].min(initial=high), high / 1e4), high / 10)
    figure, axes = _map(lat, lon, rivers=False)
    ends = np.stack([lon, lat], axis=1)

    def lines(rows: np.ndarray, **style: Any) -> Artist:
        segments = np.stack([ends[rows], ends[network.downstream[rows]]], 1)
        return axes.add_collection(LineCollection(segments, **style))  # type: ignore[arg-type]  # an array is a sequence

    flows = network.downstream >= 0  # an outlet has no line
    lines(np.flatnonzero(flows & ~good), colors="#c4c4c4", lw=0.4)
    # The largest are drawn last, over their tributaries.
    order = np.flatnonzero(flows & good)
    order = order[np.argsort(values[order], kind="stable")]
    share = np.log(values[order].clip(low) / low) / np.log(high / low)
    drawn = lines(
        order, array=values[order], norm=LogNorm(low, high), cmap="viridis_r", lw=0.4 + 3.2 * share**2,
        capstyle="round",
    )  # fmt: skip
    if gauges is not None:
        at = network.index(np.atleast_1d(gauges))
        axes.plot(lon[at], lat[at], "v", ms=7, color=colour(ORANGE), mec="white", mew=0.8, label="gauge", zorder=4)
        axes.legend(loc="best")
    colour_bar(figure, axes, drawn, "min" if (values[good] < low).any() else "neither", f"{name} ({unit})")
    if (~good).any():
        axes.set_title(f"grey: {(~good).sum()} without {name}", loc="right", color=MUTED, fontsize=10.5)
    axes.set_title(f"{name.capitalize()} of {network.n_reaches} reaches")
    return figure
