"""A report as one page of HTML, its figures within: it opens without a server, and can be sent."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path

from .. import __version__
from ..data.files import write_text_atomic

STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
pre { overflow-x: auto; padding: 1rem; background: #f5f5f5; font-size: .85rem; }
img { max-width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .1rem 1rem .1rem 0; font-size: .9rem; }
"""


def write_page(
    path: str | Path, title: str, text: str, figures: Iterable[Path], facts: Mapping[str, object] | None = None
) -> Path:
    """Write a page, whole or not at all.

    Parameters
    ----------
    path : path
        Of the page, such as ``report.html``.
    title, text : str
        The heading, and lines of a table of scores as a terminal has them.
    figures : iterable of path
        PNG files, which the page then holds; their names are the headings.
    facts : mapping, optional
        What was run: a row each.

    Returns
    -------
    pathlib.Path
    """
    escape = html.escape
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in (facts or {}).items())
    parts = [f"<h1>{escape(title)}</h1>", f"<pre>{escape(text)}</pre>"]
    for figure in figures:
        name = figure.stem.replace("_", " ")
        image = base64.b64encode(figure.read_bytes()).decode()
        parts.append(f'<h2>{escape(name)}</h2><img alt="{escape(name)}" src="data:image/png;base64,{image}">')
    parts.append(f"<h2>settings</h2><table>{rows}</table>" if rows else "")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join([*parts, f"<p>hybridsolve {__version__}</p>"])
    return write_text_atomic(
        path, f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'
    )
