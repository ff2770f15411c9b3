"""One instance that is to be served, and the process that does."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from partita.files import replacing
from partita.serve.worker.backend import keep_short
from partita.serve.worker.spec import LOAD_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.worker.spec import WorkerSpec

_TAIL = 4096


@dataclass(frozen=True, slots=True)
class StartWith:
    """What the workers of a service are started with, beside their specification.

    Attributes:
        environment: variables beside those of this process.
        timeout_s: seconds one may take to listen; then it is killed, and tried anew.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = LOAD_TIMEOUT_S


@dataclass(slots=True)
class Post:
    """An instance to be served. Not safe in threads: its supervisor holds the lock.

    Attributes:
        spec: of the worker that runs, or ran last.
        device: its CUDA device; None to leave the environment as it is.
        start_with: what else its processes are started with.
        ready: whether the worker that runs has been seen to listen.
        process: None while none runs.
        due: when one is to be started, on the monotonic clock.
        began: when the last one was started.
        failures: how often in a row one ended soon.
        why_killed: what is said of the worker that runs when it was ended for a fault; empty if it was not.
        leaving: whether it is to be served no longer.
        kill_at: when the process is ended by force.
    """

    spec: WorkerSpec
    device: str | None
    start_with: StartWith
    ready: bool = False
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    began: float = 0.0
    failures: int = 0
    restarts: int = 0
    why_killed: str = ""
    leaving: bool = False
    kill_at: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Its GPU and its placement."""
        return self.spec.gpu, self.spec.placement

    @property
    def log(self) -> Path:
        """The file that the output of its workers goes to."""
        name = f"{self.spec.gpu.replace('/', '_')}@{self.spec.placement.partition('@')[2]}.log"
        return Path(self.spec.folder) / name

    def start(self, now: float) -> None:
        """Start a worker.

        Raises:
            OSError, PartitaError: it cannot be started.
        """
        self.began, self.ready, self.why_killed = now, False, ""
        self.spec = replace(self.spec, token=secrets.token_hex(6))
        with replacing(self._file) as stream:
            stream.write(self.spec.text())
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self.log, flags, 0o600)
        try:
            keep_short(log)  # it may have died of what it wrote
            self.process = subprocess.Popen(  # noqa: S603 -- our own module
                [sys.executable, "-m", "partita.serve.worker", str(self._file)],
                stdin=subprocess.PIPE,  # held: the worker ends when we are gone
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is for us to hand on
            )
        finally:
            os.close(log)

    def kill(self) -> None:
        """End the worker that runs by force, with what it has started: it leads a group of its own."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def clear(self) -> None:
        """Put away what a worker that ended has left."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None
        self.kill_at = None
        self._file.unlink(missing_ok=True)
        (Path(self.spec.folder) / self.spec.socket_name).unlink(missing_ok=True)

    @property
    def listens(self) -> bool:
        """Whether the worker that runs listens, or has."""
        return self.ready or (Path(self.spec.folder) / self.spec.socket_name).exists()

    def overdue_at(self) -> float | None:
        """Return when the worker that runs will have taken too long to listen; None once it does."""
        self.ready = self.listens
        return None if self.ready or self.process is None else self.began + self.start_with.timeout_s

    def last_words(self) -> str:
        """Return the last line of the log, with the error before it where it is a hint; empty if there is none."""
        with suppress(OSError), self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _TAIL))
            lines = stream.read().decode(errors="replace").strip().splitlines()
            if len(lines) > 1 and lines[-1].startswith("hint: "):
                return f"{lines[-2]} ({lines[-1]})"  # a hint alone says nothing of what is wrong
            return lines[-1] if lines else ""
        return ""

    @property
    def _file(self) -> Path:
        return (Path(self.spec.folder) / self.spec.socket_name).with_suffix(".json")

    def _environment(self) -> Mapping[str, str]:
        pinned = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return {**os.environ, **self.start_with.environment, **pinned}
