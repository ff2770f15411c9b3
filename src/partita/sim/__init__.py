"""Simulated time, and what runs on it."""
