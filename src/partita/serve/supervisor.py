"""Keeps a plan's workers running: one for each instance, replaced when it dies, drained when it is to go."""

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
from partita.serve.worker_specs import (
    make_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.serve.worker.spec import WorkerSpec


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What the workers of a service are started with, beside their specification.

    Attributes:
        environment: variables beside those of this process.
        timeout_s: seconds one may take to listen; then it is killed, and tried anew.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = LOAD_TIMEOUT_S


@dataclass(slots=True)
class WorkerSlot:
    """An instance to be served. Not safe in threads: its supervisor holds the lock.

    Attributes:
        spec: of the worker that runs, or ran last.
        device: its CUDA device; None to leave the environment as it is.
        options: what else its processes are started with.
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
        """Its GPU and its placement."""
        return self.spec.gpu, self.spec.placement

    @property
    def log(self) -> Path:
        """The file that the output of its workers goes to."""
        name = f"{self.spec.gpu.replace('/', '_')}@{self.spec.placement.partition('@')[2]}.log"
        return Path(self.spec.folder) / name

    def start(self, now: float, ended: Callable[[], None]) -> None:
        """Start a worker.

        Args:
            now: the moment, on the monotonic clock.
            ended: is called, in another thread, when it has ended.

        Raises:
            OSError, PartitaError: it cannot be started.
        """
        self.began, self.ready, self.why_killed = now, False, ""
        self.spec = self.spec.replace(token=secrets.token_hex(6))
        with replacing(self._file) as stream:
            stream.write(self.spec.text())
        command = [sys.executable, "-m", "partita.serve.worker", str(self._file)]
        # It ends with the pipe to it, and so with us.
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
        (Path(self.spec.folder) / self.spec.socket_name).unlink(missing_ok=True)

    @property
    def listens(self) -> bool:
        """Whether the worker that runs listens, or has."""
        return self.ready or (Path(self.spec.folder) / self.spec.socket_name).exists()

    def overdue_at(self) -> float | None:
        """Return when the worker that runs will have taken too long to listen; None once it does."""
        self.ready = self.listens
        return None if self.ready or self.process is None else self.began + self.options.timeout_s

    @property
    def _file(self) -> Path:
        return (Path(self.spec.folder) / self.spec.socket_name).with_suffix(".json")

    def _environment(self) -> Mapping[str, str]:
        pinned = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return {**os.environ, **self.options.environment, **pinned}


STABLE_S = 10.0
"""A worker that lived so long is replaced at once, and its end is told anew."""
FIRST_PAUSE_S = 0.3
LONGEST_PAUSE_S = 30.0
_SPREAD = (1 / 3, 1.0)
"""Shares of the longest pause between which a pause is drawn."""
MARGIN_S = 5.0
"""Seconds beyond its own grace after which a worker that was told to end is killed."""


@dataclass(frozen=True, slots=True)
class SupervisedWorker:
    """An instance that is kept served.

    Attributes:
        spec: of its worker.
        pid: None while none runs.
        restarts: workers that were started after the first.
    """

    spec: WorkerSpec
    pid: int | None
    restarts: int


class Supervisor:
    """Keeps one worker running for each specification; safe in threads.

    Workers hold a pipe of this process and end when it does, however it ends. Their specifications, sockets and
    logs lie in the folder that each specification names.

    Args:
        specs: the workers; their tokens are given to them at each start.
        devices: CUDA device (`CUDA_VISIBLE_DEVICES`) by GPU id and placement; others get the environment as it is.
        starts: what workers are started with beside that, by service.
        tell: is told once of a worker that ends by itself, until its replacement has lived for a while.
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
        """Start all workers, and watch them from now on. Their sockets appear when they are ready.

        Raises:
            InputError: their folder cannot be made.
        """
        for folder in {slot.spec.folder for slot in self._slots.values()}:
            make_folder(Path(folder))
        self._thread.start()

    def workers(self) -> tuple[SupervisedWorker, ...]:
        """Return the instances that are kept served, in the order given."""
        with self._lock:
            return tuple(
                SupervisedWorker(slot.spec, slot.process.pid if slot.process else None, slot.restarts)
                for slot in self._slots.values()
            )

    def starts(self, service: str, now: float, hung_s: float) -> tuple[tuple[float, int], ...]:
        """Return when each worker of a service that is not ready was or will be started, and its largest batch.

        To be asked when a gateway has too few of them: one that runs is then about to be found dead, or hangs.
        It waits for no lock; what it says may be a moment old.

        Args:
            service: its name.
            now: the moment, on the monotonic clock.
            hung_s: seconds until workers that run but hang will have been ended.
        """
        slots = [slot for slot in list(self._slots.values()) if slot.spec.service == service]
        return tuple((_starts_at(slot, now, hung_s), slot.spec.batch) for slot in slots if not slot.leaving)

    def drain(self, gpu: str, placement: str) -> None:
        """Stop serving an instance: its worker finishes what it has and ends. Returns at once."""
        with self._lock:
            slot = self._slots.get((gpu, placement))
            if slot is not None:
                self._leave(slot, slot.spec.grace_s + MARGIN_S)
        self._wake.set()

    def stop(self, grace_s: float | None = None) -> None:
        """Drain all workers and return when they are gone.

        Args:
            grace_s: seconds after which they are killed; their own grace and a little more if None.
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
        """Do what is due; return the seconds until the next time, None if there is none."""
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
        """Kill a worker whose time is over; return when to look at the slot again."""
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
    """Return the longest pause before a restart, after so many early ends in a row."""
    return _SPREAD[1] * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
