"""A workload file that is read again whenever it has changed, and planned for the rates and GPUs of the moment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.control.demand import Demand
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Planning:
    """How plans are made: seconds of search at most, seed, and when the user wants the best so far."""

    time_limit: float
    seed: int
    stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class FileWorkbook:
    """A workload as it was read (control's `Workbook`)."""

    document: str
    loaded: PreparedWorkload
    planning: Planning

    @property
    def demand(self) -> Demand:
        """What services are asked, as written: all rates, and batch sizes of those with a cut."""
        from partita.control.demand import Demand  # noqa: PLC0415 -- slow to import

        rates = {service.name: service.rate for service in self.loaded.workload.services}
        return Demand(rates, {cut.spec.name: cut.shares for cut in self.loaded.cuts})

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of instances that must not stand together."""
        return self.loaded.workload.limits.forbid

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the plan with the fewest GPUs that is nearest to what runs; with too few, by priority.

        Arguments as in control's `Workbook`.

        Raises:
            InfeasibleError: there is no plan at all.
        """
        from partita.deadline import Deadline  # noqa: PLC0415
        from partita.planner import plan  # noqa: PLC0415 -- slow to import

        asked = self.loaded.at(demand.rates, demand.batches, gpus)
        deadline = Deadline(self.planning.time_limit, self.planning.stop)
        return plan(asked, deadline=deadline, seed=self.planning.seed, best_effort=True, current=current).plan


class WorkloadFile:
    """A workload's file and the tables it names (control's `Source`); `-` is read once.

    Args:
        path: the file.
        planning: how plans are made.
    """

    def __init__(self, path: Path, planning: Planning) -> None:
        self._path = path
        self._planning = planning
        self._last: FileWorkbook | None = None

    def read(self) -> FileWorkbook:
        """Return the workload as it is now.

        Raises:
            InputError: it cannot be read.
            InfeasibleError: a service can run nowhere.
        """
        from partita.planner import read_prepared  # noqa: PLC0415 -- slow to import

        if self._last is not None and (str(self._path) == "-" or self._fingerprint() == self._last.document):
            return self._last
        loaded = read_prepared(self._path)
        self._tables = tuple(loaded.workload.performance)
        self._last = FileWorkbook(self._fingerprint(), loaded, self._planning)
        return self._last

    _tables: tuple[str, ...] = ()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in (str(self._path), *self._tables):
            try:
                digest.update(hashlib.sha256(Path(name).read_bytes()).digest())
            except OSError:
                digest.update(b"-")
        return digest.hexdigest()
