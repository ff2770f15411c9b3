"""The plan with the fewest moves from what runs, among plans of equal value, and the trade between the two.

GPUs that hold the same are a *class*. What becomes of a GPU is a *column* of its class: which of its replicas stay
where they are, and which sizes of new instances have room beside them. New instances of one size are interchangeable,
so whole numbers of columns and of new instances describe a plan with its exact moves. One integer program over them
has the plan's value as a row and the moves as its objective, or the other way round.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from partita.errors import InfeasibleError, InputError, counted
from partita.mig.layout import maximal_layouts
from partita.milp import INFINITY, Program
from partita.planning.assemble import pool_names
from partita.planning.compact import Counts, reached
from partita.planning.domains import domain, with_domains
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, falls_short
from partita.planning.problem import RATE_SLACK, WATTS_PER_GPU
from partita.transition.deployment import deployment_of, restated
from partita.transition.moves import moves_between, total_moves
from partita.transition.nearest import nearest
from partita.transition.transition import MEASURED, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline
    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement
    from partita.milp import Solution
    from partita.perf.operating_point import OperatingPoint
    from partita.planning.problem import Problem
    from partita.transition.deployment import DeployedGpu, Deployment, Replica

T = TypeVar("T")

_Pair = tuple[int, int]
"""A service and a size."""

_ENDS_SHARE = 0.3
"""Share of the time for each end of a trade between value and moves."""

_PROGRAM_SHARE = 0.7
"""Share of the time for a search among thousands of GPUs; the rest is for the moves of the plan that was given."""

_LOOK_EACH = 100
"""After so many of what takes long together the time is looked at."""

_LEVELS = 6
"""Most plans between the ends of a trade."""

_MOST_ENCODED = 2000
"""Up to this many GPUs a search begins with a plan that is known."""

_NEAR_COLUMNS = (500, 4_000, 16_000)
"""Columns of the first searches, beside those that leave a GPU's replicas where they are."""

_NEAR_SHARE = 0.3
"""Share of the time that is left for each of them."""

_MOST_COLUMNS = 20_000
"""Of more columns than this, no more are searched once a plan is found."""

_NEARBY_GPUS = (4, 8, 16, 32, 64, 128, 256, 512)
"""Kinds of GPUs that the first searches may change; all others stay as they are."""

_NEARBY_SHARE = 0.2
"""Share of the time that is left for each of them."""

_SEARCH_SHARE = 0.9
"""Share of the time for the search itself; the rest is for the smaller wishes."""

_WISHES_SHARE = 0.1
"""Most of the time that is left for the smaller wishes, once the moves are known."""

_STEPS = (0.05, 0.4), (0.5, 0.5), (INFINITY, 1.0)
"""The greatest reduced cost of the columns of each step of a search, and its share of the time that is left."""

_AT_ONCE = 1_000
"""Up to this many columns a search has one step, with all of them."""

_ROUNDING = 1e-6

_BEYOND = 1e-4
"""By how much more than needed the last step's columns reach, so that rounding does not spoil the proof."""

_USED_AGAIN = 0.1
"""What an instance that is used again is worth, in starts."""


@dataclass(frozen=True, slots=True)
class NearPlan:
    """A plan and its moves from what runs.

    Attributes:
        plan: the plan, on the GPUs there are.
        moves: as `moves.total_moves` counts them.
        least: no plan of at most this value has fewer moves (proven).
        searched: whether there was time to look for fewer moves at all.
    """

    plan: Plan
    moves: int
    least: int
    searched: bool = True

    @property
    def proven(self) -> bool:
        """Whether it is proven that no plan of at most this value has fewer moves."""
        return self.moves <= self.least


def near_plan(problem: Problem, plan: Plan, current: Deployment, deadline: Deadline) -> NearPlan:
    """Return the plan with the fewest moves from what runs among those as good as a plan.

    Args:
        problem: the services and pools.
        plan: a plan for it.
        current: what runs, on all GPUs there are.
        deadline: when to return the best so far, with what is proven of the moves.
    """
    found, searched = None, True
    if tells_gpus_apart(problem):
        if (same := _as_it_runs(problem, plan, current)) is not None:
            return NearPlan(same, 0, 0)
        try:
            turn = deadline if len(current.gpus) <= _MOST_ENCODED else deadline.share(_PROGRAM_SHARE)
            found = MoveProgram(problem, current, plan, turn).fewest(value_of(problem, plan), turn)
        except _NoTimeError:
            searched = False
    if found is not None and found.proven and within_limits(problem, found.plan):
        return found
    usable = found is not None and within_limits(problem, found.plan)
    if found is not None and usable and len(current.gpus) > _MOST_ENCODED:
        return found  # to count the moves of the given plan takes long, and it has more
    least = 0 if found is None else found.least
    given = NearPlan(plan, _moves(current, plan, deadline), least, searched)
    return found if found is not None and usable and found.moves <= given.moves else given


