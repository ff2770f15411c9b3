"""Which small services share which instance, coupled with how the GPUs are cut.

Services that share an instance are a *bundle*. `bundle` packs services into bundles and returns a problem in which
each bundle is a service that needs one instance, so that every planner works on it; `unbundled` writes its plan for
the services themselves.

Few kinds of services are packed exactly: an integer program over all maximal bundles, the cuts, and the services that
do not share. Others are packed by a vector bin packing of memory and effective bandwidth. A linear program says which
services belong on which size; bundles are filled up as far as the queue itself allows. The linear program counts
memory and busy time alone, so its optimum is a lower bound for any way of sharing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.milp import INFINITY
from partita.planning.compact import add_instances, gpu_supply, round_up
from partita.planning.plan import Objective, Plan, ServiceCapacity
from partita.planning.problem import Service
from partita.planning.tenants import promised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from partita.perf.operating_point import OperatingPoint
    from partita.planning.compact import GpuSupply
    from partita.planning.plan import Instance, PlannedGpu
    from partita.planning.problem import Problem
    from partita.planning.tenants import Needs

MOST_PATTERNS = 4_000
"""Up to so many maximal bundles of kinds of services, an integer program chooses among them."""

_EXACT_SHARE = 0.3
"""Share of the time for that program."""

_STRETCHES = (1.0, 1.25, 1.6)
"""How much effective bandwidth bundles are packed with before the queue itself decides."""

_SECONDS = 2.0
"""Most seconds to see how many GPUs a packing takes."""

MOST_KINDS = 12
"""Up to so many kinds of services all bundles are listed."""

_LEVELS = 1.2
"""Services whose urgencies differ by less than this factor are packed together, the largest first."""

_TRIES = 6
"""Bundles that a service is tried in, each by its queue."""

Members = tuple[int, ...]
"""A bundle: services as indices of `Needs`, ascending."""

Packing = list[tuple[int, Members]]
"""Bundles, each with the size of its instance."""


@dataclass(frozen=True)
class Bundled:
    """A problem in which bundles stand for the services in them.

    Attributes:
        problem: services that share nothing first, then the bundles.
        whole: the problem of the services themselves.
        needs: of the services that share.
        bundles: the services in each bundle.
        lower_bound: of the objective, for any way of sharing.
    """

    problem: Problem
    whole: Problem
    needs: Needs
    bundles: tuple[Members, ...]
    lower_bound: float

    @property
    def notes(self) -> tuple[str, ...]:
        """How many services share, in a sentence for the user."""
        together = [len(each) for each in self.bundles if len(each) > 1]
        if not together:
            return ()
        quantiles = sorted({f"{promised(spec):g}" for spec in self.needs.specs})
        instances = f"{len(together):,} instance{'s' * (len(together) > 1)}"
        said = (
            f"{sum(together):,} services share {instances}, up to {max(together)} on one: with Poisson arrivals a "
            f"share of {' or '.join(quantiles)} of their queries is in time, waiting for each other included"
        )
        return (said,)

    def unbundled(self, plan: Plan) -> Plan:
        """Return a plan of `problem` as one of the services themselves.

        Where planners give a bundle several instances, because some are free, it keeps the first.
        """
        gpus: list[PlannedGpu] = []
        given: dict[str, float] = defaultdict(float)
        seen: set[str] = set()
        for gpu in plan.gpus:
            kept: list[Instance] = []
            for each in gpu.instances:
                if not each.point.tenants or each.service not in seen:
                    kept.append(each)
                    seen.update([each.service] if each.point.tenants else ())
            if kept or not gpu.instances:
                gpus.append(gpu if len(kept) == len(gpu.instances) else replace(gpu, instances=tuple(kept)))
            for instance in kept:
                for service, throughput in instance.serves:
                    given[service] += throughput
        services = tuple(
            ServiceCapacity(each.name, each.asked_rate, given[each.name], each.latency_slo_ms)
            for each in self.whole.services
        )
        value = plan.objective.value - self._cost(plan.gpus) + self._cost(gpus)
        objective = Objective(plan.objective.name, value, min(self.lower_bound, value))
        return replace(plan, services=services, gpus=tuple(gpus), objective=objective)

    def _cost(self, gpus: Iterable[PlannedGpu]) -> float:
        pools = self.whole.pools
        return sum(
            next(
                self.whole.gpu_cost(index)
                for index, pool in enumerate(pools)
                if gpu.pool in ("", pool.name) and pool.gpu.name == gpu.model
            )
            for gpu in gpus
        )


def bundle(
    problem: Problem,
    needs: Needs,
    deadline: Deadline,
    running: Iterable[tuple[int, Sequence[str]]] = (),
) -> Bundled:
    """Pack the services that share into bundles for the fewest GPUs, and return the problem of the bundles.

    Args:
        problem: all services.
        needs: of those that share.
        deadline: of the search.
        running: sizes of the instances that are shared now, and the services on each. Where a packing that keeps them
            takes as few GPUs as another, it is taken.
    """
    sharing = set(needs.at.tolist())
    alone = problem.with_services(tuple(s for i, s in enumerate(problem.services) if i not in sharing))
    relaxed = _relax(alone, needs, deadline)
    exact = _exact(alone, needs, deadline)
    found = [] if exact.packing is None else [exact.packing]
    if kept := _kept(needs, running):
        found.insert(0, _packed(needs, relaxed.sizes, kept))
    if exact.packing is None:
        found += _packings(alone, needs, relaxed.sizes)
    best = min(found, key=lambda each: _value(alone, _demand(alone, each)))
    bundles = tuple(sorted(members for k, held in best for members in _repaired(needs, k, held)))
    return Bundled(
        alone.with_services((*alone.services, *(_as_service(problem, needs, each) for each in bundles))),
        problem,
        needs,
        bundles,
        round_up(max(relaxed.bound, exact.bound), problem),
    )


def _repaired(needs: Needs, k: int, members: Members) -> Iterator[Members]:
    """Yield a bundle, or its halves where a simulation refutes that it keeps its promises."""
    if len(members) == 1 or needs.keeps(members, k):
        yield members
        return
    for half in (members[::2], members[1::2]):
        yield from _repaired(needs, k, half)


def label(words: Sequence[str]) -> str:
    """Return the name of several: that of the first, and how many others there are."""
    others = len(set(words)) - 1
    return f"{words[0]} +{others}" if others else words[0]


def _as_service(problem: Problem, needs: Needs, members: Members) -> Service:
    specs = [needs.specs[s] for s in members]
    points: list[OperatingPoint | None] = [
        needs.point(members, k, size.profile) if needs.fits(members, k) else None
        for k, size in enumerate(problem.sizes)
    ]
    least = min(point.throughput for point in points if point is not None)
    return Service(
        name=label([spec.name for spec in specs]),
        model=label([spec.model for spec in specs]),
        # One instance of any size holds the whole bundle, whatever else its throughput would be enough for.
        rate=least,
        asked_rate=least,
        latency_slo_ms=min(spec.slo.latency_ms for spec in specs),
        points=tuple(points),
        priority=max(spec.priority for spec in specs),
    )


# --- the bound, and which services belong on which size


@dataclass(frozen=True, slots=True)
class _Relaxation:
    """The linear program of sharing: its optimum, and the size that each service is best put on, shape (S,)."""

    bound: float
    sizes: NDArray[np.int64]


def _relax(alone: Problem, needs: Needs, deadline: Deadline) -> _Relaxation:
    """Solve the linear program in which services may be divided between instances.

    Instances of each size in use by bundles have room for their memory and are busy for at most all the time.
    Services that do not share get the instances of the compact program's relaxation.
    """
    sizes = len(alone.sizes)
    gpus = gpu_supply(alone, np.zeros(sizes), integer=False, extra_cost=None)
    program = gpus.program
    endless = np.full(sizes, INFINITY)
    memory = program.add_rows(np.zeros(sizes), endless)
    time = program.add_rows(np.zeros(sizes), endless)
    kinds, of = _kinds(needs)
    count = np.bincount(of, minlength=len(kinds)).astype(np.float64)
    assigned = program.add_rows(count, np.full(len(kinds), INFINITY))
    _add_alone(alone, gpus)
    room = np.maximum(needs.room, 1e-9)
    entries = [
        (np.array([gpus.sizes + k, memory + k, time + k], dtype=np.int32), np.array([-1.0, 1.0, 1.0]))
        for k in range(sizes)
    ]
    program.add_columns(np.zeros(sizes), endless, entries)
    busy = needs.busy
    able = needs.able[kinds]
    pairs = np.argwhere(able)
    placed = [
        (
            np.array([memory + k, time + k, assigned + g], dtype=np.int32),
            np.array([-needs.memory[kinds[g], k] / room[k], -busy[kinds[g], k], 1.0]),
        )
        for g, k in pairs
    ]
    first = program.add_columns(np.zeros(len(pairs)), np.full(len(pairs), INFINITY), placed)
    program.make_continuous()
    solution = program.solve(deadline)
    if not len(solution.columns):
        return _Relaxation(INFINITY if solution.infeasible else 0.0, able.argmax(axis=1)[of])
    share = np.zeros(able.shape)
    share[pairs[:, 0], pairs[:, 1]] = solution.columns[first:]
    return _Relaxation(solution.value, _divided(share, of))


def _kinds(needs: Needs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one service of each kind of equal services, and the kind of each service."""
    table = np.column_stack([needs.rate, needs.quantile, needs.seconds, needs.slack, needs.memory])
    _, first, of = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first.astype(np.int64), of.reshape(-1).astype(np.int64)


