"""Routing of runoff: the unit hydrograph of a catchment, and the rivers between catchments."""

from .muskingum import Routed, hydraulics, route
from .network import RiverNetwork
from .rivers import RiverRun, lateral_inflow, simulate_rivers
from .unit_hydrograph import unit_hydrograph

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
