"""Runs that exceed a card's memory or a machine, and synthetic continents to try large runs on."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ..cluster import connected, spread
    from .continent import synthetic_continent, synthetic_parameters
    from .continental import run
    from .store import consolidate, open_run
    from .stream import Plan, plan, simulate

_PLACES = {
    "Plan": ".stream",
    "connected": "..cluster",
    "consolidate": ".store",
    "open_run": ".store",
    "plan": ".stream",
    "run": ".continental",
    "simulate": ".stream",
    "spread": "..cluster",
    "synthetic_continent": ".continent",
    "synthetic_parameters": ".continent",
}
__all__ = [
    "Plan",
    "connected",
    "consolidate",
    "open_run",
    "plan",
    "run",
    "simulate",
    "spread",
    "synthetic_continent",
    "synthetic_parameters",
]
__getattr__, __dir__ = attach(__name__, _PLACES)
