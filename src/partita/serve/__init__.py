"""Serves queries on slices of different sizes: cuts, routers, workers, and the gateway that connects them."""
