"""MIG-Serving's fast algorithm: the best-scoring configuration, GPU after GPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.planning.paper.configs import PairSearch, packed
from partita.planning.paper.demand import Completion, Demand, gpus_left, short_of_gpus
from partita.planning.paper.paper_bound import lower_bound
from partita.planning.placing.assemble import assemble
from partita.planning.plan import Plan, Solver
from partita.planning.watch import Watch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from partita.planning.plan import GpuConfig
    from partita.planning.problem import Problem


@dataclass(frozen=True, slots=True)
class GreedyPlanner:
    """The fast algorithm of MIG-Serving (arXiv 2109.11067, section 5.2): one pass, no random numbers.

    Attributes:
        watch: only counts the seconds; a pass has nothing to return before its end.
    """

    watch: Watch = field(default_factory=Watch)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan of one greedy pass.

        Raises:
            InfeasibleError: a service is unmet and no GPU that is left would help it.
        """
        configs = greedy_configs(problem)
        bound = lower_bound(problem)
        return assemble(problem, configs, lower_bound=bound, solver=Solver("greedy", 0, self.watch.seconds))


def greedy_configs(problem: Problem) -> Counter[GpuConfig]:
    """Return the deployment of one greedy pass.

    Raises:
        InfeasibleError: a service is unmet and no GPU that is left would help it.
    """
    demand = Demand(problem)
    configs, done = complete(demand, demand.start, gpus_left(problem, {}))
    unmet = demand.unmet(done)
    if unmet.size:
        raise short_of_gpus(problem, unmet.tolist(), "greedy")
    return configs


def complete(
    demand: Demand, done: Completion, left: NDArray[np.float64]
) -> tuple[Counter[GpuConfig], Completion]:
    """Add the GPU of largest score until no service lacks anything, or no GPU helps (appendix A).

    The score of a configuration is sum_i max(0, 1 - c_i) u_i, over those that mix at most two services,
    divided by the cost of its GPU. *Last mile*: where the best one would give a service more than it lacks,
    the GPU is packed with more services instead.

    Args:
        demand: what the services need.
        done: how far they are.
        left: GPUs left in each pool.

    Returns:
        The GPUs added, and how far the services are then.
    """
    search = PairSearch(demand, done)
    left = left.copy()
    added: Counter[GpuConfig] = Counter()
    while demand.missing(done).any():
        config = search.best(left)
        if config is None:
            break
        after = demand.after(done, {config: 1})
        if any(after.rate[service] > 1.0 for _, service in config.assignment):
            config = packed(demand, done, left, demand.unmet(done))[0]
            after = demand.after(done, {config: 1})
        added[config] += 1
        left[config.pool] -= 1
        done = after
        search.update(done, {service for _, service in config.assignment})
    return added, done
