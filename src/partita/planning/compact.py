"""The compact integer program: instances of one size are interchangeable, so counts are enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import InfeasibleError, PartitaError
from partita.milp import INFINITY, Program
from partita.planning.problem import RATE_SLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.milp import Solution
    from partita.planning.problem import Problem


TOLERANCE = 1e-6
"""Distance below which an objective counts as having reached its bound."""


@dataclass(frozen=True, slots=True)
class Counts:
    """GPUs cut by p, shape (P,); instances of size k that service s runs on, shape (S, K)."""

    cuts: NDArray[np.int64]
    instances: NDArray[np.int64]

    def value(self, problem: Problem) -> float:
        """Return the objective."""
        return float(self.cuts @ problem.cut_cost + (self.instances * problem.instance_cost).sum())

    def meets_rates(self, problem: Problem) -> bool:
        """Say whether every service gets its rate, up to rounding in sums."""
        given = self.instances * problem.throughput
        return bool((given.sum(axis=1) >= problem.rate * (1 - 2 * RATE_SLACK)).all()) and all(
            given[part.service, part.sizes].sum() >= part.rate * (1 - 2 * RATE_SLACK)
            for part in problem.parts
        )


def round_up(bound: float, problem: Problem) -> float:
    """Return the least objective that a plan can have at or above the bound: GPUs are counted in whole numbers."""
    if problem.objective == "gpus" and np.isfinite(bound):
        return float(np.ceil(bound - TOLERANCE))
    return bound


def reached(value: float, bound: float) -> bool:
    """Return whether a value has come down to its bound, up to rounding in sums."""
    return value <= bound + TOLERANCE * max(1.0, abs(bound))


class OutOfTimeError(PartitaError):
    """Neither a plan nor a proof that there is none was found in time; `bound` is the objective's lower bound."""

    def __init__(self, bound: float) -> None:
        super().__init__(
            "found neither a plan nor a proof that there is none in the time allowed",
            hint="raise --time-limit",
        )
        self.bound = bound


# --- the part that all programs share


@dataclass(frozen=True, slots=True)
class GpuSupply:
    """The part that all programs share: GPUs of each cut, and the instances they supply.

    Rows `sizes + k` say: instances supplied of size k are at least those in use (the callers subtract uses);
    rows `counts[pool]` bound the GPUs of a pool. Columns `cuts + p` are the GPUs cut by p, columns
    `extra[pool]` are GPUs beyond the pool's count, at a price no plan would pay.
    """

    program: Program
    sizes: int
    counts: dict[int, int]
    cuts: int
    extra: dict[int, int]


def add_instances(
    problem: Problem, gpus: GpuSupply, rates: int, replicas: int, cost: NDArray[np.float64]
) -> tuple[NDArray[np.int64], int]:
    """Add whole numbers of instances of each size for each service that runs on it.

    Rates are scaled to 1 so that the solver's absolute tolerances mean the same for each service.

    Args:
        problem: gives throughputs and rates.
        gpus: supplies the instances.
        rates: first row of the services' rates.
        replicas: first row of the services' replicas.
        cost: of one instance of size k for service s, shape (S, K).

    Returns:
        The (service, size) of each column, shape (N, 2), and the index of the first column.
    """
    pairs = np.argwhere(problem.throughput > 0)
    entries = [
        (
            np.array([gpus.sizes + k, rates + s, replicas + s], dtype=np.int32),
            np.array([-1.0, problem.throughput[s, k] / problem.rate[s], 1.0]),
        )
        for s, k in pairs
    ]
    unlimited = np.full(len(pairs), INFINITY)
    first = gpus.program.add_columns(cost[pairs[:, 0], pairs[:, 1]], unlimited, entries, integer=True)
    return pairs, first


