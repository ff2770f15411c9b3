"""What the gateway logs: lines for people, or JSON for programs, on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

NAME = "partita"
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
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(*, as_json: bool) -> None:
    """Have everything of Partita's logged from now on, and of uvicorn's what is an error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    for name, level in (
        (NAME, logging.INFO),
        ("uvicorn", logging.ERROR),
        ("asyncio", logging.ERROR),
        ("grpc", logging.ERROR),
    ):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _time(record: logging.LogRecord, form: str) -> str:
    return f"{time.strftime(form, time.gmtime(record.created))}.{int(record.msecs):03d}Z"
