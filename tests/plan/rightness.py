"""What every planner's plan must be."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from partita.mig.layout import Layout
from partita.perf.table import Measurement, PerfTable
from partita.plan.checking.check import Fault, check_plan
from partita.plan.checking.requirements import RequiredPool, RequiredService, Requirements

if TYPE_CHECKING:
    from partita.plan.plan import Plan
    from partita.plan.problem import Problem


def assert_right(plan: Plan, asked: Problem) -> None:
    """Hold a plan to its problem, here and by the checker: layouts, rates, replicas, nodes, limits, pools, bound."""
    assert faults(plan, asked) == []
    models = {pool.gpu.name: pool.gpu for pool in asked.pools}
    capacity: dict[str, float] = defaultdict(float)
    nodes: dict[str, set[str]] = defaultdict(set)
    replicas: dict[str, int] = defaultdict(int)
    for gpu in plan.gpus:
        Layout(models[gpu.model], tuple(each.placement for each in gpu.instances))
        names = {each.service for each in gpu.instances}
        assert asked.max_services_per_gpu is None or len(names) <= asked.max_services_per_gpu
        for each in gpu.instances:
            capacity[each.service] += each.point.throughput
            nodes[each.service].add(gpu.id.split("/")[0])
            replicas[each.service] += 1
    assert len({gpu.id for gpu in plan.gpus}) == len(plan.gpus)
    for service, given_ in zip(asked.services, plan.services, strict=True):
        assert capacity[service.name] >= service.rate * (1 - 1e-6)
        assert given_.capacity == pytest.approx(capacity[service.name])
        assert replicas[service.name] >= service.min_replicas
        assert len(nodes[service.name]) >= service.spread
    assert plan.objective.lower_bound <= plan.objective.value + 1e-9


def faults(plan: Plan, asked: Problem) -> list[Fault]:
    """Return what the checker finds wrong in a plan for a problem."""
    return check_plan(plan, _required(asked), _table(asked))


def _required(asked: Problem) -> Requirements:
    pools = tuple(
        RequiredPool(pool.gpu, pool.count, pool.per_node, pool.cost, pool.name) for pool in asked.pools
    )
    services = tuple(
        RequiredService(
            name=each.name,
            model=each.model,
            asked_rate=each.asked_rate,
            rate=each.rate,
            latency_slo_ms=each.latency_slo_ms,
            latency_ms=each.latency_slo_ms,
            min_replicas=each.min_replicas,
            spread=each.spread,
            pools=tuple(
                pool.name
                for index, pool in enumerate(asked.pools)
                if any(
                    p for p, size in zip(each.points, asked.sizes, strict=True) if p and size.pool == index
                )
            ),
        )
        for each in asked.services
    )
    most = max((p.processes for each in asked.services for p in each.points if p), default=1)
    return Requirements(services, pools, max_processes=most, max_services_per_gpu=asked.max_services_per_gpu)


def _table(asked: Problem) -> PerfTable:
    """Return a table with the rows that the problem's points were chosen from."""
    found = {}
    for each in asked.services:
        for point, size in zip(each.points, asked.sizes, strict=True):
            if point is not None:
                gpu = asked.pools[size.pool].gpu.name
                found[each.model, gpu, size.profile, point.batch, point.processes] = Measurement(
                    each.model,
                    gpu,
                    size.profile,
                    point.batch,
                    point.processes,
                    point.throughput,
                    point.latency_ms,
                    point.quantile,
                    power_w=point.power_w,
                    estimated=point.estimated,
                )
    return PerfTable(found.values())
