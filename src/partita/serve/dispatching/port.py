"""What a router is to the gateway's dispatcher, and to simulations."""

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
    """A batch to start: worker, queries, their batch sizes added up, and the seconds that it should take."""

    worker: Worker
    queries: list[PendingQuery]
    items: int
    expected: float


class Rules(NamedTuple):
    """What holds for every router.

    Attributes:
        deadline: seconds from arrival to the latest answer where a query has no deadline of its own.
        batching: whether queries are joined.
        early: whether queries are refused on arrival when the queue before them is too long.
    """

    deadline: float
    batching: bool = True
    early: bool = True


class Router(Protocol):
    """Keeps the queries that wait, and chooses among them whenever something changed."""

    dropped: list[PendingQuery]
    """Queries that can no longer be answered in time; whoever reads them empties the list."""

    def __init__(self, fleet: Fleet, rules: Rules) -> None: ...

    @classmethod
    def on(cls, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries by this policy in simulation, on instances in these counts, shape (K,)."""
        ...

    @property
    def waiting(self) -> int:
        """Queries that wait."""
        ...

    def put(self, query: PendingQuery, now: float) -> bool:
        """Let a query wait; False if it is of no use, as it would be late."""
        ...

    def waits(self, query: PendingQuery, now: float) -> None:
        """Hear that a query could not start on arrival."""
        ...

    def freed(self, worker: Worker) -> None:
        """Hear that a worker, known to the fleet as idle, has become so."""
        ...

    def next(self, now: float) -> Choice | None:
        """Return a batch to start now, None if there is none."""
        ...

    def removed(self, query: PendingQuery) -> None:
        """Hear that a waiting query has ended."""
        ...

    def lost(self, worker: Worker) -> Sequence[PendingQuery]:
        """Return the queries that wait for this very worker, which takes nothing new, and let them wait no more."""
        ...

    def larger(self, than: int) -> Sequence[PendingQuery]:
        """Return the queries that wait of more rows than so many, which are then not to wait any more."""
        ...

    def expire(self, now: float) -> None:
        """Drop what can no longer be answered in time; `next` then looks at everything."""
        ...
