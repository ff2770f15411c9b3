"""Runs attempts as real processes, each with a watcher that outlives the daemon, and reads their folders."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import asdict

import partita
from partita.errors import InputError, PartitaError
from partita.jobs.run.documents import (
    ExitDocument,
    LaunchDocument,
    WatchDocument,
    encode_document,
    read_document,
)
from partita.jobs.run.folder import (
    CHECKPOINT,
    ERRORS,
    EXIT,
    LAUNCH,
    PROGRESS,
    WATCH,
    digest_document,
    exists_in,
    open_folder,
    read_file,
    try_lock,
    write_document,
)
from partita.jobs.run.runner import AttemptPhase, AttemptStatus, ForeignAttemptError, JobProgress
from partita.oom import OUT_OF_MEMORY, Ending
from partita.process import keeper
from partita.process.table import boot_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.jobs.run.runner import Launch


_ROOT = str(Path(partita.__file__).parents[1])
_WATCHER = """\
import sys
sys.path.append(sys.argv[1])
from partita.jobs.run.watcher import main
main(*sys.argv[2:])
"""
_ENDED = (AttemptPhase.ENDED, AttemptPhase.LOST)
_ASK_S = 1.0
"""Seconds between two readings of the memory in use."""
_MOST_BYTES = 1 << 20
_SAMPLES = 300
_PATIENCE_S = 2.0


class RealJobRunner:
    """Runs jobs on this host; implements `JobRunner`.

    Args:
        scale: on simulated instances, host memory that a job may use per byte of its instance; None on real ones,
            where the GPU itself is the limit.
        used: returns the bytes in use on a device, None if unknown; gives an attempt's peak together with the job's
            own reports.
    """

    def __init__(
        self, scale: float | None = None, used: Callable[[str], int | None] = lambda _device: None
    ) -> None:
        self._scale = scale
        self._used = used
        self._under_way: dict[Path, AttemptReader] = {}

    def start(self, launch: Launch) -> None:
        """Start an attempt; a second call for the same attempt does nothing.

        Raises:
            ForeignAttemptError: its folder has another attempt; nothing was started.
            PartitaError: its folder cannot be created or written, or the watcher cannot be started.
        """
        try:
            launch.folder.mkdir(exist_ok=True)
            launch.folder.chmod(0o711)  # independent of the daemon's umask
            with open_folder(launch.folder) as folder, try_lock(folder, fcntl.LOCK_EX) as lock:
                if exists_in(folder, LAUNCH):
                    _require_ours(folder, launch, runs=lock is None)
                elif lock is not None:
                    # Not durable: a crash of the host ends the job anyway.
                    document = encode_document(self._document(launch))
                    write_document(folder, LAUNCH, document, durable=False)
                    _start_watcher(launch.folder, lock, digest_document(document))
        except OSError as error:
            raise PartitaError(
                f"a job cannot be started: {error.strerror}", where=str(launch.folder)
            ) from error

    def look(self, folder: Path) -> AttemptStatus:
        """Return the status of an attempt; one without a watcher is ended and is `LOST`.

        Raises:
            PartitaError: its folder cannot be read.
        """
        attempt = self._under_way.get(folder)
        if attempt is None:
            attempt = self._under_way[folder] = AttemptReader(folder, self._used)
        found = attempt.look()
        if found.phase in _ENDED:
            self._under_way.pop(folder, None)
        return found

    def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask an attempt to checkpoint and end; its watcher kills its processes after `grace_s` seconds.

        Another call with a shorter grace shortens it. Of an attempt that has ended nothing is changed.
        """
        with suppress(FileNotFoundError), open_folder(folder) as handle:
            with suppress(OSError):  # on a full disk the signal suffices, with the grace of the launch
                _ask(handle, grace_s)
            _wake(handle)

    def _document(self, launch: Launch) -> LaunchDocument:
        folder = launch.folder.absolute()
        ours = {
            "CUDA_VISIBLE_DEVICES": launch.device,
            "PARTITA_JOB_ID": launch.job,
            "PARTITA_JOB_ATTEMPT": str(launch.attempt),
            "PARTITA_JOB_PROGRESS": str(folder / PROGRESS),
            "PARTITA_JOB_CHECKPOINT": str(folder / CHECKPOINT),
        }
        if launch.index is not None:
            ours["PARTITA_ARRAY_INDEX"] = str(launch.index)
        # Otherwise Python buffers output to a pipe, and a killed job loses it.
        defaults = {"PYTHONUNBUFFERED": "1"}
        if self._scale is not None:
            ours["PARTITA_JOB_SIMULATED"] = "1"
            # Libraries reserve memory per thread, in all more than a small simulated instance has.
            defaults["OMP_NUM_THREADS"] = "1"
        inherited = {k: v for k, v in launch.environment.items() if not k.startswith("PARTITA_JOB_")}
        return LaunchDocument(
            job=launch.job,
            attempt=launch.attempt,
            command=launch.command,
            directory=str(launch.directory),
            environment={**defaults, **inherited, **ours},
            owner=launch.owner,
            limit_bytes=None if self._scale is None else int(launch.memory_bytes * self._scale),
            scale=self._scale,
            log_bytes=launch.log_bytes,
            grace_s=launch.grace_s,
            boot=boot_id(),
            limit_s=launch.limit_s,
            umask=launch.umask,
            key=launch.key,
            record=launch.record,
            oom_patterns=launch.oom_patterns,
        )


