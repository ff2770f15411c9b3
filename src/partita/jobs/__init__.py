"""Jobs: which runs where and when, how much memory they will need, and what follows out-of-memory (pure)."""
