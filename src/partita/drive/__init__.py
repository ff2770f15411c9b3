"""The only code that touches hardware or clusters: one port, several drivers."""
