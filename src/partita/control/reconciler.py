"""Keeps a cluster to a workload: when to plan again, for which rates, and how to reach the plan."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from msgspec import field

from partita.control.cluster_view import deployed, snapshot
from partita.control.controller import StopRequestedError, standing_rates
from partita.control.goal import goal_for
from partita.control.journal import JournalError
from partita.documents.codec import Amount, Meta, Value
from partita.documents.text import parse_json
from partita.errors import InfeasibleError, InputError, PartitaError
from partita.files import read_text
from partita.planning.plan import falls_short
from partita.workload import LARGEST_BATCH

if TYPE_CHECKING:
    from pathlib import Path

    from partita.control.controller import Controller, Reached
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """What keeps planning from following every small change.

    Attributes:
        dead_band: fraction by which a rate may differ from the planned one without a new plan.
        hold_s: least seconds between two plans.
        batch_shift: share of a service's queries that may change size (total variation) without a new plan.
    """

    dead_band: float = 0.1
    hold_s: float = 300.0
    batch_shift: float = 0.15


@dataclass(frozen=True, slots=True)
class TransitionOptions:
    """How goals are reached: the transition's algorithm and its extra GPUs, None for any number."""

    algorithm: str
    extra_gpus: int | None


class Reconciler:
    """The loop's body. It keeps the last valid workload and rates where the newest cannot be read.

    Args:
        controller: brings the cluster to a plan.
        source: gives the workload.
        rates: gives the measured demand.
        hysteresis: how far demand may change without a new plan.
        options: how goals are reached.
        plans: keeps plans beyond this process; None keeps none.
    """

    def __init__(
        self,
        controller: Controller,
        source: Source,
        rates: Rates,
        hysteresis: Hysteresis,
        options: TransitionOptions,
        *,
        plans: KeptPlans | None = None,
    ) -> None:
        self._controller = controller
        self._source = source
        self._measured = rates
        self._hysteresis = hysteresis
        self._options = options
        self._workload: CurrentWorkload | None = None
        self._demand = Demand({})
        self._plans = plans
        kept = None if plans is None else plans.last()
        self._planned: Planned | None = None if kept is None else kept[1]
        self._plan: Plan | None = None if kept is None else kept[0]
        self._settled: str | None = None  # state of the cluster in which nothing is left to do
        self._there: Mapping[str, int] = {}  # the GPUs there were when the plan was made
        self._not_before = float("-inf")
        self._failures = 0
        self._told = ""

    def look(self, now: float) -> Reached | None:
        """Take a step; a failure is reported, and the step tried again after a while, longer each time.

        Args:
            now: seconds on any clock, for hold times.

        Raises:
            InputError: the workload cannot be read and never could.
            StopRequestedError: asked to stop before the goal was reached.
            JournalError: the journal cannot be used any more.
        """
        if now < self._not_before:
            return None
        try:
            found = self.step(now)
        except (StopRequestedError, JournalError):
            raise
        except PartitaError as error:
            if self._workload is None:
                raise
            self._failures += 1
            wait = self._controller.executor.backoff.delay(self._failures, self._controller.executor.rng)
            self._not_before = now + wait
            self._tell(f"{error}; looking again in {wait:.0f} s")
            return None
        self._failures = 0
        return found

    def step(self, now: float) -> Reached | None:
        """Observe once, and act if there is something to do.

        Args:
            now: seconds on any clock, for hold times.

        Raises:
            InputError: the workload cannot be read and never could.
            InfeasibleError: there is no plan, or no transition to it.
            StoppedError: an action failed for good, or the cluster does not stop changing.
            StopRequestedError: asked to stop before the goal was reached.
        """
        self._read()
        self._replan(now)
        return self._act()

    def _read(self) -> None:
        try:
            workload, demand = self._source.read(), self._measured.measured()
        except (InputError, InfeasibleError) as error:
            if self._workload is None:
                raise
            self._tell(f"{error}; going on with what was read before")
            return
        self._workload, self._demand = workload, demand

    def _replan(self, now: float) -> None:
        workload = self._workload
        if workload is None:
            raise AssertionError("nothing was read")
        current = deployed(self._controller.executor.driver.observe())
        there = free_gpus(current)
        demand = wanted(workload.demand, self._demand)
        verdict = judge(self._planned, workload.document, demand, now, self._hysteresis)
        why = self._outgrown(there) or (verdict.why if verdict.now else None)
        if why is None:
            return
        self._tell(f"planning: {why}")
        plan, planned = workload.plan(demand, there, current), Planned(now, workload.document, demand)
        if self._plans is not None:
            self._plans.keep(plan, planned, why)
        # Only now: a plan that could not be kept must not be executed at the next look, but be made again.
        self._plan, self._planned, self._there, self._settled = plan, planned, there, None

    def _outgrown(self, there: Mapping[str, int]) -> str | None:
        """Return why the plan does not fit the GPUs there are, None if it does; the hold time does not matter."""
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
        controller, plan, workload = self._controller, self._plan, self._workload
        observation = controller.executor.driver.observe()
        if plan is None or workload is None or snapshot(observation).fingerprint == self._settled:
            return None
        if self._plans is not None and not self._plans.approved():
            return None
        journal = controller.executor.journal
        goal = goal_for(
            plan,
            standing_rates(journal.promised(), deployed(observation)),
            journal.unfinished(),
            algorithm=self._options.algorithm,
            extra_gpus=self._options.extra_gpus,
            forbid=workload.forbid,
        )
        controller.wake(observation)
        reached = controller.reach(goal)
        self._settled = snapshot(controller.executor.driver.observe()).fingerprint
        return reached

    def _tell(self, text: str) -> None:
        """Report a text, but not the same one twice in a row."""
        if text != self._told:
            self._controller.executor.reporter.note(text)
        self._told = text


