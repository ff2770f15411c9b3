"""How often a failed action is tried again, and how long is waited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounded retries with exponential back-off and jitter.

    Attributes:
        tries: how often an action is tried at most.
        first: seconds before the second try.
        factor: by how much each wait is longer than the one before.
        most: longest wait in seconds.
        jitter: share of a wait that is left to chance, so that failures of one cause do not come back as one.
    """

    tries: int = 5
    first: float = 1.0
    factor: float = 2.0
    most: float = 60.0
    jitter: float = 0.5

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after so many failures (1 or more)."""
        full = min(self.most, self.first * self.factor ** (failures - 1))
        return full * (1 - self.jitter * rng.random())
