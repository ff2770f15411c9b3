"""What a waiting job is expected to need on one model of GPU: memory, slices, and seconds on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.job import job_on, shares
from partita.jobs.memory.bounds import MIB, UNLIMITED, Bounds, holds, slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.jobs.job import Job
    from partita.jobs.memory.history import History
    from partita.jobs.queue.families import Families
    from partita.jobs.queue.record import JobRecord, Memory
    from partita.mig.gpu import GpuModel, Profile

DEFAULT_SECONDS = 3600.0
"""How long a job of which nothing is known is taken to run."""

TIE = 1e-3
"""By what share of its time a job is taken to be slower on a whole GPU, which decides where all else is equal."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a job.

    Attributes:
        source: what the memory comes from: `declared`, `model`, `history`, several of them, or `none`.
        need: bytes its slice must have; 0 where nothing is known.
        firm: bytes of these that somebody's word or a model's weights stand for. The rest is what earlier jobs went
            through, which never asks for more than the largest slice there is: a job begins there all the same.
        known: seconds per profile that were given or measured; under `""` on the smallest slice that holds it.
        timed: what the seconds come from: `given`, `history`, `limit` or `default`.
    """

    bounds: Bounds
    source: str
    need: float
    firm: float
    known: Mapping[str, float]
    timed: str

    def need_here(self, largest: float) -> float:
        """Return the bytes its slice must have where no slice has more than `largest`."""
        return min(self.need, max(largest, self.firm))


def forecast(job: JobRecord, families: Families) -> Forecast:
    """Return what is expected of a job.

    The history of its family tightens what a model says, and where they contradict, it is believed, unless it is that
    of other models or sizes. A declaration it only ever raises, and only by what jobs that declared the same went
    through: whoever declares something else than before may have changed what the command reads, and is believed.
    """
    asked, past = job.asked.memory, families.history(job.family)
    if asked.source == "declared":
        past = past.declaring(asked.bounds.upper)
        history = Bounds(past.bounds().lower)
    else:
        past = past.forecasting(asked.bounds.upper) if asked.source == "model" else past
        history = past.bounds()
    bounds = asked.bounds.tightened(history)
    sources = [] if asked.source == "none" else [asked.source]
    if bounds != asked.bounds:
        sources.append("history")
    known, timed = _known(job.asked.seconds, families.seconds(job.family), job.asked.limit_s)
    return Forecast(
        bounds, " and ".join(sources) or "none", _need(asked, past, bounds), _firm(asked), known, timed
    )


def _need(asked: Memory, past: History, bounds: Bounds) -> float:
    """Return the bytes that a job's slice should have; 0 for the smallest one."""
    if asked.source == "none":
        return past.need()
    # Without an upper bound the smallest slice is tried first, and the ladder climbed from there.
    return bounds.upper if bounds.upper != UNLIMITED else bounds.lower + 1.0 * (bounds.lower > 0)


def _firm(asked: Memory) -> float:
    if asked.source == "declared":
        return asked.bounds.upper
    return asked.bounds.lower + 1.0 if asked.source == "model" else 0.0


def _known(
    given: Mapping[str, float], measured: Mapping[str, float], limit_s: float | None
) -> tuple[Mapping[str, float], str]:
    most = limit_s or UNLIMITED
    if measured:
        told = {p: t for p, t in given.items() if p}
        return {p: min(t, most) for p, t in (told | dict(measured)).items()}, "history"
    if given:
        return {p: min(t, most) for p, t in given.items()}, "given"
    # Of a job that is ended after a time it is known that it takes no longer.
    return ({"": most}, "limit") if limit_s is not None else ({"": DEFAULT_SECONDS}, "default")


def largest_slice(models: Iterable[GpuModel]) -> float:
    """Return the bytes of the largest slice that GPUs of these models can have; 0 without any."""
    return max((float((p.memory_mib or 0) * MIB) for model in models for p in slices(model)), default=0.0)


def fitting(gpu: GpuModel, expected: Forecast, at_least: float, largest: float) -> tuple[Profile, ...]:
    """Return the profiles that hold a job, from small to large; none if it is larger than any.

    Args:
        gpu: the model of GPU.
        expected: of the job.
        at_least: bytes that its own attempts have shown it to need.
        largest: bytes of the largest slice of all GPUs that jobs may use, this model's or another's.
    """
    need = max(expected.need_here(largest), at_least)
    return tuple(profile for profile in slices(gpu) if holds(profile, need))


def seconds_on(gpu: GpuModel, profiles: tuple[Profile, ...], known: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds on each profile, from those that are known.

    A larger slice than those known is taken to be no faster, and a smaller one slower by the ratio of the slices: so
    nothing is given more, or cut smaller, than what is known of it justifies. A tie goes to the smaller slice.
    """
    share = shares(gpu)
    named = {gpu.profile(name).name: t for name, t in known.items() if name and gpu.has(name)}
    if not named:
        named = {profiles[0].name: known.get("", DEFAULT_SECONDS)}
    times = sorted((share[name], t) for name, t in named.items())
    return {
        p.name: (named.get(p.name) or _scaled(share[p.name], times)) * (1 + TIE * share[p.name])
        for p in profiles
    }


def _scaled(share: float, times: list[tuple[float, float]]) -> float:
    smaller = [t for have, t in times if have <= share]
    if smaller:
        return min(smaller)
    have, t = times[0]
    return t * have / share


def job_for(
    gpu: GpuModel, job: JobRecord, expected: Forecast, free: frozenset[str], largest: float
) -> Job | None:
    """Return a job as the disciplines see it on one model of GPU; None if nothing holds it.

    Args:
        gpu: the model.
        job: which.
        expected: of it.
        free: profiles that can come free.
        largest: bytes of the largest slice of all GPUs that jobs may use.
    """
    profiles = fitting(gpu, expected, job.at_least_bytes, largest)
    if not any(profile.name in free for profile in profiles):
        return None
    seconds = seconds_on(gpu, profiles, expected.known)
    return job_on(
        gpu,
        job.number,
        {profile: t for profile, t in seconds.items() if profile in free},
        arrival=job.submitted,
        user=job.submitter.name,
        priority=job.priority,
    )
