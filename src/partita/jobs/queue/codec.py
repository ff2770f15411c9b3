"""Jobs as JSON in the store, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from partita.errors import InputError
from partita.jobs.memory.bounds import UNLIMITED, Bounds
from partita.jobs.queue.dependencies import parse_dependency
from partita.jobs.queue.record import Asked, Attempt, JobRecord, Memory, State, Submitter, Verdict
from partita.mig.layout import Placement


def dumps(job: JobRecord) -> str:
    """Return a job as JSON."""
    body = _plain(job)
    body["submitter"] = _plain(job.submitter)
    body["asked"] = _plain(job.asked) | {
        "seconds": dict(job.asked.seconds),
        "memory": {"source": job.asked.memory.source, **bounds_data(job.asked.memory.bounds)},
    }
    body["attempts"] = [_attempt(each) for each in job.attempts]
    body["after"] = [str(each) for each in job.after]
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def loads(text: str) -> JobRecord:
    """Return the job that `dumps` wrote.

    Raises:
        ValueError: it did not.
    """
    try:
        body = json.loads(text)
        asked = body["asked"]
        memory = Memory(_bounds(asked["memory"]), asked["memory"]["source"])
        return JobRecord(
            **body
            | {
                "submitter": Submitter(**body["submitter"]),
                "asked": Asked(
                    **asked | {"memory": memory, "oom_patterns": tuple(asked.get("oom_patterns", ()))}
                ),
                "command": tuple(body["command"]),
                "state": State(body["state"]),
                "attempts": tuple(_read_attempt(each) for each in body["attempts"]),
                "after": tuple(map(parse_dependency, body.get("after", ()))),
            }
        )
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise ValueError(f"not a job: {error}") from error


def bounds_data(bounds: Bounds) -> dict[str, float | None]:
    """Return bounds as JSON can have them: no upper one is null."""
    return {"lower": bounds.lower, "upper": None if bounds.upper == UNLIMITED else bounds.upper}


def _bounds(body: dict[str, Any]) -> Bounds:
    return Bounds(body["lower"], UNLIMITED if body["upper"] is None else body["upper"])


def _plain(value: Any) -> dict[str, Any]:  # noqa: ANN401 -- any dataclass
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    kept = {name: value for name, value in _plain(attempt).items() if value is not None and value != ()}
    kept["placement"] = str(attempt.placement)
    if attempt.destroy:
        kept["destroy"] = [str(each) for each in attempt.destroy]
    return kept


def _read_attempt(body: dict[str, Any]) -> Attempt:
    told: dict[str, Any] = {name: Verdict(body[name]) for name in ("wish", "verdict") if name in body}
    told["placement"] = Placement.parse(body["placement"])
    told["destroy"] = tuple(Placement.parse(each) for each in body.get("destroy", ()))
    return Attempt(**body | told)
