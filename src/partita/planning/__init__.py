"""Planning: how many GPUs a workload needs, how each is cut, which service runs where; with lower bounds (pure)."""
