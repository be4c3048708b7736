"""Routing of runoff: the unit hydrograph of a catchment."""

from .unit_hydrograph import unit_hydrograph

__all__ = ["unit_hydrograph"]
