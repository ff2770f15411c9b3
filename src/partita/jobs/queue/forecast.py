"""What a waiting job is expected to need on one model of GPU: memory, slices, and seconds on each.

What its user said comes first. `Families` remembers how earlier jobs of its family ended, which tells more.
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
"""Attempts of a family that count: the newest."""

_TELLING = frozenset({AttemptVerdict.DONE, AttemptVerdict.OUT_OF_MEMORY})


def family_of(uid: int, name: str, command: tuple[str, ...]) -> str:
    """Return the family of a job: its user's jobs of that name, or, without one, of that very command.

    In an array the command counts as it was written, so that all its tasks are one family.
    """
    return "\0".join((str(uid), name) if name else (str(uid), "", *command))


def called(job: JobRecord) -> str:
    """Return what to call a job's family."""
    return f"the name {job.name!r}" if job.name else "this command"


def owner_of(family: str) -> int:
    """Return the uid of the user whose family it is."""
    return int(family.partition("\0")[0])


def shown_family(family: str) -> tuple[str, str | None]:
    """Return a family's name, empty without one, and its command if it goes by that."""
    _, name, *command = family.split("\0")
    return name, " ".join(command) if command else None


@dataclass(frozen=True, slots=True)
class _Told:
    """An attempt that has ended, and what its user had said of its memory."""

    attempt: Attempt
    declared: float | None


class Families:
    """Remembers how attempts ended: done or out of memory; whatever else happened tells nothing of the family.

    Args:
        forgotten: when users had families forgotten, in seconds since 1970: what ended before that does not count.
    """

    def __init__(self, forgotten: Mapping[str, float] | None = None) -> None:
        self._ended: dict[str, deque[_Told]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._versions: dict[str, int] = defaultdict(int)
        self._forgotten = dict(forgotten or {})

    def add(self, job: JobRecord, attempt: Attempt) -> None:
        """Remember an attempt of a job that has ended."""
        # Where memory may not have been what it wanted, a larger slice is tried, and nothing learnt.
        if attempt.verdict not in _TELLING or (
            attempt.verdict is AttemptVerdict.OUT_OF_MEMORY and attempt.unsure
        ):
            return
        if (attempt.ended or 0.0) <= self._forgotten.get(job.family, -math.inf):
            return
        memory = job.asked.memory
        declared = None if memory.source == "none" else memory.bounds.upper
        self._ended[job.family].append(_Told(attempt, declared))
        self._versions[job.family] += 1

    def forget(self, family: str, now: float) -> None:
        """Forget what has ended until now."""
        self._ended.pop(family, None)
        self._forgotten[family] = now
        self._versions[family] += 1

    @property
    def known(self) -> tuple[str, ...]:
        """The families of which something is remembered."""
        return tuple(family for family, ended in self._ended.items() if ended)

    def version(self, family: str) -> int:
        """Return a number that grows whenever what is known of a family changes."""
        return self._versions.get(family, 0)

    def history(self, family: str) -> History:
        """Return what is known of a family's memory."""
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
        """Return the attempts that are remembered of a family, the oldest first."""
        return tuple(each.attempt for each in self._ended.get(family, ()))

    def seconds(self, family: str) -> Mapping[str, float]:
        """Return the mean seconds per profile of a family's jobs that were done."""
        found: dict[str, list[float]] = defaultdict(list)
        for each in self.attempts(family):
            if each.verdict is AttemptVerdict.DONE and each.began is not None and each.ended is not None:
                found[each.placement.profile].append(max(each.ended - each.began, 0.001))
        return {profile: sum(times) / len(times) for profile, times in found.items()}


DEFAULT_SECONDS = 3600.0
"""How long a job of which nothing is known is taken to run."""

TIE = 1e-3
"""By what share of its time a job is taken to be slower on a whole GPU, which decides where all else is equal."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a job.

    Attributes:
        source: what the memory comes from: `declared`, `model`, names of forecasters, several of them, or `none`.
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


_HISTORY = "history"


class HistoryForecaster:
    """What the ends of earlier jobs say."""

    def forecast(self, job: JobRecord, past: History) -> Bounds:  # noqa: ARG002 -- the port's
        """Return the bounds that the family's jobs showed."""
        return past.bounds()


def _said(name: str, forecaster: Forecaster, job: JobRecord, past: History) -> Bounds:
    """Return what a forecaster says; nothing, and a warning, if one of another package fails."""
    try:
        return forecaster.forecast(job, past)
    except Exception as error:
        if name == _HISTORY:
            raise
        failed(name, error)
        return Bounds()


def forecast(job: JobRecord, families: Families) -> Forecast:
    """Return what is expected of a job: what was stated of it, tightened by each forecaster in turn.

    The history of its family tightens what a model says, and where they contradict, it is believed, unless it is that
    of other models or sizes. A declaration it only ever raises, and only by what jobs that declared the same went
    through: whoever declares something else than before may have changed what the command reads, and is believed.
    """
    asked, past = job.asked.memory, families.history(job.family)
    if asked.source == "declared":
        past = past.declaring(asked.bounds.upper)
    elif asked.source == "model":
        past = past.forecasting(asked.bounds.upper)
    bounds, beside = asked.bounds, Bounds()  # beside: what all but history say
    sources = [] if asked.source == "none" else [asked.source]
    for name, forecaster in forecasters().items():
        said = _said(name, forecaster, job, past)
        if asked.source == "declared":
            said = Bounds(said.lower)
        # Of those that contradict what was known before, history alone is believed.
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
    """Return the bytes that a job's slice should have; 0 for the smallest one."""
    if asked.source == "none":
        # Within what other forecasters say; where history says nothing, as much as they say.
        need, more = past.need(), beside.lower + 1.0 if beside.lower else 0.0
        return min(max(need or (beside.upper if beside.upper != UNLIMITED else more), more), beside.upper)
    # Without an upper bound the smallest slice is tried first, and the ladder climbed from there.
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
