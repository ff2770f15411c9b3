"""Clocks: the wall clock and a simulated one, behind one interface."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time in seconds, and lets it pass. Never goes back."""

    def now(self) -> float:
        """Return the time in seconds: since 1970 on the wall clock, since the start of a simulation else."""
        ...

    def sleep_until(self, moment: float) -> None:
        """Return when it is `moment`; at once if that is past."""
        ...

    def catch_up(self, moment: float) -> None:
        """Advance to `moment` without waiting if it is earlier: another process has already seen that time."""
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
        """Advance to `moment`, unless that is past."""
        self._now = max(self._now, moment)

    def catch_up(self, moment: float) -> None:
        """Advance to `moment` if it is earlier."""
        self._now = max(self._now, moment)


class WallClock:
    """Real time. It reads the system's clock once, then counts on, so that setting that clock does not disturb it."""

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
        """Advance to `moment` if it is earlier: the system's clock was set back meanwhile."""
        self._offset = max(self._offset, moment - time.monotonic())
