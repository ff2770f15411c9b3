"""How a queue is run."""

from __future__ import annotations

from dataclasses import dataclass

from partita.jobs.memory.bounds import MIB
from partita.jobs.queue.disciplines import DEFAULT


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
    """

    discipline: str = DEFAULT
    log_bytes: int = 64 * MIB
    pace: Pace = Pace()
