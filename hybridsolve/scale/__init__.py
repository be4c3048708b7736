"""Runs that exceed a card's memory."""

from .stream import Plan, plan, simulate

__all__ = ["Plan", "plan", "simulate"]
