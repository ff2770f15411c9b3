"""GPUs that are left alone for a while because something could not be made on them."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S, LONGEST_S = 30.0, 600.0


@dataclass(frozen=True, slots=True)
class _Rest:
    until: float
    seconds: float
    why: str


class Resting:
    """Remembers them; each rest in a row is twice as long as the one before."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def rest(self, gpu: str, why: str, now: float) -> None:
        """Leave a GPU alone."""
        before = self._rests.get(gpu)
        seconds = min(2.0 * before.seconds, LONGEST_S) if before else FIRST_S
        self._rests[gpu] = _Rest(now + seconds, seconds, why)

    def wake(self, gpu: str) -> None:
        """Forget what was wrong with a GPU: something was made on it."""
        self._rests.pop(gpu, None)

    def gpus(self, now: float) -> frozenset[str]:
        """Return those that rest now."""
        return frozenset(gpu for gpu, rest in self._rests.items() if rest.until > now)

    def why(self, now: float) -> str | None:
        """Return what is wrong with one that rests now; None if none does."""
        return next((rest.why for rest in self._rests.values() if rest.until > now), None)
