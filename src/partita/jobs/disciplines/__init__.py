"""Queue disciplines: who of those that wait starts now, and where."""
