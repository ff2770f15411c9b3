"""Following the schedule of a planned series: its plans at their times, and a plan anew for rates above it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from partita.control.reconciler import LEAST_RATE, Demand
from partita.series.document import SCHEDULE
from partita.series.schedule import read_schedule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.control.reconciler import CurrentWorkload, Rates, Source
    from partita.planning.plan import Plan
    from partita.series.schedule import PlanSchedule, ScheduledPlan
    from partita.transition.deployment import Deployment


@dataclass(frozen=True, slots=True)
class ScheduledWorkload:
    """A workload whose plan is that of a schedule as long as no rate is above it (a `CurrentWorkload`).

    Services with a cut are asked for queries of the sizes that the workload says.

    Attributes:
        document: fingerprint of the workload, the schedule and the plan that is to run.
        base: the workload itself.
        schedule: all plans.
        now: the one that is to run.
    """

    document: str
    base: CurrentWorkload
    schedule: PlanSchedule
    now: ScheduledPlan

    @property
    def planned(self) -> dict[str, float]:
        """Items/s that the plan is for; services that are off have none."""
        return {service.name: service.rate for service in self.now.plan.services}

    @property
    def demand(self) -> Demand:
        """What is to be planned for: 0 for services that are off, the written rate of those that no plan has."""
        known = {service.name for each in self.schedule.plans for service in each.plan.services}
        planned, written = self.planned, self.base.demand
        rates = {
            name: planned.get(name, 0.0 if name in known else rate) for name, rate in written.rates.items()
        }
        return Demand(rates, written.batches)

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of instances that must not share a GPU."""
        return self.base.forbid

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the schedule's plan, or one for rates above it; arguments as in `CurrentWorkload`.

        Raises:
            InfeasibleError: there is no plan at all.
        """
        planned = self.planned
        if all(rate <= max(planned.get(name, 0.0), LEAST_RATE) for name, rate in demand.rates.items()):
            return self.now.plan
        return self.base.plan(demand, gpus, current)


class FollowedSchedule:
    """The plans of a schedule at their times, and a workload for what it leaves open (a `Source`).

    Args:
        source: gives the workload.
        folder: of the schedule, which is read again when it changes.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self._known: tuple[bytes, PlanSchedule] | None = None

    def read(self) -> ScheduledWorkload:
        """Return the workload with the plan that is to run now.

        Raises:
            InputError: the workload or the schedule cannot be read.
            InfeasibleError: a service can run nowhere.
        """
        base = self._source.read()
        path = self._folder / SCHEDULE
        text = path.read_bytes() if path.is_file() else b""
        if self._known is None or self._known[0] != text:
            self._known = text, read_schedule(self._folder)
        schedule = self._known[1]
        now = schedule.at(datetime.now(tz=UTC))
        document = f"{base.document} {hashlib.sha256(text).hexdigest()} {now.file}"
        return ScheduledWorkload(document, base, schedule, now)


class RatesAbove:
    """Measured rates as far as they are above the schedule (a `Rates`).

    Args:
        measured: all measured rates.
        followed: the schedule.
        dead_band: fraction of the schedule's rate that is no reason for a plan.
    """

    def __init__(self, measured: Rates, followed: FollowedSchedule, dead_band: float) -> None:
        self._measured = measured
        self._followed = followed
        self._dead_band = dead_band

    def measured(self) -> Demand:
        """Return the rates of services that are above the schedule.

        Raises:
            InputError: the measurements or the schedule cannot be read.
        """
        planned = self._followed.read().planned
        rates = self._measured.measured().rates
        return Demand(
            {
                name: rate
                for name, rate in rates.items()
                if rate > max(planned.get(name, 0.0), LEAST_RATE) * (1 + self._dead_band)
            }
        )
