"""Neural networks before the solver and inside its step, and the module that joins them."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .differentiable import DifferentiableModel, DischargeLSTM
    from .fluxes import FluxNetwork
    from .networks import LSTM, MLP, Layout

__all__ = ["LSTM", "MLP", "DifferentiableModel", "DischargeLSTM", "FluxNetwork", "Layout"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "DifferentiableModel": ".differentiable",
        "DischargeLSTM": ".differentiable",
        "FluxNetwork": ".fluxes",
        "LSTM": ".networks",
        "Layout": ".networks",
        "MLP": ".networks",
    },
)
