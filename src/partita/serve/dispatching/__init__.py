"""Decides which worker answers which query, and when; without I/O and without a clock.

`dispatcher` refuses, queues or starts a query, by the policy of a router (`port`). `fleet` knows which workers are
idle, how long each takes (`estimates`), what a second of each is worth, and which are healthy. `query` has the values
that all of them use.
"""
