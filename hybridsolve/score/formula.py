"""The text of a loss: a score by its name, or a weighted sum of scores of transformed flow.

``0.5*kge(q)+0.5*kge(sqrt q)`` is half of one minus the KGE of flow and half of one minus that of its root. A term is a
weight, 1 if left out, a name, and in brackets what it is of: `q`, which may be left out, `sqrt q`, `log q` or `1/q`.
All but `q` are of q + e with e = mean(obs) / 100 of each basin (Pushpalatha et al. 2012, J. Hydrol. 420:171).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

FLOWS = ("q", "sqrt q", "log q", "1/q")
_WRITTEN = {re.sub(r"[\s()]", "", flow): flow for flow in FLOWS}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(rf"\s*(?:({_NUMBER})\s*\*)?\s*([A-Za-z_]\w*)\s*(?:\(((?:[^()]|\([^()]*\))*)\))?\s*")
_SHORT = {("nse", "sqrt q"): "nse_sqrt", ("nse", "log q"): "nse_log"}  # scores with a name of their own


@dataclass(frozen=True)
class Term:
    """A score of a flow, and its weight."""

    weight: float
    name: str
    flow: str = "q"

    def __str__(self) -> str:
        weight = "" if self.weight == 1 else f"{self.weight!r}*"
        return weight + self.name + ("" if self.flow == "q" else f"({self.flow})")


def terms(text: str, known: Sequence[str], of_flow: Sequence[str]) -> tuple[Term, ...]:
    """The terms of a loss.

    Parameters
    ----------
    text : str
    known : sequence of str
        Names of scores.
    of_flow : sequence of str
        Those that may be of transformed flow.

    Raises
    ------
    ValueError
        If it is no sum of such terms; the message names the first token that does not fit.
    """
    if not isinstance(text, str):
        raise ValueError(f"a loss must be text, found {text!r}: write for example '{known[0]}'.")
    found, at = [], 0
    while True:
        term = _TERM.match(text, at)
        if term is None:
            raise ValueError(_refusal(text, text[at:].strip()[:20]))
        found.append(_term(text, term, known, of_flow))
        at = term.end()
        if at == len(text):
            return tuple(found)
        if text[at] != "+":
            raise ValueError(_refusal(text, text[at:].strip()[:20]))
        at += 1


def _refusal(text: str, token: str) -> str:
    return (
        f"loss {text!r} must be a sum of terms weight*name(flow), such as 0.5*kge(q)+0.5*kge(sqrt q), found "
        f"{token or 'nothing'!r} where a term or a + should be: correct it."
    )


def _term(text: str, term: re.Match[str], known: Sequence[str], of_flow: Sequence[str]) -> Term:
    weight, name, flow = term.groups()
    if name not in known:
        where = "" if text.strip() == name else f" in loss {text!r}"
        raise ValueError(f"a loss's name must be one of {', '.join(known)}, found {name!r}{where}: correct it.")
    if weight is not None and not 0 < float(weight) < math.inf:
        raise ValueError(
            f"the weight of {name} in loss {text!r} must be above 0 and finite, found {weight}: correct it."
        )
    written = _WRITTEN.get(re.sub(r"[\s()]", "", flow or "q").lower())
    if written is None:
        raise ValueError(
            f"{name} in loss {text!r} must be of {', '.join(FLOWS[:-1])} or {FLOWS[-1]}, found {flow.strip()!r}: "
            "correct it."
        )
    if written != "q" and name not in of_flow:
        raise ValueError(
            f"{name} in loss {text!r} must be of q, found {written!r}: take one of {', '.join(of_flow)}, which are of "
            "transformed flow too."
        )
    short = _SHORT.get((name, written))
    return Term(float(weight or 1), *((short,) if short else (name, written)))
