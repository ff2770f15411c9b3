"""Logs of processes: a log of limited size, shortening a log file, and the last line of one."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

TYPE_CHECKING = False  # typing is a tenth of a watcher's memory
if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 4 << 20
KEPT_BYTES = 1 << 18
_COPY = 65536
_TAIL = 4096


def keep_short(number: int, most: int = MOST_BYTES, kept: int = KEPT_BYTES) -> None:
    """Cut a log down to its last `kept` bytes if it has more than `most`; do nothing if it is not a regular file.

    Args:
        number: descriptor of the log, opened to append, since other libraries write to it, too.
        most: bytes.
        kept: bytes.
    """
    with suppress(OSError):
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_size <= most:
            return
        again = os.open(f"/proc/self/fd/{number}", os.O_RDONLY)
        try:
            tail = os.pread(again, kept, found.st_size - kept)
        finally:
            os.close(again)
        os.ftruncate(number, 0)
        os.write(number, b"[...]\n" + tail.partition(b"\n")[2])


def last_line(log: Path) -> str:
    """Return the last line of a log, after the error line before it if it is a hint; empty if there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            lines = stream.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    if len(lines) > 1 and lines[-1].startswith("hint: "):
        return f"{lines[-2]} ({lines[-1]})"
    return lines[-1] if lines else ""


class BoundedLog:
    """Writes the head of an output to one file and the rest to parts beside it, of which the last two are kept.

    A part is named by the number of bytes before it, `log.1048576`. Disk errors are not raised: what cannot be
    written is dropped and counted.

    Args:
        folder: open descriptor of the folder.
        name: of the head, and finally of the whole log.
        most: most bytes kept; a quarter more while `finish` joins head and tail.
        owner: uid and gid of the files' owner; None for the current user.
    """

    def __init__(self, folder: int, name: str, most: int, owner: tuple[int, int] | None) -> None:
        self._folder = folder
        self._name = name
        self._owner = owner
        self._each = max(1, most // 4)
        self._head = max(1, most - 2 * self._each)
        self._parts: list[tuple[str, int]] = []
        self._file = self._open(self._name)
        self._room = self._head
        self._kept_head = 0
        self.total = 0
        self.failed = 0

    def write(self, data: bytes) -> None:
        """Add output."""
        view = memoryview(data)
        while view:
            if not self._room:
                self._turn()
            taken = min(len(view), self._room)
            self._put(view[:taken])
            self._room -= taken
            self.total += taken
            if not self._parts:
                self._kept_head = self.total
            view = view[taken:]

    def finish(self) -> dict[str, int]:
        """Join head and tail in one file, with a line between them that states what was dropped.

        Returns:
            Bytes: `total` of the output, `dropped`, and `head`; `tail` is where the tail begins in the output, and
            `tail_at` where it begins in the file.
        """
        self._close()
        tail = self._parts[0][1] if self._parts else self.total
        self._file = self._open(self._name)
        dropped = tail - self._kept_head
        if dropped:
            self._put(memoryview(f"\n[partita: {dropped} bytes of output are left out here]\n".encode()))
        at = self._size()
        for name, _ in self._parts:
            self._append(name)
            self._unlink(name)  # a follower then waits for the exit document, which states where the tail is
        self._close()
        dropped += self.failed
        return {"total": self.total, "dropped": dropped, "head": self._kept_head, "tail": tail, "tail_at": at}

    def _turn(self) -> None:
        self._close()
        name = f"{self._name}.{self.total}"
        if len(self._parts) == 2:
            self._unlink(self._parts.pop(0)[0])
        self._file = self._open(name)
        self._parts.append((name, self.total))
        self._room = self._each

    def _open(self, name: str) -> int | None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            handle = os.open(name, flags, 0o600, dir_fd=self._folder)
        except OSError:
            return None
        if self._owner is not None:
            os.fchown(handle, *self._owner)
        return handle

    def _put(self, view: memoryview) -> None:
        while view:
            try:
                written = os.write(self._file, view) if self._file is not None else 0
            except OSError:
                written = 0
            if not written:
                self.failed += len(view)
                return
            view = view[written:]

    def _append(self, name: str) -> None:
        try:
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
        except OSError:
            return
        with os.fdopen(handle, "rb", buffering=0) as stream:
            while data := stream.read(_COPY):
                self._put(memoryview(data))

    def _size(self) -> int:
        return os.fstat(self._file).st_size if self._file is not None else 0

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folder)
        except OSError:
            return
