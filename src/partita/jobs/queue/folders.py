"""The queue's files other than its store: folders of attempts, their logs, and the last job number.

Logs are read by offset in the output, whether the attempt runs or has ended. Files of jobs that are over are removed
after a while (`Retention`), a few at a time, and never those of an active job.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from itertools import islice
from stat import S_ISREG
from typing import TYPE_CHECKING

from partita.documents.text import decode
from partita.errors import InputError, PartitaError
from partita.jobs.run.documents import ExitDocument, LaunchDocument
from partita.jobs.run.folder import EXIT, LAUNCH, LOG, PART, WISH
from partita.process import keeper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from partita.jobs.queue.job_store import JobStore
    from partita.jobs.queue.record import AttemptVerdict, JobRecord
    from partita.jobs.queue.settings import QueueSettings


ATTEMPTS = "attempts"
LAST_NUMBER = "last-number"


def jobs_folder(state: Path) -> Path:
    """Return the folder of the queue in a state folder."""
    return state / "jobs"


def write_wish(folder: Path, wish: AttemptVerdict) -> None:
    """Write why a job must end into its newest attempt's folder; a failure to write is ignored."""
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(folder / WISH, flags, 0o600)
        try:
            os.write(handle, wish.value.encode())
        finally:
            os.close(handle)


class LastNumber:
    """The largest job number so far, in a file beside the store, so that a new store does not begin at 1.

    It is written in place, which works on a full disk, and not synced: after a loss of power the store and the
    folders of attempts show the number.

    Args:
        folder: `jobs` in the state folder.

    Attributes:
        found: the number in the file when it was opened; 0 if there was no file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LAST_NUMBER
        try:
            self.found = int(self._path.read_text())
        except (OSError, ValueError):
            self.found = 0
        self._last = self.found

    def given(self, number: int) -> None:
        """Record that a number was given; a failure to write is ignored."""
        if number <= self._last:
            return
        self._last = number
        with suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(handle, f"{number:020}\n".encode(), 0)
            finally:
                os.close(handle)


def make_parent(folder: Path) -> None:
    """Create the folder of a job's attempts, which its user may pass through.

    Raises:
        PartitaError: it cannot be created.
    """
    try:
        folder.parent.mkdir(exist_ok=True)
        folder.parent.chmod(0o711)  # whatever the daemon's umask is
    except OSError as error:
        raise PartitaError(f"a job cannot be started: {error.strerror}", where=str(folder)) from error


def make_folders(state: Path, *, shared: bool) -> Path:
    """Create the queue's folders and return the first.

    Args:
        state: the state folder.
        shared: whether other users need the socket and their attempts: then they may pass through these folders, but
            not list them.

    Raises:
        PartitaError: they cannot be created.
    """
    folder = jobs_folder(state)
    mode = 0o711 if shared else 0o700
    try:
        for each in (folder, folder / ATTEMPTS):
            each.mkdir(exist_ok=True)
            each.chmod(mode)
        if shared:
            state.chmod(state.stat().st_mode | 0o011)
    except OSError as error:
        raise PartitaError(
            f"the queue's folders cannot be created: {error.strerror}", where=str(folder)
        ) from None
    return folder


CHUNK = 48 * 1024


def read_log(folder: Path, offset: int, owners: frozenset[int]) -> tuple[bytes, int]:
    """Return a piece of the output from an offset on, and the offset after it; empty if there is no more yet.

    Where the output is longer than what is kept, the gap is skipped. The folder's files belong to the job's user, who
    could put anything there: only regular files of the owners are read, and no link is followed.

    Args:
        folder: the attempt's.
        offset: bytes of output before the piece.
        owners: users whose files are read.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return b"", offset
    try:
        joined = _joined(handle)
        if joined is not None:
            return _from_joined(handle, offset, owners, *joined)
        return _from_parts(handle, offset, owners)
    finally:
        os.close(handle)


def _from_joined(folder: int, offset: int, owners: frozenset[int], tail: int, at: int) -> tuple[bytes, int]:
    """Read a log whose parts are joined: its tail, from `tail` on in the output, begins at `at` in the file."""
    if offset >= tail:
        data = _read(folder, LOG, at + offset - tail, CHUNK, owners)
        return data, offset + len(data)
    data = _read(folder, LOG, offset, min(CHUNK, max(at - offset, 0)), owners)
    after = offset + len(data)
    return data, tail if after >= at else after


def _from_parts(folder: int, offset: int, owners: frozenset[int]) -> tuple[bytes, int]:
    """Read a log that is being written: a head, and parts named by the number of bytes before them.

    Its watcher may be joining them, so that the head's file may be longer than the head.
    """
    head = max(_head(folder) - offset, 0)
    starts = sorted(int(name[len(PART) :]) for name in os.listdir(folder) if name[len(PART) :].isdecimal())
    for start, name in ((0, LOG), *((start, f"{PART}{start}") for start in starts)):
        most = CHUNK if start else min(CHUNK, head)
        data = _read(folder, name, max(offset - start, 0), most, owners)
        if data:
            return data, max(offset, start) + len(data)
    return b"", offset


