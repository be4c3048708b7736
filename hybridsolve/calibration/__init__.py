"""Calibration of every basin for itself: searches, their evaluation and reports; `calibrate` is in fit.py."""
