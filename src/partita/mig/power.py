"""What an A100 draws without work and at most, for simulated GPUs."""

IDLE_W = 36.12
"""MISO's measurement of a process that computes nothing (github boringlee24/socc22-miso at 39b1ee6)."""

CONTEXT_W = 26.0
"""What a CUDA context alone adds, once for a GPU and whatever it holds: the least of 26 to 50 W that were measured on
A100 and H100 (arXiv 2605.23918)."""

LIMIT_W = 400.0
"""The power limit of an A100 SXM4 (NVIDIA A100 data sheet)."""
