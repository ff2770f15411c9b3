"""The sample workload that the project ships, as package data."""
