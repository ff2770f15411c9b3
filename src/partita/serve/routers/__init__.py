"""Routers: which slice answers which query, one policy a file, compiled with numba."""
