"""One controller of a cluster, one gateway on a state folder: locks that die with their process, and name it."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from partita.documents.json_text import decode, line
from partita.errors import InputError, PartitaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE, GATEWAY_FILE = "controller.lock", "gateway.lock"
_TRIES, _PAUSE_S = 5, 0.05  # `holder` takes the lock for an instant, too


@dataclass(frozen=True, slots=True)
class Controller:
    """The process that acts on a cluster, or serves from a state folder.

    Attributes:
        started: seconds since 1970.
        command: its command line.
    """

    host: str
    pid: int
    started: float
    command: str

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.started).astimezone().isoformat(" ", "seconds")
        return f"process {self.pid} on {self.host} since {since}: {self.command}"


class LockedError(PartitaError):
    """Another process does what one alone may do."""


@contextmanager
def controlling(folder: Path) -> Iterator[Controller | None]:
    """Be the one controller while the block runs. Yields the one before if it was killed, else None.

    The lock is the kernel's (flock), so that a killed process holds nothing; the text in the file is for people.

    Raises:
        LockedError: another controller acts on this cluster; says which.
        PartitaError: the lock's file cannot be opened.
    """
    with _alone(folder / FILE, "another controller acts on this cluster", "") as before:
        yield before


@contextmanager
def serving(folder: Path) -> Iterator[Controller | None]:
    """Be the one gateway on a state folder while the block runs, likewise.

    Raises:
        LockedError: another gateway serves from there; says which.
        PartitaError: the lock's file cannot be opened.
    """
    hint = ", or set PARTITA_STATE to a folder of this one's own"
    with _alone(folder / GATEWAY_FILE, f"another gateway serves from {folder}", hint) as before:
        yield before


@contextmanager
def _alone(path: Path, taken: str, hint: str) -> Iterator[Controller | None]:
    try:
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise PartitaError(f"the lock cannot be opened: {error.strerror}", where=str(path)) from None
    with stream:
        if not _take(stream):
            raise _locked(_read(stream), taken, hint)
        before = _read(stream)
        _write(stream, Controller(socket.gethostname(), os.getpid(), time.time(), _command()))
        try:
            yield before
        finally:
            stream.truncate(0)


def holder(folder: Path) -> Controller | None:
    """Return the controller that acts on this cluster now, None if there is none."""
    try:
        stream = (folder / FILE).open(encoding="utf-8")
    except OSError:
        return None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(stream)
        return None


def _take(stream: TextIO) -> bool:
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _locked(who: Controller | None, taken: str, hint: str) -> LockedError:
    if who is None:
        return LockedError(taken, hint=f"try again when it has ended{hint}")
    stop = (
        f"kill -INT {who.pid}" if who.host == socket.gethostname() else f"kill -INT {who.pid}` on `{who.host}"
    )
    return LockedError(
        f"{taken}: {who}",
        hint=f"wait until it has ended, or have it stop in a safe state: `{stop}`{hint}",
    )


def _read(stream: TextIO) -> Controller | None:
    stream.seek(0)
    try:
        return decode(stream.read(), Controller, stream.name)
    except InputError:
        return None  # empty after an orderly end, or cut short by a crash


def _write(stream: TextIO, who: Controller) -> None:
    stream.truncate(0)
    stream.write(line(who))
    stream.flush()


def _command() -> str:
    return " ".join(["partita", *sys.argv[1:]])
