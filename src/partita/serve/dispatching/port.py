"""The protocol of a router, for the gateway's dispatcher and for simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from partita.serve.dispatching.fleet import Fleet
    from partita.serve.dispatching.query import PendingQuery, Worker
    from partita.serve.problem import Serve, ServingProblem


class Choice(NamedTuple):
    """A batch to start: its worker, its queries, the sum of their batch sizes, and its expected seconds."""

    worker: Worker
    queries: list[PendingQuery]
    items: int
    expected: float


class Rules(NamedTuple):
    """Rules for every router.

    Attributes:
        deadline: default seconds from a query's arrival to its latest answer.
        batching: whether queries are joined.
        early: whether queries are refused on arrival if the queue is too long for their deadline.
        classes: largest batch size of each class of batch sizes, where each must keep the quantile; else empty.
        may_miss: share of the queries of a class that may be missed.
    """

    deadline: float
    batching: bool = True
    early: bool = True
    classes: tuple[int, ...] = ()
    may_miss: float = 0.0


class Router(Protocol):
    """Keeps the waiting queries, and chooses among them after each change."""

    dropped: list[PendingQuery]
    """Queries that can no longer be answered in time; the dispatcher empties the list."""

    def __init__(self, fleet: Fleet, rules: Rules) -> None: ...

    @classmethod
    def on(cls, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return a simulation of this policy on instances in these counts, shape (K,)."""
        ...

    @property
    def waiting(self) -> int:
        """Number of waiting queries."""
        ...

    def put(self, query: PendingQuery, now: float) -> bool:
        """Queue a query; return False, without queueing it, if it would be late."""
        ...

    def waits(self, query: PendingQuery, now: float) -> None:
        """Take note that a query could not start on arrival."""
        ...

    def freed(self, worker: Worker) -> None:
        """Take note that a worker has become idle; the fleet knows it already."""
        ...

    def next(self, now: float) -> Choice | None:
        """Return a batch to start now, None if there is none."""
        ...

    def removed(self, query: PendingQuery) -> None:
        """Take note that a waiting query has ended."""
        ...

    def lost(self, worker: Worker) -> Sequence[PendingQuery]:
        """Dequeue and return the queries that are bound to a worker, which takes nothing new."""
        ...

    def larger(self, than: int) -> Sequence[PendingQuery]:
        """Return the waiting queries with more rows than `than`; the dispatcher then removes them."""
        ...

    def expire(self, now: float) -> None:
        """Drop queries that can no longer be answered in time; the following `next` considers all others."""
        ...
