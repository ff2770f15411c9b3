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
    from partita.serve.dispatching.dispatcher import Decisions
    from partita.serve.dispatching.query import Worker

BROKEN = Answer(error="out of memory")


def made(*, batching: bool = True, early: bool = True, classes: tuple[int, ...] = ()) -> Dispatcher:
    return Dispatcher(Rules(30.0, batching, early, classes, 0.1), ROUTERS["late-binding"])


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


@pytest.mark.parametrize("allowed", [2.9, 3.9, 4.0, 9.0])
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
    assert found.done(bad.worker, bad.number, [BROKEN], 0.1, 0.1).starts == []
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


def one_a_second(found: Dispatcher, waiting: int, allowed: float, seconds: int) -> Worker:
    """Let so many queries wait behind one, and a worker answer one a second; return it."""
    worker, _ = found.join(hello(batch=1), {}, 0.0)
    for _ in range(1 + waiting):
        found.arrive(PendingQuery(1, 0.0, allowed), 0.0)
    for second in range(1, 1 + seconds):
        answer_first(found, worker, float(second))
    return worker


def answer_first(found: Dispatcher, worker: Worker, now: float) -> Decisions:
    """Have a worker answer the batch that it began first."""
    batch = next(iter(worker.running.values()))
    return found.done(worker, batch.number, [GOOD] * len(batch.queries), now - batch.begun, now)


def refused(decided: Decisions) -> list[PendingQuery]:
    return [end.query for end in decided.ends if end.outcome is QueryOutcome.REFUSED]


def test_a_query_may_wait_for_nineteen_twentieths_of_the_time_that_it_can_wait() -> None:
    found = made(batching=False)
    one_a_second(found, 4 + 19, 90.0, 4)
    assert found.waiting == 19
    query = PendingQuery(1, 4.0, 86.0)
    query.due = 4.0 + 1.0 + 20.0  # after all others: 19 s, as much as 95 % of 20 s
    query.key = 90.0
    assert refused(found.arrive(query, 4.0)) == []


@pytest.mark.parametrize(("now", "known"), [(29.9, False), (30.1, True)])
def test_a_pace_is_known_when_something_has_waited_for_a_deadline(now: float, *, known: bool) -> None:
    found = made(batching=False)
    found.join(hello(seconds={1: 40.0}), {}, 0.0)
    for _ in range(2):
        found.arrive(PendingQuery(1, 0.0, 500.0), 0.0)
    query = PendingQuery(1, now, 70.0)
    query.key = 501.0
    assert refused(found.arrive(query, now)) == ([query] if known else [])


@pytest.mark.parametrize("answered", [True, False])
def test_a_pace_is_forgotten_when_nothing_waits_any_more(*, answered: bool) -> None:
    found = made(batching=False)
    worker = one_a_second(found, 6, 8.0, 4)
    if answered:
        for second in (5.0, 6.0, 7.0):
            answer_first(found, worker, second)
    else:
        assert len(refused(found.tick(7.5))) == 2
        answer_first(found, worker, 7.5)
    assert (found.waiting, found.in_flight) == (0, 0)
    for size_class in (9, 0):  # one starts, and one of the kind that waited before waits
        found.arrive(PendingQuery(1, 100.0, 14.0, size_class=size_class), 100.0)
    assert refused(found.arrive(PendingQuery(1, 100.5, 14.0), 100.5)) == []
    assert found.waiting == 2


def test_those_that_were_given_up_refuse_nobody() -> None:
    found = made(batching=False)
    one_a_second(found, 5, 40.0, 4)
    for _ in range(40):
        query = PendingQuery(1, 4.0, 36.0)
        assert refused(found.arrive(query, 4.0)) == [], "one stands before it: a second"
        found.cancel(query)
    assert found.waiting == 1


def test_a_second_try_is_not_refused_for_the_queue_before_it() -> None:
    found = made()
    worker, _ = found.join(hello(seconds={1: 1.0, 4: 1.0}, batch=4), {}, 0.0)
    for kind in "abcdefgh":
        for _ in range(4):
            found.arrive(PendingQuery(1, 0.0, 20.0, alike=kind), 0.0)
    for second in range(1, 5):
        answer_first(found, worker, float(second))
    (batch,) = worker.running.values()
    for query in batch.queries:
        assert query is not None
        query.due = 4.9 + 1.1
    decided = found.done(worker, batch.number, [BROKEN] * 4, 0.9, 4.9)
    assert decided.ends == []
    assert [start.queries for start in decided.starts] == [batch.queries[:1]]


