"""The streams of the process: what a command writes to stdout, kept apart from what libraries print there.

A library may print what it likes: with `print`, from C, from a thread or a process that it starts. While a command
runs, the place where all those write, file descriptor 1 and `sys.stdout`, leads to stderr, and only `own` leads to
the stdout that the user sees. Commands write with `options.stdout`, `emit`, `emit_document` or `echo`.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from partita.errors import PartitaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

_STDOUT, _STDERR = 1, 2


class OutputError(PartitaError):
    """What a command writes cannot be written, because a disk is full, say (exit code 1)."""


class ReaderGoneError(Exception):
    """Nobody reads stdout any more, as after `| head`; there is nobody to tell."""


class _Descriptor(io.FileIO):
    """The user's stdout under a number of its own. After one failure it takes everything and writes nothing."""

    failed = False

    def write(self, data: Buffer, /) -> int:
        if self.failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            self.failed = True
            raise ReaderGoneError from None
        except OSError as error:
            self.failed = True
            raise OutputError(f"cannot be written: {error.strerror}", where="stdout") from None


_own: TextIO | None = None
_printed: TextIO | None = None
"""Where libraries print; with `_own` None until a command runs."""


def own() -> TextIO:
    """Return the stream that leads to the user's stdout."""
    return sys.stdout if _own is None else _own  # noqa: TID251 -- the one place


def width() -> int | None:
    """Return the width of the terminal that stdout is, where no other stream tells it; else None."""
    stream = own()
    number = _number(stream)
    if number is None or os.isatty(0) or os.isatty(_STDERR) or not os.isatty(number):
        return None
    return os.get_terminal_size(number).columns or None


def fill_gaps() -> None:
    """Give the streams that the process was started without a place to go.

    Else the next file that is opened would get the number of one of them, and a library that prints would write
    into it.
    """
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 -- for the process


def guard_stdout() -> None:
    """Have what is written before a command runs, as help is, fail as what a command writes does.

    A terminal that cannot show a name still shows the rest.
    """
    plain = sys.stdout  # noqa: TID251
    if _number(plain) == _STDOUT:
        plain.flush()
        sys.stdout = _stream(_Descriptor(_STDOUT, "wb", closefd=False), plain)  # noqa: TID251
    elif isinstance(plain, io.TextIOWrapper):
        plain.reconfigure(errors="backslashreplace")


@contextmanager
def apart() -> Iterator[None]:
    """Keep `own` apart from what libraries print, which goes to stderr.

    Afterwards `sys.stdout` is `own`, as for the help of a subcommand, but file descriptor 1 still leads to stderr: C
    libraries may write what they have buffered when the process ends. Where `sys.stdout` is not the process's stdout
    but an object, as under a test runner, all is put back.

    Raises:
        ReaderGoneError: nobody reads stdout any more.
        OutputError: what was written last cannot be written.
    """
    global _own, _printed  # noqa: PLW0603 -- the process has one stdout
    plain = sys.stdout  # noqa: TID251
    if plain is _printed:
        yield
        return
    if _own is None or _printed is None:
        _own, _printed = (_moved(plain), plain) if _number(plain) == _STDOUT else (plain, sys.stderr)
    mine, theirs = _own, _printed
    sys.stdout = theirs  # noqa: TID251
    try:
        yield
    finally:
        sys.stdout = mine  # noqa: TID251
        if theirs is sys.stderr:
            _own = _printed = None
        else:
            with suppress(OSError):
                theirs.flush()
            mine.flush()


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _moved(plain: TextIO) -> TextIO:
    """Return a stream to the process's stdout, and let its number, and so `plain`, lead to stderr."""
    plain.flush()
    raw = _Descriptor(os.dup(_STDOUT), "wb")  # like all that Python opens, no child process inherits it
    os.dup2(_STDERR, _STDOUT)
    return _stream(raw, plain)


def _stream(raw: _Descriptor, plain: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), plain.encoding, "backslashreplace", line_buffering=raw.isatty()
    )
