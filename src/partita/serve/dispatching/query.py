"""Queries between arrival and end, the batches in which they run, and the workers that run the batches.

These objects are mutable and owned by one dispatcher. A query too large for a worker is split (`SplitQuery`).
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from partita.errors import PartitaError
from partita.serve.tensors import Answer, Query, UnlikePartsError, split_off, stacked_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from partita.serve.dispatching.estimates import SizeEstimate, Slowdowns
    from partita.serve.worker.wire import Hello


QUEUED, RUNNING, ENDED = 0, 1, 2
"""States of a query."""


KIND_SHIFT = 17
"""Number of low bits of a kind that are the batch size; the high bits are the size class."""


class PendingQuery:
    """One query between its arrival and its end.

    Attributes:
        batch: its batch size.
        input_class: size class of its inputs; 0 if all queries of its service have inputs of equal size.
        size_class: the class that decisions use; 0 for a trial of a class that seems too slow.
        kind: batch size and size class in one number; queries of one kind share a queue.
        arrived: time of arrival.
        allowed: seconds from arrival to the latest answer.
        due: time of the latest answer.
        alike: queries that can share a batch have equal values.
        query: to be sent to a worker; None in simulations.
        receiver: gets the answer; None in simulations.
        weight: of a second of its slack, relative to prices.
        key: queries of one batch size start in the order of this value.
        state: `QUEUED`, `RUNNING` or `ENDED`.
        begun: time of its last start.
        tries: number of its starts.
        runs: number of workers that run it now; more than one if the first takes far too long.
        avoid: the worker that failed it.
        worker: the last worker that ran or answered it.
        seconds: that its batch ran in the worker.
        split: its parts if it is split; for a part, the split that it belongs to.
        row: for a part, its first row within the whole query.
    """

    __slots__ = (
        "alike", "allowed", "arrived", "avoid", "batch", "begun", "due", "input_class", "key", "kind", "query",
        "receiver", "row", "runs", "seconds", "size_class", "split", "state", "tries", "weight", "worker",
    )  # fmt: skip

    def __init__(
        self,
        batch: int,
        arrived: float,
        allowed: float,
        *,
        query: Query | None = None,
        receiver: AnswerReceiver | None = None,
        alike: Hashable = None,
        size_class: int = 0,
    ) -> None:
        self.input_class = self.size_class = size_class
        self.kind = size_class << KIND_SHIFT | batch
        self.batch, self.arrived, self.allowed, self.due = batch, arrived, allowed, arrived + allowed
        self.query, self.receiver, self.alike = query, receiver, alike
        self.weight, self.key = 0.0, self.due
        self.state, self.tries, self.runs, self.begun, self.seconds = QUEUED, 0, 0, 0.0, 0.0
        self.avoid: Worker | None = None
        self.worker: Worker | None = None
        self.split: SplitQuery | None = None
        self.row = 0

    def try_anyhow(self) -> None:
        """Decide by the performance table, not by observations of its size class."""
        self.size_class, self.kind = 0, self.batch


class AnswerReceiver(Protocol):
    """Receives the answer to a query: a future, or something cheaper."""

    def done(self) -> bool:
        """Return whether it no longer waits for an answer."""
        ...

    def set_result(self, result: Answer, /) -> None:
        """Take the answer."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Take the reason why there is no answer."""
        ...


class QueryOutcome(StrEnum):
    """How a query ended."""

    ANSWERED = "answered"
    INVALID = "invalid"
    """A worker answered that the query itself is at fault."""
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class RefusalReason(StrEnum):
    """Why a query is refused."""

    LATE = "late"
    """Its deadline cannot be met, by the workers' speed or the queue's length."""
    NO_WORKER = "no_worker"
    """No worker takes queries of its service and batch size."""
    DRAINING = "draining"
    """The gateway is about to end."""
    FULL = "full"
    """Too many queries wait."""
    WORKER_LOST = "worker_lost"
    """Its worker is gone or does not answer, and a second try is not allowed or would be late."""


_REFUSALS = {
    RefusalReason.LATE: "the deadline cannot be met",
    RefusalReason.NO_WORKER: "no worker is ready for the query",
    RefusalReason.DRAINING: "the gateway is draining",
    RefusalReason.FULL: "too many queries are waiting",
    RefusalReason.WORKER_LOST: "the query's worker is gone or does not answer",
}


