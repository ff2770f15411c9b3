"""One service per GPU: the compact program in which each service has GPUs of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError
from partita.planning.exact.counts import Counts, OutOfTimeError, round_up
from partita.planning.exact.program import INFINITY, Program

if TYPE_CHECKING:
    from partita.planning.problem import Problem
    from partita.planning.watch import Watch


def solve_dedicated(problem: Problem, watch: Watch) -> tuple[list[Counts], float]:
    """Return the counts of each service's own GPUs, and the proven bound of the objective.

    Whole numbers n[s,p] of GPUs cut by p for service s and a[s,k] of its instances, with
    a[s,k] <= sum_p n[s,p] supply[p,k] and the rate met; only the pools' counts couple services.

    Raises:
        InfeasibleError: the pools have too few GPUs.
        OutOfTimeError: none was found.
    """
    program = Program()
    finite = [index for index, pool in enumerate(problem.pools) if pool.count is not None]
    limits = np.array([problem.pools[index].count for index in finite], dtype=np.float64)
    pools = {index: row for row, index in enumerate(finite)}
    program.add_rows(np.full(len(finite), -INFINITY), limits)
    spans = [_add_service(problem, program, pools, s) for s in range(len(problem.services))]
    solution = program.solve(watch)
    if solution.infeasible:
        raise InfeasibleError(
            "too few GPUs to give each service GPUs of its own",
            where="limits.max_services_per_gpu",
            hint="raise it to 2 or more, raise `count`, or see what can be met with --best-effort",
        )
    if not len(solution.columns):
        raise OutOfTimeError(round_up(solution.bound, problem))
    values = np.rint(solution.columns).astype(np.int64)
    return [_counts(problem, values[span], s) for s, span in enumerate(spans)], round_up(
        solution.bound, problem
    )


def _add_service(problem: Problem, program: Program, pools: dict[int, int], s: int) -> slice:
    """Add a service's columns, cuts first, then sizes; return where they are."""
    sizes, cuts = len(problem.sizes), len(problem.cuts)
    low = np.zeros(sizes + 2)
    low[sizes], low[sizes + 1] = 1.0, problem.replicas[s]
    first = program.add_rows(low, np.full(sizes + 2, INFINITY))
    entries = []
    for p, cut in enumerate(problem.cuts):
        used = np.flatnonzero(problem.supply[p])
        rows, values = first + used, problem.supply[p, used].astype(np.float64)
        if cut.pool in pools:
            rows, values = np.append(rows, pools[cut.pool]), np.append(values, 1.0)
        entries.append((rows.astype(np.int32), values))
    column = program.add_columns(problem.cut_cost, np.full(cuts, INFINITY), entries, integer=True)
    uses = []
    for k in range(sizes):
        utility = problem.throughput[s, k] / problem.rate[s]
        touched = np.array([first + k, first + sizes, first + sizes + 1], dtype=np.int32)
        uses.append((touched, np.array([-1.0, utility, 1.0])))
    most = np.where(problem.throughput[s] > 0, INFINITY, 0.0)
    program.add_columns(problem.instance_cost[s], most, uses, integer=True)
    return slice(column, column + cuts + sizes)


def _counts(problem: Problem, values: np.ndarray[tuple[int], np.dtype[np.int64]], s: int) -> Counts:
    instances = np.zeros(problem.throughput.shape, dtype=np.int64)
    instances[s] = values[len(problem.cuts) :]
    return Counts(values[: len(problem.cuts)], instances)
