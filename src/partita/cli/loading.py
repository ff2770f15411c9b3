"""From the files a user names to a planning problem, with each error's place in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from partita.perf.table import PerfTable
    from partita.plan.formulating.formulate import Formulation
    from partita.workload import Workload


@dataclass(frozen=True, slots=True)
class Loaded:
    """A workload, its performance tables joined, and the problem they make."""

    path: Path
    workload: Workload
    table: PerfTable
    formulation: Formulation


def load(path: Path) -> Loaded:
    """Read a workload and its tables and formulate the problem.

    Raises:
        InputError: a file that cannot be used; `where` is its `file:line`.
        InfeasibleError: a service that can run on no profile.
    """
    from partita.perf.reading import read_tables  # noqa: PLC0415 -- numpy and pydantic are slow to import
    from partita.perf.table import PerfTable  # noqa: PLC0415
    from partita.plan.formulating.formulate import formulate  # noqa: PLC0415
    from partita.workload import locating, read_workload  # noqa: PLC0415

    workload = read_workload(path)
    table = read_tables(workload.performance) if workload.performance else PerfTable(())
    with locating(path):
        return Loaded(path, workload, table, formulate(workload, table))
