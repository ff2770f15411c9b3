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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STDERR = 2
_CHUNK = 1 << 16
_OPTION = "--log-format"
_TRACEBACK = "Traceback (most recent call last):"
_FIELDS = {"time", "level", "logger", "message"}
_LEVELS = {"error: ": "error", "warning: ": "warning", "note: ": "info", "hint: ": "info"}


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
    lines = _JsonLines()
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 -- Python would print it after this block
        sys.stderr.write("".join(traceback.format_exception(error)))
        raise SystemExit(1) from None
    finally:
        lines.close()


class _JsonLines:
    """The pipe, and a thread that reads it."""

    def __init__(self) -> None:
        self._real = os.dup(_STDERR)
        self._out, into = os.pipe()
        os.set_blocking(self._out, False)
        os.dup2(into, _STDERR)
        os.close(into)
        self._ended, self._end = os.pipe()
        self._traceback: list[str] = []
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
                ready, _, _ = select.select([self._out, self._ended], [], [])
                ending = self._ended in ready
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
        if self._traceback:
            self._traceback.append(text)
            if not text.startswith(" "):
                self._tell_traceback()
        elif text == _TRACEBACK:
            self._traceback = [text]
        elif _is_object(text):
            self._write(text)
        elif text.strip():
            level = next((level for start, level in _LEVELS.items() if text.startswith(start)), "info")
            self._tell(level, text)

    def _tell_traceback(self) -> None:
        lines, self._traceback = self._traceback, []
        if lines:
            self._tell("error", lines[-1], exception="\n".join(lines))

    def _tell(self, level: str, text: str, **more: str) -> None:
        now = time.time()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        moment = f"{seconds}.{int(now % 1 * 1000):03d}Z"
        told = {"time": moment, "level": level, "logger": "stderr", "message": text, **more}
        self._write(json.dumps(told, ensure_ascii=False))

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
