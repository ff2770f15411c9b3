"""Reserves whole GPUs for services with a cut: how many, how they are cut, and their place in the plan."""
