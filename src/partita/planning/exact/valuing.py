"""What configurations cost, and whether they meet every rate."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from partita.planning.exact.program import RATE_SLACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.planning.plan import GpuConfig
    from partita.planning.problem import Problem


def config_value(problem: Problem, configs: Mapping[GpuConfig, int]) -> float:
    """Return the objective, GPUs beyond a pool's count being dearer than any that are there."""
    used = Counter[int]()
    for config, n in configs.items():
        used[config.pool] += n
    value = sum(n * problem.gpu_cost(pool) for pool, n in sorted(used.items()))
    if problem.instance_cost.any():
        for config, n in configs.items():
            value += n * float(sum(problem.instance_cost[s, k] for k, s in config.assignment))
    beyond = sum(max(0, used[i] - p.count) for i, p in enumerate(problem.pools) if p.count is not None)
    return value + beyond * 1e6 * float(problem.cut_cost.max())


def meets_rates(problem: Problem, configs: Mapping[GpuConfig, int]) -> bool:
    """Say whether every service gets its rate, up to rounding in sums."""
    capacity: defaultdict[int, float] = defaultdict(float)
    for config, n in configs.items():
        for k, s in config.assignment:
            capacity[s] += n * float(problem.throughput[s, k])
    return all(
        capacity[s] >= service.rate * (1 - 2 * RATE_SLACK) for s, service in enumerate(problem.services)
    )
