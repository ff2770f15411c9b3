"""The rates at which services are asked, as `partita run` plans from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from partita.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

WINDOW_S = 30
"""Seconds of the past that count."""
LARGEST = 1_024
"""Rows of the largest queries that plans know."""

LEAST = 100
"""Queries in the window from which a service's rate is told. A test query to an idle service says nothing of what it
will be asked, and a plan for so little would take from it what it needs a moment later."""


class Observed:
    """Items and batch sizes of the last `WINDOW_S` seconds, second by second; refused queries count too."""

    __slots__ = ("_first", "_seconds")

    def __init__(self) -> None:
        self._seconds: dict[int, dict[int, int]] = {}
        self._first: int | None = None

    def add(self, batch: int, now: float) -> None:
        """Count a query."""
        second = int(now)
        counts = self._seconds.get(second)
        if counts is None:
            counts = self._seconds[second] = {}
            if self._first is None:
                self._first = second
            self._forget(second)
        counts[batch] = counts.get(batch, 0) + 1

    def queries(self, now: float) -> dict[int, int]:
        """Return the queries in the window by batch size."""
        self._forget(int(now))
        total: dict[int, int] = {}
        for counts in self._seconds.values():
            for batch, count in counts.items():
                total[batch] = total.get(batch, 0) + count
        return dict(sorted(total.items()))

    def span(self, now: float) -> float:
        """Return the seconds of the window in which queries could have come; at least 1."""
        if self._first is None:
            return 1.0
        return min(float(WINDOW_S), max(1.0, now - self._first))

    def _forget(self, second: int) -> None:
        for old in [each for each in self._seconds if each <= second - WINDOW_S]:
            del self._seconds[old]
        if not self._seconds:
            self._first = None


def rates(services: Iterable[tuple[str, Observed]], now: float) -> dict[str, object]:
    """Return the rate in items/s and the shares of batch sizes of services that were asked often enough for it."""
    found: dict[str, object] = {}
    for name, observed in services:
        queries = observed.queries(now)
        total = sum(queries.values())
        if total >= LEAST:
            items = sum(batch * count for batch, count in queries.items())
            found[name] = {
                "rate": round(items / observed.span(now), 3),
                "batches": {str(batch): round(count / total, 6) for batch, count in queries.items()},
            }
    return found


def write_rates(path: Path, found: Mapping[str, object]) -> None:
    """Write what was observed, so that nobody ever reads half of it.

    Raises:
        PartitaError: it cannot be written.
    """
    with replacing(path) as stream:
        stream.write(json.dumps(found) + "\n")