def gpu_supply(
    problem: Problem, demand: NDArray[np.float64], *, integer: bool, extra_cost: float | None
) -> GpuSupply:
    """Start a program with the GPUs of a problem.

    Args:
        problem: gives pools and cuts.
        demand: instances of each size already in use, shape (K,).
        integer: whether GPUs come in whole numbers.
        extra_cost: price of a GPU beyond its pool's count; None allows no such GPU.
    """
    program = Program()
    unlimited = np.full(len(problem.sizes), INFINITY)
    sizes = program.add_rows(demand, unlimited)
    finite = {i: pool.count for i, pool in enumerate(problem.pools) if pool.count is not None}
    limit = np.array(list(finite.values()), dtype=np.float64)
    first = program.add_rows(np.full(len(limit), -INFINITY), limit)
    counts = {pool: first + i for i, pool in enumerate(finite)}
    entries = []
    for cut, supply in zip(problem.cuts, problem.supply, strict=True):
        used = np.flatnonzero(supply)
        rows, values = sizes + used, supply[used].astype(np.float64)
        if cut.pool in counts:
            rows, values = np.append(rows, counts[cut.pool]), np.append(values, 1.0)
        entries.append((rows.astype(np.int32), values))
    cuts = program.add_columns(problem.cut_cost, np.full(len(entries), INFINITY), entries, integer=integer)
    extra: dict[int, int] = {}
    if extra_cost is not None:
        for pool, row in counts.items():
            entry = (np.array([row], dtype=np.int32), np.array([-1.0]))
            extra[pool] = program.add_columns(
                np.array([extra_cost]), np.array([INFINITY]), [entry], integer=integer
            )
    return GpuSupply(program, sizes, counts, cuts, extra)


# --- all services at once


@dataclass(frozen=True, slots=True)
class CompactResult:
    """Counts (None if none were found), the proven bound, and whether there is proof that no plan exists."""

    counts: Counts | None
    bound: float
    infeasible: bool


def solve_compact(problem: Problem, deadline: Deadline, *, enough: float = -INFINITY) -> CompactResult:
    """Solve min cost.n subject to sum_s a[s,k] <= sum_p n[p] supply[p,k] and rates, n and a whole numbers.

    Args:
        problem: best with tens of services; the bound closes slowly for more.
        deadline: when to return the best so far.
        enough: stop at a plan of this objective.
    """
    program = _Compact.of(problem)
    solution = program.gpus.program.solve(deadline, enough=enough)
    bound = round_up(solution.bound, problem)
    if not len(solution.columns):
        return CompactResult(None, bound, solution.infeasible)
    return CompactResult(program.counts(problem, solution), bound, infeasible=False)


@dataclass(frozen=True, slots=True)
class _Compact:
    """The program: GPUs, the (service, size) of each column of instances, shape (N, 2), and the first of these."""

    gpus: GpuSupply
    pairs: NDArray[np.int64]
    first: int

    @staticmethod
    def of(problem: Problem) -> _Compact:
        """Return the program of a problem."""
        gpus = gpu_supply(problem, np.zeros(len(problem.sizes)), integer=True, extra_cost=None)
        services = len(problem.services)
        endless = np.full(services, INFINITY)
        rates = gpus.program.add_rows(np.ones(services), endless)
        replicas = gpus.program.add_rows(problem.replicas.astype(np.float64), endless)
        pairs, first = add_instances(problem, gpus, rates, replicas, problem.instance_cost)
        if problem.survives or problem.parts:
            _add_losses(problem, gpus.program, pairs, first)
        return _Compact(gpus, pairs, first)

    def counts(self, problem: Problem, solution: Solution) -> Counts | None:
        """Return the counts of a solution.

        The solver's tolerances are absolute. A plan that misses a rate by them is dropped: None; its bound holds.
        """
        columns = np.rint(solution.columns).astype(np.int64)
        instances = np.zeros(problem.throughput.shape, dtype=np.int64)
        instances[self.pairs[:, 0], self.pairs[:, 1]] = columns[self.first : self.first + len(self.pairs)]
        counts = Counts(columns[self.gpus.cuts : self.gpus.cuts + len(problem.cuts)], instances)
        return counts if counts.meets_rates(problem) else None


