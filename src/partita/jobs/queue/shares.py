"""What each user has had of the GPUs, the longer ago the less it counts: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HALF_LIFE_S = 7 * 86400.0
"""Seconds after which what a user has had counts half, unless the daemon is told otherwise."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a user has had: as many GPU seconds as it counted for at a moment."""

    gpu_seconds: float
    at: float


class Shares:
    """All users' shares; they decay exponentially.

    Args:
        had: by user.
        half_life_s: seconds after which what a user has had counts half.
    """

    def __init__(self, had: Mapping[str, Share], half_life_s: float = HALF_LIFE_S) -> None:
        self._had = dict(had)
        self._half_life_s = half_life_s

    def at(self, now: float) -> dict[str, float]:
        """Return the GPU seconds that each user's share counts for."""
        return {user: self._left(share, now) for user, share in self._had.items()}

    def plus(self, user: str, gpu_seconds: float, now: float) -> Share:
        """Return a user's share after they have had some more."""
        share = self._had.get(user, Share(0.0, now))
        return Share(self._left(share, now) + gpu_seconds, now)

    def put(self, shares: Mapping[str, Share]) -> None:
        """Take in new shares of users."""
        self._had |= shares

    def _left(self, share: Share, now: float) -> float:
        # A clock that was set back makes nobody's share grow.
        return share.gpu_seconds * math.exp2(-max(now - share.at, 0.0) / self._half_life_s)
