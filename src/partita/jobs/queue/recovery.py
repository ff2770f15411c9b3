"""Opens the queue's store, and refuses one that lacks attempts that are on the disk: it was lost or is old.

The store records an attempt before its folder is created, and forgets the job after the folder is removed. So a
folder that the store does not know shows that the store lost data. A queue that started with such a store would give
a running job's instance to another job, and run finished jobs again. `recover` rebuilds the store from what it can
read.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.documents.text import decode
from partita.errors import InputError, PartitaError
from partita.files import set_aside
from partita.jobs.queue.folders import ATTEMPTS, LastNumber
from partita.jobs.queue.job_store import FILE, JobStore, UserShare
from partita.jobs.queue.record import OVER, AttemptVerdict, JobRecord, JobState, load_job
from partita.jobs.run import folder as names
from partita.jobs.run.documents import ExitDocument, LaunchDocument, WatchDocument, read_document
from partita.jobs.run.folder import is_watched, open_folder
from partita.store import DamagedError, StoreError, empty, finish_rebuilding, has_log, rebuild, salvage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from partita.jobs.run.documents import T

_JOB = re.compile(r"(\d{1,15})(?:_\d{1,9})?")
_OURS = ("PARTITA_JOB_", "PARTITA_ARRAY_INDEX", "CUDA_VISIBLE_DEVICES")
_HINT = (
    "`partita daemon --recover` rebuilds the store from the attempts on the disk: running jobs go on, "
    "and nothing runs twice; or restore a backup of the store"
)


class LostStoreError(StoreError):
    """The store is missing, or older than the attempts on the disk."""


def open_store(folder: Path) -> JobStore:
    """Open the queue's store; create it if there never was one.

    Args:
        folder: `jobs` in the state folder.

    Raises:
        LostStoreError: the store was lost, or is older than the disk.
        StoreError: it is damaged or cannot be used.
    """
    path, last, found = folder / FILE, LastNumber(folder).found, attempts_on_disk(folder)
    if empty(path) and (last or found) and not has_log(path):
        on_disk = f"{len(found):,} jobs have attempts on the disk{_running(folder, found)}" if found else ""
        numbers = f"it had jobs up to number {last:,}" if last else ""
        raise LostStoreError(
            f"the queue's store is {'empty' if path.exists() else 'missing'}, and "
            + "; ".join(filter(None, (on_disk, numbers))),
            where=str(path),
            hint=f"{_HINT}; submit again the jobs that waited and never ran",
        )
    store = JobStore(path)
    try:
        _refuse_old(folder, store, found)
    except BaseException:
        store.close()
        raise
    return store


def recover(folder: Path, tell: Callable[[str], None]) -> JobStore:
    """Open the queue's store, completed from the attempts on the disk, and repaired if it is damaged.

    A damaged store is set aside. Nothing is removed, and no process is touched. Jobs that run are running in the
    store; for those that ended, the queue does what their end calls for.

    Args:
        folder: `jobs` in the state folder.
        tell: called with a line for each thing done.

    Raises:
        PartitaError: an attempt runs whose folder cannot be read, or the store cannot be written.
    """
    path, found = folder / FILE, attempts_on_disk(folder)
    # Read first: what raises here leaves everything unchanged.
    on_disk = [_read(folder / ATTEMPTS / job, newest) for job, newest in sorted(found.items())]
    aside = finish_rebuilding(path)
    if aside:
        tell(f"{path}: a new store is in its place, the old one set aside as {', '.join(aside)}")
    try:
        store = _readable(path)
    except DamagedError as error:
        _replace(path, error, tell)
        store = JobStore(path)
    try:
        known = _merge(store, [each for each in on_disk if each is not None], tell)
    except BaseException:
        store.close()
        raise
    mark = LastNumber(folder)
    mark.given(max([store.last_number(), *(int(_number(job)) for job in found)]))
    unread = len(on_disk) - sum(each is not None for each in on_disk)
    tell(
        f"recovered: {len(store.active()):,} jobs are not over, {known:,} were known only from their attempts"
        + (f"; {unread:,} cannot be read, their folders stay as they are" if unread else "")
    )
    return store


def _readable(path: Path) -> JobStore:
    """Open a store whose jobs can all be read.

    Raises:
        DamagedError: some cannot be read.
        StoreError: the store cannot be used.
    """
    store = JobStore(path)
    try:
        store.active()
        store.over(10**9)
    except StoreError:
        store.close()
        raise
    return store


def _replace(path: Path, error: DamagedError, tell: Callable[[str], None]) -> None:
    """Replace a damaged store by one with all that can be read of it."""
    found = _salvaged(path)

    def fill(new: Path) -> None:
        with closing(JobStore(new)) as store:
            _fill(store, found)

    aside = rebuild(path, fill)
    tell(f"{error}; {len(found.jobs):,} jobs could be read")
    tell(f"{path}: a new store is in its place, the old one set aside as {', '.join(aside) or 'nothing'}")


def attempts_on_disk(folder: Path) -> dict[str, int]:
    """Return the number of the newest attempt that has a folder, by the job's id."""
    found = {}
    with suppress(FileNotFoundError):
        for job in (folder / ATTEMPTS).iterdir():
            if _JOB.fullmatch(job.name):
                numbers = [int(each.name) for each in job.iterdir() if each.name.isdecimal()]
                if numbers:
                    found[job.name] = max(numbers)
    return found


