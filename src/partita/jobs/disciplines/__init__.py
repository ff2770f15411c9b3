"""Queue disciplines: which waiting jobs start now, and where."""