def _divided(share: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a size for each service, so that each kind is divided over the sizes as in `share`."""
    sizes = np.zeros(len(of), dtype=np.int64)
    for g in range(len(share)):
        mine = np.flatnonzero(of == g)
        ends = np.cumsum(share[g])
        at = (np.arange(len(mine)) + 0.5) * (ends[-1] / len(mine))
        sizes[mine] = np.searchsorted(ends, at)
    return sizes


def _add_alone(alone: Problem, gpus: GpuSupply) -> None:
    """Add the instances of the services that do not share to a program."""
    services = len(alone.services)
    if services:
        endless = np.full(services, INFINITY)
        rates = gpus.program.add_rows(np.ones(services), endless)
        replicas = gpus.program.add_rows(alone.replicas.astype(np.float64), endless)
        add_instances(alone, gpus, rates, replicas, alone.instance_cost)


def _value(alone: Problem, demand: NDArray[np.float64]) -> float:
    """Return the objective, or its relaxation where some services do not share, if bundles take these instances."""
    gpus = gpu_supply(alone, demand, integer=not alone.services, extra_cost=None)
    _add_alone(alone, gpus)
    if alone.services:
        gpus.program.make_continuous()
    solution = gpus.program.solve(Deadline(_SECONDS))
    return round_up(solution.value, alone) if len(solution.columns) else math.inf


# --- few kinds of services: all ways to share


@dataclass(frozen=True, slots=True)
class _Exact:
    """The packing of the integer program, None where there are too many kinds or no time, and its bound."""

    packing: Packing | None = None
    bound: float = 0.0


def _exact(alone: Problem, needs: Needs, deadline: Deadline) -> _Exact:
    """Choose among all maximal bundles, together with cuts and with instances of services that do not share."""
    kinds, of = _kinds(needs)
    if len(kinds) > MOST_KINDS:
        return _Exact()
    count = np.bincount(of, minlength=len(kinds))
    patterns = _Patterns(needs, kinds, count)
    try:
        found = [(k, pattern) for k in range(len(alone.sizes)) for pattern in patterns.maximal(k)]
    except _TooManyError:
        return _Exact()
    gpus = gpu_supply(alone, np.zeros(len(alone.sizes)), integer=True, extra_cost=None)
    wanted = gpus.program.add_rows(count.astype(np.float64), np.full(len(kinds), INFINITY))
    _add_alone(alone, gpus)
    entries = []
    for k, pattern in found:
        held = [g for g, n in enumerate(pattern) if n]
        rows = np.array([gpus.sizes + k, *(wanted + g for g in held)], dtype=np.int32)
        entries.append((rows, np.array([-1.0, *(float(pattern[g]) for g in held)])))
    endless = np.full(len(found), INFINITY)
    first = gpus.program.add_columns(np.zeros(len(found)), endless, entries, integer=True)
    solution = gpus.program.solve(deadline.share(_EXACT_SHARE))
    if not len(solution.columns):
        return _Exact(None, INFINITY if solution.infeasible else max(0.0, solution.bound))
    waiting = [np.flatnonzero(of == g).tolist()[::-1] for g in range(len(kinds))]
    packing: Packing = []
    for (k, pattern), n in zip(found, np.rint(solution.columns[first:]).astype(np.int64), strict=True):
        for _ in range(n):
            taken = [waiting[g].pop() for g, m in enumerate(pattern) for _ in range(min(m, len(waiting[g])))]
            if taken:
                packing.append((k, tuple(sorted(taken))))
    return _Exact(packing, max(0.0, solution.bound))


class _TooManyError(Exception):
    """There are too many bundles to list."""


class _Patterns:
    """The bundles of kinds of services: how many of each kind."""

    def __init__(self, needs: Needs, kinds: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        self._needs, self._kinds, self._count = needs, kinds.tolist(), count.tolist()
        self._known: dict[tuple[int, tuple[int, ...]], bool] = {}

    def maximal(self, k: int) -> list[tuple[int, ...]]:
        """Return the bundles that fit on size k and to which no service can be added.

        Raises:
            _TooManyError: there are more than `MOST_PATTERNS` to look at.
        """
        return [found for found in self._grown(k, (0,) * len(self._kinds), 0) if self._full(k, found)]

    def _grown(self, k: int, pattern: tuple[int, ...], g: int) -> Iterator[tuple[int, ...]]:
        if g == len(pattern):
            if any(pattern):
                yield pattern
            return
        while self._fits(k, pattern):
            yield from self._grown(k, pattern, g + 1)
            if pattern[g] == self._count[g]:
                return
            pattern = _plus_one(pattern, g)

    def _full(self, k: int, pattern: tuple[int, ...]) -> bool:
        return not any(
            n < self._count[g] and self._fits(k, _plus_one(pattern, g)) for g, n in enumerate(pattern)
        )

    def _fits(self, k: int, pattern: tuple[int, ...]) -> bool:
        key = (k, pattern)
        if key not in self._known:
            if len(self._known) >= MOST_PATTERNS:
                raise _TooManyError
            members = [s for s, n in zip(self._kinds, pattern, strict=True) for _ in range(n)]
            self._known[key] = not members or self._needs.fits(members, k)
        return self._known[key]


def _plus_one(pattern: tuple[int, ...], g: int) -> tuple[int, ...]:
    return (*pattern[:g], pattern[g] + 1, *pattern[g + 1 :])


# --- many kinds: vector bin packing


def _packings(alone: Problem, needs: Needs, sizes: NDArray[np.int64]) -> Iterator[Packing]:
    """Yield packings: each service on the size that the linear program gives it, then all on one size if they can."""
    best = _packed(needs, sizes)
    yield best
    least = _value(alone, _demand(alone, best))
    able = needs.able
    for k in range(len(alone.sizes)):
        on = np.where(able[:, k], k, sizes)
        mine = np.flatnonzero(on == k)
        if not len(mine) or (on == sizes).all():
            continue
        demand = np.zeros(len(alone.sizes))
        demand[k] = max(needs.memory[mine, k].sum() / needs.room[k], needs.busy[mine, k].sum())
        if _value(alone, np.ceil(demand)) <= least:
            yield _packed(needs, on)


def _demand(alone: Problem, packing: Packing) -> NDArray[np.float64]:
    return np.bincount([k for k, _ in packing], minlength=len(alone.sizes)).astype(np.float64)


def _packed(needs: Needs, sizes: NDArray[np.int64], kept: Packing | None = None) -> Packing:
    """Return a packing with each service on its size, beside bundles that are there already.

    Args:
        needs: of the services.
        sizes: where each goes, shape (S,).
        kept: bundles that stay as they are, or get more services.
    """
    staying = {s for _, members in kept or () for s in members}
    packing: Packing = []
    for k in range(needs.memory.shape[1]):
        there = [list(members) for at, members in kept or () if at == k]
        mine = np.array([s for s in np.flatnonzero(sizes == k) if s not in staying], dtype=np.int64)
        least = max(
            1, len(there), math.ceil(sum(needs.memory[s, k] for s in mine) / max(needs.room[k], 1e-9))
        )
        best: list[list[int]] | None = None
        for stretch in _STRETCHES:
            found = _on_size(needs, k, mine, [list(each) for each in there], stretch)
            if best is None or len(found) < len(best):
                best = found
            if len(best) <= least:
                break
        packing += [(k, tuple(sorted(each))) for each in best or () if each]
    return packing


def _on_size(
    needs: Needs, k: int, services: NDArray[np.int64], bins: list[list[int]], stretch: float
) -> list[list[int]]:
    """Pack services onto instances of one size: best fit, the most urgent and then the largest first.

    Args:
        needs: of the services.
        k: the size.
        services: to be packed.
        bins: bundles that are there already; they grow.
        stretch: how much effective bandwidth an instance has. Above 1 the queue decides what must leave again.
    """
    if len(services):
        _best_fit(needs, k, services, bins, stretch)
    astray: list[int] = []
    for members in bins:
        while len(members) > 1 and not needs.fits(members, k):
            urgency = float(needs.urgency[members, k].max())
            heaviest = int(np.argmax(needs.shares(urgency, np.array(members), k)))
            astray.append(members.pop(heaviest))
    for s in astray:
        if not _absorbed(needs, k, s, bins):
            bins.append([s])
    while len(bins) > 1:
        smallest = min(range(len(bins)), key=lambda at: needs.memory[bins[at], k].sum())
        others = [list(each) for at, each in enumerate(bins) if at != smallest]
        if not all(_absorbed(needs, k, s, others) for s in bins[smallest]):
            break
        bins = others
    return bins


def _best_fit(
    needs: Needs, k: int, services: NDArray[np.int64], bins: list[list[int]], stretch: float
) -> None:
    urgency = needs.urgency[services, k]
    level = np.floor(np.log(urgency) / math.log(_LEVELS))
    tops = {at: float(urgency[level == at].max()) for at in np.unique(level)}
    share = needs.rate[services] * np.expm1(urgency * needs.seconds[services, k]) / urgency
    large = np.maximum(needs.memory[services, k] / needs.room[k], share)
    most = len(bins) + len(services)
    room, time, top = np.zeros(most), np.zeros(most), np.zeros(most)
    for at, members in enumerate(bins):
        of = np.array(members)
        top[at] = float(needs.urgency[of, k].max())
        room[at] = needs.room[k] - needs.memory[of, k].sum()
        time[at] = stretch - needs.shares(top[at], of, k).sum()
    for i in np.lexsort((-large, -level)):
        s, used = int(services[i]), len(bins)
        taken = needs.rate[s] * np.expm1(top[:used] * needs.seconds[s, k]) / np.maximum(top[:used], 1e-12)
        fits = (
            (room[:used] >= needs.memory[s, k])
            & (time[:used] >= taken)
            & (top[:used] >= urgency[i] * (1 - 1e-12))
        )
        if fits.any():
            left = np.where(fits, room[:used] / needs.room[k] + time[:used], INFINITY)
            at = int(left.argmin())
            bins[at].append(s)
        else:
            at = used
            bins.append([s])
            room[at], time[at], top[at] = needs.room[k], stretch, tops[level[i]]
            taken = np.append(taken, needs.rate[s] * np.expm1(top[at] * needs.seconds[s, k]) / top[at])
        room[at] -= needs.memory[s, k]
        time[at] -= taken[at]


def _absorbed(needs: Needs, k: int, s: int, bins: list[list[int]]) -> bool:
    """Add a service to the fullest bundle that takes it; return whether one does."""
    left = np.array([needs.room[k] - needs.memory[each, k].sum() for each in bins])
    tried = 0
    for at in np.argsort(left):
        if left[at] >= needs.memory[s, k] and needs.busy[[*bins[at], s], k].sum() < 1.0:
            if needs.fits([*bins[at], s], k):
                bins[at].append(s)
                return True
            tried += 1
            if tried >= _TRIES:
                return False
    return False


# --- what runs now


def _kept(needs: Needs, running: Iterable[tuple[int, Sequence[str]]]) -> Packing:
    """Return the bundles that run now, without services that share no more or fit no more."""
    index = {spec.name: s for s, spec in enumerate(needs.specs)}
    seen: set[int] = set()
    packing: Packing = []
    for k, services in running:
        members: list[int] = []
        for s in (index[name] for name in services if name in index):
            if s not in seen and needs.fits([*members, s], k):
                members.append(s)
                seen.add(s)
        if members:
            packing.append((k, tuple(sorted(members))))
    return packing
