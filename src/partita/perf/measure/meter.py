"""What is read of a device while a cell is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Reading:
    """What the device told of the window; None is what it did not tell.

    Attributes:
        memory_mb: of the measured processes at their peak, in MB of 1e6 bytes.
        memory_source: how that was read, in words.
        utilization: share of the time in which a kernel ran, 0 to 1.
    """

    memory_mb: float | None = None
    memory_source: str = ""
    utilization: float | None = None
    power_w: float | None = None


class Meter(Protocol):
    """Reads a device from the begin of a window to its end."""

    def prepare(self) -> None:
        """Note what is in use before the processes start."""
        ...

    def begin(self, pids: Sequence[int]) -> None:
        """Note where the counters stand."""
        ...

    def sample(self) -> None:
        """Look at what has no counter; called several times a second."""
        ...

    def end(self) -> Reading:
        """Return what was read since `begin`."""
        ...


class NoMeter:
    """For a CPU: its processes tell their memory themselves, and nothing tells the power."""

    def prepare(self) -> None:
        """Do nothing."""

    def begin(self, pids: Sequence[int]) -> None:
        """Do nothing."""

    def sample(self) -> None:
        """Do nothing."""

    def end(self) -> Reading:
        """Return that nothing was read."""
        return Reading()
