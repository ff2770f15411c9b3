"""Workers as replicas of the control loop: what a driver needs to start one, and to know that it is ready."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from partita.drive.replicas import ReplicaProcess
from partita.serve.supervise.filling import filled
from partita.serve.supervise.folder import make_folder
from partita.serve.worker.spec import LOAD_TIMEOUT_S, UNDECLARED, WorkerSpec
from partita.serve.worker.wire import HANG_TIMEOUT_S, FrameError, FrameKind, Frames, Hello, connected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.serve.worker.spec import BackendSpec, DeclaredBatch

SliceSeconds: TypeAlias = "Mapping[tuple[str, str, int], Mapping[int, float]]"
"""Seconds of a batch, by GPU model, profile and processes, and by batch size."""
COMMAND = (sys.executable, "-m", "partita.serve.worker", "{document}")
_ANSWER_S = 2.0
_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """Ready when its socket says HELLO (drive's `Readiness`).

    Attributes:
        document: makes its specification.
    """

    document: WorkerDocument

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Say whether it answers."""
        del environment
        spec = self.document.spec(words)
        try:
            with connected(self.document.folder, spec.socket_name, _ANSWER_S) as stream:
                found = Frames(stream).next()
        except (OSError, FrameError):
            return False
        if found is None or found.kind != FrameKind.HELLO:
            return False
        try:
            return Hello.unpacked(found.header).service == spec.service
        except (ValueError, TypeError):
            return False


@dataclass(frozen=True, slots=True)
class WorkerDocument:
    """Makes the specification of one service's worker from what a driver knows of it.

    Attributes:
        backend: what runs the model.
        folder: where sockets go.
        grace_s: seconds that it has for finishing what it has.
        seconds: seconds of batches by GPU model, profile and processes; the replica's own estimate where none are.
        declared: what is said of the model's batch.
        hang_timeout_s: seconds without a sign of life after which it hangs.
        retry: whether its queries may run a second time.
    """

    backend: BackendSpec
    folder: Path
    grace_s: float
    seconds: SliceSeconds = field(default_factory=dict)
    declared: DeclaredBatch = UNDECLARED
    hang_timeout_s: float = HANG_TIMEOUT_S
    retry: bool = True

    def __call__(self, words: Mapping[str, str]) -> str:
        """Return its text, the folder made if it is not there.

        Raises:
            InputError: the back-end's URL cannot be filled in, or the folder not be made.
        """
        make_folder(self.folder)
        return self.spec(words).text()

    def spec(self, words: Mapping[str, str]) -> WorkerSpec:
        """Return the specification itself, from the words of drive's `Process`."""
        batch, processes = int(words["batch"]), int(words["processes"])
        profile = words["placement"].partition("@")[0]
        measured = self.seconds.get((words["gpu_model"], profile, processes))
        return WorkerSpec(
            service=words["service"],
            model=words["model"],
            gpu=words["gpu"],
            placement=words["placement"],
            batch=batch,
            backend=filled(self.backend, words),
            folder=str(self.folder.resolve()),
            token=words["token"],
            processes=processes,
            seconds=measured or {batch: float(words["latency_ms"]) / 1000},
            grace_s=self.grace_s,
            declared=self.declared,
            hang_timeout_s=self.hang_timeout_s,
            retry=self.retry,
        )


def worker_process(
    backend: BackendSpec,
    folder: Path,
    *,
    seconds: SliceSeconds | None = None,
    declared: DeclaredBatch | None = None,
    environment: Mapping[str, str] | None = None,
    grace_s: float = 30.0,
    start_timeout_s: float = LOAD_TIMEOUT_S,
    hang_timeout_s: float = HANG_TIMEOUT_S,
    retry: bool = True,
) -> ReplicaProcess:
    """Return how a service's replicas are run as workers, which outlive the controller that starts them.

    Args:
        backend: what runs the model.
        folder: where sockets go; made by the first.
        seconds: seconds of batches by GPU model, profile and processes, from the performance table.
        declared: what is said of the model's batch.
        environment: variables beside those of the controller.
        grace_s: seconds from SIGTERM, on which it drains, to SIGKILL.
        start_timeout_s: seconds it may take to become ready.
        hang_timeout_s: seconds without a sign of life after which it hangs.
        retry: whether its queries may run a second time.
    """
    # Its own grace ends first, so that it can say what was left unfinished.
    document = WorkerDocument(
        backend,
        folder,
        max(0.0, grace_s - _MARGIN_S),
        seconds or {},
        declared or UNDECLARED,
        hang_timeout_s,
        retry,
    )
    return ReplicaProcess(
        COMMAND,
        environment=environment or {},
        readiness=WorkerReady(document),
        grace_s=grace_s,
        start_timeout_s=start_timeout_s,
        document=document,
    )
