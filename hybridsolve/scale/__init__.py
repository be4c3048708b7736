"""Runs that exceed a card's memory, and synthetic continents to try large runs on."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .continent import synthetic_continent, synthetic_parameters
    from .stream import Plan, plan, simulate

_PLACES = {
    "Plan": ".stream",
    "plan": ".stream",
    "simulate": ".stream",
    "synthetic_continent": ".continent",
    "synthetic_parameters": ".continent",
}
__all__ = ["Plan", "plan", "simulate", "synthetic_continent", "synthetic_parameters"]
__getattr__, __dir__ = attach(__name__, _PLACES)
