"""Benchmarks: programs that print a table and write pages of docs/."""
