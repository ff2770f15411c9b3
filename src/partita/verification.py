"""Whether a plan keeps what it promises: all its services' queries, simulated through the gateway's own code.

`simulate_plan` makes the plan's workers as `partita serve` does, sends each service queries as its `arrivals` say at
the rate that was planned for, and counts how many are answered within the SLO. It goes on until confidence decides
whether a promise is kept. Nothing here knows how the planner counts capacity.
"""

from __future__ import annotations

import math
import os
import signal
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from partita.errors import InputError, nearest
from partita.serve.gateway.route import QUANTILE, ServedService
from partita.serve.live_simulation import LiveSimulation, Traffics
from partita.serve.routers import live_router
from partita.serve.served import measured_seconds, served_services
from partita.serve.worker.spec import EmulatedSpec
from partita.serve.worker_specs import worker_specs
from partita.sim.traffic import Traffic, draw, unit_arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.synchronize import Event

    from numpy.typing import NDArray

    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan, PlannedGpu
    from partita.serve.worker.spec import WorkerSpec
    from partita.workload import ArrivalsSpec, ServiceSpec

    Arrivals = Literal["poisson", "constant"] | ArrivalsSpec
QUERIES = 20_000
"""Default number of queries of each service in the first look."""
_LOOKS = 5
"""Most looks at a service whose promise is undecided; each has twice as many queries as the one before."""
_LEAST_DEADLINES = 40.0
"""Deadlines that the first look should span, as far as that takes no more than four times its queries."""
_WARM_DEADLINES = 10.0
_WARM_QUERIES = 100
"""Queries at the start that do not count: those of so many deadlines, and at least so many queries."""
_MADE = 1 << 17
"""Queries that are made at a time."""
_PARTS = 20
_STUDENT_T = 2.093
"""Two-sided 95 % point of Student's t for `_PARTS` - 1 degrees of freedom."""
_NORMAL = 1.96
_TOLERANCE_S = 2e-9
_QUANTILES = (0.5, 0.95, 0.99)
_LOOK_S = 0.1
"""Seconds between two looks at whether to stop."""
_INLINE = 60_000
"""Queries of all services together that one process simulates before others would have started."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How a plan is simulated.

    Attributes:
        load: factor of all rates.
        queries: of each service in the first look; a promise that stays undecided gets up to 16 times as many.
        seed: of arrivals, sizes and jitter.
        jitter: standard deviation of the logarithm of a batch's seconds; their mean is the table's.
        router: name of the policy.
        processes: that simulate side by side; 0 for one per core.
    """

    load: float = 1.0
    queries: int = QUERIES
    seed: int = 0
    jitter: float = 0.0
    router: str = "late-binding"
    processes: int = 0


