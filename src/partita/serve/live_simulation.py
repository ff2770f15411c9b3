"""One service's queries in simulated time, through the gateway's own code.

`LiveSimulation` gives queries to a `Route`, as the gateway's servers do, and runs its batches on workers that take as
long as the performance table says. So the router, the joining of queries, refusals, second tries, estimates, prices
and splitting are those that serve, not a model of them. Only the clock is simulated, and messages take no time.
"""

from __future__ import annotations

import math
from array import array
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from partita.serve.dispatching.fleet import fluid_prices, patience, price_question
from partita.serve.gateway.route import Route, no_starts
from partita.serve.tensors import Answer, Batching, Query, Tensor
from partita.serve.worker.emulated import interpolated
from partita.serve.worker.spec import DEFAULT_INPUTS, DEFAULT_OUTPUTS
from partita.serve.worker.wire import Hello

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from partita.serve.dispatching.port import Router
    from partita.serve.dispatching.query import Batch, Worker
    from partita.serve.dispatching.turns import InstanceTurns
    from partita.serve.gateway.route import ServedService
    from partita.serve.worker.spec import WorkerSpec
    from partita.sim.traffic import Traffic

_TICK_S = 0.005
_IDLE_TICK_S = 0.02
_PRICES_S = 2.0
"""Seconds between two ticks, between two while nothing waits, and between two looks at prices, as in the gateway."""
_CHUNK = 4096
_STOP_EVERY = 4096
_ROWS = Batching(rows=True, why="it is simulated, row by row")
_ANSWER = Answer()
_NO_ANSWER = math.inf
_PENDING = math.nan


class Traffics(NamedTuple):
    """Where queries come from.

    Attributes:
        next: returns the next so many queries; times go on from those before.
        shares: share of the queries of each batch size.
    """

    next: Callable[[int], Traffic]
    shares: Mapping[int, float]


