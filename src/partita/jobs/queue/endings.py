"""What follows from the end of an attempt (pure)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partita.jobs import restarts
from partita.jobs.memory.bounds import MIB, holds, slices
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.jobs.run.runner import AttemptPhase
from partita.oom import OUT_OF_MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.jobs.memory.bounds import Bounds
    from partita.jobs.queue.record import JobRecord
    from partita.jobs.run.runner import AttemptStatus
    from partita.mig.gpu import GpuModel
    from partita.oom import Ending

_SAID = frozenset({AttemptVerdict.OUT_OF_MEMORY, AttemptVerdict.FAILED})
_AGAIN = frozenset({AttemptVerdict.REQUEUED, AttemptVerdict.YIELDED})
_COUNTED = frozenset({AttemptVerdict.OUT_OF_MEMORY, AttemptVerdict.EARLY_RESTART, AttemptVerdict.LOST})


def ended(
    job: JobRecord, look: AttemptStatus, now: float, bounds: Bounds, models: Iterable[GpuModel]
) -> JobRecord:
    """Return a job after its newest attempt has ended.

    Args:
        job: running or stopping.
        look: the state of the attempt.
        now: when that was seen, in seconds.
        bounds: of the job's memory.
        models: of the current GPUs, which may lack the attempt's own.
    """
    verdict, why = _verdict(job, look)
    taken = _taken_for(job, look)
    attempt = replace(
        job.attempt,
        began=look.began if look.began is not None else job.attempt.began,
        ended=look.ended if look.ended is not None else now,
        code=look.code,
        verdict=verdict,
        why=why,
        peak_bytes=look.progress.peak_bytes,
        unsure=verdict is AttemptVerdict.OUT_OF_MEMORY and taken is not None and not taken.sure,
        said=taken.text if taken is not None and verdict in _SAID else None,
    )
    job = job.with_attempt(attempt)
    if verdict is AttemptVerdict.OUT_OF_MEMORY:
        return _climb(job, bounds, models)
    if verdict in _AGAIN:
        return replace(job.to(JobState.WAITING, why=why), tries=job.tries - 1)
    if verdict in _COUNTED:
        return _again(job, why)
    states = {AttemptVerdict.DONE: JobState.DONE, AttemptVerdict.CANCELLED: JobState.CANCELLED}
    return job.to(states.get(verdict, JobState.FAILED), why=why)


def stopping(job: JobRecord, wish: AttemptVerdict, why: str | None) -> JobRecord | None:
    """Return a job that must end: a waiting one ends at once; None if it is ending already.

    Args:
        job: not over.
        wish: the verdict to end with; waiting jobs can only be cancelled.
        why: the reason, kept with the attempt.
    """
    if job.state is JobState.WAITING:
        return job.to(JobState.CANCELLED, why=why) if wish is AttemptVerdict.CANCELLED else None
    if job.attempt.wish in (wish, AttemptVerdict.CANCELLED):
        return None
    asked = replace(job.attempt, wish=wish, why=why)
    if job.state is not JobState.STOPPING:
        job = job.to(JobState.STOPPING, why=why)
    return job.with_attempt(asked)


def _verdict(job: JobRecord, look: AttemptStatus) -> tuple[AttemptVerdict, str | None]:
    if job.attempt.wish is not None:
        return job.attempt.wish, job.attempt.why
    if look.timed_out:
        return AttemptVerdict.TIMEOUT, f"timeout: it ran for its limit of {_span(job.asked.limit_s)}"
    if look.phase is AttemptPhase.LOST:
        return AttemptVerdict.LOST, look.why or "its process is gone, and its end was not seen"
    if look.code == 0:
        return AttemptVerdict.DONE, None
    taken, where = _taken_for(job, look), job.attempt.placement.profile
    if look.out_of_memory or (taken is not None and taken.verdict == OUT_OF_MEMORY):
        perhaps = "" if taken is None or taken.sure else "perhaps "
        return AttemptVerdict.OUT_OF_MEMORY, f"{perhaps}out of memory on {where}"
    return AttemptVerdict.FAILED, look.why or _exit_text(look.code)


def _span(seconds: float | None) -> str:
    """Return a time limit as it is written for `--time`."""
    whole = round(seconds or 0)
    if whole < 60:
        return f"{seconds:g}s"
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def _taken_for(job: JobRecord, look: AttemptStatus) -> Ending | None:
    """Return how an attempt ended, judged by its output and peak memory; None if its output was not judged."""
    if look.ending is None:
        return None
    return look.ending.beside(look.progress.peak_bytes, job.attempt.limit_bytes)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "ended, its exit code is unknown"
    return f"ended by signal {code - 128}" if code > 128 else f"exit code {code}"


def _climb(job: JobRecord, bounds: Bounds, models: Iterable[GpuModel]) -> JobRecord:
    """Send a job that ran out of memory to the next larger slice, of another model if need be."""
    attempt, known = job.attempt, list(models)
    earlier = job.attempts[-job.tries : -1] if job.tries > 1 else ()
    if attempt.unsure and any(each.unsure for each in earlier):
        why = f"{attempt.why}, but a larger slice did not help: there may be another cause"
        return job.to(JobState.FAILED, why=why)
    tried = (restarts.SliceAttempt(attempt.placement.profile, restarts.AttemptEnd.OUT_OF_MEMORY),) * job.tries
    for model in sorted(known, key=lambda model: not model.has(attempt.placement.profile)):
        if model.has(attempt.placement.profile):
            following = restarts.next_attempt(model, tried, bounds, most=job.asked.most_attempts)
            profile = following.profile and model.profile(following.profile)
            reason = following.reason
        else:
            profile = next((p for p in slices(model) if holds(p, attempt.limit_bytes + 1)), None)
            reason = f"out of memory on {attempt.placement.profile}"
        if profile and job.tries < job.asked.most_attempts:
            least = int((profile.memory_mib or 0) * MIB)
            return replace(job.to(JobState.WAITING, why=reason), at_least_bytes=least)
    last = _last(job)
    end = f"; {last}" if last else ", and no larger slice has what it needs"
    return job.to(JobState.FAILED, why=f"{attempt.why}{end}")


def _again(job: JobRecord, why: str | None) -> JobRecord:
    if job.tries >= job.asked.most_attempts:
        return job.to(JobState.FAILED, why=f"{why}; {_last(job)}")
    return job.to(JobState.WAITING, why=why)


def _last(job: JobRecord) -> str | None:
    most = job.asked.most_attempts
    return restarts.last_of(most) if job.tries >= most else None
