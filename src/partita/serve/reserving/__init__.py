"""Whole GPUs for services with a cut of their own: how many, cut how, and their place in the plan."""
