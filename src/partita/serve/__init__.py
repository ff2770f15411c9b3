"""The right slice for every query: cuts for one model's queries, and routers over unlike slices (pure)."""