def test_what_no_worker_takes_now_waits_for_the_one_that_will_whatever_the_pace_was() -> None:
    found = made(batching=False)
    worker = one_a_second(found, 6, 20.0, 4)
    found.fleet.coming = ((5.0, 1),)
    found.leave(worker, 4.0)
    query = PendingQuery(1, 4.1, 30.0)
    assert found.arrive(query, 4.1).ends == []
    assert found.waiting == 4


@pytest.mark.parametrize("router", ["late-binding", "fifs"])
def test_a_query_that_the_clock_finds_just_in_time_waits_on(router: str) -> None:
    found = Dispatcher(Rules(30.0, batching=False), ROUTERS[router])
    worker, _ = found.join(hello(batch=1), {}, 0.0)
    found.arrive(PendingQuery(1, 0.0, 30.0), 0.0)
    query = PendingQuery(1, 0.0, 2.0)
    found.arrive(query, 0.0)
    assert refused(found.tick(1.0)) == []
    (start,) = answer_first(found, worker, 1.0).starts
    assert start.queries == [query]


def test_a_kind_of_which_all_were_given_up_is_joined_to_nothing() -> None:
    found = made()
    fast, _ = found.join(hello("4g.24gb", {1: 1.0, 8: 1.0}), {}, 0.0)
    busy(found, fast)
    slow, _ = found.join(hello(seconds={1: 5.0, 8: 5.0}, gpu=1), {}, 0.0)
    gone, waiting, able = PendingQuery(2, 0.0, 4.0), PendingQuery(3, 0.0, 4.0), PendingQuery(1, 0.0, 20.0)
    for query in (gone, waiting):
        assert found.arrive(query, 0.0) == ([], [])
    found.cancel(gone)
    (start,) = found.arrive(able, 0.0).starts
    assert (start.worker, start.queries) == (slow, [able])


def test_a_second_try_is_not_joined_to_what_the_worker_that_failed_it_starts() -> None:
    found = made()
    for gpu in range(2):
        found.join(hello(seconds={1: 1.0, 8: 1.0}, gpu=gpu), {}, 0.0)
    again, other = PendingQuery(1, 0.0, 9.0), PendingQuery(1, 0.0, 9.0)
    (bad,), _ = found.arrive(again, 0.0).starts, found.arrive(other, 0.0).starts
    two = PendingQuery(2, 0.0, 9.0)
    found.arrive(two, 0.0)
    (start,) = found.done(bad.worker, bad.number, [BROKEN], 0.1, 0.1).starts
    assert (start.worker, start.queries) == (bad.worker, [two])


def test_what_has_more_rows_than_any_worker_takes_waits_no_more() -> None:
    found = made(batching=False)
    small, _ = found.join(hello(), {}, 0.0)
    large, _ = found.join(hello("2g.12gb", batch=16, gpu=1), {}, 0.0)
    for _ in (small, large):
        found.arrive(PendingQuery(8, 0.0, 30.0), 0.0)
    asked = [(1, 0), (1, 9), (8, 0), (8, 9), (9, 0), (9, 9), (9, 9), (10, 0)]
    queries = [PendingQuery(batch, 0.0, 30.0, size_class=size_class) for batch, size_class in asked]
    for query in queries:
        found.arrive(query, 0.0)
    assert found.waiting == len(queries)
    found.cancel(queries[6])
    found.fleet.coming = ((1.0, 16),)
    found.leave(large, 0.1)
    before = found.waiting
    taken = found.too_large()
    assert {queries.index(query) for query in taken} == {4, 5, 7}
    assert found.waiting == before - 3


@pytest.mark.parametrize(("arrived", "first"), [(0.36, 2), (0.30, 1)])
def test_of_two_kinds_the_one_goes_first_that_has_the_less_of_its_time_left(
    arrived: float, first: int
) -> None:
    found = made(batching=False)
    worker, _ = found.join(hello(seconds={1: 1.0, 2: 1.0}, batch=2), {}, 0.0)
    busy(found, worker)
    for query in (PendingQuery(2, 0.0, 3.0), PendingQuery(1, arrived, 2.0)):  # 0.667, and 0.68 or 0.65
        found.arrive(query, query.arrived)
    (start,) = answer_first(found, worker, 1.0).starts
    assert start.items == first


@pytest.mark.parametrize(("arrived", "first"), [(0.98, 2), (0.97, 1)])
def test_where_each_class_counts_the_one_goes_first_that_has_the_less_of_its_slack_left(
    arrived: float, first: int
) -> None:
    found = made(batching=False, classes=(1, 2))
    worker, _ = found.join(hello(seconds={1: 1.0, 2: 1.0}, batch=2), {}, 0.0)
    busy(found, worker)
    for query in (PendingQuery(2, 0.0, 3.0), PendingQuery(1, arrived, 1.05)):  # half, and three or two fifths
        found.arrive(query, query.arrived)
    (start,) = answer_first(found, worker, 1.0).starts
    assert start.items == first


