"""Runs attempts as real processes, each with a watcher of its own that outlives us."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import partita
from partita.errors import PartitaError
from partita.jobs.run import folder as names
from partita.jobs.run.lost import end_what_is_left
from partita.jobs.run.port import Look, Phase, Progress
from partita.jobs.run.progress import Reports
from partita.jobs.run.shepherd import documents, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from partita.jobs.run.port import Launch

_ROOT = str(Path(partita.__file__).parents[1])
_WATCHER = """\
import sys
sys.path.append(sys.argv[1])
from partita.jobs.run.shepherd.main import main
main(sys.argv[2])
"""
_ASK_S = 1.0
_ENDED = (Phase.ENDED, Phase.LOST)


class RealRunner:
    """Runs jobs on this host (the port's `Runner`).

    Args:
        scale: on simulated instances, the bytes that a process may have for each byte of its instance; None on
            real ones, where the GPU itself is the limit.
        used: returns the bytes in use on a device, None if it does not say; the peak of an attempt is found by it,
            beside what the job reports itself.
    """

    def __init__(
        self, scale: float | None = None, used: Callable[[str], int | None] = lambda _device: None
    ) -> None:
        self._scale = scale
        self._used = used
        self._children: set[int] = set()
        self._under_way: dict[Path, _Attempt] = {}

    def start(self, launch: Launch) -> None:
        """Start an attempt; doing so twice is no error and starts it once.

        Raises:
            PartitaError: its folder cannot be made or written to, or the watcher not be started.
        """
        try:
            launch.folder.mkdir(mode=0o711, exist_ok=True)
            with _opened(launch.folder) as folder, _locked(folder, fcntl.LOCK_EX) as lock:
                if lock is not None and not _there(folder, names.LAUNCH):
                    # Not waiting for the disk: a host that crashes ends the job anyway.
                    documents.write(folder, names.LAUNCH, self._document(launch), durable=False)
                    self._children.add(_spawn(launch.folder, lock))
        except OSError as error:
            raise PartitaError(
                f"a job cannot be started: {error.strerror}", where=str(launch.folder)
            ) from error

    def look(self, folder: Path) -> Look:
        """Return an attempt as it is now; one that nobody watches is ended and lost.

        Raises:
            PartitaError: its folder cannot be read.
        """
        self._reap()
        attempt = self._under_way.get(folder)
        if attempt is None:
            attempt = self._under_way[folder] = _Attempt(folder, self._used)
        found = attempt.look()
        if found.phase in _ENDED:
            self._under_way.pop(folder, None)
        return found

    def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask an attempt to checkpoint and end, and after the grace have all its processes killed.

        Asked again with less grace, it has less. One that has ended is let be.
        """
        with suppress(FileNotFoundError), _opened(folder) as handle:
            with suppress(OSError):  # on a full disk the signal asks, with the grace it was started with
                _ask(handle, grace_s)
            _wake(handle)

    def _document(self, launch: Launch) -> dict[str, Any]:
        folder = launch.folder.absolute()
        ours = {
            "CUDA_VISIBLE_DEVICES": launch.device,
            "PARTITA_JOB_ID": str(launch.job),
            "PARTITA_JOB_ATTEMPT": str(launch.attempt),
            "PARTITA_JOB_PROGRESS": str(folder / names.PROGRESS),
            "PARTITA_JOB_CHECKPOINT": str(folder / names.CHECKPOINT),
        }
        if launch.index is not None:
            ours["PARTITA_ARRAY_INDEX"] = str(launch.index)
        if self._scale is not None:
            ours["PARTITA_JOB_SIMULATED"] = "1"
        inherited = {k: v for k, v in launch.environment.items() if not k.startswith("PARTITA_JOB_")}
        return {
            "job": launch.job,
            "attempt": launch.attempt,
            "command": list(launch.command),
            "directory": str(launch.directory),
            "environment": {**self._defaults(), **inherited, **ours},
            "owner": asdict(launch.owner),
            "limit_bytes": None if self._scale is None else int(launch.memory_bytes * self._scale),
            "scale": self._scale,
            "log_bytes": launch.log_bytes,
            "grace_s": launch.grace_s,
            "boot": processes.boot_id(),
        }

    def _defaults(self) -> dict[str, str]:
        """Return what a job's environment has unless its owner says otherwise."""
        # Output that goes to a pipe would otherwise lie in Python's buffer, and be lost with a killed job.
        found = {"PYTHONUNBUFFERED": "1"}
        if self._scale is not None:
            # Libraries reserve memory for each thread, more than a small simulated instance has.
            found["OMP_NUM_THREADS"] = "1"
        return found

    def _reap(self) -> None:
        for pid in tuple(self._children):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:
                gone = True
            if gone:
                self._children.discard(pid)


class _Attempt:
    """What is known of an attempt from look to look, so that a look is a few calls of the system."""

    def __init__(self, folder: Path, used: Callable[[str], int | None]) -> None:
        self._folder = folder
        self._used = used
        self._device = ""
        self._peak = 0
        self._ask = 0.0
        self._reports = Reports()
        self._began: float | None = None
        self._scale: float | None = None
        self._known = False

    def look(self) -> Look:
        try:
            with _opened(self._folder) as folder:
                return self._look(folder)
        except FileNotFoundError:
            return Look(Phase.LOST, why="it never began")
        except (OSError, ValueError, KeyError) as error:
            raise PartitaError(f"an attempt cannot be read: {error}", where=str(self._folder)) from error

    def _look(self, folder: int) -> Look:
        with _locked(folder, fcntl.LOCK_EX) as lock:
            if lock is not None and not _there(folder, names.EXIT):
                return self._lose(folder)
        if not self._known:
            with suppress(FileNotFoundError, ValueError):  # what a crash of the host has left is no document
                launch = documents.read(folder, names.LAUNCH)
                self._scale = launch["scale"]
                self._device = launch["environment"]["CUDA_VISIBLE_DEVICES"]
                self._known = True
        if lock is None:
            return self._running(folder)
        return _ended(documents.read(folder, names.EXIT), self._progress(folder), self._scale)

    def _lose(self, folder: int) -> Look:
        found = end_what_is_left(folder, self._folder)
        with suppress(OSError):  # on a full disk the next look finds the same again
            documents.write(folder, names.EXIT, found)
        return _ended(found, self._progress(folder), self._scale)

    def _running(self, folder: int) -> Look:
        if self._began is None and _there(folder, names.WATCH):
            self._began = documents.read(folder, names.WATCH)["began"]
        if self._began is not None and self._scale is None and time.monotonic() >= self._ask:
            self._ask = time.monotonic() + _ASK_S
            self._peak = max(self._peak, self._used(self._device) or 0)
        stopping = _there(folder, names.CHECKPOINT)
        return Look(
            Phase.STOPPING if stopping else Phase.RUNNING, began=self._began, progress=self._progress(folder)
        )

    def _progress(self, folder: int) -> Progress:
        self._reports.read(folder)
        found = self._reports.progress(self._scale)
        return replace(found, peak_bytes=max(found.peak_bytes or 0, self._peak) or None)


def _ended(found: dict[str, Any], progress: Progress, scale: float | None) -> Look:
    peak = progress.peak_bytes
    if scale is not None and found["peak_bytes"] is not None:
        peak = max(peak or 0, int(found["peak_bytes"] / scale))
    return Look(
        Phase.LOST if found.get("lost") else Phase.ENDED,
        code=found["code"],
        out_of_memory=found["out_of_memory"],
        why=found["why"],
        began=found["began"],
        ended=found["ended"],
        progress=replace(progress, peak_bytes=peak),
        left=found["left"],
        stuck=tuple(found["stuck"]),
    )


def _spawn(folder: Path, lock: int) -> int:
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    errors = str(folder / names.ERRORS)
    return os.posix_spawn(
        sys.executable,
        # Neither the user's site-packages nor PYTHON* variables, to be small, quick and safe.
        [sys.executable, "-I", "-S", "-B", "-c", _WATCHER, _ROOT, str(folder.absolute())],
        {"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        file_actions=[
            null,
            (os.POSIX_SPAWN_OPEN, 1, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, lock, names.LOCK_FD),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD),
    )


def _ask(folder: int, grace_s: float) -> None:
    """Write the file that says: end, within these seconds; the job may read it."""
    part = f".{names.CHECKPOINT}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(part, flags, 0o644, dir_fd=folder)
    try:
        os.fchmod(handle, 0o644)
        os.write(handle, str(float(grace_s)).encode())
    finally:
        os.close(handle)
    os.rename(part, names.CHECKPOINT, src_dir_fd=folder, dst_dir_fd=folder)


def _wake(folder: int) -> None:
    """Send the watcher SIGTERM, if it is there; it looks once a second anyway."""
    with suppress(OSError, ValueError, KeyError):
        handle = os.pidfd_open(documents.read(folder, names.WATCH)["watcher"])
        try:
            # While the lock is held, the pid that was written under it is the watcher's.
            with _locked(folder, fcntl.LOCK_SH) as lock:
                if lock is None:
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
        finally:
            os.close(handle)


def _there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: int, how: int) -> Iterator[int | None]:
    """Yield the open file that is locked now; None if a watcher holds it."""
    handle = os.open(names.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        # A watcher that inherited it holds it on.
        os.close(handle)
