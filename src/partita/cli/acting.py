"""What every command that acts on a cluster shares: its controller, progress on stderr, and an orderly stop."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.cli.options import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.status import Status

    from partita.cli.workplace import Workplace
    from partita.control.carry_out import Reporter
    from partita.control.cluster_view import ClusterView
    from partita.control.controller import Controller
    from partita.control.sharing import SharedDriver
    from partita.drive.driver import ActionResult
    from partita.transition.transition import Action, Transitioner


class Stop:
    """Whether someone has asked the command to stop; calling it tells."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        """Say whether it was asked."""
        return self._asked.is_set()

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; a second one ends the command at once."""
        if self():
            signal.default_int_handler(number, frame)
        self._asked.set()
        sys.stderr.write("\nstopping: waiting for what is under way; once more to leave at once\n")

    def wait(self, seconds: float) -> None:
        """Wait so long, or until asked."""
        self._asked.wait(seconds)


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Have SIGINT and SIGTERM ask for a stop while the block runs."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_controller(
    place: Workplace,
    transitioner: Transitioner,
    reporter: Reporter,
    stop: Callable[[], bool],
    shared: SharedDriver | None = None,
) -> Controller:
    """Return the controller of a command, which sees the cluster through `shared` if others use it, too."""
    import random  # noqa: PLC0415 -- only commands that act need these

    from partita.control.carry_out import Hands  # noqa: PLC0415
    from partita.control.controller import Controller  # noqa: PLC0415
    from partita.control.retry import Backoff  # noqa: PLC0415
    from partita.transition.transition import MEASURED  # noqa: PLC0415

    hands = Hands(place.driver, place.journal, reporter, Backoff(), random.Random(0), stop)
    if shared is not None:
        hands = replace(hands, driver=shared, ahead=shared.expect)
    return Controller(hands, transitioner, MEASURED, this_command())


def this_command() -> str:
    """Return the command line that runs, as it would be typed."""
    return shlex.join(["partita", *sys.argv[1:]])


class Lines:
    """Progress on stderr: on a terminal one line that changes, else a line for each action."""

    def __init__(self, status: Status | None = None) -> None:
        self._console = stderr()
        self._status = status
        self._under_way = 0
        self._done, self._total = 0, 0
        self._since = time.monotonic()

    def began(self, action: Action) -> None:
        """Count an action."""
        del action
        self._under_way += 1
        self._show()

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Tell how an action ended."""
        self._under_way -= 1
        self._done, self._total = done, total
        text = f"{done}/{total}  {told(ended.action)}"
        if ended.error is not None:
            self._print(f"{text}: {ended.error.what}")
        elif self._status is None:
            self._print(text)
        self._show()

    def note(self, text: str) -> None:
        """Tell something."""
        self._print(f"note: {text}")

    def observed(self, view: ClusterView) -> None:
        """Show nothing of the cluster itself."""

    def _show(self) -> None:
        if self._status is not None:
            self._status.update(f"{self._done}/{self._total} done, {self._under_way} under way{self._left()}")

    def _left(self) -> str:
        """Say how long the rest takes if it goes on as it went."""
        if not 0 < self._done < self._total:
            return ""
        return (
            f", about {(time.monotonic() - self._since) / self._done * (self._total - self._done):.0f} s left"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


@contextmanager
def lines() -> Iterator[Lines]:
    """Yield a reporter for a terminal or a log."""
    console = stderr()
    if not console.is_terminal:
        yield Lines()
        return
    with console.status("looking") as status:
        yield Lines(status)


def told(action: Action) -> str:
    """Return an action in words."""
    service = f"{action.replica.service} on " if action.replica else ""
    return f"{action.kind.value.replace('_', ' ')}  {service}{action.gpu} {action.placement}"