@pytest.mark.parametrize(("classes", "first"), [((), 1), ((1, 2), 2)])
def test_of_what_came_as_early_the_larger_goes_first_only_where_each_class_counts(
    classes: tuple[int, ...], first: int
) -> None:
    found = made(batching=False, classes=classes)
    worker, _ = found.join(hello(seconds={1: 0.2, 2: 2.0}, batch=2), {}, 0.0)
    busy(found, worker)
    for query in (
        PendingQuery(1, 0.0, 4.0),
        PendingQuery(2, 0.1, 4.0),
    ):  # 3 of 4 s, and 3.1 of 4 s: slack 1.1 of 2
        found.arrive(query, query.arrived)
    (start,) = answer_first(found, worker, 1.0).starts
    assert start.items == first


@pytest.mark.parametrize(("allowed", "first"), [(8.0, 2), (12.0, 1)])
def test_time_left_counts_as_much_as_what_a_query_costs_more_than_where_it_is_cheapest(
    allowed: float, first: int
) -> None:
    found = made(batching=False)
    small, _ = found.join(hello(batch=1), {}, 0.0)
    large, _ = found.join(hello("2g.12gb", {1: 1.0, 2: 1.0}, batch=2, gpu=1), {}, 0.0)
    found.fleet.set_prices({small.key: 1.0, large.key: 1.4})
    for _ in (small, large):
        found.arrive(PendingQuery(1, 0.0, 30.0), 0.0)
    for query in (PendingQuery(1, 0.0, 2.0), PendingQuery(2, 0.0, allowed)):  # 0.4 + 0.5, and 0.875 or 0.917
        assert found.arrive(query, 0.0) == ([], [])
    (start,) = answer_first(found, large, 1.0).starts
    assert start.items == first


def test_where_the_first_of_a_kind_was_given_up_the_next_one_starts() -> None:
    found = made(batching=False)
    worker, _ = found.join(hello(), {}, 0.0)
    busy(found, worker)
    queries = [PendingQuery(1, 0.0, 9.0) for _ in range(2)]
    for query in queries:
        found.arrive(query, 0.0)
    found.cancel(queries[0])
    (start,) = answer_first(found, worker, 1.0).starts
    assert start.queries == queries[1:]


def test_of_what_came_before_any_worker_the_one_goes_first_that_has_the_less_of_its_time_left() -> None:
    found = made(batching=False)
    found.fleet.coming = ((3.0, 8),)
    first, second = PendingQuery(1, 0.0, 8.0), PendingQuery(2, 1.0, 3.9)
    for query in (first, second):
        assert found.arrive(query, query.arrived).ends == []
    _, joined = found.join(hello(seconds={1: 1.0, 8: 1.0}), {}, 3.0)  # 5 of 8 s, and 1.9 of 3.9 s
    assert [start.queries for start in joined.starts] == [[second]]


def test_where_the_first_of_a_kind_is_too_late_the_next_one_may_start_on_any_idle_worker() -> None:
    found = made(batching=False)
    slow, _ = found.join(hello(seconds={1: 5.0}), {}, 0.0)
    number = busy(found, slow)
    fast, _ = found.join(hello("4g.24gb", {1: 1.0}, gpu=1), {}, 0.0)
    busy(found, fast)
    between, _ = found.join(hello("2g.12gb", {1: 3.0}, gpu=2), {}, 0.0)
    first, second = PendingQuery(1, 4.0, 1.5), PendingQuery(1, 4.0, 3.9)
    for query in (first, second):
        assert found.arrive(query, 4.0) == ([], [])
    decided = found.done(slow, number, [GOOD], 4.7, 4.7)
    assert refused(decided) == [first]
    assert [(start.worker, start.queries) for start in decided.starts] == [(between, [second])]


@pytest.mark.parametrize("gone", [True, False])
def test_a_kind_of_which_nothing_can_start_holds_up_no_other(*, gone: bool) -> None:
    found = made(batching=False)
    worker, _ = found.join(hello(), {}, 0.0)
    number = busy(found, worker)
    found.fleet.coming = ((20.0, 16),)
    blocked, able = PendingQuery(1 if gone else 9, 0.0, 29.0), PendingQuery(1, 0.0, 9.0, size_class=9)
    for query in (blocked, able):
        assert found.arrive(query, 0.0).ends == []
    if gone:
        found.cancel(blocked)
    (start,) = found.done(worker, number, [GOOD], 1.0, 1.0).starts
    assert start.queries == [able]
