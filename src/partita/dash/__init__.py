"""The API under `/api/v1`, and the dashboard on top of it: what a cluster does, seen while it does it."""
