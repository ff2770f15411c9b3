"""Queries between arrival and end, the batches in which they run, and the workers that run these.

These change: one dispatcher owns them. A query too large for a worker is asked in parts (`SplitQuery`).
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
"""Where a query is."""


KIND_SHIFT = 17
"""Bits of a kind that are the batch size; the size class is above them."""


class PendingQuery:
    """One query between its arrival and its end.

    Attributes:
        batch: its batch size.
        input_class: size class of its inputs; 0 where all queries of its service have the same.
        size_class: the class that it is judged by; 0 where it is tried although its class is held to be too slow.
        kind: queries of one kind stand in one queue: they have one batch size and one size class.
        arrived: moment of arrival.
        allowed: seconds from then to the latest moment of its answer.
        due: that moment.
        alike: queries that can share a batch have equal ones.
        query: what is sent to a worker; None in simulations.
        receiver: gets the answer; None in simulations.
        weight: what a second of its slack weighs against prices.
        key: queries of one batch size start in this order.
        state: `QUEUED`, `RUNNING` or `ENDED`.
        begun: when it last started.
        tries: how often it started.
        runs: how many workers run it now: more than one where the first takes far longer than it should.
        avoid: the worker that failed it.
        seconds: that its batch took in the worker.
        split: its parts, where it is asked in parts; or what it is a part of.
        row: of the whole, that a part begins with.
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
        """Judge it by what the table says, not by what was observed of its size class."""
        self.size_class, self.kind = 0, self.batch


class AnswerReceiver(Protocol):
    """Who awaits an answer: a future, or what costs less."""

    def done(self) -> bool:
        """Return whether it awaits nothing any more."""
        ...

    def set_result(self, result: Answer, /) -> None:
        """Take the answer."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Take the reason why there is none."""
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
    """Its deadline cannot be met, or the queue in front of it says so."""
    NO_WORKER = "no_worker"
    """No worker takes queries of its service and batch size."""
    DRAINING = "draining"
    """The gateway is about to end."""
    FULL = "full"
    """Too many queries wait."""
    WORKER_LOST = "worker_lost"
    """Its worker is gone or does not answer, and there is no second try, or no time for one."""


_REFUSALS = {
    RefusalReason.LATE: "the deadline cannot be met",
    RefusalReason.NO_WORKER: "no worker is ready for it",
    RefusalReason.DRAINING: "the gateway is draining",
    RefusalReason.FULL: "too many queries wait",
    RefusalReason.WORKER_LOST: "its worker is gone or does not answer",
}


class QueryRefusedError(PartitaError):
    """A query that the gateway does not take, or no longer.

    Args:
        reason: why.
        retry_after_s: seconds after which another try may be of use.
    """

    def __init__(self, reason: RefusalReason, retry_after_s: float) -> None:
        super().__init__(_REFUSALS[reason])
        self.reason = reason
        self.retry_after_s = retry_after_s


class QueryFailedError(PartitaError):
    """A query that a worker answered with an error of its own, again on the second try if there was time."""


class QueryEnd(NamedTuple):
    """A query that has ended: how, why it was refused, and its answer where a worker gave one."""

    query: PendingQuery
    outcome: QueryOutcome
    reason: RefusalReason | None = None
    answer: Answer | None = None


# What runs them.


class Batch:
    """What a worker runs: queries side by side.

    Attributes:
        number: unlike that of every other batch of the dispatcher.
        worker: that runs it.
        queries: in it; None in the place of one that is waited for no longer.
        items: their batch sizes added up.
        begun: moment of its start.
        input_class: of its queries.
        trial: whether it is judged by another class.
        due: latest moment at which one of its queries is of use.
        expected: seconds it should take.
        overdue: whether it has taken far longer.
        stuck: whether nobody waits for it any more.
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
    """Why a worker cannot answer now, although it is there."""

    SILENT = "silent"
    """It gives no sign of life."""
    FAULT = "fault"
    """It says itself that it cannot: its server does not answer."""
    STUCK = "stuck"
    """It runs a batch that it should have answered long ago, and whose deadlines have passed."""
    RESTING = "resting"
    """It has failed several batches in a row, and is tried again later."""


class Worker:
    """One worker, on one instance.

    Attributes:
        name: as `node-0/gpu-3/3g.40gb@4`.
        hello: what it said it is.
        link: sends it batches; None in simulations.
        key: of its size.
        size: what is known of workers like it.
        slowdown: how it compares with them.
        group: of workers that take as long.
        running: its batches by number.
        bound: queries that wait for this very worker, where the router binds early.
        bound_s: seconds that those will take.
        draining: whether it takes nothing new.
        unready: why it cannot answer now; empty if it can.
        back_at: when it is tried again, where it rests.
        overdue: batches of it that take far longer than they should.
        elsewhere: batches that it has of other gateways.
        seen: when it last answered.
        busy_s: seconds of work, over all its processes.
        answered: queries.
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
    """What sends batches to a worker."""

    def run(self, number: int, queries: Sequence[Query]) -> None:
        """Ask for a batch."""
        ...


SizeKey = tuple[int, str, int, int, tuple[tuple[int, float], ...]]
"""Compute slices, profile, processes, largest batch, table: workers with equal keys should be alike."""


class Group:
    """Workers of one size and one slowdown.

    Attributes:
        key: of their size.
        steps: of their slowdowns, by band of batch sizes.
        size: what is known of them.
        members: the workers in it, in the order of their coming.
        idle: one entry per batch that could start now; the last is taken first.
        seconds: of a batch, by size class and batch size.
        price: what a second is worth; the dearest size's is about 1.
        at: its place among the groups of its fleet.
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
    """Figures by batch size for each size class of inputs, made when a class is first asked for.

    Args:
        make: makes those of a class.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], None]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, size_class: int) -> list[float]:
        """Make the figures of a class."""
        self._make(size_class)
        return self[size_class]


# Queries of more rows than a worker takes.


PARTS_AT_ONCE = 64
"""Parts of one query that wait or run at the same time: the next ones follow as these end, so that no query fills the
queue, or holds up the event loop, by itself."""


class SplitQuery:
    """Parts of one query. Each has all of its rows' inputs, its deadline, and a second try of its own.

    Attributes:
        whole: the query as it came.
        under_way: its parts that wait or run.

    Args:
        whole: as it came, or was waiting.
        query: what it asks.
        alike: what its parts have in common with queries that can share a batch.
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
        """Whether another part is to be asked now."""
        return bool(self._left) and self.whole.state != ENDED and len(self.under_way) < PARTS_AT_ONCE

    def next(self, size: int) -> PendingQuery:
        """Return the next part, of so many rows at most; there must be one."""
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
        """Let a part be asked in smaller ones."""
        del self.under_way[part]
        assert part.query is not None  # noqa: S101 -- it was asked
        self._left.appendleft((part.row, part.query, part.tries))

    def ended(self, end: QueryEnd, now: float) -> QueryEnd | None:
        """Take note of a part's end; return how the whole query ended, if it has now.

        The whole is answered when all parts are. Where one is not, neither is the whole, for the same reason.
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
            return Answer(error=f"it was run in parts, and {error}"), QueryOutcome.FAILED
        return whole, QueryOutcome.ANSWERED
