"""Lower bounds: MIG-Serving's, which ignores placement, and the linear relaxation of the compact program."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.milp import Program
from partita.planning.compact import round_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.planning.problem import Problem


def lower_bound(problem: Problem) -> float:
    """Return the larger of both bounds, a whole number where GPUs are counted; infinite if no plan exists.

    Both hold for every plan, so the larger does.
    """
    return round_up(max(rule_free_bound(problem), lp_bound(problem)), problem)


def rule_free_bound(problem: Problem) -> float:
    """Return MIG-Serving's bound, unrounded: every service on its most efficient size, placement ignored.

    Sum over services of rate / max_k (throughput / compute slices), in GPUs' worth of compute slices
    (MIG-Serving, arXiv 2109.11067, section 8.1). With pools of unlike GPUs the share of a GPU that a size
    takes is weighted by what that GPU adds to the objective. Infinite if no size can run a service.
    """
    return float((problem.rate * _least_cost_per_item(problem)).sum())


def _least_cost_per_item(problem: Problem) -> NDArray[np.float64]:
    gpus = [problem.pools[size.pool].gpu for size in problem.sizes]
    share = [
        _gpu_cost(problem, size.pool) * gpu.profile(size.profile).compute / gpu.compute_slices
        for size, gpu in zip(problem.sizes, gpus, strict=True)
    ]
    cost = np.array(share) + problem.instance_cost
    throughput = problem.throughput
    per_item = np.divide(cost, throughput, out=np.full(cost.shape, np.inf), where=throughput > 0)
    least: NDArray[np.float64] = per_item.min(axis=1, initial=np.inf)
    return least


def _gpu_cost(problem: Problem, pool: int) -> float:
    # Watts are those of instances: a plan's value leaves out the WATTS_PER_GPU that planners add per GPU.
    return 0.0 if problem.objective == "watts" else problem.gpu_cost(pool)


def lp_bound(problem: Problem) -> float:
    """Return the optimum of the linear relaxation of the compact program, infinite if it has no solution."""
    return relax(problem).value


@dataclass(frozen=True, slots=True)
class CompactRelaxation:
    """Optimum of the linear relaxation, infinite if it has no solution, and the price of each rate.

    Attributes:
        price: what one more item/s of each service would add to the optimum, shape (S,).
    """

    value: float
    price: NDArray[np.float64]


def relax(problem: Problem) -> CompactRelaxation:
    """Solve the linear relaxation of the compact program.

    Variables n_p, GPUs of cut p, and a_{s,k}, instances of size k for service s:

        minimise    sum_p cost_p n_p + sum_{s,k} cost_{s,k} a_{s,k}
        subject to  sum_s a_{s,k} <= sum_p n_p count(p,k)       for each size
                    sum_k throughput(s,k) a_{s,k} >= rate_s     for each service
                    sum_k a_{s,k} >= replicas_s                 for each service
                    sum_{p of pool} n_p <= count                for each pool that has a count
    """
    solution = _relaxation(problem).solve(Deadline())
    if solution.infeasible:
        return CompactRelaxation(math.inf, np.zeros(len(problem.services)))
    if solution.bound != solution.value:  # a linear program's bound is its value once it is solved
        raise PartitaError("the relaxation could not be solved")
    first = len(problem.sizes)
    price = np.maximum(solution.duals[first : first + len(problem.services)], 0.0)
    return CompactRelaxation(float(solution.value), price)


def _relaxation(problem: Problem) -> Program:
    service, size = np.nonzero(problem.throughput > 0)
    services, sizes, cuts = len(problem.services), len(problem.sizes), len(problem.cuts)
    pools = len(problem.pools)
    cut_pools = np.array([cut.pool for cut in problem.cuts], dtype=np.int64)
    columns = cuts + len(service)
    given = cuts + np.arange(len(service))
    cut, of = np.nonzero(problem.supply)
    rows = np.concatenate(
        [of, size, sizes + service, sizes + services + service, sizes + 2 * services + cut_pools]
    )
    cols = np.concatenate([cut, given, given, given, np.arange(cuts)])
    values = np.concatenate(
        [
            problem.supply[cut, of],
            -np.ones(len(size)),
            problem.throughput[service, size],
            np.ones(len(service)),
            np.ones(cuts),
        ]
    )
    counts = [math.inf if pool.count is None else pool.count for pool in problem.pools]
    program = Program()
    program.add_rows(
        np.concatenate([np.zeros(sizes), problem.rate, problem.replicas, np.full(pools, -math.inf)]),
        np.concatenate([np.full(sizes + 2 * services, math.inf), counts]),
    )
    cost = np.concatenate(
        [[_gpu_cost(problem, cut.pool) for cut in problem.cuts], problem.instance_cost[service, size]]
    )
    order = np.lexsort((rows, cols))
    starts = np.concatenate([[0], np.cumsum(np.bincount(cols, minlength=columns))[:-1]])
    program.add_packed_columns(cost, np.full(columns, math.inf), (starts, rows[order], values[order]))
    return program
