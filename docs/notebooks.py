"""The examples as pages: each script in the percent format is run, and what its cells print and show stands below them.

A cell begins with a line ``# %%``, one of Markdown with ``# %% [markdown]``, as Jupytext, VS Code and Spyder have it.
The last expression of a cell is shown as in a notebook: a figure of matplotlib as SVG, a table of pandas or a data
set of xarray as HTML, anything else as text.
"""

from __future__ import annotations

import ast
import contextlib
import html
import io
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hybridsolve.data.camels import data_dir

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)
CAMELS = "the CAMELS pack in the folder `HYBRIDSOLVE_DATA`"
LEHIGH = "the package pywatershed, `pip install --no-deps pywatershed`"


def cells(text: str) -> list[tuple[bool, str]]:
    """Of each cell whether it is Markdown, and its text."""
    parts = CELL.split(text)[1:]
    found = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        is_text = "[markdown]" in head
        found.append((is_text, re.sub(r"^# ?", "", body, flags=re.MULTILINE) if is_text else body.strip("\n")))
    return found


def lacking(text: str) -> str | None:
    """The published data that a script reads and that are not here; they are no part of the repository."""
    if "read_camels(" in text and not (data_dir() / "camels_us_671.nc").exists():
        return CAMELS
    return LEHIGH if "lehigh()" in text and find_spec("pywatershed") is None else None


def page(script: Path, root: Path) -> tuple[str, dict[str, str]]:
    """The script, run in the folder `root`, as a page in Markdown, and its figures by the names of their files.

    Where its data are not here, it is not run, and the page says so.

    Raises
    ------
    Exception
        What a cell raises, with a note that names the script.
    """
    lines: list[str] = []
    figures: dict[str, str] = {}
    here: dict[str, Any] = {"__name__": script.stem}
    text = script.read_text(encoding="utf-8")
    missing = lacking(text)
    about = f"This page is a script, [{script.name}]({script.name}), that editors open as a notebook."
    if missing:
        about += f" It reads {missing}, which was not there when the page was made: nothing below has been run."
    for is_text, body in cells(text):
        if is_text:
            lines += [body, ""]
            if len(lines) == 2:
                lines += [about, ""]
            continue
        lines += ["```python", body, "```", ""]
        if missing:
            continue
        printed = io.StringIO()
        try:
            with contextlib.chdir(root), contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shown = _run(body, here, str(script))
        except Exception as error:
            error.add_note(f"in {script}")
            raise
        if printed.getvalue():
            lines += ["```text", printed.getvalue().rstrip(), "```", ""]
        if isinstance(shown, Figure):
            name = f"{script.stem}-{len(figures) + 1}.svg"
            figures[name] = svg(shown)
            lines += [f"![{_title(shown)}]({name})", ""]
        elif shown is not None:
            lines += [_as_html(shown), ""]
    return "\n".join(lines), figures


def _run(body: str, here: dict[str, Any], name: str) -> Any:
    """Run a cell, and give the value of its last expression."""
    tree = ast.parse(body)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), here)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), here)


def svg(figure: Figure) -> str:
    image = io.StringIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()


def _title(figure: Figure) -> str:
    titles = [axes.get_title(side) for axes in figure.axes for side in ("left", "center")]
    return next(filter(None, titles), "figure").replace("[", "(").replace("]", ")")


def _as_html(x: Any) -> str:
    """A value as HTML in one line, which Markdown leaves alone."""
    if not hasattr(x, "_repr_html_"):
        return f"<pre>{html.escape(repr(x))}</pre>"
    return f"<div>{' '.join(x._repr_html_().split())}</div>"
