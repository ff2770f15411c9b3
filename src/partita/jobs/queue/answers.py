"""What the daemon answers: one method for each kind of request.

First come the requests and answers on the socket, of which the codec checks the former and writes the latter.
"""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, UnsetType, field
from msgspec.structs import astuple

from partita.documents.codec import (
    DocumentSource,
    FieldFault,
    Meta,
    Value,
    Whole,
    addressable,
    check,
    convert,
)
from partita.errors import DeniedError, InputError, UnknownNameError
from partita.files import user_name
from partita.jobs.memory.bounds import UNLIMITED, holds, slices
from partita.jobs.queue.access import named, submitter
from partita.jobs.queue.folders import read_log
from partita.jobs.queue.forecast import family_of, fitting, largest_slice, owner_of, shown_family
from partita.jobs.queue.overview import (
    HistoryRow,
    JobRow,
    Overview,
    QueueRow,
    memory_unknown,
    row,
    whole,
    why_on_the_largest,
)
from partita.jobs.queue.record import (
    DEFAULT_UMASK,
    OVER,
    AttemptVerdict,
    JobOptions,
    JobRecord,
    JobState,
    StatedMemory,
    names_of,
    parse_after,
    parse_array,
    parse_id,
)
from partita.oom import MOST_PATTERNS, checked_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from partita.jobs.queue.access import Access, Caller
    from partita.jobs.queue.record import Dependency, Submitter
    from partita.jobs.queue.service import QueueService
    from partita.jobs.queue.table import JobTable
    from partita.mig.layout import Placement


MOST_COMMAND = 128 * 1024
MOST_ENVIRONMENT = 256 * 1024
MOST_GRACE_S = 3600.0
MOST_ATTEMPTS = 20
MOST_PRIORITY = 1000
MOST_LIMIT_S = 1e9


@dataclass(frozen=True, slots=True)
class Submission:
    """What a user submits.

    Attributes:
        indices: of an array; None if it is not an array.
        user: the user that root submits for.
        after: jobs that it waits for.
    """

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    asked: JobOptions
    name: str = ""
    priority: int = 0
    indices: tuple[int, ...] | None = None
    user: str | None = None
    after: tuple[Dependency, ...] = ()


def _no_nul(text: str) -> None:
    if "\0" in text:
        raise InputError("must be text without NUL")


def _variable(name: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise InputError("must be a name that a variable can have")


def _absolute(path: str) -> None:
    if not path.startswith("/"):
        raise InputError(f"must be an absolute path, not {path!a:.40}")


Word = Annotated[str, check(_no_nul)]
Bytes = Annotated[float, Meta(ge=0, le=2**50)]


class MemoryRequest(Value):
    """The declared memory of a job, or the forecast of its model; without `upper` there is no limit."""

    source: Literal["declared", "model"]
    lower: Bytes = 0.0
    upper: Bytes | None = None


class SubmitRequest(Value):
    """A submission on the socket."""

    command: Annotated[tuple[Word, ...], Meta(min_length=1, examples=[["python", "train.py"]])]
    directory: Annotated[Word, check(_absolute)]
    environment: dict[Annotated[str, check(_variable)], Word] = field(default_factory=dict)
    memory: MemoryRequest | None = None
    seconds: Annotated[dict[str, Annotated[float, Meta(gt=0, le=1e9)]], Meta(max_length=64)] = field(
        default_factory=dict
    )
    grace_s: Annotated[float, Meta(ge=0, le=MOST_GRACE_S)] = 30.0
    checkpoints: bool = False
    most_attempts: Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS)] = 4
    limit_s: Annotated[float, Meta(ge=0, le=MOST_LIMIT_S)] | None = None
    umask: Annotated[int, Meta(ge=0, le=0o777)] = DEFAULT_UMASK
    oom_patterns: tuple[Word, ...] = ()
    name: Annotated[str, Meta(max_length=64), check(addressable)] = ""
    priority: Annotated[int, Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    array: str | None = None
    user: str | None = None
    after: tuple[Word, ...] = ()

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is empty or too large to keep."""
        if not self.command[0]:
            yield FieldFault(("command",), "is empty", "partita submit -- python train.py")
        sizes = {
            "command": (sum(len(word) + 1 for word in self.command), MOST_COMMAND),
            "environment": (sum(len(k) + len(v) + 2 for k, v in self.environment.items()), MOST_ENVIRONMENT),
        }
        for name, (size, most) in sizes.items():
            if size > most:
                yield FieldFault((name,), f"has {size} characters; at most {most} are kept")


def submission(asked: SubmitRequest) -> Submission:
    """Return what a request submits.

    Raises:
        InputError: the array, a pattern or a dependency is wrong.
    """
    limit_s = asked.limit_s
    return Submission(
        asked.command,
        asked.directory,
        asked.environment,
        JobOptions(
            StatedMemory() if asked.memory is None else StatedMemory(*astuple(asked.memory)),
            asked.seconds,
            asked.grace_s,
            asked.checkpoints,
            asked.most_attempts,
            # No value means the daemon's default; 0 means no limit.
            None if limit_s is None else limit_s or math.inf,
            asked.umask,
            read_patterns(asked.oom_patterns),
        ),
        name=asked.name,
        priority=asked.priority,
        indices=None if asked.array is None else parse_array(asked.array),
        user=asked.user,
        after=parse_after(asked.after),
    )


def read_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that say in a job's output that memory ran out.

    Raises:
        InputError: one is not a regular expression, or matches every line, or there are too many.
    """
    patterns = tuple(patterns)
    if len(patterns) > MOST_PATTERNS:
        raise InputError(
            f"{len(patterns)} patterns; at most {MOST_PATTERNS} are allowed", where="--oom-pattern"
        )
    for pattern in patterns:
        if (why := checked_pattern(pattern)) is not None:
            raise InputError(
                why, where="--oom-pattern", hint="write part of the line, such as 'no room on the card'"
            )
    return patterns


MOST_IDS = 1000


class QueueRequest(Value, forbid_unknown_fields=False):
    """A request on the socket; fields of newer clients are ignored."""


class IdsRequest(QueueRequest):
    """Jobs, whole arrays or tasks of one, by their ids."""

    ids: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MOST_IDS)]


