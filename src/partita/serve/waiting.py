"""Capacity with waiting: what instances hold when queries come at random and wait for each other.

The arithmetic of a performance table says how many items per second an instance runs without a pause. Queries that
come at random cannot use all of that: one that finds all instances busy waits, and must still be answered within the
SLO. So `CapacityModel` asks the gateway's own decisions, simulated (`serve.routers.joined`), for the largest rate at
which a number of equal instances behind one router answers the promised share of the queries in time, waiting
included.

Many instances hold more than as many single ones (pooling). To keep the planner's program linear, an instance counts
with what it adds to a set of its kind that holds the service's rate R: R / n, n being the fractional number of
such instances that holds R. A set of unlike instances may hold a little more or less than the sum says. Therefore
the sets of a plan are simulated again before the plan is returned (`CapacityModel.held`), and a service whose set
falls short is planned anew with less.

Simulating the services of a large workload can take longer than the search. Once its time is over, an instance counts
with what is known of smaller sets, or with what a few of its kind hold in a short simulation, of which a good part is
left unused (`CapacityModel.points`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.perf.operating_point import OperatingPoint, batch_times
from partita.planning.formulate import allows, plain
from partita.serve.dispatching.estimates import table_of
from partita.serve.problem import TICK
from partita.serve.routers.joined import Servers, count_late
from partita.serve.simulation import bisected
from partita.sim.traffic import unit_arrivals
from partita.workload import QUANTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from partita.perf.table import Measurement
    from partita.planning.formulate import Measured, Points
    from partita.workload import ArrivalsSpec, LimitsSpec, ServiceSpec

_RESERVE = 0.98
"""Share of the rate that a set holds in simulation which it counts with: batches may take longer than measured."""
_MARGIN = 0.9
"""Share of the late queries that the promise allows which the model uses; the rest is for its own error."""
_TOLERANCE = 0.004
_SEEDS = (1, 2)
_SURE = 0.95
"""The same for the last look at a plan's own sets, which has nothing but chance to allow for."""
_FRESH_SEEDS = (11, 12, 13)
_MOST_QUERIES = 200_000.0
_WARM = 0.1
_ROUNDING = 1e-6
"""Added to a number of queries that may be late, which is a product of fractions."""
_LEAST = 1e-3
"""Share of the arithmetic capacity below which an instance counts as unable."""
_MOST_HELD = 50_000
"""Most capacities that are kept."""
_GRID = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of instances whose capacity is simulated; between them the capacity of one is interpolated."""
_SMALLER = (1, 4, 16, 64)
"""Numbers of instances that are tried before more: where so many hold all that the table says, more hold it, too."""
_CLEARLY = 0.1
"""Share of the late queries that they may have then."""
_FEW = 4
"""Most instances in a simulation once time is over."""
_FEW_QUERIES = 4096
_FEW_MARGIN = 0.5
"""As `_MARGIN`, for a simulation of few queries."""
_FEW_STEP = 0.8
"""Factor between two rates that such simulations try."""


Runs = tuple[str, str, int, int]
"""How an instance runs: GPU, profile, largest batch, processes."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a service promises.

    Attributes:
        deadline: seconds from a query's arrival to its latest answer.
        share: of the queries that are answered by then.
        process: how they come.
    """

    deadline: float
    share: float
    process: Literal["poisson", "constant"] | ArrivalsSpec

    @classmethod
    def of(cls, service: ServiceSpec, limits: LimitsSpec) -> Promise:
        """Return what a service promises, less what the way to the gateway and back takes."""
        deadline_ms = service.slo.latency_ms - limits.overhead_of(service)
        return cls(deadline_ms / 1000, service.slo.quantile or QUANTILE, service.process)


@dataclass(frozen=True, slots=True)
class InstanceKind:
    """How instances of one kind run.

    Attributes:
        slices: compute slices, by which a router prefers smaller ones.
        seconds: of a batch of 0, 1, 2, ... items, up to the largest.
        processes: batches that run at once.
        jitter: standard deviation of the logarithm of a batch's seconds.
    """

    slices: int
    seconds: tuple[float, ...]
    processes: int
    jitter: float

    @property
    def arithmetic(self) -> float:
        """Items/s of one instance without a pause."""
        most = len(self.seconds) - 1
        return self.processes * most / self.seconds[most]


class CapacityModel:
    """Capacities with waiting, each simulated once.

    Args:
        measured: rows of the workload's models, and its limits.

    Attributes:
        hurried: names of the services for which time was over, and whose instances may hold more.
    """

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self.hurried: set[str] = set()
        # Compiled now, so that it takes no time of the first service.
        one = InstanceKind(1, (0.0, 1.0), 1, 0.0)
        self._keep([(one, 1)], 1.0, Promise(1.0, QUANTILE, "constant"), _SEEDS, 1.0, 1)
        self._held: dict[_Held, float] = {}
        self._all: dict[_Held, bool] = {}
        self._few: dict[_Held, float] = {}
        self._gaps: dict[
            tuple[Literal["poisson", "constant"] | ArrivalsSpec, int, int], NDArray[np.float64]
        ] = {}
        self._kinds: dict[tuple[str, str, str, int, int, float | None], InstanceKind] = {}

    def points(self, service: ServiceSpec, rate: float, deadline: Deadline | None = None) -> Points:
        """Return the operating points of a service by GPU and profile, each with its capacity as throughput.

        Args:
            service: whose queries wait.
            rate: items/s that its instances hold together.
            deadline: once it is over, capacities are those of few instances in short simulations, which are lower,
                and the service is one of `hurried`; None for no limit.
        """
        self.hurried.discard(service.name)
        deadline = deadline or Deadline()
        found: Points = {}
        promise = Promise.of(service, self._measured.limits)
        for gpu in self._measured.gpus:
            rows = self._rows(service, gpu.name)
            for profile in gpu.profiles:
                own = [row for row in rows if row.profile == profile.name]
                if not own and profile.name in (service.profiles or ()):
                    own = [row for row in rows if row.profile == plain(profile.name)]
                if own and allows(service, profile):
                    point = self._best(service, promise, gpu.name, own, rate, deadline)
                    if point is not None:
                        found[gpu.name, profile.name] = replace(point, profile=profile.name)
        return found

    def _rows(self, service: ServiceSpec, gpu: str) -> list[Measurement]:
        limits = self._measured.point_limits(service, gpu)
        if limits is None:
            return []
        rows, _ = batch_times(self._measured.of(service.model, gpu), service.slo.quantile)
        return [row for row in rows if limits.allow(row)]

    def kind(self, service: ServiceSpec, gpu: str, profile: str, batch: int, processes: int) -> InstanceKind:
        """Return how instances run that take batches up to this size, by the table as the gateway reads it."""
        asked = service.slo.quantile
        key = (service.model, gpu, profile, batch, processes, asked)
        if key not in self._kinds:
            rows, jitter = batch_times(self._measured.of(service.model, gpu), asked)
            mine = [row for row in rows if row.processes == processes]
            own = [row for row in mine if row.profile == profile] or [
                row for row in mine if row.profile == plain(profile)
            ]
            seconds = table_of({row.batch: row.latency_ms / 1000 for row in own}, batch, 0.0)
            slices = int(profile.partition("g.")[0])
            self._kinds[key] = InstanceKind(slices, tuple(seconds), processes, jitter)
        return self._kinds[key]

    def _best(  # noqa: PLR0917 -- as `points` has them
        self,
        service: ServiceSpec,
        promise: Promise,
        gpu: str,
        rows: Sequence[Measurement],
        rate: float,
        deadline: Deadline,
    ) -> OperatingPoint | None:
        """Return the row whose instances add the most, None if none can keep the promise."""
        best, most = None, 0.0
        for row in sorted(rows, key=lambda row: (-row.throughput, row.processes)):
            kind = self.kind(service, gpu, row.profile, row.batch, row.processes)
            if _RESERVE * kind.arithmetic <= most:
                continue
            if deadline.over:
                self.hurried.add(service.name)
                adds = self._adds_at_least(kind, promise, rate)
            elif self._adds_more(kind, promise, rate, most):
                adds = self.adds(kind, promise, rate)
            else:
                continue
            held = min(row.throughput, adds)
            if held > most:
                best, most = replace(OperatingPoint.of(row), throughput=held), held
        return best

    def adds(self, kind: InstanceKind, promise: Promise, rate: float) -> float:
        """Return the items/s that an instance adds to a set of its kind that holds the rate."""
        alone = self.holds(kind, 1, promise)
        if rate <= alone or alone <= 0.0:
            return alone
        # As many as there would be without waiting; it takes no fewer.
        at = bisect_right(_GRID, rate / kind.arithmetic) - 1
        at = max(at, 0)
        while at + 1 < len(_GRID) and self.holds(kind, _GRID[at + 1], promise) < rate:
            at += 1
        low = _GRID[at]
        below = self.holds(kind, low, promise)
        if at + 1 == len(_GRID) or below >= rate:
            return below / low
        high = _GRID[at + 1]
        above = self.holds(kind, high, promise)
        return rate / (low + (high - low) * (rate - below) / (above - below))

    def _adds_at_least(self, kind: InstanceKind, promise: Promise, rate: float) -> float:
        """Return items/s that an instance adds at least to a set that holds the rate, without a long simulation."""
        most = max(1, bisect_right(_GRID, rate / kind.arithmetic))
        known = self._known(promise)
        for instances in reversed(_GRID[:most]):
            if (kind, instances, promise) in known:
                return known[kind, instances, promise] / instances
        few = min(_FEW, _GRID[most - 1])
        if (kind, few, promise) not in self._few:
            late = _FEW_MARGIN * (1.0 - promise.share)
            each = _RESERVE * kind.arithmetic
            while not self._keep([(kind, few)], few * each, promise, _SEEDS, late, _FEW_QUERIES):
                each *= _FEW_STEP
                if each < _LEAST * kind.arithmetic:
                    each = 0.0
                    break
            self._few[kind, few, promise] = _FEW_STEP * each
        return self._few[kind, few, promise]

    def _adds_more(self, kind: InstanceKind, promise: Promise, rate: float, than: float) -> bool:
        """Say whether an instance seems to add more than so much, by one look."""
        instances = _GRID[max(0, bisect_right(_GRID, rate / than) - 1)] if than > 0.0 else 1
        return self._keeps(kind, instances, instances * than / _RESERVE, promise)

    def _keeps(self, kind: InstanceKind, instances: int, rate: float, promise: Promise) -> bool:
        if rate <= 0.0:
            return True
        late = _MARGIN * (1.0 - promise.share)
        return self._keep([(kind, instances)], rate, promise, _SEEDS, late)

    def holds(self, kind: InstanceKind, instances: int, promise: Promise) -> float:
        """Return the largest rate in items/s at which equal instances keep a promise; 0 if they keep it at none."""
        key = (kind, instances, promise)
        known = self._known(promise)
        if key not in known:
            most = instances * kind.arithmetic
            if self._holds_all(kind, instances, promise):
                held = most
            else:
                # More instances mostly hold no less each: the search begins with what as many single ones hold.
                alone = self.holds(kind, 1, promise) if instances > 1 else 0.0
                held = _largest(
                    lambda rate: self._keeps(kind, instances, rate, promise),
                    most,
                    max(instances * alone, 0.8 * most),
                )
            if len(known) >= _MOST_HELD:
                known.clear()
            known[key] = _RESERVE * held
        return known[key]

    def _holds_all(self, kind: InstanceKind, instances: int, promise: Promise) -> bool:
        """Say whether equal instances keep a promise at all that the table says.

        Where fewer clearly do, more do, if queries come at random; where it is close, more may not. Where queries
        come evenly, a few instances can be in step with them that more are not.
        """
        if promise.process == "poisson" and any(
            self._clearly_all(kind, fewer, promise) for fewer in _SMALLER if fewer < instances
        ):
            return True
        return self._keeps(kind, instances, instances * kind.arithmetic, promise)

    def _clearly_all(self, kind: InstanceKind, instances: int, promise: Promise) -> bool:
        key = (kind, instances, promise)
        if key not in self._all:
            late = _CLEARLY * _MARGIN * (1.0 - promise.share)
            most = instances * kind.arithmetic
            self._all[key] = self._keep([(kind, instances)], most, promise, _SEEDS, late)
        return self._all[key]

    def _known(self, promise: Promise) -> dict[_Held, float]:
        return self._held if _is_trace(promise.process) else _held

    def held(self, service: ServiceSpec, instances: Mapping[Runs, int], rate: float) -> float:
        """Return the rate in items/s that a service's instances hold together, at most `rate`.

        The queries are other ones than those that the capacities come from.

        Args:
            service: whose queries wait.
            instances: how many run in each way.
            rate: items/s, with headroom.
        """
        promise = Promise.of(service, self._measured.limits)
        kinds = [(self.kind(service, *runs), n) for runs, n in instances.items()]

        def kept(rate: float) -> bool:
            return self._keep(kinds, rate, promise, _FRESH_SEEDS, _SURE * (1.0 - promise.share))

        most = rate / _RESERVE
        return rate if kept(most) else _RESERVE * _largest(kept, most, rate)

    def _keep(  # noqa: PLR0917 -- what is simulated, and what is asked of it
        self,
        instances: Sequence[tuple[InstanceKind, int]],
        rate: float,
        promise: Promise,
        seeds: Sequence[int],
        late: float,
        queries: int | None = None,
    ) -> bool:
        """Say whether at most this share of the queries is not answered in time, of those of all seeds together.

        A simulation ends as soon as more are late, whatever follows.
        """
        servers = _servers(instances)
        count = queries or _queries(promise, _at_once(servers))
        factors = _factors(max(kind.jitter for kind, _ in instances))
        first = int(_WARM * count)
        left = math.floor(late * len(seeds) * (count - first) + _ROUNDING)
        for seed in seeds:
            arrivals = self._arrivals(promise.process, count, seed) / rate
            in_time = promise.deadline + TICK
            left -= count_late(arrivals, servers, promise.deadline, factors, first, left, in_time)
            if left < 0:
                return False
        return True

    def _arrivals(
        self, process: Literal["poisson", "constant"] | ArrivalsSpec, count: int, seed: int
    ) -> NDArray[np.float64]:
        if not _is_trace(process):
            return _arrivals(process, count, seed)
        key = (process, count, seed)
        if key not in self._gaps:
            self._gaps[key] = unit_arrivals(process, count, np.random.default_rng(seed))
        return self._gaps[key]


_Held = tuple[InstanceKind, int, Promise]

_held: dict[_Held, float] = {}
"""What equal instances hold, in items/s: plans for other rates ask for the same again. A trace's file may change."""


