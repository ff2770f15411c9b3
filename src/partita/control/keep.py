"""Keeps a cluster to a workload: looks again and again, plans anew where needed, and acts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.control.controller import standing_rates
from partita.control.demand import Demand
from partita.control.goal import goal_for
from partita.control.journal import JournalError
from partita.control.observed import deployed
from partita.control.replanning import Planned, judge, wanted
from partita.control.snapshot import snapshot
from partita.control.stops import StopRequestedError
from partita.errors import InfeasibleError, InputError, PartitaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.control.controller import Controller, Reached
    from partita.control.rates import Rates
    from partita.control.replanning import Holding
    from partita.control.source import Source, Workbook
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Way:
    """How goals are reached: the transition's algorithm and its extra GPUs, None for any number."""

    algorithm: str
    extra_gpus: int | None


class Keeper:
    """The loop's body. It keeps the last good workload and rates where the newest cannot be read.

    Args:
        controller: acts.
        source: the workload.
        rates: what is measured.
        holding: how calm planning is.
        way: how goals are reached.
    """

    def __init__(
        self, controller: Controller, source: Source, rates: Rates, holding: Holding, way: Way
    ) -> None:
        self._controller = controller
        self._source = source
        self._measured = rates
        self._holding = holding
        self._way = way
        self._workbook: Workbook | None = None
        self._demand = Demand({})
        self._planned: Planned | None = None
        self._plan: Plan | None = None
        self._settled: str | None = None  # state of the cluster in which nothing is left to do
        self._there: Mapping[str, int] = {}  # GPUs that the plan was made for
        self._not_before = float("-inf")
        self._failures = 0
        self._told = ""

    def look(self, now: float) -> Reached | None:
        """Take a step; what fails is told, and tried again after a while, longer each time.

        Args:
            now: seconds on a clock of the caller's, for holding.

        Raises:
            InputError: the workload cannot be read and never could.
            StopRequestedError: asked to stop on the way.
            JournalError: the journal cannot be used any more.
        """
        if now < self._not_before:
            return None
        try:
            found = self.step(now)
        except (StopRequestedError, JournalError):
            raise
        except PartitaError as error:
            if self._workbook is None:
                raise
            self._failures += 1
            wait = self._controller.hands.backoff.delay(self._failures, self._controller.hands.rng)
            self._not_before = now + wait
            self._tell(f"{error}; looking again in {wait:.0f} s")
            return None
        self._failures = 0
        return found

    def step(self, now: float) -> Reached | None:
        """Look once, and act if there is something to do.

        Args:
            now: seconds on a clock of the caller's, for holding.

        Raises:
            InputError: the workload cannot be read and never could.
            InfeasibleError: there is no plan, or no way to it.
            StoppedError: an action failed for ever, or the cluster does not stop changing.
            StopRequestedError: asked to stop on the way.
        """
        self._read()
        self._replan(now)
        return self._act()

    def _read(self) -> None:
        try:
            workbook, demand = self._source.read(), self._measured.measured()
        except (InputError, InfeasibleError) as error:
            if self._workbook is None:
                raise
            self._tell(f"{error}; going on with what was read before")
            return
        self._workbook, self._demand = workbook, demand

    def _replan(self, now: float) -> None:
        workbook = self._workbook
        if workbook is None:
            raise AssertionError("nothing was read")
        current = deployed(self._controller.hands.driver.observe())
        there = free_gpus(current)
        demand = wanted(workbook.demand, self._demand)
        verdict = judge(self._planned, workbook.document, demand, now, self._holding)
        why = self._outgrown(there) or (verdict.why if verdict.now else None)
        if why is None:
            return
        self._tell(f"planning: {why}")
        self._plan = workbook.plan(demand, there, current)
        self._planned = Planned(now, workbook.document, demand)
        self._there = there
        self._settled = None

    def _outgrown(self, there: Mapping[str, int]) -> str | None:
        """Say why the plan is not for the GPUs there are, None if it is: this waits for no holding time."""
        if self._plan is None:
            return None
        if not _fits(self._plan, there):
            return "GPUs of the plan are gone"
        return (
            "there are other GPUs now, and the plan fell short"
            if _short(self._plan) and there != self._there
            else None
        )

    def _act(self) -> Reached | None:
        controller, plan, workbook = self._controller, self._plan, self._workbook
        observation = controller.hands.driver.observe()
        if plan is None or workbook is None or snapshot(observation).fingerprint == self._settled:
            return None
        journal = controller.hands.journal
        goal = goal_for(
            plan,
            standing_rates(journal.promised(), deployed(observation)),
            journal.unfinished(),
            algorithm=self._way.algorithm,
            extra_gpus=self._way.extra_gpus,
            forbid=workbook.forbid,
        )
        controller.wake(observation)
        reached = controller.reach(goal)
        self._settled = snapshot(controller.hands.driver.observe()).fingerprint
        return reached

    def _tell(self, text: str) -> None:
        """Tell something once, however often it comes."""
        if text != self._told:
            self._controller.hands.reporter.note(text)
        self._told = text


def free_gpus(current: Deployment) -> dict[str, int]:
    """Return how many GPUs of each model hold nothing that must stay."""
    return dict(Counter(gpu.model for gpu in current.gpus if not any(each.fixed for each in gpu.instances)))


def _fits(plan: Plan, there: Mapping[str, int]) -> bool:
    needed = Counter(gpu.model for gpu in plan.gpus)
    return all(n <= there.get(model, 0) for model, n in needed.items())


def _short(plan: Plan) -> bool:
    return any(service.capacity < service.rate * (1 - 1e-6) for service in plan.services)
