"""A submission as it comes over the wire: checked, bounded, and turned into values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from partita.errors import InputError
from partita.jobs.memory.bounds import UNLIMITED, Bounds
from partita.jobs.queue.dependencies import parse_after
from partita.jobs.queue.ids import parse_array
from partita.jobs.queue.record import DEFAULT_UMASK, Asked, Memory
from partita.oom import MOST_PATTERNS, checked_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.queue.record import Dependency

MOST_COMMAND = 128 * 1024
MOST_ENVIRONMENT = 256 * 1024
MOST_GRACE_S = 3600.0
MOST_ATTEMPTS = 20
MOST_PRIORITY = 1000
MOST_LIMIT_S = 1e9

T = TypeVar("T")


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
    asked: Asked
    name: str = ""
    priority: int = 0
    indices: tuple[int, ...] | None = None
    user: str | None = None
    after: tuple[Dependency, ...] = ()


def read(body: Mapping[str, Any]) -> Submission:
    """Return a submission from a request.

    Raises:
        InputError: a field that is missing, of another kind, or out of bounds.
    """
    command = tuple(_strings(body.get("command"), "command"))
    if not command or not command[0]:
        raise InputError("there is no command", hint="partita submit -- python train.py")
    directory = _typed(body, "directory", str)
    if not directory.startswith("/") or "\0" in directory:
        raise InputError("the directory is no absolute path", where="directory")
    _bound(sum(len(word) + 1 for word in command), MOST_COMMAND, "command")
    array = _typed(body, "array", str, None)
    return Submission(
        command,
        directory,
        _environment(body.get("environment", {})),
        Asked(
            _memory(body.get("memory")),
            _seconds(body.get("seconds", {})),
            _number(body, "grace_s", 30.0, MOST_GRACE_S),
            _typed(body, "checkpoints", bool, False),
            int(_number(body, "most_attempts", 4, MOST_ATTEMPTS, least=1)),
            _limit(body),
            int(_number(body, "umask", DEFAULT_UMASK, 0o777)),
            read_patterns(body.get("oom_patterns", [])),
        ),
        name=_name(_typed(body, "name", str, "")),
        priority=int(_number(body, "priority", 0, MOST_PRIORITY, least=-MOST_PRIORITY)),
        indices=None if array is None else parse_array(array),
        user=_typed(body, "user", str, None),
        after=parse_after(_strings(body.get("after", []), "--after")),
    )


def read_patterns(value: object) -> tuple[str, ...]:
    """Return the patterns that say in a job's output that memory ran out.

    Raises:
        InputError: they are no list of regular expressions, too many, or found in every line.
    """
    patterns = _strings(value, "oom_patterns")
    if len(patterns) > MOST_PATTERNS:
        raise InputError(
            f"{len(patterns)} patterns; at most {MOST_PATTERNS} are looked for", where="--oom-pattern"
        )
    for pattern in patterns:
        if (why := checked_pattern(pattern)) is not None:
            raise InputError(
                why, where="--oom-pattern", hint="write what the line says, as 'no room on the card'"
            )
    return tuple(patterns)


def _typed(body: Mapping[str, Any], field: str, kind: type[T], *default: Any) -> Any:  # noqa: ANN401 -- JSON
    value = body.get(field, *default)
    if default and value == default[0]:
        return value
    if not isinstance(value, kind):
        raise InputError(f"{field} is no {kind.__name__}", where=field)
    return value


def _number(body: Mapping[str, Any], field: str, default: float, most: float, *, least: float = 0.0) -> float:
    value = body.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(f"{value!r} is no number from {least:g} to {most:g}", where=field)
    return float(value)


def _strings(value: object, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
        raise InputError(f"{field} is no list of words", where=field)
    return value


def _name(name: str) -> str:
    if len(name) > 64 or not name.isprintable():
        raise InputError("a name has at most 64 printable characters", where="--name")
    return name


def _bound(size: int, most: int, what: str) -> None:
    if size > most:
        raise InputError(f"the {what} has {size} characters; at most {most} are kept", where=what)


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InputError("environment is no object", where="environment")
    _strings(list(value.values()), "environment")
    if any("=" in name or "\0" in name or not name for name in value):
        raise InputError("a variable has a name that no variable can have", where="environment")
    _bound(sum(len(k) + len(v) + 2 for k, v in value.items()), MOST_ENVIRONMENT, "environment")
    return value


def _memory(value: object) -> Memory:
    if value is None:
        return Memory()
    if not isinstance(value, dict) or value.get("source") not in ("declared", "model"):
        raise InputError("memory is declared, or from a model", where="memory")
    lower = _number(value, "lower", 0.0, 2.0**50)
    upper = UNLIMITED if value.get("upper") is None else _number(value, "upper", 0.0, 2.0**50)
    return Memory(Bounds(lower, upper), value["source"])


def _limit(body: Mapping[str, Any]) -> float | None:
    """Return the time limit: None where nothing was said, infinity where none was wanted."""
    if body.get("limit_s") is None:
        return None
    return _number(body, "limit_s", 0.0, MOST_LIMIT_S) or math.inf


def _seconds(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > 64:
        raise InputError("seconds are no object of profiles", where="--gpu-time")
    for profile, seconds in value.items():
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InputError(f"{seconds!r} is no time", where="--gpu-time")
        if not (math.isfinite(seconds) and 0 < seconds <= 1e9):
            raise InputError(f"{seconds!r} seconds on {profile or 'its slice'}", where="--gpu-time")
    return {profile: float(seconds) for profile, seconds in value.items()}
