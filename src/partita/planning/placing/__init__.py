"""From counts to GPUs with names: who shares which GPU, at which start, on which node."""
