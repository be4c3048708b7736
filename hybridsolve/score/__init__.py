"""Scores (`metrics`), losses that can be differentiated (`losses`), scores of others (`references`), reports' lines."""
