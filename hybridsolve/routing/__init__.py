"""Routing of runoff: the unit hydrograph of a catchment, and the rivers between catchments."""

from typing import TYPE_CHECKING

from .._lazy import attach
from .unit_hydrograph import unit_hydrograph  # at once: its module has its name, and would be found in its place

if TYPE_CHECKING:
    from .local_days import daily_means
    from .muskingum import Boundary, Routed, hydraulics, route
    from .network import RiverNetwork
    from .parts import RiverPart, cut_parts, route_parts
    from .rivers import RiverRun, lateral_inflow, simulate_rivers
    from .units import Units

__all__ = [
    "Boundary",
    "RiverNetwork",
    "RiverPart",
    "RiverRun",
    "Routed",
    "Units",
    "cut_parts",
    "daily_means",
    "hydraulics",
    "lateral_inflow",
    "route",
    "route_parts",
    "simulate_rivers",
    "unit_hydrograph",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Boundary": ".muskingum",
        "RiverNetwork": ".network",
        "RiverPart": ".parts",
        "RiverRun": ".rivers",
        "Routed": ".muskingum",
        "Units": ".units",
        "cut_parts": ".parts",
        "daily_means": ".local_days",
        "hydraulics": ".muskingum",
        "lateral_inflow": ".rivers",
        "route": ".muskingum",
        "route_parts": ".parts",
        "simulate_rivers": ".rivers",
    },
)
