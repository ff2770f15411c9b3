"""Time: the wall clock and a simulated one behind one interface, and what happens when on either."""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(Protocol):
    """Tells the time in seconds, and lets it pass. Never goes back."""

    def now(self) -> float:
        """Return the time in seconds: since 1970 on the wall clock, since the start of a simulation else."""
        ...

    def sleep_until(self, moment: float) -> None:
        """Return when it is `moment`; at once if it was before."""
        ...

    def catch_up(self, moment: float) -> None:
        """Make it `moment` if it is earlier, without waiting: another process has already seen that time."""
        ...


class SimulatedClock:
    """Time that passes only where something waits for it.

    Args:
        start: the time it is now, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the simulated time in seconds."""
        return self._now

    def sleep_until(self, moment: float) -> None:
        """Make it `moment`, unless it was before."""
        self._now = max(self._now, moment)

    def catch_up(self, moment: float) -> None:
        """Make it `moment` if it is earlier."""
        self._now = max(self._now, moment)


class WallClock:
    """Real time. Setting the system's clock does not disturb it: it is read once, then counted on."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the seconds since 1970."""
        return time.monotonic() + self._offset

    def sleep_until(self, moment: float) -> None:
        """Sleep until it is `moment`."""
        while (left := moment - self.now()) > 0:
            time.sleep(left)

    def catch_up(self, moment: float) -> None:
        """Make it `moment` if it is earlier: the system's clock was set back meanwhile."""
        self._offset = max(self._offset, moment - time.monotonic())


Action = tuple[float, int, int, "Callable[[], object]"]


class Kernel:
    """Calls actions when their time has come: one after the other, earliest first.

    Of actions at the same time the one of lower rank is first, then the one that was scheduled first. On a
    `SimulatedClock` time jumps from action to action; on a `WallClock` the kernel waits.

    Args:
        clock: tells the time and lets it pass.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._waiting: list[Action] = []
        self._scheduled = 0

    def at(self, moment: float, action: Callable[[], object], rank: int = 0) -> None:
        """Call `action` when it is `moment`, in the clock's seconds; if it was before, as soon as possible."""
        heapq.heappush(self._waiting, (moment, rank, self._scheduled, action))
        self._scheduled += 1

    def after(self, seconds: float, action: Callable[[], object], rank: int = 0) -> None:
        """Call `action` so many seconds from now."""
        self.at(self.clock.now() + seconds, action, rank)

    def run(self, until: float = float("inf")) -> None:
        """Call what is scheduled, and what that schedules, up to and including the moment `until`."""
        while self._waiting and self._waiting[0][0] <= until:
            moment, _, _, action = heapq.heappop(self._waiting)
            self.clock.sleep_until(moment)
            action()
        if until < float("inf"):
            self.clock.sleep_until(until)
