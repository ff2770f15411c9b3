"""Jobs as data for those who list them; what is another user's business is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partita.jobs.queue.codec import bounds_data
from partita.jobs.queue.record import OVER, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.jobs.queue.record import Attempt, JobRecord

ROW_COMMAND = 200
"""Characters of a command in a list; `history` has all of it."""


def row(job: JobRecord, *, open_to: bool) -> dict[str, Any]:
    """Return a job for a list.

    Args:
        job: which.
        open_to: whether who asks may know its name and command.
    """
    found: dict[str, Any] = {
        "id": job.id,
        "user": job.submitter.name,
        "state": job.state.value,
        "priority": job.priority,
        "submitted": job.submitted,
        "name": job.name if open_to else None,
        "command": " ".join(job.words)[:ROW_COMMAND] if open_to else None,
        "attempts": len(job.attempts),
        "time_limit_s": job.asked.limit_s,
        "after": [str(each) for each in job.after],
    }
    if job.attempts and job.state is not State.WAITING:
        attempt = job.attempt
        found |= {"gpu": attempt.gpu, "instance": str(attempt.placement), "began": attempt.began}
    if job.state in OVER:
        found["why"] = job.why
    return found


def whole(job: JobRecord, energy: Callable[[str, int], float | None]) -> dict[str, Any]:
    """Return all of a job, for who may know it; the environment is in no list.

    Args:
        job: which.
        energy: the joules that an attempt (the job's id and its number) took; None where they are not known, which
            is not 0.
    """
    memory = job.asked.memory
    return {
        **row(job, open_to=True),
        "command": list(job.words),
        "directory": job.directory,
        "memory": {"source": memory.source, **bounds_data(memory.bounds)},
        "gpu_time": dict(job.asked.seconds),
        "grace_s": job.asked.grace_s,
        "most_attempts": job.asked.most_attempts,
        "verdict": job.why or job.state.value,
        "attempts": [attempt_data(each) | {"energy_j": energy(job.id, each.number)} for each in job.attempts],
    }


def attempt_data(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt; what is not known is null."""
    seconds = None
    if attempt.began is not None and attempt.ended is not None:
        seconds = max(attempt.ended - attempt.began, 0.0)
    return {
        "attempt": attempt.number,
        "gpu": attempt.gpu,
        "instance": str(attempt.placement),
        "began": attempt.began,
        "ended": attempt.ended,
        "seconds": seconds,
        "exit_code": attempt.code,
        "verdict": attempt.verdict.value if attempt.verdict else None,
        "why": attempt.why,
        "peak_memory_bytes": attempt.peak_bytes,
        "decided_by": attempt.said,
        "sure": not attempt.unsure,
    }
