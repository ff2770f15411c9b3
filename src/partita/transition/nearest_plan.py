"""The plan nearest to what runs, among equally good ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.mig.layout import layout_of
from partita.milp import INFINITY
from partita.planning.compact import Counts, gpu_supply
from partita.planning.plan import Instance, Plan, PlannedGpu, ServiceCapacity
from partita.transition.deployment import deployment_of
from partita.transition.nearest import Assignment, nearest
from partita.transition.transition import MEASURED, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from partita.planning.problem import Problem
    from partita.transition.deployment import DeployedGpu, Deployment


_SERVICES = 100
"""Up to this many services counts are chosen again; beyond, those of the plan stay."""


def nearest_plan(problem: Problem, plan: Plan, current: Deployment) -> Plan:
    """Return a plan as good as this one that leaves more replicas where they are, or this one.

    First the counts: an integer program keeps the plan's objective and maximises the instances, per service and
    size, that run already, with few new ones. Then the GPUs: cuts go onto physical GPUs by assignment, and each
    keeps its replicas as far as the counts need them. Where that would break a limit (services per GPU, spread over
    nodes), the plan is returned as it is.
    """
    models = [pool.gpu.name for pool in problem.pools]
    if len(set(models)) < len(models):
        return plan
    now = _running(problem, current)
    counts = _counts(problem, plan)
    if len(problem.services) <= _SERVICES:
        counts = nearest_counts(problem, counts, now) or counts
    filled = refill(problem, counts, current)
    if filled is None:
        return plan
    found = _plan(problem, plan, filled)
    if _kept(found, current) <= _kept(plan, current):
        return plan
    return found


def _kept(plan: Plan, current: Deployment) -> int:
    """Return how many replicas would stay where they are."""
    try:
        wanted = nearest(Request(current, deployment_of(plan), {}, {}, MEASURED))
    except InfeasibleError:
        return -1
    return sum(
        1
        for gpu in current.gpus
        for each in gpu.instances
        if each.replica and wanted[gpu.id].get(each.placement) == each.replica
    )


def _running(problem: Problem, current: Deployment) -> NDArray[np.int64]:
    """Return the replicas of service s on size k, shape (S, K)."""
    now = np.zeros(problem.throughput.shape, dtype=np.int64)
    for gpu in current.gpus:
        for s, k in held(problem, gpu):
            now[s, k] += 1
    return now


def _counts(problem: Problem, plan: Plan) -> Counts:
    """Return the counts of a plan, each GPU taken as the first cut that has room for its instances."""
    services = {service.name: s for s, service in enumerate(problem.services)}
    pools = {pool.gpu.name: index for index, pool in enumerate(problem.pools)}
    sizes = {(size.pool, size.profile): k for k, size in enumerate(problem.sizes)}
    instances = np.zeros(problem.throughput.shape, dtype=np.int64)
    cuts = np.zeros(len(problem.cuts), dtype=np.int64)
    for gpu in plan.gpus:
        here = np.zeros(len(problem.sizes), dtype=np.int64)
        for each in gpu.instances:
            k = sizes[pools[gpu.model], each.placement.profile]
            instances[services[each.service], k] += 1
            here[k] += 1
        cuts[int(np.flatnonzero((problem.supply >= here).all(axis=1))[0])] += 1
    return Counts(cuts, instances)


def _plan(problem: Problem, plan: Plan, filled: list[Filled]) -> Plan:
    capacity: Counter[int] = Counter()
    gpus = []
    for each in filled:
        instances = _instances(problem, problem.cuts[each.cut].pool, each.content)
        gpus.append(PlannedGpu(each.gpu.id, each.gpu.model, instances))
        for s, k in each.content:
            capacity[s] += problem.throughput[s, k]
    services = tuple(
        ServiceCapacity(service.name, service.asked_rate, float(capacity[s]), service.latency_slo_ms)
        for s, service in enumerate(problem.services)
    )
    used = tuple(gpu for gpu in gpus if gpu.instances)
    return replace(plan, services=services, gpus=used)


def _instances(problem: Problem, pool: int, content: list[tuple[int, int]]) -> tuple[Instance, ...]:
    names = [size.profile for size in problem.sizes if size.pool == pool]
    gpu = problem.pools[pool].gpu.restricted(names)
    waiting: Mapping[str, list[tuple[int, int]]] = {name: [] for name in names}
    for s, k in content:
        waiting[problem.sizes[k].profile].append((s, k))
    layout = layout_of(gpu, tuple(len(waiting[profile.name]) for profile in gpu.profiles))
    found = []
    for placement in layout:
        s, k = waiting[placement.profile].pop()
        service = problem.services[s]
        point = service.points[k]
        if point is not None:
            found.append(Instance(placement, service.name, service.model, point))
    return tuple(found)


_SECONDS = 2.0


_FRESH = 0.25
"""What a new instance costs, in kept instances."""


def nearest_counts(problem: Problem, counts: Counts, now: NDArray[np.int64]) -> Counts | None:
    """Return counts of the same objective that keep the most instances; None if none are found in time.

    Args:
        problem: the services and pools.
        counts: the counts of a plan.
        now: instances of size k that service s runs on now, shape (S, K).
    """
    gpus = gpu_supply(problem, np.zeros(len(problem.sizes)), integer=True, extra_cost=None)
    endless = np.full(len(problem.services), INFINITY)
    rates = gpus.program.add_rows(np.ones(len(problem.services)), endless)
    replicas = gpus.program.add_rows(problem.replicas.astype(np.float64), endless)
    pairs = np.argwhere(problem.throughput > 0)
    entries = [
        (
            np.array([gpus.sizes + k, rates + s, replicas + s], dtype=np.int32),
            np.array([-1.0, problem.throughput[s, k] / problem.rate[s], 1.0]),
        )
        for s, k in pairs
    ]
    cost = problem.instance_cost[pairs[:, 0], pairs[:, 1]]
    most = now[pairs[:, 0], pairs[:, 1]].astype(np.float64)
    kept = gpus.program.add_columns(cost, most, entries, integer=True)
    fresh = gpus.program.add_columns(cost, np.full(len(pairs), INFINITY), entries, integer=True)
    columns = np.arange(gpus.program.width, dtype=np.int32)
    objective = np.concatenate([problem.cut_cost, cost, cost])
    gpus.program.hold(columns, -objective, -counts.value(problem) * (1 + 1e-9))
    changed = np.arange(kept, kept + 2 * len(pairs), dtype=np.int32)
    weights = np.concatenate([np.ones(len(pairs)), np.full(len(pairs), -_FRESH)])
    solution = gpus.program.maximise(changed, weights, Deadline(_SECONDS))
    if not len(solution.columns):
        return None
    chosen = np.rint(solution.columns).astype(np.int64)
    instances = np.zeros(problem.throughput.shape, dtype=np.int64)
    instances[pairs[:, 0], pairs[:, 1]] = (
        chosen[kept : kept + len(pairs)] + chosen[fresh : fresh + len(pairs)]
    )
    if ((problem.throughput * instances).sum(axis=1) < problem.rate * (1 - 1e-9)).any():
        return None  # a rate is missed by the solver's tolerance
    return Counts(chosen[gpus.cuts : gpus.cuts + len(problem.cuts)], instances)


@dataclass(frozen=True, slots=True)
class Filled:
    """A GPU, the cut it gets, and its content as pairs of service and size."""

    gpu: DeployedGpu
    cut: int
    content: list[tuple[int, int]]


def held(problem: Problem, gpu: DeployedGpu) -> Iterator[tuple[int, int]]:
    """Yield service and size of the replicas on a GPU that run at the problem's operating points."""
    services = {service.name: s for s, service in enumerate(problem.services)}
    sizes = {(problem.pools[size.pool].gpu.name, size.profile): k for k, size in enumerate(problem.sizes)}
    for each in gpu.instances:
        if each.replica is None or each.fixed:
            continue
        s, k = services.get(each.replica.service), sizes.get((gpu.model, each.placement.profile))
        if s is None or k is None:
            continue
        point = problem.services[s].points[k]
        if point and (point.batch, point.processes) == (each.replica.batch, each.replica.processes):
            yield s, k


