"""How a queue is run."""

from __future__ import annotations

from dataclasses import dataclass

from partita.jobs.disciplines.classes import DEFAULT
from partita.jobs.memory.bounds import MIB
from partita.jobs.queue.shares import HALF_LIFE_S

MOST_WAITING = 10_000
"""Jobs of one user that may wait, unless the daemon is told otherwise."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the queue looks, in seconds.

    Attributes:
        making: at instances that are being made.
        running: at processes.
        cluster: at the GPUs.
        afresh: after which it decides anew even if nothing has changed: jobs age.
        failed: before it tries again what could not be done.
    """

    making: float = 0.02
    running: float = 0.25
    cluster: float = 5.0
    afresh: float = 30.0
    failed: float = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a queue is run.

    Attributes:
        discipline: who starts first.
        log_bytes: most bytes of an attempt's log that are kept.
        keep_s: seconds after their end at which jobs are forgotten.
        keep_bytes: most bytes that the files of jobs that are over take in all.
        oom_patterns: regular expressions that say in any job's output that memory ran out.
        half_life_s: seconds after which what a user has had counts half.
        most_waiting: jobs of one user that may wait, each task of an array counted; root may have more.
        default_limit_s: time limit of jobs that are submitted without one; None for none.
        most_limit_s: the longest time limit that may be asked for; None for any, and for jobs without one.
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
    pace: Pace = Pace()
