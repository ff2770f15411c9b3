"""What is known of jobs from those of their family that ended before."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.memory.history import Ended, History
from partita.jobs.queue.record import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.queue.record import Attempt, JobRecord

REMEMBERED = 20
"""Attempts of a family that count: the newest."""

_TELLING = frozenset({Verdict.DONE, Verdict.OUT_OF_MEMORY})


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
        if attempt.verdict not in _TELLING or (attempt.verdict is Verdict.OUT_OF_MEMORY and attempt.unsure):
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
                    each.attempt.verdict is Verdict.OUT_OF_MEMORY,
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
            if each.verdict is Verdict.DONE and each.began is not None and each.ended is not None:
                found[each.placement.profile].append(max(each.ended - each.began, 0.001))
        return {profile: sum(times) / len(times) for profile, times in found.items()}