def _is_trace(process: Literal["poisson", "constant"] | ArrivalsSpec) -> bool:
    return not isinstance(process, str) and process.trace is not None


@lru_cache(maxsize=32)
def _arrivals(
    process: Literal["poisson", "constant"] | ArrivalsSpec, count: int, seed: int
) -> NDArray[np.float64]:
    return unit_arrivals(process, count, np.random.default_rng(seed))


def _largest(kept: Callable[[float], bool], most: float, guess: float) -> float:
    """Return the largest rate that is kept below `most`, which is not, by bisection from a guess; 0 if none is."""
    high, low = most, min(guess, (1.0 - _TOLERANCE) * most)
    while not kept(low):
        high, low = low, 0.6 * low
        if low < _LEAST * most:
            return 0.0
    return bisected(kept, low, high, _TOLERANCE)


def _queries(promise: Promise, at_once: int) -> int:
    """Return how many queries to simulate: enough late ones, and many times what runs at once; a power of two."""
    rare = 100 / (1.0 - promise.share)
    wanted = max(8_000.0, rare) * (1 if promise.process == "poisson" else 4)
    return 1 << math.ceil(math.log2(min(max(wanted, 30.0 * at_once), _MOST_QUERIES)))


def _at_once(servers: Servers) -> int:
    """Return how many queries run at once where all batches are full."""
    return int((servers.lanes * servers.most).sum())


def _servers(instances: Sequence[tuple[InstanceKind, int]]) -> Servers:
    ordered = sorted(instances, key=lambda each: (each[0].slices, each[0].processes, each[0].seconds))
    most = np.array([len(kind.seconds) - 1 for kind, _ in ordered])
    seconds = np.full((len(ordered), int(most.max()) + 1), np.inf)
    for at, (kind, _) in enumerate(ordered):
        seconds[at, : len(kind.seconds)] = kind.seconds
    return Servers(seconds, most, np.array([kind.processes * n for kind, n in ordered]))


@cache
def _factors(jitter: float) -> NDArray[np.float64]:
    """Return factors of batch seconds, log-normal with mean 1."""
    if jitter <= 0.0:
        return np.ones(1)
    return np.exp(np.random.default_rng(0).normal(-jitter * jitter / 2, jitter, 4093))
