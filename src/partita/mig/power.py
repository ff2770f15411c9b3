"""What an A100 draws without work and at most, for simulated GPUs."""

IDLE_W = 36.12
"""MISO's measurement of a process that computes nothing (github boringlee24/socc22-miso at 39b1ee6)."""

LIMIT_W = 400.0
"""The power limit of an A100 SXM4 (NVIDIA A100 data sheet)."""
