"""The services of a plan as tasks to simulate: their workers, their queries, and what they promise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from partita.errors import InputError
from partita.serve.routers import live_router
from partita.serve.served import measured_seconds, served_services, spread_of
from partita.serve.worker.spec import EmulatedSpec
from partita.serve.worker_specs import worker_specs
from partita.sim.traffic import Traffic, draw, unit_arrivals
from partita.workload import QUANTILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.serve.gateway.route import ServedService
    from partita.serve.worker.spec import WorkerSpec
    from partita.verification.outcome import Trial
    from partita.workload import ArrivalsSpec, ServiceSpec

    Arrivals = Literal["poisson", "constant"] | ArrivalsSpec

_MADE = 1 << 17
"""Queries that are made at a time."""


class Judged(NamedTuple):
    """What a service promises, and at which rate.

    Attributes:
        share: of the queries that are answered in time; None if none is promised.
        rate: share of the planned rate.
    """

    share: float | None
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """One service to simulate.

    Attributes:
        served: the service as the gateway knows it.
        workers: its workers.
        rate: items/s.
        process: how its queries come.
        shares: share of its queries of each batch size.
        promised: share of the queries that must be in time; None if none is promised.
        seed: of its queries.
        jitter: standard deviation of the logarithm of a batch's seconds.
    """

    served: ServedService
    workers: tuple[WorkerSpec, ...]
    rate: float
    process: Arrivals
    shares: Mapping[int, float]
    promised: float | None
    seed: int
    jitter: float

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for tasks of one service that come to the same."""
        workers = ((each.profile, each.batch, each.processes, *each.seconds.items()) for each in self.workers)
        return self.served.name, self.rate, self.promised, *sorted(workers)

    @property
    def items(self) -> float:
        """Mean items of a query."""
        return sum(size * part for size, part in self.shares.items())


def tasks_of(
    plan: Plan, prepared: PreparedWorkload, trial: Trial, judged: Mapping[str, Judged] | None = None
) -> list[tuple[Task, ...]]:
    """Return the services of a plan, those together that share an instance.

    Args:
        plan: what runs where.
        prepared: its workload.
        trial: how it is simulated.
        judged: what each service promises; None for what the workload says.

    Raises:
        InputError: the plan is not for this workload, or there is no such router.
    """
    live_router(trial.router)
    workload, measured = prepared.workload, prepared.formulation.measured
    shared = {
        name for gpu in plan.gpus for each in gpu.instances if each.point.tenants for name, _ in each.serves
    }
    promised = promises(prepared) if judged is None else judged
    workers: dict[str, list[WorkerSpec]] = {}
    backends = {each.name: EmulatedSpec() for each in workload.services}
    refuse_other(plan, prepared)
    for worker in worker_specs(plan, backends, Path(), tables=measured_seconds(workload, measured)):
        for spec in worker.served:
            workers.setdefault(spec.service, []).append(spec)
    cuts = {cut.spec.name: cut.shares for cut in prepared.cuts}
    services = zip(workload.services, served_services(workload, measured), strict=True)
    return list(
        _groups(
            Task(
                served,
                tuple(workers.get(spec.name, ())),
                spec.rate * (1 + spec.headroom) * trial.load * promised[spec.name].rate,
                "poisson" if spec.name in shared else spec.process,
                cuts.get(spec.name, {1: 1.0}),
                promised[spec.name].share,
                trial.seed * 1_000_003 + index,
                spread_of(spec, measured) if trial.jitter is None else trial.jitter,
            )
            for index, (spec, served) in enumerate(services)
        )
    )


def promises(prepared: PreparedWorkload) -> dict[str, Judged]:
    """Return what each service of a workload promises with all its instances."""
    return {spec.name: Judged(promised_share(spec)) for spec in prepared.workload.services}


def promised_share(spec: ServiceSpec) -> float | None:
    """Return the share of a service's queries that must be in time; None where capacity is plain arithmetic."""
    return None if spec.process == "constant" else spec.slo.quantile or QUANTILE


def _groups(tasks: Iterator[Task]) -> Iterator[tuple[Task, ...]]:
    """Yield tasks, those together that have workers at one place, directly or through others."""
    by_place: dict[tuple[str, str], list[int]] = {}
    found = list(tasks)
    for number, task in enumerate(found):
        for each in task.workers:
            by_place.setdefault(place_of(each), []).append(number)
    first = list(range(len(found)))

    def root(number: int) -> int:
        while first[number] != number:
            first[number] = number = first[first[number]]
        return number

    for numbers in by_place.values():
        for number in numbers[1:]:
            first[root(number)] = root(numbers[0])
    groups: dict[int, list[Task]] = {}
    for number, task in enumerate(found):
        groups.setdefault(root(number), []).append(task)
    yield from map(tuple, groups.values())


def place_of(worker: WorkerSpec) -> tuple[str, str]:
    """Return where a worker runs: its GPU and its placement."""
    return worker.gpu, worker.placement


def refuse_other(plan: Plan, prepared: PreparedWorkload) -> None:
    """Refuse a plan that was made for other services."""
    known = {service.name for service in prepared.workload.services}
    planned = {each.name for each in plan.services}
    used = {name for gpu in plan.gpus for each in gpu.instances for name, _ in each.serves}
    workload = str(prepared.path or "the workload")
    hint = f"make a plan of this workload: partita plan -f {prepared.path or 'WORKLOAD'} --out PLAN"
    for name in sorted(planned | used):
        if name not in known:
            raise InputError(
                f"the plan has {name}, and {workload} has not", where=f"service {name}", hint=hint
            )
    for name in sorted(known - planned):
        raise InputError(f"{workload} has {name}, and the plan has not", where=f"service {name}", hint=hint)


class QueriesOf:
    """The endless queries of a service.

    Args:
        task: the service.
    """

    def __init__(self, task: Task) -> None:
        self._rng = np.random.default_rng(task.seed)
        self._process, self._rate = task.process, task.rate / task.items
        most = max(task.shares)
        self._share = np.array([task.shares.get(size, 0.0) for size in range(1, most + 1)])
        self._last = 0.0
        self._made = np.empty(0)

    def next(self, count: int) -> Traffic:
        """Return the next queries."""
        if len(self._made) < count:
            # A trace goes on from a random place at each call, so it is asked for many at a time.
            self._made = self._last + unit_arrivals(self._process, max(count, _MADE), self._rng) / self._rate
            self._last = float(self._made[-1])
        times, self._made = self._made[:count], self._made[count:]
        sizes = draw(self._share, count, self._rng) if len(self._share) > 1 else np.ones(count, np.int64)
        return Traffic(times, sizes)
