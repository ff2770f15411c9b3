"""Jobs of the queue, asked through the daemon's socket: lists by page, one job with its attempts, logs, changes.

The daemon answers what the user of this process may see: other users' names and commands are hidden unless it is one
of the daemon's admins.
"""

from __future__ import annotations

import base64
import os
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from partita.dash.model import Job, JobAttempt, JobLog, JobPage
from partita.errors import InputError
from partita.files import home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from partita.dash.model import Submit
    from partita.jobs.queue.client import QueueClient

ACTIVE = ("running", "stopping", "starting", "waiting")
OVER = ("done", "failed", "cancelled")
STATES = (*ACTIVE, *OVER)

_CHUNK = 500
_MOST_LOOKED_AT = 5000
"""Jobs that are looked at for those that are asked for; the next page of a list goes on there."""

_CURSOR = re.compile(r"q(?P<revision>[0-9.]{1,40}):(?P<offset>\d{1,12})|h(?P<before>\d{1,15})?", re.ASCII)


def jobs(daemon: QueueClient, after: str | None, limit: int, state: str = "", q: str = "") -> JobPage:
    """Return a page of jobs: those that run, those that wait by their expected start, then those that are over.

    Args:
        daemon: the queue.
        after: cursor of the page before; None for the first.
        limit: most jobs.
        state: only those in this state; empty for all.
        q: only those whose id, user, name or command have this text; empty for all.

    Raises:
        InputError: the cursor or the state is none.
        PartitaError: the daemon does not answer.
    """
    require_state(state)
    if after is not None and not _CURSOR.fullmatch(after):
        raise InputError(
            f"{after!r} is no cursor", where="after", hint="use `next` of the page before, or leave it out"
        )
    counts = daemon.ask("queue", limit=0)["counts"]
    found: list[Job] = []
    cursor = after
    for looked_at, (row, place) in enumerate(_rows(daemon, after, state)):
        if len(found) == limit or looked_at == _MOST_LOOKED_AT:
            return JobPage(tuple(found), counts, cursor)
        cursor = place
        made = _job(row)
        if (not state or made.state == state) and has_words(made, q):
            found.append(made)
    return JobPage(tuple(found), counts, None)


def require_state(state: str) -> None:
    """Require that jobs can be in a state; empty is any.

    Raises:
        InputError: they cannot.
    """
    if state and state not in STATES:
        raise InputError(f"jobs have no state {state!r}", where="state", hint=f"one of {', '.join(STATES)}")


def has_words(job: Job, words: str) -> bool:
    """Return whether a job's id, user, name or command has a text, in any case."""
    wanted = words.lower()
    return not wanted or any(wanted in text.lower() for text in (job.id, job.user, job.name, job.command))


