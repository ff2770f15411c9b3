"""First idle, first served, one worker or two at a time."""

from __future__ import annotations

import pytest
from tests.serve.dispatching.rehearsal import GOOD, hello
from tests.serve.live_routers import ROUTERS

from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import PendingQuery, QueryOutcome
from partita.serve.tensors import Answer


def made(*, batching: bool = False, early: bool = True) -> Dispatcher:
    return Dispatcher(Rules(9.0, batching, early), ROUTERS["fifs"])


def test_the_worker_that_has_been_idle_for_longest_takes_a_query() -> None:
    found = made()
    workers = [found.join(hello(gpu=gpu), {}, 0.0)[0] for gpu in range(3)]
    starts = [found.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts[0] for _ in range(3)]
    assert [start.worker for start in starts] == workers, "in the order of their coming"
    for at in (1, 2, 0):
        found.done(workers[at], starts[at].number, [GOOD], 1.0, 1.0)
    again = [found.arrive(PendingQuery(1, 1.0, 9.0), 1.0).starts[0].worker for _ in range(3)]
    assert again == [workers[1], workers[2], workers[0]]


def test_a_worker_that_was_lost_goes_to_the_end_of_the_line() -> None:
    found = made()
    workers = [found.join(hello(gpu=gpu), {}, 0.0)[0] for gpu in range(2)]
    found.silent(workers[0], 0.1)
    found.heard(workers[0], 0.2)
    assert found.arrive(PendingQuery(1, 0.3, 9.0), 0.3).starts[0].worker is workers[1]


@pytest.mark.parametrize("batching", [True, False])
def test_what_waits_is_joined_where_the_rules_say_so(*, batching: bool) -> None:
    found = made(batching=batching)
    worker, _ = found.join(hello(seconds={1: 1.0, 8: 1.2}), {}, 0.0)
    (first,) = found.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    waiting = [PendingQuery(1, 0.0, 9.0) for _ in range(3)]
    for query in waiting:
        found.arrive(query, 0.0)
    (start,) = found.done(worker, first.number, [GOOD], 1.0, 1.0).starts
    assert start.queries == (waiting if batching else waiting[:1])
    assert start.items == len(start.queries)


def test_a_second_try_waits_for_another_worker_even_where_the_first_is_idle() -> None:
    found = made()
    for gpu in range(2):
        found.join(hello(gpu=gpu), {}, 0.0)
    query, other = PendingQuery(1, 0.0, 9.0), PendingQuery(1, 0.0, 9.0)
    (bad,), (good,) = found.arrive(query, 0.0).starts, found.arrive(other, 0.0).starts
    assert found.done(bad.worker, bad.number, [Answer(error="out of memory")], 0.1, 0.1).starts == []
    (again,) = found.done(good.worker, good.number, [GOOD], 1.0, 1.0).starts
    assert (again.worker, again.queries) == (good.worker, [query])


def test_a_second_try_comes_before_what_arrived_earlier() -> None:
    found = made()
    large, _ = found.join(hello("4g.24gb", {1: 1.0, 8: 1.0}), {}, 0.0)
    (first,) = found.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    small, _ = found.join(hello(seconds={1: 1.0}, batch=1, gpu=1), {}, 0.0)
    earlier, again = PendingQuery(8, 0.1, 9.0), PendingQuery(1, 0.2, 9.0)
    assert found.arrive(earlier, 0.1).starts == []
    assert found.arrive(again, 0.2).starts[0].worker is small
    found.leave(small, 0.3)
    (start,) = found.done(large, first.number, [GOOD], 1.0, 1.0).starts
    assert start.queries == [again]


def test_what_would_wait_too_long_is_refused_by_the_pace_of_those_before_it() -> None:
    found = made()
    worker, _ = found.join(hello(), {}, 0.0)
    (running,) = found.arrive(PendingQuery(1, 0.0, 60.0), 0.0).starts
    for _ in range(12):
        found.arrive(PendingQuery(1, 0.0, 60.0), 0.0)
    for second in range(1, 6):  # one a second, and 7 wait in the end
        (running,) = found.done(worker, running.number, [GOOD], 1.0, float(second)).starts
    (end,) = found.arrive(PendingQuery(1, 5.0, 7.5), 5.0).ends
    assert end.outcome is QueryOutcome.REFUSED
    assert found.arrive(PendingQuery(1, 5.0, 9.5), 5.0).ends == []
