"""The interface to what runs jobs: real processes, or simulated ones on a simulated clock.

Each attempt has a folder of its own with its log, its reports and its end. The folder suffices to find the attempt
again: a daemon that restarts after a kill -9 looks at the folders of the attempts that ran, and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from partita.errors import PartitaError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.oom import Ending


@dataclass(frozen=True, slots=True)
class JobUser:
    """The user that a job runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt of a job, to be started.

    Attributes:
        job: its id: `12`, or `12_3` in an array.
        attempt: 1 for the first.
        folder: the attempt's own, which does not exist yet.
        device: the value of `CUDA_VISIBLE_DEVICES`.
        memory_bytes: memory of the instance; scaled, the limit on its processes on a simulated instance.
        log_bytes: most bytes kept of its log.
        grace_s: seconds from SIGTERM to SIGKILL when it is stopped.
        index: in its array; None outside one.
        limit_s: seconds after which it is asked to end, and killed after its grace; None for no limit.
        umask: of its process.
        key: identifies the attempt that a folder belongs to; empty for none.
        record: the job as the queue knows it; kept in the folder in case the store is lost.
        oom_patterns: regular expressions that mean, in its output, that memory ran out.
    """

    job: str
    attempt: int
    folder: Path
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str]
    owner: JobUser
    device: str
    memory_bytes: int
    log_bytes: int
    grace_s: float
    index: int | None = None
    limit_s: float | None = None
    umask: int = 0o022
    key: str = ""
    record: str = ""
    oom_patterns: tuple[str, ...] = ()


class ForeignAttemptError(PartitaError):
    """The folder of an attempt has another attempt, which is left as it is.

    Args:
        what: one sentence.
        where: the folder.
        runs: whether the other attempt runs.
    """

    def __init__(self, what: str, *, where: str, runs: bool) -> None:
        super().__init__(what, where=where)
        self.runs = runs


class AttemptPhase(StrEnum):
    """The phase of an attempt."""

    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What a job reported (`partita.job.step`) or the runner measured.

    Attributes:
        step: of the last report; None if there was none.
        of: total number of steps.
        steps: those after which memory was reported, the newest last; at most a few hundred.
        allocated_bytes: memory after each of `steps`.
        peak_bytes: most memory seen.
    """

    step: int | None = None
    of: int | None = None
    steps: tuple[int, ...] = ()
    allocated_bytes: tuple[int, ...] = ()
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """The status of an attempt.

    Attributes:
        code: exit code, 128 + n if signal n ended it; None while it runs, and if its end was not seen.
        timed_out: whether it was ended at its time limit.
        out_of_memory: whether its output shows that memory ran out, or its processes together exceeded its instance.
        ending: what its output shows about the end; None while it runs, and if the processes exceeded the instance.
        why: why it is lost or could not be started.
        began: seconds since 1970 when its process started; None before.
        ended: seconds since 1970 when it ended.
        progress: as reported until now.
        left: number of processes that were left when the first one ended, and were then ended.
        stuck: pids of processes that were killed but do not end; the instance stays in use.
    """

    phase: AttemptPhase
    code: int | None = None
    out_of_memory: bool = False
    timed_out: bool = False
    ending: Ending | None = None
    why: str | None = None
    began: float | None = None
    ended: float | None = None
    progress: JobProgress = JobProgress()
    left: int = 0
    stuck: tuple[int, ...] = ()


class JobRunner(Protocol):
    """Runs attempts. Every call returns at once; `look` returns the status of an attempt."""

    def start(self, launch: Launch) -> None:
        """Start an attempt; a second call for the same attempt does nothing. `look` shows faults of the start.

        Raises:
            ForeignAttemptError: its folder has another attempt; nothing was started.
        """
        ...

    def look(self, folder: Path) -> AttemptStatus:
        """Return the status of an attempt; LOST if it never started, or its watcher ended before it did."""
        ...

    def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask an attempt to checkpoint and end (SIGTERM); after the grace, kill all its processes (SIGKILL)."""
        ...
