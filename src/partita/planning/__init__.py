"""The fewest GPUs, cut how, for whom; with bounds and explanations (pure)."""
