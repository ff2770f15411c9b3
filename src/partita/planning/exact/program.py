"""Linear and integer programs for HiGHS, built as arrays and watched while they are solved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import highspy
import numpy as np

from partita.planning.exact.solver import new_solver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from partita.planning.problem import Problem
    from partita.planning.watch import Watch

INFINITY = highspy.kHighsInf

RATE_SLACK = 1e-9
"""Share of a rate that may be missing because of rounding in sums of throughputs."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What HiGHS found.

    Attributes:
        columns: value of each column; empty if there is no solution.
        duals: dual value of each row, of linear programs only.
        value: objective of `columns`.
        bound: proven lower bound of the objective.
        infeasible: proven to have no solution.
    """

    columns: NDArray[np.float64]
    duals: NDArray[np.float64]
    value: float
    bound: float
    infeasible: bool


@dataclass
class Program:
    """A minimisation, grown row by row and block of columns by block of columns."""

    solver: highspy.Highs = field(default_factory=new_solver)

    def __post_init__(self) -> None:
        self.solver.setOptionValue("threads", 1)
        self.solver.setOptionValue("mip_rel_gap", 0.0)
        # The default, 1e-6, would let a service fall short of its rate by a millionth.
        self.solver.setOptionValue("mip_feasibility_tolerance", RATE_SLACK)
        self.solver.setOptionValue("primal_feasibility_tolerance", RATE_SLACK)

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.solver.getNumCol())

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.solver.getNumRow())

    def add_rows(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> int:
        """Add empty rows and return the index of the first."""
        first = self.height
        nothing = np.zeros(0, dtype=np.int32)
        starts = np.zeros(len(lower), dtype=np.int32)
        self.solver.addRows(len(lower), lower, upper, 0, starts, nothing, np.zeros(0))
        return first

    def add_columns(
        self,
        cost: NDArray[np.float64],
        upper: NDArray[np.float64],
        entries: Sequence[tuple[NDArray[np.int32], NDArray[np.float64]]],
        *,
        integer: bool = False,
    ) -> int:
        """Add columns from 0 to `upper`, each with its (rows, coefficients); return the index of the first."""
        first, count = self.width, len(cost)
        if not count:
            return first
        starts = np.zeros(count, dtype=np.int32)
        starts[1:] = np.cumsum([len(rows) for rows, _ in entries[:-1]])
        rows = np.concatenate([rows for rows, _ in entries]).astype(np.int32)
        values = np.concatenate([values for _, values in entries]).astype(np.float64)
        self.solver.addCols(count, cost, np.zeros(count), upper, len(rows), starts, rows, values)
        if integer:
            kinds = np.array([highspy.HighsVarType.kInteger] * count)
            self.solver.changeColsIntegrality(count, np.arange(first, first + count, dtype=np.int32), kinds)
        return first

    def make_integer(self) -> None:
        """Ask for whole numbers in every column from now on."""
        kinds = np.array([highspy.HighsVarType.kInteger] * self.width)
        self.solver.changeColsIntegrality(self.width, np.arange(self.width, dtype=np.int32), kinds)

    def make_continuous(self) -> None:
        """Allow fractions in every column from now on."""
        kinds = np.array([highspy.HighsVarType.kContinuous] * self.width)
        self.solver.changeColsIntegrality(self.width, np.arange(self.width, dtype=np.int32), kinds)

    def clear_costs(self) -> None:
        """Make every column cost nothing."""
        self.solver.changeColsCost(self.width, np.arange(self.width, dtype=np.int32), np.zeros(self.width))

    def hold(self, columns: NDArray[np.int32], values: NDArray[np.float64], least: float) -> None:
        """Require that values . columns stay at least `least` from now on."""
        self.solver.addRow(least, INFINITY, len(columns), columns, values)

    def maximise(self, columns: NDArray[np.int32], values: NDArray[np.float64], watch: Watch) -> Solution:
        """Maximise values . columns and nothing else; the solution's value and bound are its negative."""
        self.clear_costs()
        self.solver.changeColsCost(len(columns), columns, -values)
        return self.solve(watch)

    def solve(self, watch: Watch, *, enough: float = -INFINITY, offset: float = 0.0) -> Solution:
        """Minimise until proven, `enough` is reached, or the watch is over.

        Args:
            watch: time limit, stop button, and where progress is told.
            enough: stop at a solution of this objective.
            offset: added to the objective where progress is told.
        """
        self.solver.setOptionValue("time_limit", float(self.solver.getRunTime() + min(watch.left, 1e9)))
        self.solver.setOptionValue("objective_target", enough)

        def look(event: highspy.HighsCallbackEvent) -> None:
            event.interrupt(watch.stop())

        def tell(event: highspy.HighsCallbackEvent) -> None:
            best, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
            watch.tell(
                best + offset if abs(best) < INFINITY else None,
                bound + offset if abs(bound) < INFINITY else None,
            )

        self.solver.cbMipInterrupt += look
        self.solver.cbMipLogging += tell
        try:
            self.solver.run()
        finally:
            self.solver.cbMipInterrupt -= look
            self.solver.cbMipLogging -= tell
        return self._solution()

    def _solution(self) -> Solution:
        info, status = self.solver.getInfo(), self.solver.getModelStatus()
        found = self.solver.getSolution()
        has = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        proven = status == highspy.HighsModelStatus.kOptimal
        return Solution(
            columns=np.array(found.col_value) if has else np.zeros(0),
            duals=np.array(found.row_dual),
            value=info.objective_function_value if has else INFINITY,
            bound=info.objective_function_value if proven else info.mip_dual_bound,
            infeasible=status == highspy.HighsModelStatus.kInfeasible,
        )


@dataclass(frozen=True, slots=True)
class Fleet:
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
    problem: Problem, gpus: Fleet, rates: int, replicas: int, cost: NDArray[np.float64]
) -> tuple[NDArray[np.int64], int]:
    """Add whole numbers of instances of each size for each service that runs on it.

    Rates are scaled to 1 so that the solver's absolute tolerances mean the same for each service.

    Args:
        problem: its throughputs and rates.
        gpus: whose supply the instances take.
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


def fleet(problem: Problem, demand: NDArray[np.float64], *, integer: bool, extra_cost: float | None) -> Fleet:
    """Start a program with the GPUs of a problem.

    Args:
        problem: its pools and cuts.
        demand: instances of each size already in use, shape (K,).
        integer: whole GPUs.
        extra_cost: price of a GPU beyond its pool's count; None for none.
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
    return Fleet(program, sizes, counts, cuts, extra)