class QueryRefusedError(PartitaError):
    """The gateway refuses a query, on arrival or later.

    Args:
        reason: of the refusal.
        retry_after_s: seconds after which a retry may succeed.
    """

    def __init__(self, reason: RefusalReason, retry_after_s: float) -> None:
        super().__init__(_REFUSALS[reason])
        self.reason = reason
        self.retry_after_s = retry_after_s


class QueryFailedError(PartitaError):
    """A worker answered a query with an error; so did the second try, if there was time for one."""


class QueryEnd(NamedTuple):
    """A query that has ended: the outcome, the reason of a refusal, and the worker's answer if there is one."""

    query: PendingQuery
    outcome: QueryOutcome
    reason: RefusalReason | None = None
    answer: Answer | None = None


# Batches and workers


class Batch:
    """Queries that a worker runs together.

    Attributes:
        number: unique among the batches of a dispatcher.
        worker: that runs it.
        queries: in it; None in place of a query that has been given up.
        items: sum of their batch sizes.
        begun: time of its start.
        input_class: of its queries.
        trial: whether its queries are trials (`PendingQuery.try_anyhow`).
        due: the latest deadline of its queries.
        expected: seconds that it should take.
        overdue: whether it has taken far longer than expected.
        stuck: whether it has been given up.
    """

    __slots__ = (
        "begun", "due", "expected", "input_class", "items", "number", "overdue", "queries", "stuck", "trial",
        "worker",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        worker: Worker,
        queries: Sequence[PendingQuery],
        *,
        items: int,
        expected: float,
        begun: float,
    ) -> None:
        self.number, self.worker, self.items = number, worker, items
        self.queries: list[PendingQuery | None] = list(queries)
        self.begun, self.expected = begun, expected
        self.due = max(query.due for query in queries)
        self.input_class = queries[0].input_class
        self.trial = queries[0].size_class != self.input_class
        self.overdue = self.stuck = False


class UnreadyReason(StrEnum):
    """Why a connected worker cannot answer now."""

    SILENT = "silent"
    """It gives no sign of life."""
    FAULT = "fault"
    """It reports that it cannot answer: its server does not."""
    STUCK = "stuck"
    """It runs a batch that is long overdue and past all its deadlines."""
    RESTING = "resting"
    """It has failed several batches in a row, and is used again later."""


class Worker:
    """One worker, on one instance.

    Attributes:
        name: such as `node-0/gpu-3/3g.40gb@4`.
        hello: its description of itself.
        link: sends it batches; None in simulations.
        key: of its size.
        size: estimates for all workers of its size.
        slowdown: how it compares with them.
        group: of workers with equal durations; None if it takes no work.
        running: its batches by number.
        bound: queries that wait for this worker, if the router binds early.
        bound_s: seconds that those will take.
        draining: whether it takes nothing new.
        unready: why it cannot answer now; empty if it can.
        back_at: when it is used again after resting; infinite if it does not rest.
        overdue: number of its overdue batches.
        elsewhere: number of batches that it has from other gateways.
        seen: time of its last answer.
        busy_s: seconds of work over all its processes.
        answered: number of queries.
    """

    __slots__ = (
        "answered", "back_at", "bound", "bound_s", "busy_s", "draining", "elsewhere", "group", "hello", "key", "link",
        "name", "overdue", "running", "seen", "size", "slowdown", "unready",
    )  # fmt: skip

    def __init__(
        self,
        hello: Hello,
        key: SizeKey,
        size: SizeEstimate,
        slowdown: Slowdowns,
        now: float,
        *,
        link: BatchSender | None = None,
    ) -> None:
        self.name = f"{hello.gpu}/{hello.placement}"
        self.hello, self.key, self.link, self.size, self.slowdown = hello, key, link, size, slowdown
        self.group: Group | None = None
        self.running: dict[int, Batch] = {}
        self.bound: deque[PendingQuery] = deque()
        self.bound_s, self.busy_s, self.seen = 0.0, 0.0, now
        self.draining, self.overdue, self.answered, self.elsewhere = False, 0, 0, 0
        self.unready: set[UnreadyReason] = set()
        self.back_at = math.inf

    @property
    def takes_work(self) -> bool:
        """Whether it may start another batch."""
        return (
            not self.draining
            and not self.overdue
            and not self.unready
            and len(self.running) + self.elsewhere < self.hello.processes
        )


class BatchSender(Protocol):
    """Sends batches to a worker."""

    def run(self, number: int, queries: Sequence[Query]) -> None:
        """Send a batch."""
        ...


SizeKey = tuple[int, str, int, int, tuple[tuple[int, float], ...]]
"""Compute slices, profile, processes, largest batch, table: workers with equal keys should take equally long."""


