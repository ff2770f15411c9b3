"""A job in the queue, as a value: what was asked, where it is, and its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from partita.jobs.memory.bounds import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.queue.ids import JobId
    from partita.mig.layout import Placement


class State(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verdict(StrEnum):
    """How an attempt ended; also what a stop was asked for."""

    DONE = "done"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    EARLY_RESTART = "early restart"
    YIELDED = "yielded"
    REQUEUED = "requeued"
    CANCELLED = "cancelled"
    LOST = "lost"


OVER = frozenset({State.DONE, State.FAILED, State.CANCELLED})
"""States in which nothing more happens unless the job is requeued."""

LEGAL: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.STARTING, State.CANCELLED}),
    # Back to waiting if its instance could not be made.
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.WAITING}),
    State.RUNNING: frozenset({State.STOPPING, State.WAITING, State.DONE, State.FAILED}),
    State.STOPPING: frozenset({State.WAITING, State.DONE, State.FAILED, State.CANCELLED}),
    State.DONE: frozenset({State.WAITING}),
    State.FAILED: frozenset({State.WAITING}),
    State.CANCELLED: frozenset({State.WAITING}),
}
"""Every transition there is."""


class IllegalMoveError(AssertionError):
    """A transition that is not in the table: a fault of the daemon's, never of a user's."""


DEFAULT_UMASK = 0o022
"""The umask of jobs whose submitter did not say theirs."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a job's memory when it is submitted.

    Attributes:
        source: `declared`, `model`, or `none`.
    """

    bounds: Bounds = field(default_factory=Bounds)
    source: str = "none"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for.

    Attributes:
        seconds: expected run time per profile; under `""` on the smallest slice that holds the job.
        grace_s: seconds from SIGTERM to SIGKILL when it is stopped.
        checkpoints: whether it writes a checkpoint within that time, and goes on from it.
        most_attempts: attempts that may end in out of memory, early restart or loss.
        limit_s: seconds that an attempt may run before it is ended; None without a limit.
        umask: of the submitter's process, which the job's process gets.
        oom_patterns: regular expressions that say in its output that memory ran out.
    """

    memory: Memory = Memory()
    seconds: Mapping[str, float] = field(default_factory=dict)
    grace_s: float = 30.0
    checkpoints: bool = False
    most_attempts: int = 4
    limit_s: float | None = None
    umask: int = DEFAULT_UMASK
    oom_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submitter:
    """Whom a job belongs to and runs as."""

    uid: int
    gid: int
    name: str


class Condition(StrEnum):
    """How a job must end for one that waits for it to start."""

    OK = "ok"
    FAIL = "fail"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job, a whole array or one of its tasks that has to end in some way before another job starts."""

    condition: Condition
    job: JobId

    def __str__(self) -> str:
        return f"{self.condition}:{self.job}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. Times are seconds since 1970 on the daemon's clock.

    Attributes:
        number: 1 for the first.
        limit_bytes: memory of its instance.
        decided: when its instance was taken.
        destroy: idle instances that go before its own is made.
        create: whether its own is made, or stands already.
        device: MIG UUID, once the instance stands and the process is about to be started.
        wish: what it was asked to stop for; None if it was not.
        key: tells its folder from all others of that name; None of attempts before there were keys.
        code: exit code, 128 + n after signal n; None where nobody saw it.
        unsure: out of memory as far as can be told: what decided has other causes too.
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
    wish: Verdict | None = None
    began: float | None = None
    ended: float | None = None
    code: int | None = None
    verdict: Verdict | None = None
    why: str | None = None
    peak_bytes: int | None = None
    unsure: bool = False
    said: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job.

    Attributes:
        number: unique; the tasks of an array have numbers in a row.
        array: number of the array's first task; None outside an array.
        index: index in the array.
        command: with `{index}` as it was written.
        environment: key of its environment in the store.
        family: jobs of one family are expected to need the same.
        tries: attempts that count against `most_attempts`.
        at_least_bytes: memory that the next slice must have, as the attempts so far have shown.
        after: jobs that it waits for, as long as that is open; the others are not there any more.
        why: why it is where it is, if there is something to say.
    """

    number: int
    submitter: Submitter
    command: tuple[str, ...]
    directory: str
    environment: str
    family: str
    submitted: float
    asked: Asked = Asked()
    name: str = ""
    priority: int = 0
    array: int | None = None
    index: int | None = None
    state: State = State.WAITING
    attempts: tuple[Attempt, ...] = ()
    tries: int = 0
    at_least_bytes: int = 0
    after: tuple[Dependency, ...] = ()
    why: str | None = None

    @property
    def id(self) -> str:
        """What people call it: `12`, or `12_3` in an array."""
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

    def to(self, state: State, *, why: str | None = None) -> JobRecord:
        """Return the job in another state.

        Raises:
            IllegalMoveError: the table has no such transition.
        """
        if state not in LEGAL[self.state]:
            raise IllegalMoveError(f"job {self.id}: {self.state} to {state}")
        return replace(self, state=state, why=why)

    def with_attempt(self, attempt: Attempt) -> JobRecord:
        """Return the job with its newest attempt replaced."""
        return replace(self, attempts=(*self.attempts[:-1], attempt))
