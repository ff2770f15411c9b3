"""The queue: its store, the daemon that works through it, and the socket on which commands reach it."""