class UserRequest(QueueRequest):
    """A user's jobs; by default the caller's."""

    owner: str | None = None


class CancelRequest(UserRequest):
    """Jobs to cancel: by their ids, or a user's up to the newest one that `mine` counted."""

    ids: Annotated[tuple[str, ...], Meta(max_length=MOST_IDS)] = ()
    newest: Whole | None = None


class QueuePageRequest(QueueRequest):
    """A page of the queue; `revision` identifies the snapshot of the earlier pages."""

    offset: Whole = 0
    limit: Whole | None = None
    revision: str | None = None
    mine: bool = False


class HistoryRequest(QueueRequest):
    """Jobs by their ids, or the newest that are over, with numbers below `before`."""

    ids: Annotated[tuple[str, ...], Meta(max_length=MOST_IDS)] = ()
    limit: Whole = 50
    before: int | None = None
    mine: bool = False


class LogRequest(IdsRequest):
    """A piece of a job's output from an offset on; by default of the newest attempt."""

    attempt: Whole | None = None
    offset: Whole = 0


class ForgetRequest(QueueRequest):
    """Families to forget: by their names or the ids of jobs, or all of the caller's."""

    ids: Annotated[tuple[str, ...], Meta(max_length=MOST_IDS)] = ()
    every: bool = False


class QueueAnswer(Value):
    """An answer on the socket; a refusal has `ok: false`."""

    ok: bool = True


class SubmittedAnswer(QueueAnswer, kw_only=True):
    """The result of a submission."""

    id: str
    tasks: int
    notes: tuple[str, ...]


class JobNow(Value):
    """The state of a job; `was` is its state before it was cancelled or requeued."""

    id: str
    state: JobState
    over: bool
    why: str | None
    was: JobState | UnsetType = UNSET


class JobsNowAnswer(QueueAnswer, kw_only=True):
    """The states of jobs now."""

    jobs: tuple[JobNow, ...]
    notes: tuple[str, ...] | UnsetType = UNSET


class UserJobsAnswer(QueueAnswer, kw_only=True):
    """How many jobs a user has that are not over, and the number of the newest."""

    user: str
    jobs: int
    newest: int


class QueuePageAnswer(QueueAnswer, kw_only=True):
    """A page of the queue as it was at one moment."""

    revision: str
    jobs: tuple[QueueRow, ...]
    total: int
    counts: dict[str, int]
    now: float
    discipline: str
    trouble: str | None