class Verdict(StrEnum):
    """Whether a service keeps its promise, at 95 % confidence."""

    KEPT = "yes"
    BROKEN = "no"
    UNDECIDED = "undecided"
    NONE = "none"
    """It promises no share of its queries."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of queries answered in time, with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def verdict(self, promised: float | None) -> Verdict:
        """Return whether a promised share is kept."""
        if promised is None:
            return Verdict.NONE
        if self.low >= promised:
            return Verdict.KEPT
        return Verdict.BROKEN if self.high < promised else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class SizeOutcome:
    """The queries of a class of batch sizes.

    Attributes:
        smallest: batch size of the class.
        largest: batch size of the class.
        queries: that counted.
        in_time: share answered in time.
    """

    smallest: int
    largest: int
    queries: int
    in_time: Share

    @property
    def items(self) -> str:
        """The class in words, such as `5-8`."""
        return f"{self.smallest}" if self.smallest == self.largest else f"{self.smallest}-{self.largest}"


@dataclass(frozen=True, slots=True)
class ServiceOutcome:
    """What became of one service's queries.

    Attributes:
        service: its name.
        rate: items/s that arrived.
        queries_per_second: queries/s that arrived.
        deadline_ms: the SLO's latency.
        promised: share of the queries that must be answered in time; None if none is promised.
        in_time: share that was.
        verdict: whether the promise is kept.
        queries: that counted.
        refused: share without an answer.
        latency_ms: quantiles of all queries, a query without an answer counting as infinite; None there.
        busy: share of the time in which the processes of its instances ran batches.
        instances: number of its instances.
        sizes: classes of batch sizes, if its queries have several.
    """

    service: str
    rate: float
    queries_per_second: float
    deadline_ms: float
    promised: float | None
    in_time: Share
    verdict: Verdict
    queries: int
    refused: float
    latency_ms: tuple[float | None, ...]
    busy: float
    instances: int
    sizes: tuple[SizeOutcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "service": self.service,
            "rate": self.rate,
            "queries_per_second": self.queries_per_second,
            "deadline_ms": self.deadline_ms,
            "promised": self.promised,
            "kept": self.verdict.value,
            "in_time": self.in_time.value,
            "in_time_95": [self.in_time.low, self.in_time.high],
            "queries": self.queries,
            "refused": self.refused,
            "latency_ms": {f"p{q * 100:g}": ms for q, ms in zip(_QUANTILES, self.latency_ms, strict=True)},
            "busy": self.busy,
            "instances": self.instances,
            "sizes": [
                {
                    "items": [each.smallest, each.largest],
                    "queries": each.queries,
                    "in_time": each.in_time.value,
                    "in_time_95": [each.in_time.low, each.in_time.high],
                }
                for each in self.sizes
            ],
        }


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """What became of the queries of a plan's services.

    Attributes:
        trial: how it was simulated.
        services: in the order of the workload; those that had not ended are missing if it was stopped.
        stopped: whether it was.
    """

    trial: Trial
    services: tuple[ServiceOutcome, ...]
    stopped: bool = False

    @property
    def broken(self) -> tuple[ServiceOutcome, ...]:
        """The services that do not keep their promise."""
        return tuple(each for each in self.services if each.verdict is Verdict.BROKEN)

    @property
    def undecided(self) -> tuple[ServiceOutcome, ...]:
        """The services of which confidence does not say whether they do."""
        return tuple(each for each in self.services if each.verdict is Verdict.UNDECIDED)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "load": self.trial.load,
            "router": self.trial.router,
            "jitter": self.trial.jitter,
            "seed": self.trial.seed,
            "keeps": not self.broken,
            "services": [each.to_dict() for each in self.services],
        }


Level = Literal["gpu", "node"]
"""What can be lost at once."""


@dataclass(frozen=True, slots=True)
class LossOutcome:
    """What becomes of the queries where something is lost.

    Attributes:
        lost: names of GPUs or nodes; the loss of each of them comes to the same.
        services: those that lose instances.
    """

    lost: tuple[str, ...]
    services: tuple[ServiceOutcome, ...]

    @property
    def broken(self) -> tuple[ServiceOutcome, ...]:
        """The services that do not keep their promise then."""
        return tuple(each for each in self.services if each.verdict is Verdict.BROKEN)


@dataclass(frozen=True, slots=True)
class LossesOutcome:
    """What becomes of the queries of a plan for each loss.

    Attributes:
        level: what is lost.
        losses: those that are unlike each other.
        stopped: whether some are missing.
    """

    level: Level
    losses: tuple[LossOutcome, ...]
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "level": self.level,
            "keeps": not any(each.broken for each in self.losses),
            "losses": [
                {
                    "lost": list(each.lost),
                    "keeps": not each.broken,
                    "services": [service.to_dict() for service in each.services],
                }
                for each in self.losses
            ],
        }


def simulate_plan(
    plan: Plan,
    prepared: PreparedWorkload,
    trial: Trial | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] | None = None,
) -> PlanOutcome:
    """Simulate the queries of all services of a plan.

    Args:
        plan: for the workload.
        prepared: the workload.
        trial: how to simulate.
        stop: returns True once the result so far is wanted.
        report: called with the number of services that are simulated, and of all.

    Raises:
        InputError: the plan is not for this workload, or there is no such router.
    """
    trial = trial or Trial()
    tasks = _tasks(plan, prepared, trial)
    found = _outcomes(tasks, trial, stop, report)
    ordered = tuple(found[index] for index in range(len(tasks)) if index in found)
    return PlanOutcome(trial, ordered, stopped=len(ordered) < len(tasks))


def simulate_losses(
    plan: Plan,
    prepared: PreparedWorkload,
    level: Level,
    trial: Trial | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] | None = None,
) -> LossesOutcome:
    """Simulate a plan without each of its GPUs or nodes in turn.

    Only services that lose instances are simulated, and losses that leave a service alike instances once.

    Args:
        plan: for the workload.
        prepared: the workload.
        level: what is lost.
        trial: how to simulate.
        stop: as for `simulate_plan`.
        report: called with the number of cases that are simulated, and of all.

    Raises:
        InputError: as for `simulate_plan`.
    """
    trial = trial or Trial()
    tasks: list[_Task] = []
    known: dict[tuple[object, ...], int] = {}
    losses: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    for names, gone in _alike_losses(plan, level):
        hit = {each.service for gpu in gone for each in gpu.instances}
        rest = without(plan, [gpu.id for gpu in gone])
        numbers = []
        for task in _tasks(rest, prepared, trial):
            if task.served.name in hit:
                number = known.setdefault(task.signature, len(tasks))
                if number == len(tasks):
                    tasks.append(task)
                numbers.append(number)
        losses.append((names, tuple(numbers)))
    found = _outcomes(tasks, trial, stop, report)
    return LossesOutcome(
        level,
        tuple(
            LossOutcome(names, tuple(found[number] for number in numbers))
            for names, numbers in losses
            if all(number in found for number in numbers)
        ),
        stopped=len(found) < len(tasks),
    )


def _alike_losses(plan: Plan, level: Level) -> Iterator[tuple[tuple[str, ...], tuple[PlannedGpu, ...]]]:
    """Yield losses that come to the same: the names of all, and the GPUs of the first."""
    units: dict[str, list[PlannedGpu]] = {}
    for gpu in plan.gpus:
        units.setdefault(gpu.id if level == "gpu" else node_of(gpu), []).append(gpu)
    alike: dict[tuple[object, ...], list[str]] = {}
    numbers: dict[object, int] = {}
    for name, gpus in units.items():
        kinds = [numbers.setdefault((gpu.model, gpu.instances), len(numbers)) for gpu in gpus]
        alike.setdefault(tuple(sorted(kinds)), []).append(name)
    for names in alike.values():
        yield tuple(names), tuple(units[names[0]])


# What is simulated


@dataclass(frozen=True, slots=True)
class _Task:
    """One service to simulate.

    Attributes:
        served: the service as the gateway knows it.
        workers: its workers.
        rate: items/s.
        process: how its queries come.
        shares: share of its queries of each batch size.
        promised: share of the queries that must be in time; None if none is promised.
        seed: of its queries.
    """

    served: ServedService
    workers: tuple[WorkerSpec, ...]
    rate: float
    process: Arrivals
    shares: Mapping[int, float]
    promised: float | None
    seed: int

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for tasks that come to the same."""
        workers = ((each.profile, each.batch, each.processes, *each.seconds.items()) for each in self.workers)
        return self.served.name, *sorted(workers)

    @property
    def items(self) -> float:
        """Mean items of a query."""
        return sum(size * part for size, part in self.shares.items())


