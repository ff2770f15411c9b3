"""From one deployment to the next without losing throughput: search, schedule, checker (pure)."""