def _refuse_old(folder: Path, store: JobStore, found: dict[str, int]) -> None:
    known = store.known()
    more = {job: newest for job, newest in found.items() if newest > known.get(job, 0)}
    if more:
        job, newest = next(iter(sorted(more.items(), key=lambda each: int(_number(each[0])))))
        raise LostStoreError(
            f"the queue's store is older than the disk: it does not have attempt {newest} of job {job}"
            + (f", nor attempts of {len(more) - 1:,} more jobs" if len(more) > 1 else "")
            + _running(folder, more),
            where=str(store.path),
            hint=_HINT,
        )
    for record in store.active():
        if record.attempts and record.attempt.device is not None and record.id in found:
            there = _document(
                folder / ATTEMPTS / record.id / str(record.attempt.number), names.LAUNCH, LaunchDocument
            )
            if there is not None and there.key != (record.attempt.key or ""):
                raise LostStoreError(
                    f"attempt {record.attempt.number} of job {record.id} in the store is not the one on the disk",
                    where=str(store.path),
                    hint=_HINT,
                )


def _running(folder: Path, found: dict[str, int]) -> str:
    running = sum(is_watched(folder / ATTEMPTS / job / str(newest)) for job, newest in found.items())
    return f", of which {running:,} run" if running else ""


def _number(job: str) -> str:
    return job.partition("_")[0]


def _document(folder: Path, name: str, kind: type[T]) -> T | None:
    """Return a document of an attempt; None if it is missing or incomplete."""
    try:
        with open_folder(folder) as handle:
            return read_document(handle, name, kind)
    except (OSError, InputError):
        return None


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """A job as the folder of its newest attempt describes it.

    Attributes:
        path: of that folder.
        job: its record, as far as the folder tells.
        environment: the one it was submitted with, without the variables that every attempt is given.
        runs: whether a watcher watches it.
    """

    path: Path
    job: JobRecord
    environment: dict[str, str]
    runs: bool


def _read(folder: Path, newest: int) -> _OnDisk | None:
    """Return a job from the folder of its attempts; None if that cannot be read.

    Raises:
        PartitaError: the same, of an attempt that runs.
    """
    path = folder / str(newest)
    runs = is_watched(path)
    try:
        with open_folder(path) as handle:
            launch = read_document(handle, names.LAUNCH, LaunchDocument)
        job = load_job(launch.record)
        if job.id != folder.name or not job.attempts or job.attempt.number != newest:
            raise InputError("another attempt's")
        environment = {k: v for k, v in launch.environment.items() if not k.startswith(_OURS)}
    except (OSError, InputError) as error:
        if runs:
            raise PartitaError(
                f"attempt {newest} of job {folder.name} runs, but its folder cannot be read: {error}",
                where=str(path),
                hint="wait until it has ended, or end it; then try again",
            ) from error
        return None
    return _OnDisk(path, _as_found(job, path), environment, runs)


