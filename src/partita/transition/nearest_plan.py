"""Of the plans that are equally good, the one that is nearest to what runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError
from partita.mig.layout import layout_of
from partita.planning.exact.counts import Counts
from partita.planning.plan import Instance, Plan, PlannedGpu, ServiceCapacity
from partita.transition.deployment import deployment_of
from partita.transition.durations import MEASURED
from partita.transition.nearest import nearest
from partita.transition.nearest_counts import nearest_counts
from partita.transition.refill import held, refill
from partita.transition.transition import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from partita.planning.problem import Problem
    from partita.transition.deployment import Deployment
    from partita.transition.refill import Filled

_SERVICES = 100
"""Up to here counts are chosen anew; beyond, those of the plan stay."""


def nearest_plan(problem: Problem, plan: Plan, current: Deployment) -> Plan:
    """Return a plan as good as this one that leaves more replicas where they are, or this one.

    First the counts: an integer program keeps the plan's objective and maximises the instances, per service and
    size, that run already, with few new ones. Then the GPUs: cuts go onto physical GPUs by assignment, and each
    keeps the replicas it has as far as the counts ask for them. A plan that this would break a limit of
    (services per GPU, spread over nodes) is returned as it is.
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
