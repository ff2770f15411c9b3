"""A stderr on which each line is a JSON object, whoever writes it: Partita, a library, C code, or Python itself.

File descriptor 2 becomes a pipe. What comes out of it as such an object is passed on, all else is wrapped, each
traceback as one object. A process that is killed by a signal loses what it has just written.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from partita.cli.safe_text import json_shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STDERR = 2
_CHUNK = 1 << 16
_OPTION = "--log-format"
_TRACEBACK = "Traceback (most recent call last):"
_FIELDS = {"time", "level", "logger", "message"}
_CHAINED = ("During handling of the above exception, ", "The above exception was the direct cause ")
_CHAIN_S = 0.2
"""Seconds within which a traceback is followed by that of its consequence; its lines come in several writes."""
_LEVELS = {
    "error: ": "error",
    "warning: ": "warning",
    "note: ": "info",
    "hint: ": "info",
    "Exception ignored in": "error",
    "Exception in thread": "error",
}


def wants_json(arguments: Sequence[str]) -> bool:
    """Say whether a command line, or the environment, asks for logs as JSON; known even where parsing fails."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = list(arguments[:end])
    if _OPTION in words[:-1]:
        return words[words.index(_OPTION) + 1] == "json"
    given = next((each for each in words if each.startswith(f"{_OPTION}=")), None)
    if given is not None:
        return given == f"{_OPTION}=json"
    command = next((each for each in words if not each.startswith("-")), "").upper().replace("-", "_")
    return os.environ.get(f"PARTITA_{command}_LOG_FORMAT") == "json"


@contextmanager
def json_stderr() -> Iterator[None]:
    """While the block runs, have each line on stderr be a JSON object; an exception that leaves it is one, too.

    Raises:
        SystemExit: with 1, in the place of any other exception.
    """
    import logging  # noqa: PLC0415 -- `partita --help` needs none of it

    from partita.log_lines import JsonFormatter  # noqa: PLC0415 -- likewise

    lines = _JsonLines()
    last_resort, thread_hook = logging.lastResort, threading.excepthook
    handler = logging.StreamHandler(sys.stderr)  # of loggers that nobody else listens to
    handler.setLevel(logging.WARNING)
    handler.setFormatter(JsonFormatter())
    logging.lastResort = handler
    threading.excepthook = _tell_of_thread
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 -- Python would print it after this block
        _tell_exception(error)
        raise SystemExit(1) from None
    finally:
        logging.lastResort, threading.excepthook = last_resort, thread_hook
        lines.close()


def tell(level: str, message: str, **more: str | None) -> None:
    """Write a line of our own to stderr.

    Args:
        level: `info`, `warning` or `error`.
        message: what happened.
        more: fields of its own; those that are None are left out.
    """
    from partita.log_lines import log_line  # noqa: PLC0415 -- with logging, which `partita --help` needs not

    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stderr.write(json_shown(log_line(time.time(), level, "partita", message, **more)) + "\n")


def _tell_exception(error: BaseException, **more: str | None) -> None:
    last = traceback.format_exception_only(error)[-1].rstrip()
    tell("error", last, exception="".join(traceback.format_exception(error)).rstrip(), **more)


def _tell_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        _tell_exception(found.exc_value, thread=found.thread.name if found.thread else None)


class _JsonLines:
    """The pipe, and a thread that reads it."""

    def __init__(self) -> None:
        from partita.log_lines import log_line  # noqa: PLC0415 -- with logging, which `partita --help` needs not

        self._line = log_line
        self._real = os.dup(_STDERR)
        self._out, into = os.pipe()
        os.set_blocking(self._out, False)
        os.dup2(into, _STDERR)
        os.close(into)
        self._ended, self._end = os.pipe()
        self._traceback: list[str] = []
        self._over = (
            False  # whether its last line has come, unless another one follows that is its consequence
        )
        self._thread = threading.Thread(target=self._read, name="log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and give stderr back."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(self._real, _STDERR)
        os.close(self._end)
        self._thread.join()
        for each in (self._real, self._out, self._ended):
            os.close(each)

    def _read(self) -> None:
        # Other processes may hold the pipe open, so its end is not waited for.
        left, ending = b"", False
        while True:
            if not ending:
                patience = _CHAIN_S if self._over else None
                ready, _, _ = select.select([self._out, self._ended], [], [], patience)
                ending = self._ended in ready
                if not ready:
                    self._tell_traceback()
            try:
                data = os.read(self._out, _CHUNK)
            except BlockingIOError:
                data = b""
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                self._take(line)
            if not data and ending:
                self._take(left)
                self._tell_traceback()
                return

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip("\r")
        if self._over and text and text != _TRACEBACK and not text.startswith(_CHAINED):
            self._tell_traceback()
        if self._traceback:
            self._traceback.append(text)
            if text:
                self._over = not text.startswith((" ", _TRACEBACK, *_CHAINED))
        elif text == _TRACEBACK:
            self._traceback = [text]
        elif _is_object(text):
            self._write(text)
        elif text.strip():
            level = next((level for start, level in _LEVELS.items() if text.startswith(start)), "info")
            self._tell(level, text)

    def _tell_traceback(self) -> None:
        lines, self._traceback, self._over = self._traceback, [], False
        text = "\n".join(lines).rstrip()
        if text:
            self._tell("error", text.rpartition("\n")[2], exception=text)

    def _tell(self, level: str, text: str, **more: str) -> None:
        self._write(self._line(time.time(), level, "stderr", text, **more))

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        with suppress(OSError):  # nobody reads it any more
            while data:
                try:
                    data = data[os.write(self._real, data) :]
                except BlockingIOError:  # somebody has made it so; half a line would not be JSON
                    select.select([], [self._real], [])


def _is_object(text: str) -> bool:
    """Say whether a line is an object of our kind, and strict JSON."""
    if not text.startswith("{"):
        return False
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= _FIELDS


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
