"""From configurations to a plan: starts on each GPU, GPUs on nodes, names, and what each service gets."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import repeat
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.mig.layout import Placement, layout_of
from partita.planning.placing.nodes import place_on_nodes
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.planning.problem import WATTS_PER_GPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.mig.gpu import GpuModel
    from partita.planning.placing.nodes import Placed
    from partita.planning.plan import GpuConfig
    from partita.planning.problem import Problem
    from partita.planning.watch import Watch


def assemble(
    problem: Problem,
    configs: Mapping[GpuConfig, int],
    *,
    lower_bound: float,
    solver: Solver,
    placed: Placed | None = None,
) -> Plan:
    """Return the plan in which so many GPUs have each configuration.

    GPUs of one configuration share one tuple of instances. Nodes are numbered through all pools, a pool with
    a count having as many as its GPUs fill.

    Args:
        problem: what the configurations were made for.
        configs: how many GPUs have each.
        lower_bound: proven, in units of the objective.
        solver: who made the configurations.
        placed: where each GPU stands, if that is known.

    Raises:
        PartitaError: no way was found to spread the services over as many nodes as they must be.
    """
    maker = _Maker(problem)
    placed = placed or placed_configs(problem, configs)
    if placed is None:
        raise PartitaError(
            "no way was found to spread the services over as many nodes as asked, nor proof that there is none",
            where="services",
            hint="lower `spread`, add nodes, or try --planner exact, which finds a way or proves that there is none",
        )
    named = _named(problem)
    gpus = tuple(
        PlannedGpu(
            f"node-{node}/gpu-{position}",
            problem.pools[config.pool].gpu.name,
            maker.instances(config),
            named[config.pool],
        )
        for (node, position), config in placed
    )
    value = _value(problem, configs)
    if problem.objective == "watts":
        # Planners count this for every GPU, and no GPU is used without an instance; the value does not.
        instances = sum(len(config.assignment) * n for config, n in configs.items())
        lower_bound -= WATTS_PER_GPU * instances
    return Plan(
        objective=Objective(problem.objective, value, min(lower_bound, value)),
        solver=solver,
        services=maker.capacities(configs),
        gpus=gpus,
    )


def placed_configs(
    problem: Problem, configs: Mapping[GpuConfig, int], watch: Watch | None = None
) -> Placed | None:
    """Return where GPUs of these configurations stand; None where no way to spread the services was found.

    Args:
        problem: what the configurations were made for.
        configs: how many GPUs have each.
        watch: when to give up.
    """
    return place_on_nodes(problem, [_line(configs, index) for index in range(len(problem.pools))], watch)


def _named(problem: Problem) -> list[str]:
    """Return what a plan's GPUs say of their pool: nothing where the model says it all."""
    models = Counter(pool.gpu.name for pool in problem.pools)
    return [
        "" if pool.name == pool.gpu.name and models[pool.gpu.name] == 1 else pool.name
        for pool in problem.pools
    ]


def _line(configs: Mapping[GpuConfig, int], pool: int) -> list[GpuConfig]:
    """Return one entry per GPU of a pool, GPUs of one service beside each other."""
    mine = sorted((c for c in configs if c.pool == pool), key=lambda c: (c.assignment[0][1], c.assignment))
    return [config for config in mine for _ in repeat(None, configs[config])]


def _value(problem: Problem, configs: Mapping[GpuConfig, int]) -> float:
    """Return the objective of the configurations: what the user is told, in whole GPUs, currency or watts."""
    total: dict[int, int] = defaultdict(int)
    for config, n in configs.items():
        total[config.pool] += n
    if problem.objective == "watts":
        watts = problem.instance_cost
        return float(sum(n * watts[s, k] for config, n in configs.items() for k, s in config.assignment))
    return float(sum(problem.gpu_cost(pool) * n for pool, n in total.items()))


class _Maker:
    """Makes instances, each distinct one once."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._gpus = [_used_profiles(problem, index) for index in range(len(problem.pools))]
        self._made: dict[tuple[int, int, int], Instance] = {}
        self._tuples: dict[GpuConfig, tuple[Instance, ...]] = {}

    def instances(self, config: GpuConfig) -> tuple[Instance, ...]:
        """Return the instances of a configuration with their starts, in the order of starts."""
        if config not in self._tuples:
            self._tuples[config] = self._place(config)
        return self._tuples[config]

    def _place(self, config: GpuConfig) -> tuple[Instance, ...]:
        gpu = self._gpus[config.pool]
        waiting: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for k, s in reversed(config.assignment):
            waiting[self._problem.sizes[k].profile].append((k, s))
        counts = tuple(len(waiting[profile.name]) for profile in gpu.profiles)
        return tuple(self._instance(p, *waiting[p.profile].pop()) for p in layout_of(gpu, counts))

    def _instance(self, placement: Placement, k: int, s: int) -> Instance:
        key = (placement.start, k, s)
        if key not in self._made:
            service = self._problem.services[s]
            point = service.points[k]
            if point is None:
                raise AssertionError(f"{service.name} cannot run on {placement.profile}")
            self._made[key] = Instance(placement, service.name, service.model, point)
        return self._made[key]

    def capacities(self, configs: Mapping[GpuConfig, int]) -> tuple[ServiceCapacity, ...]:
        """Return what each service gets."""
        throughput = self._problem.throughput
        given: dict[int, float] = defaultdict(float)
        for config, n in configs.items():
            for k, s in config.assignment:
                given[s] += n * float(throughput[s, k])
        return tuple(
            ServiceCapacity(service.name, service.asked_rate, given[s], service.latency_slo_ms)
            for s, service in enumerate(self._problem.services)
        )


def _used_profiles(problem: Problem, pool: int) -> GpuModel:
    names = [size.profile for size in problem.sizes if size.pool == pool]
    return problem.pools[pool].gpu.with_plain(names)
