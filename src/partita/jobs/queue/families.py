"""What is known of jobs from those of their family that ended before."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from partita.jobs.memory.history import Ended, History
from partita.jobs.queue.record import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.queue.record import Attempt

REMEMBERED = 20
"""Attempts of a family that count: the newest."""

_TELLING = frozenset({Verdict.DONE, Verdict.OUT_OF_MEMORY})


def family_of(uid: int, name: str, command: tuple[str, ...]) -> str:
    """Return the family of a job: its user's jobs of that name, or, without one, of that very command.

    In an array the command counts as it was written, so that all its tasks are one family.
    """
    return "\0".join((str(uid), name) if name else (str(uid), "", *command))


class Families:
    """Remembers how attempts ended: done or out of memory; whatever else happened tells nothing of the family."""

    def __init__(self) -> None:
        self._ended: dict[str, deque[Attempt]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._versions: dict[str, int] = defaultdict(int)

    def add(self, family: str, attempt: Attempt) -> None:
        """Remember an attempt that has ended."""
        if attempt.verdict in _TELLING:
            self._ended[family].append(attempt)
            self._versions[family] += 1

    def version(self, family: str) -> int:
        """Return a number that grows whenever more is known of a family."""
        return self._versions.get(family, 0)

    def history(self, family: str) -> History:
        """Return what is known of a family's memory."""
        ended = self._ended.get(family, ())
        return History(
            tuple(Ended(each.limit_bytes, each.verdict is Verdict.OUT_OF_MEMORY) for each in ended)
        )

    def seconds(self, family: str) -> Mapping[str, float]:
        """Return the mean seconds per profile of a family's jobs that were done."""
        found: dict[str, list[float]] = defaultdict(list)
        for each in self._ended.get(family, ()):
            if each.verdict is Verdict.DONE and each.began is not None and each.ended is not None:
                found[each.placement.profile].append(max(each.ended - each.began, 0.001))
        return {profile: sum(times) / len(times) for profile, times in found.items()}
