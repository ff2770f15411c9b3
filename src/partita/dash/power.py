"""How many watts GPUs draw: by the model of a simulated GPU, or by the energy counters of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from partita.drive.simulated.cluster import watts
from partita.errors import PartitaError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from partita.drive.driver import EnergyMeter, ObservedGpu

_EVERY_S = 5.0


class PowerMeter(Protocol):
    """Says how many watts GPUs draw."""

    def read(
        self, now: float, changed: Iterable[ObservedGpu], jobs: Collection[tuple[str, int]]
    ) -> Mapping[str, float | None]:
        """Return the watts of GPUs for which there is news, by id; None where they cannot be read.

        Args:
            now: seconds on a clock that runs.
            changed: GPUs that changed since the last call.
            jobs: instances (GPU's id and start) on which a job runs.
        """
        ...


class SimulatedPower:
    """The power model of simulated GPUs, whose counters only a daemon writes."""

    def read(
        self, now: float, changed: Iterable[ObservedGpu], jobs: Collection[tuple[str, int]]
    ) -> Mapping[str, float | None]:
        """Return the watts of GPUs that changed."""
        del now
        return {gpu.id: None if gpu.lost else watts(gpu, jobs) for gpu in changed}


class CounterPower:
    """The mean between two readings of energy counters.

    Args:
        meter: reads them.
    """

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self._last: dict[str, tuple[float, float]] = {}
        self._next = 0.0

    def read(
        self, now: float, changed: Iterable[ObservedGpu], jobs: Collection[tuple[str, int]]
    ) -> Mapping[str, float | None]:
        """Return the watts of all GPUs every few seconds, and nothing between."""
        del changed
        if now < self._next:
            return {}
        self._next = now + _EVERY_S
        found: dict[str, float | None] = {}
        try:
            readings = self._meter.energy(jobs)
        except PartitaError:
            return dict.fromkeys(self._last)
        for each in readings:
            before = self._last.pop(each.gpu, None)
            if each.joules is None:
                found[each.gpu] = None
                continue
            self._last[each.gpu] = now, each.joules
            if before is not None and each.joules >= before[1]:
                found[each.gpu] = (each.joules - before[1]) / (now - before[0])
        return found
