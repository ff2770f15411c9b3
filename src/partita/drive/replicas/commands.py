"""How a service's replicas are run on this host, and how one tells that they are ready."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from partita.drive.port import DriveError, FailedError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


GRACE_S = 30.0


class Readiness(Protocol):
    """Says whether a replica answers."""

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Say whether it does now.

        Args:
            words: what templates may name, as in `Process`.
            environment: the replica's.
        """
        ...


@dataclass(frozen=True, slots=True)
class PortReady:
    """Ready when it accepts connections on its port, as given to it by `{port}`."""

    host: str = "127.0.0.1"
    timeout_s: float = 1.0

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Say whether it accepts a connection."""
        del environment
        try:
            with socket.create_connection((self.host, int(words["port"])), self.timeout_s):
                return True
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class CommandReady:
    """Ready when a command ends with 0."""

    command: tuple[str, ...]
    timeout_s: float = 5.0

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Run the command and say whether it ended with 0 in time."""
        try:
            run(self.command, words, environment, self.timeout_s)
        except DriveError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Process:
    """A replica is a process of its own, with `CUDA_VISIBLE_DEVICES` set to its MIG device.

    Attributes:
        command: words, in which `{service}`, `{model}`, `{batch}`, `{processes}`, `{port}`, `{device}`, `{gpu}`,
            `{gpu_model}`, `{placement}`, `{token}`, `{latency_ms}`, `{throughput}` and `{document}` are filled in.
        environment: variables beside those of the controller.
        readiness: None if it is ready as soon as it runs.
        grace_s: seconds from SIGTERM, on which it drains, to SIGKILL.
        start_timeout_s: seconds it may take to become ready.
        document: makes the text of the file `{document}` from the other words, before the process is started.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    readiness: Readiness | None = None
    grace_s: float = GRACE_S
    start_timeout_s: float = 600.0
    document: Callable[[Mapping[str, str]], str] | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that runs already is told of each replica: by one command when it starts, one when it stops.

    Attributes:
        start: ends with 0 when the replica answers; words as in `Process`.
        stop: ends with 0 when the replica has drained and left the device.
        timeout_s: seconds either may take.
    """

    start: tuple[str, ...]
    stop: tuple[str, ...]
    timeout_s: float = 600.0


def fill(command: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """Return a command with its words filled in.

    Raises:
        RefusedError: it names one that there is not.
    """
    try:
        return [word.format_map(words) for word in command]
    except (KeyError, ValueError, IndexError) as error:
        raise RefusedError(
            f"the command cannot be filled in: {error}",
            where=" ".join(command),
            hint=f"it may name {', '.join(f'{{{word}}}' for word in words)}; write {{{{ for a brace",
        ) from None


def run(
    command: Sequence[str], words: Mapping[str, str], environment: Mapping[str, str], timeout_s: float
) -> None:
    """Run a short command to its end.

    Raises:
        FailedError: it does not end with 0, or not in time, or cannot be run.
    """
    filled = fill(command, words)
    try:
        done = subprocess.run(  # noqa: S603 -- the user's own command
            filled,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedError(f"the command failed: {error}", where=filled[0]) from None
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise FailedError(
            f"the command ended with {done.returncode}{': ' + told[0] if told else ''}", where=filled[0]
        )