class SimulatedTime:
    """The time of services that are simulated side by side.

    Attributes:
        now: seconds since the start.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0


class LiveSimulation:
    """The queries of one service.

    Args:
        service: as the gateway knows it.
        workers: of the service.
        traffic: its queries.
        router: the policy.
        jitter: standard deviation of the logarithm of a batch's seconds relative to the table's; their mean stays.
        seed: of the jitter.
        turns: for each worker those of the instance that it shares with other services; None if it shares none.
        time: that of all services which share instances; None for one that shares none.

    Attributes:
        time: simulated.
        left: number of the queries that it is to count which have not ended.
    """

    def __init__(
        self,
        service: ServedService,
        workers: Sequence[WorkerSpec],
        traffic: Traffics,
        router: type[Router],
        *,
        jitter: float = 0.0,
        seed: int = 0,
        turns: Sequence[InstanceTurns | None] = (),
        time: SimulatedTime | None = None,
    ) -> None:
        self.time = clock = time or SimulatedTime()
        self._traffic = traffic
        self._route = Route(
            service,
            router,
            batching=True,
            dividing=True,
            starts=no_starts,
            hung_s=lambda _: 0.0,
            clock=lambda: clock.now,
        )
        self._jitter, self._random = jitter, Random(seed)
        self._ends: list[tuple[float, int, Worker, int, float]] = []
        self._numbers = 0
        self._arrived = array("d")
        self._sizes = array("l")
        self._latency = array("d")
        self._coming: list[tuple[float, int]] = []
        self._counted = self.left = 0
        self._overdue_until = 0.0
        self._tick_at, self._ticked, self._prices_at = math.inf, 0.0, _PRICES_S
        self._queries: dict[int, Query] = {}
        self._links: dict[Worker, _SimulatedLink] = {}
        for spec, own in zip(workers, turns or [None] * len(workers), strict=True):
            link = _SimulatedLink(self, sorted(spec.seconds.items()), own)
            link.worker = self._route.join(link, _hello(spec))  # type: ignore[arg-type]  # it only runs batches
            self._links[link.worker] = link
        self._slots = sum(spec.processes for spec in workers)
        self._set_first_prices(service)

    def run(self, count: int, stop: Callable[[], bool]) -> None:
        """Go on until the first `count` queries have ended, as more arrive behind them, or until `stop` is true."""
        run_together([self], [count], stop)

    def expect(self, count: int) -> None:
        """Set the number of queries of which `left` counts those that have not ended."""
        self._counted = count
        self.left = count - sum(1 for each in self._latency[:count] if not math.isnan(each))

    def next_at(self) -> float:
        """Return the time of the next event."""
        arrival = self._next_arrival()
        return min(arrival, self._tick_at, self._ends[0][0] if self._ends else math.inf)

    def step(self) -> None:
        """Handle the next event."""
        ends, arrival = self._ends, self._next_arrival()
        at = ends[0][0] if ends and ends[0][0] <= arrival else arrival
        if self._tick_at <= at:
            self._tick(self._tick_at)
        elif at is not arrival:
            self._end()
        else:
            self._arrive(*self._coming.pop())

    def _next_arrival(self) -> float:
        if not self._coming:
            found = self._traffic.next(_CHUNK)
            self._coming = list(zip(found.arrival.tolist(), found.batch.tolist(), strict=True))[::-1]
        return self._coming[-1][0]

    # Events

    def _arrive(self, at: float, size: int) -> None:
        if self._jitter and self._tick_at is math.inf and at - self._ticked > _IDLE_TICK_S:
            # Ticks of an idle service change nothing after the first; what they would have changed is done now.
            self._tick(_grid(at) - _IDLE_TICK_S)
            self._tick_at = math.inf
        if at >= self._prices_at:
            self._reprice(at)
        self.time.now = at
        number = len(self._arrived)
        self._arrived.append(at)
        self._sizes.append(size)
        self._latency.append(_PENDING)
        query = self._queries.get(size)
        if query is None:
            query = self._queries[size] = _query(size)
        self._route.ask(query, None, _Receipt(self, number))
        if self._tick_at is math.inf:
            self._tick_at = _grid(at)

    def _end(self) -> None:
        self.time.now, _, worker, number, seconds = heappop(self._ends)
        batch = worker.running.get(number)
        if batch is not None:
            self._route.done(worker, number, (_ANSWER,) * len(batch.queries), seconds, 0.0)
        link = self._links[worker]
        if link.turns is not None:
            link.turns.ended(link, number, self.time.now)
        if self._tick_at is math.inf:
            self._tick_at = _grid(self.time.now)

    def _tick(self, at: float) -> None:
        self.time.now = self._ticked = at
        self._route.tick(at)
        if self._route.dispatcher.waiting:
            self._tick_at = at + _TICK_S
        elif at < self._overdue_until:
            self._tick_at = at + _IDLE_TICK_S  # a batch runs that is overdue, or soon will be
        else:
            self._tick_at = math.inf

    def start(self, worker: Worker, batch: Batch, seconds: float) -> None:
        """Run a batch on a worker."""
        if self._jitter:
            spread = self._jitter
            seconds *= math.exp(self._random.gauss(-spread * spread / 2, spread))
            if seconds > patience(batch):
                self._overdue_until = max(self._overdue_until, self.time.now + seconds)
        self._numbers += 1
        heappush(self._ends, (self.time.now + seconds, self._numbers, worker, batch.number, seconds))

    def ended(self, number: int, *, answered: bool) -> None:
        """Take note of the end of a query."""
        self._latency[number] = self.time.now - self._arrived[number] if answered else _NO_ANSWER
        if number < self._counted:
            self.left -= 1

    # Prices

    def _set_first_prices(self, service: ServedService) -> None:
        """Set the prices that a gateway has found after a while."""
        fleet = self._route.dispatcher.fleet
        seen = {size: round(part * 1_000_000) for size, part in self._traffic.shares.items()}
        question = price_question(fleet, seen, service.deadline_s, service.quantile)
        if question is None:
            self._prices_at = math.inf  # one size of slice needs no prices
        else:
            fleet.set_prices(fluid_prices(question))

    def _reprice(self, at: float) -> None:
        self._prices_at = at + _PRICES_S
        question = self._route.new_question(at)
        if question is not None:
            self._route.dispatcher.fleet.set_prices(fluid_prices(question))

    # Results

    @property
    def latency(self) -> NDArray[np.float64]:
        """Seconds from arrival to answer of each query so far, inf without an answer, nan where it has not ended."""
        return np.array(self._latency)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Batch size of each query so far."""
        return np.array(self._sizes, dtype=np.int64)

    @property
    def busy(self) -> float:
        """Share of the time in which its workers' processes ran batches."""
        busy = sum(worker.busy_s for worker in self._route.dispatcher.fleet.workers)
        return busy / (self.time.now * self._slots) if self.time.now and self._slots else 0.0


