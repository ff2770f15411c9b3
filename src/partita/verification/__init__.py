"""Whether plans keep what they promise, by simulation."""
