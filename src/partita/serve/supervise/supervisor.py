"""Starts workers, watches them, replaces those that die, and ends them all with itself."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.serve.supervise.folder import make_folder
from partita.serve.supervise.post import Post, StartWith

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.serve.worker.spec import WorkerSpec

STABLE_S = 10.0
"""A worker that lived so long is replaced at once, and its end is told anew."""
FIRST_PAUSE_S = 0.3
LONGEST_PAUSE_S = 30.0
_SPREAD = (1 / 3, 1.0)
"""Shares of the longest pause between which a pause is drawn."""
MARGIN_S = 5.0
"""Seconds beyond its own grace after which a worker that was told to end is killed."""


@dataclass(frozen=True, slots=True)
class Kept:
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
        starts: Mapping[str, StartWith] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        pins, known = devices or {}, starts or {}
        posts = [
            Post(spec, pins.get((spec.gpu, spec.placement)), known.get(spec.service, StartWith()))
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

    def workers(self) -> tuple[Kept, ...]:
        """Return the instances that are kept served, in the order given."""
        with self._lock:
            return tuple(
                Kept(post.spec, post.process.pid if post.process else None, post.restarts)
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

    def _leave(self, post: Post, patience_s: float) -> None:
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

    def _moments(self, post: Post, now: float) -> list[float]:
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

    def _start(self, post: Post, now: float) -> None:
        post.restarts += post.began > 0
        try:
            post.start(now)
        except (OSError, PartitaError) as error:
            post.clear()
            self._failed(post, now, f"cannot be started: {error}")

    def _ended(self, post: Post, now: float) -> None:
        code = post.process.returncode if post.process is not None else None
        post.clear()
        if not post.leaving:
            killed = (
                f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
            )
            how = post.why_killed or killed
            told = post.last_words()
            self._failed(post, now, f"{how}{': ' + told if told else ''}; see {post.log}")

    def _failed(self, post: Post, now: float, why: str) -> None:
        stable = _stable(post, now)
        post.failures = 1 if stable else post.failures + 1
        post.due = now if stable else now + _longest_pause(post.failures) * self._random.uniform(*_SPREAD)
        if post.failures == 1:
            self._tell(f"the worker of {post.spec.service} on {post.spec.gpu} {post.spec.placement} {why}")


def _starts_at(post: Post, now: float, hung_s: float) -> float:
    if post.process is None:
        return max(now, post.due)
    if not post.listens:
        return post.began
    return now + hung_s + (0.0 if _stable(post, now) else _longest_pause(post.failures + 1))


def _stable(post: Post, now: float) -> bool:
    return now - post.began >= STABLE_S


def _longest_pause(failures: int) -> float:
    """Return the seconds before a worker is started anew that has ended soon so many times in a row, at most."""
    return _SPREAD[1] * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
