"""A forecast with its parts, and what was taken for granted in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.jobs.memory.bounds import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """What a model is expected to need.

    Attributes:
        parts: bytes, by what they are for. The bounds are their sums.
        notes: what was taken for granted.
        facts: of the model, for whoever looks behind the forecast; plain data.
    """

    parts: Mapping[str, Bounds]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes, CUDA context included."""
        parts = self.parts.values()
        return Bounds(sum(part.lower for part in parts), sum(part.upper for part in parts))