def _require_ours(folder: int, launch: Launch, *, runs: bool) -> None:
    """Refuse a folder in which another attempt was started, as its files would be mistaken for this one's.

    Raises:
        ForeignAttemptError: another attempt was started there.
    """
    try:
        ours = read_document(folder, LAUNCH, LaunchDocument).key == launch.key
    except InputError:
        ours = False  # cut short by a crash: its owner is unknown
    if not ours:
        raise ForeignAttemptError(
            f"attempt {launch.attempt} of job {launch.job} cannot start: its folder has another attempt",
            where=str(launch.folder),
            runs=runs,
        )


def _start_watcher(folder: Path, lock: int, digest: str) -> None:
    # Without site-packages and PYTHON* variables: small, quick and safe.
    command = [
        sys.executable,
        "-I",
        "-S",
        "-B",
        "-c",
        _WATCHER,
        _ROOT,
        str(folder.absolute()),
        digest,
        str(lock),
    ]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    keeper.start(command, environment, output=folder / ERRORS, inherited=(lock,))


def _ask(folder: int, grace_s: float) -> None:
    """Write the checkpoint file, which asks the job to end within these seconds."""
    part = f".{CHECKPOINT}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(part, flags, 0o644, dir_fd=folder)
    try:
        os.fchmod(handle, 0o644)
        os.write(handle, str(float(grace_s)).encode())
    finally:
        os.close(handle)
    os.rename(part, CHECKPOINT, src_dir_fd=folder, dst_dir_fd=folder)


def _wake(folder: int) -> None:
    """Send SIGTERM to the watcher if it runs, so that it looks now and not within a second."""
    with suppress(OSError, InputError):
        handle = os.pidfd_open(read_document(folder, WATCH, WatchDocument).watcher)
        try:
            # While a watcher holds the lock, the pid in its document is its own.
            with try_lock(folder, fcntl.LOCK_SH) as lock:
                if lock is None:
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
        finally:
            os.close(handle)


class AttemptReader:
    """Reads an attempt's folder; caches what does not change, so that a look costs a few system calls.

    Args:
        folder: the attempt's.
        used: returns the bytes in use on a device, None if unknown.
    """

    def __init__(self, folder: Path, used: Callable[[str], int | None]) -> None:
        self._folder = folder
        self._used = used
        self._device = ""
        self._peak = 0
        self._ask = 0.0
        self._reports = ProgressReader()
        self._began: float | None = None
        self._scale: float | None = None
        self._known = False

    def look(self) -> AttemptStatus:
        """Return its status; an attempt without a watcher is ended and is `LOST`.

        Raises:
            PartitaError: its folder cannot be read.
        """
        try:
            with open_folder(self._folder) as folder:
                return self._look(folder)
        except FileNotFoundError:
            return AttemptStatus(AttemptPhase.LOST, why="it never began")
        except (OSError, InputError) as error:
            raise PartitaError(f"an attempt cannot be read: {error}", where=str(self._folder)) from error

    def _look(self, folder: int) -> AttemptStatus:
        with try_lock(folder, fcntl.LOCK_EX) as lock:
            if lock is not None and not exists_in(folder, EXIT):
                return self._lose(folder)
        if not self._known:
            with suppress(
                FileNotFoundError, InputError
            ):  # a crash of the host may have cut the document short
                launch = read_document(folder, LAUNCH, LaunchDocument)
                self._scale = launch.scale
                self._device = launch.environment.get("CUDA_VISIBLE_DEVICES", "")
                self._known = True
        if lock is None:
            return self._running(folder)
        return _ended(read_document(folder, EXIT, ExitDocument), self._progress(folder), self._scale)

    def _lose(self, folder: int) -> AttemptStatus:
        found = end_what_is_left(folder, self._folder)
        with suppress(OSError):  # on a full disk the next look does the same again
            write_document(folder, EXIT, encode_document(found))
        return _ended(found, self._progress(folder), self._scale)

    def _running(self, folder: int) -> AttemptStatus:
        if self._began is None and exists_in(folder, WATCH):
            self._began = read_document(folder, WATCH, WatchDocument).began
        if self._began is not None and self._scale is None and time.monotonic() >= self._ask:
            self._ask = time.monotonic() + _ASK_S
            self._peak = max(self._peak, self._used(self._device) or 0)
        stopping = exists_in(folder, CHECKPOINT)
        return AttemptStatus(
            AttemptPhase.STOPPING if stopping else AttemptPhase.RUNNING,
            began=self._began,
            progress=self._progress(folder),
        )

    def _progress(self, folder: int) -> JobProgress:
        self._reports.read(folder)
        found = self._reports.progress(self._scale)
        return replace(found, peak_bytes=max(found.peak_bytes or 0, self._peak) or None)


