"""Why a job waits, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.queue.families import called
from partita.jobs.queue.forecast import fitting, largest_slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.jobs.queue.forecast import Forecast
    from partita.jobs.queue.record import JobRecord
    from partita.mig.gpu import GpuModel, Profile

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Situation:
    """What the reasons of a moment have in common.

    Attributes:
        models: of the GPUs that jobs may use.
        discipline: its name.
        used: GPU seconds each user has had.
        least: the user who has had the least of those who wait.
        free: profiles of which an instance could be put to use now.
        possible: profiles of which one could come free once the queue's own jobs have ended.
        scattered: profiles for which some GPU has the slices, but not together.
        until: when a slice of a profile is expected to come free, in words, by profile.
        ahead: jobs before each waiting one in the order of predicted starts.
        resting: what is wrong with GPUs that are left alone for a while.
    """

    models: Sequence[GpuModel]
    discipline: str
    used: Mapping[str, float]
    least: str
    free: frozenset[str]
    possible: frozenset[str]
    scattered: frozenset[str]
    until: Mapping[str, str]
    ahead: Mapping[int, int]
    resting: str | None = None


def reason(job: JobRecord, expected: Forecast, now: Situation) -> str:
    """Return why a job waits."""
    if not now.models:
        return now.resting or "no GPU in MIG mode is there"
    largest = largest_slice(now.models)
    found = [fitting(model, expected, job.at_least_bytes, largest) for model in now.models]
    fits = [profiles[0] for profiles in found if profiles]
    if not fits:
        return _too_large(job, expected, largest) if largest else memory_unknown(now.models)
    parts = [job.why] if job.why else []
    parts.append(_needs(fits[0], job, expected, largest))
    parts.append(_before(job, fits, now))
    return "; ".join(parts)


def why_on_the_largest(job: JobRecord, expected: Forecast, largest: float) -> str | None:
    """Return why a job that may need more than the largest slice begins there, and what to do; None if it does not.

    Jobs of its family ran out of memory even there, which may have been a fault that is mended; or only the upper
    bound of its model's forecast is more than any slice has.
    """
    if not largest or expected.need <= expected.need_here(largest):
        return None
    if job.asked.memory.source == "model" and expected.bounds.lower < largest:
        return (
            f"by {expected.source} it needs {expected.bounds.lower / GIB:.3g} to {expected.bounds.upper / GIB:.3g} "
            f"GiB, and the largest slice has {largest / GIB:.3g}; --memory says it more exactly"
        )
    return (
        f"earlier jobs of {called(job)} ran out of memory on the largest slice; if that was a fault, "
        f"`partita forget {job.name or job.id}` begins afresh, and so does a new --memory"
    )


def _needs(profile: Profile, job: JobRecord, expected: Forecast, largest: float) -> str:
    if job.at_least_bytes > expected.need:
        return f"needs {profile.name}"
    if (why := why_on_the_largest(job, expected, largest)) is not None:
        return f"begins on {profile.name}: {why}"
    if not expected.need:
        return f"begins on {profile.name}, nothing is known of its memory"
    source = {"declared": "declared"}.get(expected.source, f"by {expected.source}")
    return f"needs {profile.name} ({expected.need / GIB:.3g} GiB {source})"


def _before(job: JobRecord, fits: Sequence[Profile], now: Situation) -> str:
    user = job.submitter.name
    if (
        now.discipline == "fair"
        and user != now.least
        and now.used.get(user, 0.0) > now.used.get(now.least, 0.0)
    ):
        return f"user {user} has had more than their share, {now.least} goes first"
    ahead = now.ahead.get(job.number, 0)
    if not any(profile.name in now.possible for profile in fits):
        return "services or others hold all such slices"
    if not any(profile.name in now.free for profile in fits):
        apart = any(profile.name in now.scattered for profile in fits)
        busy = "slices are free, but not together" if apart else "all busy"
        until = now.until.get(fits[0].name)
        if until:
            busy += f" until ~{until}"
        return busy + (f", {_jobs(ahead)} first" if ahead else "")
    return f"{_jobs(ahead)} first" if ahead else "its slice is kept for a job before it, or it starts now"


def _jobs(count: int) -> str:
    return "1 job goes" if count == 1 else f"{count:,} jobs go"


def memory_unknown(models: Iterable[GpuModel]) -> str:
    """Return why jobs cannot be placed on GPUs of whose slices no source says the memory."""
    names = ", ".join(dict.fromkeys(model.name for model in models))
    return f"the memory of slices of {names} is not known: give a file that says it with --gpus-file"


def _too_large(job: JobRecord, expected: Forecast, largest: float) -> str:
    need = max(expected.need_here(largest), job.at_least_bytes)
    return (
        f"larger than any slice of the GPUs here: needs {need / GIB:.3g} GiB of at most {largest / GIB:.3g}"
    )
