"""Searches of the unit cube; `base` says what they share."""

from .base import Search, starting_points
from .evolution import EvolutionSearch
from .gradient import GradientSearch
from .least_squares import LeastSquaresSearch

__all__ = ["EvolutionSearch", "GradientSearch", "LeastSquaresSearch", "Search", "starting_points"]
