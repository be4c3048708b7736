"""Learning: metrics, losses, calibration and training."""
