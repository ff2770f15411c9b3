"""Keeps one worker running on each instance of a plan: restarts it when it dies, drains it on request."""

from __future__ import annotations

import os
import random
import secrets
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.files import replacing
from partita.process import keeper
from partita.process.keeper import how_it_ended
from partita.process.logs import last_line
from partita.serve.worker.spec import LOAD_TIMEOUT_S
from partita.serve.worker_specs import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.serve.worker.spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How the workers of a service are started, apart from their specification.

    Attributes:
        environment: variables in addition to those of this process.
        timeout_s: seconds until a worker must listen; otherwise it is killed and restarted.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = LOAD_TIMEOUT_S


@dataclass(slots=True)
class WorkerSlot:
    """An instance and its worker. Not thread-safe: its supervisor holds the lock.

    Attributes:
        spec: of the current or last worker.
        device: its CUDA device; None to leave the environment as it is.
        options: how its workers are started.
        ready: whether the current worker has been seen listening.
        process: the current worker; None if none runs.
        due: when the next worker is to be started, on the monotonic clock.
        began: when the last worker was started, on the monotonic clock.
        failures: number of successive workers that ended early.
        restarts: number of workers started after the first.
        why_killed: why the supervisor killed the current worker; empty if it did not.
        leaving: whether the instance is being drained.
        kill_at: when the process is to be killed, on the monotonic clock; None if it is not.
    """

    spec: WorkerSpec
    device: str | None
    options: StartOptions
    ready: bool = False
    process: keeper.Child | None = None
    due: float = 0.0
    began: float = 0.0
    failures: int = 0
    restarts: int = 0
    why_killed: str = ""
    leaving: bool = False
    kill_at: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Its GPU and placement."""
        return self.spec.gpu, self.spec.placement

    @property
    def log(self) -> Path:
        """The log file of its workers."""
        name = f"{self.spec.gpu.replace('/', '_')}@{self.spec.placement.partition('@')[2]}.log"
        return Path(self.spec.folder) / name

    def start(self, now: float, ended: Callable[[], None]) -> None:
        """Start a worker.

        Args:
            now: the current time, on the monotonic clock.
            ended: called in another thread when the worker has ended.

        Raises:
            OSError, PartitaError: it cannot be started.
        """
        self.began, self.ready, self.why_killed = now, False, ""
        self.spec = self.spec.replace(token=secrets.token_hex(6))
        with replacing(self._file) as stream:
            stream.write(self.spec.text())
        command = [sys.executable, "-m", "partita.serve.worker", str(self._file)]
        # A worker ends when its input pipe is closed, and so when this process ends.
        self.process = keeper.start(
            command, self._environment(), stdin=keeper.PIPE, output=self.log, ended=lambda _: ended()
        )

    def clear(self) -> None:
        """Remove the files of a worker that has ended."""
        if self.process is not None:
            self.process.close()
        self.process = None
        self.kill_at = None
        self._file.unlink(missing_ok=True)
        for each in self.spec.served:
            (Path(each.folder) / each.socket_name).unlink(missing_ok=True)

    @property
    def listens(self) -> bool:
        """Whether the current worker listens or has listened."""
        return self.ready or (Path(self.spec.folder) / self.spec.socket_name).exists()

    def overdue_at(self) -> float | None:
        """Return when the current worker's time to start listening ends; None if it listens, or none runs."""
        self.ready = self.listens
        return None if self.ready or self.process is None else self.began + self.options.timeout_s

    @property
    def _file(self) -> Path:
        return (Path(self.spec.folder) / self.spec.socket_name).with_suffix(".json")

    def _environment(self) -> Mapping[str, str]:
        pinned = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return {**os.environ, **self.options.environment, **pinned}


STABLE_S = 10.0
"""A worker that has lived so long is restarted without a pause, and its end is logged again."""
FIRST_PAUSE_S = 0.3
LONGEST_PAUSE_S = 30.0
_SPREAD = (1 / 3, 1.0)
"""A pause is drawn between these fractions of the longest pause."""
MARGIN_S = 5.0
"""Seconds beyond its grace period after which a terminated worker is killed."""


@dataclass(frozen=True, slots=True)
class SupervisedWorker:
    """An instance under a supervisor.

    Attributes:
        spec: of its worker.
        pid: of its worker; None if none runs.
        restarts: number of workers started after the first.
    """

    spec: WorkerSpec
    pid: int | None
    restarts: int


