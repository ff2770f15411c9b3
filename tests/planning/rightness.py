"""What every planner's plan must be."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from benchmarks.checked import faults

from partita.mig.layout import Layout

if TYPE_CHECKING:
    from partita.planning.plan import Plan
    from partita.planning.problem import Problem


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