def run_together(services: Sequence[LiveSimulation], counts: Sequence[int], stop: Callable[[], bool]) -> None:
    """Simulate services side by side until of each the first queries have ended, or until `stop` is true.

    Args:
        services: that may share instances.
        counts: number of queries of each that must have ended.
        stop: asked now and then.
    """
    for service, count in zip(services, counts, strict=True):
        service.expect(count)
    alone = services[0] if len(services) == 1 else None
    until_stop = _STOP_EVERY
    while any(service.left for service in services) if alone is None else alone.left:
        (alone or min(services, key=LiveSimulation.next_at)).step()
        until_stop -= 1
        if not until_stop:
            until_stop = _STOP_EVERY
            if stop():
                return


def _grid(after: float) -> float:
    """Return the first tick after a time."""
    return (math.floor(after / _TICK_S) + 1) * _TICK_S


def _hello(spec: WorkerSpec) -> Hello:
    """Return what the worker of a specification says about itself."""
    return Hello(
        spec.service,
        spec.model,
        spec.gpu,
        spec.placement,
        spec.profile,
        spec.batch,
        spec.processes,
        0,
        DEFAULT_INPUTS,
        DEFAULT_OUTPUTS,
        dict(spec.seconds),
        _ROWS,
        retry=spec.retry,
    )


def _query(size: int) -> Query:
    spec = DEFAULT_INPUTS[0]
    shape = (size, *spec.shape[1:])
    return Query((Tensor(spec.name, spec.datatype, shape, bytes(4 * math.prod(shape))),))


class _SimulatedLink:
    """A gateway's connection to a worker that is simulated.

    Args:
        simulation: whose worker it is.
        known: seconds by batch size, ascending.
        turns: of the services that share its instance; None if it has one of its own.

    Attributes:
        worker: None until it has joined.
        turns: as above.
    """

    __slots__ = ("_known", "_seconds", "_simulation", "turns", "worker")

    def __init__(
        self, simulation: LiveSimulation, known: Sequence[tuple[int, float]], turns: InstanceTurns | None
    ) -> None:
        self._simulation, self._known, self.turns = simulation, known, turns
        self._seconds: dict[int, float] = {}
        self.worker: Worker | None = None

    def run(self, number: int, queries: Sequence[Query]) -> None:
        """Run a batch, at once or when its turn comes."""
        if self.turns is None:
            self.send(number, queries)
        else:
            self.turns.start(self, number, queries, self._simulation.time.now)

    def send(self, number: int, queries: Sequence[Query]) -> None:
        """Run a batch at once."""
        del queries
        assert self.worker is not None  # noqa: S101 -- it has joined before any query arrives
        batch = self.worker.running[number]
        seconds = self._seconds.get(batch.items)
        if seconds is None:
            seconds = self._seconds[batch.items] = interpolated(self._known, batch.items)
        self._simulation.start(self.worker, batch, seconds)


class _Receipt:
    """Takes the answer to one query.

    Args:
        simulation: that counts it.
        number: of the query.
    """

    __slots__ = ("_number", "_simulation")

    def __init__(self, simulation: LiveSimulation, number: int) -> None:
        self._simulation, self._number = simulation, number

    def done(self) -> bool:
        """Return that it waits for an answer."""
        return False

    def set_result(self, result: Answer, /) -> None:
        """Count an answer."""
        del result
        self._simulation.ended(self._number, answered=True)

    def set_exception(self, exception: BaseException, /) -> None:
        """Count a query without an answer."""
        del exception
        self._simulation.ended(self._number, answered=False)
