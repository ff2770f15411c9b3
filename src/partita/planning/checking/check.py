"""The checker: says what is wrong in a plan.

Written from the definition of a plan (the MIG User Guide for what a GPU can be cut into; MIG-Serving,
section 3, for what services are promised), and from nothing that makes plans: those may be wrong, this not.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from partita.planning.checking.check_gpu import Fault, GpuChecker, close

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.planning.checking.check_gpu import Rows
    from partita.planning.checking.requirements import RequiredPool, RequiredService, Requirements
    from partita.planning.plan import Instance, Plan

__all__ = ["Fault", "check_plan"]


def check_plan(plan: Plan, wanted: Requirements, rows: Rows) -> list[Fault]:
    """Return all that is wrong in a plan; an empty list for a right one.

    Args:
        plan: the plan.
        wanted: what it must meet.
        rows: the performance table that its operating points must be found in, estimates included.
    """
    groups = _groups(plan)
    checker = GpuChecker(wanted, rows)
    return [
        *_id_faults(plan),
        *(fault for group in groups for fault in checker.check(group.label, group.model, group.instances)),
        *_pool_faults(wanted, groups),
        *_listed_faults(plan, wanted.services),
        *_service_faults(plan, wanted.services, groups),
        *_objective_faults(plan, wanted, groups, checker),
    ]


@dataclass(frozen=True, slots=True)
class _Group:
    """GPUs that share one tuple of instances: checked once."""

    model: str
    pool: str
    instances: tuple[Instance, ...]
    ids: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        others = len(self.ids) - 1
        return f"{self.ids[0]} and {others} more cut like it" if others else self.ids[0]


def _groups(plan: Plan) -> list[_Group]:
    groups: dict[tuple[str, str, int], _Group] = {}
    for gpu in plan.gpus:
        key = (gpu.model, gpu.pool, id(gpu.instances))
        if key not in groups:
            groups[key] = _Group(gpu.model, gpu.pool, gpu.instances)
        groups[key].ids.append(gpu.id)
    return list(groups.values())


def _node(gpu_id: str) -> str:
    return gpu_id.rpartition("/")[0]


def _id_faults(plan: Plan) -> Iterator[Fault]:
    for gpu_id, n in Counter(gpu.id for gpu in plan.gpus).items():
        if n > 1:
            yield Fault(gpu_id, f"{n} GPUs have this id")
        if not _node(gpu_id):
            yield Fault(gpu_id, "the id does not say the node, as in node-0/gpu-3")


def _pool_faults(wanted: Requirements, groups: list[_Group]) -> Iterator[Fault]:
    """Yield GPUs that stand in no pool, and pools that hold too many, in all or in a node.

    A GPU that does not say its pool may stand in any of its model that all its services may use. Some way to put
    them all must be left: by Hall's theorem there is one if no set of pools is asked for more than it has.
    """
    asked: Counter[frozenset[int]] = Counter()
    known = {service.name: service for service in wanted.services}
    for group in groups:
        mine = [
            index
            for index, pool in enumerate(wanted.pools)
            if pool.gpu.name == group.model and group.pool in ("", pool.name)
        ]
        named = dict.fromkeys(each.service for each in group.instances)
        services = [known[name] for name in named if name in known]
        fitting = [
            index
            for index in mine
            if all(s.pools is None or wanted.pools[index].name in s.pools for s in services)
        ]
        if group.pool and not mine:
            yield Fault(group.label, f"the workload has no pool {group.pool} of {group.model}")
        elif mine and not fitting:
            limited = ", ".join(s.name for s in services if s.pools is not None)
            yield Fault(group.label, f"no pool of {group.model} is open to all its services ({limited})")
        elif mine:
            asked[frozenset(fitting)] += len(group.ids)
    yield from _crowded(wanted.pools, asked)
    yield from _node_faults(wanted.pools, groups)


def _crowded(pools: Sequence[RequiredPool], asked: Counter[frozenset[int]]) -> Iterator[Fault]:
    unions = {frozenset[int]()}
    for each in asked:
        unions |= {each | other for other in unions}
    for union in sorted(unions, key=sorted):
        counts = [pools[index].count for index in union]
        there = sum(count for count in counts if count is not None)
        used = sum(n for each, n in asked.items() if each <= union)
        if None not in counts and used > there:
            names = ", ".join(dict.fromkeys(pools[i].name or pools[i].gpu.name for i in sorted(union)))
            yield Fault(names, f"{used} GPUs used of {there}")


def _node_faults(pools: Sequence[RequiredPool], groups: list[_Group]) -> Iterator[Fault]:
    on: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for group in groups:
        on[group.model, group.pool].update(map(_node, group.ids))
        size = max((pool.per_node for pool in _mine(pools, group.model, group.pool)), default=None)
        for gpu_id in group.ids:
            position = _POSITION.search(gpu_id)
            if position and size is not None and int(position[1]) >= size:
                yield Fault(gpu_id, f"no such position in a node of {size}, whose last is gpu-{size - 1}")
    for (model, name), uses in on.items():
        mine = _mine(pools, model, name)
        if mine:
            yield from _too_many_on(model, uses, max(pool.per_node for pool in mine))
            yield from _too_many_nodes(name or model, sorted(uses.values(), reverse=True), mine)


_POSITION = re.compile(r"/gpu-(\d{1,9})$")


def _mine(pools: Sequence[RequiredPool], model: str, name: str) -> list[RequiredPool]:
    """Return the pools that a GPU may be of; one that does not say its pool may be of any of its model."""
    return [pool for pool in pools if pool.gpu.name == model and name in ("", pool.name)]


def _too_many_on(model: str, uses: Counter[str], size: int) -> Iterator[Fault]:
    for node, used in uses.items():
        if used > size:
            yield Fault(node, f"{used} GPUs {model} in a node of {size}")


def _too_many_nodes(where: str, uses: Sequence[int], mine: Sequence[RequiredPool]) -> Iterator[Fault]:
    """Yield that GPUs stand on more nodes than there are, or on nodes that are not so large.

    Args:
        where: what they are called.
        uses: GPUs on each node, the most first.
        mine: the pools that they may be of.
    """
    counts = [pool.count for pool in mine]
    if None not in counts and sum(uses) > sum(count or 0 for count in counts):
        return  # more GPUs than there are, which is told of them all
    if uses[0] > max(pool.per_node for pool in mine):
        return  # more on a node than any holds, which is told of the node
    sizes = sorted((size for pool in mine for size in _nodes_of(pool, len(uses))), reverse=True)
    if len(uses) > len(sizes):
        yield Fault(where, f"{len(uses)} nodes used of {len(sizes)}")
    elif any(used > size for used, size in zip(uses, sizes, strict=False)):
        yield Fault(where, f"{len(uses)} nodes used, and not so many have as many GPUs")


def _nodes_of(pool: RequiredPool, most: int) -> list[int]:
    """Return the GPUs of each node of a pool, of no more full nodes than `most`: all are full but the last."""
    if pool.count is None:
        return [pool.per_node] * most
    full, rest = divmod(pool.count, pool.per_node)
    return [pool.per_node] * min(full, most) + [rest] * (rest > 0)


def _listed_faults(plan: Plan, services: Sequence[RequiredService]) -> Iterator[Fault]:
    wanted = {service.name: service for service in services}
    listed = Counter(service.name for service in plan.services)
    for name, n in listed.items():
        if n > 1:
            yield Fault(f"service {name}", f"listed {n} times")
        if name not in wanted:
            yield Fault(f"service {name}", "not in the workload")
    for name in wanted:
        if name not in listed:
            yield Fault(f"service {name}", "missing in the plan")
    for service in plan.services:
        asked = wanted.get(service.name)
        if asked and not close(service.rate, asked.asked_rate):
            what = f"rate {service.rate:g}, the workload asks {asked.asked_rate:g}"
            yield Fault(f"service {service.name}", what)
        if asked and not close(service.latency_slo_ms, asked.latency_slo_ms):
            yield Fault(
                f"service {service.name}",
                f"SLO {service.latency_slo_ms:g} ms, the workload asks {asked.latency_slo_ms:g} ms",
            )


def _service_faults(plan: Plan, services: Sequence[RequiredService], groups: list[_Group]) -> Iterator[Fault]:
    capacity: defaultdict[str, float] = defaultdict(float)
    replicas: Counter[str] = Counter()
    for group in groups:
        for instance in group.instances:
            capacity[instance.service] += instance.point.throughput * len(group.ids)
            replicas[instance.service] += len(group.ids)
    for listed in plan.services:
        held = capacity[listed.name]
        if not close(listed.capacity, held):
            yield Fault(
                f"service {listed.name}", f"capacity {listed.capacity:g}, its instances give {held:g}"
            )
    nodes = _nodes({s.name for s in services if s.spread > 1}, groups)
    for service in services:
        where = f"service {service.name}"
        if not capacity[service.name] >= service.rate * (1 - 1e-9):
            yield Fault(where, f"capacity {capacity[service.name]:g} is below the rate {service.rate:g}")
        if replicas[service.name] < service.min_replicas:
            yield Fault(where, f"{replicas[service.name]} replicas of at least {service.min_replicas}")
        if service.spread > 1 and len(nodes[service.name]) < service.spread:
            yield Fault(where, f"on {len(nodes[service.name])} nodes of at least {service.spread}")


def _nodes(names: set[str], groups: list[_Group]) -> dict[str, set[str]]:
    nodes: dict[str, set[str]] = {name: set() for name in names}
    for group in groups if names else ():
        on = {_node(gpu_id) for gpu_id in group.ids}
        for name in names & {instance.service for instance in group.instances}:
            nodes[name] |= on
    return nodes


def _objective_faults(
    plan: Plan, wanted: Requirements, groups: list[_Group], checker: GpuChecker
) -> Iterator[Fault]:
    objective = plan.objective
    if not objective.lower_bound <= objective.value + 1e-6 * max(1.0, abs(objective.value)):
        yield Fault("objective", f"lower bound {objective.lower_bound:g} above the value {objective.value:g}")
    if objective.name == "gpus":
        least = most = float(len(plan.gpus))
    elif objective.name == "cost":
        least, most = _cost(plan, wanted.pools)
    elif objective.name == "watts":
        least = most = sum(checker.watts(each.model, each.instances) * len(each.ids) for each in groups)
    else:
        yield Fault("objective", f"{objective.name!r} is none of gpus, cost, watts")
        return
    slack = 1e-6 * max(1.0, abs(most))
    if not least - slack <= objective.value <= most + slack:
        held = f"{least:g}" if close(least, most) else f"{least:g} to {most:g}"
        yield Fault("objective", f"value {objective.value:g}, the plan holds {held}")


def _cost(plan: Plan, pools: Sequence[RequiredPool]) -> tuple[float, float]:
    """Return the least and the most that the GPUs can cost: not the same where they do not say their pool."""
    least = most = 0.0
    for (model, name), used in Counter((gpu.model, gpu.pool) for gpu in plan.gpus).items():
        mine = sorted(
            ((p.cost or 0.0, p.count) for p in pools if p.gpu.name == model and name in ("", p.name)),
            key=itemgetter(0),
        )
        least += _fill(mine, used)
        most += _fill(mine[::-1], used)
    return least, most


def _fill(pools: list[tuple[float, int | None]], used: int) -> float:
    total = 0.0
    for cost, count in pools:
        here = used if count is None else min(count, used)
        total += here * cost
        used -= here
    return total
