"""Neural networks before the solver and inside its step, and the module that joins them."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .differentiable import DifferentiableModel, DischargeGRU, DischargeLSTM
    from .fluxes import FluxNetwork
    from .networks import GRU, LSTM, MLP, Layout

__all__ = ["GRU", "LSTM", "MLP", "DifferentiableModel", "DischargeGRU", "DischargeLSTM", "FluxNetwork", "Layout"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "DifferentiableModel": ".differentiable",
        "DischargeGRU": ".differentiable",
        "DischargeLSTM": ".differentiable",
        "FluxNetwork": ".fluxes",
        "GRU": ".networks",
        "LSTM": ".networks",
        "Layout": ".networks",
        "MLP": ".networks",
    },
)