def _ended(found: ExitDocument, progress: JobProgress, scale: float | None) -> AttemptStatus:
    peak = progress.peak_bytes
    # Watchers of older versions wrote only `out_of_memory`.
    ending = None if found.ending is None else Ending(**asdict(found.ending))
    if scale is not None and found.peak_bytes is not None:
        peak = max(peak or 0, int(found.peak_bytes / scale))
    return AttemptStatus(
        AttemptPhase.LOST if found.lost else AttemptPhase.ENDED,
        code=found.code,
        timed_out=found.timed_out,
        out_of_memory=found.out_of_memory or (ending is not None and ending.verdict == OUT_OF_MEMORY),
        ending=ending,
        why=found.why,
        began=found.began,
        ended=found.ended,
        progress=replace(progress, peak_bytes=peak),
        left=found.left,
        stuck=found.stuck,
    )


class ProgressReader:
    """The newest few hundred reports of one attempt."""

    def __init__(self) -> None:
        self._at = 0
        self._step: int | None = None
        self._of: int | None = None
        self._peak: int | None = None
        self._allocated: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)

    def read(self, folder: int) -> None:
        """Read what was appended to the file, in the folder that is open as this descriptor."""
        try:
            size = os.stat(PROGRESS, dir_fd=folder, follow_symlinks=False).st_size
        except OSError:
            return
        if size < self._at:  # the job's helper truncated it to keep it short
            self._at = 0
        if size == self._at:
            return
        start = max(self._at, size - _MOST_BYTES)
        handle = os.open(PROGRESS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            data = os.pread(handle, _MOST_BYTES, start)
        finally:
            os.close(handle)
        whole = data.rpartition(b"\n")[0]
        self._at = start + len(whole) + 1 if whole else size if len(data) == _MOST_BYTES else start
        for line in whole.splitlines():
            self._take(line)

    def progress(self, scale: float | None) -> JobProgress:
        """Return the progress; on simulated instances, bytes are converted to those of the real instance."""
        factor = 1.0 if scale is None else 1.0 / scale
        peak = None if self._peak is None else int(self._peak * factor)
        steps = tuple(step for step, _ in self._allocated)
        allocated = tuple(int(each * factor) for _, each in self._allocated)
        return JobProgress(self._step, self._of, steps, allocated, peak)

    def _take(self, line: bytes) -> None:
        try:
            # Without the codec: a job reports many times a second, and faults in reports are not shown.
            step, of, allocated, peak = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        if not _count(step):
            return
        self._step = step
        self._of = of if _count(of) else None
        if _count(allocated):
            self._allocated.append((step, allocated))
            self._peak = max(self._peak or 0, allocated, peak if _count(peak) else 0)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


def end_what_is_left(folder: int, path: Path) -> ExitDocument:
    """Kill the processes of an attempt without a watcher; return its exit document, as the watcher would write it.

    A pid alone does not identify a process, as pids are reused. A process belongs to the attempt if its start time is
    the one the watcher saw, if it is in the session of the job's first process, or if it has the attempt's
    environment. Processes of an earlier boot are gone.

    Args:
        folder: open descriptor of its folder.
        path: of the folder.
    """
    try:
        launch = read_document(folder, LAUNCH, LaunchDocument)
    except (OSError, InputError):
        return _lost("it never began")
    try:
        watched = read_document(folder, WATCH, WatchDocument)
    except (OSError, InputError):
        watched = None
    since = None if watched is None else watched.began
    if launch.boot != boot_id():
        return _lost("the host was restarted while it ran", began=since)
    began = dict(() if watched is None else watched.processes)
    main = None if watched is None else watched.main
    job = keeper.ProcessIdentity(
        launch.boot,
        f"PARTITA_JOB_PROGRESS={path.absolute() / PROGRESS}",
        main,
        None if main is None else began.get(main),
        tuple((pid, at) for pid, at in began.items() if at),
    )
    killed, stuck = job.kill(_PATIENCE_S)
    why = _watcher_fault(folder) or (
        "its watcher ended before the job began" if watched is None else "its watcher was killed"
    )
    if stuck:
        why += f", and {len(stuck)} of its processes cannot be ended: is its GPU lost?"
    return _lost(why, began=since, left=len(killed), stuck=tuple(sorted(stuck)))


def _lost(
    why: str, *, began: float | None = None, left: int = 0, stuck: tuple[int, ...] = ()
) -> ExitDocument:
    ended = max(time.time(), began or 0.0)
    return ExitDocument(None, why, ended, began, lost=True, left=left, stuck=stuck)


def _watcher_fault(folder: int) -> str | None:
    """Return why the watcher itself failed; None if it wrote nothing, as when it was killed."""
    try:
        lines = read_file(folder, ERRORS).decode(errors="replace").strip().splitlines()
    except OSError:
        return None
    return f"its watcher failed: {lines[-1]}" if lines else None