def _tasks(plan: Plan, prepared: PreparedWorkload, trial: Trial) -> list[_Task]:
    live_router(trial.router)
    workload, measured = prepared.workload, prepared.formulation.measured
    _refuse_other(plan, prepared)
    workers: dict[str, list[WorkerSpec]] = {}
    backends = {each.name: EmulatedSpec() for each in workload.services}
    for spec in worker_specs(plan, backends, Path(), tables=measured_seconds(workload, measured)):
        workers.setdefault(spec.service, []).append(spec)
    cuts = {cut.spec.name: cut.shares for cut in prepared.cuts}
    return [
        _Task(
            served,
            tuple(workers.get(spec.name, ())),
            spec.rate * (1 + spec.headroom) * trial.load,
            spec.process,
            cuts.get(spec.name, {1: 1.0}),
            _promised(spec),
            trial.seed * 1_000_003 + index,
        )
        for index, (spec, served) in enumerate(
            zip(workload.services, served_services(workload, measured), strict=True)
        )
    ]


def _refuse_other(plan: Plan, prepared: PreparedWorkload) -> None:
    """Refuse a plan that was made for other services."""
    known = {service.name for service in prepared.workload.services}
    planned = {each.name for each in plan.services}
    used = {each.service for gpu in plan.gpus for each in gpu.instances}
    workload = str(prepared.path or "the workload")
    hint = f"make a plan of this workload: partita plan -f {prepared.path or 'WORKLOAD'} --out PLAN"
    for name in sorted(planned | used):
        if name not in known:
            raise InputError(
                f"the plan has {name}, and {workload} has not", where=f"service {name}", hint=hint
            )
    for name in sorted(known - planned):
        raise InputError(f"{workload} has {name}, and the plan has not", where=f"service {name}", hint=hint)


