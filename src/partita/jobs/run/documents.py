"""What stands in the folder of an attempt, as the queue writes and reads it; older versions' documents are read.

The watcher reads and writes the same as plain JSON. A host runs as many watchers as jobs, and the codec would take
40 ms of CPU and 4 MiB of memory more in each, beside 52 ms and 7 MiB.
"""

from __future__ import annotations

from typing import TypeVar

from partita.documents.codec import Value
from partita.documents.text import compact, decode
from partita.jobs.run.folder import read_file
from partita.jobs.run.runner import JobUser

T = TypeVar("T", bound="AttemptFile")


class AttemptFile(Value, forbid_unknown_fields=False):
    """A document in the folder of an attempt; what only a newer version says is passed over."""


class LaunchDocument(AttemptFile):
    """What is to be run: the fields of `Launch`, all of the environment, and the limit on a simulated instance.

    Attributes:
        environment: as the job gets it.
        limit_bytes: most memory that its processes have together; None without a limit.
        scale: memory of a simulated instance over that of a real one; None on real ones.
        boot: of the host, in which it was started.
    """

    job: str
    attempt: int
    command: tuple[str, ...]
    directory: str
    environment: dict[str, str]
    owner: JobUser
    limit_bytes: int | None
    scale: float | None
    log_bytes: int
    grace_s: float
    boot: str
    limit_s: float | None = None
    umask: int = 0o022
    key: str = ""
    record: str = ""
    oom_patterns: tuple[str, ...] = ()


class WatchDocument(AttemptFile):
    """Which processes there are: the watcher, the job's first, and all with when they began in ticks since boot."""

    watcher: int
    main: int
    began: float
    processes: tuple[tuple[int, int | None], ...] = ()


class EndingDocument(AttemptFile):
    """What the output makes of an attempt: the fields of `Ending`."""

    verdict: str
    why: str
    sure: bool = True
    unclear: bool = False
    line: int | None = None
    text: str | None = None


class JoinedLog(AttemptFile):
    """What of the output was kept: bytes, and where its tail begins in the output and in the file."""

    tail: int
    tail_at: int
    total: int | None = None
    dropped: int | None = None
    head: int | None = None


class ExitDocument(AttemptFile):
    """How an attempt ended: the fields of `AttemptStatus`, on a simulated instance in bytes of the host."""

    code: int | None
    why: str | None
    ended: float | None
    began: float | None = None
    out_of_memory: bool = False
    ending: EndingDocument | None = None
    timed_out: bool = False
    lost: bool = False
    peak_bytes: int | None = None
    cpu_s: float | None = None
    left: int = 0
    stuck: tuple[int, ...] = ()
    log: JoinedLog | None = None


def read_document(folder: int, name: str, kind: type[T]) -> T:
    """Return a document of the folder that is open as this descriptor.

    Raises:
        OSError: it cannot be read.
        InputError: it is none: cut short by a crash of the host, say.
    """
    return decode(read_file(folder, name), kind, name)


def encode_document(document: AttemptFile) -> bytes:
    """Return a document as it is written."""
    return compact(document).encode() + b"\n"
