"""What late binding promises of joining queries, and of those that could start elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.serve.dispatching.rehearsal import GOOD, hello
from tests.serve.live_routers import ROUTERS

from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import PendingQuery, QueryOutcome
from partita.serve.tensors import Answer

if TYPE_CHECKING:
    from partita.serve.dispatching.query import Worker


def made(*, batching: bool = True, early: bool = True) -> Dispatcher:
    return Dispatcher(Rules(30.0, batching, early), ROUTERS["late-binding"])


def busy(found: Dispatcher, worker: Worker) -> int:
    """Have a worker begin a query that nothing can join, and return the number of its batch."""
    (start,) = found.arrive(PendingQuery(1, 0.0, 30.0), 0.0).starts
    assert start.worker is worker
    return start.number


@pytest.mark.parametrize(
    ("table", "more", "joined"),
    [
        ({1: 1.0, 2: 1.0}, {}, 1),  # as many as it takes
        ({1: 1.0, 4: 1.0}, {}, 3),
        ({1: 1.0, 4: 1.0}, {"alike": "other"}, 0),
        ({1: 1.0, 4: 1.0}, {"size_class": 3}, 0),
        ({1: 1.0, 4: 4.0}, {}, 3),  # a row more costs as much as a batch of its own
        ({1: 1.0, 4: 4.1}, {}, 0),
        ({1: 1.0, 2: 1.2, 4: 1.4}, {"batch": 2}, 1),  # of two rows each: the second would be a fifth row
    ],
)
def test_queries_are_joined_that_are_alike_and_cost_no_more_together(
    table: dict[int, float], more: dict[str, object], joined: int
) -> None:
    found = made()
    worker, _ = found.join(hello(seconds=table, batch=max(table)), {}, 0.0)
    number = busy(found, worker)
    head = PendingQuery(1, 0.0, 20.0)
    others = [PendingQuery(**{"batch": 1, **more}, arrived=0.0, allowed=29.0) for _ in range(3)]  # type: ignore[arg-type]
    for query in (head, *others):
        found.arrive(query, 0.0)
    (start,) = found.done(worker, number, [GOOD], 1.0, 1.0).starts
    assert start.queries == [head, *others[:joined]]
    assert found.waiting == 3 - joined


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize(("left", "joined"), [(1.9, 1), (2.0, 2)])
def test_no_query_of_a_batch_becomes_late_by_the_others(late: int, left: float, joined: int) -> None:
    found = made()
    worker, _ = found.join(hello(seconds={1: 1.0, 2: 1.5, 3: 2.0}), {}, 0.0)
    number = busy(found, worker)
    queries = [PendingQuery(1, 0.0, 20.0 + at) for at in range(3)]
    for query in queries:
        found.arrive(query, 0.0)
    queries[late].due = 1.0 + left
    (start,) = found.done(worker, number, [GOOD], 1.0, 1.0).starts
    assert start.queries == queries[: 1 + joined]


def test_queries_of_unlike_batch_sizes_are_joined_by_their_deadlines() -> None:
    found = made()
    worker, _ = found.join(hello(seconds={1: 1.0, 8: 1.0}), {}, 0.0)
    number = busy(found, worker)
    asked = [(2, 25.0), (1, 20.0), (3, 22.0), (1, 24.0), (1, 23.0), (2, 21.0)]
    queries = [PendingQuery(batch, 0.0, allowed) for batch, allowed in asked]
    for query in queries:
        found.arrive(query, 0.0)
    (start,) = found.done(worker, number, [GOOD], 1.0, 1.0).starts
    assert start.queries == [queries[at] for at in (1, 5, 2, 4, 3)], (
        "the last one would be a ninth and tenth row"
    )
    assert start.items == 8


def test_what_was_given_up_is_joined_to_nothing() -> None:
    found = made()
    worker, _ = found.join(hello(seconds={1: 1.0, 8: 1.0}), {}, 0.0)
    number = busy(found, worker)
    queries = [PendingQuery(1, 0.0, 20.0 + at) for at in range(3)]
    for query in queries:
        found.arrive(query, 0.0)
    found.cancel(queries[1])
    (start,) = found.done(worker, number, [GOOD], 1.0, 1.0).starts
    assert start.queries == [queries[0], queries[2]]
    assert found.waiting == 0


@pytest.mark.parametrize("allowed", [2.9, 3.0, 9.0])
def test_what_an_idle_worker_answers_in_time_is_joined_to_nothing(allowed: float) -> None:
    found = made()
    small, _ = found.join(hello(seconds={1: 1.0, 8: 1.0}), {}, 0.0)
    number = busy(found, small)
    queries = [PendingQuery(1, 0.0, 1.9), PendingQuery(1, 0.0, allowed)]
    for query in queries:
        found.arrive(query, 0.0)
    queries[0].due = 2.0
    # The one that joins is too slow for the first, and in time for the other if that has three seconds.
    slow, joined = found.join(hello("2g.12gb", {1: 3.0, 8: 3.0}, gpu=1), {}, 0.0)
    assert [start.queries for start in joined.starts] == []
    starts = found.done(small, number, [GOOD], 1.0, 1.0).starts
    alone = allowed - 1.0 >= 3.0
    assert [start.queries for start in starts] == ([[queries[0]], [queries[1]]] if alone else [queries])
    assert [start.worker for start in starts] == ([small, slow] if alone else [small])


def test_a_second_try_is_not_joined_and_waits_for_another_worker() -> None:
    found = made()
    for gpu in range(2):
        found.join(hello(seconds={1: 1.0, 8: 1.0}, gpu=gpu), {}, 0.0)
    again, other = PendingQuery(1, 0.0, 9.0), PendingQuery(1, 0.0, 9.0)
    (bad,), (good,) = found.arrive(again, 0.0).starts, found.arrive(other, 0.0).starts
    assert found.done(bad.worker, bad.number, [Answer(error="out of memory")], 0.1, 0.1).starts == []
    (start,) = found.done(good.worker, good.number, [GOOD], 1.0, 1.0).starts
    assert (start.worker, start.queries) == (good.worker, [again])


@pytest.mark.parametrize("early", [True, False])
def test_what_would_wait_too_long_is_refused_by_the_pace_of_those_before_it(*, early: bool) -> None:
    found = made(batching=False, early=early)
    worker, _ = found.join(hello(), {}, 0.0)
    (running,) = found.arrive(PendingQuery(1, 0.0, 90.0), 0.0).starts
    for _ in range(12):
        found.arrive(PendingQuery(1, 0.0, 90.0), 0.0)
    for second in range(1, 6):  # one a second
        (running,) = found.done(worker, running.number, [GOOD], 1.0, float(second)).starts
    last = PendingQuery(1, 5.0, 100.0)
    for allowed, in_time in ((8.3, False), (8.5, True)):  # 7 before it: 7 s, within 95 % of what it can wait
        for _ in range(7 - found.waiting):
            found.arrive(last, 5.0)
        query = PendingQuery(1, 5.0, allowed)
        query.key = 200.0
        refused = [end.outcome for end in found.arrive(query, 5.0).ends]
        assert refused == ([] if in_time or not early else [QueryOutcome.REFUSED])
        found.cancel(query)
