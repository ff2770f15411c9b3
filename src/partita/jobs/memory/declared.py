"""The user says how much memory a job needs."""

from __future__ import annotations

from dataclasses import dataclass

from partita.jobs.memory.bounds import Bounds


@dataclass(frozen=True, slots=True)
class Declared:
    """`declared`: taken at its word, as the upper bound. The lower one is nothing: people round up.

    Attributes:
        need: bytes.
    """

    need: float

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes."""
        return Bounds(0.0, self.need)
