"""The static cuts that MIG-Serving compares itself with: every GPU of a pool is cut alike."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.deadline import Deadline
from partita.planning.assemble import assemble
from partita.planning.bound import lower_bound
from partita.planning.mig_serving import gpus_left, short_of_gpus
from partita.planning.plan import Plan, Solver
from partita.planning.problem import GpuConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from partita.planning.problem import Problem


@dataclass(frozen=True, slots=True)
class WholePlanner:
    """Whole GPUs, one service each: 7/7 in figure 9 of the paper (arXiv 2109.11067), 4/4 on an A30."""

    deadline: Deadline = field(default_factory=Deadline)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan.

        Raises:
            InfeasibleError: a service cannot run on such a cut, or there are too few GPUs.
        """
        return _planned(problem, whole_configs(problem), "whole", self.deadline)


@dataclass(frozen=True, slots=True)
class OnesPlanner:
    """As many of the smallest instance as a GPU holds: 7x1/7 in figure 9 of the paper.

    A service that does not run on the smallest size gets GPUs cut into the smallest that it runs on.
    """

    deadline: Deadline = field(default_factory=Deadline)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan.

        Raises:
            InfeasibleError: a service cannot run at all, or there are too few GPUs.
        """
        return _planned(problem, ones_configs(problem), "ones", self.deadline)


@dataclass(frozen=True, slots=True)
class MixPlanner:
    """The static cut 4-2-1, one service per GPU: MIX in figure 9 of the paper; 2-1-1 on an A30."""

    deadline: Deadline = field(default_factory=Deadline)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan.

        Raises:
            InfeasibleError: a service cannot run on such a cut, or there are too few GPUs.
        """
        return _planned(problem, mix_configs(problem), "mix", self.deadline)


def whole_configs(problem: Problem) -> Counter[GpuConfig]:
    """Return a deployment on whole GPUs.

    Raises:
        InfeasibleError: a service cannot run on such a cut, or there are too few GPUs.
    """
    return _one_service_each(problem, {7: (7,), 4: (4,)}, "whole")


def mix_configs(problem: Problem) -> Counter[GpuConfig]:
    """Return a deployment on GPUs cut 4-2-1 (of four compute slices: 2-1-1), one service each.

    Raises:
        InfeasibleError: a service cannot run on such a cut, or there are too few GPUs.
    """
    return _one_service_each(problem, {7: (4, 2, 1), 4: (2, 1, 1)}, "mix")


def _planned(problem: Problem, configs: Counter[GpuConfig], name: str, deadline: Deadline) -> Plan:
    bound = lower_bound(problem)
    return assemble(problem, configs, lower_bound=bound, solver=Solver(name, 0, deadline.seconds))


def _one_service_each(
    problem: Problem, parts: dict[int, tuple[int, ...]], planner: str
) -> Counter[GpuConfig]:
    """Give each service GPUs of its own, first of the pool where its throughput costs the least.

    Args:
        problem: the services and pools.
        parts: compute slices of the instances, by the compute slices that a GPU has.
        planner: its name, for errors.
    """
    sizes = {
        pool: _sizes(problem, pool, parts[slices])
        for pool, slices in enumerate(pool.gpu.compute_slices for pool in problem.pools)
        if slices in parts
    }
    cuts = {pool: found for pool, found in sizes.items() if found}
    configs: Counter[GpuConfig] = Counter()
    left = gpus_left(problem, {})
    everyone = range(len(problem.services))
    unmet = [service for service in everyone if not _serve(problem, service, cuts, left, configs)]
    if unmet:
        raise short_of_gpus(problem, unmet, planner)
    return configs


def _sizes(problem: Problem, pool: int, parts: tuple[int, ...]) -> list[int]:
    """Return the sizes of these compute slices, the least memory first; none if the pool lacks one."""
    by_compute = {compute: size for (compute, *_), size in reversed(_by_need(problem, pool))}
    if not set(parts) <= set(by_compute):
        return []
    sizes = [by_compute[part] for part in parts]
    fits = any(all(cut.counts[k] >= sizes.count(k) for k in sizes) for cut in problem.cuts)
    return sizes if fits else []


def _by_need(problem: Problem, pool: int) -> list[tuple[tuple[int, int, bool], int]]:
    """Return (compute, memory, media) and index of each size of a pool, the least first."""
    gpu = problem.pools[pool].gpu
    mine = [(k, gpu.profile(size.profile)) for k, size in enumerate(problem.sizes) if size.pool == pool]
    return sorted(((p.compute, p.memory, p.media), k) for k, p in mine)


