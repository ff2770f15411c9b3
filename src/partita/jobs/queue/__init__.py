"""The queue: its store, the daemon that runs its jobs, and the socket on which commands reach it."""
