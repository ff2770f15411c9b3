"""All that the gateway holds of one service: its dispatcher, and what carries out the decisions.

A query comes in by `ask`, goes to a worker in `execute`; the worker's answers come by `done`, and go to whoever asked
in `_finish`. A query of more rows than a worker takes is asked in parts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

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
    ServiceCounters,
    ServiceView,
    WorkerStatus,
    WorkerView,
)
from partita.serve.worker.spec import MOST_ROWS
from partita.workload import LARGEST_BATCH

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
_OUT_OF_TIME = 2.0
"""Times as long as the last worker took to start, after which one that is not there yet is not counted on."""
_ANSWERED, _INVALID = (
    QueryOutcome.ANSWERED,
    QueryOutcome.INVALID,
)  # looked up once: enumerations are slow at it
_NO_ROOM = frozenset({RefusalReason.NO_WORKER, RefusalReason.LATE})

Size = tuple[str, str, int]
"""Model of GPU, profile, processes."""


QUANTILE = 0.95
"""Share of the queries that should be in time, where the workload says none."""


@dataclass(frozen=True, slots=True)
class ServedService:
    """A service as the workload has it.

    Attributes:
        name: of the service.
        model: that it serves.
        deadline_s: seconds from a query's arrival to its latest answer, where the query has none of its own.
        quantile: share of the queries that must be answered by then.
        table: by size, seconds of a batch of each measured batch size; for workers that do not bring their own.
    """

    name: str
    model: str
    deadline_s: float
    quantile: float = QUANTILE
    table: Mapping[Size, Mapping[int, float]] = field(default_factory=dict)


class WorkerStarts(Protocol):
    """Tells when workers are started anew."""

    def __call__(self, service: str, now: float, hung_s: float) -> Sequence[tuple[float, int]]:
        """Return when each worker of a service that is not ready was or will be started, and its largest batch.

        Args:
            service: its name.
            now: the moment, on the monotonic clock.
            hung_s: seconds until workers that run but hang will have been ended.
        """
        ...


def no_starts(service: str, now: float, hung_s: float) -> tuple[tuple[float, int], ...]:
    """Return nothing: it is not known who starts workers."""
    del service, now, hung_s
    return ()


class Route:
    """Where the queries of one service go.

    Args:
        service: as the workload has it.
        router: the policy.
        batching: whether waiting queries are joined.
        starts: tells when workers are started anew.
        hung_s: returns the seconds until those of a service's workers that hang are ended.
        dividing: whether queries of more rows than a worker takes are asked in parts.
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
    ) -> None:
        self.service = service
        self.dispatcher = Dispatcher(Rules(service.deadline_s, batching), router)
        self.counters, self.observed = ServiceCounters(), ObservedQueries()
        self.hung = 0  # workers that were ended because of it
        self.model = Model(
            service.name, service.model, (), (), 0, service.deadline_s, service.quantile, known=False
        )
        self._starts, self._hung_s, self._dividing = starts, hung_s, dividing
        self._most = 0  # rows that a worker has taken
        self._load_s = 0.0  # that the last worker took to start
        self._rows = False  # whether the first size of its tensors is a batch
        self._all_alike = False  # whether all of its queries may be joined, whatever their inputs
        self._sized = False  # whether the inputs of queries differ in more than their rows
        self._splits: set[SplitQuery] = set()
        self._largest = min(LARGEST_BATCH, _measured_in_time(service) or LARGEST_BATCH)
        self._priced: PriceQuestion | None = None

    def change(self, service: ServedService) -> None:
        """Serve by these figures from now on: deadline, quantile, and the table of workers that bring none."""
        self.dispatcher.open()
        if service != self.service:
            self.service = service
            self._update_model()

    # From a query to its answer.

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
        """Take a query whose end `receiver` is told, maybe before this returns."""
        now = time.monotonic()
        batch = (query.batch or 1) if self._rows else 1
        if batch <= self._largest:
            self.observed.add(batch, now)
        else:
            self._observe(batch, now)
        allowed = min(_LONGEST_S, self.service.deadline_s if deadline_s is None else deadline_s) + ROUNDING_S
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
        """Take a worker's answers to a batch; False if they are not as many as its queries."""
        batch = worker.running.get(number)
        if batch is None or len(answers) != len(batch.queries):
            return False
        self.counters.executed(batch.items, seconds)
        now, begun = time.monotonic(), time.perf_counter()
        decisions = self.dispatcher.done(worker, number, answers, seconds, now, waited=waited)
        self.counters.decided(time.perf_counter() - begun)
        self.execute(decisions, now)
        return True

    def execute(self, decisions: Decisions, now: float) -> None:
        """Send batches to their workers, and hand answers and refusals back."""
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
            self.counters.answered(query, now)
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
            # A queue that is too long now has emptied, one way or the other, after a deadline.
            soon = reason in {RefusalReason.LATE, RefusalReason.FULL}
            return QueryRefusedError(reason, self.service.deadline_s if soon else _RETRY_S)
        if outcome is QueryOutcome.CANCELLED:
            return asyncio.CancelledError()
        if answer is None or answer.error is None:
            return QueryRefusedError(RefusalReason.WORKER_LOST, _RETRY_S)
        return QueryFailedError(answer.error)

    def forget(self, pending: PendingQuery) -> None:
        """Take a query out of the queue, if it has not ended."""
        now = time.monotonic()
        if pending.split is None:
            self.execute(self.dispatcher.cancel(pending), now)
        elif pending.state != ENDED:
            self._end_split(pending.split, QueryEnd(pending, QueryOutcome.CANCELLED), now)

    def _alike(self, query: Query) -> Hashable:
        """Return what queries that may be joined have in common.

        What has no batch dimension, or says more than its tensors, is like nothing else: it runs by itself.
        """
        if not self._rows or query.parameters is not None:
            return object()
        if self._all_alike:
            return None
        return tuple((each.name, each.datatype, each.shape[1:]) for each in query.inputs)

    def _observe(self, batch: int, now: float) -> None:
        """Count a query by its rows; one of more than are measured as several, as plans know no such batches."""
        while batch > self._largest:
            self.observed.add(self._largest, now)
            batch -= self._largest
        self.observed.add(batch, now)

    # Queries of more rows than a worker takes.

    def _split(self, whole: PendingQuery, size: int, now: float) -> None:
        """Ask a query in parts of at most so many rows, unless all workers together could not answer it in time."""
        assert whole.query is not None  # noqa: S101 -- it was asked
        split = SplitQuery(whole, whole.query, self._alike(whole.query))
        self._splits.add(split)
        if self.dispatcher.fleet.least_seconds(whole.batch, size, whole.input_class) > whole.due - now:
            self._end_split(split, QueryEnd(whole, QueryOutcome.REFUSED, RefusalReason.LATE), now)
        else:
            self._feed(split, now)

    def _feed(self, split: SplitQuery, now: float) -> None:
        """Ask for more parts of a query, if it has any."""
        while split.more:
            whole = split.whole
            size = self.dispatcher.fleet.part_size(whole.batch, whole.due - now, whole.input_class)
            self._arrive(split.next(size or whole.batch), now)

    def _is_too_large(self, end: QueryEnd) -> bool:
        """Return whether a query ends because the workers that there are take fewer rows."""
        query, outcome, reason, answer = end
        if not (0 < self.dispatcher.fleet.most < query.batch and self.model.batching.rows and self._dividing):
            return False
        return reason in _NO_ROOM or (outcome is QueryOutcome.FAILED and answer is None)

    def _split_too_large(self, now: float) -> None:
        """Ask in smaller parts what waits for workers that are no longer there."""
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
        """End a query that was asked in parts; parts that are still running are cancelled."""
        split.whole.state = ENDED
        self._splits.discard(split)
        self._finish(end, now)
        for part in list(split.under_way):
            self.execute(self.dispatcher.cancel(part), now)

    # Workers that come, go, fall silent and return.

    def join(self, link: Link, hello: Hello) -> Worker:
        """Take a worker in."""
        now = time.monotonic()
        # The table of its profile and processes; of its GPU's model it says nothing.
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
        """Give a worker nothing new."""
        now = self._act(self.dispatcher.drain, worker)
        self._update_model()
        self._split_too_large(now)

    def leave(self, worker: Worker) -> None:
        """Forget a worker that is gone."""
        now = self._act(self.dispatcher.leave, worker)
        self._update_model()
        self._split_too_large(now)

    def silent(self, worker: Worker) -> None:
        """Give nothing new to a worker that gives no sign of life."""
        self._split_too_large(self._act(self.dispatcher.silent, worker))

    def heard(self, worker: Worker) -> None:
        """Trust a worker again that gives signs of life."""
        self._act(self.dispatcher.heard, worker)

    def said_fault(self, worker: Worker, *, fault: bool) -> None:
        """Give nothing new to a worker while it says that it cannot answer."""
        self._split_too_large(self._act(partial(self.dispatcher.said_fault, fault=fault), worker))

    def said_load(self, worker: Worker, batches: int) -> None:
        """Take note of how many batches a worker has of other gateways."""
        now = time.monotonic()
        self.execute(self.dispatcher.said_load(worker, now, batches=batches), now)

    def _act(self, decide: Callable[[Worker, float], Decisions], worker: Worker) -> float:
        now = time.monotonic()
        self._look_ahead(now)
        self.execute(decide(worker, now), now)
        return now

    def tick(self, now: float) -> None:
        """Let time pass."""
        if self.dispatcher.fleet.most < self._most:
            self._look_ahead(now)
        self.execute(self.dispatcher.tick(now), now)
        self._split_too_large(now)

    def _look_ahead(self, now: float) -> None:
        """Let the fleet know when workers that it lacks should be there: so long after their start as the last."""
        if not self._load_s:
            return  # none has been there yet
        name = self.service.name
        self.dispatcher.fleet.coming = tuple(
            (max(now, at + self._load_s), batch)
            for at, batch in self._starts(name, now, self._hung_s(name))
            if now - at < _OUT_OF_TIME * self._load_s
        )

    def _update_model(self) -> None:
        """Let the model be what the workers there are take; what it was while there are none."""
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
        if was.batching.rows and not rows:  # parts of theirs may have been answered by each other
            for split in list(self._splits):
                end = QueryEnd(split.whole, QueryOutcome.REFUSED, RefusalReason.WORKER_LOST)
                self._end_split(split, end, time.monotonic())

    def _tell_batching(self, batching: Batching, batch: int) -> None:
        """Log whether queries are joined, and why not, which costs throughput where the plan counts on it."""
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
        """Return what the prices should be asked anew for, None if they are still good."""
        found = price_question(
            self.dispatcher.fleet,
            self.observed.queries(now),
            self.service.deadline_s,
            self.service.quantile,
        )
        if found is None or not found.differs(self._priced):
            return None
        self._priced = found
        return found

    # What others see.

    def view(self) -> ServiceView:
        """Return the service as it is now."""
        return ServiceView(
            self.service.name,
            self.dispatcher.waiting,
            self.dispatcher.in_flight,
            self.counters.statistics(self.dispatcher.retried, self.observed.items),
            self.hung,
        )

    def workers(self) -> list[WorkerView]:
        """Return its workers as they are now."""
        return [
            WorkerView(
                self.service.name,
                worker.name,
                worker.hello.profile,
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
    """Return the largest batch that was measured to take no longer than a query has; 0 if none was."""
    rows = (row for table in service.table.values() for row in table.items())
    return max((batch for batch, seconds in rows if seconds <= service.deadline_s), default=0)
