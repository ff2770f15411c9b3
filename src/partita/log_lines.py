"""Lines of a log as JSON objects: time, level, logger and message, and what else is known of what happened."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_KEPT = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def log_line(at: float, level: str, logger: str, message: str, **more: Any) -> str:  # noqa: ANN401 -- plain data
    """Return a line of a log, without its end.

    Args:
        at: when it happened, in seconds since 1970.
        level: `info`, `warning` or `error`.
        logger: who says it.
        message: what happened.
        more: fields of its own; those that are None are left out.
    """
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    told = {
        "time": f"{seconds}.{int(at % 1 * 1000):03d}Z",
        "level": level,
        "logger": logger,
        "message": message,
        **{name: value for name, value in more.items() if value is not None},
    }
    return json.dumps(told, ensure_ascii=False, default=str)


class JsonFormatter(logging.Formatter):
    """Formats each record as a JSON object on one line, with the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        more = {key: value for key, value in vars(record).items() if key not in _KEPT}
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        level = record.levelname.lower()
        return log_line(record.created, level, record.name, record.getMessage(), **more)
