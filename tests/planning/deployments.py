"""A checker of deployments, from the definition: what every planner's configurations must keep to."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from partita.mig.layout import legal_layouts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.planning.problem import GpuConfig, Problem


def cost(asked: Problem, configs: Mapping[GpuConfig, int]) -> float:
    return sum(n * asked.gpu_cost(config.pool) for config, n in configs.items())


def assert_valid(asked: Problem, configs: Mapping[GpuConfig, int]) -> None:
    """Rates, replicas, spread, services per GPU, pool counts, and a legal layout for each configuration."""
    capacity: defaultdict[int, float] = defaultdict(float)
    replicas: Counter[int] = Counter()
    gpus: Counter[int] = Counter()
    used: Counter[int] = Counter()
    for config, n in configs.items():
        assert n > 0
        assert config.assignment
        assert_legal(asked, config)
        used[config.pool] += n
        for size, service in config.assignment:
            point = asked.services[service].points[size]
            assert point is not None
            capacity[service] += n * point.throughput
            replicas[service] += n
        for service in {service for _, service in config.assignment}:
            gpus[service] += n
    for index, wanted in enumerate(asked.services):
        assert capacity[index] >= wanted.rate * (1 - 1e-9)
        assert replicas[index] >= max(wanted.min_replicas, wanted.spread)
        assert gpus[index] >= wanted.spread
    for index, pool in enumerate(asked.pools):
        assert pool.count is None or used[index] <= pool.count


def assert_legal(asked: Problem, config: GpuConfig) -> None:
    sizes = [asked.sizes[size] for size, _ in config.assignment]
    assert all(size.pool == config.pool for size in sizes)
    counts = Counter(size.profile for size in sizes)
    names = [size.profile for size in asked.sizes if size.pool == config.pool]
    gpu = asked.pools[config.pool].gpu.restricted(names)
    assert any(Counter(layout.counts) == counts for layout in legal_layouts(gpu))
    services = {service for _, service in config.assignment}
    assert asked.max_services_per_gpu is None or len(services) <= asked.max_services_per_gpu
