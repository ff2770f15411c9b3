"""An optional side of a driver: the energy counters of its GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Reading:
    """A GPU's energy counter at one moment.

    Attributes:
        gpu: the GPU's id.
        uuid: of the GPU.
        model: the catalogue's name.
        joules: since some moment that only a new start of the driver changes; None if it cannot be read.
        why: why it cannot.
        idle_w: watts it draws without work, where that is known.
    """

    gpu: str
    uuid: str
    model: str
    joules: float | None
    why: str | None = None
    idle_w: float | None = None


class EnergyMeter(Protocol):
    """Reads the energy counters of a cluster's GPUs."""

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[Reading, ...]:
        """Return the counters as they are now; a counter that cannot be read is told as such.

        Args:
            busy: instances (GPU's id and start) on which a job runs, which a simulated counter cannot see itself.

        Raises:
            DriveError: no GPU answers at all.
        """
        ...
