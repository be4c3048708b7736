"""Neural networks before the solver, and the module that joins them."""

from .differentiable import DifferentiableModel, DischargeLSTM
from .networks import LSTM, MLP, Layout

__all__ = ["LSTM", "MLP", "DifferentiableModel", "DischargeLSTM", "Layout"]
