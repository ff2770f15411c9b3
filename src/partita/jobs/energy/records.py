"""Records of energy: what somebody took, and how a counter stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.jobs.energy.attribution import Owner


@dataclass(frozen=True, slots=True)
class Energy:
    """What somebody took.

    Attributes:
        idle_j: their share of what the GPUs draw without work, in joules.
        active_j: what they took beyond it.
        seconds: for which a counter was read; of all their instances together.
        missing_s: seconds for which none could be read: what they took then is in none of the sums.
    """

    idle_j: float = 0.0
    active_j: float = 0.0
    seconds: float = 0.0
    missing_s: float = 0.0

    @property
    def joules(self) -> float | None:
        """All of it; None if no counter was ever read meanwhile."""
        return self.idle_j + self.active_j if self.seconds > 0.0 else None


@dataclass(frozen=True, slots=True)
class Entry:
    """What one owner took on one GPU in a moment or more."""

    gpu: str
    owner: Owner
    energy: Energy


@dataclass(frozen=True, slots=True)
class Counter:
    """A GPU's counter when it was last read.

    Attributes:
        at: when, in seconds.
        joules: None if it could not be read; `why` says why.
        idle_w: the least that the GPU was seen to draw, or what is known of it.
    """

    gpu: str
    uuid: str
    at: float
    joules: float | None
    why: str | None = None
    idle_w: float | None = None
