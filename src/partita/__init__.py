"""Partita cuts Multi-Instance GPUs to fit the work."""

__version__ = "0.1.0"
