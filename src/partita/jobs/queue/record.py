"""A job in the queue, as a value: its id, its options, its state, its attempts, and its dependencies (pure).

`LEGAL` has all legal transitions. The last part is the form of jobs in the store.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING

from msgspec import field
from msgspec.structs import asdict

from partita.documents.codec import Value
from partita.documents.text import compact, decode
from partita.errors import InputError
from partita.jobs.memory.bounds import UNLIMITED, Bounds
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


MOST_TASKS = 10_000

_ID = re.compile(r"(\d{1,15})(?:_(\d{1,9}))?")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class JobId:
    """A job, a whole array, or one task of it.

    Attributes:
        index: None for a job outside an array, and for all tasks of one.
    """

    number: int
    index: int | None = None

    def __str__(self) -> str:
        return str(self.number) if self.index is None else f"{self.number}_{self.index}"


def parse_id(text: str) -> JobId:
    """Read `12` or `12_3`.

    Raises:
        InputError: it is neither.
    """
    found = _ID.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{text!r} is not a job id", hint="write 12, or 12_3 for a task of an array")
    return JobId(int(found[1]), None if found[2] is None else int(found[2]))


def parse_array(text: str) -> tuple[int, ...]:
    """Read `0-9`, or several ranges and numbers as `0-9,20`; in order, each once.

    Raises:
        InputError: the text is not of that form, or has too many indices.
    """
    indices: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise InputError(f"{text!r} is not an array", where="--array", hint="write 0-9, or 0-9,20")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MOST_TASKS:
            raise InputError(f"{part} is not a range of 1 to {MOST_TASKS} tasks", where="--array")
        indices.update(range(first, last + 1))
    if len(indices) > MOST_TASKS:
        raise InputError(f"{len(indices)} tasks; an array has at most {MOST_TASKS}", where="--array")
    return tuple(sorted(indices))


class JobState(StrEnum):
    """The state of a job."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptVerdict(StrEnum):
    """How an attempt ended; also the reason of a requested stop."""

    DONE = "done"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    EARLY_RESTART = "early restart"
    YIELDED = "yielded"
    REQUEUED = "requeued"
    CANCELLED = "cancelled"
    LOST = "lost"


OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""States in which nothing more happens unless the job is requeued."""

LEGAL: Mapping[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.STARTING, JobState.CANCELLED}),
    # Back to waiting if its instance could not be created.
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.STOPPING, JobState.WAITING}),
    JobState.RUNNING: frozenset({JobState.STOPPING, JobState.WAITING, JobState.DONE, JobState.FAILED}),
    JobState.STOPPING: frozenset({JobState.WAITING, JobState.DONE, JobState.FAILED, JobState.CANCELLED}),
    JobState.DONE: frozenset({JobState.WAITING}),
    JobState.FAILED: frozenset({JobState.WAITING}),
    JobState.CANCELLED: frozenset({JobState.WAITING}),
}
"""All legal transitions."""


class IllegalMoveError(AssertionError):
    """A transition that is not in `LEGAL`: a fault of the daemon, never of a user."""


DEFAULT_UMASK = 0o022
"""The umask of jobs submitted without one."""


class StatedMemory(Value):
    """The memory that was declared or forecast when a job was submitted.

    Attributes:
        source: `declared`, `model`, or `none`.
        lower: the least bytes that it needs.
        upper: the most bytes that it needs; None if unknown.

    Raises:
        InputError: the bounds are negative or cross.
    """

    source: str = "none"
    lower: float = 0.0
    upper: float | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that are negative or cross."""
        _ = self.bounds

    @property
    def bounds(self) -> Bounds:
        """The bounds of the bytes that it needs."""
        return Bounds(self.lower, UNLIMITED if self.upper is None else self.upper)


class JobOptions(Value):
    """The options of a submitted job.

    Attributes:
        seconds: expected run time per profile; under `""` on the smallest slice that holds the job.
        grace_s: seconds from SIGTERM to SIGKILL when it is stopped.
        checkpoints: whether it writes a checkpoint within that time, and continues from it.
        most_attempts: most attempts that may end out of memory, by early restart or lost.
        limit_s: seconds that an attempt may run before it is ended; None without a limit.
        umask: of the submitter's process, used for the job's process.
        oom_patterns: regular expressions that find in its output that memory ran out.
    """

    memory: StatedMemory = StatedMemory()
    seconds: Mapping[str, float] = field(default_factory=dict)
    grace_s: float = 30.0
    checkpoints: bool = False
    most_attempts: int = 4
    limit_s: float | None = None
    umask: int = DEFAULT_UMASK
    oom_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submitter:
    """The user that a job belongs to and runs as."""

    uid: int
    gid: int
    name: str


