"""What a waiting job is expected to need on one model of GPU: memory, slices, and seconds on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.job import job_on, shares
from partita.jobs.memory.bounds import UNLIMITED, Bounds, holds, slices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.job import Job
    from partita.jobs.queue.families import Families
    from partita.jobs.queue.record import JobRecord
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
        known: seconds per profile that were given or measured; under `""` on the smallest slice that holds it.
        timed: what the seconds come from: `given`, `history` or `default`.
    """

    bounds: Bounds
    source: str
    need: float
    known: Mapping[str, float]
    timed: str


def forecast(job: JobRecord, families: Families) -> Forecast:
    """Return what is expected of a job.

    The history of its family tightens what a model says, and where they contradict, it is believed. A declaration it
    only ever raises: whoever declares more than was needed before may have changed what the command reads.
    """
    asked, history = job.asked.memory, families.history(job.family).bounds()
    if asked.source == "declared":
        history = Bounds(history.lower)
    bounds = asked.bounds.tightened(history)
    sources = [] if asked.source == "none" else [asked.source]
    if bounds != asked.bounds:
        sources.append("history")
    # Without an upper bound the smallest slice is tried first, and the ladder climbed from there.
    need = max(bounds.upper if bounds.upper != UNLIMITED else bounds.lower + 1 * (bounds.lower > 0), 0.0)
    known, timed = _known(job.asked.seconds, families.seconds(job.family))
    return Forecast(bounds, " and ".join(sources) or "none", need, known, timed)


def _known(given: Mapping[str, float], measured: Mapping[str, float]) -> tuple[Mapping[str, float], str]:
    if measured:
        return {**{p: t for p, t in given.items() if p}, **measured}, "history"
    if given:
        return given, "given"
    return {"": DEFAULT_SECONDS}, "default"


def fitting(gpu: GpuModel, expected: Forecast, at_least: float) -> tuple[Profile, ...]:
    """Return the profiles that hold a job, from small to large; none if it is larger than any.

    Where no slice has the upper bound of a forecast, but the largest exceeds the lower one, that is tried. A
    declaration is taken at its word.
    """
    climbed = slices(gpu)
    found = tuple(profile for profile in climbed if holds(profile, max(expected.need, at_least)))
    if found or "declared" in expected.source:
        return found
    return tuple(p for p in climbed[-1:] if holds(p, max(expected.bounds.lower + 1, at_least)))


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


def job_for(gpu: GpuModel, job: JobRecord, expected: Forecast, free: frozenset[str]) -> Job | None:
    """Return a job as the disciplines see it on one model of GPU; None if nothing holds it.

    Args:
        gpu: the model.
        job: which.
        expected: of it.
        free: profiles that can come free.
    """
    profiles = fitting(gpu, expected, job.at_least_bytes)
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
