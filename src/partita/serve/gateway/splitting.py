"""A query of more rows than a worker takes at once: asked in parts, and answered whole or not at all."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from partita.serve.gateway.values import Outcome
from partita.serve.gateway.waiting import ENDED, RUNNING, Asked, Waiting
from partita.serve.rows import UnlikePartsError, split_off, stacked_answers
from partita.serve.tensors import Answer

if TYPE_CHECKING:
    from collections.abc import Hashable

    from partita.serve.gateway.dispatcher import End
    from partita.serve.gateway.fleet import Fleet
    from partita.serve.tensors import Query

AT_ONCE = 64
"""Parts of one query that wait or run at the same time: the next ones follow as these end, so that no query fills the
queue, or holds up the event loop, by itself."""


class SplitQuery:
    """Parts of one query. Each has all of its rows' inputs, its deadline, and a second try of its own.

    Attributes:
        whole: the query as it came.
        under_way: its parts that wait or run.

    Args:
        whole: as it came, or was waiting.
        query: what it asks.
        alike: what its parts have in common with queries that can share a batch.
    """

    def __init__(self, whole: Waiting, query: Query, alike: Hashable) -> None:
        whole.split = self
        whole.state = RUNNING
        self.whole = whole
        self.under_way: dict[Waiting, None] = {}
        self._left = deque([(whole.row, query, whole.tries)])
        self._alike = alike
        self._begun = math.inf
        self._answers: dict[int, tuple[int, Answer]] = {}

    @property
    def more(self) -> bool:
        """Whether another part is to be asked now."""
        return bool(self._left) and self.whole.state != ENDED and len(self.under_way) < AT_ONCE

    def next(self, size: int) -> Waiting:
        """Return the next part, of so many rows at most; there must be one."""
        row, query, tries = self._left.popleft()
        first, rest = split_off(query, size)
        if rest is not None:
            self._left.appendleft((row + size, rest, tries))
        whole = self.whole
        assert whole.payload is not None  # noqa: S101 -- it was asked
        asked = Asked(first, whole.payload.asker)
        part = Waiting(
            first.batch,
            whole.arrived,
            whole.allowed,
            payload=asked,
            alike=self._alike,
            size_class=whole.input_class,
        )
        part.split, part.row, part.tries = self, row, tries
        self.under_way[part] = None
        return part

    def again(self, part: Waiting) -> None:
        """Let a part be asked in smaller ones."""
        del self.under_way[part]
        assert part.payload is not None  # noqa: S101 -- it was asked
        self._left.appendleft((part.row, part.payload.query, part.tries))

    def ended(self, end: End, now: float) -> End | None:
        """Hear how a part has ended; return how the whole has, if it has by that.

        The whole is answered when all parts are. Where one is not, neither is the whole, for the same reason.
        """
        part, outcome, reason, answer = end
        self.under_way.pop(part, None)
        if self.whole.state == ENDED:
            return None
        whole = self.whole
        if part.tries:
            whole.tries, whole.worker = max(whole.tries, part.tries), part.worker
            self._begun = min(self._begun, part.begun)
            whole.begun, whole.seconds = self._begun, now - self._begun
        if outcome is Outcome.ANSWERED and answer is not None:
            self._answers[part.row] = part.batch, answer
            if self._left or self.under_way:
                return None
            answer, outcome = self._together()
        whole.state = ENDED
        return end._replace(query=whole, outcome=outcome, reason=reason, answer=answer)

    def _part(self, query: Query, row: int) -> Waiting:
        whole = self.whole
        asker = whole.payload.asker if whole.payload else None
        assert asker is not None  # noqa: S101 -- it was asked
        part = Waiting(
            query.batch, whole.arrived, whole.allowed, payload=Asked(query, asker), alike=self._alike
        )
        part.split, part.row = self, row
        self.under_way[part] = None
        return part

    def _together(self) -> tuple[Answer, Outcome]:
        try:
            found = [self._answers[row] for row in sorted(self._answers)]
            whole = stacked_answers([answer for _, answer in found], [rows for rows, _ in found])
        except UnlikePartsError as error:
            return Answer(error=f"it was run in parts, and {error}"), Outcome.FAILED
        return whole, Outcome.ANSWERED


def part_size(fleet: Fleet, batch: int, left: float, size_class: int = 0) -> int:
    """Return the rows that a query of a batch size is run in at a time: all of them if a worker takes them in time.

    Else as many as one does, and where none does, as the largest batch has; 0 if no worker is there or awaited.

    Args:
        fleet: the workers.
        batch: rows of the query.
        left: seconds that it has.
        size_class: of its inputs.
    """
    most = min(fleet.most_awaited, batch)
    quickest = fleet.quickest[size_class]
    if not fleet.most or quickest[most] <= left:
        return most
    # A larger batch never takes less.
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if quickest[middle] <= left else (low, middle)
    return low or most


def least_seconds(fleet: Fleet, batch: int, size: int, size_class: int = 0) -> float:
    """Return the seconds that all workers need at least for a query in parts of so many rows; 0 without workers."""
    rate = 0.0
    for group in fleet.groups:
        rows = min(size, group.most)
        slots = sum(each.hello.processes for each in group.members)
        rate += slots * rows / group.seconds[size_class][rows]
    return batch / rate if rate else 0.0
