"""Whether a plan keeps what it promises: all its services' queries, simulated through the gateway's own code.

`simulate_plan` makes the plan's workers as `partita serve` does, sends each service queries as its `arrivals` say at
the rate that was planned for, and counts how many are answered within the SLO. It goes on until confidence decides
whether a promise is kept. Nothing here knows how the planner counts capacity.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from partita.process.keeper import end_with_parent, uninterrupted
from partita.serve.dispatching.turns import InstanceTurns
from partita.serve.live_simulation import LiveSimulation, SimulatedTime, Traffics, run_together
from partita.serve.routers import live_router
from partita.verification.outcome import (
    QUANTILES,
    PlanOutcome,
    ServiceOutcome,
    Share,
    Trial,
    Verdict,
    by_size,
    confident_share,
    latencies,
    worst,
)
from partita.verification.tasks import QueriesOf, place_of, tasks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.synchronize import Event

    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.verification.tasks import Judged, Task

_LOOKS = 5
"""Most looks at a service whose promise is undecided; each has twice as many queries as the one before."""
_LEAST_DEADLINES = 40.0
"""Deadlines that the first look should span, as far as that takes no more than four times its queries."""
_WARM_DEADLINES = 10.0
_WARM_QUERIES = 100
"""Queries at the start that do not count: those of so many deadlines, and at least so many queries."""
_TOLERANCE_S = 2e-9
_LOOK_S = 0.1
"""Seconds between two looks at whether to stop."""
_INLINE = 60_000
"""Queries of all services together that one process simulates before others would have started."""


def simulate_plan(
    plan: Plan,
    prepared: PreparedWorkload,
    trial: Trial | None = None,
    *,
    judged: Mapping[str, Judged] | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] | None = None,
) -> PlanOutcome:
    """Simulate the queries of all services of a plan.

    Args:
        plan: for the workload.
        prepared: the workload.
        trial: how to simulate.
        judged: what each service promises; None for what the workload says of the whole plan.
        stop: returns True once the result so far is wanted.
        report: called with the number of services that are simulated, and of all.

    Raises:
        InputError: the plan is not for this workload, or there is no such router.
    """
    trial = trial or Trial()
    found = outcomes_of(tasks_of(plan, prepared, trial, judged), trial, stop, report)
    by_name = {each.service: each for group in found.values() for each in group}
    names = [spec.name for spec in prepared.workload.services]
    ordered = tuple(by_name[name] for name in names if name in by_name)
    return PlanOutcome(trial, ordered, stopped=len(ordered) < len(names))


# Simulation, in this process and in others


def outcomes_of(
    groups: Sequence[tuple[Task, ...]],
    trial: Trial,
    stop: Callable[[], bool],
    report: Callable[[int, int], None] | None,
) -> dict[int, tuple[ServiceOutcome, ...]]:
    """Return the outcomes of each group of services that has ended before `stop`, by its number.

    Args:
        groups: services that share an instance, or single ones.
        trial: how to simulate.
        stop: as for `simulate_plan`.
        report: as for `simulate_plan`.
    """
    total = sum(map(len, groups))
    cores = min(len(groups), trial.processes or len(os.sched_getaffinity(0)))
    alone = cores < 2 or (not trial.processes and total * trial.queries <= _INLINE)
    simulated = _in_turn(groups, trial, stop) if alone else _side_by_side(groups, trial, stop, cores)
    found, done = {}, 0
    for number, outcomes in simulated:
        found[number] = outcomes
        done += len(outcomes)
        if report is not None:
            report(done, total)
    return found


def _in_turn(
    groups: Sequence[tuple[Task, ...]], trial: Trial, stop: Callable[[], bool]
) -> Iterator[tuple[int, tuple[ServiceOutcome, ...]]]:
    for number, group in enumerate(groups):
        outcomes = _simulate(group, trial, stop)
        if outcomes is None:
            return
        yield number, outcomes


def _side_by_side(
    groups: Sequence[tuple[Task, ...]], trial: Trial, stop: Callable[[], bool], cores: int
) -> Iterator[tuple[int, tuple[ServiceOutcome, ...]]]:
    context = get_context("spawn")
    told = context.Event()
    with ProcessPoolExecutor(cores, context, _begin, (told,)) as pool:
        try:
            with uninterrupted():
                numbers = {pool.submit(_simulate_apart, group, trial): at for at, group in enumerate(groups)}
            waiting = set(numbers)
            while waiting and not stop():
                ended, waiting = wait(waiting, _LOOK_S, FIRST_COMPLETED)
                for each in ended:
                    outcomes = each.result()
                    if outcomes is not None:
                        yield numbers[each], outcomes
        finally:
            told.set()
            pool.shutdown(cancel_futures=True)


_told: Event | None = None
"""In a process of a pool: set when nobody waits for its results."""


def _begin(told: Event) -> None:
    """Begin a process of a pool, which ends when it is told to, or the one that it works for is gone."""
    end_with_parent()
    global _told  # noqa: PLW0603 -- what a pool gives its processes has no other place
    _told = told


def _simulate_apart(group: tuple[Task, ...], trial: Trial) -> tuple[ServiceOutcome, ...] | None:
    return _simulate(group, trial, lambda: _told is not None and _told.is_set())


def _simulate(
    group: tuple[Task, ...], trial: Trial, stop: Callable[[], bool]
) -> tuple[ServiceOutcome, ...] | None:
    """Return the outcomes of services that share instances, or of a single one; None if it was stopped before."""
    turns, time = _turns(group), SimulatedTime()
    services = [_Simulated(task, trial, turns, time) for task in group if task.workers]
    for _ in range(_LOOKS):
        run_together([each.simulation for each in services], [each.wanted for each in services], stop)
        if stop():
            return None
        if not sum(each.look() for each in services):
            break
    found = {each.task.served.name: each.outcome for each in services}
    return tuple(found.get(task.served.name) or _unserved(task, trial) for task in group)


def _turns(group: tuple[Task, ...]) -> dict[tuple[str, str], InstanceTurns]:
    """Return the turns on each instance that several services share, by its place."""
    places = Counter(place_of(worker) for task in group for worker in task.workers)
    return {place: InstanceTurns() for place, count in places.items() if count > 1}


class _Simulated:
    """A service that is simulated until its promise is decided.

    Args:
        task: the service.
        trial: how to simulate.
        turns: of the instances that several services share.
        time: of all services that are simulated side by side.

    Attributes:
        task: the service.
        simulation: of its queries.
        outcome: after the last look.
    """

    def __init__(
        self, task: Task, trial: Trial, turns: Mapping[tuple[str, str], InstanceTurns], time: SimulatedTime
    ) -> None:
        self.task, self._per_second = task, task.rate / task.items
        self.simulation = LiveSimulation(
            task.served,
            task.workers,
            Traffics(QueriesOf(task).next, task.shares),
            live_router(trial.router),
            jitter=task.jitter,
            seed=task.seed,
            turns=[turns.get(place_of(worker)) for worker in task.workers],
            time=time,
        )
        in_deadline = task.served.deadline_s * self._per_second
        self._warm = max(_WARM_QUERIES, min(math.ceil(_WARM_DEADLINES * in_deadline), trial.queries))
        self._counted = max(trial.queries, min(math.ceil(_LEAST_DEADLINES * in_deadline), 4 * trial.queries))
        self.outcome: ServiceOutcome | None = None

    @property
    def wanted(self) -> int:
        """Queries until the next look, with those at the start that do not count."""
        return self._warm + self._counted

    def look(self) -> bool:
        """Look at the queries so far; return whether more are needed, twice as many as those."""
        task, simulation = self.task, self.simulation
        counted = slice(self._warm, self.wanted)
        seconds, sizes = simulation.latency[counted], simulation.sizes[counted]
        # The way to the gateway and back is not simulated.
        in_time = seconds <= task.served.deadline_s - task.served.overhead_s + _TOLERANCE_S
        share = confident_share(in_time)
        parts = by_size(sizes, in_time, task.served.classes) if len(task.shares) > 1 else ()
        promised = [each.in_time for each in parts] if task.served.classes and parts else [share]
        self.outcome = ServiceOutcome(
            task.served.name,
            task.rate,
            self._per_second,
            task.served.deadline_s * 1000,
            task.promised,
            share,
            worst([each.verdict(task.promised) for each in promised]),
            len(seconds),
            float(np.isinf(seconds).mean()),
            latencies(seconds),
            simulation.busy,
            len(task.workers),
            parts,
        )
        if self.outcome.verdict is not Verdict.UNDECIDED:
            return False
        self._counted *= 2
        return True


def _unserved(task: Task, trial: Trial) -> ServiceOutcome:
    none = Share(0.0, 0.0, 0.0)
    return ServiceOutcome(
        task.served.name,
        task.rate,
        task.rate / task.items,
        task.served.deadline_s * 1000,
        task.promised,
        none,
        none.verdict(task.promised),
        trial.queries,
        1.0,
        (None,) * len(QUANTILES),
        0.0,
        0,
    )
