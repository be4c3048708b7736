"""The style that all figures share, and how they are saved."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.style
import numpy as np
from cycler import cycler

from ..data.files import write_atomic
from ..data.values import unmasked

if TYPE_CHECKING:  # younger than the oldest matplotlib that serves
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType
    from numpy.typing import ArrayLike

P = ParamSpec("P")
T = TypeVar("T")

INK, MUTED, GRID = "#222222", "#6b6b6b", "#e4e4e4"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # which a style may replace
BLUE, ORANGE, SKY = 0, 1, 5  # places in it
STROKES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # which tell lines apart without colours
STYLE: dict[RcKeyType, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "savefig.facecolor": "white",
    "savefig.dpi": 150,
}
_over: dict[RcKeyType, Any] = {}  # of the style in use
NOT_OF_STYLE = ("backend", "interactive", "toolbar", "webagg", "tk.", "datapath", "timezone")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with the shared style; matplotlib reads most of it when an artist is made."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(STYLE | _over):
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def in_style(style: str | Path) -> Iterator[None]:
    """Draw and save in a style of matplotlib, laid over the package's own, while this context lasts.

    Parameters
    ----------
    style : str or path
        A name, such as "grayscale" or "dark_background", or a file of settings (``.mplstyle``).

    Raises
    ------
    ValueError
        If it is neither.
    """
    global _over
    if str(style) in matplotlib.style.library:
        found = matplotlib.style.library[str(style)]
    elif Path(style).is_file():
        found = matplotlib.rc_params_from_file(style, use_default_template=False)
    else:
        raise ValueError(
            f"a style must be one of matplotlib's or a file of settings, found '{style}'; "
            f"known are {', '.join(sorted(matplotlib.style.available))}."
        )
    before, _over = _over, {k: v for k, v in found.items() if not k.startswith(NOT_OF_STYLE)}
    try:
        yield
    finally:
        _over = before


def ink() -> str:
    """The colour of text and of what was observed."""
    return str(matplotlib.rcParams["text.color"])


def colour(i: int) -> str:
    """The colour at a place of the style's cycle, by its number: "C1" would be looked up when the figure is saved."""
    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key().get("color", CYCLE)
    return str(cycle[i % len(cycle)])


def array(name: str, values: ArrayLike, ndim: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Numbers of a shape, NaN where they are masked."""
    values = unmasked(values).astype(np.float64)
    if values.ndim != ndim or values.size == 0 or (shape is not None and values.shape != shape):
        want = f"shape {shape}" if shape is not None else f"{ndim} dimension(s), not empty"
        raise ValueError(f"{name} must have {want}, found shape {values.shape}: one value per item of the figure.")
    return values


def percent(share: float) -> str:
    """A share as text, which never rounds to 0 % or 100 % what is not."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def per(unit: str) -> str:
    """A unit as axes have it: "mm/d" of "mm d-1"."""
    return re.sub(r"^(\S+) (\w+)-1$", r"\1/\2", unit)


def colour_bar(figure: Figure, axes: Axes, artist: Any, extend: Any, label: str) -> None:
    bar = figure.colorbar(artist, ax=axes, extend=extend, shrink=0.86, pad=0.015, aspect=28)
    bar.set_label(label)
    bar.outline.set_visible(False)


def save(fig: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, at 150 dpi unless the style says otherwise, whole or not at all.

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
    with matplotlib.rc_context(STYLE | _over):
        fig.savefig(image, format="png")
    return write_atomic(path, lambda temporary: temporary.write_bytes(image.getvalue()))


def draw(figures: Mapping[str, Callable], folder: Path) -> list[Path]:
    """Make and save figures by name; those that cannot be drawn are a warning, and the rest is drawn."""
    written = []
    left_out: dict[str, list[str]] = {}
    for name, make in figures.items():
        try:
            written.append(save(make(), folder / f"{name}.png"))
        except Exception as error:  # of any kind: the other figures do not depend on it
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            left_out.setdefault(reason, []).append(name)
    for reason, names in left_out.items():
        what = f"figure {names[0]} is" if len(names) == 1 else f"figures {', '.join(names)} are"
        warnings.warn(f"the {what} not drawn: {reason}; all numbers are written.", stacklevel=3)
    return written