def _promised(spec: ServiceSpec) -> float | None:
    """Return the share of a service's queries that must be in time; none where capacity is plain arithmetic."""
    return None if spec.process == "constant" else spec.slo.quantile or QUANTILE


class _Queries:
    """The endless queries of a service.

    Args:
        task: the service.
    """

    def __init__(self, task: _Task) -> None:
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


# Simulation, in this process and in others


def _outcomes(
    tasks: Sequence[_Task],
    trial: Trial,
    stop: Callable[[], bool],
    report: Callable[[int, int], None] | None,
) -> dict[int, ServiceOutcome]:
    """Return the outcome of each task that has ended before `stop`, by its number."""
    cores = trial.processes or len(os.sched_getaffinity(0))
    workers = min(cores, len(tasks)) if trial.processes or len(tasks) * trial.queries > _INLINE else 1
    simulated = _side_by_side(tasks, trial, stop, workers) if workers > 1 else _in_turn(tasks, trial, stop)
    found = {}
    for number, outcome in simulated:
        found[number] = outcome
        if report is not None:
            report(len(found), len(tasks))
    return found


def _in_turn(
    tasks: Sequence[_Task], trial: Trial, stop: Callable[[], bool]
) -> Iterator[tuple[int, ServiceOutcome]]:
    for number, task in enumerate(tasks):
        outcome = _simulate(task, trial, stop)
        if outcome is None:
            return
        yield number, outcome


def _side_by_side(
    tasks: Sequence[_Task], trial: Trial, stop: Callable[[], bool], workers: int
) -> Iterator[tuple[int, ServiceOutcome]]:
    context = get_context("spawn")
    told = context.Event()
    with ProcessPoolExecutor(workers, context, _begin, (told,)) as pool:
        try:
            numbers = {pool.submit(_simulate_apart, task, trial): number for number, task in enumerate(tasks)}
            waiting = set(numbers)
            while waiting and not stop():
                ended, waiting = wait(waiting, _LOOK_S, FIRST_COMPLETED)
                for each in ended:
                    outcome = each.result()
                    if outcome is not None:
                        yield numbers[each], outcome
        finally:
            told.set()
            pool.shutdown(cancel_futures=True)


_told: Event | None = None
"""In a process of a pool: set when nobody waits for its results."""


def _begin(told: Event) -> None:
    """Begin a process of a pool, which ends when it is told to, not by Ctrl-C."""
    global _told  # noqa: PLW0603 -- what a pool gives its processes has no other place
    _told = told
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _simulate_apart(task: _Task, trial: Trial) -> ServiceOutcome | None:
    return _simulate(task, trial, lambda: _told is not None and _told.is_set())


def _simulate(task: _Task, trial: Trial, stop: Callable[[], bool]) -> ServiceOutcome | None:
    """Return the outcome of a service, None if it was stopped before."""
    if not task.workers:
        return _unserved(task, trial)
    queries = _Queries(task)
    simulation = LiveSimulation(
        task.served,
        task.workers,
        Traffics(queries.next, task.shares),
        live_router(trial.router),
        jitter=trial.jitter,
        seed=task.seed,
    )
    per_second = task.rate / task.items
    warm = math.ceil(_WARM_DEADLINES * task.served.deadline_s * per_second)
    warm = max(_WARM_QUERIES, min(warm, trial.queries))
    first = max(
        trial.queries,
        min(math.ceil(_LEAST_DEADLINES * task.served.deadline_s * per_second), 4 * trial.queries),
    )
    for look in range(_LOOKS):
        count = warm + first * 2**look
        simulation.run(count, stop)
        if stop():
            return None
        seconds, sizes = simulation.latency[warm:count], simulation.sizes[warm:count]
        # The way to the gateway and back is not simulated.
        in_time = seconds <= task.served.deadline_s - task.served.overhead_s + _TOLERANCE_S
        share = confident_share(in_time)
        verdict = share.verdict(task.promised)
        if verdict is not Verdict.UNDECIDED:
            break
    return ServiceOutcome(
        task.served.name,
        task.rate,
        per_second,
        task.served.deadline_s * 1000,
        task.promised,
        share,
        verdict,
        len(seconds),
        float(np.isinf(seconds).mean()),
        _latencies(seconds),
        simulation.busy,
        len(task.workers),
        _by_size(sizes, in_time) if len(task.shares) > 1 else (),
    )