def _as_it_runs(problem: Problem, plan: Plan, current: Deployment) -> Plan | None:
    """Return what runs as a plan; None if it is none, or not as good as a plan."""
    pools = {pool.gpu.name: index for index, pool in enumerate(problem.pools)}
    keep, legal = _Keeper(problem), _Legal(problem)
    counts = np.zeros(problem.throughput.shape, dtype=np.int64)
    used: Counter[int] = Counter()
    filled = []
    for gpu in current.gpus:
        running = [each for each in gpu.instances if each.replica is not None]
        if not running:
            continue
        held = keep.held(gpu)
        if len(held) < len(running) or gpu.leaving or any(each.fixed for each in gpu.instances):
            return None
        pool = pools[gpu.model]
        if not legal.fits(pool, frozenset(held)):
            return None
        for pair in held.values():
            counts[pair] += 1
        used[pool] += 1
        filled.append(_Filled(gpu, pool, held, []))
    enough = Counts(np.zeros(0, dtype=np.int64), counts).meets_rates(problem)
    if not enough or (counts.sum(axis=1) < problem.replicas).any():
        return None
    if any(pool.count is not None and used[i] > pool.count for i, pool in enumerate(problem.pools)):
        return None
    same = _written(problem, plan, filled)
    as_good = reached(value_of(problem, same), value_of(problem, plan))
    return same if as_good and within_limits(problem, same) else None


class _Legal:
    """Says whether instances may stand on a GPU of a pool together."""

    def __init__(self, problem: Problem) -> None:
        self._layouts = [
            [frozenset(layout.placements) for layout in maximal_layouts(gpu)] for gpu in _restricted(problem)
        ]
        self._known: dict[tuple[int, frozenset[Placement]], bool] = {}

    def fits(self, pool: int, places: frozenset[Placement]) -> bool:
        """Return whether these placements are part of a layout of the pool's GPUs."""
        known = self._known.get((pool, places))
        if known is None:
            known = self._known[pool, places] = any(places <= layout for layout in self._layouts[pool])
        return known


def plan_within(problem: Problem, plan: Plan, current: Deployment, most: int, deadline: Deadline) -> NearPlan:
    """Return the plan of least value found among those with at most so many moves from what runs.

    Its bound is that of all plans with so few moves, its `least` only what is proven of the moves of all plans.

    Args:
        problem: the services and pools.
        plan: a plan for it, with any number of moves.
        current: what runs, on all GPUs there are.
        most: the most moves.
        deadline: when to return the best so far.

    Raises:
        TooManyMovesError: no plan was found with so few moves; says the fewest, and whether that is proven.
        InputError: there are several pools of one GPU model, so that nothing says which of them a GPU is in.
    """
    if not tells_gpus_apart(problem):
        raise InputError(
            "moves cannot be counted where several pools have GPUs of one model",
            where="gpus",
            hint="give the pools unlike models, or leave out --most-moves",
        )
    try:
        program = MoveProgram(problem, current, plan, deadline)
    except _NoTimeError:
        raise _too_few_moves(most, None) from None
    few = program.fewest(INFINITY, deadline.share(_ENDS_SHARE))
    if few is not None and not within_limits(problem, few.plan):
        few = None
    if few is None or few.moves > most:
        raise _too_few_moves(most, few)
    cheap = program.cheapest(most, deadline.share(0.5), few.plan)
    best, bound = cheap if cheap is not None and within_limits(problem, cheap[0].plan) else (few, 0.0)
    near = program.fewest(value_of(problem, best.plan), deadline, best.plan)
    if near is not None and near.moves <= best.moves and within_limits(problem, near.plan):
        best = near
    objective = best.plan.objective
    proven = min(max(objective.lower_bound, bound), objective.value)
    return replace(best, plan=replace(best.plan, objective=replace(objective, lower_bound=proven)))


class TooManyMovesError(InfeasibleError):
    """No plan that meets the rates has so few moves, or none was found."""


def _too_few_moves(most: int, few: NearPlan | None) -> TooManyMovesError:
    if few is None:
        return TooManyMovesError(
            f"no plan with at most {counted(most, 'move')} was found in time",
            where="--most-moves",
            hint="raise it, or --time-limit",
        )
    fewest = "the fewest" if few.proven else "the fewest found"
    return TooManyMovesError(
        f"no plan that meets the rates has at most {counted(most, 'move')}; {fewest} are {few.moves}",
        where="--most-moves",
        hint=f"allow {few.moves}, or leave it out",
    )


def trade_off(problem: Problem, near: NearPlan, current: Deployment, deadline: Deadline) -> list[NearPlan]:
    """Return plans that take more than a plan and have fewer moves, each at the least value found for its moves.

    By value; the last has the fewest moves that are found at any value. Empty where nothing has fewer moves.

    Args:
        problem: the services and pools.
        near: the plan with the fewest moves at the least value.
        current: what runs, on all GPUs there are.
        deadline: when to return what is found.
    """
    if not near.moves or not tells_gpus_apart(problem):
        return []
    try:
        program = MoveProgram(problem, current, near.plan, deadline)
    except _NoTimeError:
        return []
    few = program.fewest(INFINITY, deadline.share(_ENDS_SHARE))
    if few is None or few.moves >= near.moves or not within_limits(problem, few.plan):
        return []
    cheap = program.cheapest(few.moves, deadline.share(_ENDS_SHARE), few.plan)
    last = few if cheap is None or not within_limits(problem, cheap[0].plan) else cheap[0]
    found: list[NearPlan] = []
    levels = _levels(problem, value_of(problem, near.plan), value_of(problem, last.plan))
    fewest = near.moves
    for number, level in enumerate(levels):
        each = program.fewest(level, deadline.share(1 / (len(levels) - number)), near.plan)
        if each is not None and last.moves < each.moves < fewest and within_limits(problem, each.plan):
            found.append(each)
            fewest = each.moves
    return [*found, last]


