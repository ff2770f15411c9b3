"""Jobs that start after others have ended: how that is written, and what follows from an end. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.jobs.queue.ids import JobId, parse_id
from partita.jobs.queue.record import OVER, Condition, Dependency, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from partita.jobs.queue.record import JobRecord

MOST = 100
"""Dependencies that one job may have."""

NEVER = "dependency never satisfied"

_HINT = "write ok:12, any:12 or fail:12; several as ok:12:13, or parted by commas"
_WANTS = {
    Condition.OK: "to be done",
    Condition.FAIL: "to fail",
    Condition.ANY: "to end",
}


def parse_dependency(text: str) -> Dependency:
    """Read `ok:12`.

    Raises:
        InputError: it is no dependency.
    """
    found = parse_after((text,))
    if len(found) != 1:
        raise InputError(f"{text!r} is no single dependency", where="--after", hint=_HINT)
    return found[0]


def parse_after(words: Iterable[str]) -> tuple[Dependency, ...]:
    """Read `ok:12`, `any:12:13`, `fail:12_3`, several in a word parted by commas; each once, in order.

    Raises:
        InputError: a word that is none, or too many of them.
    """
    found: dict[Dependency, None] = {}
    for part in (part.strip() for word in words for part in word.split(",")):
        condition, *jobs = part.split(":")
        if condition not in [each.value for each in Condition] or not jobs:
            raise InputError(f"{part!r} is no dependency", where="--after", hint=_HINT)
        found.update(dict.fromkeys(Dependency(Condition(condition), parse_id(job)) for job in jobs))
    if len(found) > MOST:
        raise InputError(f"{len(found)} dependencies; a job has at most {MOST}", where="--after")
    return tuple(found)


def judged(condition: Condition, tasks: Sequence[JobRecord]) -> bool | None:
    """Say whether a dependency is satisfied (True), never will be (False), or is open (None).

    An array satisfies it by all of its tasks: `ok` when all are done, `any` when all are over, `fail` when all are
    over and one of them at least is not done.

    Args:
        condition: how they must end.
        tasks: the job, or the tasks of the array, as they are now; none if nothing is known of it any more.
    """
    done = [job.state is State.DONE for job in tasks]
    over = [job.state in OVER for job in tasks]
    if not tasks:
        return False
    if condition is Condition.OK and any(ended and not well for ended, well in zip(over, done, strict=True)):
        return False
    if not all(over):
        return None
    return not all(done) if condition is Condition.FAIL else True


def settled(job: JobRecord, tasks_of: Callable[[JobId], Sequence[JobRecord]]) -> JobRecord:
    """Return a waiting job without the dependencies that are satisfied; cancelled if one never will be.

    Args:
        job: it waits.
        tasks_of: the jobs that an id names, as they are now.
    """
    left = []
    for each in job.after:
        tasks = tasks_of(each.job)
        verdict = judged(each.condition, tasks)
        if verdict is False:
            return job.to(State.CANCELLED, why=f"{NEVER}: {_never(each, tasks)}")
        if verdict is None:
            left.append(each)
    return job if len(left) == len(job.after) else replace(job, after=tuple(left))


def waits_for(job: JobRecord) -> str:
    """Return in words what a job waits for."""
    first = [f"{each.job} {_WANTS[each.condition]}" for each in job.after[:3]]
    more = f" and {len(job.after) - 3} more" if len(job.after) > 3 else ""
    return f"waits for job {', for job '.join(first)}{more}"


def _never(dependency: Dependency, tasks: Sequence[JobRecord]) -> str:
    if not tasks:
        return f"nothing is known of job {dependency.job} any more"
    if dependency.condition is Condition.FAIL:
        return f"job {dependency.job} is done, and was to fail"
    ended = next(job for job in tasks if job.state in OVER and job.state is not State.DONE)
    return f"job {ended.id} {'failed' if ended.state is State.FAILED else 'was cancelled'}"
