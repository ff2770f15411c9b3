"""MIG-Serving's own algorithms and baselines (arXiv 2109.11067)."""
