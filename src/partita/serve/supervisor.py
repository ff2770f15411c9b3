"""Keeps a plan's workers running: one for each instance, replaced when it dies, drained when it is to go."""

from __future__ import annotations

import os
import random
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.files import replacing
from partita.process.logs import keep_short
from partita.serve.worker.spec import LOAD_TIMEOUT_S
from partita.serve.worker_specs import (
    make_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.serve.worker.spec import WorkerSpec


_TAIL = 4096


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
    start_with: StartOptions
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
        self.spec = self.spec.replace(token=secrets.token_hex(6))
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
        posts = [
            WorkerSlot(spec, pins.get((spec.gpu, spec.placement)), known.get(spec.service, StartOptions()))
            for spec in specs
        ]
        self._posts = {post.key: post for post in posts}
        self._tell = tell
        self._lock = threading.RLock()
        self._random = random.Random()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def start(self) -> None:
        """Start all workers, and watch them from now on. Their sockets appear when they are ready.

        Raises:
            InputError: their folder cannot be made.
        """
        for folder in {post.spec.folder for post in self._posts.values()}:
            make_folder(Path(folder))
        self._thread.start()

    def workers(self) -> tuple[SupervisedWorker, ...]:
        """Return the instances that are kept served, in the order given."""
        with self._lock:
            return tuple(
                SupervisedWorker(post.spec, post.process.pid if post.process else None, post.restarts)
                for post in self._posts.values()
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
        posts = [post for post in list(self._posts.values()) if post.spec.service == service]
        return tuple((_starts_at(post, now, hung_s), post.spec.batch) for post in posts if not post.leaving)

    def drain(self, gpu: str, placement: str) -> None:
        """Have an instance served no longer: its worker finishes what it has and ends; returns at once."""
        with self._lock:
            post = self._posts.get((gpu, placement))
            if post is not None:
                self._leave(post, post.spec.grace_s + MARGIN_S)
        self._look()

    def stop(self, grace_s: float | None = None) -> None:
        """Drain all workers and return when they are gone.

        Args:
            grace_s: seconds after which they are killed; their own grace and a little more if None.
        """
        with self._lock:
            self._stopping = True
            for post in self._posts.values():
                self._leave(post, post.spec.grace_s + MARGIN_S if grace_s is None else grace_s)
        if self._thread.is_alive():
            self._look()
            self._thread.join()
        os.close(self._wake)
        os.close(self._waker)

    def _leave(self, post: WorkerSlot, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        if post.process is not None:
            post.kill_at = end if post.kill_at is None else min(end, post.kill_at)
            if not post.leaving:
                post.process.terminate()
        post.leaving = True

    def _look(self) -> None:
        with suppress(BlockingIOError):  # woken often enough already
            os.write(self._waker, b".")

    def _watch(self) -> None:
        while True:
            with self._lock:
                pause = self._tend(time.monotonic())
                if self._stopping and not self._posts:
                    return
                pids = [post.process.pid for post in self._posts.values() if post.process is not None]
            self._wait(pids, pause)

    def _wait(self, pids: Iterable[int], pause: float | None) -> None:
        """Return when one of the processes ends, when woken, or after a pause."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        with ExitStack() as stack:
            for pid in pids:
                # Its number cannot be another's: it is our child, and nobody else waits for it.
                number = os.pidfd_open(pid)
                stack.callback(os.close, number)
                poll.register(number, select.POLLIN)
            found = poll.poll(None if pause is None else 1000 * max(0.0, pause))
        if any(number == self._wake for number, _ in found):
            os.read(self._wake, 4096)

    def _tend(self, now: float) -> float | None:
        """Do what is due; return the seconds until something is again, None if nothing will be."""
        moments = []
        for post in list(self._posts.values()):
            if post.process is not None and post.process.poll() is not None:
                self._ended(post, now)
            if post.process is None and post.leaving:
                del self._posts[post.key]
                continue
            if post.process is None and post.due <= now:
                self._start(post, now)
            moments += self._moments(post, now)
        return min(moments) - now if moments else None

    def _moments(self, post: WorkerSlot, now: float) -> list[float]:
        """Kill a worker whose time is over; return when to look at the post again."""
        if post.process is None:
            return [post.due]
        if post.kill_at is not None and post.kill_at <= now:
            post.kill()
            post.kill_at = None
        if not post.leaving and (late := post.overdue_at()) is not None and late <= now:
            post.why_killed = f"was not ready within {post.start_with.timeout_s:g} s"
            post.kill()
        moments = (post.kill_at, None if post.leaving or post.why_killed else post.overdue_at())
        return [moment for moment in moments if moment is not None]

    def _start(self, post: WorkerSlot, now: float) -> None:
        post.restarts += post.began > 0
        try:
            post.start(now)
        except (OSError, PartitaError) as error:
            post.clear()
            self._failed(post, now, f"cannot be started: {error}")

    def _ended(self, post: WorkerSlot, now: float) -> None:
        code = post.process.returncode if post.process is not None else None
        post.clear()
        if not post.leaving:
            killed = (
                f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
            )
            how = post.why_killed or killed
            told = post.last_words()
            self._failed(post, now, f"{how}{': ' + told if told else ''}; see {post.log}")

    def _failed(self, post: WorkerSlot, now: float, why: str) -> None:
        stable = _stable(post, now)
        post.failures = 1 if stable else post.failures + 1
        post.due = now if stable else now + _longest_pause(post.failures) * self._random.uniform(*_SPREAD)
        if post.failures == 1:
            self._tell(f"the worker of {post.spec.service} on {post.spec.gpu} {post.spec.placement} {why}")


def _starts_at(post: WorkerSlot, now: float, hung_s: float) -> float:
    if post.process is None:
        return max(now, post.due)
    if not post.listens:
        return post.began
    return now + hung_s + (0.0 if _stable(post, now) else _longest_pause(post.failures + 1))


def _stable(post: WorkerSlot, now: float) -> bool:
    return now - post.began >= STABLE_S


def _longest_pause(failures: int) -> float:
    """Return the seconds before a worker is started anew that has ended soon so many times in a row, at most."""
    return _SPREAD[1] * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