def refill(problem: Problem, counts: Counts, current: Deployment) -> list[Filled] | None:
    """Return what each GPU is to hold; None if there are too few GPUs or a limit of the problem would be broken.

    Cuts go onto GPUs by assignment so that the most replicas stay. Each GPU keeps what the counts still need; other
    instances go where their service runs already, or else together.
    """
    rest = counts.instances.copy()
    running = np.zeros_like(rest)
    for gpu in current.gpus:
        for pair in held(problem, gpu):
            running[pair] += 1
    share = np.minimum(1.0, rest / np.maximum(1, running))
    filled: list[Filled] = []
    for index, pool in enumerate(problem.pools):
        there = [gpu for gpu in current.gpus if gpu.model == pool.gpu.name]
        cuts = [p for p, cut in enumerate(problem.cuts) if cut.pool == index for _ in range(counts.cuts[p])]
        if len(cuts) > len(there):
            return None
        alike = {gpu.id for gpu in [gpu for gpu in there if not gpu.instances][len(cuts) :]}
        filled += _match(problem, [gpu for gpu in there if gpu.id not in alike], cuts, share, rest)
    for each in filled:
        _complete(problem, each, rest)
    return None if rest.any() or not _within_limits(problem, filled) else filled


def _complete(problem: Problem, filled: Filled, rest: NDArray[np.int64]) -> None:
    """Give the free instances of a GPU to services that still lack instances."""
    room = problem.supply[filled.cut].copy()
    for _, k in filled.content:
        room[k] -= 1
    for k in range(len(room)):
        for _ in range(int(room[k])):
            service = _next(rest[:, k], {s for s, _ in filled.content})
            if service is not None:
                rest[service, k] -= 1
                filled.content.append((service, k))


