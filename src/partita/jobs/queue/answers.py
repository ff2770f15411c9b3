"""What the daemon answers: one method for each thing that can be asked.

The first part reads a submission as it comes over the wire: checked, bounded, and turned into values.
"""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import field

from partita.documents.codec import DocumentSource, FieldFault, Meta, Value, check, convert, printable
from partita.errors import InputError
from partita.jobs.memory.bounds import UNLIMITED, Bounds, holds, slices
from partita.jobs.queue.access import DeniedError, named, submitter, user_name
from partita.jobs.queue.folders import read_log
from partita.jobs.queue.forecast import family_of, fitting, largest_slice, owner_of, shown_family
from partita.jobs.queue.overview import Overview, memory_unknown, row, whole, why_on_the_largest
from partita.jobs.queue.record import (
    DEFAULT_UMASK,
    OVER,
    AttemptVerdict,
    JobOptions,
    JobRecord,
    JobState,
    StatedMemory,
    bounds_data,
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
        indices: of an array; None without one.
        user: whom root submits for.
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
    """What is declared of a job's memory, or known from its model; no `upper` is no limit."""

    source: Literal["declared", "model"]
    lower: Bytes = 0.0
    upper: Bytes | None = None


class SubmitRequest(Value):
    """A submission as it comes over the socket."""

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
    name: Annotated[str, Meta(max_length=64), check(printable)] = ""
    priority: Annotated[int, Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    array: str | None = None
    user: str | None = None
    after: tuple[Word, ...] = ()

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is empty or larger than is kept."""
        if not self.command[0]:
            yield FieldFault(("command",), "is empty", "partita submit -- python train.py")
        sizes = {
            "command": (sum(len(word) + 1 for word in self.command), MOST_COMMAND),
            "environment": (sum(len(k) + len(v) + 2 for k, v in self.environment.items()), MOST_ENVIRONMENT),
        }
        for name, (size, most) in sizes.items():
            if size > most:
                yield FieldFault((name,), f"has {size} characters; at most {most} are kept")


def read_submission(body: Mapping[str, Any]) -> Submission:
    """Return a submission from a request.

    Raises:
        InputError: all fields that are missing, of another kind, or out of bounds.
    """
    fields = {name: value for name, value in body.items() if name != "ask"}
    asked = convert(fields, SubmitRequest, DocumentSource("the submission"))
    limit_s = asked.limit_s
    return Submission(
        asked.command,
        asked.directory,
        asked.environment,
        JobOptions(
            _memory(asked.memory),
            asked.seconds,
            asked.grace_s,
            asked.checkpoints,
            asked.most_attempts,
            # Nothing said is no limit of its own; a limit of 0 is none at all.
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


def _memory(asked: MemoryRequest | None) -> StatedMemory:
    if asked is None:
        return StatedMemory()
    return StatedMemory(Bounds(asked.lower, UNLIMITED if asked.upper is None else asked.upper), asked.source)


def read_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that say in a job's output that memory ran out.

    Raises:
        InputError: one is no regular expression, or found in every line, or they are too many.
    """
    patterns = tuple(patterns)
    if len(patterns) > MOST_PATTERNS:
        raise InputError(
            f"{len(patterns)} patterns; at most {MOST_PATTERNS} are looked for", where="--oom-pattern"
        )
    for pattern in patterns:
        if (why := checked_pattern(pattern)) is not None:
            raise InputError(
                why, where="--oom-pattern", hint="write what the line says, as 'no room on the card'"
            )
    return patterns


MOST_IDS = 1000


def find(table: JobTable, text: str) -> list[JobRecord]:
    """Return the job of an id, or the tasks of an array.

    Raises:
        InputError: there is none.
    """
    wanted = parse_id(text)
    found = table.tasks(wanted)
    if not found:
        raise InputError(f"there is no job {text}", hint="`partita queue` and `partita history` list them")
    return found


def ids_of(body: Mapping[str, Any]) -> list[str]:
    """Return the ids of a request.

    Raises:
        InputError: there are none, or too many.
    """
    found = body.get("ids")
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found) or not found:
        raise InputError("no job is named", where="ids")
    if len(found) > MOST_IDS:
        raise InputError(f"{len(found)} ids; at most {MOST_IDS} at once", where="ids")
    return found


def whole_number(body: Mapping[str, Any], field: str, default: int) -> int:
    """Return a number of a request.

    Raises:
        InputError: it is none from 0 on.
    """
    value = body.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{field} is no whole number", where=field)
    return value


MOST_ROWS = 2000
MOST_WAITING = 100_000


class Answers:
    """Answers requests on a queue, to those who may ask.

    Args:
        service: the queue.
        access: who may what.
        energy: the joules that an attempt (a job's id and its number) took; None where they are not known.
    """

    def __init__(
        self,
        service: QueueService,
        access: Access,
        energy: Callable[[str, int], float | None] = lambda _job, _attempt: None,
    ) -> None:
        self._service = service
        self._energy = energy
        self._access = access
        self._overview = Overview(service)
        self._known: dict[str, Callable[[Caller, Mapping[str, Any]], dict[str, Any]]] = {
            "submit": self._submit,
            "cancel": self._cancel,
            "mine": self._mine,
            "requeue": self._requeue,
            "queue": self._queue,
            "instances": self._instances,
            "history": self._history,
            "states": self._states,
            "pending": self._pending,
            "log": self._log,
            "families": self._families,
            "forget": self._forget,
        }

    def __call__(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request.

        Raises:
            PartitaError: it is refused; says why.
        """
        self._access.admit(caller)
        asked = body.get("ask")
        if not isinstance(asked, str) or asked not in self._known:
            raise InputError(f"this daemon knows nothing of {asked!r}", hint="is it older than the command?")
        return self._known[asked](caller, body)

    def _submit(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        wanted = read_submission(body)
        who = submitter(caller, wanted.user)
        if wanted.priority > 0 and not self._access.is_admin(caller):
            raise DeniedError(
                "a priority above 0 puts a job before others' and is for root and the daemon's admins",
                where="--priority",
            )
        if len(self._service.table.active) + len(wanted.indices or (0,)) > MOST_WAITING:
            raise InputError(f"the queue holds at most {MOST_WAITING:,} jobs that are not over")
        self._require_quota(who, len(wanted.indices or (0,)))
        asked = replace(wanted.asked, limit_s=self._limit(wanted.asked.limit_s))
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
        return {"id": str(first.number), "tasks": len(made), "notes": self._notes(first, wanted)}

    def _require_quota(self, who: Submitter, more: int) -> None:
        """Refuse a submission of which too many jobs would wait.

        Raises:
            InputError: it is refused.
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
        """Return what the user should know of a job that was taken in."""
        service = self._service
        if job.state is JobState.CANCELLED:
            return [f"it never starts: {job.why}"]
        models = {host.model.name: host.model for host in service.gpus.hosts}.values()
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

    def _cancel(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        chosen = self._cancellable(caller, body)
        error = self._service.cancel([job for job in chosen if job.state not in OVER])
        notes = [f"{error}; it is remembered, and written when it can be"] if error is not None else []
        return {"jobs": [self._now(job) | {"was": job.state.value} for job in chosen], "notes": notes}

    def _cancellable(self, caller: Caller, body: Mapping[str, Any]) -> list[JobRecord]:
        """Return the jobs of a request to cancel: those that it names, or a user's up to the newest one counted."""
        if "owner" not in body:
            return self._chosen(caller, body, "cancel it")
        newest = whole_number(body, "newest", 0)
        return [job for job in self._of_user(caller, body["owner"]) if job.number <= newest]

    def _mine(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        """Count a user's jobs that are not over, so that they can be cancelled together."""
        jobs = self._of_user(caller, body.get("owner"))
        newest = max((job.number for job in jobs), default=0)
        return {"user": self._user(caller, body.get("owner")).name, "jobs": len(jobs), "newest": newest}

    def _of_user(self, caller: Caller, owner: object) -> list[JobRecord]:
        who = self._user(caller, owner)
        return [job for job in self._service.table.active.values() if job.submitter.uid == who.uid]

    def _user(self, caller: Caller, owner: object) -> Submitter:
        """Return the user of that name, the caller without one.

        Raises:
            DeniedError: it is another user, and the caller no admin.
            InputError: there is no such user.
        """
        if owner is not None and not isinstance(owner, str):
            raise InputError("the owner is no name", where="--user")
        who = named(caller, owner)
        if who.uid != caller.uid and not self._access.is_admin(caller):
            raise DeniedError("only root and the daemon's admins act on another user's jobs", where="--user")
        return who

    def _requeue(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        chosen = self._chosen(caller, body, "requeue it")
        for job in chosen:
            if job.state is JobState.STOPPING and job.attempt.wish is AttemptVerdict.CANCELLED:
                raise InputError(
                    f"job {job.id} is being cancelled", hint=f"partita wait {job.id}, then again"
                )
        self._service.requeue(chosen)
        return {"jobs": [self._now(job) | {"was": job.state.value} for job in chosen]}

    def _queue(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        offset, limit = (
            whole_number(body, "offset", 0),
            min(whole_number(body, "limit", MOST_ROWS), MOST_ROWS),
        )
        revision = body.get("revision")
        if isinstance(revision, str):
            found = self._overview.kept(revision)
            if found is None:
                return {"expired": True}
        else:
            found = self._overview.snapshot(caller.uid if body.get("mine") else None)
        if offset + limit < len(found.jobs):
            self._overview.keep(found)
        admin = self._access.is_admin(caller)
        return {
            "revision": found.revision,
            "jobs": self._overview.rows(
                found, offset, limit, lambda job: admin or job.submitter.uid == caller.uid
            ),
            "total": len(found.jobs),
            "counts": found.counts,
            "now": found.now,
            "discipline": self._service.discipline,
            "trouble": found.trouble,
        }

    def _instances(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        """Say which job is on which instance: as much as the queue tells everybody."""
        del caller, body
        return {"jobs": [row(job, open_to=False) for job in self._service.table.holding]}

    def _history(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        if body.get("ids"):
            chosen = self._chosen(caller, body, "read it")
            return {"jobs": [whole(job, self._energy) for job in chosen]}
        limit = min(whole_number(body, "limit", 50), MOST_ROWS)
        before = body.get("before")
        if before is not None and not isinstance(before, int):
            raise InputError("before is no number", where="before")
        uid = None if self._access.is_admin(caller) and not body.get("mine") else caller.uid
        found = self._service.table.store.over(limit, before, uid)
        return {
            "jobs": [whole(job, self._energy) for job in found],
            "before": found[-1].number if len(found) == limit else None,
        }

    def _states(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"jobs": [self._now(job) for job in self._chosen(caller, body, "wait for it")]}

    def _pending(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        """Count the jobs that are not over, without looking at those that are: asked once a second."""
        del caller  # counts tell nothing that the queue does not
        wanted = {parse_id(text) for text in ids_of(body)}
        active = self._service.table.active.values()
        return {"pending": sum(not wanted.isdisjoint(names_of(job)) for job in active)}

    def _log(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        jobs = self._chosen(caller, body, "read its log")
        if len(jobs) != 1:
            raise InputError(
                f"{len(jobs)} tasks have a log each", hint=f"write one: partita logs {jobs[0].id}"
            )
        job = jobs[0]
        newest = len(job.attempts)
        number = whole_number(body, "attempt", newest)
        here = {"id": job.id, "state": job.state.value, "attempts": newest, "attempt": number, "why": job.why}
        if newest == 0 and number == 0:
            return {**here, "data": "", "next": 0, "ended": False}
        if not 1 <= number <= newest:
            raise InputError(f"job {job.id} has no attempt {number}, but {newest}", where="--attempt")
        attempt = job.attempts[number - 1]
        offset = whole_number(body, "offset", 0)
        folder, ended = self._service.folder_of(job, number), attempt.verdict is not None
        if ended and not folder.exists():
            raise InputError(
                f"the log of job {job.id} is not kept any more",
                hint="--keep-logs of the daemon says how much is",
            )
        owners = frozenset({job.submitter.uid, os.geteuid()})
        data, following = read_log(folder, offset, owners)
        return {
            **here,
            "data": base64.b64encode(data).decode(),
            "next": following,
            "ended": ended,
        }

    def _families(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        """Say what is remembered of the families that the caller may see to."""
        del body
        mine = [each for each in self._service.families.known if self._may_forget(caller, each)]
        return {"families": [self._remembered(each) for each in mine]}

    def _forget(self, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
        known = [each for each in self._service.families.known if self._may_forget(caller, each)]
        chosen: dict[str, None] = {}
        if body.get("every"):
            chosen = dict.fromkeys(each for each in known if owner_of(each) == caller.uid)
        for text in ids_of(body) if body.get("ids") else ():
            chosen |= dict.fromkeys(self._named(caller, text, known))
        told = [self._remembered(each) for each in chosen]
        self._service.forget(chosen)
        return {"families": told}

    def _named(self, caller: Caller, text: str, known: Sequence[str]) -> list[str]:
        """Return the family of that name, the caller's own before others', or that of a job."""
        named = [each for each in known if shown_family(each)[0] == text]
        own = [each for each in named if owner_of(each) == caller.uid]
        if named:
            return own or named
        try:
            jobs = find(self._service.table, text)
        except InputError:
            raise InputError(
                f"nothing is remembered of {text!r}, and it is no job",
                hint="`partita forget` lists what is remembered",
            ) from None
        for job in jobs:
            self._access.require(caller, job, "forget what it showed")
        return [job.family for job in jobs]

    def _may_forget(self, caller: Caller, family: str) -> bool:
        return owner_of(family) == caller.uid or self._access.is_admin(caller)

    def _remembered(self, family: str) -> dict[str, Any]:
        service = self._service
        models = {host.model.name: host.model for host in service.gpus.hosts}.values()
        name, command = shown_family(family)
        attempts, history = service.families.attempts(family), service.families.history(family)
        need = min(history.need(), largest_slice(models) or UNLIMITED)
        fits = [p.name for model in models for p in slices(model) if holds(p, need)][:1]
        return {
            "name": name,
            "command": command,
            "user": user_name(owner_of(family)),
            "done": sum(each.verdict is AttemptVerdict.DONE for each in attempts),
            "out_of_memory": sum(each.verdict is AttemptVerdict.OUT_OF_MEMORY for each in attempts),
            "memory": bounds_data(history.bounds()),
            "begins_on": fits[0] if fits else None,
        }

    def _now(self, job: JobRecord) -> dict[str, Any]:
        now = self._service.table.now(job)
        return {"id": now.id, "state": now.state.value, "over": now.state in OVER, "why": now.why}

    def _chosen(self, caller: Caller, body: Mapping[str, Any], what: str) -> list[JobRecord]:
        """Return the jobs that a request names, all of which the caller may see to."""
        found = {job.number: job for text in ids_of(body) for job in find(self._service.table, text)}
        for job in found.values():
            self._access.require(caller, job, what)
        return list(found.values())
