"""What the gateway logs: lines for people, or JSON for programs, on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEVELS = {"partita": logging.INFO, "asyncio": logging.ERROR, "grpc": logging.ERROR}
_KEPT = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
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


class Lines(logging.Formatter):
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
    handler.setFormatter(JsonLines() if as_json else Lines())
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
