"""Calling conventions of other programs."""
