"""What services are asked: how much, and by queries of which sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Shares = Mapping[int, float]
"""Share of the queries by batch size, adding up to 1."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A moment's demand.

    Attributes:
        rates: items/s by service.
        batches: shares of batch sizes by service, of those for which they are known.
    """

    rates: Mapping[str, float]
    batches: Mapping[str, Shares] = field(default_factory=dict)


def distance(one: Shares, other: Shares) -> float:
    """Return the total variation between two distributions: the share of queries that changed size, 0 to 1."""
    return sum(abs(one.get(size, 0.0) - other.get(size, 0.0)) for size in one.keys() | other.keys()) / 2
