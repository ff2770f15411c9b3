"""A workload file that is read again whenever it has changed, and planned for the rates and GPUs of the moment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.cli.loading import Loaded
    from partita.plan.plan import Plan
    from partita.plan.problem import Pool, Problem
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
    loaded: Loaded
    planning: Planning

    @property
    def rates(self) -> Mapping[str, float]:
        """Items/s of each service, as written."""
        return {service.name: service.rate for service in self.loaded.workload.services}

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of instances that must not stand together."""
        return self.loaded.workload.limits.forbid

    def plan(self, rates: Mapping[str, float], gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the plan with the fewest GPUs that is nearest to what runs; with too few, by priority.

        Arguments as in control's `Workbook`.

        Raises:
            InfeasibleError: there is no plan at all.
        """
        from partita.plan.exact import ExactPlanner, TooFewGpusError  # noqa: PLC0415 -- slow to import
        from partita.plan.exact.best_effort import plan_best_effort  # noqa: PLC0415
        from partita.plan.watch import Watch  # noqa: PLC0415
        from partita.transition.nearest_plan import nearest_plan  # noqa: PLC0415

        asked = at_rates(self.loaded.formulation.problem, rates)
        problem = asked.with_counts(pool_counts(asked.pools, gpus))
        watch = Watch(self.planning.time_limit, self.planning.stop)
        try:
            best = ExactPlanner(self.planning.seed, watch).plan(problem)
        except TooFewGpusError:
            return plan_best_effort(
                problem, Watch(self.planning.time_limit, self.planning.stop), self.planning.seed
            )
        return nearest_plan(problem, best, current)


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
        from partita.cli.loading import load  # noqa: PLC0415 -- slow to import

        if self._last is not None and (str(self._path) == "-" or self._fingerprint() == self._last.document):
            return self._last
        loaded = load(self._path)
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


def at_rates(problem: Problem, rates: Mapping[str, float]) -> Problem:
    """Return the problem with services asked at these rates, each with its headroom."""
    return problem.with_services(
        tuple(
            replace(
                service,
                asked_rate=rates[service.name],
                rate=rates[service.name] * service.rate / service.asked_rate,
            )
            for service in problem.services
        )
    )


def pool_counts(pools: tuple[Pool, ...], gpus: Mapping[str, int]) -> dict[str, int | None]:
    """Return how many GPUs each pool has, of those that can be used of its model."""
    left = dict(gpus)
    counts: dict[str, int | None] = {}
    for pool in pools:
        there = left.get(pool.gpu.name, 0)
        counts[pool.name] = n = there if pool.count is None else min(pool.count, there)
        left[pool.gpu.name] = there - n
    return counts
