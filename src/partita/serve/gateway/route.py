"""The gateway's part for one service: its dispatcher, and the execution of the dispatcher's decisions.

A query arrives in `ask` and goes to a worker in `execute`; the worker's answers arrive in `done` and go to the client
in `_finish`. A query with more rows than a worker takes is split.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from partita.metrics import instance_labels
from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.estimates import size_class_of
from partita.serve.dispatching.fleet import price_question
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import (
    ENDED,
    PendingQuery,
    QueryEnd,
    QueryFailedError,
    QueryOutcome,
    QueryRefusedError,
    RefusalReason,
    SplitQuery,
)
from partita.serve.gateway.oip import Model
from partita.serve.gateway.statistics import (
    ROUNDING_S,
    ObservedQueries,
    RecentAttainment,
    ServiceCounters,
    ServiceView,
    WorkerStatus,
    WorkerView,
)
from partita.serve.worker.spec import MOST_ROWS
from partita.workload import LARGEST_BATCH, QUANTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from partita.serve.dispatching.dispatcher import Decisions
    from partita.serve.dispatching.fleet import PriceQuestion
    from partita.serve.dispatching.port import Router
    from partita.serve.dispatching.query import AnswerReceiver, Worker
    from partita.serve.gateway.link import Link
    from partita.serve.tensors import Answer, Batching, Query
    from partita.serve.worker.wire import Hello

_LOG = logging.getLogger("partita.serve")
_RETRY_S = 1.0
_LONGEST_S = 86_400.0
_OUT_OF_TIME, _SLOW_START_S = 2.0, 5.0
"""A starting worker no longer counts as expected after so many times the last worker's start time, at least so many
seconds: where all that takes a moment is slow, because the host is busy, so is a start."""
# Looked up once, since access to members of enumerations is slow.
_ANSWERED, _INVALID = QueryOutcome.ANSWERED, QueryOutcome.INVALID
_NO_ROOM = frozenset({RefusalReason.NO_WORKER, RefusalReason.LATE})

Size = tuple[str, str, int]
"""Model of GPU, profile, processes."""


@dataclass(frozen=True, slots=True)
class ServedService:
    """A service of the workload.

    Attributes:
        name: of the service.
        model: that it serves.
        deadline_s: default seconds from a query's arrival to its latest answer.
        quantile: share of the queries that must be answered by then.
        classes: largest batch size of each class of batch sizes that must keep it; empty for all queries together.
        table: seconds by size and batch size, for workers whose HELLO has none.
        overhead_s: part of each deadline that a query's way to the gateway and back takes.
    """

    name: str
    model: str
    deadline_s: float
    quantile: float = QUANTILE
    classes: tuple[int, ...] = ()
    table: Mapping[Size, Mapping[int, float]] = field(default_factory=dict)
    overhead_s: float = 0.0


class WorkerStarts(Protocol):
    """Says when workers will be started again."""

    def __call__(self, service: str, now: float, hung_s: float) -> Sequence[tuple[float, int]]:
        """Return when each missing worker of a service was or will be started, and its largest batch.

        Args:
            service: name of the service.
            now: the current time, on the monotonic clock.
            hung_s: seconds until hung workers will have been killed.
        """
        ...


def no_starts(service: str, now: float, hung_s: float) -> tuple[tuple[float, int], ...]:
    """Return nothing, as it is unknown when workers are started."""
    del service, now, hung_s
    return ()


class Route:
    """The queries of one service.

    Args:
        service: of the workload.
        router: the policy.
        batching: whether waiting queries are joined.
        starts: says when workers will be started again.
        hung_s: returns the seconds until a service's hung workers will have been killed.
        dividing: whether queries with more rows than a worker takes are split.
        clock: tells the time in seconds; never goes back. A simulation has its own.

    Attributes:
        counters: since the start.
        observed: the queries of the last seconds.
        recent: the attainment of the last minutes; `look` at it from time to time.
        hung: number of workers that were killed because they hung.
    """

    def __init__(
        self,
        service: ServedService,
        router: type[Router],
        *,
        batching: bool,
        dividing: bool,
        starts: WorkerStarts,
        hung_s: Callable[[str], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self._clock = clock
        rules = Rules(
            service.deadline_s - service.overhead_s,
            batching,
            classes=service.classes,
            may_miss=1.0 - service.quantile,
        )
        self.dispatcher = Dispatcher(rules, router)
        self.counters, self.observed = ServiceCounters(service.deadline_s), ObservedQueries()
        self.recent = RecentAttainment()
        self.hung = 0
        self._left_s: dict[str, float] = {}  # seconds of work of workers that are gone, by profile
        self.model = Model(
            service.name, service.model, (), (), 0, service.deadline_s, service.quantile, known=False
        )
        self._starts, self._hung_s, self._dividing = starts, hung_s, dividing
        self._most = 0  # the largest batch of any worker so far
        self._load_s = 0.0  # seconds that the last worker took to start
        self._rows = False  # whether the first size of the model's tensors is a batch
        self._all_alike = False  # whether any of its queries may be joined
        self._sized = False  # whether the inputs of queries differ in size beyond their rows
        self._splits: set[SplitQuery] = set()
        self._largest = min(LARGEST_BATCH, _measured_in_time(service) or LARGEST_BATCH)
        self._priced: PriceQuestion | None = None

    def change(self, service: ServedService) -> None:
        """Use another deadline, quantile and table from now on."""
        self.dispatcher.open()
        if service != self.service:
            if service.deadline_s != self.service.deadline_s:
                self.counters.promise(service.deadline_s)
            self.service = service
            self._update_model()

    # From a query to its answer

    async def infer(self, query: Query, deadline_s: float | None) -> Answer:
        """Return the answer to a query."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        pending = self.ask(query, deadline_s, future)
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(pending)
            raise

    def ask(self, query: Query, deadline_s: float | None, receiver: AnswerReceiver) -> PendingQuery:
        """Submit a query; `receiver` gets the answer or error, possibly before this returns."""
        now = self._clock()
        batch = (query.batch or 1) if self._rows else 1
        if batch <= self._largest:
            self.observed.add(batch, now)
        else:
            self._observe(batch, now)
        deadline_s = min(_LONGEST_S, self.service.deadline_s if deadline_s is None else deadline_s)
        allowed = max(0.0, deadline_s - self.service.overhead_s) + ROUNDING_S
        alike = None if self._all_alike and query.parameters is None else self._alike(query)
        size_class = size_class_of(query, batch) if self._sized else 0
        pending = PendingQuery(
            batch, now, allowed, query=query, receiver=receiver, alike=alike, size_class=size_class
        )
        dispatcher = self.dispatcher
        fleet = dispatcher.fleet
        if (
            (batch > fleet.most or fleet.quickest[size_class][batch] > allowed)
            and not dispatcher.closing
            and self._dividing
        ):
            size = fleet.part_size(batch, allowed, size_class)
            if 0 < size < batch:
                self._split(pending, size, now)
                return pending
        self._arrive(pending, now)
        return pending

    def _arrive(self, pending: PendingQuery, now: float) -> None:
        begun = time.perf_counter()
        decisions = self.dispatcher.arrive(pending, now)
        self.counters.decided(time.perf_counter() - begun)
        self.execute(decisions, now)

    def done(
        self, worker: Worker, number: int, answers: Sequence[Answer], seconds: float, waited: float
    ) -> bool:
        """Take a worker's answers to a batch; return False if their number is not that of its queries."""
        batch = worker.running.get(number)
        if batch is None or len(answers) != len(batch.queries):
            return False
        self.counters.executed(batch.items, seconds)
        now, begun = self._clock(), time.perf_counter()
        decisions = self.dispatcher.done(worker, number, answers, seconds, now, waited=waited)
        self.counters.decided(time.perf_counter() - begun)
        self.execute(decisions, now)
        return True

    def execute(self, decisions: Decisions, now: float) -> None:
        """Send batches to workers, and answers and refusals to clients."""
        for batch in decisions.starts:
            link = batch.worker.link
            if link is not None:
                link.run(batch.number, [each.query for each in batch.queries if each and each.query])
        for end in decisions.ends:
            query = end.query
            if query.batch > self.dispatcher.fleet.most and self._is_too_large(end):
                self._split_again(query, now)
            elif query.split is None:
                self._finish(end, now)
            elif (whole := query.split.ended(end, now)) is not None:
                self._end_split(query.split, whole, now)
            else:
                self._feed(query.split, now)

    def _finish(self, end: QueryEnd, now: float) -> None:
        query, outcome, reason, answer = end
        if outcome is _ANSWERED:
            self.counters.answered(query, now, self.service.overhead_s)
        else:
            self.counters.failed(query, now, outcome, reason)
        receiver = query.receiver
        if receiver is not None and not receiver.done():
            if answer is not None and (outcome is _ANSWERED or outcome is _INVALID):
                receiver.set_result(answer)
            else:
                receiver.set_exception(self._error(outcome, reason, answer))

    def _error(
        self, outcome: QueryOutcome, reason: RefusalReason | None, answer: Answer | None
    ) -> BaseException:
        if reason is not None:
            # After a deadline, all queries that wait now will have ended.
            soon = reason in {RefusalReason.LATE, RefusalReason.FULL}
            return QueryRefusedError(reason, self.service.deadline_s if soon else _RETRY_S)
        if outcome is QueryOutcome.CANCELLED:
            return asyncio.CancelledError()
        if answer is None or answer.error is None:
            return QueryRefusedError(RefusalReason.WORKER_LOST, _RETRY_S)
        return QueryFailedError(answer.error)

    def forget(self, pending: PendingQuery) -> None:
        """Cancel a query if it has not ended."""
        now = self._clock()
        if pending.split is None:
            self.execute(self.dispatcher.cancel(pending), now)
        elif pending.state != ENDED:
            self._end_split(pending.split, QueryEnd(pending, QueryOutcome.CANCELLED), now)

    def _alike(self, query: Query) -> Hashable:
        """Return a value that is equal for queries that may be joined.

        A query without a batch dimension, or with parameters, equals no other: it runs by itself.
        """
        if not self._rows or query.parameters is not None:
            return object()
        if self._all_alike:
            return None
        return tuple((each.name, each.datatype, each.shape[1:]) for each in query.inputs)

    def _observe(self, batch: int, now: float) -> None:
        """Count a query by its rows; more rows than were measured count as several queries, since plans need that."""
        while batch > self._largest:
            self.observed.add(self._largest, now)
            batch -= self._largest
        self.observed.add(batch, now)

    # Queries with more rows than a worker takes

    def _split(self, whole: PendingQuery, size: int, now: float) -> None:
        """Split a query into parts of at most `size` rows; refuse it if all workers together would be too slow."""
        assert whole.query is not None  # noqa: S101 -- only in simulations
        split = SplitQuery(whole, whole.query, self._alike(whole.query))
        self._splits.add(split)
        if self.dispatcher.fleet.least_seconds(whole.batch, size, whole.input_class) > whole.due - now:
            self._end_split(split, QueryEnd(whole, QueryOutcome.REFUSED, RefusalReason.LATE), now)
        else:
            self._feed(split, now)

    def _feed(self, split: SplitQuery, now: float) -> None:
        """Submit the next parts of a query."""
        while split.more:
            whole = split.whole
            size = self.dispatcher.fleet.part_size(whole.batch, whole.due - now, whole.input_class)
            self._arrive(split.next(size or whole.batch), now)

    def _is_too_large(self, end: QueryEnd) -> bool:
        """Return whether a query ends because the present workers take fewer rows."""
        query, outcome, reason, answer = end
        if not (0 < self.dispatcher.fleet.most < query.batch and self.model.batching.rows and self._dividing):
            return False
        return reason in _NO_ROOM or (outcome is QueryOutcome.FAILED and answer is None)

    def _split_too_large(self, now: float) -> None:
        """Split waiting queries that only a worker that is gone could take."""
        for query in self.dispatcher.too_large() if self.model.batching.rows and self._dividing else ():
            self._split_again(query, now)

    def _split_again(self, query: PendingQuery, now: float) -> None:
        if query.split is None:
            size = self.dispatcher.fleet.part_size(query.batch, query.due - now, query.input_class)
            self._split(query, size, now)
        else:
            query.split.again(query)
            self._feed(query.split, now)

    def _end_split(self, split: SplitQuery, end: QueryEnd, now: float) -> None:
        """End a split query, and cancel its remaining parts."""
        split.whole.state = ENDED
        self._splits.discard(split)
        self._finish(end, now)
        for part in list(split.under_way):
            self.execute(self.dispatcher.cancel(part), now)

    # Workers

    def join(self, link: Link, hello: Hello) -> Worker:
        """Add a worker."""
        now = self._clock()
        # HELLO does not name the GPU's model, so the table counts only if profile and processes identify it.
        size = (hello.profile, hello.processes)
        tables = [each for (_, *other), each in self.service.table.items() if tuple(other) == size]
        table = tables[0] if len(tables) == 1 else {}
        worker, decisions = self.dispatcher.join(hello, table, now, link)
        self._most = max(self._most, hello.batch)
        self._load_s = hello.load_s
        self._update_model()
        self.execute(decisions, now)
        self._split_too_large(now)
        return worker

    def drain(self, worker: Worker) -> None:
        """Start nothing more on a worker."""
        now = self._act(self.dispatcher.drain, worker)
        self._update_model()
        self._split_too_large(now)

    def leave(self, worker: Worker) -> None:
        """Remove a worker that is gone."""
        now = self._act(self.dispatcher.leave, worker)
        profile = worker.hello.profile
        self._left_s[profile] = self._left_s.get(profile, 0.0) + worker.busy_s
        self._update_model()
        self._split_too_large(now)

    def silent(self, worker: Worker) -> None:
        """Start nothing on a worker without a sign of life."""
        self._split_too_large(self._act(self.dispatcher.silent, worker))

    def heard(self, worker: Worker) -> None:
        """Use a worker again that gives signs of life."""
        self._act(self.dispatcher.heard, worker)

    def said_fault(self, worker: Worker, *, fault: bool) -> None:
        """Start nothing on a worker while it reports that it cannot answer."""
        self._split_too_large(self._act(partial(self.dispatcher.said_fault, fault=fault), worker))

    def said_load(self, worker: Worker, batches: int) -> None:
        """Take note of the number of batches that a worker has from other gateways."""
        now = self._clock()
        self.execute(self.dispatcher.said_load(worker, now, batches=batches), now)

    def _act(self, decide: Callable[[Worker, float], Decisions], worker: Worker) -> float:
        now = self._clock()
        self._look_ahead(now)
        self.execute(decide(worker, now), now)
        return now

    def tick(self, now: float) -> None:
        """Handle what is due by time."""
        if self.dispatcher.fleet.most < self._most:
            self._look_ahead(now)
        self.execute(self.dispatcher.tick(now), now)
        self._split_too_large(now)

    def _look_ahead(self, now: float) -> None:
        """Tell the fleet when missing workers should be ready, assuming the start time of the last worker."""
        if not self._load_s:
            return  # no worker has started yet
        name = self.service.name
        self.dispatcher.fleet.coming = tuple(
            (max(now, at + self._load_s), batch)
            for at, batch in self._starts(name, now, self._hung_s(name))
            if now - at < max(_SLOW_START_S, _OUT_OF_TIME * self._load_s)
        )

    def _update_model(self) -> None:
        """Derive the model from the present workers; without any it stays as it was."""
        workers = [each.hello for each in self.dispatcher.fleet.workers if not each.draining]
        if not workers:
            return
        first = workers[0]
        self._rows = rows = all(each.batching.rows for each in workers)
        self._all_alike = (
            rows
            and bool(first.inputs)
            and all(-1 not in spec.shape[1:] and not spec.optional for spec in first.inputs)
        )
        self._sized = not first.inputs or any(
            -1 in spec.shape[rows:] or spec.datatype == "BYTES" or spec.optional or spec.any_rank
            for spec in first.inputs
        )
        batching = next((each.batching for each in workers if not each.batching.rows), first.batching)
        model = Model(
            self.service.name,
            self.service.model,
            first.inputs,
            first.outputs,
            min(each.batching.most or MOST_ROWS for each in workers) if rows else 0,
            self.service.deadline_s,
            self.service.quantile,
            batching,
        )
        if model == self.model:
            return
        was, self.model = self.model, model
        if not was.known or was.batching != batching:
            self._tell_batching(batching, first.batch)
        if was.batching.rows and not rows:  # queries are split by rows, which the new workers do not take
            for split in list(self._splits):
                end = QueryEnd(split.whole, QueryOutcome.REFUSED, RefusalReason.WORKER_LOST)
                self._end_split(split, end, self._clock())

    def _tell_batching(self, batching: Batching, batch: int) -> None:
        """Log whether queries are joined and why; a warning if they are not and the plan relies on it."""
        told = {"event": "batching", "service": self.service.name, "rows": batching.rows, "why": batching.why}
        if batching.rows:
            _LOG.info("%s: queries are joined: %s", self.service.name, batching.why, extra=told)
            return
        planned = f", while the plan counts on batches of {batch}" if batch > 1 else ""
        _LOG.log(
            logging.WARNING if planned else logging.INFO,
            "%s: queries run one by one%s: %s",
            self.service.name,
            planned,
            batching.why,
            extra=told,
        )

    def new_question(self, now: float) -> PriceQuestion | None:
        """Return the input for new prices, None if the current prices still hold."""
        found = price_question(
            self.dispatcher.fleet,
            self.observed.queries(now),
            self.service.deadline_s,
            self.service.quantile,
            self.service.classes,
        )
        if found is None or not found.differs(self._priced):
            return None
        self._priced = found
        return found

    # Views

    def view(self) -> ServiceView:
        """Return the state of the service."""
        busy_s = defaultdict(float, self._left_s)
        for worker in self.dispatcher.fleet.workers:
            busy_s[worker.hello.profile] += worker.busy_s
        return ServiceView(
            self.service.name,
            self.dispatcher.waiting,
            self.dispatcher.in_flight,
            self.counters.statistics(self.dispatcher.retried, self.observed.items),
            self.hung,
            self.service.deadline_s,
            self.service.quantile,
            self.recent.share(self.counters.judged),
            busy_s,
        )

    def workers(self) -> list[WorkerView]:
        """Return the state of its workers."""
        return [
            WorkerView(
                self.service.name,
                worker.name,
                instance_labels(
                    worker.hello.gpu,
                    worker.hello.placement,
                    worker.hello.gpu_uuid,
                    worker.hello.gpu_instance_id,
                ),
                worker.hello.pid,
                _status(worker),
                len(worker.running),
                worker.hello.processes,
                worker.busy_s,
                worker.answered,
                worker.slowdown.value,
            )
            for worker in self.dispatcher.fleet.workers
        ]


def _status(worker: Worker) -> WorkerStatus:
    if worker.draining:
        return WorkerStatus.DRAINING
    if worker.unready:
        return WorkerStatus.SUSPECTED
    if worker.overdue:
        return WorkerStatus.SLOW
    return WorkerStatus.BUSY if worker.running else WorkerStatus.IDLE


def _measured_in_time(service: ServedService) -> int:
    """Return the largest measured batch that takes no longer than the deadline; 0 if there is none."""
    rows = (row for table in service.table.values() for row in table.items())
    return max((batch for batch, seconds in rows if seconds <= service.deadline_s), default=0)