def _match(
    problem: Problem,
    there: list[DeployedGpu],
    cuts: list[int],
    share: NDArray[np.float64],
    rest: NDArray[np.int64],
) -> list[Filled]:
    """Give each cut a GPU, and let it keep what runs there as far as `rest`, which shrinks, asks for it."""
    mine = [list(held(problem, gpu)) for gpu in there]
    worth = np.array([[_worth(problem.supply[p], each, share) for each in mine] for p in sorted(set(cuts))])
    rows = {p: worth[row] for row, p in enumerate(sorted(set(cuts)))}
    if not cuts:
        return []
    value = np.array([rows[p] for p in cuts])
    found = []
    for row, i in enumerate(Assignment(value).columns()):
        content: list[tuple[int, int]] = []
        room = problem.supply[cuts[row]].copy()
        for s, k in sorted(mine[i], key=lambda pair: -share[pair]):
            if room[k] > 0 and rest[s, k] > 0:
                room[k] -= 1
                rest[s, k] -= 1
                content.append((s, k))
        found.append(Filled(there[i], cuts[row], content))
    return found


def _worth(supply: NDArray[np.int64], mine: list[tuple[int, int]], share: NDArray[np.float64]) -> float:
    room, total = supply.copy(), 0.0
    for s, k in sorted(mine, key=lambda pair: -share[pair]):
        if room[k] > 0:
            room[k] -= 1
            total += share[s, k]
    return total


def _next(rest: NDArray[np.int64], here: set[int]) -> int | None:
    """Return the service that an instance is best given to: one that is here already, or has the most to place."""
    mine = [s for s in here if rest[s] > 0]
    if mine:
        return max(mine, key=lambda s: (rest[s], -s))
    best = int(np.argmax(rest))
    return best if rest[best] > 0 else None


def _within_limits(problem: Problem, filled: list[Filled]) -> bool:
    most = problem.max_services_per_gpu
    nodes: dict[int, set[str]] = {s: set() for s in range(len(problem.services))}
    for each in filled:
        services = {s for s, _ in each.content}
        if most is not None and len(services) > most:
            return False
        for s in services:
            nodes[s].add(each.gpu.id.rpartition("/")[0])
    return all(len(nodes[s]) >= service.spread for s, service in enumerate(problem.services))