def _serve(
    problem: Problem,
    service: int,
    cuts: dict[int, list[int]],
    left: NDArray[np.float64],
    configs: Counter[GpuConfig],
) -> bool:
    """Add the GPUs that a service needs to `configs`, taken from `left`; return whether there were enough."""
    throughput = problem.throughput[service]
    each = {pool: float(throughput[sizes].sum()) for pool, sizes in cuts.items()}
    rate, replicas, gpus = float(problem.rate[service]), int(problem.replicas[service]), 0
    for pool in sorted(each, key=lambda pool: -each[pool] / max(problem.gpu_cost(pool), 1e-9)):
        running = [size for size in cuts[pool] if throughput[size] > 0]
        if not running:
            continue
        spread = problem.services[service].spread - gpus
        needed = max(_ceil(rate / each[pool]), math.ceil(replicas / len(running)), spread)
        here = int(min(needed, left[pool]))
        if here > 0:
            configs[GpuConfig(pool, tuple(sorted((size, service) for size in running)))] += here
            left[pool] -= here
        rate, replicas, gpus = rate - here * each[pool], replicas - here * len(running), gpus + here
        if here >= needed:
            return True
    return False


def _ceil(quotient: float) -> int:
    return math.ceil(quotient - 1e-9)


def ones_configs(problem: Problem) -> Counter[GpuConfig]:
    """Return a deployment on GPUs cut into as many instances as fit, service after service.

    Where a service leaves room on a GPU, the next one fills it.

    Raises:
        InfeasibleError: a service cannot run at all, or there are too few GPUs.
    """
    line = _Line(problem)
    unmet = [service for service in range(len(problem.services)) if not line.serve(service)]
    if unmet:
        raise short_of_gpus(problem, unmet, "ones")
    return line.configs()


class _Line:
    """GPUs of one size each, filled one after the other."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._left = gpus_left(problem, {})
        self._full: Counter[GpuConfig] = Counter()
        self._open: dict[int, list[int]] = {}

    def configs(self) -> Counter[GpuConfig]:
        """Return the GPUs filled so far, those still open included."""
        return self._full + Counter(self._config(size) for size in self._open)

    def serve(self, service: int) -> bool:
        """Give a service the instances that it needs; say whether there were enough."""
        each = self._problem.throughput[service]
        rate, replicas = float(self._problem.rate[service]), int(self._problem.replicas[service])
        gpus, spread = 0, self._problem.services[service].spread
        given, instances = 0.0, 0
        for size in self._choices(service):
            while given < rate * (1 - 1e-9) or instances < replicas or gpus < spread:
                # Replicas come first, each on a GPU of its own until the service is spread.
                new = self._take(size, service, apart=gpus < spread)
                if new is None:
                    break
                given, instances, gpus = given + float(each[size]), instances + 1, gpus + new
            else:
                return True
        return False

    def _choices(self, service: int) -> list[int]:
        """Return the smallest size that runs the service in each pool, the cheapest throughput first."""
        runs = self._problem.throughput[service]
        sizes = [
            next((size for _, size in _by_need(self._problem, pool) if runs[size] > 0), None)
            for pool in range(len(self._problem.pools))
        ]
        return sorted((size for size in sizes if size is not None), key=lambda size: self._dear(size, runs))

    def _dear(self, size: int, runs: NDArray[np.float64]) -> float:
        return self._problem.gpu_cost(self._problem.sizes[size].pool) / (self._room(size) * float(runs[size]))

    def _room(self, size: int) -> int:
        """Return the most instances of a size that one GPU holds."""
        return max(cut.counts[size] for cut in self._problem.cuts)

    def _take(self, size: int, service: int, *, apart: bool) -> bool | None:
        """Take one instance for a service, on a GPU without it if `apart`.

        Returns:
            Whether the service is new on that GPU; None if there is no GPU left.
        """
        most = self._problem.max_services_per_gpu
        on = self._open.get(size, [])
        crowded = most is not None and len({*on, service}) > most
        if not on or crowded or (apart and service in on):
            pool = self._problem.sizes[size].pool
            if self._left[pool] <= 0:
                return None
            self._left[pool] -= 1
            self._close(size)
            on = self._open[size] = []
        new = service not in on
        on.append(service)
        if len(on) == self._room(size):
            self._close(size)
        return new

    def _close(self, size: int) -> None:
        if size in self._open:
            self._full[self._config(size)] += 1
            del self._open[size]

    def _config(self, size: int) -> GpuConfig:
        pairs = tuple((size, service) for service in sorted(self._open[size]))
        return GpuConfig(self._problem.sizes[size].pool, pairs)
