"""What the gateway logs on stderr, for people or for programs, and how many errors clients were sent."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEVELS = {"partita": logging.INFO, "asyncio": logging.ERROR, "grpc": logging.ERROR}


_KEPT = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with what the event was logged with (`extra`)."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told: dict[str, Any] = {
            "time": _time(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told.update({key: value for key, value in vars(record).items() if key not in _KEPT})
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level where it is more than news, and text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback below where there is one."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        message = record.getMessage()
        if not message.isprintable():  # what a worker said last may be anything
            message = message.encode("unicode_escape").decode()
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{message}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


@contextmanager
def logged(*, as_json: bool) -> Iterator[None]:
    """Write on stderr, while the block runs, everything of Partita's log, and of others' what is an error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    loggers = [(logging.getLogger(name), level) for name, level in _LEVELS.items()]
    before = [logger.level for logger, _ in loggers]
    for logger, level in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for (logger, _), level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def _time(record: logging.LogRecord, form: str) -> str:
    return f"{time.strftime(form, time.gmtime(record.created))}.{int(record.msecs):03d}Z"


_LOG = logging.getLogger("partita.serve.requests")


_EVERY_S = 5.0


_MOST_TEXT = 300


ErrorKind = tuple[str, str, str]
"""Transport (`http`, `grpc`), status (`400`, `INVALID_ARGUMENT`), reason (one word of a fixed list)."""


class ErrorCounter:
    """Counts errors sent to clients; of each kind one is logged in so many seconds, with how many there were since.

    Attributes:
        counted: errors by their kind.

    Args:
        clock: seconds, for tests.
        every_s: seconds between two lines of one kind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, every_s: float = _EVERY_S) -> None:
        self.counted: Counter[ErrorKind] = Counter()
        self._clock, self._every_s = clock, every_s
        self._logged: dict[ErrorKind, tuple[float, int]] = {}  # when last, and how many had been counted then

    def count(self, kind: ErrorKind, peer: object, asked: str, what: str) -> None:
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
