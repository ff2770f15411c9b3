"""Jobs: which runs where and when, how much memory it will need, and what follows an out-of-memory error."""