def _levels(problem: Problem, low: float, high: float) -> list[float]:
    """Return values between two, without the ends: whole numbers of GPUs where those are counted."""
    if problem.objective == "gpus":
        between = range(round(low) + 1, round(high))
        return (
            [float(between[i * len(between) // _LEVELS]) for i in range(_LEVELS)]
            if len(between) > _LEVELS
            else [float(value) for value in between]
        )
    return [low + (high - low) * i / (_LEVELS + 1) for i in range(1, _LEVELS + 1)]


def tells_gpus_apart(problem: Problem) -> bool:
    """Say whether the model of a GPU tells its pool, so that moves can be planned."""
    models = [pool.gpu.name for pool in problem.pools]
    return len(set(models)) == len(models)


def _moves(current: Deployment, plan: Plan, deadline: Deadline) -> int:
    return total_moves(moves_between(current, deployment_of(plan), deadline))


class _NoTimeError(Exception):
    """The time was over before the program stood."""


def value_of(problem: Problem, plan: Plan) -> float:
    """Return the value of a plan as programs count it."""
    gpus = WATTS_PER_GPU * len(plan.gpus) if problem.objective == "watts" else 0.0
    return plan.objective.value + gpus


def within_limits(problem: Problem, plan: Plan) -> bool:
    """Say whether a plan keeps the limits that counts do not express.

    No GPU has more services than may share one, all services are on as many nodes as asked, and those that survive a
    loss do.
    """
    most = problem.max_services_per_gpu or math.inf
    nodes: dict[str, set[str]] = defaultdict(set)
    for gpu in plan.gpus:
        services = {each.service for each in gpu.instances}
        if len(services) > most:
            return False
        for name in services:
            nodes[name].add(domain(gpu, "node"))
    losses = (each.loss for each in with_domains(plan, problem).services)
    return all(len(nodes[each.name]) >= each.spread for each in problem.services) and not any(
        loss is not None and falls_short(loss.left, loss.least) for loss in losses
    )


# --- what runs, and what may become of it


@dataclass(frozen=True, slots=True)
class _Column:
    """What becomes of a GPU: the placements whose replicas stay, and those where instances may come."""

    stays: tuple[Placement, ...]
    room: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class _Class:
    """GPUs that hold the same, and what may become of each.

    Attributes:
        pool: index of their pool.
        gpus: the GPUs.
        held: replicas that may stay, by placement.
        columns: what may become of a GPU; one for which none is chosen becomes empty.
    """

    pool: int
    gpus: tuple[DeployedGpu, ...]
    held: Mapping[Placement, _Pair]
    columns: tuple[_Column, ...]


def _in_time(items: Iterable[T], deadline: Deadline) -> Iterator[T]:
    """Yield what is given while there is time.

    Raises:
        _NoTimeError: the time is over.
    """
    for number, each in enumerate(items):
        if number % _LOOK_EACH == 0 and deadline.over:
            raise _NoTimeError
        yield each


def _classes(problem: Problem, current: Deployment, deadline: Deadline) -> tuple[_Class, ...]:
    """Return the GPUs that a plan may use, by what they hold: none that leave or have fixed instances."""
    pools = {pool.gpu.name: index for index, pool in enumerate(problem.pools)}
    alike: dict[object, list[DeployedGpu]] = defaultdict(list)
    for gpu in current.gpus:
        if gpu.model in pools and not gpu.leaving and not any(each.fixed for each in gpu.instances):
            alike[gpu.model, gpu.instances].append(gpu)
    keep = _Keeper(problem)
    found = []
    for gpus in _in_time(alike.values(), deadline):
        pool = pools[gpus[0].model]
        held = keep.held(gpus[0])
        there = frozenset(each.placement for each in gpus[0].instances)
        found.append(_Class(pool, tuple(gpus), held, keep.columns(pool, held, there)))
    return tuple(found)


def _restricted(problem: Problem) -> list[GpuModel]:
    """Return the GPUs of each pool with the profiles that the problem has."""
    return [
        pool.gpu.restricted([size.profile for size in problem.sizes if size.pool == index])
        for index, pool in enumerate(problem.pools)
    ]


class _Keeper:
    """Says what may stay on a GPU, and what may come beside it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._service = {service.name: s for s, service in enumerate(problem.services)}
        self._size = {(problem.pools[z.pool].gpu.name, z.profile): k for k, z in enumerate(problem.sizes)}
        self._gpus = _restricted(problem)

    def held(self, gpu: DeployedGpu) -> dict[Placement, _Pair]:
        """Return the replicas of a GPU that run at the problem's operating points."""
        found = {}
        for each in gpu.instances:
            if each.replica is None:
                continue
            s = self._service.get(each.replica.service)
            k = self._size.get((gpu.model, each.placement.profile))
            if s is None or k is None:
                continue
            point = self._problem.services[s].points[k]
            if point and _run_alike(point, each.replica):
                found[each.placement] = s, k
        return found

    def columns(
        self, pool: int, held: Mapping[Placement, _Pair], there: frozenset[Placement]
    ) -> tuple[_Column, ...]:
        """Return what may become of a GPU, without what is no better than another in any way.

        Args:
            pool: index of its pool.
            held: what may stay.
            there: all instances that are there.
        """
        # GPUs whose replicas differ only by the services' names have the same columns.
        kinds: dict[_Pair, int] = {}
        pattern = tuple((place, kinds.setdefault(held[place], len(kinds))) for place in sorted(held))
        # With watts a replica that stays has a price, so that leaving it out can be better.
        priced = self._problem.objective == "watts"
        return _columns(self._gpus[pool], pattern, there, priced=priced)


def _run_alike(point: OperatingPoint, replica: Replica) -> bool:
    mine = point.batch, point.processes, point.tenants
    return mine == (replica.batch, replica.processes, replica.tenants)


@lru_cache(maxsize=16384)
def _columns(
    gpu: GpuModel, held: tuple[tuple[Placement, int], ...], there: frozenset[Placement], *, priced: bool
) -> tuple[_Column, ...]:
    kind = dict(held)
    kinds = len(set(kind.values()))
    names = [profile.name for profile in gpu.profiles]
    best: dict[tuple[int, ...], tuple[int, _Column]] = {}
    for layout in maximal_layouts(gpu):
        placements = frozenset(layout.placements)
        may_stay = [place for place in kind if place in placements]
        for stays in chain.from_iterable(combinations(may_stay, n) for n in range(len(may_stay) + 1)):
            room = placements.difference(stays)
            what = Counter(kind[place] for place in stays)
            sizes = Counter(place.profile for place in room)
            key = (*(what[i] for i in range(kinds)), *(sizes[name] for name in names))
            again = len(room & there)
            if key not in best or again > best[key][0]:
                first = sorted(room, key=lambda place: (place not in there, place))
                best[key] = again, _Column(stays, tuple(first))
    keys = np.array(list(best))
    columns = [column for _, column in best.values()]
    return tuple(columns[i] for i in _undominated(keys, kinds if priced else 0))


def _undominated(keys: NDArray[np.int64], same: int) -> list[int]:
    """Return the rows that no other is at least equal to in all columns, and equal to in the first `same` ones."""
    found = []
    for i, key in enumerate(keys):
        above = (keys >= key).all(axis=1) & (keys[:, :same] == key[:same]).all(axis=1)
        if above.sum() == 1:
            found.append(i)
    return found


# --- the program


class MoveProgram:
    """Plans for a problem on the GPUs there are, by value and by moves.

    Limits that counts do not express (services per GPU, nodes of a service) are left to the caller: `within_limits`.
    What is proven holds with them, too.

    Args:
        problem: what to plan; its pools are of unlike models.
        current: what runs, on all GPUs there are.
        given: a plan for the problem; its bound holds for all plans.
        deadline: when to give up, for which thousands of GPUs take seconds.

    Raises:
        _NoTimeError: the program does not stand by then.
    """

    def __init__(self, problem: Problem, current: Deployment, given: Plan, deadline: Deadline) -> None:
        self._problem = problem
        self._current = current
        self._given = given
        self._order = {gpu.id: i for i, gpu in enumerate(current.gpus)}
        self._size = {(size.pool, size.profile): k for k, size in enumerate(problem.sizes)}
        self._classes = _classes(problem, current, deadline)
        self._at = [(c, j) for c, each in enumerate(self._classes) for j in range(len(each.columns))]
        self._pairs = np.argwhere(problem.throughput > 0)
        runs = Counter(
            each.replica.service
            for gpu in current.gpus
            for each in gpu.instances
            if each.replica is not None and not each.fixed
        )
        self._runs = np.array([float(runs.pop(service.name, 0)) for service in problem.services])
        self._gone = runs.total()
        self._gpu_costs = np.array([self._gpu_cost(c, j) for c, j in self._at])
        self._new_costs = problem.instance_cost[self._pairs[:, 0], self._pairs[:, 1]]
        self._of = np.array([c for c, _ in self._at])
        self._most = np.array([float(len(self._classes[c].gpus)) for c, _ in self._at])
        self._keeps = np.array(
            [len(self._classes[c].columns[j].stays) == len(self._classes[c].held) for c, j in self._at]
        )
        self._capacity = np.zeros(len(problem.services))
        for mine in self._classes:
            for s, k in mine.held.values():
                self._capacity[s] += len(mine.gpus) * problem.throughput[s, k]
        self._short = self._capacity < problem.rate
        self._build(deadline)
        self._hold_parts()
        self._upper = np.full(self._program.width, INFINITY)
        self._upper[self._chosen] = self._most
        self._value_costs, self._move_costs = np.zeros((2, self._program.width))
        self._value_costs[self._chosen] = self._gpu_costs
        self._value_costs[self._new] = self._new_costs
        self._move_costs[self._moved] = 1.0

    def _gpu_cost(self, c: int, j: int) -> float:
        """Return what a GPU of a class adds to the value with one of its columns, new instances left out."""
        problem, mine = self._problem, self._classes[c]
        stay = sum(float(problem.instance_cost[mine.held[place]]) for place in mine.columns[j].stays)
        return problem.gpu_cost(mine.pool) + stay

    def _build(self, deadline: Deadline) -> None:
        problem, pairs = self._problem, self._pairs
        services, classes = len(problem.services), len(self._classes)
        program = self._program = Program()
        # Little is fixed at the root of these programs, so that to begin again there only costs time.
        program.solver.setOptionValue("mip_allow_restart", False)
        endless = np.full(services, INFINITY)
        self._rates = program.add_rows(np.ones(services), endless)
        self._replicas = program.add_rows(problem.replicas.astype(np.float64), endless)
        self._stops = program.add_rows(self._runs, endless)
        self._starts = program.add_rows(np.zeros(services), endless)
        self._sizes = program.add_rows(np.zeros(len(problem.sizes)), np.full(len(problem.sizes), INFINITY))
        there = np.array([float(len(each.gpus)) for each in self._classes])
        self._there = program.add_rows(np.full(classes, -INFINITY), there)
        counts = np.array([INFINITY if p.count is None else float(p.count) for p in problem.pools])
        self._pools = program.add_rows(np.full(len(counts), -INFINITY), counts)
        self._value = program.add_rows(np.array([-INFINITY]), np.array([INFINITY]))
        self._moves = program.add_rows(np.array([-INFINITY]), np.array([INFINITY]))
        chosen = [self._chosen_entry(i) for i in _in_time(range(len(self._at)), deadline)]
        self._chosen = self._add(chosen, self._most)
        self._new = self._add([self._new_entry(i) for i in range(len(pairs))], np.full(len(pairs), INFINITY))
        self._moved = self._add(
            [{self._stops + s: 1.0, self._starts + s: 1.0, self._moves: 1.0} for s in range(services)],
            endless,
        )

    def _hold_parts(self) -> None:
        """Require the rates that services need on some of their sizes alone."""
        problem = self._problem
        for part in problem.parts:
            able = problem.throughput[part.service] * part.sizes / part.rate
            found: dict[int, float] = {}
            for i, (c, j) in enumerate(self._at):
                mine = self._classes[c]
                stay = [mine.held[place] for place in mine.columns[j].stays]
                found[self._chosen.start + i] = float(sum(able[k] for s, k in stay if s == part.service))
            for i, (s, k) in enumerate(self._pairs):
                found[self._new.start + i] = float(able[k]) if s == part.service else 0.0
            columns = np.array([column for column, value in found.items() if value], dtype=np.int32)
            self._program.hold(columns, np.array([found[int(column)] for column in columns]), 1.0)

    def _add(self, entries: Sequence[Mapping[int, float]], upper: NDArray[np.float64]) -> slice:
        packed = [
            (np.array(list(each), dtype=np.int32), np.array(list(each.values()), dtype=np.float64))
            for each in entries
        ]
        first = self._program.add_columns(np.zeros(len(entries)), upper, packed, integer=True)
        return slice(first, first + len(entries))

    def _chosen_entry(self, i: int) -> dict[int, float]:
        """Return the rows and coefficients of one GPU of a class with one of its columns."""
        c, j = self._at[i]
        mine = self._classes[c]
        found: dict[int, float] = defaultdict(float)
        found[self._there + c] = found[self._pools + mine.pool] = 1.0
        found[self._value] = float(self._gpu_costs[i])
        for place in mine.columns[j].stays:
            s, k = mine.held[place]
            found[self._rates + s] += float(self._problem.throughput[s, k] / self._problem.rate[s])
            found[self._replicas + s] += 1.0
            found[self._stops + s] += 1.0
        for place in mine.columns[j].room:
            found[self._sizes + self._size[mine.pool, place.profile]] += 1.0
        return found

    def _new_entry(self, i: int) -> dict[int, float]:
        """Return the rows and coefficients of one new instance."""
        s, k = (int(index) for index in self._pairs[i])
        return {
            self._rates + s: float(self._problem.throughput[s, k] / self._problem.rate[s]),
            self._replicas + s: 1.0,
            self._starts + s: -1.0,
            self._sizes + k: -1.0,
            self._value: float(self._new_costs[i]),
        }

    # --- what is asked of it

    def fewest(self, most: float, deadline: Deadline, start: Plan | None = None) -> NearPlan | None:
        """Return the plan with the fewest moves among those of at most some value; None if none is found in time.

        Args:
            most: the greatest value, as `value_of` counts it; infinite for any.
            deadline: when to return the best so far.
            start: a plan to begin with; None for the one that was given.

        Raises:
            InfeasibleError: no plan has at most this value.
        """
        self._bound(most, INFINITY)
        start = start or self._given
        known = self._known(start) if value_of(self._problem, start) <= most else None
        found, least = self._search(self._move_costs, 1.0, deadline.share(_SEARCH_SHARE), known)
        return None if found is None else self._settled(found, round(least) + self._gone, deadline)

    def cheapest(self, most: int, deadline: Deadline, start: Plan) -> tuple[NearPlan, float] | None:
        """Return the plan of least value among those of at most so many moves, and a proven bound of its value.

        None if none is found in time.

        Args:
            most: the most moves.
            deadline: when to return the best so far.
            start: a plan with so few moves.

        Raises:
            InfeasibleError: no plan has so few moves.
        """
        self._bound(INFINITY, most - self._gone)
        unit = 1.0 if self._problem.objective == "gpus" else 0.0
        known = self._known(start)
        found, bound = self._search(self._value_costs, unit, deadline.share(_SEARCH_SHARE), known)
        return None if found is None else (self._settled(found, self._gone, deadline), bound)

    def _settled(self, columns: NDArray[np.float64], least: int, deadline: Deadline) -> NearPlan:
        """Return the plan of a solution, after the smaller wishes: few starts and stops, and instances used again."""
        self._bound(float(columns @ self._value_costs), round(float(columns @ self._move_costs)))
        wishes = np.zeros(self._program.width)
        wishes[self._new] = 1.0
        wishes[self._chosen] = [-self._stay_worth(c, j) for c, j in self._at]
        if len(self._at) > _MOST_COLUMNS:
            return self._counted(columns, least, deadline)
        later = self._solve(wishes, deadline.share(_WISHES_SHARE), columns)
        better = len(later.columns) and self._meets_rates(later.columns)
        return self._counted(later.columns if better else columns, least, deadline)

    def _counted(self, columns: NDArray[np.float64], least: int, deadline: Deadline) -> NearPlan:
        plan = self._plan(columns)
        # Where the search was cut short, the GPUs may be mapped better still.
        moves = _moves(self._current, plan, deadline)
        return NearPlan(plan, moves, min(least, moves))

    def _stay_worth(self, c: int, j: int) -> float:
        mine = self._classes[c]
        column = mine.columns[j]
        there = {each.placement for each in mine.gpus[0].instances}
        return len(column.stays) + _USED_AGAIN * sum(1 for place in column.room if place in there)

    def _bound(self, value: float, moves: float) -> None:
        slack = 1e-9 * max(1.0, abs(value)) if math.isfinite(value) else 0.0
        self._program.bound_row(self._value, -INFINITY, value + slack)
        self._program.bound_row(self._moves, -INFINITY, moves)

    def _search(
        self, costs: NDArray[np.float64], unit: float, deadline: Deadline, start: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64] | None, float]:
        """Return the solution of least cost found in time, None if there is none, and a proven bound of the cost.

        What is likely is searched first: all that leaves GPUs as they are, and columns of small reduced cost in the
        linear program. A solution with another column costs at least the linear program's value and that column's
        reduced cost, so the last step proves the solution without the columns for which this is too much.

        Args:
            costs: of each column of the program.
            unit: the least difference between two costs.
            deadline: when to return the best so far.
            start: a solution, if one is known.

        Raises:
            InfeasibleError: it is proven that there is no solution.
        """
        best, bound = start, 0.0
        if len(self._at) > _AT_ONCE:
            best = self._search_nearby(costs, unit, deadline, start)
        for free in self._freedoms():
            if best is not start and len(free) > _MOST_COLUMNS:
                break
            try:
                share = 1.0 if free.all() else _NEAR_SHARE
                best, bound = self._search_within(free, costs, unit, deadline.share(share), best)
            except InfeasibleError:
                if free.all():
                    raise
        return best, bound

    def _search_nearby(
        self, costs: NDArray[np.float64], unit: float, deadline: Deadline, start: NDArray[np.float64] | None
    ) -> NDArray[np.float64] | None:
        """Return the best solution found in which most GPUs stay as they are, or the start if none is better.

        One service that changes needs changes on few GPUs. Programs in which all others are fixed are small, however
        many GPUs there are.
        """
        best = start
        order = self._most_wasteful()
        for most in _NEARBY_GPUS:
            done = best is not None and float(best @ costs) <= _ROUNDING
            if done or deadline.over or most >= len(self._classes):
                break
            upper, lower = self._pinned(frozenset(order[:most]))
            inside = best is not None and bool((lower <= best).all() and (best <= upper).all())
            self._program.limit_columns(0, upper, lower)
            found = self._solve(costs, deadline.share(_NEARBY_SHARE), best if inside else None)
            columns = np.rint(found.columns)
            if (
                len(columns)
                and self._meets_rates(columns)
                and (best is None or float(columns @ costs) < float(best @ costs) - unit / 2)
            ):
                best = columns
            proven = found.infeasible or (len(columns) and found.value <= found.bound + _ROUNDING)
            if not proven:  # a larger one takes longer still
                break
        self._program.limit_columns(0, self._upper)
        return best

    def _pinned(self, free: frozenset[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of all columns with which the GPUs of the other classes keep what they hold."""
        upper, lower = self._upper.copy(), np.zeros(self._program.width)
        may_start = self._short.copy()
        may_start[[s for c in free for s, _ in self._classes[c].held.values()]] = True
        upper[self._new] = np.where(may_start[self._pairs[:, 0]], INFINITY, 0.0)
        fixed = np.array([c not in free and bool(each.held) for c, each in enumerate(self._classes)])
        only = np.bincount(self._of[self._keeps], minlength=len(fixed)) == 1
        upper[self._chosen] = np.where(fixed[self._of] & ~self._keeps, 0.0, self._most)
        lower[self._chosen] = np.where((fixed & only)[self._of] & self._keeps, self._most, 0.0)
        return upper, lower

    def _most_wasteful(self) -> list[int]:
        """Return the classes, those first on which services lack capacity, then those with most capacity to spare."""
        problem = self._problem
        spare = np.maximum(self._capacity - problem.rate, 0.0) / np.maximum(self._capacity, 1e-12)
        slices = [problem.pools[size.pool].gpu.profile(size.profile).compute for size in problem.sizes]

        def waste(c: int) -> tuple[bool, float, int]:
            held = self._classes[c].held.values()
            used = sum(slices[k] * (1 - float(spare[s])) for s, k in held)
            return not any(self._short[s] for s, _ in held), used, len(held)

        return sorted((c for c, each in enumerate(self._classes) if each.held), key=waste)

    def _freedoms(self) -> Iterator[NDArray[np.bool_]]:
        """Yield which columns searches may use, one after the other: a few first, all in the end.

        Those that leave all replicas of a GPU where they are always; of the others first those of GPUs on which
        services lack capacity, then of GPUs that hold the fewest replicas.
        """
        order = sorted(
            range(len(self._classes)),
            key=lambda c: (
                not any(self._short[s] for s, _ in self._classes[c].held.values()),
                len(self._classes[c].held),
            ),
        )
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        sizes = np.cumsum([len(self._classes[c].columns) for c in order])
        for most in _NEAR_COLUMNS:
            if most < len(self._of):
                yield self._keeps | (sizes[rank[self._of]] <= most)
        yield np.ones(len(self._of), dtype=np.bool_)

    def _search_within(
        self,
        free: NDArray[np.bool_],
        costs: NDArray[np.float64],
        unit: float,
        deadline: Deadline,
        start: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64] | None, float]:
        """Search as `_search` does, with some columns alone; the bound is 0 if those are not all."""
        program, chosen = self._program, self._chosen
        usable = np.where(free, self._most, 0.0)
        program.make_continuous()
        program.limit_columns(chosen.start, usable)
        relaxed = self._solve(costs, deadline, None)
        program.make_integer()
        if relaxed.infeasible:
            raise InfeasibleError("no plan has so small a value and so few moves")
        if not len(relaxed.columns):
            return start, 0.0
        best, bound = start, _whole(relaxed.value, unit)
        for step, share in _STEPS if np.count_nonzero(usable) > _AT_ONCE else _STEPS[-1:]:
            cost = INFINITY if best is None else float(best @ costs)
            needed = cost - unit - relaxed.value + _BEYOND
            if bound >= cost - _ROUNDING or deadline.over:
                break
            reach = min(step, needed)
            on = self._keeps | (relaxed.reduced[chosen] <= reach)
            if best is not None:
                on |= best[chosen] > 0.5
            program.limit_columns(chosen.start, np.where(on, usable, 0.0))
            found = self._solve(costs, deadline.share(1.0 if reach == needed else share), best)
            if found.infeasible and step == INFINITY:
                raise InfeasibleError("no plan has so small a value and so few moves")
            if (
                len(found.columns)
                and self._meets_rates(found.columns)
                and float(found.columns @ costs) < cost
            ):
                best = found.columns
            inside = INFINITY if found.infeasible else found.bound
            bound = max(bound, _whole(min(inside, relaxed.value + reach), unit))
        program.limit_columns(chosen.start, self._most)
        if not free.all():
            return best, 0.0
        return best, bound if best is None else min(bound, float(best @ costs))

    def _solve(
        self, costs: NDArray[np.float64], deadline: Deadline, start: NDArray[np.float64] | None
    ) -> Solution:
        every = np.arange(self._program.width, dtype=np.int32)
        return self._program.minimise(every, costs, deadline, start)

    def _meets_rates(self, columns: NDArray[np.float64]) -> bool:
        """Say whether a solution meets all rates in exact numbers: the solver's tolerances are absolute."""
        capacity = np.zeros(len(self._problem.services))
        for s, k, n in self._instances(columns):
            capacity[s] += n * self._problem.throughput[s, k]
        return bool((capacity >= self._problem.rate * (1 - 2 * RATE_SLACK)).all())

    def _instances(self, columns: NDArray[np.float64]) -> Iterator[tuple[int, int, int]]:
        """Yield service, size and number of all instances of a solution."""
        for (c, j), n in zip(self._at, np.rint(columns[self._chosen]).astype(int), strict=True):
            for place in self._classes[c].columns[j].stays if n else ():
                yield *self._classes[c].held[place], int(n)
        for (s, k), n in zip(self._pairs, np.rint(columns[self._new]).astype(int), strict=True):
            yield int(s), int(k), int(n)

    def _known(self, plan: Plan) -> NDArray[np.float64] | None:
        """Return a plan as a solution to begin with; None where that takes longer than it saves."""
        return self._encoded(plan) if len(self._current.gpus) <= _MOST_ENCODED else None

    def _encoded(self, plan: Plan) -> NDArray[np.float64] | None:
        """Return a plan as a solution; None if it does not fit the GPUs there are."""
        target = deployment_of(plan)
        current = restated(self._current, target)
        try:
            wanted = nearest(Request(current, target, {}, {}, MEASURED))
        except InfeasibleError:
            return None
        first = {c: i for i, (c, j) in reversed(list(enumerate(self._at))) if not j}
        service = {each.name: s for s, each in enumerate(self._problem.services)}
        pair = {(int(s), int(k)): i for i, (s, k) in enumerate(self._pairs)}
        runs = {gpu.id: {each.placement: each.replica for each in gpu.instances} for gpu in current.gpus}
        columns = np.zeros(self._program.width)
        stays, starts = np.zeros_like(self._runs), np.zeros_like(self._runs)
        for c, mine in enumerate(self._classes):
            for gpu in mine.gpus:
                if not (here := wanted[gpu.id]):
                    continue
                now = runs[gpu.id]
                keep = {place for place in mine.held if here.get(place) == now[place]}
                come = Counter(place.profile for place in here.keys() - keep)
                j = _covering(mine, Counter(mine.held[place] for place in keep), come)
                columns[self._chosen.start + first[c] + j] += 1
                for place in mine.columns[j].stays:
                    stays[mine.held[place][0]] += 1
                for place in here.keys() - keep:
                    replica = here[place]
                    if replica is not None:
                        s, k = service[replica.service], self._size[mine.pool, place.profile]
                        columns[self._new.start + pair[s, k]] += 1
                        starts[s] += 1
        columns[self._moved] = np.maximum(self._runs - stays, starts)
        return columns

    # --- from a solution to a plan

    def _plan(self, columns: NDArray[np.float64]) -> Plan:
        """Return the plan of a solution."""
        return _written(self._problem, self._given, self._filled(columns))

    def _filled(self, columns: NDArray[np.float64]) -> list[_Filled]:
        """Return what each GPU is to hold: what stays there, and the new instances.

        New instances go beside others of their service first, then GPU after GPU, most room first, so that a service
        fills GPUs alone.
        """
        rest = np.zeros(self._problem.throughput.shape, dtype=np.int64)
        rest[self._pairs[:, 0], self._pairs[:, 1]] = np.rint(columns[self._new])
        filled = []
        left = [list(each.gpus) for each in self._classes]
        for (c, j), n in zip(self._at, np.rint(columns[self._chosen]).astype(int), strict=True):
            mine = self._classes[c]
            column = mine.columns[j]
            for _ in range(n):
                content = {place: mine.held[place] for place in column.stays}
                filled.append(_Filled(left[c].pop(0), mine.pool, content, list(column.room)))
        filled.sort(key=lambda each: -len(each.room))
        for beside in (True, False):
            for each in filled:
                for place in list(each.room):
                    k = self._size[each.pool, place.profile]
                    s = _next(rest[:, k], {s for s, _ in each.content.values()}, beside=beside)
                    if s is not None:
                        rest[s, k] -= 1
                        each.room.remove(place)
                        each.content[place] = s, k
        return sorted(filled, key=lambda each: self._order[each.gpu.id])


@dataclass(frozen=True, slots=True)
class _Filled:
    """A GPU, what it is to hold, and the placements that are free."""

    gpu: DeployedGpu
    pool: int
    content: dict[Placement, _Pair]
    room: list[Placement]


def _next(rest: NDArray[np.int64], here: set[int], *, beside: bool) -> int | None:
    """Return the service that an instance is best given to: one that is here already, or has the most to place."""
    mine = [s for s in here if rest[s] > 0]
    if mine:
        return max(mine, key=lambda s: (rest[s], -s))
    best = int(np.argmax(rest))
    return best if rest[best] > 0 and not beside else None


def _covering(mine: _Class, keep: Counter[_Pair], come: Counter[str]) -> int:
    """Return the column of a class with room for what comes in which the fewest stay beyond what is to stay."""
    return min(
        (len(column.stays), j)
        for j, column in enumerate(mine.columns)
        if keep <= Counter(mine.held[place] for place in column.stays)
        and come <= Counter(place.profile for place in column.room)
    )[1]


def _whole(bound: float, unit: float) -> float:
    """Return the least cost that a solution can have at or above the bound."""
    return math.ceil((bound - _ROUNDING) / unit) * unit if unit and math.isfinite(bound) else bound


# --- from contents to a plan


def _written(problem: Problem, given: Plan, filled: Iterable[_Filled]) -> Plan:
    """Return the plan of GPUs with what they hold; its bound is that of a plan that was given."""
    labels = pool_names(problem)
    capacity = np.zeros(len(problem.services))
    value = 0.0
    gpus = []
    for each in filled:
        if not each.content:
            continue
        instances = []
        for place, (s, k) in sorted(each.content.items()):
            service, point = problem.services[s], problem.services[s].points[k]
            if point is None:
                raise AssertionError(f"{service.name} cannot run on {place.profile}")
            instances.append(Instance(place, service.name, service.model, point))
            capacity[s] += point.throughput
            value += float(problem.instance_cost[s, k])
        value += 0.0 if problem.objective == "watts" else problem.gpu_cost(each.pool)
        gpus.append(PlannedGpu(each.gpu.id, each.gpu.model, tuple(instances), labels[each.pool]))
    services = tuple(
        ServiceCapacity(service.name, service.asked_rate, float(capacity[s]), service.latency_slo_ms)
        for s, service in enumerate(problem.services)
    )
    objective = Objective(problem.objective, value, min(given.objective.lower_bound, value))
    return replace(given, objective=objective, services=services, gpus=tuple(gpus))
