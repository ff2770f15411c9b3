"""Runs attempts as real processes, each with a watcher of its own that outlives us."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import partita
from partita.errors import PartitaError
from partita.jobs.run import folder as names
from partita.jobs.run.attempt import Attempt
from partita.jobs.run.locking import locked, opened, there
from partita.jobs.run.port import ForeignAttemptError, Look, Phase
from partita.jobs.run.shepherd import documents, processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from partita.jobs.run.port import Launch

_ROOT = str(Path(partita.__file__).parents[1])
_WATCHER = """\
import sys
sys.path.append(sys.argv[1])
from partita.jobs.run.shepherd.main import main
main(sys.argv[2], sys.argv[3])
"""
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
        self._under_way: dict[Path, Attempt] = {}

    def start(self, launch: Launch) -> None:
        """Start an attempt; doing so twice is no error and starts it once.

        Raises:
            ForeignAttemptError: its folder holds another attempt; nothing was started.
            PartitaError: its folder cannot be made or written to, or the watcher not be started.
        """
        try:
            launch.folder.mkdir(exist_ok=True)
            launch.folder.chmod(0o711)  # whatever the daemon's umask is
            with opened(launch.folder) as folder, locked(folder, fcntl.LOCK_EX) as lock:
                if there(folder, names.LAUNCH):
                    _require_ours(folder, launch, runs=lock is None)
                elif lock is not None:
                    # Not waiting for the disk: a host that crashes ends the job anyway.
                    document = self._document(launch)
                    documents.write(folder, names.LAUNCH, document, durable=False)
                    self._children.add(_spawn(launch.folder, lock, documents.digest(document)))
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
            attempt = self._under_way[folder] = Attempt(folder, self._used)
        found = attempt.look()
        if found.phase in _ENDED:
            self._under_way.pop(folder, None)
        return found

    def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask an attempt to checkpoint and end, and after the grace have all its processes killed.

        Asked again with less grace, it has less. One that has ended is let be.
        """
        with suppress(FileNotFoundError), opened(folder) as handle:
            with suppress(OSError):  # on a full disk the signal asks, with the grace it was started with
                _ask(handle, grace_s)
            _wake(handle)

    def _document(self, launch: Launch) -> dict[str, Any]:
        folder = launch.folder.absolute()
        ours = {
            "CUDA_VISIBLE_DEVICES": launch.device,
            "PARTITA_JOB_ID": launch.job,
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
            "limit_s": launch.limit_s,
            "umask": launch.umask,
            "key": launch.key,
            "record": launch.record,
            "oom_patterns": list(launch.oom_patterns),
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


def _require_ours(folder: int, launch: Launch, *, runs: bool) -> None:
    """Refuse a folder in which another attempt was started, whose files would be taken for this one's.

    Raises:
        ForeignAttemptError: it is.
    """
    try:
        key = documents.read(folder, names.LAUNCH).get("key", "")
    except ValueError:
        key = None  # cut short by a crash: whose it was, nobody knows
    if key != launch.key:
        raise ForeignAttemptError(
            f"attempt {launch.attempt} of job {launch.job} cannot begin: its folder holds another one",
            where=str(launch.folder),
            runs=runs,
        )


def _spawn(folder: Path, lock: int, digest: str) -> int:
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    errors = str(folder / names.ERRORS)
    return os.posix_spawn(
        sys.executable,
        # Neither the user's site-packages nor PYTHON* variables, to be small, quick and safe.
        [sys.executable, "-I", "-S", "-B", "-c", _WATCHER, _ROOT, str(folder.absolute()), digest],
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
            with locked(folder, fcntl.LOCK_SH) as lock:
                if lock is None:
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
        finally:
            os.close(handle)
