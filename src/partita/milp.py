"""Linear and integer programs for HiGHS, built as arrays, with progress and interruption. HiGHS prints nothing."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import highspy
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline

INFINITY = highspy.kHighsInf

FEASIBILITY = 1e-9
"""Feasibility tolerance of rows. With HiGHS's default of 1e-6 a service could miss a millionth of its rate."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A result of HiGHS.

    Attributes:
        columns: value of each column; empty if there is no solution.
        duals: dual value of each row, of linear programs only.
        reduced: reduced cost of each column, of linear programs only.
        value: objective of `columns`.
        bound: proven lower bound of the objective.
        infeasible: whether it is proven that there is no solution.
    """

    columns: NDArray[np.float64]
    duals: NDArray[np.float64]
    reduced: NDArray[np.float64]
    value: float
    bound: float
    infeasible: bool


_make: Callable[[], highspy.Highs] = highspy.Highs  # whose stubs have no types

_BANNER = (b"Running HiGHS ", b"Includes third-party software ")
"""Beginnings of the lines that HiGHS 1.16 prints in the first `Highs()` of a process, before options can be set."""

_STDOUT = 1
_lock = Lock()
_introduced = False


def new_solver() -> highspy.Highs:
    """Return a new HiGHS solver that prints nothing.

    Other output to stdout while the first one is created is passed on.
    """
    global _introduced  # noqa: PLW0603 -- the banner comes once in a process
    with _lock:
        solver = _make() if _introduced else _first()
        _introduced = True
    solver.setOptionValue("output_flag", False)
    return solver


def _first() -> highspy.Highs:
    try:
        stdout = os.dup(_STDOUT)
    except OSError:  # it is closed
        return _make()
    with tempfile.TemporaryFile() as printed:
        try:
            os.dup2(printed.fileno(), _STDOUT)
            solver = _make()
        finally:
            os.dup2(stdout, _STDOUT)
            os.close(stdout)
        printed.seek(0)
        rest = b"".join(line for line in printed if not line.startswith(_BANNER))
    if rest:
        os.write(_STDOUT, rest)
    return solver


@dataclass
class Program:
    """A minimisation, to which rows and blocks of columns are added."""

    solver: highspy.Highs = field(default_factory=new_solver)
    _whole: bool = field(default=False, init=False)  # whether columns must be whole numbers

    def __post_init__(self) -> None:
        self.solver.setOptionValue("threads", 1)
        self.solver.setOptionValue("mip_rel_gap", 0.0)
        self.solver.setOptionValue("mip_feasibility_tolerance", FEASIBILITY)
        self.solver.setOptionValue("primal_feasibility_tolerance", FEASIBILITY)

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
        if not len(cost):
            return self.width
        starts = np.zeros(len(cost), dtype=np.int32)
        starts[1:] = np.cumsum([len(rows) for rows, _ in entries[:-1]])
        rows = np.concatenate([rows for rows, _ in entries])
        values = np.concatenate([values for _, values in entries])
        return self.add_packed_columns(cost, upper, (starts, rows, values), integer=integer)

    def add_packed_columns(
        self,
        cost: NDArray[np.float64],
        upper: NDArray[np.float64],
        packed: tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]],
        *,
        integer: bool = False,
    ) -> int:
        """Add columns as above from packed arrays: start of each column's entries, rows, and coefficients."""
        first, count = self.width, len(cost)
        starts, rows, values = packed[0].astype(np.int32), packed[1].astype(np.int32), packed[2].astype(float)
        self.solver.addCols(count, cost, np.zeros(count), upper, len(rows), starts, rows, values)
        if integer:
            self._whole = True
            kinds = np.array([highspy.HighsVarType.kInteger] * count)
            self.solver.changeColsIntegrality(count, np.arange(first, first + count, dtype=np.int32), kinds)
        return first

    def make_integer(self) -> None:
        """Require integers in all present columns."""
        self._whole = True
        kinds = np.array([highspy.HighsVarType.kInteger] * self.width)
        self.solver.changeColsIntegrality(self.width, np.arange(self.width, dtype=np.int32), kinds)

    def make_continuous(self) -> None:
        """Allow fractions in all present columns."""
        self._whole = False
        kinds = np.array([highspy.HighsVarType.kContinuous] * self.width)
        self.solver.changeColsIntegrality(self.width, np.arange(self.width, dtype=np.int32), kinds)

    def clear_costs(self) -> None:
        """Set the cost of every column to 0."""
        self.solver.changeColsCost(self.width, np.arange(self.width, dtype=np.int32), np.zeros(self.width))

    def hold(self, columns: NDArray[np.int32], values: NDArray[np.float64], least: float) -> None:
        """Add the row values . columns >= `least`."""
        self.solver.addRow(least, INFINITY, len(columns), columns, values)

    def limit_columns(
        self, first: int, upper: NDArray[np.float64], lower: NDArray[np.float64] | None = None
    ) -> None:
        """Change the bounds of neighbouring columns from `first` on; the lower ones are 0 if none are given."""
        columns = np.arange(first, first + len(upper), dtype=np.int32)
        self.solver.changeColsBounds(
            len(upper), columns, np.zeros(len(upper)) if lower is None else lower, upper
        )

    def bound_row(self, row: int, lower: float, upper: float) -> None:
        """Change the bounds of a row."""
        self.solver.changeRowBounds(row, lower, upper)

    def maximise(
        self, columns: NDArray[np.int32], values: NDArray[np.float64], deadline: Deadline, gap: float = 0.0
    ) -> Solution:
        """Maximise values . columns and nothing else; the solution's value and bound are its negative.

        With a gap, a solution that is proven to be within this share of the largest value is enough.
        """
        self.solver.setOptionValue("mip_rel_gap", gap)
        try:
            return self.minimise(columns, -values, deadline)
        finally:
            self.solver.setOptionValue("mip_rel_gap", 0.0)

    def minimise(
        self,
        columns: NDArray[np.int32],
        values: NDArray[np.float64],
        deadline: Deadline,
        start: NDArray[np.float64] | None = None,
        *,
        enough: float = -INFINITY,
    ) -> Solution:
        """Minimise values . columns and nothing else.

        Args:
            columns: indices.
            values: the cost of each.
            deadline: as for `solve`.
            start: a solution to begin with, with a value for every column; ignored if it breaks a row.
            enough: as for `solve`, without a start.
        """
        self.clear_costs()
        self.solver.changeColsCost(len(columns), columns, values)
        if start is None:
            return self.solve(deadline, enough=enough)
        known = highspy.HighsSolution()
        known.col_value = list(start)
        self.solver.setSolution(known)  # after all changes, each of which makes HiGHS forget it
        found = self.solve(deadline)
        # HiGHS 1.16 may give a start another value once it has simplified the program, and then prove that.
        right = len(found.columns) and abs(found.columns[columns] @ values - found.value) <= 1e-6 * max(
            1.0, abs(found.value)
        )
        if right or found.infeasible:
            return found
        self.solver.clearSolver()
        return self.solve(deadline)

    def solve(self, deadline: Deadline, *, enough: float = -INFINITY, offset: float = 0.0) -> Solution:
        """Minimise until proven, `enough` is reached, or the time is over.

        Args:
            deadline: time limit, stop request, and receiver of progress.
            enough: stop at a solution with this objective.
            offset: added to the objective in reports of progress.
        """
        # HiGHS counts the seconds of an integer program from this run on, those of a linear one from the first.
        before = 0.0 if self._whole else self.solver.getRunTime()
        self.solver.setOptionValue("time_limit", float(before + min(deadline.left, 1e9)))
        self.solver.setOptionValue("objective_target", enough)

        def look(event: highspy.HighsCallbackEvent) -> None:
            event.interrupt(deadline.stop())

        def tell(event: highspy.HighsCallbackEvent) -> None:
            best, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
            deadline.tell(
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
            reduced=np.array(found.col_dual),
            value=info.objective_function_value if has else INFINITY,
            bound=info.objective_function_value if proven else info.mip_dual_bound,
            infeasible=status == highspy.HighsModelStatus.kInfeasible,
        )
