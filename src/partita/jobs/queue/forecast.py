"""What a waiting job is expected to need on one GPU model: memory, slices, and seconds on each.

It starts from what the user stated. `Families` remembers how earlier jobs of the family ended, which refines it.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.job import job_on, shares
from partita.jobs.memory.bounds import MIB, UNLIMITED, Bounds, holds, slices
from partita.jobs.memory.forecasters import failed, forecasters
from partita.jobs.memory.history import Ended, History
from partita.jobs.queue.record import AttemptVerdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.jobs.job import Job
    from partita.jobs.memory.forecasters import Forecaster
    from partita.jobs.queue.record import Attempt, JobRecord, StatedMemory
    from partita.mig.gpu import GpuModel, Profile


REMEMBERED = 20
"""How many of a family's newest attempts count."""

_TELLING = frozenset({AttemptVerdict.DONE, AttemptVerdict.OUT_OF_MEMORY})


def family_of(uid: int, name: str, command: tuple[str, ...]) -> str:
    """Return the family of a job: its user's jobs of the same name, or, without a name, of the same command.

    The command of an array counts as it was written, so that all its tasks are one family.
    """
    return "\0".join((str(uid), name) if name else (str(uid), "", *command))


def called(job: JobRecord) -> str:
    """Return words for a job's family."""
    return f"the name {job.name!r}" if job.name else "this command"


def owner_of(family: str) -> int:
    """Return the uid of a family's user."""
    return int(family.partition("\0")[0])


def shown_family(family: str) -> tuple[str, str | None]:
    """Return a family's name, which may be empty, and its command if that identifies it."""
    _, name, *command = family.split("\0")
    return name, " ".join(command) if command else None


@dataclass(frozen=True, slots=True)
class _EndedAttempt:
    """An attempt that has ended, and the memory declared or forecast for it in bytes."""

    attempt: Attempt
    declared: float | None


