"""Networks that learn parameters from all basins at once: configuration, the loop, experiments and reports."""
