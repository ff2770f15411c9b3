"""PARIS: slices in proportion to the work of the batch sizes that each is the smallest to serve well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.milp import INFINITY, Program
from partita.serve.cut import ServingCut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import ServingProblem


@dataclass(frozen=True, slots=True)
class Paris:
    """The partitioning of PARIS and ELSA (DAC'22, section IV.B), with utilisation relative to a size's own peak.

    Attributes:
        knee: part of its peak throughput from which a size counts as well used.
    """

    knee: float = 0.8

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut nearest to what PARIS asks for."""
        return nearest_cut(problem, self.instances(problem))

    def knees(self, problem: ServingProblem) -> NDArray[np.int64]:
        """Return each size's smallest batch with `knee` of its peak throughput, shape (K,)."""
        batch = np.arange(1, problem.latency.shape[1] + 1)
        rate = batch / problem.latency
        return np.asarray(np.argmax(rate >= self.knee * rate.max(axis=1, keepdims=True), axis=1) + 1)

    def instances(self, problem: ServingProblem) -> NDArray[np.float64]:
        """Return N_k, not yet whole: R_k G / sum_j(j R_j), R_k the time size k spends on its batch sizes.

        Size k owns the batch sizes above the last smaller size's knee up to its own; the largest owns the rest.

        Raises:
            InfeasibleError: a size cannot run a batch size that it owns.
        """
        knees = self.knees(problem)
        knees[-1] = problem.latency.shape[1]
        work, below = np.zeros(len(knees)), 0
        for k, knee in enumerate(knees):
            own = [b for b in range(below, knee) if problem.share[b] > 0]
            work[k] = problem.share[own] @ problem.latency[k, own]
            below = max(below, int(knee))
        if not np.isfinite(work).all():
            name = problem.profiles[int(np.argmax(~np.isfinite(work)))]
            raise InfeasibleError(
                f"PARIS gives {name} batch sizes that it cannot run",
                hint="choose another cut, such as search",
            )
        return np.asarray(work * problem.gpu.compute_slices * problem.gpus / (problem.compute @ work))


def nearest_cut(problem: ServingProblem, wanted: NDArray[np.float64]) -> ServingCut:
    """Return the legal cut of all GPUs with the fewest compute slices given to other sizes than wanted.

    Args:
        problem: its GPUs.
        wanted: instances of each size, not necessarily whole, shape (K,).
    """
    sizes, multisets = len(wanted), problem.multisets
    program = Program()
    rows = program.add_rows(wanted, wanted)
    gpus = program.add_rows(np.array([float(problem.gpus)]), np.array([float(problem.gpus)]))
    for sign in (1.0, -1.0):  # short of what is wanted, and over it
        entries = [(np.array([rows + k], dtype=np.int32), np.array([sign])) for k in range(sizes)]
        program.add_columns(problem.compute.astype(np.float64), np.full(sizes, INFINITY), entries)
    all_rows = np.append(np.arange(rows, rows + sizes), gpus).astype(np.int32)
    ways = [(all_rows, np.append(np.array(each, dtype=np.float64), 1.0)) for each in multisets]
    none, limit = np.zeros(len(ways)), np.full(len(ways), float(problem.gpus))
    first = program.add_columns(none, limit, ways, integer=True)
    numbers = np.rint(program.solve(Deadline()).columns[first:]).astype(int)
    return ServingCut.of(each for each, n in zip(multisets, numbers, strict=True) for _ in range(n))