def _as_found(job: JobRecord, path: Path) -> JobRecord:
    """Return a started job in the state that its folder shows; the queue finds out what its end means."""
    ended, watched = _document(path, names.EXIT, ExitDocument), _document(path, names.WATCH, WatchDocument)
    attempt = replace(job.attempt, began=job.attempt.decided if watched is None else watched.began)
    with suppress(OSError, ValueError):
        attempt = replace(attempt, wish=AttemptVerdict((path / names.WISH).read_text().strip()))
    job = replace(job, attempts=(*job.attempts[:-1], attempt))
    if attempt.wish is not None:
        return replace(job, state=JobState.STOPPING)
    if ended is None or ended.code != 0 or ended.timed_out:
        return replace(job, state=JobState.RUNNING)
    # Finished jobs are settled here, since there may be thousands.
    done = replace(attempt, ended=ended.ended, code=0, verdict=AttemptVerdict.DONE)
    return replace(job, state=JobState.DONE, why=None).with_attempt(done)


def _merge(store: JobStore, found: list[_OnDisk], tell: Callable[[str], None]) -> int:
    """Write the jobs of which the disk has more attempts than the store; return how many the store did not have.

    Raises:
        PartitaError: an attempt of one job runs in the folder of another.
    """
    changed, new = [], 0
    for each in found:
        known = store.get(each.job.number)
        same = known is not None and (known.submitted, known.submitter) == (
            each.job.submitted,
            each.job.submitter,
        )
        if known is not None and (not same or _other_attempt(known, each)):
            if each.runs:
                raise PartitaError(
                    f"an attempt of another job runs in the folder of job {known.id}",
                    where=str(each.path),
                    hint="wait until it has ended, or end it; then try again",
                )
            if not (same and known.state in OVER):
                tell(
                    f"{each.path.parent}: belongs to another job, set aside as {set_aside(each.path.parent).name}"
                )
        elif known is None or len(known.attempts) < len(each.job.attempts):
            new += known is None
            key = known.environment if known is not None else store.keep_environment(each.environment)
            changed.append(replace(each.job, environment=key))
    store.put(changed)
    return new


def _other_attempt(known: JobRecord, found: _OnDisk) -> bool:
    number = found.job.attempt.number
    return len(known.attempts) >= number and known.attempts[number - 1].key != found.job.attempt.key


class _Salvage:
    """What could be read of a damaged store: jobs by number, environments by key, shares by user."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobRecord] = {}
        self.environments: dict[str, dict[str, str]] = {}
        self.shares: dict[str, UserShare] = {}


def _fill(store: JobStore, salvage: _Salvage) -> None:
    for environment in salvage.environments.values():
        store.keep_environment(environment)
    jobs = [
        job
        if job.environment in salvage.environments or job.state is not JobState.WAITING
        else job.to(JobState.CANCELLED, why="its environment was lost with the store; submit it again")
        for job in salvage.jobs.values()
    ]
    store.put(jobs, salvage.shares)


def _salvaged(path: Path) -> _Salvage:
    """Read what can be read of a damaged store."""
    found = _Salvage()
    with suppress(sqlite3.Error), salvage(path) as rows:
        for (body,) in rows("SELECT body FROM jobs NOT INDEXED ORDER BY number"):
            with suppress(InputError):
                job = load_job(str(body))
                found.jobs[job.number] = job
        for key, body in rows("SELECT key, body FROM environments ORDER BY key"):
            with suppress(InputError):
                found.environments[key] = decode(str(body), dict[str, str], "an environment")
        for user, seconds, at in rows("SELECT user, gpu_seconds, at FROM used ORDER BY user"):
            found.shares[user] = UserShare(float(seconds), float(at))
    return found
