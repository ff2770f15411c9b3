"""Requests that got an error for an answer: counted by reason, and logged without letting anybody fill the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger("partita.serve.requests")
_EVERY_S = 5.0
_MOST_TEXT = 300

Kind = tuple[str, str, str]
"""Transport (`http`, `grpc`), status (`400`, `INVALID_ARGUMENT`), reason (one word of a fixed list)."""


class Refusals:
    """Counts errors sent to clients; of each kind one is logged in so many seconds, with how many there were since.

    Attributes:
        counted: errors by their kind.

    Args:
        clock: seconds, for tests.
        every_s: seconds between two lines of one kind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, every_s: float = _EVERY_S) -> None:
        self.counted: Counter[Kind] = Counter()
        self._clock, self._every_s = clock, every_s
        self._logged: dict[Kind, tuple[float, int]] = {}  # when last, and how many had been counted then

    def count(self, kind: Kind, peer: object, asked: str, what: str) -> None:
        """Count an error.

        Args:
            kind: of the error.
            peer: who asked: an address and its port, or None.
            asked: method and path, without a query and without headers: those may hold secrets.
            what: the client was told.
        """
        self.counted[kind] += 1
        now, (last, before) = self._clock(), self._logged.get(kind, (-self._every_s, 0))
        if now - last < self._every_s:
            return
        self._logged[kind] = now, self.counted[kind]
        transport, status, reason = kind
        more = self.counted[kind] - before - 1
        unavailable = status.startswith("5") or status in {"UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"}
        _LOG.log(
            logging.WARNING if unavailable else logging.INFO,
            "%s %s (%s) to %s: %s: %s%s",
            transport,
            status,
            reason,
            _address(peer),
            _printable(asked),
            _printable(what),
            f"; {more} more like it before" if more else "",
            extra={
                "event": "refused",
                "transport": transport,
                "status": status,
                "reason": reason,
                "peer": _address(peer),
                "more": more,
            },
        )


def _address(peer: object) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in str(peer[0]) else f"{peer[0]}:{peer[1]}"
    return _printable(str(peer)) if peer else "a client"


def _printable(text: str) -> str:
    """Return a text that cannot end a line, or do anything else to a terminal."""
    cut = text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 3] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]
