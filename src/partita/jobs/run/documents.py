"""The documents in an attempt's folder, as the queue reads and writes them; those of older versions can be read.

The watcher reads and writes them as plain JSON. Each job has a watcher, which takes 52 ms of CPU and 7 MiB of memory;
with the codec it would take 40 ms and 4 MiB more.
"""

from __future__ import annotations

from typing import TypeVar

from partita.documents.codec import Value
from partita.documents.text import compact, decode
from partita.jobs.run.folder import read_file
from partita.jobs.run.runner import JobUser

T = TypeVar("T", bound="AttemptFile")


class AttemptFile(Value, forbid_unknown_fields=False):
    """A document in an attempt's folder; fields of newer versions are ignored."""


class LaunchDocument(AttemptFile):
    """What is to be run: the fields of `Launch`, the job's environment, and the limit on a simulated instance.

    Attributes:
        environment: all of the job's environment.
        limit_bytes: most memory of its processes together; None without a limit.
        scale: memory of a simulated instance over that of a real one; None on real ones.
        boot: id of the host's boot in which it was started.
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
    """The attempt's processes.

    Attributes:
        watcher: its pid.
        main: pid of the job's first process.
        began: seconds since 1970 when that started.
        processes: all, as pid and start in ticks since boot.
    """

    watcher: int
    main: int
    began: float
    processes: tuple[tuple[int, int | None], ...] = ()


class EndingDocument(AttemptFile):
    """What the output shows about the end of an attempt: the fields of `Ending`."""

    verdict: str
    why: str
    sure: bool = True
    unclear: bool = False
    line: int | None = None
    text: str | None = None


class JoinedLog(AttemptFile):
    """What was kept of the output.

    Attributes:
        tail: offset in the output where the kept tail begins, in bytes.
        tail_at: the same offset in the file.
        total: bytes of the whole output.
        dropped: bytes that were not kept.
        head: bytes kept of the beginning.
    """

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
        InputError: it is not such a document, for instance cut short by a crash of the host.
    """
    return decode(read_file(folder, name), kind, name)


def encode_document(document: AttemptFile) -> bytes:
    """Return a document as one line of JSON."""
    return compact(document).encode() + b"\n"
