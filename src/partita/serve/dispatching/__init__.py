"""Which worker answers which query, and when: decisions, without I/O and without a clock.

`dispatcher` refuses, queues or starts a query, by the policy of a router (`port`). `fleet` says who is idle, how long
each takes (`estimates`), what a second is worth and who can be trusted. `query` has the values that all of them use.
"""
