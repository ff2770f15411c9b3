"""From a workload and performance tables to a planning problem."""
