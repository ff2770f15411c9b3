"""What services still lack, as the paper's planners count it.

The *utility* of an instance for a service is its throughput over the service's required rate; the *completion
rate* of a service is the sum of its utilities, and a deployment is valid when none is below 1 (MIG-Serving,
arXiv 2109.11067, sections 4 and 5). Replicas and spread, which the paper has not, count once rates are met.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError
from partita.planning.paper.paper_bound import relax
from partita.planning.paper.splits import Splits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from partita.planning.plan import GpuConfig
    from partita.planning.problem import Problem

TOLERANCE = 1e-9
"""A completion rate this little below 1 is done: it is a sum of rounded quotients."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How far services are: completion rates, instances, and GPUs they stand on; each of shape (S,)."""

    rate: NDArray[np.float64]
    instances: NDArray[np.int64]
    gpus: NDArray[np.int64]


@dataclass(frozen=True)
class Demand:
    """What the services of a problem need, as the paper's planners see it."""

    problem: Problem

    @cached_property
    def utility(self) -> NDArray[np.float64]:
        """Throughput of service s on size k over its required rate, 0 where it cannot run; shape (S, K)."""
        rate = self.problem.rate[:, None]
        return np.divide(
            self.problem.throughput, rate, out=np.zeros_like(self.problem.throughput), where=rate > 0
        )

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """Part of a service's replicas that one instance is, 0 where it cannot run; shape (S, K)."""
        return (self.problem.throughput > 0) / self.problem.replicas[:, None]

    @cached_property
    def spread(self) -> NDArray[np.int64]:
        """Fewest GPUs a service stands on, one for each node it is spread over; shape (S,)."""
        return np.array([service.spread for service in self.problem.services], dtype=np.int64)

    @cached_property
    def splits(self) -> Splits:
        """The ways to divide a cut between two services."""
        return Splits.of(self.problem)

    @cached_property
    def worth(self) -> NDArray[np.float64]:
        """Objective that each service's whole rate costs at the prices of the relaxation, shape (S,).

        At these prices no configuration is worth more than it costs, so that the difference is waste.
        """
        return self.problem.rate * relax(self.problem).price

    def value(self, done: Completion, config: GpuConfig) -> float:
        """Return what a GPU is worth at those prices, what no service lacks left out."""
        given = self.after(done, {config: 1}).rate
        useful = np.minimum(given, 1.0) - np.minimum(done.rate, 1.0)
        return float(self.worth @ useful)

    def spare(self, done: Completion) -> float:
        """Return what services have beyond their rates, at those prices."""
        return float(self.worth @ np.maximum(done.rate - 1.0, 0.0))

    @cached_property
    def start(self) -> Completion:
        """Nothing deployed yet.

        Raises:
            InfeasibleError: a service that no size can run.
        """
        stuck = np.flatnonzero(~(self.problem.throughput > 0).any(axis=1))
        if stuck.size:
            name = self.problem.services[stuck[0]].name
            raise InfeasibleError("no profile runs it within its limits", where=f"service {name}")
        none = np.zeros(len(self.problem.services), dtype=np.int64)
        return Completion(np.where(self.problem.rate > 0, 0.0, 1.0), none, none)

    def after(self, done: Completion, configs: Mapping[GpuConfig, int]) -> Completion:
        """Return how far services are when these GPUs are added; negative numbers take GPUs away."""
        rate, instances, gpus = done.rate.copy(), done.instances.copy(), done.gpus.copy()
        for config, n in configs.items():
            for size, service in config.assignment:
                rate[service] += n * self.utility[service, size]
                instances[service] += n
            for service in {service for _, service in config.assignment}:
                gpus[service] += n
        return Completion(rate, instances, gpus)

    def missing(self, done: Completion) -> NDArray[np.float64]:
        """Return what each service lacks, shape (S,): 1 - c, then what is missing of replicas and spread."""
        rate = 1.0 - done.rate
        others = np.maximum(1.0 - done.instances / self.problem.replicas, 1.0 - done.gpus / self.spread)
        return np.maximum(np.where(rate > TOLERANCE, rate, others), 0.0)

    def gain(self, done: Completion) -> NDArray[np.float64]:
        """Return what one instance takes off what is missing, shape (S, K)."""
        return np.where((done.rate < 1.0 - TOLERANCE)[:, None], self.utility, self.share)

    def weight(self, done: Completion) -> NDArray[np.float64]:
        """Return what one instance adds to the score of a configuration, (1 - c) u; shape (S, K)."""
        return self.missing(done)[:, None] * self.gain(done)

    def unmet(self, done: Completion) -> NDArray[np.int64]:
        """Return the indices of the services that still lack something."""
        return np.flatnonzero(self.missing(done) > 0)


def config_cost(problem: Problem, config: GpuConfig) -> float:
    """Return what one GPU of this configuration adds to the objective."""
    instances = sum(problem.instance_cost[service, size] for size, service in config.assignment)
    return problem.gpu_cost(config.pool) + float(instances)


def gpus_left(problem: Problem, configs: Mapping[GpuConfig, int]) -> NDArray[np.float64]:
    """Return how many GPUs each pool has left, infinity where it has no count."""
    used: Counter[int] = Counter()
    for config, gpus in configs.items():
        used[config.pool] += gpus
    return np.array([np.inf if p.count is None else p.count - used[i] for i, p in enumerate(problem.pools)])


def short_of_gpus(problem: Problem, unmet: Iterable[int], planner: str) -> InfeasibleError:
    """Return the error that says which services a planner could not meet with the GPUs there are."""
    names = [problem.services[index].name for index in unmet]
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    pools = ", ".join(f"{pool.name}: {pool.count}" for pool in problem.pools if pool.count is not None)
    return InfeasibleError(
        f"{planner} used all GPUs that help ({pools or 'none'}) and leaves unmet: {some}",
        hint="add GPUs, or try --planner exact, which finds a plan if there is one",
    )
