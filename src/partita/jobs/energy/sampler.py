"""Reads the counters again and again, and writes down who took what between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.jobs.energy.attribution import NOBODY, Interval, Kind, Owner, Stay, attribute, during
from partita.jobs.energy.records import Counter, Energy, Entry
from partita.mig.catalogue import gpu_model
from partita.mig.gpu import LIMIT_W

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.drive.driver import EnergyMeter, EnergyReading, Observation
    from partita.jobs.energy.ledger import EnergyLedger
    from partita.mig.layout import Placement

EVERY_S = 10.0
MOST_IDLE = 0.12
"""Share of its power limit that a GPU is taken to draw idle until it draws less; MISO has 9 % on an A100."""

_LEAST_S = 2.0
"""Counters are updated ten times a second or less often: shorter times tell no power."""


class EnergySampler:
    """Samples a meter into a ledger; goes on where the last one stopped.

    Args:
        meter: reads the counters.
        ledger: keeps what follows.
        every_s: seconds between two samples.

    Attributes:
        models: of the GPUs that were read, the catalogue's names by id.
    """

    def __init__(self, meter: EnergyMeter, ledger: EnergyLedger, *, every_s: float = EVERY_S) -> None:
        self._meter = meter
        self._ledger = ledger
        self._every_s = every_s
        self._counters = ledger.counters()
        self._due = -math.inf
        self.models: dict[str, str] = {}

    @property
    def sampled(self) -> float | None:
        """When the counters were last read; stays that ended later are asked for. None before the first time."""
        return min((each.at for each in self._counters.values()), default=None)

    def step(self, now: float, stays: Sequence[Stay]) -> float:
        """Sample if it is time to; return when it is next.

        Args:
            now: seconds, of the clock that stays are told by.
            stays: of all who were on an instance since `sampled`.

        Raises:
            PartitaError: no GPU answers, or the ledger cannot be written to.
        """
        # A clock that was set back must not keep us waiting.
        if now >= self._due or now < self._due - 2.0 * self._every_s:
            self.sample(now, stays)
            self._due = now + self._every_s
        return self._due

    def sample(self, now: float, stays: Sequence[Stay]) -> None:
        """Read the counters, and write down who took what since they were last read.

        Args:
            now: as in `step`.
            stays: likewise.

        Raises:
            PartitaError: no GPU answers, or the ledger cannot be written to.
        """
        readings = self._meter.energy({(each.gpu, each.start) for each in stays if each.ended > now})
        entries: list[Entry] = []
        counters = {}
        for reading in readings:
            here = [stay for stay in stays if stay.gpu == reading.gpu]
            last = self._counters.get(reading.gpu)
            counter = _counter(reading, last, now)
            counters[reading.gpu] = counter
            entries += _entries(last, counter, here)
        self._ledger.add(now, counters.values(), entries)
        self._counters.update(counters)
        self.models = {each.gpu: each.model for each in readings}


def stay_of(
    owner: Owner,
    gpu: str,
    model: str,
    placement: Placement | None,
    *,
    began: float = -math.inf,
    ended: float = math.inf,
) -> Stay:
    """Return a stay on an instance, or on a whole GPU without MIG (no placement).

    Raises:
        InputError: the catalogue has no such GPU or profile.
    """
    if placement is None:
        return Stay(owner, gpu, 1.0, 1.0, began, ended)
    of = gpu_model(model)
    profile = of.profile(placement.profile)
    compute, memory = profile.compute / of.compute_slices, profile.memory / of.memory_slices
    return Stay(owner, gpu, compute, memory, began, ended, start=placement.start)


def services_of(observation: Observation) -> tuple[Stay, ...]:
    """Return the stays of the replicas of services that are there now."""
    return tuple(
        stay_of(Owner(Kind.SERVICE, each.replica.replica.service), gpu.id, gpu.model, each.placement)
        for gpu in observation.gpus
        for each in gpu.instances
        if each.replica is not None
    )


def _counter(reading: EnergyReading, last: Counter | None, now: float) -> Counter:
    idle = reading.idle_w
    if idle is None:
        most = MOST_IDLE * (gpu_model(reading.model).power_limit_w or LIMIT_W)
        known = most if last is None or last.idle_w is None else last.idle_w
        idle = min(known, _watts(last, reading, now))
    return Counter(reading.gpu, reading.uuid, now, reading.joules, reading.why, idle)


def _watts(last: Counter | None, reading: EnergyReading, now: float) -> float:
    if last is None or last.joules is None or reading.joules is None or now - last.at < _LEAST_S:
        return math.inf
    took = reading.joules - last.joules
    return took / (now - last.at) if took > 0.0 else math.inf


def _entries(last: Counter | None, now: Counter, stays: Sequence[Stay]) -> Iterator[Entry]:
    """Yield who took what between two readings of a GPU; nothing where no time passed or it is another GPU."""
    if last is None or last.uuid != now.uuid or now.at <= last.at:
        return
    # A counter that fell began anew with the driver.
    if last.joules is None or now.joules is None or now.joules < last.joules:
        seconds = {NOBODY: now.at - last.at}
        for stay in stays:
            seconds[stay.owner] = seconds.get(stay.owner, 0.0) + during(stay, last.at, now.at)
        for owner, missing in seconds.items():
            if missing > 0.0:
                yield Entry(now.gpu, owner, Energy(missing_s=missing))
        return
    interval = Interval(last.at, now.at, now.joules - last.joules, now.idle_w or 0.0)
    for part in attribute(interval, stays):
        yield Entry(now.gpu, part.owner, Energy(part.idle_j, part.active_j, part.seconds))
