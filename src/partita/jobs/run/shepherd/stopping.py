"""How a job is ended: asked by a file and SIGTERM, given its grace, then killed with all its processes."""

from __future__ import annotations

import os
import signal
import time

from partita.jobs.run.folder import CHECKPOINT
from partita.jobs.run.shepherd import documents, processes

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from collections.abc import Callable

LEFT_S = 5.0
"""Seconds that what a job leaves behind has between SIGTERM and SIGKILL."""

TERM_AT = 0.8
"""Share of the grace after which a job that reports steps, and so is asked by the file, gets SIGTERM as well."""

GONE_S = 30.0
"""Seconds after SIGKILL at which a process that does not go (a GPU that hangs) is given up."""

_AGAIN_S = 0.1


class Stopping:
    """When which signal is due; times are of the monotonic clock.

    Args:
        folder: open descriptor of the attempt's folder.
        grace_s: seconds from asking to killing, where the one who asks does not say.
    """

    def __init__(self, folder: int, grace_s: float) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._asked: float | None = None
        self._deadline: float | None = None
        self._main_ended = False
        self._termed = False
        self._limit: float | None = None
        self.timed_out = False
        self.left = 0
        self.killed = False

    @property
    def asked(self) -> bool:
        """Whether the job was asked to end before it did."""
        return self._asked is not None

    def limit(self, seconds: float | None) -> None:
        """Have the job asked to end when it has run for so long."""
        self._limit = None if seconds is None else time.monotonic() + seconds

    def look(self, *, told: bool = False) -> None:
        """See whether the job is to end, and by when; `told` by a signal to the watcher."""
        grace_s = self._read()
        if grace_s is None and told and self._asked is None:
            grace_s = self._grace_s
            self._create()
        if grace_s is None or (self._main_ended and self._asked is None):
            return
        self._ask(grace_s)

    def _ask(self, grace_s: float) -> None:
        self._asked = time.monotonic() if self._asked is None else self._asked
        # Asked again with less grace, it has less.
        self._deadline = min(self._asked + grace_s, self._deadline or float("inf"))

    def _mind_limit(self) -> None:
        """End a job that has run for as long as it may, unless it is being ended for something else."""
        if self._limit is None or time.monotonic() < self._limit:
            return
        self._limit = None
        if self._asked is None and not self._main_ended:
            self.timed_out = True
            self._create()
            self._ask(self._grace_s)

    def main_ended(self, left: int) -> None:
        """Take in that the main process has ended and left others; what is left of a grace stays theirs."""
        self._main_ended = True
        if self._asked is None and left:
            self.left = left
            self._deadline = time.monotonic() + LEFT_S

    def kill_now(self) -> None:
        """Have everything killed."""
        self._deadline = time.monotonic()

    def act(self, below: Callable[[], list[int]], *, reports: bool) -> None:
        """Send what is due to all processes of the job.

        Args:
            below: finds them.
            reports: the job reports steps, and so learns that it is to end without SIGTERM.
        """
        self._mind_limit()
        if self._deadline is None:
            return
        now = time.monotonic()
        if now >= self._deadline:
            self.killed = True
            self._send(below(), signal.SIGKILL)
        elif not self._termed and now >= self._term_at(reports=reports):
            self._termed = True
            self._send(below(), signal.SIGTERM)

    def next_look(self, due: float) -> float:
        """Return when to act next, at the latest."""
        if self._deadline is None:
            return due if self._limit is None else min(due, self._limit)
        now = time.monotonic()
        return min(due, self._deadline if now < self._deadline else now + _AGAIN_S)

    def given_up(self) -> bool:
        """Say whether processes were killed long ago and are still there."""
        return self._deadline is not None and time.monotonic() > self._deadline + GONE_S

    def _term_at(self, *, reports: bool) -> float:
        if self._asked is None or self._deadline is None or self._main_ended or not reports:
            return 0.0
        return self._asked + TERM_AT * (self._deadline - self._asked)

    def _send(self, pids: list[int], which: signal.Signals) -> None:
        for pid in pids:
            processes.signal(pid, which)
            if which is signal.SIGTERM:
                processes.signal(pid, signal.SIGCONT)  # a stopped process would never see it

    def _read(self) -> float | None:
        try:
            return float(documents.contents(self._folder, CHECKPOINT))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return self._grace_s

    def _create(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            handle = os.open(CHECKPOINT, flags, 0o644, dir_fd=self._folder)
        except OSError:
            return  # SIGTERM asks as well
        try:
            os.write(handle, str(self._grace_s).encode())
        except OSError:
            pass  # a full disk: an empty file asks, too
        finally:
            os.close(handle)
