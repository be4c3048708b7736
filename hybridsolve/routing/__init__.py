"""Routing of runoff: the unit hydrograph of a catchment, and the rivers between catchments."""

from typing import TYPE_CHECKING

from .._lazy import attach
from .unit_hydrograph import unit_hydrograph  # at once: its module has its name, and would be found in its place

if TYPE_CHECKING:
    from .muskingum import Routed, hydraulics, route
    from .network import RiverNetwork
    from .rivers import RiverRun, lateral_inflow, simulate_rivers

__all__ = [
    "RiverNetwork",
    "RiverRun",
    "Routed",
    "hydraulics",
    "lateral_inflow",
    "route",
    "simulate_rivers",
    "unit_hydrograph",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "RiverNetwork": ".network",
        "RiverRun": ".rivers",
        "Routed": ".muskingum",
        "hydraulics": ".muskingum",
        "lateral_inflow": ".rivers",
        "route": ".muskingum",
        "simulate_rivers": ".rivers",
    },
)