class ExpiredAnswer(QueueAnswer):
    """The snapshot of the earlier pages has expired."""

    expired: bool = True


class InstancesAnswer(QueueAnswer, kw_only=True):
    """The jobs that hold an instance, with what all users may see.

    Attributes:
        idle: GPU and placement of other instances that the queue keeps.
        yields: whether jobs leave when services need the room.
    """

    jobs: tuple[JobRow, ...]
    idle: tuple[tuple[str, str], ...] = ()
    yields: bool = False


class HistoryAnswer(QueueAnswer, kw_only=True):
    """All details of some jobs; `before` is what to ask for older ones with, null if there are none."""

    jobs: tuple[HistoryRow, ...]
    before: int | UnsetType | None = UNSET


class PendingAnswer(QueueAnswer, kw_only=True):
    """How many of some jobs are not over."""

    pending: int


class LogAnswer(QueueAnswer, kw_only=True):
    """A piece of an attempt's output in Base64, and the offset after it."""

    id: str
    state: JobState
    attempts: int
    attempt: int
    why: str | None
    data: str
    next: int
    ended: bool


class FamilyMemory(Value):
    """Bytes that the jobs of a family were seen to need; without `upper` there is no limit."""

    lower: float
    upper: float | None


class FamilyRow(Value):
    """What is remembered of a family; `command` is null for one identified by its name."""

    name: str
    command: str | None
    user: str
    done: int
    out_of_memory: int
    memory: FamilyMemory
    begins_on: str | None


class FamiliesAnswer(QueueAnswer, kw_only=True):
    """Families, with what is remembered of them."""

    families: tuple[FamilyRow, ...]


def find(table: JobTable, text: str) -> list[JobRecord]:
    """Return the job of an id, or the tasks of an array.

    Raises:
        UnknownNameError: there is none, or no job can have that id.
    """
    try:
        wanted = parse_id(text)
    except InputError as error:
        raise UnknownNameError(error.what, hint=error.hint) from None
    found = table.tasks(wanted)
    if not found:
        raise UnknownNameError(
            f"there is no job {text}", hint="`partita queue` and `partita history` list them"
        )
    return found


MOST_ROWS = 2000
MOST_WAITING = 100_000


