"""What is lost together: the rack and zone of each GPU of a plan, and what the worst loss leaves each service."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.planning.plan import WorstLoss

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.planning.plan import Plan, PlannedGpu, ServiceCapacity
    from partita.planning.problem import Level, Pool, Problem


def domain(gpu: PlannedGpu, level: Level) -> str:
    """Return the name of the GPU itself, its node, its rack or its zone; empty where the plan does not say it."""
    if level == "gpu":
        return gpu.id
    return gpu.id.rpartition("/")[0] if level == "node" else {"rack": gpu.rack, "zone": gpu.zone}[level]


def with_domains(plan: Plan, problem: Problem) -> Plan:
    """Return a plan that says the rack and zone of each GPU, and what the worst loss leaves each service.

    Racks are numbered through all pools, as nodes are.
    """
    pools = _pools(problem.pools)
    first_node, first_rack = _firsts(problem.pools)

    def placed(gpu: PlannedGpu) -> PlannedGpu:
        pool = pools.get((gpu.model, gpu.pool))
        if pool is None or not (pool.zone or pool.nodes_per_rack):
            return gpu
        number = domain(gpu, "node").removeprefix("node-")
        rack = ""
        if pool.nodes_per_rack and number.isdecimal():
            rack = (
                f"rack-{first_rack[pool.name] + (int(number) - first_node[pool.name]) // pool.nodes_per_rack}"
            )
        return replace(gpu, zone=pool.zone, rack=rack)

    if any(pool.zone or pool.nodes_per_rack for pool in problem.pools):
        plan = replace(plan, gpus=tuple(map(placed, plan.gpus)))
    levels = {each.name: each.survive for each in problem.services if each.survive}
    if not levels:
        return plan
    worst = _worst(plan.gpus, levels)
    least = {each.name: each.survivor_rate for each in problem.services}

    def with_loss(service: ServiceCapacity) -> ServiceCapacity:
        if service.name not in worst:
            return service
        name, lost = worst[service.name]
        return replace(
            service, loss=WorstLoss(levels[service.name], least[service.name], name, service.capacity - lost)
        )

    return replace(plan, services=tuple(map(with_loss, plan.services)))


def _pools(pools: Sequence[Pool]) -> dict[tuple[str, str], Pool]:
    """Return the pools by what a GPU says: model and pool, and the model alone where it has one pool."""
    models = Counter(pool.gpu.name for pool in pools)
    alone = {(pool.gpu.name, ""): pool for pool in pools if models[pool.gpu.name] == 1}
    return alone | {(pool.gpu.name, pool.name): pool for pool in pools}


def _firsts(pools: Sequence[Pool]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the first node and the first rack of each pool; a pool with racks stands before all without a count."""
    nodes, racks = dict[str, int](), dict[str, int]()
    node = rack = 0
    for pool in pools:
        nodes[pool.name], racks[pool.name] = node, rack
        mine = math.ceil((pool.count or 0) / pool.per_node)
        node += mine
        rack += math.ceil(mine / pool.nodes_per_rack) if pool.nodes_per_rack else 0
    return nodes, racks


def _worst(gpus: Sequence[PlannedGpu], levels: Mapping[str, Level]) -> dict[str, tuple[str, float]]:
    """Return by service the domain that holds most of it, and how much, in items/s."""
    held: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for gpu in gpus:
        for each in gpu.instances:
            if level := levels.get(each.service):
                held[each.service][domain(gpu, level)] += each.point.throughput
    return {name: max(mine.items(), key=lambda item: item[1]) for name, mine in held.items()}