class DependencyCondition(StrEnum):
    """How a job must end so that one waiting for it may start."""

    OK = "ok"
    FAIL = "fail"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job, a whole array or one of its tasks that must end in a certain way before another job starts."""

    condition: DependencyCondition
    job: JobId

    def __str__(self) -> str:
        return f"{self.condition}:{self.job}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. Times are seconds since 1970 on the daemon's clock.

    Attributes:
        number: 1 for the first.
        limit_bytes: memory of its instance.
        decided: when its start was decided.
        destroy: idle instances to destroy before its own is created.
        create: whether its own instance must be created; if not, it exists already.
        device: MIG UUID, once the instance exists and the process is about to be started.
        wish: why it was asked to stop; None if it was not.
        key: distinguishes its folder from others of the same name; None for attempts of versions without keys.
        code: exit code, 128 + n after signal n; None if unknown.
        unsure: whether the out-of-memory verdict may have another cause.
        said: the line of its output that decided the verdict.
    """

    number: int
    gpu: str
    placement: Placement
    limit_bytes: int
    decided: float
    destroy: tuple[Placement, ...] = ()
    create: bool = True
    device: str | None = None
    key: str | None = None
    wish: AttemptVerdict | None = None
    began: float | None = None
    ended: float | None = None
    code: int | None = None
    verdict: AttemptVerdict | None = None
    why: str | None = None
    peak_bytes: int | None = None
    unsure: bool = False
    said: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job.

    Attributes:
        number: unique; the tasks of an array have consecutive numbers.
        array: number of the array's first task; None outside an array.
        index: index in the array.
        command: as it was written, with `{index}`.
        environment: key of its environment in the store.
        family: jobs of one family are expected to need the same.
        tries: attempts that count against `most_attempts`.
        at_least_bytes: memory that the next slice must have, by the attempts so far.
        after: its open dependencies; settled ones are removed.
        why: the reason of its state, if there is one.
    """

    number: int
    submitter: Submitter
    command: tuple[str, ...]
    directory: str
    environment: str
    family: str
    submitted: float
    asked: JobOptions = dataclasses.field(default_factory=JobOptions)
    name: str = ""
    priority: int = 0
    array: int | None = None
    index: int | None = None
    state: JobState = JobState.WAITING
    attempts: tuple[Attempt, ...] = ()
    tries: int = 0
    at_least_bytes: int = 0
    after: tuple[Dependency, ...] = ()
    why: str | None = None

    @property
    def id(self) -> str:
        """Its id for people: `12`, or `12_3` in an array."""
        return str(self.number) if self.array is None else f"{self.array}_{self.index}"

    @property
    def attempt(self) -> Attempt:
        """The newest attempt."""
        return self.attempts[-1]

    @property
    def words(self) -> tuple[str, ...]:
        """The command as it is run."""
        if self.index is None:
            return self.command
        return tuple(word.replace("{index}", str(self.index)) for word in self.command)

    def to(self, state: JobState, *, why: str | None = None) -> JobRecord:
        """Return the job in another state.

        Raises:
            IllegalMoveError: `LEGAL` has no such transition.
        """
        if state not in LEGAL[self.state]:
            raise IllegalMoveError(f"job {self.id}: {self.state} to {state}")
        return replace(self, state=state, why=why)

    def with_attempt(self, attempt: Attempt) -> JobRecord:
        """Return the job with its newest attempt replaced."""
        return replace(self, attempts=(*self.attempts[:-1], attempt))


def names_of(job: JobRecord) -> tuple[JobId, ...]:
    """Return the ids that name a job; a task is also named by its array."""
    if job.array is None:
        return (JobId(job.number),)
    return (JobId(job.array), JobId(job.array, job.index))


MOST_DEPENDENCIES = 100
"""Dependencies that one job may have."""

NEVER = "dependency never satisfied"

_HINT = "write ok:12, any:12 or fail:12; several as ok:12:13, or separated by commas"
_WANTS = {
    DependencyCondition.OK: "to be done",
    DependencyCondition.FAIL: "to fail",
    DependencyCondition.ANY: "to end",
}


def parse_dependency(text: str) -> Dependency:
    """Read `ok:12`.

    Raises:
        InputError: it is not a single dependency.
    """
    found = parse_after((text,))
    if len(found) != 1:
        raise InputError(f"{text!r} is not a single dependency", where="--after", hint=_HINT)
    return found[0]


def parse_after(words: Iterable[str]) -> tuple[Dependency, ...]:
    """Read `ok:12`, `any:12:13`, `fail:12_3`, several in a word separated by commas; each once, in order.

    Raises:
        InputError: a word is not a dependency, or there are too many.
    """
    found: dict[Dependency, None] = {}
    for part in (part.strip() for word in words for part in word.split(",")):
        condition, *jobs = part.split(":")
        if condition not in [each.value for each in DependencyCondition] or not jobs:
            raise InputError(f"{part!r} is not a dependency", where="--after", hint=_HINT)
        found.update(dict.fromkeys(Dependency(DependencyCondition(condition), parse_id(job)) for job in jobs))
    if len(found) > MOST_DEPENDENCIES:
        raise InputError(f"{len(found)} dependencies; a job has at most {MOST_DEPENDENCIES}", where="--after")
    return tuple(found)


def judged(condition: DependencyCondition, tasks: Sequence[JobRecord]) -> bool | None:
    """Return whether a dependency is satisfied (True), never will be (False), or is open (None).

    For an array all tasks count: `ok` needs all done, `any` all over, `fail` all over and at least one not done.

    Args:
        condition: how they must end.
        tasks: the job, or the tasks of the array, as they are now; empty if it is no longer in the store.
    """
    done = [job.state is JobState.DONE for job in tasks]
    over = [job.state in OVER for job in tasks]
    if not tasks:
        return False
    if condition is DependencyCondition.OK and any(
        ended and not well for ended, well in zip(over, done, strict=True)
    ):
        return False
    if not all(over):
        return None
    return not all(done) if condition is DependencyCondition.FAIL else True


def settled(job: JobRecord, tasks_of: Callable[[JobId], Sequence[JobRecord]]) -> JobRecord:
    """Return a waiting job without its satisfied dependencies; cancelled if one never will be satisfied.

    Args:
        job: a waiting job.
        tasks_of: returns the jobs that an id names, as they are now.
    """
    left = []
    for each in job.after:
        tasks = tasks_of(each.job)
        verdict = judged(each.condition, tasks)
        if verdict is False:
            return job.to(JobState.CANCELLED, why=f"{NEVER}: {_never(each, tasks)}")
        if verdict is None:
            left.append(each)
    return job if len(left) == len(job.after) else replace(job, after=tuple(left))


def waits_for(job: JobRecord) -> str:
    """Return as text what a job waits for."""
    first = [f"{each.job} {_WANTS[each.condition]}" for each in job.after[:3]]
    more = f" and {len(job.after) - 3} more" if len(job.after) > 3 else ""
    return f"waits for job {', for job '.join(first)}{more}"


def _never(dependency: Dependency, tasks: Sequence[JobRecord]) -> str:
    if not tasks:
        return f"job {dependency.job} is no longer in the queue's history"
    if dependency.condition is DependencyCondition.FAIL:
        return f"job {dependency.job} is done, but should have failed"
    ended = next(job for job in tasks if job.state in OVER and job.state is not JobState.DONE)
    return f"job {ended.id} {'failed' if ended.state is JobState.FAILED else 'was cancelled'}"


class AttemptDocument(Value, omit_defaults=True):
    """An attempt in the store: the fields of `Attempt`, placements as `3g.40gb@4`."""

    number: int
    gpu: str
    placement: str
    limit_bytes: int
    decided: float
    destroy: tuple[str, ...] = ()
    create: bool = True
    device: str | None = None
    key: str | None = None
    wish: AttemptVerdict | None = None
    began: float | None = None
    ended: float | None = None
    code: int | None = None
    verdict: AttemptVerdict | None = None
    why: str | None = None
    peak_bytes: int | None = None
    unsure: bool = False
    said: str | None = None


class JobDocument(Value):
    """A job in the store: the fields of `JobRecord`, dependencies as `ok:12`."""

    number: int
    submitter: Submitter
    command: tuple[str, ...]
    directory: str
    environment: str
    family: str
    submitted: float
    asked: JobOptions = JobOptions()
    name: str = ""
    priority: int = 0
    array: int | None = None
    index: int | None = None
    state: JobState = JobState.WAITING
    attempts: tuple[AttemptDocument, ...] = ()
    tries: int = 0
    at_least_bytes: int = 0
    after: tuple[str, ...] = ()
    why: str | None = None


def dump_job(job: JobRecord) -> str:
    """Return a job as JSON."""
    fields = dict(zip(JobDocument.__struct_fields__, _job_values(job), strict=True))
    fields["attempts"] = tuple(map(_attempt_document, job.attempts))
    fields["after"] = tuple(map(str, job.after))
    return compact(JobDocument(**fields))


def load_job(text: str) -> JobRecord:
    """Return the job that `dump_job` wrote, of this version or of an older one.

    Raises:
        InputError: the text is not of that form.
    """
    document = decode(text, JobDocument, "a job")
    return JobRecord(
        **asdict(document)
        | {
            "attempts": tuple(map(_attempt, document.attempts)),
            "after": tuple(map(parse_dependency, document.after)),
        }
    )


_job_values = attrgetter(*JobDocument.__struct_fields__)
_attempt_values = attrgetter(*AttemptDocument.__struct_fields__)


def _attempt_document(attempt: Attempt) -> AttemptDocument:
    fields = dict(zip(AttemptDocument.__struct_fields__, _attempt_values(attempt), strict=True))
    fields["placement"] = str(attempt.placement)
    fields["destroy"] = tuple(map(str, attempt.destroy))
    return AttemptDocument(**fields)


def _attempt(document: AttemptDocument) -> Attempt:
    places = {
        "placement": Placement.parse(document.placement),
        "destroy": tuple(map(Placement.parse, document.destroy)),
    }
    return Attempt(**asdict(document) | places)
