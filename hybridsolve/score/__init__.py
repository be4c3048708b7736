"""Scores (`metrics`), losses that can be differentiated (`losses`), scores of others (`references`), reports' lines."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from . import losses, metrics, references, summary

__all__ = ["losses", "metrics", "references", "summary"]

__getattr__, __dir__ = attach(__name__, {name: f".{name}" for name in __all__})
