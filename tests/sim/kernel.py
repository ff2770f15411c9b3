"""An event kernel, what happens when on any clock: tests' plain reference of a simulation runs on it."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.sim.clock import Clock

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
