"""Alerts for Prometheus and boards for Grafana, made from the metrics that Partita has."""
