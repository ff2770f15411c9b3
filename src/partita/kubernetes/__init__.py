"""Carries out plans on the GPUs of a Kubernetes cluster; all state is kept in the cluster's API."""
