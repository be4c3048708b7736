"""Speed and memory of the solver beside honest baselines; see README.md here."""