class Supervisor:
    """Keeps one worker running for each specification; thread-safe.

    Workers hold a pipe of this process and end when it ends, however it ends. Their specifications, sockets and logs
    are in the folder that each specification names.

    Args:
        specs: of the workers; each start gets a new token.
        devices: value of `CUDA_VISIBLE_DEVICES` by GPU id and placement; others get the environment as it is.
        starts: how workers are started, by service.
        tell: called with a sentence when a worker ends by itself; not again until a replacement has lived a while.
    """

    def __init__(
        self,
        specs: Iterable[WorkerSpec],
        *,
        devices: Mapping[tuple[str, str], str] | None = None,
        starts: Mapping[str, StartOptions] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        pins, known = devices or {}, starts or {}
        slots = [
            WorkerSlot(spec, pins.get((spec.gpu, spec.placement)), known.get(spec.service, StartOptions()))
            for spec in specs
        ]
        self._slots = {slot.key: slot for slot in slots}
        self._tell = tell
        self._lock = threading.RLock()
        self._random = random.Random()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._wake = threading.Event()

    def start(self) -> None:
        """Start all workers, and supervise them from now on. Their sockets appear when they are ready.

        Raises:
            InputError: their folder cannot be created.
        """
        for folder in {slot.spec.folder for slot in self._slots.values()}:
            make_folder(Path(folder))
        self._thread.start()

    def workers(self) -> tuple[SupervisedWorker, ...]:
        """Return the supervised instances, in the order of the specifications."""
        with self._lock:
            return tuple(
                SupervisedWorker(slot.spec, slot.process.pid if slot.process else None, slot.restarts)
                for slot in self._slots.values()
            )

    def starts(self, service: str, now: float, hung_s: float) -> tuple[tuple[float, int], ...]:
        """Return when each worker of a service was or will be started, and its largest batch.

        A gateway asks when it has too few workers, so a running worker that listens is assumed to be dead or hung. It
        takes no lock; the answer may be slightly out of date.

        Args:
            service: name of the service.
            now: the current time, on the monotonic clock.
            hung_s: seconds until hung workers will have been killed.
        """
        return tuple(
            (_starts_at(slot, now, hung_s), each.batch)
            for slot in list(self._slots.values())
            if not slot.leaving
            for each in slot.spec.served
            if each.service == service
        )

    def drain(self, gpu: str, placement: str) -> None:
        """Stop serving an instance: its worker finishes its running work and ends. Returns at once."""
        with self._lock:
            slot = self._slots.get((gpu, placement))
            if slot is not None:
                self._leave(slot, slot.spec.grace_s + MARGIN_S)
        self._wake.set()

    def stop(self, grace_s: float | None = None) -> None:
        """Drain all workers, and return when they have ended.

        Args:
            grace_s: seconds after which they are killed; None for each worker's grace period and `MARGIN_S`.
        """
        with self._lock:
            self._stopping = True
            for slot in self._slots.values():
                self._leave(slot, slot.spec.grace_s + MARGIN_S if grace_s is None else grace_s)
        if self._thread.is_alive():
            self._wake.set()
            self._thread.join()

    def _leave(self, slot: WorkerSlot, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        if slot.process is not None:
            slot.kill_at = end if slot.kill_at is None else min(end, slot.kill_at)
            if not slot.leaving:
                slot.process.signal(signal.SIGTERM)
        slot.leaving = True

    def _watch(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                pause = self._tend(time.monotonic())
                if self._stopping and not self._slots:
                    return
            self._wake.wait(None if pause is None else max(0.0, pause))

    def _tend(self, now: float) -> float | None:
        """Do what is due; return the seconds until something is due again, None if nothing will be."""
        moments = []
        for slot in list(self._slots.values()):
            if slot.process is not None and slot.process.returncode is not None:
                self._ended(slot, now)
            if slot.process is None and slot.leaving:
                del self._slots[slot.key]
                continue
            if slot.process is None and slot.due <= now:
                self._start(slot, now)
            moments += self._moments(slot, now)
        return min(moments) - now if moments else None

    def _moments(self, slot: WorkerSlot, now: float) -> list[float]:
        """Kill a worker whose time is over; return when the slot has to be checked again."""
        if slot.process is None:
            return [slot.due]
        if slot.kill_at is not None and slot.kill_at <= now:
            slot.process.kill()
            slot.kill_at = None
        if not slot.leaving and (late := slot.overdue_at()) is not None and late <= now:
            slot.why_killed = f"was not ready within {slot.options.timeout_s:g} s"
            slot.process.kill()
        moments = (slot.kill_at, None if slot.leaving or slot.why_killed else slot.overdue_at())
        return [moment for moment in moments if moment is not None]

    def _start(self, slot: WorkerSlot, now: float) -> None:
        slot.restarts += slot.began > 0
        try:
            slot.start(now, self._wake.set)
        except (OSError, PartitaError) as error:
            slot.clear()
            self._failed(slot, now, f"cannot be started: {error}")

    def _ended(self, slot: WorkerSlot, now: float) -> None:
        code = slot.process.returncode if slot.process is not None else None
        slot.clear()
        if not slot.leaving:
            how = slot.why_killed or how_it_ended(code or 0)
            told = last_line(slot.log)
            self._failed(slot, now, f"{how}{': ' + told if told else ''}; see {slot.log}")

    def _failed(self, slot: WorkerSlot, now: float, why: str) -> None:
        stable = _stable(slot, now)
        slot.failures = 1 if stable else slot.failures + 1
        slot.due = now if stable else now + _longest_pause(slot.failures) * self._random.uniform(*_SPREAD)
        if slot.failures == 1:
            self._tell(f"the worker of {slot.spec.service} on {slot.spec.gpu} {slot.spec.placement} {why}")


def _starts_at(slot: WorkerSlot, now: float, hung_s: float) -> float:
    if slot.process is None:
        return max(now, slot.due)
    if not slot.listens:
        return slot.began
    return now + hung_s + (0.0 if _stable(slot, now) else _longest_pause(slot.failures + 1))


def _stable(slot: WorkerSlot, now: float) -> bool:
    return now - slot.began >= STABLE_S


def _longest_pause(failures: int) -> float:
    """Return the longest pause before a restart, after a number of successive early ends."""
    return _SPREAD[1] * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
