"""Figures of scores, flows, rivers and parameters.

Every function returns a `matplotlib.figure.Figure` and touches no pyplot state: no window, no global style, safe
without a display. `save` writes one atomically. Colours are those of Okabe and Ito, which all kinds of colour vision
distinguish; strokes and marks beside them do where there are no colours. `in_style` lays a style of matplotlib over.
"""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .fluxes import learned_flux
    from .maps import network_map, score_map, winner_map
    from .parameters import parameter_bounds, sensitivity_by_month, standard_errors
    from .scores import against, score_distribution, start_spread
    from .series import flow_duration, hydrograph
    from .style import in_style, save

__all__ = [
    "against",
    "flow_duration",
    "hydrograph",
    "in_style",
    "learned_flux",
    "network_map",
    "parameter_bounds",
    "save",
    "score_distribution",
    "score_map",
    "sensitivity_by_month",
    "standard_errors",
    "start_spread",
    "winner_map",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "against": ".scores",
        "flow_duration": ".series",
        "hydrograph": ".series",
        "in_style": ".style",
        "learned_flux": ".fluxes",
        "network_map": ".maps",
        "parameter_bounds": ".parameters",
        "save": ".style",
        "score_distribution": ".scores",
        "score_map": ".maps",
        "sensitivity_by_month": ".parameters",
        "standard_errors": ".parameters",
        "start_spread": ".scores",
        "winner_map": ".maps",
    },
)