class Families:
    """Remembers how attempts ended: done or out of memory; other ends show nothing about the family.

    Args:
        forgotten: when families were forgotten, in seconds since 1970; attempts that ended before that do not count.
    """

    def __init__(self, forgotten: Mapping[str, float] | None = None) -> None:
        self._ended: dict[str, deque[_EndedAttempt]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._versions: dict[str, int] = defaultdict(int)
        self._forgotten = dict(forgotten or {})

    def add(self, job: JobRecord, attempt: Attempt) -> None:
        """Remember an attempt of a job that has ended."""
        # After an uncertain out-of-memory verdict a larger slice is tried, but the family learns nothing.
        if attempt.verdict not in _TELLING or (
            attempt.verdict is AttemptVerdict.OUT_OF_MEMORY and attempt.unsure
        ):
            return
        if (attempt.ended or 0.0) <= self._forgotten.get(job.family, -math.inf):
            return
        memory = job.asked.memory
        declared = None if memory.source == "none" else memory.bounds.upper
        self._ended[job.family].append(_EndedAttempt(attempt, declared))
        self._versions[job.family] += 1

    def forget(self, family: str, now: float) -> None:
        """Forget the attempts that have ended until now."""
        self._ended.pop(family, None)
        self._forgotten[family] = now
        self._versions[family] += 1

    @property
    def known(self) -> tuple[str, ...]:
        """The families with remembered attempts."""
        return tuple(family for family, ended in self._ended.items() if ended)

    def version(self, family: str) -> int:
        """Return a number that grows with every change of a family's history."""
        return self._versions.get(family, 0)

    def history(self, family: str) -> History:
        """Return the memory history of a family."""
        return History(
            tuple(
                Ended(
                    each.attempt.limit_bytes,
                    each.attempt.verdict is AttemptVerdict.OUT_OF_MEMORY,
                    each.declared,
                    each.attempt.peak_bytes,
                )
                for each in self._ended.get(family, ())
            )
        )

    def attempts(self, family: str) -> tuple[Attempt, ...]:
        """Return the remembered attempts of a family, the oldest first."""
        return tuple(each.attempt for each in self._ended.get(family, ()))

    def seconds(self, family: str) -> Mapping[str, float]:
        """Return the mean seconds per profile of a family's successful attempts."""
        found: dict[str, list[float]] = defaultdict(list)
        for each in self.attempts(family):
            if each.verdict is AttemptVerdict.DONE and each.began is not None and each.ended is not None:
                found[each.placement.profile].append(max(each.ended - each.began, 0.001))
        return {profile: sum(times) / len(times) for profile, times in found.items()}


DEFAULT_SECONDS = 3600.0
"""How long a job is assumed to run if nothing is known."""

TIE = 1e-3
"""Share by which a job is assumed to be slower on a whole GPU, so that ties go to smaller slices."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a job.

    Attributes:
        source: where the memory is from: `declared`, `model`, names of forecasters, several of these, or `none`.
        need: bytes its slice must have; 0 if nothing is known.
        firm: the part of `need` that a declaration or a model's weights require. The rest is from earlier jobs; it
            never asks for more than the largest slice, so that the job can begin there.
        known: seconds per profile that were given or measured; under `""` on the smallest slice that holds it.
        timed: where the seconds are from: `given`, `history`, `limit` or `default`.
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


_HISTORY = "history"


class HistoryForecaster:
    """Forecasts from the ends of earlier jobs."""

    def forecast(self, job: JobRecord, past: History) -> Bounds:  # noqa: ARG002 -- of the interface
        """Return the bounds from the family's jobs."""
        return past.bounds()


def _said(name: str, forecaster: Forecaster, job: JobRecord, past: History) -> Bounds:
    """Return the bounds of a forecaster; no bounds, and a warning, if one of another package fails."""
    try:
        return forecaster.forecast(job, past)
    except Exception as error:
        if name == _HISTORY:
            raise
        failed(name, error)
        return Bounds()


def forecast(job: JobRecord, families: Families) -> Forecast:
    """Return what is expected of a job: its stated memory, tightened by each forecaster in turn.

    The history of its family tightens a model's forecast, and wins where they contradict, unless it is of other
    models or sizes. History can only raise a declaration, and only from jobs that declared the same: a different
    declaration may mean different input, so it is trusted.
    """
    asked, past = job.asked.memory, families.history(job.family)
    if asked.source == "declared":
        past = past.declaring(asked.bounds.upper)
    elif asked.source == "model":
        past = past.forecasting(asked.bounds.upper)
    bounds, beside = asked.bounds, Bounds()  # beside: of all forecasters but history
    sources = [] if asked.source == "none" else [asked.source]
    for name, forecaster in forecasters().items():
        said = _said(name, forecaster, job, past)
        if asked.source == "declared":
            said = Bounds(said.lower)
        # Only history may contradict earlier bounds; other forecasters that do are ignored.
        if name != _HISTORY:
            if said.lower > bounds.upper or said.upper < bounds.lower:
                continue
            beside = beside.tightened(said)
        tighter = bounds.tightened(said)
        if tighter != bounds:
            bounds = tighter
            sources.append(name)
    known, timed = _known(job.asked.seconds, families.seconds(job.family), job.asked.limit_s)
    return Forecast(
        bounds,
        " and ".join(sources) or "none",
        _need(asked, past, bounds, beside),
        _firm(asked),
        known,
        timed,
    )


def _need(asked: StatedMemory, past: History, bounds: Bounds, beside: Bounds) -> float:
    """Return the bytes that a job's slice must have; 0 for the smallest one."""
    if asked.source == "none":
        # Within the bounds of other forecasters; without a history, their upper bound.
        need, more = past.need(), beside.lower + 1.0 if beside.lower else 0.0
        return min(max(need or (beside.upper if beside.upper != UNLIMITED else more), more), beside.upper)
    # Without an upper bound the smallest slice above the lower bound is tried first, then larger ones.
    return bounds.upper if bounds.upper != UNLIMITED else bounds.lower + 1.0 * (bounds.lower > 0)


def _firm(asked: StatedMemory) -> float:
    if asked.source == "declared":
        return asked.bounds.upper
    return asked.bounds.lower + 1.0 if asked.source == "model" else 0.0


def _known(
    given: Mapping[str, float], measured: Mapping[str, float], limit_s: float | None
) -> tuple[Mapping[str, float], str]:
    most = limit_s or UNLIMITED
    if measured:
        named = {p: t for p, t in given.items() if p}
        return {p: min(t, most) for p, t in (named | dict(measured)).items()}, "history"
    if given:
        return {p: min(t, most) for p, t in given.items()}, "given"
    # A job with a time limit takes no longer than that.
    return ({"": most}, "limit") if limit_s is not None else ({"": DEFAULT_SECONDS}, "default")


def largest_slice(models: Iterable[GpuModel]) -> float:
    """Return the bytes of the largest slice of these GPU models; 0 without models."""
    return max((float((p.memory_mib or 0) * MIB) for model in models for p in slices(model)), default=0.0)


def fitting(gpu: GpuModel, expected: Forecast, at_least: float, largest: float) -> tuple[Profile, ...]:
    """Return the profiles that hold a job, from small to large; none if it is too large for all.

    Args:
        gpu: the GPU model.
        expected: the job's forecast.
        at_least: bytes that its own attempts have shown it needs.
        largest: bytes of the largest slice of all GPUs that jobs may use, this model's or another's.
    """
    need = max(expected.need_here(largest), at_least)
    return tuple(profile for profile in slices(gpu) if holds(profile, need))


def seconds_on(gpu: GpuModel, profiles: tuple[Profile, ...], known: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds on each profile, from the known ones.

    A slice larger than those known is assumed to be no faster, and a smaller one slower by the ratio of the slices,
    so that no job gets a larger or smaller slice than its known times justify. A tie goes to the smaller slice.
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
    """Return a job as the disciplines see it on one GPU model; None if no profile holds it.

    Args:
        gpu: the model.
        job: the job.
        expected: its forecast.
        free: profiles that can become free.
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
