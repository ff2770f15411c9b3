"""Carries out plans on a Kubernetes cluster: its GPUs are those of all nodes, and all state is kept in its API."""
