"""How a queue is run, and how often it looks."""

from __future__ import annotations

from dataclasses import dataclass

from partita.jobs.disciplines.classes import DEFAULT
from partita.jobs.memory.bounds import MIB

HALF_LIFE_S = 7 * 86400.0
"""Default of the seconds after which a user's past usage counts half."""
MOST_WAITING = 10_000
"""Default of the most jobs of one user that may wait."""


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """How often the queue polls, in seconds.

    Attributes:
        making: instances that are being created.
        running: processes.
        cluster: the GPUs.
        afresh: a new decision even if nothing has changed: jobs age.
        failed: a retry of what failed.
    """

    making: float = 0.02
    running: float = 0.25
    cluster: float = 5.0
    afresh: float = 30.0
    failed: float = 5.0


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How a queue is run.

    Attributes:
        discipline: name of the rule that orders the jobs.
        log_bytes: most bytes kept of an attempt's log.
        keep_s: seconds after its end when a job is forgotten.
        keep_bytes: most bytes of all files of jobs that are over.
        half_life_s: seconds after which a user's past usage counts half.
        most_waiting: most jobs of one user that may wait, counting each task of an array; root may have more.
        default_limit_s: time limit of jobs that are submitted without one; None for none.
        most_limit_s: longest time limit that a job may have; None allows any, and jobs without a limit.
        oom_patterns: regular expressions that mean, in any job's output, that memory ran out.
        pace: how often the queue polls.
    """

    discipline: str = DEFAULT
    log_bytes: int = 64 * MIB
    keep_s: float = 30 * 86400.0
    keep_bytes: int = 20 * 1024 * MIB
    half_life_s: float = HALF_LIFE_S
    most_waiting: int = MOST_WAITING
    default_limit_s: float | None = None
    most_limit_s: float | None = None
    oom_patterns: tuple[str, ...] = ()
    pace: PollIntervals = PollIntervals()