class Group:
    """Workers of one size and one slowdown.

    Attributes:
        key: of their size.
        steps: of their slowdowns, by band of batch sizes.
        size: estimates for their size.
        members: the workers, in the order in which they joined.
        idle: one entry per batch that could start now; the last is used first.
        seconds: of a batch, by size class and batch size.
        price: value of a second; about 1 for the most valuable size.
        most: the largest batch that its workers take.
        at: its index among the groups of its fleet.
    """

    __slots__ = ("at", "idle", "key", "members", "most", "price", "seconds", "size", "steps")

    def __init__(
        self, key: SizeKey, steps: tuple[int, ...], size: SizeEstimate, make: Callable[[int], None]
    ) -> None:
        self.key, self.steps, self.size = key, steps, size
        self.members: dict[Worker, None] = {}
        self.idle: list[Worker] = []
        self.price = 1.0
        self.seconds = ByClass(make)
        self.most = self.at = 0


class ByClass(dict[int, list[float]]):
    """Figures by batch size for each size class of inputs, computed when a class is first used.

    Args:
        make: computes the figures of a class.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], None]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, size_class: int) -> list[float]:
        """Compute the figures of a class."""
        self._make(size_class)
        return self[size_class]


# Queries with more rows than a worker takes


PARTS_AT_ONCE = 64
"""Maximum number of one query's parts that wait or run at a time, so that no query alone fills the queue or blocks
the event loop."""


class SplitQuery:
    """A query in parts. Each part has the query's deadline, and a second try of its own.

    Attributes:
        whole: the query.
        under_way: its parts that wait or run.

    Args:
        whole: the query, new or waiting.
        query: its tensors.
        alike: `PendingQuery.alike` of its parts.
    """

    def __init__(self, whole: PendingQuery, query: Query, alike: Hashable) -> None:
        whole.split = self
        whole.state = RUNNING
        self.whole = whole
        self.under_way: dict[PendingQuery, None] = {}
        self._left = deque([(whole.row, query, whole.tries)])
        self._alike = alike
        self._begun = math.inf
        self._answers: dict[int, tuple[int, Answer]] = {}

    @property
    def more(self) -> bool:
        """Whether another part can start now."""
        return bool(self._left) and self.whole.state != ENDED and len(self.under_way) < PARTS_AT_ONCE

    def next(self, size: int) -> PendingQuery:
        """Return the next part, of at most `size` rows; there must be one."""
        row, query, tries = self._left.popleft()
        first, rest = split_off(query, size)
        if rest is not None:
            self._left.appendleft((row + size, rest, tries))
        whole = self.whole
        part = PendingQuery(
            first.batch,
            whole.arrived,
            whole.allowed,
            query=first,
            receiver=whole.receiver,
            alike=self._alike,
            size_class=whole.input_class,
        )
        part.split, part.row, part.tries = self, row, tries
        self.under_way[part] = None
        return part

    def again(self, part: PendingQuery) -> None:
        """Put a part back, to be split into smaller ones."""
        del self.under_way[part]
        assert part.query is not None  # noqa: S101 -- only in simulations, which do not split
        self._left.appendleft((part.row, part.query, part.tries))

    def ended(self, end: QueryEnd, now: float) -> QueryEnd | None:
        """Take note of a part's end; return the end of the whole query if that ends it, else None.

        The whole query is answered when all its parts are. If a part fails, the whole query fails in the same way.
        """
        part, outcome, reason, answer = end
        self.under_way.pop(part, None)
        if self.whole.state == ENDED:
            return None
        whole = self.whole
        if part.tries:
            whole.tries, whole.worker = max(whole.tries, part.tries), part.worker
            self._begun = min(self._begun, part.begun)
            whole.begun, whole.seconds = self._begun, now - self._begun
        if outcome is QueryOutcome.ANSWERED and answer is not None:
            self._answers[part.row] = part.batch, answer
            if self._left or self.under_way:
                return None
            answer, outcome = self._together()
        whole.state = ENDED
        return end._replace(query=whole, outcome=outcome, reason=reason, answer=answer)

    def _together(self) -> tuple[Answer, QueryOutcome]:
        try:
            found = [self._answers[row] for row in sorted(self._answers)]
            whole = stacked_answers([answer for _, answer in found], [rows for rows, _ in found])
        except UnlikePartsError as error:
            return Answer(error=f"the query was run in parts, and {error}"), QueryOutcome.FAILED
        return whole, QueryOutcome.ANSWERED