def free_gpus(current: Deployment) -> dict[str, int]:
    """Return how many GPUs of each model a plan may use: they hold nothing fixed, and need not become empty."""
    return dict(
        Counter(
            gpu.model
            for gpu in current.gpus
            if not gpu.leaving and not any(each.fixed for each in gpu.instances)
        )
    )


def _fits(plan: Plan, there: Mapping[str, int]) -> bool:
    needed = Counter(gpu.model for gpu in plan.gpus)
    return all(n <= there.get(model, 0) for model, n in needed.items())


def _short(plan: Plan) -> bool:
    return any(falls_short(service.capacity, service.rate) for service in plan.services)


LEAST_RATE = 1e-3
"""Items/s that an idle service is planned for: it keeps a replica."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What the current plan was made for.

    Attributes:
        at: when, in seconds on the clock of `Reconciler.look`.
        document: fingerprint of the workload's text and tables.
        demand: of each service.
    """

    at: float
    document: str
    demand: Demand


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why to plan again, None if there is no reason, and whether the plan is still held."""

    why: str | None
    held: bool = False

    @property
    def now(self) -> bool:
        """Whether to plan now."""
        return self.why is not None and not self.held


def wanted(written: Demand, measured: Demand) -> Demand:
    """Return the demand to plan for: as measured, or as written where nothing is measured.

    Args:
        written: rates of all services, and batch sizes of services with a `cut`.
        measured: rates and batch sizes; those that `written` does not have are ignored.
    """
    return Demand(
        {name: max(measured.rates.get(name, rate), LEAST_RATE) for name, rate in written.rates.items()},
        {name: measured.batches.get(name, shares) for name, shares in written.batches.items()},
    )


def judge(
    planned: Planned | None, document: str, demand: Demand, now: float, hysteresis: Hysteresis
) -> Verdict:
    """Return whether and why to plan again.

    Args:
        planned: what the current plan was made for; None if there is none.
        document: fingerprint of the workload as it is now.
        demand: of each service now.
        now: seconds, on the clock of `planned.at`.
        hysteresis: how far demand may change without a new plan.
    """
    if planned is None:
        return Verdict("there is no plan yet")
    if document != planned.document:
        why: str | None = "the workload has changed"
    else:
        why = _left(planned.demand.rates, demand.rates, hysteresis) or _shifted(
            planned.demand, demand, hysteresis
        )
    return Verdict(why, held=now < planned.at + hysteresis.hold_s)


def _left(planned: Mapping[str, float], rates: Mapping[str, float], hysteresis: Hysteresis) -> str | None:
    for name, rate in sorted(rates.items()):
        was = planned.get(name)
        if was is None or abs(rate - was) > hysteresis.dead_band * was:
            return f"{name} is at {rate:g} items/s" + ("" if was is None else f", planned for {was:g}")
    return None


def _shifted(planned: Demand, demand: Demand, hysteresis: Hysteresis) -> str | None:
    for name, shares in sorted(demand.batches.items()):
        was = planned.batches.get(name)
        if was is None or (moved := distance(was, shares)) > hysteresis.batch_shift:
            part = "" if was is None else f" of {moved:.0%} of its queries"
            return f"{name} has other batch sizes{part} than planned for"
    return None


class KeptPlans(Protocol):
    """Keeps plans beyond the process that made them, and lets a person hold them back."""

    def last(self) -> tuple[Plan, Planned] | None:
        """Return the plan that was kept last and what it was made for; None if none is for the current workload."""
        ...

    def keep(self, plan: Plan, planned: Planned, why: str) -> None:
        """Keep a plan that was made just now.

        Args:
            plan: the plan.
            planned: what it was made for.
            why: the reason for planning.
        """
        ...

    def approved(self) -> bool:
        """Return whether the plan that was kept last may be executed now; called before each execution."""
        ...


class CurrentWorkload(Protocol):
    """The workload as it is written now, and how to plan it."""

    @property
    def document(self) -> str:
        """Fingerprint of the text and of the tables that it names."""
        ...

    @property
    def demand(self) -> Demand:
        """The demand as written: all rates, and batch sizes of services with a `cut`."""
        ...

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of instances that must not share a GPU."""
        ...

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the plan with the fewest GPUs, among those the one nearest to what runs.

        With too few GPUs it is the plan that meets the most services by priority.

        Args:
            demand: what to plan each service for.
            gpus: how many GPUs of each model may be used.
            current: what runs.

        Raises:
            InfeasibleError: there is no plan at all.
        """
        ...


class Source(Protocol):
    """Where the workload is read from."""

    def read(self) -> CurrentWorkload:
        """Return the workload as it is now.

        Raises:
            InputError: it cannot be read.
            InfeasibleError: a service can run nowhere.
        """
        ...


Shares = Mapping[int, float]
"""Share of the queries by batch size, adding up to 1."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A moment's demand.

    Attributes:
        rates: items/s by service.
        batches: shares of batch sizes by service, where they are known.
    """

    rates: Mapping[str, float]
    batches: Mapping[str, Shares] = dataclasses.field(default_factory=dict)


def distance(one: Shares, other: Shares) -> float:
    """Return the total variation between two distributions: the share of queries that changed size, 0 to 1."""
    return sum(abs(one.get(size, 0.0) - other.get(size, 0.0)) for size in one.keys() | other.keys()) / 2


FILE = "rates.json"


class ServiceRate(Value):
    """The demand of a service: items/s, and the weight of each batch size where that is known."""

    rate: Annotated[Amount, Meta(description="Items per second.", examples=[812.5])]
    batches: Annotated[
        dict[Annotated[int, Meta(ge=1, le=LARGEST_BATCH)], Amount],
        Meta(description="Weight of the queries of each batch size.", examples=[{"1": 0.4, "8": 0.6}]),
    ] = field(default_factory=dict)

    @property
    def shares(self) -> Shares:
        """The batches' weights as shares that add up to 1."""
        total = sum(self.batches.values())
        return {size: weight / total for size, weight in sorted(self.batches.items()) if weight > 0}


RatesDocument = dict[str, Amount | ServiceRate]
"""Either form may stand for a service: `{"resnet50": 812.5}`, or what the gateway writes, with batches."""


class Rates(Protocol):
    """Gives the demand of each service now."""

    def measured(self) -> Demand:
        """Return what is measured; services without measurements are left out.

        Raises:
            InputError: the measurements cannot be read.
        """
        ...


class RatesFile:
    """Rates that someone writes to a JSON file: items/s, and shares of batch sizes where they are known.

    Args:
        path: the file; while it does not exist, nothing is measured.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def measured(self) -> Demand:
        """Return what the file says.

        Raises:
            InputError: it is not an object of rates of zero or more, or a batch size or its weight is wrong.
        """
        if not self._path.exists():
            return Demand({})
        found = parse_json(read_text(self._path), RatesDocument, str(self._path))
        told = {name: ServiceRate(each) if isinstance(each, float) else each for name, each in found.items()}
        return Demand(
            {name: each.rate for name, each in told.items()},
            {name: each.shares for name, each in told.items() if each.shares},
        )
