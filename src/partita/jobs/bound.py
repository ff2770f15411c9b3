"""A lower bound of the makespan of a batch of jobs: from their total work, and from the longest job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.mig.layout import maximal_multisets
from partita.milp import INFINITY, Program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.jobs.job import Job
    from partita.mig.gpu import GpuModel


def makespan_bound(jobs: Sequence[Job], gpu: GpuModel, count: int) -> float:
    """Return a lower bound of the makespan in seconds, whenever the jobs arrive.

    The bound of the work is a linear program. Each job is divided among the profiles that hold it, and the time that
    each profile is used is covered by time that the GPUs spend in one of their maximal multisets. It respects the
    geometry (beside two 3g a compute slice is lost) but ignores order and divides jobs, so it is below the optimum.

    Args:
        jobs: at least one.
        gpu: the model of all GPUs.
        count: how many there are.
    """
    cuts = maximal_multisets(gpu)
    program = Program()
    rows = program.add_rows(np.zeros(len(gpu.profiles)), np.full(len(gpu.profiles), INFINITY))
    first = program.add_rows(np.ones(len(jobs)), np.full(len(jobs), INFINITY))
    every = np.arange(rows, rows + len(gpu.profiles), dtype=np.int32)
    spans = [(every, np.array(cut, dtype=np.float64)) for cut in cuts]
    program.add_columns(np.ones(len(cuts)), np.full(len(cuts), INFINITY), spans)
    row_of = {profile.name: rows + index for index, profile in enumerate(gpu.profiles)}
    parts = [
        (np.array([row_of[name], first + index], dtype=np.int32), np.array([-t, 1.0]))
        for index, job in enumerate(jobs)
        for name, t in job.seconds.items()
    ]
    program.add_columns(np.zeros(len(parts)), np.ones(len(parts)), parts)
    solution = program.solve(Deadline())
    if not len(solution.columns):
        raise PartitaError("no lower bound of the makespan was found", where=gpu.name)
    return max(solution.bound / count, *(min(job.seconds.values()) for job in jobs))
