"""The port to what runs jobs: real processes, or simulated ones on a simulated clock.

An attempt lives in a folder of its own (its log, what it reported, how it ended), and that folder is all that is
needed to find it again: who starts a daemon after a kill -9 looks at the folders of the attempts it believes under
way, and goes on.
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
    """Whom a job runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt of a job, to be started.

    Attributes:
        job: its id, as people call it: `12`, or `12_3` in an array.
        folder: the attempt's own, not there yet.
        device: what `CUDA_VISIBLE_DEVICES` becomes.
        memory_bytes: memory of the instance; what a simulated instance limits its process to, after scaling.
        log_bytes: most bytes of its log that are kept.
        grace_s: seconds from SIGTERM to SIGKILL when it is stopped.
        attempt: 1 for the first.
        index: of its array, if it is of one.
        limit_s: seconds after which it is asked to end, and after its grace killed; None for no limit.
        umask: of its process.
        key: tells this attempt from all others, should its folder be met again; empty if it has none.
        record: what the queue knows of the job, kept in the folder for the one who finds it without the queue.
        oom_patterns: regular expressions that say in its output that memory ran out.
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
    """The folder of an attempt holds another one, which is left as it is.

    Args:
        what: one sentence.
        where: the folder.
        runs: whether that one runs.
    """

    def __init__(self, what: str, *, where: str, runs: bool) -> None:
        super().__init__(what, where=where)
        self.runs = runs


class AttemptPhase(StrEnum):
    """Where an attempt is."""

    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What a job reported of itself (`partita.job.step`), or the runner saw.

    Attributes:
        step: of the last report; None if it never reported.
        of: steps there will be.
        steps: those after which memory was reported, the newest last; at most a few hundred of them.
        allocated_bytes: after each of these.
        peak_bytes: most memory seen.
    """

    step: int | None = None
    of: int | None = None
    steps: tuple[int, ...] = ()
    allocated_bytes: tuple[int, ...] = ()
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """An attempt as it was found.

    Attributes:
        code: exit code, 128 + n if signal n ended it; None while it runs, and where nobody saw it end.
        timed_out: it ran for as long as it may, and was ended for that.
        out_of_memory: its output says that memory ran out, or its processes had more together than its instance.
        ending: what its output makes of it; None while it runs, and where nothing but its memory was looked at.
        why: why it is lost, or could not be started, in words.
        began: seconds since 1970 at which its process began; None before that.
        ended: seconds since 1970 at which it ended.
        left: processes that it left behind when its first one ended, and that were ended.
        stuck: pids of those that were killed and do not go; its instance stays in use.
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
    """Runs attempts. Every call returns at once; what has become of an attempt is told by `look`."""

    def start(self, launch: Launch) -> None:
        """Start an attempt; doing so twice is no error and starts it once. What goes wrong is told by `look`.

        Raises:
            ForeignAttemptError: its folder holds another attempt; nothing was started.
        """
        ...

    def look(self, folder: Path) -> AttemptStatus:
        """Return an attempt as it is now; LOST if it never began, or its watcher died before it ended."""
        ...

    def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask an attempt to checkpoint and end (SIGTERM), and after the grace end all its processes (SIGKILL)."""
        ...
