"""The stream of server-sent events: numbered, and kept up to a limit for readers that are behind.

A reader is nothing but a position. One that falls behind what is kept, or comes back too late, is sent `reset` and
goes on from the newest event; memory does not grow with readers, whatever they do.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.documents.codec import Value

Named = tuple[str, "Value | tuple[Value, ...]"]
"""An event: its name and its document."""

MOST_BYTES = 8 << 20
"""What is kept of the stream for readers that are behind."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events of one look: the first one's number, and each event as it is sent."""

    first: int
    events: tuple[bytes, ...]
    size: int


class EventStream:
    """Numbered events, of which the newest are kept.

    Numbers begin at the time in microseconds: another process goes on above all that this one can have sent, so that
    a reader's `Last-Event-ID` of an earlier process is known to be old.

    Args:
        most_bytes: of events that are kept.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.last = time.time_ns() // 1000
        self._most = most_bytes
        self._kept: deque[_Batch] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no more events come."""
        return self._closed

    def publish(self, events: Iterable[Named]) -> None:
        """Send events, each with its name, to all readers."""
        first = self.last + 1
        made = []
        for name, document in events:
            self.last += 1
            made.append(encoded(name, document, self.last))
        if not made:
            return
        batch = _Batch(first, tuple(made), sum(map(len, made)))
        self._kept.append(batch)
        self._size += batch.size
        while self._size > self._most and len(self._kept) > 1:
            self._size -= self._kept.popleft().size
        self._wake()

    def close(self) -> None:
        """End the stream for all readers."""
        self._closed = True
        self._wake()

    def after(self, number: int) -> bytes | None:
        """Return all events after one, as they are sent; None if some are not kept, or none has that number."""
        if number == self.last:
            return b""
        oldest = self._kept[0].first - 1 if self._kept else self.last
        if not oldest <= number < self.last:
            return None
        parts: list[bytes] = []
        for batch in reversed(self._kept):
            if batch.first <= number:
                parts += reversed(batch.events[number - batch.first + 1 :])
                break
            parts += reversed(batch.events)
        return b"".join(reversed(parts))

    async def wait(self, number: int, seconds: float) -> bool:
        """Wait until there is an event after one, or the stream is closed; return False after so many seconds."""
        if self.last == number and not self._closed:
            try:
                await asyncio.wait_for(self._news.wait(), seconds)
            except TimeoutError:
                return False
        return True

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def encoded(name: str, document: Value | tuple[Value, ...], number: int | None = None) -> bytes:
    """Return an event as it is sent (HTML standard, section 9.2)."""
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return head.encode() + b"data: " + msgspec.json.encode(document) + b"\n\n"
