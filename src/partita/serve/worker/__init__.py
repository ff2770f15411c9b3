"""Workers: one process for each instance, which runs a model's queries in batches."""
