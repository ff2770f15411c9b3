"""Checks the plan of every planner, in each benchmark and each test."""

from __future__ import annotations

import functools
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from partita.perf.table import Measurement, PerfTable
from partita.planning.check import RequiredPool, RequiredService, Requirements, Violation, check_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.planning.plan import Instance, Plan, Planner
    from partita.planning.problem import Problem, Service

    Make = Callable[[Planner, Problem], Plan]

PLANNERS = {
    "partita.planning.exact": ("ExactPlanner",),
    "partita.planning.mig_serving": ("GreedyPlanner", "MctsPlanner", "GeneticPlanner"),
    "partita.planning.static_cuts": ("WholePlanner", "OnesPlanner", "MixPlanner"),
}


def check_every_plan() -> None:
    """Make all planners of this process raise AssertionError instead of returning a wrong plan."""
    for module, names in PLANNERS.items():
        for name in names:
            planner = getattr(import_module(module), name)
            if not hasattr(planner.plan, "__wrapped__"):
                planner.plan = _checked(planner.plan)


def _checked(make: Make) -> Make:
    @functools.wraps(make)
    def plan(planner: Planner, problem: Problem) -> Plan:
        made = make(planner, problem)
        found = faults(made, problem)
        assert not found, f"{type(planner).__name__} made a wrong plan: {'; '.join(map(str, found[:5]))}"
        return made

    return plan


def faults(plan: Plan, asked: Problem) -> list[Violation]:
    """Return the faults that the checker finds in a plan for a problem.

    Services that share an instance are one service here: what of them fits together, the problem takes as given. With
    waiting, services of one model have unlike throughputs, so each service is its own model here.
    """
    asked = asked.with_services(tuple(map(_as_model, asked.services)))
    made: dict[int, tuple[Instance, ...]] = {}
    for gpu in plan.gpus:
        if id(gpu.instances) not in made:
            made[id(gpu.instances)] = tuple(map(_as_model_instance, gpu.instances))
    gpus = tuple(replace(gpu, instances=made[id(gpu.instances)]) for gpu in plan.gpus)
    return check_plan(replace(plan, gpus=gpus), _required(asked), _table(asked))


def _as_model(service: Service) -> Service:
    points = service.points
    if any(point and point.tenants for point in points):
        points = tuple(
            None if point is None else replace(point, tenants=(), quantile="mean") for point in points
        )
    return replace(service, model=service.name, points=points)


def _as_model_instance(instance: Instance) -> Instance:
    point = replace(instance.point, tenants=()) if instance.point.tenants else instance.point
    return replace(instance, model=instance.service, point=point)


def _required(asked: Problem) -> Requirements:
    pools = tuple(
        RequiredPool(
            pool.gpu,
            pool.count,
            pool.per_node,
            pool.cost,
            pool.name,
            pool.nodes_per_rack,
            pool.zone,
            pool.spot,
        )
        for pool in asked.pools
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
            survive=each.survive or "none",
            survive_share=each.survive_share,
            spot=each.spot,
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
