"""Which jobs a request names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.jobs.queue.ids import JobId, parse_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.queue.book import Book
    from partita.jobs.queue.record import JobRecord

MOST_IDS = 1000


def find(book: Book, text: str) -> list[JobRecord]:
    """Return the job of an id, or the tasks of an array.

    Raises:
        InputError: there is none.
    """
    wanted = parse_id(text)
    found = book.tasks(wanted)
    if not found:
        raise InputError(f"there is no job {text}", hint="`partita queue` and `partita history` list them")
    return found


def ids(body: Mapping[str, Any]) -> list[str]:
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


def names(job: JobRecord) -> tuple[JobId, ...]:
    """Return what a job may be called: a task by its array, too."""
    if job.array is None:
        return (JobId(job.number),)
    return (JobId(job.array), JobId(job.array, job.index))


def whole_number(body: Mapping[str, Any], field: str, default: int) -> int:
    """Return a number of a request.

    Raises:
        InputError: it is none from 0 on.
    """
    value = body.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{field} is no whole number", where=field)
    return value
