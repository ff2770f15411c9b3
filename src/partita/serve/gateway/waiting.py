"""What the dispatcher keeps of queries, batches and workers. These change: one dispatcher owns them."""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from partita.serve.gateway.estimates import SizeEstimate, Slowdowns
    from partita.serve.gateway.fleet import Group, SizeKey
    from partita.serve.gateway.link import Link
    from partita.serve.gateway.routers.port import Choice
    from partita.serve.gateway.splitting import SplitQuery
    from partita.serve.tensors import Answer, Query
    from partita.serve.worker.wire import Hello

QUEUED, RUNNING, ENDED = 0, 1, 2
"""Where a query is."""


KIND_SHIFT = 17
"""Bits of a kind that are the batch size; the size class is above them."""


class Aside(StrEnum):
    """Why a worker cannot answer now, although it is there."""

    SILENT = "silent"
    """It gives no sign of life."""
    FAULT = "fault"
    """It says itself that it cannot: its server does not answer."""
    STUCK = "stuck"
    """It runs a batch that it should have answered long ago, and whose deadlines have passed."""
    RESTING = "resting"
    """It has failed several batches in a row, and is tried again later."""


class Asker(Protocol):
    """Who awaits an answer: a future, or what costs less."""

    def done(self) -> bool:
        """Return whether it awaits nothing any more."""
        ...

    def set_result(self, result: Answer, /) -> None:
        """Hear the answer."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Hear why there is none."""
        ...


class Asked(NamedTuple):
    """What the runtime wants to find again: the query itself, and whoever awaits its answer."""

    query: Query
    asker: Asker


class Waiting:
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
        payload: what is sent, and who awaits it; None in simulations.
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
        "alike", "allowed", "arrived", "avoid", "batch", "begun", "due", "input_class", "key", "kind", "payload",
        "row", "runs", "seconds", "size_class", "split", "state", "tries", "weight", "worker",
    )  # fmt: skip

    def __init__(
        self,
        batch: int,
        arrived: float,
        allowed: float,
        *,
        payload: Asked | None = None,
        alike: Hashable = None,
        size_class: int = 0,
    ) -> None:
        self.input_class = self.size_class = size_class
        self.kind = size_class << KIND_SHIFT | batch
        self.batch, self.arrived, self.allowed, self.due = batch, arrived, allowed, arrived + allowed
        self.payload, self.alike = payload, alike
        self.weight, self.key = 0.0, self.due
        self.state, self.tries, self.runs, self.begun, self.seconds = QUEUED, 0, 0, 0.0, 0.0
        self.avoid: Worker | None = None
        self.worker: Worker | None = None
        self.split: SplitQuery | None = None
        self.row = 0

    def try_anyhow(self) -> None:
        """Judge it by what the table says, not by what was observed of its size class."""
        self.size_class, self.kind = 0, self.batch


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

    def __init__(self, number: int, choice: Choice, begun: float) -> None:
        worker, queries, items, expected = choice
        self.number, self.worker, self.items = number, worker, items
        self.queries: list[Waiting | None] = list(queries)
        self.begun, self.expected = begun, expected
        self.due = max(query.due for query in queries)
        self.input_class = queries[0].input_class
        self.trial = queries[0].size_class != self.input_class
        self.overdue = self.stuck = False


class Worker:
    """One worker, on one instance.

    Attributes:
        name: as `node-0/gpu-3/3g.40gb@4`.
        hello: what it said it is.
        link: what the runtime reaches it through.
        key: of its size.
        size: what is known of workers like it.
        slowdown: how it compares with them.
        group: of workers that take as long.
        running: its batches by number.
        bound: queries that wait for this very worker, where the router binds early.
        bound_s: seconds that those will take.
        draining: whether it takes nothing new.
        aside: why it cannot answer now; empty if it can.
        back_at: when it is tried again, where it rests.
        overdue: batches of it that take far longer than they should.
        seen: when it last answered.
        busy_s: seconds of work, over all its processes.
        answered: queries.
    """

    __slots__ = (
        "answered", "aside", "back_at", "bound", "bound_s", "busy_s", "draining", "group", "hello", "key", "link",
        "name", "overdue", "running", "seen", "size", "slowdown",
    )  # fmt: skip

    def __init__(
        self,
        hello: Hello,
        key: SizeKey,
        size: SizeEstimate,
        slowdown: Slowdowns,
        now: float,
        *,
        link: Link | None = None,
    ) -> None:
        self.name = f"{hello.gpu}/{hello.placement}"
        self.hello, self.key, self.link, self.size, self.slowdown = hello, key, link, size, slowdown
        self.group: Group | None = None
        self.running: dict[int, Batch] = {}
        self.bound: deque[Waiting] = deque()
        self.bound_s, self.busy_s, self.seen = 0.0, 0.0, now
        self.draining, self.overdue, self.answered = False, 0, 0
        self.aside: set[Aside] = set()
        self.back_at = math.inf

    @property
    def takes_work(self) -> bool:
        """Whether it may start another batch."""
        return (
            not self.draining
            and not self.overdue
            and not self.aside
            and len(self.running) < self.hello.processes
        )
