"""What the queue of jobs says to Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.queue.record import OVER, AttemptVerdict, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from partita.jobs.queue.table import JobTable

_BLOCKED = "blocked"


def queue_metrics(table: JobTable, now: float) -> Iterator[Metric]:
    """Yield the metrics of a queue; jobs are no series of their own, as each would stay forever.

    May be called in any thread: what is taken of the table is taken at once.

    Args:
        table: of the queue.
        now: seconds since 1970.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 -- of the extras

    waiting, blocked = list(table.waiting.values()), len(table.blocked)
    jobs = GaugeMetricFamily(
        "partita_jobs", "Jobs by state; blocked ones wait for other jobs to end", labels=("state",)
    )
    held = [job.state for job in list(table.held.values())]
    for state in JobState:
        if state not in OVER:
            jobs.add_metric((state,), len(waiting) if state is JobState.WAITING else held.count(state))
    jobs.add_metric((_BLOCKED,), blocked)
    oldest = GaugeMetricFamily(
        "partita_jobs_longest_wait_seconds", "Seconds since the oldest waiting job was submitted; 0 for none"
    )
    oldest.add_metric((), max((now - job.submitted for job in waiting), default=0.0))
    ended = CounterMetricFamily(
        "partita_jobs_ended", "Jobs that have ended since the process started", labels=("state",)
    )
    for state in sorted(OVER):
        ended.add_metric((state,), table.ended[state])
    attempts = CounterMetricFamily(
        "partita_job_attempts", "Attempts of those jobs, by how each ended", labels=("verdict",)
    )
    for verdict in AttemptVerdict:
        attempts.add_metric((verdict,), table.verdicts[verdict])
    yield from (jobs, oldest, ended, attempts)
