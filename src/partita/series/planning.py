"""Plans for a series of rates: when to change and when not, so that GPU-hours and the price of moving are least.

A *run* is a number of periods one after another with one plan, which meets the largest rate of each service in them.
The search is a shortest path over runs. A run's cost is its plan's value times its hours, for which the largest bound
of its periods stands in until a path really takes it; a change costs what it took when it was last made: its moves,
and the GPUs that old and new hold together. Paths are then followed for real: each plan is made near the one before,
each change is a transition that the checker has passed, and what that teaches of changes goes into the next path.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import TYPE_CHECKING

from partita import planner as planning
from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError, PartitaError
from partita.planning.plan import Objective, Plan, Solver
from partita.registry import make, maker_of
from partita.series.rates import largest
from partita.transition.between import whole_nodes
from partita.transition.check import check_transition
from partita.transition.deployment import DeployedGpu, Deployment, deployment_of, restated
from partita.transition.overview import timeline
from partita.transition.transition import MEASURED, ActionKind, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from partita.planner import PreparedWorkload
    from partita.series.rates import RateSeries, ServiceRates
    from partita.transition.transition import Transition

MOVE_PRICE = sum(MEASURED.of(kind) for kind in ActionKind) / 3600
"""Default price of a move in GPU-hours: for the seconds of its four actions the replica holds a second instance, of
one GPU at most."""

_ROUNDS = 4
"""Most paths that are followed for real."""

_NEAR_S, _NEAR_TIMES = 3.0, 8.0
"""Seconds for a plan with few moves: so many, or so many times those of a plan without regard to them."""

_TRIES = 6
"""Most changes that are left out to see whether that is better."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """Periods from `first` to before `last`, and the plan that holds in them."""

    first: int
    last: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class PlanChange:
    """The change from one run's plan to the next.

    Attributes:
        period: index of the period at whose beginning the next plan holds.
        begin: when it begins, in hours of the series: so early that services that rise have their capacity at the
            beginning of the period; at its beginning where none rises.
        request: what was asked for, on physical GPUs.
        transition: the actions, as the checker has passed them.
        gpu_hours: hours of GPUs in use beyond those of the plan of each moment; 0 where GPUs rather fall free early.
    """

    period: int
    begin: float
    request: Request
    transition: Transition
    gpu_hours: float

    @property
    def moves(self) -> int:
        """Replicas that start or stop; a stop and a start of one service are one."""
        return moves_of(self.transition)

    @property
    def seconds(self) -> float:
        """Predicted seconds."""
        return self.transition.makespan

    @property
    def end(self) -> float:
        """When it has ended, in hours of the series."""
        return self.begin + self.seconds / 3600


@dataclass(frozen=True, slots=True)
class PlanSequence:
    """Plans one after another.

    Attributes:
        runs: they cover all periods.
        changes: between each two runs whose deployments differ.
        value_hours: the objective's value of each plan times its hours, summed up: GPU-hours for `gpus`.
        in_change: the same of GPUs that changes hold beyond that.
    """

    runs: tuple[PlannedRun, ...]
    changes: tuple[PlanChange, ...]
    value_hours: float
    in_change: float

    @property
    def total(self) -> float:
        """GPU-hours, or cost, with those of changes."""
        return self.value_hours + self.in_change

    @property
    def moves(self) -> int:
        """Moves of all changes."""
        return sum(change.moves for change in self.changes)

    @property
    def seconds(self) -> float:
        """Seconds in which something changes."""
        return sum(change.seconds for change in self.changes)

    def cost(self, move_price: float) -> float:
        """Return what is minimised."""
        return self.total + move_price * self.moves

    def run_of(self, period: int) -> PlannedRun:
        """Return the run that a period is in."""
        return next(run for run in self.runs if run.first <= period < run.last)


@dataclass(frozen=True, slots=True)
class PlannedSeries:
    """What was planned for a series, and what it is compared with.

    Attributes:
        series: the rates.
        objective: `gpus` or `cost`.
        move_price: of one move, in units of the objective for an hour.
        gpu_value: what a GPU that a change holds adds to the objective: 1, or the dearest pool's cost.
        chosen: the plans.
        bounds: by period the proven lower bound of any plan for it.
        alone: by period the objective's value of a plan for it alone.
        savings: by the period of each change what one plan for both runs beside it would take more than the two;
            infinite where the GPUs do not suffice for that.
        peak: one plan for the largest rates; None where the GPUs do not suffice for them.
        near: a plan for each period that is near the one before; None where a change takes longer than a period, or
            the search was stopped.
        fresh: a plan for each period, whatever ran before; None likewise, and where it was not asked for.
        notes: assumptions, a sentence each.
    """

    series: RateSeries
    objective: str
    move_price: float
    gpu_value: float
    chosen: PlanSequence
    bounds: tuple[float, ...]
    alone: tuple[float, ...]
    savings: Mapping[int, float]
    peak: PlanSequence | None
    near: PlanSequence | None
    fresh: PlanSequence | None = None
    notes: tuple[str, ...] = ()

    @property
    def bound(self) -> float:
        """What all sequences of plans take at least, even if moves were free."""
        return sum(
            bound * period.hours for bound, period in zip(self.bounds, self.series.periods, strict=True)
        )

    @property
    def gap(self) -> float:
        """How far the chosen plans, with all they hold in changes, are above the bound, as a fraction of it."""
        return self.chosen.total / self.bound - 1 if self.bound else 0.0


def moves_of(transition: Transition) -> int:
    """Return the moves of a transition: of each service the larger of its starts and its stops."""
    starts: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    for action in transition.actions:
        if action.replica is not None:
            counts = starts if action.kind is ActionKind.START_REPLICA else stops
            counts[action.replica.service] += 1
    return sum(max(starts[name], stops[name]) for name in starts.keys() | stops.keys())


def plan_series(
    prepared: PreparedWorkload,
    series: RateSeries,
    *,
    move_price: float | None = None,
    planner: str = "exact",
    deadline: Deadline | None = None,
    seed: int = 0,
    anew: bool = False,
) -> PlannedSeries:
    """Plan a series of rates.

    Args:
        prepared: the workload.
        series: the rates of its services.
        move_price: of one move, in GPU-hours (or, for the objective `cost`, in cost); None for `MOVE_PRICE`.
        planner: name of the algorithm for each plan.
        deadline: time limit of each plan; and a stop request, after which the best so far is returned, and progress,
            in units of the objective times hours.
        seed: of random choices.
        anew: whether to compare with a plan for each period whatever ran before.

    Raises:
        InputError: the objective is watts, or the planner does not support the workload.
        InfeasibleError: the GPUs do not suffice at some time.
        PartitaError: no plans were found between which changes fit, or none before the user wanted to stop.
    """
    objective = prepared.workload.objective
    if objective == "watts":
        raise InputError(
            "objective watts is not for a series of rates: GPUs that a change holds have no measured power",
            where="objective",
            hint="write objective: gpus, or cost",
        )
    candidates = _Candidates(prepared, series, planner, seed, deadline or Deadline(planning.TIME_LIMIT_S))
    price = MOVE_PRICE * candidates.gpu_value if move_price is None else move_price
    search = _Search(candidates, price)
    each = tuple((index, index + 1) for index in range(len(series.periods)))
    alone = [candidates.plan(*run).objective for run in each]
    peak = search.follow(((0, len(series.periods)),))
    near = search.follow(each)
    best = search.best([found for found in (peak, near) if found is not None])
    return PlannedSeries(
        series,
        objective,
        price,
        candidates.gpu_value,
        best,
        tuple(found.lower_bound for found in alone),
        tuple(found.value for found in alone),
        search.savings(best),
        peak,
        near,
        search.follow(each, near=False) if anew else None,
        candidates.notes,
    )


class _Candidates:
    """The plans of runs, each made once, and the changes between them."""

    def __init__(
        self,
        prepared: PreparedWorkload,
        series: RateSeries,
        planner: str,
        seed: int,
        deadline: Deadline,
    ) -> None:
        self.prepared = prepared
        self.series = series
        self.deadline = deadline
        self.notes: tuple[str, ...] = ()
        self._planner = planner
        self._seed = seed
        self._workloads: dict[tuple[int, int], PreparedWorkload | None] = {}
        self._plans: dict[tuple[int, int], Plan] = {}
        self._short: set[tuple[int, int]] = set()
        costs = [pool.cost for pool in prepared.problem.pools]
        self.gpu_value = max(costs, default=1.0) if prepared.workload.objective == "cost" else 1.0
        """What a GPU that a change holds adds to the objective: the dearest pool's."""

    def prepared_for(self, first: int, last: int) -> PreparedWorkload | None:
        """Return the workload with the largest rates of periods; None if all services are off."""
        if (first, last) not in self._workloads:
            self._workloads[first, last] = at_rates(self.prepared, self.series.most(first, last))
        return self._workloads[first, last]

    def plan(self, first: int, last: int) -> Plan:
        """Return the plan of a run, whatever ran before."""
        if (first, last) not in self._plans:
            self._plans[first, last] = self._made(first, last, None)
        return self._plans[first, last]

    def value(self, first: int, last: int) -> float:
        """Return the value of a run times its hours; infinite if the GPUs do not suffice."""
        if last - first > 1 and (first, last) not in self._plans and (first, last) not in self._short:
            try:
                self.plan(first, last)
            except InfeasibleError:
                self._short.add((first, last))
        if (first, last) in self._short:
            return math.inf
        return self.plan(first, last).objective.value * self.hours(first, last)

    def plan_near(self, first: int, last: int, current: Deployment) -> Plan:
        """Return a plan of a run near to what runs."""
        seconds = max(_NEAR_S, _NEAR_TIMES * self.plan(first, last).solver.seconds)
        return self._made(first, last, current, seconds)

    def _made(self, first: int, last: int, current: Deployment | None, seconds: float = math.inf) -> Plan:
        asked = self.prepared_for(first, last)
        if asked is None:
            return Plan(
                Objective(self.prepared.workload.objective, 0.0, 0.0),
                Solver(self._planner, self._seed, 0.0),
                (),
                (),
            )
        try:
            made = planning.plan(
                asked,
                planner=self._planner,
                deadline=Deadline(min(seconds, self.deadline.time_limit), self.deadline.stop),
                seed=self._seed,
                current=current,
            )
        except InfeasibleError as error:
            error.what = f"at {self.series.when(self.series.periods[first].begin)}: {error.what}"
            raise
        if (first, last) == (0, len(self.series.periods)):  # which has all services
            self.notes = made.notes
        return made.plan

    def bound(self, first: int, last: int) -> float:
        """Return a lower bound of the value of a run times its hours: the largest bound of its periods."""
        most = max(self.plan(index, index + 1).objective.lower_bound for index in range(first, last))
        return most * self.hours(first, last)

    def hours(self, first: int, last: int) -> float:
        """Return the hours of a run."""
        return sum(period.hours for period in self.series.periods[first:last])


