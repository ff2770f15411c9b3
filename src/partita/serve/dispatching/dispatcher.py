"""The dispatcher of one service: a state machine without I/O and without a clock.

Its methods take an event and its time, and return decisions: batches to start, and queries that have ended. The
router keeps the waiting queries and chooses their workers; the dispatcher keeps the state of each query, worker and
batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from partita.serve.dispatching.fleet import Fleet, WorkerHealth
from partita.serve.dispatching.query import (
    ENDED,
    QUEUED,
    RUNNING,
    Batch,
    PendingQuery,
    QueryEnd,
    QueryOutcome,
    RefusalReason,
    UnreadyReason,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.serve.dispatching.port import Router, Rules
    from partita.serve.dispatching.query import BatchSender
    from partita.serve.tensors import Answer
    from partita.serve.worker.wire import Hello


_TRIES = 2
# Looked up once, since access to members of enumerations is slow.
_ANSWERED, _INVALID = QueryOutcome.ANSWERED, QueryOutcome.INVALID


class Decisions(NamedTuple):
    """What to do: batches to send to their workers, and queries that have ended."""

    starts: list[Batch]
    ends: list[QueryEnd]


class Dispatcher:
    """The dispatcher of one service.

    Args:
        rules: for the router.
        router: the policy.
        most_waiting: maximum number of waiting queries.

    Attributes:
        fleet: the workers.
        in_flight: number of queries that workers are running.
        retried: number of second tries.
    """

    def __init__(self, rules: Rules, router: type[Router], most_waiting: int = 4096) -> None:
        self._most_waiting = most_waiting
        self.fleet = Fleet(rules.deadline)
        self._router: Router = router(self.fleet, rules)
        self._health = WorkerHealth(self.fleet)
        self._numbers = 0
        self._running: dict[int, Batch] = {}
        self._closing = self._aborting = False
        self.in_flight = self.retried = 0

    @property
    def waiting(self) -> int:
        """Number of waiting queries."""
        return self._router.waiting

    @property
    def closing(self) -> bool:
        """Whether new queries are refused."""
        return self._closing

    @property
    def idle(self) -> bool:
        """Whether no query waits or runs."""
        return not self._router.waiting and not self._running

    # Queries

    def arrive(self, query: PendingQuery, now: float) -> Decisions:
        """Queue, start or refuse a new query."""
        decisions = Decisions([], [])
        reason = self._refusal(query, now)
        if reason is None and not self._router.put(query, now):
            reason = self._why_not(query)
        if reason is not None:
            self._end(query, decisions, QueryOutcome.REFUSED, reason)
            return decisions
        self._start(now, decisions)
        if query.state == QUEUED:
            self._router.waits(query, now)
        return decisions

    def _refusal(self, query: PendingQuery, now: float) -> RefusalReason | None:
        fleet = self.fleet
        if self._aborting or (
            self._closing and query.split is None
        ):  # a query that began in parts is finished
            return RefusalReason.DRAINING
        if query.batch > fleet.most:
            if not fleet.awaited(query, now):
                return RefusalReason.NO_WORKER
        elif query.due - now < fleet.quickest[query.size_class][query.batch] and not self._health.tries(
            query, now
        ):
            return RefusalReason.LATE
        return RefusalReason.FULL if self._router.waiting >= self._most_waiting else None

    def _why_not(self, query: PendingQuery) -> RefusalReason:
        return RefusalReason.NO_WORKER if query.batch > self.fleet.most else RefusalReason.LATE

    def _start(self, now: float, decisions: Decisions) -> None:
        """Start the batches that the router chooses, and end the queries that it dropped."""
        router = self._router
        while (choice := router.next(now)) is not None:
            worker, queries = choice.worker, choice.queries
            self._numbers += 1
            batch = Batch(
                self._numbers, worker, queries, items=choice.items, expected=choice.expected, begun=now
            )
            self._running[batch.number] = worker.running[batch.number] = batch
            for query in queries:
                query.state, query.worker, query.begun = RUNNING, worker, now
                query.tries += 1
                query.runs += 1
            self.in_flight += len(queries)
            decisions.starts.append(batch)
        if router.dropped:
            for query in router.dropped:
                self._waited_in_vain(query, decisions)
            router.dropped.clear()

    def done(
        self,
        worker: Worker,
        number: int,
        answers: Sequence[Answer],
        seconds: float,
        now: float,
        *,
        waited: float = 0.0,
    ) -> Decisions:
        """Take a worker's answers to a batch; answers to queries that have ended are ignored.

        Args:
            worker: that answers.
            number: of the batch.
            answers: to the batch's queries, in order.
            seconds: that the batch ran in the worker.
            now: the current time.
            waited: seconds that the batch waited in the worker for batches of other gateways.
        """
        decisions = Decisions([], [])
        batch = worker.running.pop(number, None)
        if batch is None:
            return decisions
        del self._running[number]
        good = True
        for query, answer in zip(batch.queries, answers, strict=True):
            failed = answer.error is not None and not answer.invalid
            good = good and not failed
            if query is None:
                continue
            self.in_flight -= 1
            query.runs -= 1
            if query.state == ENDED:
                continue
            query.seconds = seconds
            if failed:
                if query.state == RUNNING and not query.runs:
                    self._retry(query, worker, now, decisions, answer)
                continue
            worker.answered += answer.error is None
            waits = query.state == QUEUED
            self._end(query, decisions, _ANSWERED if answer.error is None else _INVALID, answer=answer)
            if waits:  # for a second try, which is no longer needed
                self._router.removed(query)
            query.worker = worker
        if self._health.done(batch, now - batch.begun - waited, now, good=good):
            self._mark_unready(worker, UnreadyReason.RESTING, now, decisions)
        if batch.stuck and not any(each.stuck for each in worker.running.values()):
            self._mark_ready(worker, UnreadyReason.STUCK)
        if worker.takes_work:
            self._router.freed(worker)
        self._start(now, decisions)
        return decisions

    def _retry(
        self,
        query: PendingQuery,
        worker: Worker,
        now: float,
        decisions: Decisions,
        answer: Answer | None = None,
    ) -> None:
        """Queue a query again, before all others, or end it as failed."""
        if not self._can_retry(query, worker, now) or not self._put_first(query, worker, now):
            self._end(query, decisions, QueryOutcome.FAILED, answer=answer)

    def _can_retry(self, query: PendingQuery, worker: Worker, now: float) -> bool:
        fleet, left = self.fleet, query.due - now
        return (
            query.tries < _TRIES
            and worker.hello.retry
            and left > 0
            and (query.batch > fleet.most or left >= fleet.quickest[query.size_class][query.batch])
        )

    def _put_first(self, query: PendingQuery, worker: Worker, now: float) -> bool:
        query.state, query.avoid, query.key = QUEUED, worker, 0.0
        if not self._router.put(query, now):
            return False
        self.retried += 1
        return True

    def cancel(self, query: PendingQuery) -> Decisions:
        """End a query whose client has left."""
        decisions = Decisions([], [])
        queued = query.state == QUEUED
        if query.state != ENDED:
            self._end(query, decisions, QueryOutcome.CANCELLED)
        if queued:
            self._router.removed(query)
        return decisions

    @staticmethod
    def _end(
        query: PendingQuery,
        decisions: Decisions,
        outcome: QueryOutcome,
        reason: RefusalReason | None = None,
        answer: Answer | None = None,
    ) -> None:
        query.state = ENDED
        decisions.ends.append(QueryEnd(query, outcome, reason, answer))

    # Workers

    def join(
        self, hello: Hello, seconds: Mapping[int, float], now: float, link: BatchSender | None = None
    ) -> tuple[Worker, Decisions]:
        """Add a worker; `seconds` by batch size are used if its HELLO has none."""
        worker = self.fleet.join(hello, seconds, now, link)
        self._router.freed(worker)
        decisions = Decisions([], [])
        self._settle(now, decisions)
        return worker, decisions

    def drain(self, worker: Worker, now: float) -> Decisions:
        """Start nothing more on a worker."""
        decisions = Decisions([], [])
        if not worker.draining:
            worker.draining = True
            self.fleet.retire(worker)
            self._put_again(self._router.lost(worker), now, decisions)
            self._settle(now, decisions)
        return decisions

    def leave(self, worker: Worker, now: float) -> Decisions:
        """Remove a worker that is gone; retry its running queries elsewhere."""
        decisions = Decisions([], [])
        worker.draining = True
        self.fleet.leave(worker)
        self._health.left(worker)
        self._put_again(self._router.lost(worker), now, decisions)
        for batch in worker.running.values():
            del self._running[batch.number]
            for query in batch.queries:
                if query is not None:
                    self.in_flight -= 1
                    query.runs -= 1
                    if query.state == RUNNING and not query.runs:
                        self._retry(query, worker, now, decisions)
        worker.running.clear()
        self._settle(now, decisions)
        return decisions

    def silent(self, worker: Worker, now: float) -> Decisions:
        """Start nothing more on a worker without a sign of life, and retry its running queries elsewhere."""
        decisions = Decisions([], [])
        self._mark_unready(worker, UnreadyReason.SILENT, now, decisions)
        for batch in worker.running.values():
            self._health.suspect(batch)
            self._try_elsewhere(batch, now)
        self._settle(now, decisions)
        return decisions

    def heard(self, worker: Worker, now: float) -> Decisions:
        """Use a worker again that gives signs of life."""
        decisions = Decisions([], [])
        self._mark_ready(worker, UnreadyReason.SILENT)
        self._settle(now, decisions)
        return decisions

    def said_fault(self, worker: Worker, now: float, *, fault: bool) -> Decisions:
        """Start nothing on a worker while it reports that it cannot answer."""
        decisions = Decisions([], [])
        if fault:
            self._mark_unready(worker, UnreadyReason.FAULT, now, decisions)
        else:
            self._mark_ready(worker, UnreadyReason.FAULT)
        self._settle(now, decisions)
        return decisions

    def said_load(self, worker: Worker, now: float, *, batches: int) -> Decisions:
        """Set the number of batches that a worker has from other gateways, which it runs before any new one."""
        decisions = Decisions([], [])
        worker.elsewhere = batches
        self.fleet.wake(worker)
        if worker.takes_work:
            self._router.freed(worker)
            self._start(now, decisions)
        return decisions

    def _mark_unready(self, worker: Worker, why: UnreadyReason, now: float, decisions: Decisions) -> None:
        """Start nothing on a worker, and leave it out of all estimates."""
        if worker.draining:
            return
        worker.unready.add(why)
        self.fleet.retire(worker)
        self._put_again(self._router.lost(worker), now, decisions)

    def _mark_ready(self, worker: Worker, why: UnreadyReason) -> None:
        """Use a worker again, unless it is unready for another reason."""
        worker.unready.discard(why)
        if why is UnreadyReason.RESTING:
            worker.back_at = math.inf
        if not worker.unready and not worker.draining:
            self.fleet.restore(worker)
            self._router.freed(worker)

    def _settle(self, now: float, decisions: Decisions) -> None:
        """Drop and start queries after a change of the fleet."""
        self._router.expire(now)
        self._start(now, decisions)

    def _put_again(self, queries: Iterable[PendingQuery], now: float, decisions: Decisions) -> None:
        """Queue queries again that were bound to a worker and have not been tried."""
        for query in queries:
            if not self._router.put(query, now):
                self._waited_in_vain(query, decisions)

    def _waited_in_vain(self, query: PendingQuery, decisions: Decisions) -> None:
        """End a query that will not be started, unless a worker still runs it."""
        if query.runs:
            query.state = RUNNING
        elif query.tries:
            self._end(query, decisions, QueryOutcome.FAILED)
        else:
            self._end(query, decisions, QueryOutcome.REFUSED, self._why_not(query))

    # Time

    def tick(self, now: float) -> Decisions:
        """Handle what is due by time; to be called every few milliseconds while queries wait or run."""
        decisions = Decisions([], [])
        for batch in self._health.overdue(self._running.values(), now):
            self._health.suspect(batch)
            self._put_again(self._router.lost(batch.worker), now, decisions)
            self._try_elsewhere(batch, now)
        for batch in self._health.hopeless(self._running.values(), now):
            self._give_up(batch, now, decisions)
        for worker in self._health.rested(now):
            self._mark_ready(worker, UnreadyReason.RESTING)
        for worker in self._health.tick(now):
            self._router.freed(worker)
        self._settle(now, decisions)
        return decisions

    def _try_elsewhere(self, batch: Batch, now: float) -> None:
        """Queue a batch's queries also for other workers, if one can be in time; the first answer to each counts."""
        worker = batch.worker
        for query in batch.queries:
            if (
                query is not None
                and query.state == RUNNING
                and query.runs == 1
                and self._can_retry(query, worker, now)
                and self.fleet.others(query, worker, now)
                and not self._put_first(query, worker, now)
            ):
                query.state = RUNNING

    def _give_up(self, batch: Batch, now: float, decisions: Decisions) -> None:
        """End those of a batch's queries that are past their deadline."""
        for at, query in enumerate(batch.queries):
            if query is not None and (query.state == ENDED or query.due < now):
                batch.queries[at] = None
                self.in_flight -= 1
                query.runs -= 1
                if query.state == RUNNING and not query.runs:
                    self._end(query, decisions, QueryOutcome.FAILED)
        if batch.due < now:
            batch.stuck = True
            self._mark_unready(batch.worker, UnreadyReason.STUCK, now, decisions)

    def too_large(self) -> Sequence[PendingQuery]:
        """Dequeue the queries with more rows than any present worker takes; return those that no worker runs.

        A query that waits for a second try goes on running at its first worker.
        """
        found = self._router.larger(self.fleet.most) if self.fleet.most else ()
        for query in found:
            query.state = RUNNING if query.runs else ENDED
            self._router.removed(query)
        return [query for query in found if not query.runs]

    def close(self) -> Decisions:
        """Refuse new queries from now on."""
        self._closing = True
        return Decisions([], [])

    def open(self) -> None:
        """Accept new queries again, unless aborted."""
        self._closing = self._aborting

    def abort(self) -> Decisions:
        """End all queries that wait or run, and refuse new ones."""
        self._closing = self._aborting = True
        decisions = Decisions([], [])
        self._settle(math.inf, decisions)
        for batch in self._running.values():
            self._give_up(batch, math.inf, decisions)
        return decisions