class Answers:
    """Answers the requests on a queue that the caller may make.

    Args:
        service: the queue.
        access: who may do what.
        energy: returns the joules that an attempt (a job's id and its number) used; None where unknown.
        kept: returns the instances that the queue keeps, those of its jobs among them.
        yields: whether jobs leave when services need the room.
    """

    def __init__(
        self,
        service: QueueService,
        access: Access,
        energy: Callable[[str, int], float | None] = lambda _job, _attempt: None,
        kept: Callable[[], Iterable[tuple[str, Placement]]] = tuple,
        *,
        yields: bool = False,
    ) -> None:
        self._service = service
        self._energy = energy
        self._kept, self._yields = kept, yields
        self._access = access
        self._overview = Overview(service)
        self._known: dict[str, tuple[type[Value], Callable[[Caller, Any], QueueAnswer]]] = {
            "submit": (SubmitRequest, self._submit),
            "cancel": (CancelRequest, self._cancel),
            "mine": (UserRequest, self._mine),
            "requeue": (IdsRequest, self._requeue),
            "queue": (QueuePageRequest, self._queue),
            "instances": (QueueRequest, self._instances),
            "history": (HistoryRequest, self._history),
            "states": (IdsRequest, self._states),
            "pending": (IdsRequest, self._pending),
            "log": (LogRequest, self._log),
            "families": (QueueRequest, self._families),
            "forget": (ForgetRequest, self._forget),
        }

    def __call__(self, caller: Caller, body: Mapping[str, Any]) -> QueueAnswer:
        """Answer a request.

        Raises:
            PartitaError: it is refused; the error says why.
        """
        self._access.admit(caller)
        asked = body.get("ask")
        if not isinstance(asked, str) or asked not in self._known:
            raise InputError(
                f"this daemon does not know the request {asked!r}", hint="is it older than the command?"
            )
        kind, answer = self._known[asked]
        fields = {name: value for name, value in body.items() if name != "ask"}
        source = DocumentSource("the submission" if kind is SubmitRequest else "the request")
        return answer(caller, convert(fields, kind, source))

    def _submit(self, caller: Caller, request: SubmitRequest) -> SubmittedAnswer:
        wanted = submission(request)
        who = submitter(caller, wanted.user)
        if wanted.priority > 0 and not self._access.is_admin(caller):
            raise DeniedError(
                "only root and the daemon's admins may give a priority above 0, which puts a job before others'",
                where="--priority",
            )
        if len(self._service.table.active) + len(wanted.indices or (0,)) > MOST_WAITING:
            raise InputError(f"the queue holds at most {MOST_WAITING:,} jobs that are not over")
        self._require_quota(who, len(wanted.indices or (0,)))
        asked = wanted.asked.replace(limit_s=self._limit(wanted.asked.limit_s))
        for each in wanted.after:
            for job in find(self._service.table, str(each.job)):
                self._access.require(caller, job, "wait for it")
        key = self._service.table.store.keep_environment(wanted.environment)
        family = family_of(who.uid, wanted.name, wanted.command)

        def make(first: int, now: float) -> list[JobRecord]:
            job = JobRecord(first, who, wanted.command, wanted.directory, key, family, now, asked)
            job = replace(job, name=wanted.name, priority=wanted.priority, after=wanted.after)
            if wanted.indices is None:
                return [job]
            tasks = enumerate(wanted.indices)
            return [replace(job, number=first + i, array=first, index=index) for i, index in tasks]

        made = self._service.submit(make)
        first = self._service.table.now(made[0])
        notes = tuple(self._notes(first, wanted))
        return SubmittedAnswer(id=str(first.number), tasks=len(made), notes=notes)

    def _require_quota(self, who: Submitter, more: int) -> None:
        """Refuse a submission after which too many jobs of its user would wait.

        Raises:
            InputError: too many would wait.
        """
        most, table = self._service.settings.most_waiting, self._service.table
        if who.uid == 0:
            return
        waits = sum(
            job.submitter.uid == who.uid for kind in (table.waiting, table.blocked) for job in kind.values()
        )
        if waits + more > most:
            raise InputError(
                f"{who.name} has {waits:,} waiting jobs, and {more:,} more would be above the {most:,} of a user",
                hint="wait until some have started, or cancel some; the daemon's --max-waiting sets the number",
            )

    def _limit(self, asked: float | None) -> float | None:
        """Return the time limit of a job.

        Raises:
            InputError: it is longer than this daemon allows.
        """
        settings = self._service.settings
        most = settings.most_limit_s
        limit = asked if asked is not None else settings.default_limit_s or most
        if limit is not None and most is not None and limit > most:
            told = "no limit" if math.isinf(limit) else f"a limit of {limit:,.0f} s"
            raise InputError(f"{told} is more than the {most:,.0f} s of this daemon", where="--time")
        return None if limit is None or math.isinf(limit) else limit

    def _notes(self, job: JobRecord, wanted: Submission) -> list[str]:
        """Return what the user should know of an accepted job."""
        service = self._service
        if job.state is JobState.CANCELLED:
            return [f"it never starts: {job.why}"]
        models = service.gpus.models
        expected, largest = service.scheduler.expected(job), largest_slice(models)
        found = []
        if models and not any(fitting(model, expected, 0, largest) for model in models):
            found.append(
                "it is larger than any slice of the GPUs here, and waits until there is a larger one"
                if largest
                else memory_unknown(models)
            )
        elif (why := why_on_the_largest(job, expected, largest)) is not None:
            found.append(why)
        named = [name for name in wanted.asked.seconds if name]
        if models and (unknown := [p for p in named if not any(model.has(p) for model in models)]):
            found.append(f"no GPU here has {', '.join(unknown)}: that run time is not used")
        return found

    def _cancel(self, caller: Caller, request: CancelRequest) -> JobsNowAnswer:
        if request.newest is None:
            chosen = self._chosen(caller, request.ids, "cancel it")
        else:
            chosen = [job for job in self._of_user(caller, request.owner) if job.number <= request.newest]
        error = self._service.cancel([job for job in chosen if job.state not in OVER])
        notes = () if error is None else (f"{error}; the cancellation is kept in memory, and written later",)
        return JobsNowAnswer(jobs=tuple(self._now(job, was=job.state) for job in chosen), notes=notes)

    def _mine(self, caller: Caller, request: UserRequest) -> UserJobsAnswer:
        """Count a user's jobs that are not over, so that they can be cancelled together."""
        jobs = self._of_user(caller, request.owner)
        newest = max((job.number for job in jobs), default=0)
        return UserJobsAnswer(user=self._user(caller, request.owner).name, jobs=len(jobs), newest=newest)

    def _of_user(self, caller: Caller, owner: str | None) -> list[JobRecord]:
        who = self._user(caller, owner)
        return [job for job in self._service.table.active.values() if job.submitter.uid == who.uid]

    def _user(self, caller: Caller, owner: str | None) -> Submitter:
        """Return the user of that name, the caller if there is no name.

        Raises:
            DeniedError: it is another user, and the caller is not an admin.
            InputError: there is no such user.
        """
        who = named(caller, owner)
        if who.uid != caller.uid and not self._access.is_admin(caller):
            raise DeniedError("only root and the daemon's admins act on another user's jobs", where="--user")
        return who

    def _requeue(self, caller: Caller, request: IdsRequest) -> JobsNowAnswer:
        chosen = self._chosen(caller, request.ids, "requeue it")
        for job in chosen:
            if job.state is JobState.STOPPING and job.attempt.wish is AttemptVerdict.CANCELLED:
                raise InputError(
                    f"job {job.id} is being cancelled", hint=f"partita wait {job.id}, then again"
                )
        self._service.requeue(chosen)
        return JobsNowAnswer(jobs=tuple(self._now(job, was=job.state) for job in chosen))

    def _queue(self, caller: Caller, request: QueuePageRequest) -> QueuePageAnswer | ExpiredAnswer:
        offset, limit = request.offset, min(MOST_ROWS if request.limit is None else request.limit, MOST_ROWS)
        if request.revision is not None:
            found = self._overview.kept(request.revision)
            if found is None:
                return ExpiredAnswer()
        else:
            found = self._overview.snapshot(caller.uid if request.mine else None)
        if offset + limit < len(found.jobs):
            self._overview.keep(found)
        admin = self._access.is_admin(caller)
        return QueuePageAnswer(
            revision=found.revision,
            jobs=self._overview.rows(
                found, offset, limit, lambda job: admin or job.submitter.uid == caller.uid
            ),
            total=len(found.jobs),
            counts=found.counts,
            now=found.now,
            discipline=self._service.discipline,
            trouble=found.trouble,
        )

    def _instances(self, _: Caller, __: QueueRequest) -> InstancesAnswer:
        """Return which job is on which instance, with what all users may see."""
        holding = self._service.table.holding
        used = {(job.attempt.gpu, job.attempt.placement) for job in holding}
        return InstancesAnswer(
            jobs=tuple(row(job, open_to=False) for job in holding),
            idle=tuple((gpu, str(each)) for gpu, each in sorted(set(self._kept()) - used)),
            yields=self._yields,
        )

    def _history(self, caller: Caller, request: HistoryRequest) -> HistoryAnswer:
        if request.ids:
            chosen = self._chosen(caller, request.ids, "read it")
            return HistoryAnswer(jobs=tuple(whole(job, self._energy) for job in chosen))
        limit = min(request.limit, MOST_ROWS)
        uid = None if self._access.is_admin(caller) and not request.mine else caller.uid
        found = self._service.table.store.over(limit, request.before, uid)
        return HistoryAnswer(
            jobs=tuple(whole(job, self._energy) for job in found),
            before=found[-1].number if found and len(found) == limit else None,
        )

    def _states(self, caller: Caller, request: IdsRequest) -> JobsNowAnswer:
        return JobsNowAnswer(jobs=tuple(map(self._now, self._chosen(caller, request.ids, "wait for it"))))

    def _pending(self, _: Caller, request: IdsRequest) -> PendingAnswer:
        """Count the jobs that are not over, without reading those that are, as clients ask once a second.

        All users may ask, as the queue shows the same.
        """
        wanted = set(map(parse_id, request.ids))
        active = self._service.table.active.values()
        return PendingAnswer(pending=sum(not wanted.isdisjoint(names_of(job)) for job in active))

    def _log(self, caller: Caller, request: LogRequest) -> LogAnswer:
        jobs = self._chosen(caller, request.ids, "read its log")
        if len(jobs) != 1:
            raise InputError(
                f"{len(jobs)} tasks have a log each", hint=f"write one: partita logs {jobs[0].id}"
            )
        job = jobs[0]
        newest = len(job.attempts)
        number = newest if request.attempt is None else request.attempt
        answer = LogAnswer(
            id=job.id,
            state=job.state,
            attempts=newest,
            attempt=number,
            why=job.why,
            data="",
            next=0,
            ended=False,
        )
        if newest == 0 and number == 0:
            return answer
        if not 1 <= number <= newest:
            raise UnknownNameError(f"job {job.id} has no attempt {number}, but {newest}", where="--attempt")
        folder = self._service.folder_of(job, number)
        ended = job.attempts[number - 1].verdict is not None
        if ended and not folder.exists():
            raise UnknownNameError(
                f"the log of job {job.id} was deleted",
                hint="the daemon's --keep-logs says how much is kept",
            )
        data, following = read_log(folder, request.offset, frozenset({job.submitter.uid, os.geteuid()}))
        return answer.replace(data=base64.b64encode(data).decode(), next=following, ended=ended)

    def _families(self, caller: Caller, _: QueueRequest) -> FamiliesAnswer:
        """Return what is remembered of the families that the caller may manage."""
        mine = [each for each in self._service.families.known if self._may_forget(caller, each)]
        return FamiliesAnswer(families=tuple(map(self._remembered, mine)))

    def _forget(self, caller: Caller, request: ForgetRequest) -> FamiliesAnswer:
        known = [each for each in self._service.families.known if self._may_forget(caller, each)]
        chosen: dict[str, None] = {}
        if request.every:
            chosen = dict.fromkeys(each for each in known if owner_of(each) == caller.uid)
        for text in request.ids:
            chosen |= dict.fromkeys(self._named(caller, text, known))
        rows = tuple(map(self._remembered, chosen))
        self._service.forget(chosen)
        return FamiliesAnswer(families=rows)

    def _named(self, caller: Caller, text: str, known: Sequence[str]) -> list[str]:
        """Return the families of that name, only the caller's own if there are any, or the families of a job."""
        named = [each for each in known if shown_family(each)[0] == text]
        own = [each for each in named if owner_of(each) == caller.uid]
        if named:
            return own or named
        try:
            jobs = find(self._service.table, text)
        except InputError:
            raise InputError(
                f"nothing is remembered of {text!r}, and it is not a job",
                hint="`partita forget` lists what is remembered",
            ) from None
        for job in jobs:
            self._access.require(caller, job, "forget what it showed")
        return [job.family for job in jobs]

    def _may_forget(self, caller: Caller, family: str) -> bool:
        return owner_of(family) == caller.uid or self._access.is_admin(caller)

    def _remembered(self, family: str) -> FamilyRow:
        service = self._service
        models = service.gpus.models
        name, command = shown_family(family)
        attempts, history = service.families.attempts(family), service.families.history(family)
        bounds, need = history.bounds(), min(history.need(), largest_slice(models) or UNLIMITED)
        fits = [p.name for model in models for p in slices(model) if holds(p, need)][:1]
        return FamilyRow(
            name=name,
            command=command,
            user=user_name(owner_of(family)),
            done=sum(each.verdict is AttemptVerdict.DONE for each in attempts),
            out_of_memory=sum(each.verdict is AttemptVerdict.OUT_OF_MEMORY for each in attempts),
            memory=FamilyMemory(bounds.lower, None if bounds.upper == UNLIMITED else bounds.upper),
            begins_on=fits[0] if fits else None,
        )

    def _now(self, job: JobRecord, was: JobState | UnsetType = UNSET) -> JobNow:
        now = self._service.table.now(job)
        return JobNow(now.id, now.state, now.state in OVER, now.why, was)

    def _chosen(self, caller: Caller, ids: Iterable[str], what: str) -> list[JobRecord]:
        """Return the jobs that a request names.

        Raises:
            InputError: it names none, or one that does not exist.
            DeniedError: one is another user's.
        """
        found = {job.number: job for text in ids for job in find(self._service.table, text)}
        if not found:
            raise InputError("no job is named", where="ids")
        for job in found.values():
            self._access.require(caller, job, what)
        return list(found.values())