def at_rates(prepared: PreparedWorkload, rates: ServiceRates) -> PreparedWorkload | None:
    """Return a workload with other rates; services at 0 are off and left out. None if all are."""
    workload = prepared.workload
    services = tuple(
        spec.replace(rate=rate) for spec in workload.services if (rate := rates.get(spec.name, spec.rate)) > 0
    )
    if not services:
        return None
    return planning.prepare(workload.replace(services=services), prepared.table, prepared.path)


def _for_both(one: Plan, other: Plan) -> Plan:
    """Return a plan of the same deployment as two, for the larger rate of each service."""
    rates = largest({service.name: service.rate for service in plan.services} for plan in (one, other))
    bound = max(one.objective.lower_bound, other.objective.lower_bound)
    return replace(
        other,
        objective=replace(other.objective, lower_bound=bound),
        services=tuple(replace(service, rate=rates[service.name]) for service in other.services),
    )


Runs = tuple[tuple[int, int], ...]
"""First period of each run and the one after its last; they cover all periods."""


def _runs(sequence: PlanSequence) -> Runs:
    return tuple((run.first, run.last) for run in sequence.runs)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The first runs of a sequence, what runs then, and what they cost."""

    deployment: Deployment
    runs: tuple[PlannedRun, ...] = ()
    changes: tuple[PlanChange, ...] = ()


class _Search:
    """Paths over runs, and what following them for real teaches.

    Args:
        candidates: plans of runs.
        move_price: of one move.
    """

    def __init__(self, candidates: _Candidates, move_price: float) -> None:
        self._candidates = candidates
        self._price = move_price
        self._prefixes: dict[tuple[bool, Runs], _Prefix | None] = {}
        self._change_cost: dict[int, float] = {}
        self._algorithm = make("transition_algorithms", "shortest")

    def follow(self, runs: Runs, *, near: bool = True) -> PlanSequence | None:
        """Make the plans of runs and the changes between them.

        None if the GPUs do not suffice for a run or a change, a change takes longer than there is time, or the user
        wants the best so far.

        Args:
            runs: they cover all periods.
            near: whether each plan is made near the one before.
        """
        prefix: _Prefix | None = None
        for index in range(len(runs)):
            key = near, runs[: index + 1]
            if key not in self._prefixes:
                self._prefixes[key] = self._extended(prefix, runs[index], near=near)
            prefix = self._prefixes[key]
            if prefix is None:
                return None
        if prefix is None:
            raise AssertionError("there are no runs")
        hours = self._candidates.hours
        value = sum(run.plan.objective.value * hours(run.first, run.last) for run in prefix.runs)
        in_change = sum(change.gpu_hours for change in prefix.changes) * self._candidates.gpu_value
        return PlanSequence(prefix.runs, prefix.changes, value, in_change)

    def _extended(self, prefix: _Prefix | None, run: tuple[int, int], *, near: bool) -> _Prefix | None:
        candidates = self._candidates
        if candidates.value(*run) == math.inf:
            return None
        if prefix is None:
            plan = candidates.plan(*run)
            return _Prefix(self._cluster(plan), (PlannedRun(*run, plan),))
        if candidates.deadline.stop():
            return None
        plan = candidates.plan_near(*run, prefix.deployment) if near else candidates.plan(*run)
        made = self._change(prefix, run[0], plan)
        if made is None:
            return None
        if not made.transition.actions:
            *before, last = prefix.runs
            kept = PlannedRun(last.first, run[1], _for_both(last.plan, plan))
            return _Prefix(made.transition.target, (*before, kept), prefix.changes)
        return _Prefix(
            made.transition.target, (*prefix.runs, PlannedRun(*run, plan)), (*prefix.changes, made)
        )

    def _cluster(self, plan: Plan) -> Deployment:
        """Return all GPUs there are, with a plan on them: those of the pools, or enough for every period and more."""
        candidates = self._candidates
        periods = len(candidates.series.periods)
        needed: Counter[str] = Counter()
        for run in (*((index, index + 1) for index in range(periods)), (0, periods)):
            if candidates.value(*run) < math.inf:
                needed |= Counter(gpu.model for gpu in candidates.plan(*run).gpus)
        there: Counter[str] = Counter()
        endless = set()
        for pool in candidates.prepared.problem.pools:
            there[pool.gpu.name] += pool.count or 0
            endless |= {pool.gpu.name} if pool.count is None else set()
        for model in endless:
            there[model] = max(there[model], math.ceil(needed[model] * (1 + _SPARE)) + 1)
        standing = deployment_of(plan).gpus
        names = whole_nodes([(gpu.id, gpu.model) for gpu in standing])
        left = there - Counter(gpu.model for gpu in standing)
        known = {gpu.id for gpu in standing}
        empty = []
        for name, model in [*((name, model) for name, model in names if name not in known), *_spare(there)]:
            if left[model] > 0:
                left[model] -= 1
                empty.append(DeployedGpu(name, model, ()))
        return Deployment((*standing, *empty))

    def _change(self, prefix: _Prefix, period: int, plan: Plan) -> PlanChange | None:
        """Return the change from what runs to a plan; None if none is found that fits into the time."""
        candidates = self._candidates
        old = {service.name: service.rate for service in prefix.runs[-1].plan.services}
        new = {service.name: service.rate for service in plan.services}
        target = deployment_of(plan)
        request = Request(
            restated(prefix.deployment, target),
            target,
            old,
            new,
            MEASURED,
            forbid=candidates.prepared.workload.limits.forbid,
        )
        self._change_cost[period] = math.inf  # until one is found that fits
        try:
            transition = self._algorithm.transition(request)
        except InfeasibleError:  # too few GPUs on which to keep the floors meanwhile
            return None
        if faults := check_transition(request, transition):
            raise PartitaError(
                f"a fault in {maker_of(self._algorithm)}: a wrong transition: {faults[0].where}: {faults[0].what}",
                hint="report this",
            )
        periods = candidates.series.periods
        rises = any(new[name] > old.get(name, 0.0) for name in new)
        seconds = transition.makespan
        if seconds > 3600 * min(periods[period - 1].hours, periods[period].hours):
            return None
        before = seconds if rises else 0.0
        begin = periods[period].begin - before / 3600
        if prefix.changes and prefix.changes[-1].end > begin:
            return None
        base = request.current.used * before + transition.target.used * (seconds - before)
        held = _in_use(request, transition) - base
        made = PlanChange(period, begin, request, transition, max(0.0, held / 3600))
        self._change_cost[period] = self._change_price(made)
        return made

    def best(self, known: Sequence[PlanSequence]) -> PlanSequence:
        """Return the best sequence: one of those known, a shortest path, or one with a change left out."""
        tried = {_runs(each) for each in known}
        for _ in range(_ROUNDS):
            if known:
                self._tell(min(known, key=self.cost))
            if self._candidates.deadline.stop() or (runs := self._path()) in tried:
                break
            tried.add(runs)
            found = self.follow(runs)
            known = known if found is None else [*known, found]
        if not known:
            stopped = self._candidates.deadline.stop()
            raise PartitaError(
                "no plans were found before the search was stopped"
                if stopped
                else "no plans were found whose changes "
                "fit into the periods between them, and the GPUs do not suffice for the largest rates at once",
                where="--series",
                hint="let it search longer" if stopped else "write longer periods, or raise `count`",
            )
        best = min(known, key=self.cost)
        for _ in range(_TRIES):
            without = self._without_a_change(best, tried)
            if without is None:
                break
            tried.add(without)
            best = min(best, self.follow(without) or best, key=self.cost)
            self._tell(best)
        return best

    def cost(self, sequence: PlanSequence) -> float:
        """Return what is minimised."""
        return sequence.cost(self._price)

    def _tell(self, best: PlanSequence) -> None:
        bounds = (
            self._candidates.bound(index, index + 1) for index in range(len(self._candidates.series.periods))
        )
        self._candidates.deadline.tell(self.cost(best), sum(bounds))

    def savings(self, sequence: PlanSequence) -> dict[int, float]:
        """Return, by period of each change, what one plan for both runs beside it takes more than the two."""
        found = {}
        for one, other in pairwise(_runs(sequence)):
            value = self._candidates.value
            found[other[0]] = value(one[0], other[1]) - value(*one) - value(*other)
        return found

    def _without_a_change(self, best: PlanSequence, tried: set[Runs]) -> Runs | None:
        """Return the runs without the change that pays least, if it pays less than it costs and was not tried."""
        if self._candidates.deadline.stop():
            return None
        runs = _runs(best)
        savings = self.savings(best)
        cost = {change.period: self._change_price(change) for change in best.changes}
        worth = sorted((savings[period] - price, period) for period, price in cost.items())
        for gain, period in worth:
            merged = tuple(
                (first, next(last for _, last in runs if last > period) if last == period else last)
                for first, last in runs
                if first != period
            )
            if gain < 0 and merged not in tried:
                return merged
        return None

    def _change_price(self, change: PlanChange) -> float:
        return change.gpu_hours * self._candidates.gpu_value + self._price * change.moves

    def _path(self) -> Runs:
        """Return the runs of least cost, by the changes' costs as they are known."""
        count = len(self._candidates.series.periods)
        known: dict[tuple[int, int], float] = {}
        while True:
            runs = self._shortest(count, known)
            new = [run for run in runs if run not in known]
            if not new:
                return runs
            for run in new:
                known[run] = self._candidates.value(*run)

    def _shortest(self, count: int, known: dict[tuple[int, int], float]) -> Runs:
        candidates = self._candidates
        least = [0.0] + [math.inf] * count
        came = [0] * (count + 1)
        for first in range(count):
            start = least[first] + (self._change_cost.get(first, 0.0) if first else 0.0)
            for last in range(first + 1, count + 1):
                run = first, last
                cost = start + (known[run] if run in known else candidates.bound(*run))
                if cost < least[last]:
                    least[last], came[last] = cost, first
        runs: list[tuple[int, int]] = []
        at = count
        while at:
            runs.append((came[at], at))
            at = came[at]
        return tuple(reversed(runs))


_SPARE = 0.25
"""GPUs beyond those of the largest plan, as a share of them, that changes may use where pools have no count."""


def _spare(there: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield ids and models of GPUs beyond the nodes that a plan names."""
    number = count()
    for model, gpus in sorted(there.items()):
        yield from ((f"spare-{(n := next(number)) // 8}/gpu-{n % 8}", model) for _ in range(gpus))


def _in_use(request: Request, transition: Transition) -> float:
    """Return the seconds of GPUs in use during a transition, summed up."""
    steps = timeline(request, transition).gpus
    ends = [*(step.second for step in steps[1:]), transition.makespan]
    return sum(step.value * max(0.0, end - step.second) for step, end in zip(steps, ends, strict=True))