# --- pools whose counts bind: one number of GPUs after the other

_MOST_TARGETS = 4
"""Most numbers of GPUs that are tried, from the bound on; nearly always the first or the second will do."""

_TARGET_SHARE = 0.5
"""Share of the time that is left for each of them."""


def solve_by_targets(problem: Problem, deadline: Deadline, bound: float) -> CompactResult:
    """Try one number of GPUs after the other where GPUs are counted and the pools' counts bind.

    Where all GPUs are as good, and there are hardly more than are needed, the objective says little about where to
    search: every plan has the same. The GPUs of the scarcest pool say more. With so many GPUs in all, are so many of
    this pool enough as there are? That is a minimisation that seldom takes a tenth of a second for few services.

    Args:
        problem: as for `solve_compact`.
        deadline: when to give up.
        bound: proven of the objective.

    Returns:
        What was found; without counts, what is proven.
    """
    finite = [index for index, pool in enumerate(problem.pools) if pool.count is not None]
    if problem.objective != "gpus" or len(problem.pools) < 2 or not finite:
        return CompactResult(None, bound, infeasible=False)
    scarcest, relaxed = _scarcest(problem)
    if scarcest is None:
        return CompactResult(None, bound, infeasible=False)
    bound = max(bound, round_up(relaxed, problem))
    most = sum(pool.count or 0 for pool in problem.pools) if len(finite) == len(problem.pools) else INFINITY
    for _ in range(_MOST_TARGETS):
        if bound > most or deadline.over:
            break
        program, solution = _with_gpus(problem, scarcest, bound, deadline.share(_TARGET_SHARE))
        limit = (problem.pools[scarcest].count or 0) + TOLERANCE
        if len(solution.columns) and solution.value <= limit:
            return CompactResult(program.counts(problem, solution), bound, infeasible=False)
        if not (solution.infeasible or solution.bound > limit):
            break
        bound += 1.0
    return CompactResult(None, bound, infeasible=bound > most)


def _scarcest(problem: Problem) -> tuple[int | None, float]:
    """Return the pool of which one more GPU would save the most in the linear relaxation, and its optimum.

    None where no count binds, or where there is no solution.
    """
    program = _Compact.of(problem).gpus
    program.program.make_continuous()
    solution = program.program.solve(Deadline())
    if not len(solution.columns):
        return None, -INFINITY
    worth = {pool: -float(solution.duals[row]) for pool, row in program.counts.items()}
    best = max(worth, key=lambda pool: (worth[pool], -pool))
    return (best if worth[best] > TOLERANCE else None), solution.value


def _with_gpus(problem: Problem, scarcest: int, gpus: float, deadline: Deadline) -> tuple[_Compact, Solution]:
    """Minimise the GPUs of a pool, whatever its count, where there are so many in all; its count is enough."""
    program = _Compact.of(problem)
    supply, solver = program.gpus, program.gpus.program
    every = np.arange(supply.cuts, supply.cuts + len(problem.cuts), dtype=np.int32)
    solver.hold(every, -np.ones(len(every)), -gpus)
    solver.bound_row(supply.counts[scarcest], -INFINITY, INFINITY)
    # Little is fixed at the root of these programs, so that to begin again there only costs time.
    solver.solver.setOptionValue("mip_allow_restart", False)
    mine = every[[cut.pool == scarcest for cut in problem.cuts]]
    enough = float(problem.pools[scarcest].count or 0)
    return program, solver.minimise(mine, np.ones(len(mine)), deadline, enough=enough)


