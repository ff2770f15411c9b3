"""How replicas are run on real GPUs, by service: a YAML document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.plan.fields import Fields

if TYPE_CHECKING:
    from pathlib import Path

    from partita.drive.replicas import CommandReady, PortReady, Process, Upstream

_PROCESS = "environment ready grace_s start_timeout_s"
_HINT = 'write [{name: resnet50, command: [serve, --port, "{port}"], ready: port}]'


def read_services(path: Path) -> dict[str, Process | Upstream]:
    """Read how each service's replicas are run.

    A list under `services`, each with `name` and either `command` (a process of its own; with `environment`,
    `ready`, which is `port` or a command, `grace_s` and `start_timeout_s`) or `start` and `stop` (commands that tell
    a server that runs already; with `timeout_s`).

    Raises:
        InputError: the file cannot be read, or a field is missing, unknown or wrong.
    """
    import yaml  # noqa: PLC0415 -- only for real GPUs

    from partita.files import read_text  # noqa: PLC0415

    try:
        data = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"no YAML: {getattr(error, 'problem', error)}", where=f"{path}{line}") from None
    root = Fields.of(data, str(path), "", "services", "apiVersion kind")
    found: dict[str, Process | Upstream] = {}
    for place, each in root.items("services"):
        told = isinstance(each, dict) and "start" in each
        required, optional = ("name start stop", "timeout_s") if told else ("name command", _PROCESS)
        fields = Fields.of(each, str(path), place, required, optional)
        found[fields.text("name")] = _upstream(fields) if told else _process(fields)
    return found


def _process(fields: Fields) -> Process:
    from partita.drive.replicas import Process  # noqa: PLC0415 -- slow to import

    return Process(
        _words(fields, "command"),
        environment=_environment(fields),
        readiness=_readiness(fields),
        grace_s=_seconds(fields, "grace_s", 30.0),
        start_timeout_s=_seconds(fields, "start_timeout_s", 600.0),
    )


def _upstream(fields: Fields) -> Upstream:
    from partita.drive.replicas import Upstream  # noqa: PLC0415 -- slow to import

    return Upstream(_words(fields, "start"), _words(fields, "stop"), _seconds(fields, "timeout_s", 600.0))


def _readiness(fields: Fields) -> CommandReady | PortReady | None:
    from partita.drive.replicas import CommandReady, PortReady  # noqa: PLC0415 -- slow to import

    if "ready" not in fields.data:
        return None
    return PortReady() if fields.data["ready"] == "port" else CommandReady(_words(fields, "ready"))


def _seconds(fields: Fields, key: str, default: float) -> float:
    return fields.number(key) if key in fields.data else default


def _words(fields: Fields, key: str) -> tuple[str, ...]:
    value = fields.data[key]
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise fields.error("expected a command as a list of words", key, _HINT)
    return tuple(value)


def _environment(fields: Fields) -> dict[str, str]:
    value = fields.data.get("environment", {})
    if not isinstance(value, dict) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise fields.error(
            "expected names and texts", "environment", "write {NAME: value}, numbers in quotes"
        )
    return dict(value)
