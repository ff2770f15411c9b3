"""What an ended process is taken for: whether it ran out of its GPU's memory (pure, imported by a job's watcher)."""
