"""Workers: one process for each instance, which runs queries in batches."""
