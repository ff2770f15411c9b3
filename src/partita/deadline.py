"""A search's time limit, stop request and progress report in one value, and how to wait for what heeds none."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """Progress of a search.

    Attributes:
        best: value so far; None if unknown.
        bound: proven lower bound; None if unknown.
        seconds: elapsed.
        doing: what is done before the search, in words; empty once it searches.
    """

    best: float | None
    bound: float | None
    seconds: float
    doing: str = ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """Tells a search when to stop, and takes its progress.

    Attributes:
        time_limit: wall-clock seconds from `started`.
        stop: returns True once the user wants the best result so far.
        report: called with progress; must be cheap and must not raise.
        started: monotonic time of its creation.
    """

    time_limit: float = float("inf")
    stop: Callable[[], bool] = lambda: False
    report: Callable[[SearchProgress], None] = lambda _: None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds left; at least 0."""
        return max(0.0, self.time_limit - self.seconds)

    @property
    def over(self) -> bool:
        """Whether the search should return what it has."""
        return self.stop() or self.left <= 0.0

    def anew(self) -> Deadline:
        """Return a deadline with the same time limit, from now on."""
        return Deadline(self.time_limit, self.stop, self.report)

    def at_most(self, seconds: float) -> Deadline:
        """Return a deadline after `seconds`, or after the time that is left if that is less."""
        return Deadline(min(self.left, seconds), self.stop, self.report)

    def share(self, part: float) -> Deadline:
        """Return a deadline after a fraction of the time that is left."""
        return Deadline(self.left * part, self.stop, self.report)

    def tell(self, best: float | None, bound: float | None, doing: str = "") -> None:
        """Report progress."""
        self.report(SearchProgress(best, bound, self.seconds, doing))


_THREAD = "partita-beside"
_LOOK_S = 0.02


def run_beside(work: Callable[[], object], deadline: Deadline) -> bool:
    """Run what heeds no deadline, as a compiler, in a thread of its own, and wait for it as long as there is time.

    Args:
        work: is called once. Where the time is over first, it goes on, and its result and errors are lost.
        deadline: how long to wait.

    Returns:
        Whether it has ended.

    Raises:
        Exception: what `work` raised.
    """
    ended, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised where it was asked for
            failed.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name=_THREAD).start()
    while not ended.wait(_LOOK_S):
        if deadline.over:
            return False
    if failed:
        raise failed[0]
    return True


def runs_beside() -> bool:
    """Return whether anything that `run_beside` started still goes on: the process would wait for it at its end."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
