"""The schedule of a planned series as it is followed: which of its plans is to run at a time.

Times of a day (07:30) come again every day, in local time. With dates, the first plan holds until its successor, and
the last from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from partita.documents.text import read
from partita.errors import InputError
from partita.planning.document import read_plan
from partita.series.document import SCHEDULE, SERIES

if TYPE_CHECKING:
    from partita.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class ScheduledPlan:
    """A plan and when the change to it begins: a date and time, or the seconds of a day."""

    begin: datetime | float
    file: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class PlanSchedule:
    """The plans of a series in order, at least one."""

    plans: tuple[ScheduledPlan, ...]

    def at(self, now: datetime) -> ScheduledPlan:
        """Return the plan that is to run.

        Args:
            now: the time, with its time zone.
        """
        begun = [each for each in self.plans if _begun(each.begin, now)]
        if begun:
            return begun[-1]
        daily = not isinstance(self.plans[0].begin, datetime)
        return self.plans[-1 if daily else 0]

    @property
    def largest(self) -> Plan:
        """The plan with the most GPUs."""
        return max((each.plan for each in self.plans), key=lambda plan: len(plan.gpus))


def _begun(begin: datetime | float, now: datetime) -> bool:
    if isinstance(begin, datetime):
        return begin.astimezone() <= now
    local = now.astimezone()
    return begin <= local.hour * 3600 + local.minute * 60 + local.second


def read_schedule(folder: Path) -> PlanSchedule:
    """Read the schedule in a folder, and its plans.

    Raises:
        InputError: there is none, or it or a plan cannot be used.
    """
    path = folder / SCHEDULE
    if not path.is_file():
        raise InputError(
            "there is no schedule of plans",
            where=str(path),
            hint=f"`partita plan -f WORKLOAD --series RATES --out {folder}` makes one",
        )
    document = read(path, SERIES)
    plans: list[ScheduledPlan] = []
    for index, entry in enumerate(document.plans):
        if Path(entry.file).name != entry.file:
            raise InputError("a plan stands beside its schedule", where=f"{path}: plans[{index}].file")
        begin = _time(entry.begin)
        if begin is None or (plans and type(begin) is not type(plans[0].begin)):
            raise InputError(f"{entry.begin!r} is not a time", where=f"{path}: plans[{index}].begin")
        plans.append(ScheduledPlan(begin, entry.file, read_plan(folder / entry.file)))
    if not plans:
        raise InputError("the schedule has no plans", where=str(path))
    return PlanSchedule(tuple(plans))


def _time(text: str) -> datetime | float | None:
    clock = text.split(":")
    if all(part.isdecimal() for part in clock) and len(clock) in (2, 3):
        hours, minutes, seconds = (*map(int, clock), *(0,) * (3 - len(clock)))
        return hours * 3600.0 + minutes * 60 + seconds
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
