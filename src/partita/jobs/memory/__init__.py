"""How much memory a job will need: forecasters with a lower and an upper bound."""