def _joined(folder: int) -> tuple[int, int] | None:
    """Return where the tail begins in the output and in the file; None while nothing is joined."""
    try:
        with _opened(folder, EXIT) as handle:
            found = decode(os.read(handle, 65536), ExitDocument, EXIT).log
        return None if found is None else (found.tail, found.tail_at)
    except (OSError, InputError):
        return None


def _head(folder: int) -> int:
    """Return the size limit of a log's head: half of what is kept."""
    try:
        with _opened(folder, LAUNCH) as handle, os.fdopen(os.dup(handle), "rb") as stream:
            return decode(stream.read(), LaunchDocument, LAUNCH).log_bytes // 2
    except (OSError, InputError):
        return 0


def _read(folder: int, name: str, offset: int, most: int, owners: frozenset[int]) -> bytes:
    try:
        with _opened(folder, name) as handle:
            found = os.fstat(handle)
            if not S_ISREG(found.st_mode) or found.st_uid not in owners:
                return b""
            return os.pread(handle, most, offset)
    except OSError:
        return b""


@contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


RETENTION_EVERY_S = 600.0
"""Seconds between two rounds."""

RETENTION_PAUSE_S = 1.0
"""Seconds between two steps of a round."""

RETENTION_STEP = 16
"""Jobs that one step considers, which takes some milliseconds."""

_MOST_FILES = 256
_GOING = "going-"


class Retention:
    """Goes repeatedly through the jobs that are over, from the newest to the oldest, and removes old ones.

    Jobs that ended too long ago are deleted with their files. Of the others, files are kept while those of newer jobs
    leave room for them; a job without its files stays in the history. Users' shares and energy are stored elsewhere
    and do not change.

    Args:
        store: the open store.
        folder: the folder of the attempts.
        settings: how long jobs are kept, and how many bytes of files.

    Attributes:
        due: the time of the next call.
    """

    def __init__(self, store: JobStore, folder: Path, settings: QueueSettings) -> None:
        self._store, self._folder, self._settings = store, folder, settings
        self._before: int | None = None
        self._bytes = 0
        self._remover: keeper.Child | None = None
        self._leftovers = True  # whether a killed daemon may have left removals unfinished
        self.due = float("-inf")

    def step(self, now: float) -> None:
        """Consider some jobs, if it is due, and remove what must go.

        Raises:
            PartitaError: the store or the folder cannot be used.
        """
        if now < self.due:
            return
        self.due = now + RETENTION_PAUSE_S
        if self._remover is not None and self._remover.returncode is None:
            return
        jobs = self._store.over(RETENTION_STEP, self._before)
        old = [job for job in jobs if now - _ended(job) > self._settings.keep_s]
        self._remove([*old, *self._beyond([job for job in jobs if job not in old])])
        if old:
            self._store.forget(old)
        self._before = jobs[-1].number if len(jobs) == RETENTION_STEP else None
        if self._before is None:
            self._bytes, self.due = 0, now + RETENTION_EVERY_S

    def _beyond(self, jobs: Sequence[JobRecord]) -> list[JobRecord]:
        """Return the jobs whose files do not fit beside those of newer jobs."""
        found = []
        for job in jobs:
            size = _size(self._folder / job.id)
            if self._bytes + size > self._settings.keep_bytes and size:
                found.append(job)
            else:
                self._bytes += size
        return found

    def _remove(self, jobs: Sequence[JobRecord]) -> None:
        """Remove files of jobs in a separate process, as users may have created any number of them."""
        going = []
        try:
            for job in jobs:
                # Renamed first, so that a requeued job begins in a new folder.
                gone = self._folder / f"{_GOING}{job.id}"
                with suppress(FileNotFoundError):
                    (self._folder / job.id).rename(gone)
                    going.append(str(gone))
            if self._leftovers:
                going = [str(each) for each in self._folder.glob(f"{_GOING}*")]
                self._leftovers = False
            if going:
                # rm follows no links, and with this option leaves other file systems alone.
                words = ["rm", "-rf", "--one-file-system", "--", *going]
                environment = {"PATH": os.environ.get("PATH", os.defpath)}
                self._remover = keeper.start(words, environment, output=None)
        except OSError as error:
            raise PartitaError(
                f"the files of old jobs cannot be removed: {error.strerror}", where=str(self._folder)
            ) from error


def _ended(job: JobRecord) -> float:
    """Return when a job that is over ended; when it was submitted if it never began."""
    return max((attempt.ended or 0.0 for attempt in job.attempts), default=0.0) or job.submitted


def _size(folder: Path) -> int:
    """Return the bytes on the disk of the files of a job's attempts."""
    size = 0
    with suppress(OSError), os.scandir(folder) as attempts:
        for attempt in attempts:
            with suppress(OSError), os.scandir(attempt) as files:
                found = (file.stat(follow_symlinks=False) for file in islice(files, _MOST_FILES))
                size += sum(each.st_blocks * 512 for each in found)
    return size
