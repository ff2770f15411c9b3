"""From the files a user names to a planning problem, with each error's place in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from partita.perf.table import PerfTable
    from partita.planning.formulate import Formulation
    from partita.serve.reserving.services import CutService
    from partita.workload import Workload


@dataclass(frozen=True, slots=True)
class Loaded:
    """A workload, its performance tables joined, the problem they make, and its services with a cut."""

    path: Path
    workload: Workload
    table: PerfTable
    formulation: Formulation
    cuts: tuple[CutService, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, for the user to read."""
        return (
            *self.table.notes,
            *self.formulation.notes,
            *(note for each in self.cuts for note in each.notes),
        )


def load(path: Path) -> Loaded:
    """Read a workload and its tables and formulate the problem.

    Raises:
        InputError: a file that cannot be used; `where` is its `file:line`.
        InfeasibleError: a service that can run on no profile.
    """
    from partita.perf.reading import read_tables  # noqa: PLC0415 -- numpy is slow to import
    from partita.perf.table import PerfTable  # noqa: PLC0415
    from partita.workload import locating, read_workload  # noqa: PLC0415

    workload = read_workload(path)
    table = read_tables(workload.performance) if workload.performance else PerfTable(())
    with locating(path):
        return formulated(path, workload, table)


def formulated(path: Path, workload: Workload, table: PerfTable) -> Loaded:
    """Formulate the problem of a workload that is read, or changed since.

    Raises:
        InputError: a service that cannot be planned; `where` is the field's path.
        InfeasibleError: a service that can run on no profile; `where` as above.
    """
    from partita.planning.formulate import formulate  # noqa: PLC0415 -- numpy is slow to import
    from partita.serve.reserving.services import cut_services  # noqa: PLC0415

    made = formulate(workload, table)
    return Loaded(path, workload, table, made, cut_services(workload, made.problem.pools, made.measured))