def _add_losses(problem: Problem, program: Program, pairs: NDArray[np.int64], first: int) -> None:
    """Require what the loss of the largest instance leaves, and the rates on some sizes alone.

    z[s,k] is 1 where k is the largest size of service s: sum_k t[s,k] a[s,k] - sum_k t[s,k] z[s,k] is left, and sizes
    above it are not used. In some best plan no size has more instances than alone would be enough.
    """
    column = {(int(s), int(k)): first + i for i, (s, k) in enumerate(pairs)}
    for part in problem.parts:
        mine = [k for k in np.flatnonzero(part.sizes).tolist() if (part.service, k) in column]
        columns = np.array([column[part.service, k] for k in mine], dtype=np.int32)
        program.hold(columns, problem.throughput[part.service, mine] / part.rate, 1.0)
    for s, service in enumerate(problem.services):
        if service.survive in {None, "zone"}:
            continue
        sizes = np.flatnonzero(problem.throughput[s]).tolist()
        given, left = problem.throughput[s, sizes], service.survivor_rate
        row = program.add_rows(np.ones(1), np.full(1, INFINITY))
        entries = [(np.array([row], dtype=np.int32), np.ones(1))] * len(sizes)
        largest = program.add_columns(np.zeros(len(sizes)), np.ones(len(sizes)), entries, integer=True)
        flags = np.arange(largest, largest + len(sizes), dtype=np.int32)
        counts = np.array([column[s, k] for k in sizes], dtype=np.int32)
        program.hold(np.append(counts, flags), np.append(given, -given) / left, 1.0)
        most = np.ceil(max(problem.rate[s], left + given.max()) / given) + problem.replicas[s]
        for i in range(len(sizes)):
            above = flags[given >= given[i]]
            program.hold(np.append(above, counts[i]), np.append(np.full(len(above), most[i]), -1.0), 0.0)


# --- simpler cuts

_SECONDS = 2.0


_GPU = 100.0
"""Weight of a GPU where the objective does not count GPUs."""


def simplify_cuts(problem: Problem, counts: Counts) -> Counts:
    """Return the same instances at the same cost, on cuts of as few different sizes as possible.

    A GPU cut into one size serves one service, as a rule; one cut into three serves three.
    """
    demand = counts.instances.sum(axis=0).astype(np.float64)
    gpus = gpu_supply(problem, demand, integer=True, extra_cost=None)
    spent = float(counts.cuts @ problem.cut_cost)
    every = np.arange(gpus.cuts, gpus.cuts + len(problem.cuts), dtype=np.int32)
    gpus.program.hold(every, -problem.cut_cost, -spent)
    unlike = (problem.supply > 0).sum(axis=1).astype(np.float64)
    fewest = _GPU if problem.objective == "watts" else 0.0
    solution = gpus.program.maximise(every, -(fewest + unlike), Deadline(_SECONDS))
    if not len(solution.columns):
        return counts
    cuts = np.rint(solution.columns[gpus.cuts : gpus.cuts + len(every)]).astype(np.int64)
    return replace(counts, cuts=cuts)


# --- one service per GPU


def solve_dedicated(problem: Problem, deadline: Deadline) -> tuple[list[Counts], float]:
    """Return the counts of each service's own GPUs, and the proven bound of the objective.

    Whole numbers n[s,p] of GPUs cut by p for service s and a[s,k] of its instances, with
    a[s,k] <= sum_p n[s,p] supply[p,k] and the rate met; only the pools' counts couple services.

    Raises:
        InfeasibleError: the pools have too few GPUs.
        OutOfTimeError: no plan was found in time.
    """
    program = Program()
    finite = [index for index, pool in enumerate(problem.pools) if pool.count is not None]
    limits = np.array([problem.pools[index].count for index in finite], dtype=np.float64)
    pools = {index: row for row, index in enumerate(finite)}
    program.add_rows(np.full(len(finite), -INFINITY), limits)
    spans = [_add_service(problem, program, pools, s) for s in range(len(problem.services))]
    solution = program.solve(deadline)
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