def _rows(daemon: QueueClient, after: str | None, state: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield jobs after a cursor, each with the cursor after it; those that cannot have the state are left out."""
    match = None if after is None else _CURSOR.fullmatch(after)
    if (match is None or match["offset"] is not None) and state not in OVER:
        yield from _active(daemon, match)
    if state not in ACTIVE:
        before = None if match is None or match["before"] is None else int(match["before"])
        yield from _over(daemon, before)


def _active(daemon: QueueClient, match: re.Match[str] | None) -> Iterator[tuple[Mapping[str, Any], str]]:
    offset = 0 if match is None else int(match["offset"])
    page: dict[str, object] = {} if match is None else {"revision": match["revision"]}
    while True:
        answer = daemon.ask("queue", offset=offset, limit=_CHUNK, **page)
        if answer.get("expired"):  # the snapshot of the pages before is gone: go on in a new one, about there
            page = {}
            continue
        page = {"revision": answer["revision"]}
        for row in answer["jobs"]:
            offset += 1
            yield row, f"q{answer['revision']}:{offset}"
        if not answer["jobs"] or offset >= answer["total"]:
            return


def _over(daemon: QueueClient, before: int | None) -> Iterator[tuple[Mapping[str, Any], str]]:
    while True:
        answer = daemon.ask("history", limit=_CHUNK, before=before)
        for row in answer["jobs"]:
            yield row, f"h{row['number']}"
        before = answer["before"]
        if before is None:
            return


def job(daemon: QueueClient, number: str) -> Job:
    """Return a job with its attempts, and if it waits among the first, why, and when it is expected to start.

    Raises:
        InputError: there is none of that id.
        PartitaError: the daemon does not answer, or the job is another user's.
    """
    (row, *_) = daemon.ask("history", ids=[number])["jobs"]
    made = _job(row)
    if made.state in OVER:
        return made
    for each, _ in islice(_active(daemon, None), _MOST_LOOKED_AT):
        if each["id"] == number:
            now = _job(each)
            return made.replace(
                state=now.state,
                reason=now.reason,
                advice=now.advice,
                predicted_start=now.predicted_start,
                memory_bytes=made.memory_bytes or now.memory_bytes,
            )
    return made


def _job(row: Mapping[str, Any]) -> Job:
    command = row["command"] or ""
    state, over = row["state"], row["state"] in OVER
    reason = row.get("verdict") if over else row.get("reason")
    if over and reason == state:
        reason = None
    tries = row["attempts"] if isinstance(row["attempts"], list) else []
    return Job(
        row["id"],
        row["user"],
        command if isinstance(command, str) else " ".join(command),
        state,
        row["submitted"],
        reason,
        advice(state, reason),
        row.get("start"),
        row.get("gpu"),
        row.get("instance"),
        _memory(row),
        tuple(map(_attempt, tries)),
        row.get("name") or "",
    )


def _memory(row: Mapping[str, Any]) -> tuple[float, float | None] | None:
    stated = row.get("memory")
    if stated is not None:
        return None if stated["source"] == "none" else (stated["lower"], stated["upper"])
    need = row.get("memory_bytes")
    return None if need is None else (need, need)


def _attempt(row: Mapping[str, Any]) -> JobAttempt:
    return JobAttempt(
        row["attempt"],
        row["gpu"],
        row["instance"],
        row["limit_bytes"],
        row["decided"],
        row["began"],
        row["ended"],
        row["verdict"],
        row["why"],
        row["exit_code"],
        row["peak_memory_bytes"],
    )


_ADVICE = (
    ("never satisfied", "submit it again with another --after, or without"),
    (
        "waits for job",
        "nothing: it starts after those jobs; to start it now, cancel it and submit it without --after",
    ),
    ("larger than any slice", "submit it with less --memory, or add GPUs with larger slices"),
    (
        "ran out of memory on the largest slice",
        "make it need less memory, then forget what was learnt: partita forget",
    ),
    ("state it more exactly with --memory", "submit it with --memory"),
    ("memory of the slices", "give their memory in a file: --gpus-file"),
    ("there is no GPU in MIG mode", "turn MIG mode on, as root: nvidia-smi -mig 1"),
    ("services or others hold all such slices", "add GPUs, or plan services on fewer: see What if"),
    ("has used more than", "nothing: it starts when those who used less have had their turn"),
    ("free, but not together", "nothing: it starts when jobs beside the free slices end"),
    ("all busy", "nothing: it starts when a slice is free"),
    ("first", "nothing: it starts after those before it"),
    ("reserved for an earlier job", "nothing: it starts in a moment"),
    ("out of memory", "submit it with more --memory, or make it need less"),
    ("time limit", "submit it with a longer --time"),
    ("exit", "read its log"),
)
"""What to do, by what the reason says; the first that is found."""


def advice(state: str, reason: str | None, known: Sequence[tuple[str, str]] = _ADVICE) -> str | None:
    """Return what a user can do about a job that waits or failed; None where nothing is to be done.

    Args:
        state: of the job.
        reason: why it waits or failed.
        known: what to do by words of the reason; the first that are found count.
    """
    if state not in {"waiting", "failed", "cancelled"} or reason is None:
        return None
    return next((text for words, text in known if words in reason), None)


def log(daemon: QueueClient, number: str, after: int, attempt: int | None = None) -> JobLog:
    """Return what a job's attempt wrote from a byte on; by default of the newest attempt.

    Raises:
        InputError: there is no such job or attempt.
        PartitaError: the daemon does not answer, or the job is another user's.
    """
    asked: dict[str, object] = {} if attempt is None else {"attempt": attempt}
    answer = daemon.ask("log", ids=[number], offset=after, **asked)
    return log_piece(base64.b64decode(answer["data"]), after, answer["attempt"], ended=bool(answer["ended"]))


def log_piece(data: bytes, after: int, attempt: int, *, ended: bool) -> JobLog:
    """Return a piece of a log as text; the beginning of a character at its end comes with the next piece.

    Args:
        data: what stands in the log from a byte on, as far as it was read.
        after: that byte.
        attempt: whose log it is.
        ended: whether the log gets no longer.
    """
    cut = _unfinished(data)
    if cut == len(data):
        cut = 0
    text = data[: len(data) - cut].decode("utf-8", "replace")
    return JobLog(text, after + len(data) - cut, ended and not data, attempt)


def _unfinished(data: bytes) -> int:
    """Return how many bytes at the end begin a character that is not there in full yet."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if needed > back else 0
    return 0


_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "SHELL")
"""Variables of this process that a job that is submitted here gets."""


def submit(daemon: QueueClient, asked: Submit) -> tuple[str, str]:
    """Submit a job; return its id, and what is to be said of it.

    Raises:
        InputError: the daemon refuses it.
        PartitaError: the daemon does not answer.
    """
    memory = {} if asked.memory_bytes is None else {"source": "declared", "upper": asked.memory_bytes}
    answer = daemon.ask(
        "submit",
        command=list(asked.command),
        directory=asked.directory or str(home()),
        environment={name: os.environ[name] for name in _PASSED if name in os.environ},
        name=asked.name,
        **({"memory": memory} if memory else {}),
    )
    return answer["id"], "; ".join([f"job {answer['id']} waits", *answer["notes"]])


def cancel(daemon: QueueClient, number: str) -> str:
    """Cancel a job; return what became of it. Cancelling twice is no error.

    Raises:
        InputError: there is none of that id.
        PartitaError: the daemon does not answer, or the job is another user's.
    """
    (found, *_) = daemon.ask("cancel", ids=[number])["jobs"]
    if found["over"]:
        return f"job {number} is {found['state']}"
    return f"job {number} is stopping; it may checkpoint first"
