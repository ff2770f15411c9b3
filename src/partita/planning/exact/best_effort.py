"""Too few GPUs: which services to meet, by priority, and how far the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError, PartitaError
from partita.planning.exact import ExactPlanner
from partita.planning.exact.program import INFINITY, add_instances, fleet
from partita.planning.plan import Plan, ServiceCapacity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem, Service
    from partita.planning.watch import Watch

PROGRAM_SERVICES = 300
"""Up to here an integer program says which services to meet; beyond, they are taken in turn while they fit."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of each service's rate can be met, 0 to 1; shape (S,)."""

    met: NDArray[np.float64]

    def short(self, problem: Problem) -> list[str]:
        """Return the names of the services that are not wholly met, those of highest priority first."""
        short = [s for s, share in enumerate(self.met) if share < 1.0]
        short.sort(key=lambda s: (-problem.services[s].priority, s))
        return [problem.services[s].name for s in short]


def plan_best_effort(problem: Problem, watch: Watch, seed: int = 0) -> Plan:
    """Return the plan that meets the most services by priority, and others as far as it can.

    Its objective and bound are those of meeting just these shares.

    Raises:
        InfeasibleError: not a single service can be met even partly.
    """
    planner = ExactPlanner(seed, watch)
    try:
        return planner.plan(problem)
    except InfeasibleError:
        shares = met_shares(problem, watch.share(0.5))
    kept = [s for s, share in enumerate(shares.met) if share > 0.0]
    if not kept:
        raise InfeasibleError("no service can be met, not even partly", where="gpus", hint="raise `count`")
    services = tuple(_reduced(problem, s, float(shares.met[s])) for s in kept)
    try:
        plan = planner.plan(problem.with_services(services))
    except InfeasibleError:
        # The shares take no heed of nodes: what can be met may not be spread.
        together = tuple(replace(service, spread=1) for service in services)
        plan = planner.plan(problem.with_services(together))
    given = {service.name: service.capacity for service in plan.services}
    listed = tuple(
        ServiceCapacity(each.name, each.asked_rate, given.get(each.name, 0.0), each.latency_slo_ms)
        for each in problem.services
    )
    return replace(plan, services=listed)


def _reduced(problem: Problem, s: int, share: float) -> Service:
    service = problem.services[s]
    if share >= 1.0:
        return service
    return replace(service, rate=service.rate * share, min_replicas=1, spread=1)


def met_shares(problem: Problem, watch: Watch) -> Shares:
    """Return how much of each service can be met with the GPUs there are."""
    if len(problem.services) <= PROGRAM_SERVICES:
        return _by_program(problem, watch)
    return _in_order(problem, watch)


def _by_program(problem: Problem, watch: Watch) -> Shares:
    """Meet the most services of the highest priority, then of the next, and so on; then the most of the others.

    The compact program with the rates made elastic: y[s] is 1 if the service is wholly met, f[s] its share.
    """
    gpus = fleet(problem, np.zeros(len(problem.sizes)), integer=True, extra_cost=None)
    gpus.program.clear_costs()
    services = len(problem.services)
    zero, endless = np.zeros(services), np.full(services, INFINITY)
    rates = gpus.program.add_rows(zero, endless)
    replicas = gpus.program.add_rows(zero, endless)
    whole = gpus.program.add_rows(zero, endless)
    add_instances(problem, gpus, rates, replicas, np.zeros(problem.throughput.shape))
    shares = [
        (np.array([rates + s, whole + s], dtype=np.int32), np.array([-1.0, 1.0])) for s in range(services)
    ]
    share = gpus.program.add_columns(zero, np.ones(services), shares)
    wholes = [
        (np.array([replicas + s, whole + s], dtype=np.int32), np.array([-float(problem.replicas[s]), -1.0]))
        for s in range(services)
    ]
    met = gpus.program.add_columns(zero, np.ones(services), wholes, integer=True)
    levels = sorted({service.priority for service in problem.services}, reverse=True)
    for index, (first, level) in enumerate((first, level) for first in (met, share) for level in levels):
        mine = [s for s, service in enumerate(problem.services) if service.priority == level]
        columns, worth = first + np.array(mine, dtype=np.int32), np.ones(len(mine))
        solution = gpus.program.maximise(columns, worth, watch.share(1.0 / (2 * len(levels) - index)))
        if not len(solution.columns):
            raise PartitaError("no plan was found in the time there was", hint="raise --time-limit")
        gpus.program.hold(columns, worth, -solution.value - 1e-6)
    found = np.maximum(solution.columns[met : met + services], solution.columns[share : share + services])
    return Shares(np.where(found > 1 - 1e-6, 1.0, np.floor(found * 1e6) / 1e6))


def _in_order(problem: Problem, watch: Watch) -> Shares:
    """Take services by priority, then by what they need, for as long as all taken can be met."""
    need = problem.rate / problem.throughput.max(axis=1)
    priority = np.array([service.priority for service in problem.services])
    order = np.lexsort((need, -priority))
    low, high = 0, len(order)
    while low < high and not watch.over:
        middle = (low + high + 1) // 2
        subset = problem.with_services(tuple(problem.services[s] for s in sorted(order[:middle])))
        try:
            ExactPlanner(watch=watch.share(0.25)).counts(subset)
            low = middle
        except PartitaError:
            high = middle - 1
    shares = np.zeros(len(order))
    shares[order[:low]] = 1.0
    return Shares(shares)
