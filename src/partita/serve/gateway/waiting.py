"""What the dispatcher keeps of queries, batches and workers. These change: one dispatcher owns them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from partita.serve.gateway.estimates import SizeEstimate, Slowdowns
    from partita.serve.gateway.fleet import Group
    from partita.serve.gateway.link import Link
    from partita.serve.gateway.routers.port import Choice
    from partita.serve.gateway.splitting import SplitQuery
    from partita.serve.tensors import Answer, Query
    from partita.serve.worker.wire import Hello

QUEUED, RUNNING, ENDED = 0, 1, 2
"""Where a query is."""


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
        avoid: the worker that failed it.
        seconds: that its batch took in the worker.
        split: its parts, where it is asked in parts; or what it is a part of.
        row: of the whole, that a part begins with.
    """

    __slots__ = (
        "alike", "allowed", "arrived", "avoid", "batch", "begun", "due", "key", "payload", "row", "seconds",
        "split", "state", "tries", "weight", "worker",
    )  # fmt: skip

    def __init__(
        self,
        batch: int,
        arrived: float,
        allowed: float,
        *,
        payload: Asked | None = None,
        alike: Hashable = None,
    ) -> None:
        self.batch, self.arrived, self.allowed, self.due = batch, arrived, allowed, arrived + allowed
        self.payload, self.alike = payload, alike
        self.weight, self.key = 0.0, self.due
        self.state, self.tries, self.begun, self.seconds = QUEUED, 0, 0.0, 0.0
        self.avoid: Worker | None = None
        self.worker: Worker | None = None
        self.split: SplitQuery | None = None
        self.row = 0


class Batch:
    """What a worker runs: queries side by side.

    Attributes:
        number: unlike that of every other batch of the dispatcher.
        worker: that runs it.
        queries: in it; None in the place of one that is tried elsewhere, or waited for no longer.
        items: their batch sizes added up.
        begun: moment of its start.
        expected: seconds it should take.
        suspected: whether it has taken far longer.
    """

    __slots__ = ("begun", "expected", "items", "number", "queries", "suspected", "worker")

    def __init__(self, number: int, choice: Choice, begun: float) -> None:
        worker, queries, items, expected = choice
        self.number, self.worker, self.items = number, worker, items
        self.queries: list[Waiting | None] = list(queries)
        self.begun, self.expected, self.suspected = begun, expected, False


class Worker:
    """One worker, on one instance.

    Attributes:
        name: as `node-0/gpu-3/3g.40gb@4`.
        hello: what it said it is.
        link: what the runtime reaches it through.
        size: what is known of workers like it.
        slowdown: how it compares with them.
        group: of workers that take as long.
        running: its batches by number.
        bound: queries that wait for this very worker, where the router binds early.
        bound_s: seconds that those will take.
        draining: whether it takes nothing new.
        suspected: batches of it that it should have answered long ago.
        seen: when it last answered.
        busy_s: seconds of work, over all its processes.
        answered: queries.
    """

    __slots__ = (
        "answered", "bound", "bound_s", "busy_s", "draining", "group", "hello", "link", "name", "running", "seen",
        "size", "slowdown", "suspected",
    )  # fmt: skip

    def __init__(
        self, hello: Hello, size: SizeEstimate, slowdown: Slowdowns, now: float, link: Link | None = None
    ) -> None:
        self.name = f"{hello.gpu}/{hello.placement}"
        self.hello, self.link, self.size, self.slowdown = hello, link, size, slowdown
        self.group: Group | None = None
        self.running: dict[int, Batch] = {}
        self.bound: deque[Waiting] = deque()
        self.bound_s, self.busy_s, self.seen = 0.0, 0.0, now
        self.draining, self.suspected, self.answered = False, 0, 0

    @property
    def takes_work(self) -> bool:
        """Whether it may start another batch."""
        return not self.draining and not self.suspected and len(self.running) < self.hello.processes
