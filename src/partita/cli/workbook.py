"""A workload file that is read again whenever it has changed, and planned for the rates and GPUs of the moment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.cli.loading import Loaded
    from partita.control.demand import Demand
    from partita.planning.plan import Plan
    from partita.planning.problem import Pool, Problem
    from partita.serve.reserving.services import CutService
    from partita.transition.deployment import Deployment
    from partita.workload import ServiceSpec


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
        from partita.planning.exact import (  # noqa: PLC0415
            ExactPlanner,
            TooFewGpusError,
            plan_best_effort,
        )
        from partita.transition.nearest_plan import nearest_plan  # noqa: PLC0415

        if self.loaded.cuts:
            return self._plan_with_cuts(demand, gpus, current)
        problem = self._problem(demand, gpus)
        watch = Deadline(self.planning.time_limit, self.planning.stop)
        try:
            best = ExactPlanner(self.planning.seed, watch).plan(problem)
        except TooFewGpusError:
            return plan_best_effort(
                problem, Deadline(self.planning.time_limit, self.planning.stop), self.planning.seed
            )
        return nearest_plan(problem, best, current)

    def _problem(self, demand: Demand, gpus: Mapping[str, int]) -> Problem:
        asked = at_rates(self.loaded.formulation.problem, demand.rates)
        return asked.with_counts(pool_counts(asked.pools, gpus))

    def _plan_with_cuts(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Plan services that share beside those with a cut, whose GPUs they leave alone."""
        from partita.deadline import Deadline  # noqa: PLC0415
        from partita.planning.exact import (  # noqa: PLC0415
            ExactPlanner,
            TooFewGpusError,
            plan_best_effort,
        )
        from partita.serve.reserving.planning import plan_reserving, reserve_best_effort  # noqa: PLC0415
        from partita.serve.reserving.reservation import running, shared_part  # noqa: PLC0415
        from partita.transition.nearest_plan import nearest_plan  # noqa: PLC0415

        problem, seed = self._problem(demand, gpus), self.planning.seed
        cuts = cuts_at(self.loaded, demand)
        watch = Deadline(self.planning.time_limit, self.planning.stop)
        runs, shared = running(current, cuts), shared_part(current, cuts)

        def share(rest: Problem) -> Plan:
            return nearest_plan(rest, ExactPlanner(seed, watch).plan(rest), shared)

        try:
            return plan_reserving(problem, cuts, share, watch, seed=seed, running=runs).plan
        except TooFewGpusError:
            watch = Deadline(self.planning.time_limit, self.planning.stop)

        def what_fits(rest: Problem) -> Plan:
            return plan_best_effort(rest, watch, seed)

        return reserve_best_effort(problem, cuts, what_fits, watch, seed=seed, running=runs).plan


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


def cuts_at(loaded: Loaded, demand: Demand) -> tuple[CutService, ...]:
    """Return the services with a cut as they are asked now.

    Raises:
        InfeasibleError: too few of a service's queries can be answered in time.
    """
    from partita.serve.reserving.services import cut_services  # noqa: PLC0415 -- slow to import
    from partita.workload import Batches  # noqa: PLC0415

    written = {cut.spec.name: cut.shares for cut in loaded.cuts}

    def at(spec: ServiceSpec) -> ServiceSpec:
        if spec.name not in written:
            return spec
        shares = demand.batches[spec.name]
        batches = spec.batches if shares == written[spec.name] else Batches(histogram=dict(shares))
        return spec.replace(rate=demand.rates[spec.name], batches=batches)

    workload = loaded.workload.replace(services=tuple(map(at, loaded.workload.services)))
    return cut_services(workload, loaded.formulation.problem.pools, loaded.formulation.measured)


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
