"""The only code that touches hardware or clusters: one interface, several drivers."""
