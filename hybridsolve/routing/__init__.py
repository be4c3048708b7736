"""Routing of runoff: the unit hydrograph of a catchment, and the rivers between catchments."""

from .muskingum import Routed, hydraulics, route
from .network import RiverNetwork
from .unit_hydrograph import unit_hydrograph

__all__ = ["RiverNetwork", "Routed", "hydraulics", "route", "unit_hydrograph"]
