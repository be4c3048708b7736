"""What a model is, in a few characters that results carry: of its table, and of the graph of its step.

The step counts as it is traced, before it is simplified: not how it is written, nor by which version of Python. One
that cannot be traced, which runs as backend="reference" alone, counts by its byte code. The table counts without its
words, such as titles and meanings, and without what reports alone use.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import fields, is_dataclass
from typing import Any

from ..spec import ModelSpec
from .errors import StepError
from .tracing import trace, trace_start

APART = ("title", "source", "meaning", "triton", "balance", "signatures", "wet", "rates")
TRACED = ("reference_step", "prepare", "ordinates")


@functools.cache
def identity(model: ModelSpec) -> str:
    """Name, and hashes of table and step: ``"hbv11p table 1f0c.. step 9a42.."``."""
    try:
        step: Any = trace(model, model.optional_parameter_names)
    except StepError:
        step = model.equations
    return f"{model.name} table {_hash(_row(model, model))} step {_hash(step)}"


def refuse_another(model: ModelSpec, found: str | None, what: str) -> None:
    """Raise unless something was made by this model as it is defined here.

    Parameters
    ----------
    model : ModelSpec
    found : str, optional
        The identity that was stored with it; none, as of older versions, is not compared.
    what : str
        What was made, to begin the message with.

    Raises
    ------
    ValueError
    """
    expected = identity(model)
    if not found or found == expected:
        return
    pairs = zip(("name", "", "table of variables", "", "step"), expected.split(), str(found).split(), strict=False)
    differ = [part for part, ours, theirs in pairs if part and ours != theirs]
    raise ValueError(
        f"{what} must be of the model '{model.name}' as it is defined here; found that of one with another "
        f"{' and another '.join(differ) or 'identity'}: take the definition that it was made with, or make it anew."
    )


def _hash(x: Any) -> str:
    return hashlib.sha256(repr(x).encode()).hexdigest()[:12]


def _row(x: Any, model: ModelSpec) -> Any:
    """A row of a table without its words; a start that is a function of parameters as its graph."""
    if is_dataclass(x):
        names = [f.name for f in fields(x) if f.init and f.name not in APART + TRACED]
        return (type(x).__name__, [(name, _row(getattr(x, name), model)) for name in names])
    if isinstance(x, tuple):
        return [_row(v, model) for v in x]
    return trace_start(model, x) if callable(x) else x