def _unserved(task: _Task, trial: Trial) -> ServiceOutcome:
    none = Share(0.0, 0.0, 0.0)
    return ServiceOutcome(
        task.served.name,
        task.rate,
        task.rate / task.items,
        task.served.deadline_s * 1000,
        task.promised,
        none,
        none.verdict(task.promised),
        trial.queries,
        1.0,
        (None,) * len(_QUANTILES),
        0.0,
        0,
    )


def confident_share(in_time: NDArray[np.bool_]) -> Share:
    """Return the share of queries in time with its 95 % confidence interval.

    Queries that wait in one queue are correlated, so the interval is that of the means of 20 consecutive parts (batch
    means; Law, Simulation Modeling and Analysis, section 9.5.3), widened where consecutive parts are correlated too,
    and no narrower than that of as many independent queries (Wilson, 1927).

    Args:
        in_time: of each query, in order of arrival.
    """
    n = len(in_time)
    value = float(in_time.mean())
    low, high = _wilson(value, n)
    if n >= _PARTS:
        means = in_time[: n - n % _PARTS].reshape(_PARTS, -1).mean(axis=1)
        away = means - means.mean()
        spread = float(away @ away)
        again = max(0.0, float(away[1:] @ away[:-1]) / spread) if spread else 0.0
        half = _STUDENT_T * math.sqrt(spread / (_PARTS - 1) / _PARTS * (1 + again) / (1 - again))
        low, high = max(0.0, min(low, value - half)), min(1.0, max(high, value + half))
    return Share(value, low, high)


def _wilson(share: float, n: int) -> tuple[float, float]:
    squared = _NORMAL * _NORMAL / n
    middle = (share + squared / 2) / (1 + squared)
    half = _NORMAL / (1 + squared) * math.sqrt(share * (1 - share) / n + squared / (4 * n))
    return middle - half, middle + half


def _latencies(seconds: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Return quantiles in milliseconds; None for those of queries without an answer."""
    ordered = np.sort(seconds)
    at = [float(ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]) for q in _QUANTILES]
    return tuple(each * 1000 if math.isfinite(each) else None for each in at)


def _by_size(sizes: NDArray[np.int64], in_time: NDArray[np.bool_]) -> tuple[SizeOutcome, ...]:
    """Return the classes of batch sizes: 1, 2, 3 to 4, 5 to 8 and so on."""
    classes = np.ceil(np.log2(sizes)).astype(np.int64)
    found = []
    for each in np.unique(classes).tolist():
        mine = classes == each
        smallest, largest = (2 ** (each - 1) + 1 if each else 1), 2**each
        found.append(SizeOutcome(smallest, largest, int(mine.sum()), confident_share(in_time[mine])))
    return tuple(found)


# What is gone


def without(plan: Plan, names: Sequence[str]) -> Plan:
    """Return a plan without some GPUs or nodes, given by name; services keep what they promise.

    Raises:
        InputError: the plan has no such GPU or node.
    """
    known = {gpu.id for gpu in plan.gpus} | {node_of(gpu) for gpu in plan.gpus}
    for name in names:
        if name not in known:
            close = nearest(name, sorted(known))
            raise InputError(
                f"the plan has no GPU or node {name!r}",
                where="--without",
                hint=f"did you mean {close}?"
                if close
                else f"the first is {plan.gpus[0].id}"
                if plan.gpus
                else None,
            )
    gone = set(names)
    return replace(
        plan, gpus=tuple(gpu for gpu in plan.gpus if gpu.id not in gone and node_of(gpu) not in gone)
    )


def node_of(gpu: PlannedGpu) -> str:
    """Return the name of a GPU's node."""
    return gpu.id.rpartition("/")[0]
